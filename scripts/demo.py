"""scripts/demo's second half: two Envoys under drainit, an upstream behind them, clients before
them. Usage: demo.py DRAINIT ENVOY. The standard library alone, Python 3.11 or newer."""

import asyncio
import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

KEEP_ALIVE = 20  # clients that ask again and again
SLOW = 5  # requests in flight when SIGTERM comes...
SLOW_SECONDS = 3.0  # ... which take this long
SESSION_SECONDS = 5.0  # from SIGTERM to the end of the TCP session, by its client
IDLE = 5  # connections that nobody uses when the second instance is stopped
LIMIT = 90.0  # a demo that takes longer is broken

CONFIG = """\
admin: {{ address: {{ pipe: {{ path: {dir}/admin.sock }} }} }}
static_resources:
  listeners:
  - name: http
    address: {{ socket_address: {{ address: {ip}, port_value: 10000 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: http, timeout: 0s }} }}]
          http_filters:
          - name: router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  - name: tcp
    address: {{ socket_address: {{ address: {ip}, port_value: 10001 }} }}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: tcp
  clusters:
  - name: http
    type: STATIC
    load_assignment: {{ cluster_name: http, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {http} }} }} }} }}] }}] }}
  - name: tcp
    type: STATIC
    load_assignment: {{ cluster_name: tcp, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {tcp} }} }} }} }}] }}] }}
"""

COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ
NAMES = {"demo": "1", "clients": "36", "drainit A": "33", "drainit B": "35", "envoy A": "2", "envoy B": "2"}
zero = time.monotonic()


def say(who, text):
    name = f"{who:<9}"
    if COLOURS:
        name = f"\033[{NAMES[who]}m{name}\033[0m"
    print(f"{time.monotonic() - zero:6.2f} s  {name}  {text}", flush=True)


# --- HTTP/1.1, as much as is needed ---------------------------------------------------------


async def read_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
    return head[0], fields


async def ask(reader, writer, path):
    """One request: whether the connection may be used again. An error if it was lost."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: demo\r\n\r\n".encode())
    line, fields = await read_head(reader)
    await reader.readexactly(int(fields.get("content-length", 0)))
    if line.split()[1] != "200":
        raise OSError(line)
    return fields.get("connection") != "close"


async def serve_http(reader, writer):
    try:
        while True:
            line, _ = await read_head(reader)
            if line.split()[1] == "/slow":
                await asyncio.sleep(SLOW_SECONDS)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
    except (OSError, EOFError, asyncio.CancelledError):
        writer.close()


async def serve_echo(reader, writer):
    try:
        while data := await reader.read(4096):
            writer.write(data)
    except (OSError, asyncio.CancelledError):
        pass
    writer.close()


# --- An Envoy under drainit -----------------------------------------------------------------


def claim_loopback():
    """An address of 127.0.0.0/8 on which every port is free: nobody else has this one."""
    while True:
        ip = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        claim = socket.socket()
        try:
            claim.bind((ip, 9009))
            return ip, claim
        except OSError:
            claim.close()


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG: drainit stops Envoy on it


class Instance:
    options = ()  # of drainit
    tls = None  # how the port of HTTP is spoken to

    def __init__(self, name, programs, directory, upstream):
        self.name = name
        self.programs = programs
        self.dir = os.path.join(directory, name)
        os.mkdir(self.dir)
        self.ip, self.claim = claim_loopback()
        self.write("envoy.yaml", CONFIG.format(dir=self.dir, ip=self.ip, http=upstream[0], tcp=upstream[1]))
        self.ready = False
        self.terminated = None  # when Envoy said that it had SIGTERM
        self.watchers = []

    def write(self, name, text):
        """Puts a file there as a whole."""
        path = os.path.join(self.dir, name)
        with open(path + ".new", "w") as file:
            file.write(text)
        os.rename(path + ".new", path)

    async def run(self, *words, **more):
        drainit, envoy = self.programs
        return await asyncio.create_subprocess_exec(
            drainit, *words, env={**os.environ, "PATH": os.path.dirname(envoy)}, cwd=self.dir,
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)  # fmt: skip

    def command(self):
        envoy = ("envoy", "-c", "envoy.yaml", "--concurrency", "1", "-l", "warning")
        return ("--listen", f"unix:{self.dir}/drainit.sock", *self.options, "--", *envoy)

    async def start(self):
        self.process = await self.run(*self.command(), start_new_session=True, preexec_fn=end_with_parent)
        self.watchers = [asyncio.create_task(self.log()), asyncio.create_task(self.look())]

    async def log(self):
        async for line in self.process.stderr:
            line = line.decode(errors="replace").rstrip()
            if "caught" in line and "SIGTERM" in line:
                self.terminated = time.monotonic()
                say(f"envoy {self.name}", "caught SIGTERM")
            elif ours := re.fullmatch(r"\[?\S+Z (\w+)\s+[\w:]+\] (.*)", line):
                level, text = ours.groups()
                say(f"drainit {self.name}", text if level == "INFO" else f"{level}: {text}")
            else:
                # Not Envoy's hints about its settings.
                if "[critical]" in line or "[error]" in line or not line.startswith("["):
                    say(f"envoy {self.name}", line)

    async def look(self):
        """The load balancer's view, ten times a second."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(f"{self.dir}/drainit.sock")
                try:
                    await ask(reader, writer, "/ready")
                    self.ready = True
                finally:
                    writer.close()
            except (OSError, EOFError):
                self.ready = False
            await asyncio.sleep(0.1)

    async def wait_ready(self):
        while not self.ready:
            if self.process.returncode is not None:
                sys.exit(f"demo: instance {self.name} ended with {self.process.returncode}")
            await asyncio.sleep(0.02)

    async def end(self):
        """Its exit code, once it and its log are at their end."""
        code = await self.process.wait()
        await self.watchers[0]
        self.watchers[1].cancel()
        self.ready = False
        return code

    def quit(self):
        for watcher in self.watchers:
            watcher.cancel()
        if self.watchers and self.process.returncode is None:
            self.process.send_signal(signal.SIGQUIT)


