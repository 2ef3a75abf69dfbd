"""One Envoy with whatever runs it, on a loopback address of its own."""

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target/bench"
# BENCH_DRAINIT names another one, to compare.
DRAINIT = Path(os.environ.get("BENCH_DRAINIT", ROOT / f"target/{os.uname().machine}-unknown-linux-musl/release/drainit"))

HTTP, TCP, ADMIN, SUPERVISOR = 21080, 21081, 21901, 21090
GRACE = 30.0  # seconds; then an orchestrator's patience ends with SIGKILL
POLL = 0.1  # seconds between readiness probes

# The contestants, and what the table says of them.
CONTESTANTS = {
    "bare": "bare Envoy",
    "tini": "Envoy under tini",
    "dumb-init": "Envoy under dumb-init",
    "wrapper": "shell wrapper, sleep 15",
    "sidecar": "sidecar's sequence",
    "drainit": "drainit",
}


def envoy_path(version):
    """The newest Envoy of this version that scripts/envoy has got."""
    found = sorted(ROOT.glob(f"target/envoy/{version}*/envoy"))
    if not found:
        raise SystemExit(f"no Envoy {version}: scripts/envoy {version}")
    return found[-1]


def config(ip, upstream, clusters=0, number=0):
    """Envoy's configuration: HTTP with upgrades, TCP, and so many clusters that nobody uses. It
    tells its own number on /configuration."""

    def at(address, port):
        return {"socket_address": {"address": address, "port_value": port}}

    def extension(name, kind, **fields):
        return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.{kind}", **fields}}

    def cluster(name, port):
        endpoint = {"endpoint": {"address": at(upstream, port)}}
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        }

    def answer(path, text):
        return {"match": {"path": path}, "direct_response": {"status": 200, "body": {"inline_string": text}}}

    routes = [
        answer("/", "hello\n"),
        answer("/configuration", str(number)),
        {"match": {"prefix": "/"}, "route": {"cluster": "http", "timeout": "0s"}},
    ]
    manager = extension(
        "http",
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[extension("router", "http.router.v3.Router")],
    )
    proxy = extension("tcp", "network.tcp_proxy.v3.TcpProxy", stat_prefix="tcp", cluster="tcp")
    return {
        "admin": {"address": at(ip, ADMIN)},
        "static_resources": {
            "listeners": [
                {"name": "http", "address": at(ip, HTTP), "filter_chains": [{"filters": [manager]}]},
                {"name": "tcp", "address": at(ip, TCP), "filter_chains": [{"filters": [proxy]}]},
            ],
            "clusters": [cluster("http", HTTP), cluster("tcp", TCP)]
            + [cluster(f"unused_{n}", HTTP) for n in range(clusters)],
        },
    }


async def ask(ip, port, path, method="GET"):
    """One request on a connection of its own: status and body."""
    reader, writer = await asyncio.open_connection(ip, port)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        # Not to the end where its length is told: Envoy would first wait a second for our close.
        length = re.search(rb"content-length: (\d+)", head.lower())
        body = await (reader.readexactly(int(length[1])) if length else reader.read())
        return int(head.split()[1]), body.decode(errors="replace")
    except (IndexError, ValueError, asyncio.IncompleteReadError) as error:
        raise ConnectionError("no answer") from error
    finally:
        writer.close()


class Instance:
    """Envoy under a contestant. `stop` is what an orchestrator does to end it."""

    def __init__(self, contestant, version, ip, upstream, options=(), clusters=0, environment=None):
        self.contestant = contestant
        self.ip = ip
        self.options = list(options)
        self.environment = environment or {}
        self.envoy = str(envoy_path(version))
        self.process = None
        WORK.mkdir(parents=True, exist_ok=True)
        self.upstream = upstream
        self.clusters = clusters
        self.log = WORK / "log"
        self.file = WORK / f"envoy-{ip}.json"
        self.configure(0)

    def configure(self, number):
        """Writes the configuration with this number, which Envoy has yet to take."""
        self.file.write_text(json.dumps(config(self.ip, self.upstream, self.clusters, number)))

    def command(self):
        line = [self.envoy, "-c", str(self.file), "--concurrency", "2", "-l", "error"]
        if self.contestant != "drainit":  # which adds it
            line.append("--disable-hot-restart")
        match self.contestant:
            case "bare" | "sidecar":
                return line
            case "tini":
                return ["tini", "-s", "--", *line]
            case "dumb-init" | "catatonit":
                return [self.contestant, "--", *line]
            case "wrapper":
                return [str(HERE / "wrapper.sh"), f"{self.ip}:{ADMIN}", *line]
            case "drainit":
                return [str(DRAINIT), "--listen", f"{self.ip}:{SUPERVISOR}", *self.options, "--", *line]
        raise ValueError(self.contestant)

    async def start(self):
        with open(self.log, "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.environment
            )
        until = time.monotonic() + 60
        while not await self.ready():
            if time.monotonic() > until or self.process.returncode is not None:
                raise SystemExit(f"{self.contestant}: Envoy does not get ready; see {self.log}")
            await asyncio.sleep(0.02)

    async def ready(self):
        """The readiness probe: drainit's own where it is there, else Envoy's."""
        port = SUPERVISOR if self.contestant == "drainit" else ADMIN
        try:
            return (await asyncio.wait_for(ask(self.ip, port, "/ready"), 1))[0] == 200
        except (OSError, asyncio.TimeoutError):
            return False

    async def stop(self):
        """Ends it as an orchestrator does; returns how long that took, and whether by SIGKILL."""
        start = time.monotonic()
        killed = False
        try:
            await asyncio.wait_for(self._stop(), GRACE)
        except asyncio.TimeoutError:
            killed = True
            await self.kill()
        return time.monotonic() - start, killed

    async def _stop(self):
        if self.contestant == "sidecar":
            await self._drain_as_a_sidecar()
        self.process.send_signal(signal.SIGTERM)
        await self.process.wait()

    async def _drain_as_a_sidecar(self):
        """Contour's: fail the health check, poll the gauge of HTTP connections every 5 s; the
        hook next door looks once a second whether that is over."""
        start = time.monotonic()
        await ask(self.ip, ADMIN, "/healthcheck/fail", "POST")
        page = "/stats/prometheus?filter=%5Ehttp%5C.http3%3F%5C.downstream_cx_active%24"
        while True:
            body = (await ask(self.ip, ADMIN, page))[1]
            gauges = [line for line in body.splitlines() if line.startswith("envoy_")]
            if gauges and all(line.endswith(" 0") for line in gauges):
                break
            await asyncio.sleep(5)
        await asyncio.sleep(1 - (time.monotonic() - start) % 1)

    async def reload(self):
        """Has drainit bring up an Envoy with the configuration as it is now."""
        line = [str(DRAINIT), "reload", "--listen", f"{self.ip}:{SUPERVISOR}"]
        with open(self.log, "ab") as log:
            process = await asyncio.create_subprocess_exec(*line, stdout=log, stderr=log)
            if await process.wait() != 0:
                raise SystemExit(f"{self.ip}: not reloaded; see {self.log}")

    def verdict(self):
        """How drainit says that the drain went; the others say nothing."""
        said = re.findall(r"drainit\] (.+?) after [\d.]+ s \(", self.log.read_text(errors="replace"))
        return said[-1] if self.contestant == "drainit" and said else "-"

    async def kill(self):
        """SIGKILL for it and its children: what it started must not outlive it."""
        if self.process and self.process.returncode is None:
            for pid in [*children(self.process.pid), self.process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            await self.process.wait()


def children(pid):
    """Its children, whichever thread has them."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except FileNotFoundError:
            pass
    return found
