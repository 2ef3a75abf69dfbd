"""A new configuration for the only node there is: what do its clients lose?"""

import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import load
from instance import HTTP, TCP, Instance, ask, children

VERSIONS = ["1.36", "1.40"]
# The ways to a new configuration: what runs Envoy, with what options, and the table's words.
WAYS = {
    "bare": ("bare", [], "bare, stop and start"),
    "restart": ("drainit", [], "drainit, drain and start"),
    "reload": ("drainit", ["--hot-restart"], "drainit, hot restart"),
}


async def serves(instance, number):
    """Waits until the configuration with this number answers."""
    while True:
        try:
            if await ask(instance.ip, HTTP, "/configuration") == (200, str(number)):
                return
        except OSError:
            pass
        await asyncio.sleep(0.01)


async def take(instance, way):
    """Has the instance take what its file says now; ready for the next change afterwards."""
    if way != "reload":
        await instance.stop()
        return await instance.start()
    await instance.reload()
    while len(children(instance.process.pid)) > 1:  # the generation before drains
        await asyncio.sleep(0.1)


async def change(rig, way, version, changes):
    """One way's changes, under load all along."""
    net = f"127.{90 + rig}"
    contestant, options, _ = WAYS[way]
    tally, over, took = load.Tally(), asyncio.Event(), []
    await load.upstream(f"{net}.0.1", HTTP, TCP)
    instance = Instance(contestant, version, f"{net}.1.1", f"{net}.0.1", options)
    try:
        await instance.start()
        view = load.OneNode(instance.ip)
        clients = load.clients({"http": HTTP, "tcp": TCP}, view, tally, over)
        for number in range(1, changes + 1):
            await asyncio.sleep(load.SLOW + 1)  # every client is at work again
            instance.configure(number)
            start = time.monotonic()
            taking = asyncio.create_task(take(instance, way))
            await serves(instance, number)
            took.append(time.monotonic() - start)
            await taking
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*clients)
    finally:
        await instance.kill()
        # The upstream's connections end with the loop, which is nothing to report.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    return {
        "way": way,
        "envoy": version,
        "changes": changes,
        "requests": tally.requests,
        "failed": tally.failed,
        "refused": tally.refused,
        "sessions": tally.sessions,
        "cut": tally.cut,
        "why": tally.why,
        "seconds": took,
    }


def run_rig(arguments):
    return asyncio.run(change(*arguments))


def measure(quick):
    """All at the same time, as in the rollout."""
    changes = 2 if quick else 10
    rigs = [(way, version, changes) for version in VERSIONS for way in WAYS]
    print(f"change: {len(rigs)} rigs side by side, {changes} changes each", file=sys.stderr)
    with ProcessPoolExecutor(len(rigs)) as pool:
        return list(pool.map(run_rig, [(n, *rig) for n, rig in enumerate(rigs)]))
