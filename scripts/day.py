"""scripts/demo --day's second half: a day of a node's life in a minute, under load.
Usage: day.py DRAINIT ENVOY. Needs openssl."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time

import demo

CLIENTS = 8  # that ask again and again, by HTTPS
TALKERS = 2  # that open one TCP session after another
SLOW = 3  # requests in flight when SIGTERM comes
LIMIT = 180.0  # a day that takes longer is broken

TLS = """\
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs:
            - name: www
              sds_config: {{ path_config_source: {{ path: {dir}/sds/www.json }}, resource_api_version: V3 }}
      filters:
"""
DEAD = "{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }, "
RETRY = """retry_policy: { retry_on: connect-failure, num_retries: 20, \
retry_back_off: { base_interval: 0.001s } }"""
MANY = "circuit_breakers: { thresholds: [{ max_retries: 1000 }] }"

zero = time.monotonic()


def heading(text):
    title = f"\033[1m{text}\033[0m" if demo.COLOURS else text
    print(f"\n{time.monotonic() - zero:5.1f} s  {title}", flush=True)


def line(text):
    print(f"         {text}", flush=True)


def changed(text, old, new):
    assert text.count(old) == 1, old
    return text.replace(old, new)


class Node(demo.Instance):
    """The only one: its clients have nowhere else to go."""

    options = (
        "--hot-restart", "--watch-config", "--grace-period", "25s",
        "--resources-dir", ".", "--secret", "www=tls.crt,tls.key",
    )  # fmt: skip

    def __init__(self, programs, directory, upstream):
        super().__init__("node", programs, directory, upstream)
        with open(os.path.join(self.dir, "envoy.yaml")) as file:
            self.config = file.read()
        # All of HTTP is HTTPS.
        tls = TLS.format(dir=self.dir)
        self.config = "node: { id: node, cluster: day }\n" + self.config.replace("    - filters:\n", tls, 1)
        self.write("envoy.yaml", self.config)
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.lines = []

    def make_certificate(self):
        """A new certificate with its key, each put there by a rename; what a client sees of it."""
        subprocess.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
            "-subj /CN=node -keyout new.key -out new.crt".split(),
            cwd=self.dir, check=True, capture_output=True)  # fmt: skip
        for end in ("key", "crt"):
            os.rename(os.path.join(self.dir, f"new.{end}"), os.path.join(self.dir, f"tls.{end}"))
        with open(os.path.join(self.dir, "tls.crt")) as file:
            return ssl.PEM_cert_to_DER_cert(file.read())

    async def log(self):
        async for text in self.process.stderr:
            self.lines.append(text.decode(errors="replace").rstrip())

    async def look(self):
        self.ready = True

    def said(self, text, since=0):
        """The rest of the log's line that has this text."""
        found = [line.partition(text)[2] for line in self.lines[since:] if text in line]
        return found[-1] if found else None

    async def wait(self, what, holds):
        """Waits for this, and says how long that took, in seconds."""
        start = time.monotonic()
        while not (holds() if not asyncio.iscoroutinefunction(holds) else await holds()):
            if self.process.returncode is not None:
                print("\n".join(self.lines[-10:]))
                sys.exit(f"day: drainit ended while {what} was waited for")
            if time.monotonic() - start > 60:
                print("\n".join(self.lines[-10:]))
                sys.exit(f"day: {what} did not come")
            await asyncio.sleep(0.005)
        return time.monotonic() - start

    async def is_ready(self):
        try:
            reader, writer = await asyncio.open_unix_connection(f"{self.dir}/drainit.sock")
            try:
                await demo.ask(reader, writer, "/ready")
                return True
            finally:
                writer.close()
        except (OSError, EOFError):
            return False

    async def is_not_ready(self):
        return not await self.is_ready()

    async def order(self, name, *words):
        """A command of drainit's: its exit code, and the last line that it says."""
        process = await self.run(name, *words, stdout=subprocess.PIPE)
        texts = [text.decode() for text in await process.communicate()]
        return process.returncode, ("".join(texts).strip().splitlines() or [""])[-1]

    def speak(self, name):
        return self.order(name, "--listen", f"unix:{self.dir}/drainit.sock")


class Clients(demo.Clients):
    async def talk_on(self, node):
        """One short TCP session after another."""
        while not self.stopping:
            try:
                reader, writer = await self.connect(node, 10001)
                writer.write(b"ping")
                await reader.readexactly(4)
                self.echoes += 1
                self.close(node, writer)
            except (OSError, EOFError) as error:
                self.failed("TCP session", error)
            await asyncio.sleep(0.1)

    async def sees(self, node):
        """The certificate that a new client is shown."""
        _, writer = await asyncio.open_connection(node.ip, 10000, ssl=node.tls)
        der = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return der