# --- Clients --------------------------------------------------------------------------------


class Clients:
    """A new connection goes to an instance that is ready, as behind a load balancer; nobody
    tries again."""

    def __init__(self, instances):
        self.instances = instances
        self.open = {instance.name: 0 for instance in instances}
        self.ok = self.slow_ok = self.slow_left = self.echoes = 0
        self.failures = []
        self.last_end = {}  # instance: when its last connection ended
        self.session = "none"
        self.stopping = False
        self.turn = 0

    async def connect(self, instance, port=10000):
        tls = instance.tls if port == 10000 else None
        streams = await asyncio.open_connection(instance.ip, port, ssl=tls)
        self.open[instance.name] += 1
        return streams

    def close(self, instance, writer):
        writer.close()
        self.open[instance.name] -= 1
        self.last_end[instance.name] = time.monotonic()

    def failed(self, what, error):
        self.failures.append(f"{what}: {error!r}")
        say("clients", f"LOST {self.failures[-1]}")

    async def keep_alive(self):
        connection = None
        while not self.stopping:
            try:
                if connection is None:
                    ready = [instance for instance in self.instances if instance.ready]
                    self.turn += 1
                    instance = ready[self.turn % len(ready)]
                    connection = (instance, *await self.connect(instance))
                again = await ask(*connection[1:], "/")
                self.ok += 1
            except (OSError, EOFError, ZeroDivisionError) as error:
                self.failed("request", error)
                again = False
            if connection and not again:
                self.close(connection[0], connection[2])
                connection = None
            await asyncio.sleep(random.uniform(0.02, 0.04))
        if connection:
            self.close(connection[0], connection[2])

    async def slow(self, instance):
        try:
            self.slow_left += 1
            reader, writer = await self.connect(instance)
            await ask(reader, writer, "/slow")
            self.slow_ok += 1
        except (OSError, EOFError) as error:
            self.failed("slow request", error)
        self.slow_left -= 1
        self.close(instance, writer)

    async def talk(self, instance, until):
        try:
            reader, writer = await self.connect(instance, 10001)
            self.session = "open"
            while not until.is_set():
                writer.write(b"ping")
                await reader.readexactly(4)
                self.echoes += 1
                await asyncio.sleep(0.05)
            self.session = "finished"
        except (OSError, EOFError) as error:
            self.session = "cut"
            self.failed("TCP session", error)
        self.close(instance, writer)

    def tell(self):
        held = ", ".join(f"{name} {count}" for name, count in self.open.items())
        say("clients", f"{self.ok + self.slow_ok} ok, {len(self.failures)} failed; {self.slow_left} slow in flight; "
            f"TCP session {self.session}; connections: {held}")  # fmt: skip

    async def tell_on(self):
        while True:
            await asyncio.sleep(1)
            self.tell()


# --- The story ------------------------------------------------------------------------------


