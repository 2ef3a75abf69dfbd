"""What an init costs: memory, threads, wakeups, its share of a start and of a signal, orphans;
what a poll costs Envoy, and a look at the kernel drainit."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from instance import ADMIN, DRAINIT, HTTP, ROOT, SUPERVISOR, WORK, Instance, ask

INITS = ["tini", "dumb-init", "catatonit", "drainit"]
PROBE = str(WORK / "probe")
NET = "127.68"


def init_command(init, as_pid_1=False):
    """The init's part of a command line, with drainit's HTTP port on."""
    match init:
        case "tini":
            return ["tini", "--"] if as_pid_1 else ["tini", "-s", "--"]
        case "drainit":
            return [str(DRAINIT), "--listen", f"{NET}.0.1:{SUPERVISOR}", "--"]
    return [init, "--"]


def binary(init):
    return str(DRAINIT) if init == "drainit" else shutil.which(init)


def build_probe():
    source = Path(__file__).with_name("probe.c")
    subprocess.run(["gcc", "-O2", "-static", "-Wall", "-o", PROBE, str(source)], check=True)


def rollup(pid):
    """Pss, private dirty and anonymous memory, in kB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {key: int(re.search(rf"^{key}:\s+(\d+)", text, re.M).group(1)) for key in ("Pss", "Private_Dirty", "Anonymous")}


def wakeups(pid):
    """Context switches so far, of all threads."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        count += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", status.read_text()))
    return count


async def at_rest(quick):
    """All four with an Envoy each, side by side, for a minute."""
    instances = {init: Instance(init, "1.40", f"{NET}.1.{n + 1}", f"{NET}.0.1") for n, init in enumerate(INITS)}
    seconds = 20 if quick else 60
    print(f"cost: at rest, {seconds} s", file=sys.stderr)
    try:
        for instance in instances.values():
            await instance.start()
        await asyncio.sleep(5)
        before = {init: wakeups(instance.process.pid) for init, instance in instances.items()}
        await asyncio.sleep(seconds)
        rows = {}
        for init, instance in instances.items():
            pid = instance.process.pid
            rows[init] = {
                **rollup(pid),
                "threads": len(os.listdir(f"/proc/{pid}/task")),
                "wakeups": (wakeups(pid) - before[init]) * 60 / seconds,
                "binary": os.stat(binary(init)).st_size,
            }
        return rows
    finally:
        for instance in instances.values():
            await instance.kill()


def run_probe(command):
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True, **quiet)
    return [int(line) / 1000 for line in done.stdout.split()]


def starts(quick):
    """From spawning the init to its child's first instruction, in us."""
    print("cost: starts", file=sys.stderr)
    found = {init: [] for init in INITS}
    for _ in range(30 if quick else 300):
        for init in INITS:
            found[init] += run_probe([PROBE, "launch", *init_command(init), PROBE, "stamp"])
    return found


def signals(quick):
    """From a signal to the init to its child's handler, in us."""
    print("cost: signals", file=sys.stderr)
    found = {init: [] for init in INITS}
    for _ in range(1 if quick else 4):
        for init in INITS:
            found[init] += run_probe([PROBE, "signals", "250", *init_command(init), PROBE, "echo"])
    return found


def orphans(quick, count=10_000):
    """From the death of 10,000 orphans, 2,000 at once, until the last is reaped, in ms; as pid 1."""
    print("cost: orphans", file=sys.stderr)
    found = {init: [] for init in INITS}
    root = [] if os.getuid() == 0 else ["sudo", "--close-from=4"]
    for _ in range(1 if quick else 7):
        for init in INITS:
            read, write = os.pipe()
            namespace = [*root, "unshare", "--pid", "--fork", "--mount-proc"]
            # `probe orphans` answers on descriptor 3.
            shell = ["sh", "-c", f'exec "$@" 3>&{write}', "sh"]
            line = [*shell, *namespace, *init_command(init, True), PROBE, "orphans", str(count)]
            subprocess.run(line, pass_fds=[write], stderr=subprocess.DEVNULL, timeout=120, check=True)
            os.close(write)
            with os.fdopen(read, "rb") as answer:
                found[init].append(int.from_bytes(answer.read(8), "little") / 1e6)
            time.sleep(0.2)
    return found


def drainit_query():
    """The query as drainit's source has it."""
    source = (ROOT / "src/envoy/stats.rs").read_text()
    return "".join(re.findall(r'"([^"]*)"', source.split("pub const QUERY")[1].split(");")[0]))


QUERIES = {
    "drainit": drainit_query(),
    "Contour's": "/stats/prometheus?filter=%5Ehttp%5C..*%5C.downstream_cx_active%24",
    "all of Prometheus": "/stats/prometheus",
}