async def live(node):
    broken = []

    def check(holds, text):
        if not holds:
            broken.append(text)
            line(f"DOES NOT HOLD: {text}")

    async def findings():
        code, said = await node.order("check", "--json", *node.command()[2:])
        answer = json.loads(said)
        for one in answer["findings"]:
            line(f"{one['rule']}, {' '.join(one['where'])}: {one['what']}")
        check(code == (1 if answer["findings"] else 0) and not answer["not_looked_at"], f"drainit check: {code}, {said}")
        return [one["rule"] for one in answer["findings"]]

    node.make_certificate()
    heading("check: what a SIGTERM will do to this Envoy, before it runs")
    check("timeout" in await findings(), "a route without a timeout is found")
    node.config = changed(node.config, ", timeout: 0s", "")
    node.write("envoy.yaml", node.config)
    line("the timeout taken out of the file:")
    check("timeout" not in await findings(), "the mended route is not found")

    heading("start")
    await node.start()
    took = await node.wait("ready", node.is_ready)
    clients = Clients([node])
    steady = [asyncio.create_task(clients.keep_alive()) for _ in range(CLIENTS)]
    steady += [asyncio.create_task(clients.talk_on(node)) for _ in range(TALKERS)]
    line(f"ready after {took:.2f} s; from now on {CLIENTS} clients ask by HTTPS, {TALKERS} open TCP sessions")
    await asyncio.sleep(2)

    heading("rotate: a new certificate and key, each by a rename")
    new = node.make_certificate()

    async def is_new():
        return await clients.sees(node) == new

    took = await node.wait("the new certificate", is_new)
    line(f"a new client sees it after {took * 1000:.0f} ms")

    heading("hold: out of service for maintenance")
    hold = asyncio.create_task(node.speak("hold"))
    took = await node.wait("the hold", node.is_not_ready)
    before = clients.ok
    await asyncio.sleep(2)
    line(f"/ready is 503 after {took * 1000:.0f} ms; whoever still comes is served: {clients.ok - before} requests in 2 s")
    heading("resume")
    start = time.monotonic()
    code, said = await node.speak("resume")
    await node.wait("ready", node.is_ready)
    line(f"/ready is 200 after {(time.monotonic() - start) * 1000:.0f} ms")
    check(code == 0, f"resume: {said}")
    await hold

    heading("reload: a new configuration by a hot restart")
    good = changed(node.config, 'domains: ["*"]', 'domains: ["*"]\n              response_headers_to_add: [{ header: { key: x-day, value: new } }]')
    node.write("envoy.yaml", good)
    start = time.monotonic()
    code, said = await node.speak("reload")
    line(f"drainit reload: {code} after {time.monotonic() - start:.1f} s, {said.split('; www')[0]}")
    check(code == 0, "the reload")
    await node.wait("30 s of watching", lambda: node.said("the new configuration is good") is not None)
    line("watched for 30 s: nothing has become worse")

    heading("bad reload: a typing error")
    node.write("envoy.yaml", changed(good, "domains", "domain"))
    code, said = await node.speak("reload")
    line(f"drainit reload: {code}, {said[:120]}")
    check(code == 1, "the file with a typing error is refused")
    node.write("envoy.yaml", good)
    await asyncio.sleep(2)

    heading("watch: a configuration that Envoy takes, and that is worse: one of two hosts is dead")
    hosts = changed(good, "cluster_name: http, endpoints: [{ lb_endpoints: [", f"cluster_name: http, endpoints: [{{ lb_endpoints: [{DEAD}")
    bad = changed(hosts, "route: { cluster: http", f"route: {{ cluster: http, {RETRY}")
    bad = changed(bad, "  - name: http\n    type: STATIC\n", f"  - name: http\n    type: STATIC\n    {MANY}\n")
    since = len(node.lines)
    node.write("envoy.yaml", bad)
    took = await node.wait("the way back", lambda: node.said("runs the last good configuration again", since))
    line(f"back to the last good one after {took:.1f} s{node.said('the new configuration is worse', since).removesuffix(': going back to the last good one')}")
    node.write("envoy.yaml", good)
    await node.wait("the good file", lambda: node.said("holds the last good configuration again", since) is not None)
    line("the file mended: it holds the good one again, nothing to do")

    heading(f"drain: SIGTERM with {SLOW} requests of {demo.SLOW_SECONDS:g} s in flight")
    slow = [asyncio.create_task(clients.slow(node)) for _ in range(SLOW)]
    await asyncio.sleep(0.3)
    node.process.send_signal(signal.SIGTERM)
    await node.wait("the drain", node.is_not_ready)
    clients.stopping = True  # As behind a load balancer that goes by /ready.
    await asyncio.gather(*steady, *slow)
    code = await node.end()
    verdict = node.said("drained after ")
    line(f"drained after {verdict}")
    check(code == 0 and verdict is not None, "the drain ends well")
    check(clients.slow_ok == SLOW, "every slow request is answered")
    check(not clients.failures, "nothing is lost")

    print(f"""
  requests   {clients.ok + clients.slow_ok} answered, and {clients.echoes} TCP sessions
  failed     {len(clients.failures)}
  seconds    {time.monotonic() - zero:.1f}
""")
    print("Something was lost." if broken else "Nothing was lost.")
    return 1 if broken else 0


async def main():
    programs = [os.path.abspath(path) for path in sys.argv[1:3]]
    drainit, envoy = demo.versions_of(programs)
    print(f"{drainit}, Envoy {envoy}: a day of a node's life")
    http = await asyncio.start_server(demo.serve_http, "127.0.0.1", 0)
    echo = await asyncio.start_server(demo.serve_echo, "127.0.0.1", 0)
    upstream = [server.sockets[0].getsockname()[1] for server in (http, echo)]
    with tempfile.TemporaryDirectory(prefix="drainit-day-") as directory:
        node = Node(programs, directory, upstream)
        try:
            async with asyncio.timeout(LIMIT):
                return await live(node)
        finally:
            node.quit()
            if node.watchers:
                await node.process.wait()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
