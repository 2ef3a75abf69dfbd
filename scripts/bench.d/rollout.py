"""Rolling restarts of two instances under load: what do the clients lose?"""

import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import load
from instance import CONTESTANTS, HTTP, POLL, TCP, Instance

VERSIONS = ["1.36", "1.40"]
# What a pod has, and all that drainit is told.
IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
FIRST = 70  # the first rig's second byte


async def roll(rig, contestant, version, restarts, lag=load.LAG, mix=None):
    """One contestant's rolling restarts, each instance on an address that was never used."""
    net = f"127.{rig}"
    view, tally, over = load.View(lag), load.Tally(), asyncio.Event()
    instances, took, kills = [], [], 0
    await load.upstream(f"{net}.0.1", HTTP, TCP)

    def new(generation):
        return Instance(contestant, version, f"{net}.{generation}.1", f"{net}.0.1", environment=IN_A_POD)

    async def probe():
        while True:
            ready = await asyncio.gather(*(instance.ready() for instance in instances))
            view.set([instance.ip for instance, is_ready in zip(instances, ready) if is_ready])
            await asyncio.sleep(POLL)

    try:
        for generation in (1, 2):
            instances.append(new(generation))
            await instances[-1].start()
        probing = asyncio.create_task(probe())
        await asyncio.sleep(lag + 0.5)
        clients = load.clients({"http": HTTP, "tcp": TCP}, view, tally, over, mix or load.MIX)
        await asyncio.sleep(2)
        for restart in range(restarts):
            seconds, killed = await instances[0].stop()
            took.append(seconds)
            kills += killed
            instances.append(new(3 + restart))
            await instances[-1].start()
            instances.pop(0)
            await asyncio.sleep(lag + 2)  # it is known, and has its share of the load
        over.set()
        tally.over = True
        await asyncio.gather(*clients)
        probing.cancel()
    finally:
        for instance in instances:
            await instance.kill()
        # The upstream's connections end with the loop, which is nothing to report.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    return {
        "contestant": contestant,
        "envoy": version,
        "restarts": restarts,
        "requests": tally.requests,
        "failed": tally.failed,
        "sessions": tally.sessions,
        "cut": tally.cut,
        "why": tally.why,
        "seconds": took,
        "killed": kills,
    }


def run_rig(arguments):
    return asyncio.run(roll(*arguments))


def measure(quick):
    """All at the same time, each with its own Envoys, upstream and clients: they mostly wait, and
    see the same machine."""
    rigs = [(c, v) for v in VERSIONS for c in CONTESTANTS]
    restarts = 2 if quick else 10
    jobs = [(FIRST + n, contestant, version, restarts) for n, (contestant, version) in enumerate(rigs)]
    print(f"rollout: {len(jobs)} rigs side by side, {restarts} restarts each", file=sys.stderr)
    start = time.monotonic()
    with ProcessPoolExecutor(len(jobs)) as pool:
        rows = list(pool.map(run_rig, jobs))
    return {"took": time.monotonic() - start, "rows": rows}