def main_thread(pid):
    """The main thread's time on a processor, in ms."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


async def polls(quick):
    """What one poll takes of Envoy's main thread, in ms, by number of clusters."""
    table = []
    for n, clusters in enumerate((2, 1000) if quick else (2, 1000, 10_000)):
        print(f"cost: polls with {clusters} clusters", file=sys.stderr)
        instance = Instance("bare", "1.40", f"{NET}.2.{n + 1}", f"{NET}.0.1", clusters=clusters - 2)
        try:
            await instance.start()
            await asyncio.sleep(1)
            pid = instance.process.pid
            row = {name: [] for name in QUERIES}
            for _ in range(3 if quick else 9):
                for name, query in QUERIES.items():
                    before = main_thread(pid)
                    status, _ = await ask(instance.ip, ADMIN, query)
                    await asyncio.sleep(0.05)  # for it to close the connection
                    row[name].append(main_thread(pid) - before)
                    assert status == 200, query
            table.append({"clusters": clusters, "ms": row})
        finally:
            await instance.kill()
    return table


def thread_time(pid, name):
    """This thread's time on a processor, in ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*")
    task = next(task for task in tasks if (task / "comm").read_text() == f"{name}\n")
    return int((task / "schedstat").read_text().split()[0]) / 1e6


async def looks(quick):
    """What `drainit status` takes of drainit's thread that asks Envoy and looks at the kernel, in ms,
    by number of connections: the first time, and later. Without any it is Envoy's answer alone."""
    table = []
    for n, count in enumerate((0, 1000, 9000) if quick else (0, 1000, 10_000)):
        print(f"cost: looks at {count} connections", file=sys.stderr)
        instance = Instance("drainit", "1.40", f"{NET}.4.{n + 1}", f"{NET}.0.1")
        clients = []
        try:
            await instance.start()
            pid = instance.process.pid
            for _ in range(count):
                clients.append(socket.create_connection((instance.ip, HTTP)))
            times = []
            for _ in range(4 if quick else 12):
                await asyncio.sleep(1.2)  # until the figures are old
                before = thread_time(pid, "admin")
                line = [str(DRAINIT), "status", "--json", "--pid", str(pid)]
                status = json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)
                await asyncio.sleep(0.1)
                times.append(thread_time(pid, "admin") - before)
            assert status["connections"] == count, status["connections"]
            table.append({"connections": count, "first": times[0], "later": times[1:]})
        finally:
            for client in clients:
                client.close()
            await instance.kill()
    return table


def use_secret(instance, name, file):
    """Has the TCP listener use a secret, so that drainit has Envoy's word and asks no more."""
    source = {"path_config_source": {"path": str(file)}, "resource_api_version": "V3"}
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": name, "sds_config": source}]},
    }
    config = json.loads(instance.file.read_text())
    config["node"] = {"id": "bench", "cluster": "bench"}
    (chain,) = config["static_resources"]["listeners"][1]["filter_chains"]
    chain["transport_socket"] = {"name": "tls", "typed_config": tls}
    instance.file.write_text(json.dumps(config))


async def check(quick, *more):
    """What the check of a certificate and its key takes of a processor, in us a second."""
    seconds = 10 if quick else 60
    print(f"cost: certificates at rest, {seconds} s", file=sys.stderr)
    cert, key = WORK / "tls.crt", WORK / "tls.key"
    line = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bench"
    subprocess.run([*line.split(), "-out", cert, "-keyout", key], stderr=subprocess.DEVNULL, check=True)
    options = ["--resources-dir", WORK / "resources", "--secret", f"bench={cert},{key}", *more]
    instance = Instance("drainit", "1.40", f"{NET}.3.1", f"{NET}.0.1", map(str, options))
    use_secret(instance, "bench", WORK / "resources/sds/bench.json")
    try:
        await instance.start()
        used = lambda: thread_time(instance.process.pid, "certificates") * 1000
        await asyncio.sleep(20)  # fresh files are read at every look, and Envoy is asked for its word
        before = used()
        await asyncio.sleep(seconds)
        return (used() - before) / seconds
    finally:
        await instance.kill()


def measure(quick):
    build_probe()
    return {
        "check": [asyncio.run(check(quick)), asyncio.run(check(quick, "--certificate-check", "1s"))],
        "rest": asyncio.run(at_rest(quick)),
        "starts": starts(quick),
        "signals": signals(quick),
        "orphans": orphans(quick),
        "polls": asyncio.run(polls(quick)),
        "looks": asyncio.run(looks(quick)),
    }