async def story(programs, directory):
    global zero
    http = await asyncio.start_server(serve_http, "127.0.0.1", 0)
    echo = await asyncio.start_server(serve_echo, "127.0.0.1", 0)
    upstream = [server.sockets[0].getsockname()[1] for server in (http, echo)]
    instances = [Instance(name, programs, directory, upstream) for name in "AB"]
    try:
        return await play(instances)
    finally:
        for instance in instances:
            instance.quit()
            if instance.watchers:
                await instance.process.wait()


async def play(instances):
    global zero
    a, b = instances
    checks = []

    def check(holds, text):
        checks.append((holds, text))

    for instance in instances:
        await instance.start()
        await instance.wait_ready()

    say("demo", f"{KEEP_ALIVE} keep-alive clients on both, a TCP session and {SLOW} requests of {SLOW_SECONDS:g} s on A")
    clients = Clients(instances)
    teller = asyncio.create_task(clients.tell_on())
    steady = [asyncio.create_task(clients.keep_alive()) for _ in range(KEEP_ALIVE)]
    hung_up = asyncio.Event()
    session = asyncio.create_task(clients.talk(a, hung_up))
    await asyncio.sleep(1.7)
    slow = [asyncio.create_task(clients.slow(a)) for _ in range(SLOW)]
    await asyncio.sleep(0.2)

    zero = time.monotonic()
    say("demo", f"SIGTERM to A's drainit, pid {a.process.pid}. B stays.")
    asked = time.monotonic()
    a.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(SESSION_SECONDS)
    check(a.process.returncode is None, "A waited for its TCP session")
    say("demo", "the TCP session's client hangs up")
    hung_up.set()
    await asyncio.gather(session, *slow)
    code = await a.end()
    took = time.monotonic() - asked
    say("demo", f"A has ended, {took:.2f} s after its SIGTERM, with exit code {code}")
    check(code == 0, f"A: exit code {code}")
    latency = a.terminated and a.terminated - clients.last_end["A"]
    check(latency is not None and latency >= 0, "A's Envoy had SIGTERM after its last connection's end")

    await asyncio.sleep(1)
    clients.stopping = True
    await asyncio.gather(*steady)
    teller.cancel()
    clients.tell()
    idle = [await clients.connect(b) for _ in range(IDLE)]
    for reader, writer in idle:
        await ask(reader, writer, "/")
        clients.ok += 1
    say("demo", f"SIGTERM to B's drainit. On B: {IDLE} keep-alive connections that nobody uses.")
    asked_b = time.monotonic()
    b.process.send_signal(signal.SIGTERM)
    code = await b.end()
    took_b = time.monotonic() - asked_b
    check(code == 0, f"B: exit code {code}")
    say("demo", f"B has ended, {took_b:.2f} s after its SIGTERM, with exit code {code}")
    for reader, writer in idle:
        check(await reader.read() == b"", "an idle connection was closed, not reset")
        writer.close()

    check(not clients.failures, "no request failed")
    check(clients.slow_ok == SLOW, "every slow request was answered")
    check(clients.session == "finished", "the TCP session was not cut")
    print(f"""
  requests                   {clients.ok + clients.slow_ok} ok, {len(clients.failures)} failed
  of which slow, in flight   {clients.slow_ok} of {SLOW} got their 200
  TCP session                {clients.session}, {clients.echoes} echoes
  A: SIGTERM to exit         {took:.2f} s, exit code {a.process.returncode}
  A: last connection's end
     to Envoy's SIGTERM      {f"{latency * 1000:.0f} ms" if latency is not None else "not seen"}
  B: SIGTERM to exit         {took_b:.2f} s with idle connections only, exit code {b.process.returncode}
""")
    broken = [text for holds, text in checks if not holds]
    for text in broken:
        print(f"  does not hold: {text}")
    print("Something was lost." if broken else "Nothing was lost.")
    return 1 if broken else 0


def versions_of(programs):
    """drainit's name and version, and Envoy's version."""
    texts = [subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip() for program in programs]
    envoy = re.search(r"/(\d+\.\d+\.\d+)", texts[1])
    return texts[0], envoy[1] if envoy else texts[1]


async def main():
    programs = [os.path.abspath(path) for path in sys.argv[1:3]]
    drainit, envoy = versions_of(programs)
    print(f"{drainit}, Envoy {envoy}: two instances, A and B")
    with tempfile.TemporaryDirectory(prefix="drainit-demo-") as directory:
        async with asyncio.timeout(LIMIT):
            return await story(programs, directory)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
