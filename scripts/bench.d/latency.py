"""How soon after the last connection's end is Envoy gone? And with nothing but idle connections?"""

import asyncio
import random
import sys
import time

import load
from instance import HTTP, TCP, Instance

VERSIONS = ["1.36", "1.40"]
LANES = 6  # drains side by side
IDLE = 5  # idle keep-alive connections of each protocol
SILENT = 10  # seconds that they have been silent before the drain, where that is to be long
ASKED = 4  # seconds between two requests on a connection that is idle and used
NOBODY_COMES = ["--min-drain", "0s"]


async def one_drain(contestant, version, ip, upstream):
    """A WebSocket is the last connection: from its end to the end of the process."""
    instance = Instance(contestant, version, ip, upstream)
    try:
        await instance.start()
        reader, writer = await asyncio.open_connection(ip, HTTP)
        request = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        writer.write(load.http1_request("/ws", request))
        await load.http1_answer(reader)
        stopping = asyncio.create_task(instance.stop())
        await asyncio.sleep(random.uniform(1, 2))
        if stopping.done() or reader.at_eof():
            raise SystemExit(f"{contestant} cut the last connection")
        writer.close()
        end = time.monotonic()
        await stopping
        return time.monotonic() - end
    finally:
        await instance.kill()


async def idle_drain(contestant, version, ip, upstream, silent=0.5, options=()):
    """Connections that had a request each, and then stay open, idle."""
    instance = Instance(contestant, version, ip, upstream, options)
    held = []
    try:
        await instance.start()
        for _ in range(IDLE):
            for protocol in (load.http1_request("/"), HTTP2_REQUEST):
                reader, writer = await asyncio.open_connection(ip, HTTP)
                writer.write(protocol)
                await reader.read(1)
                held.append((reader, writer))
        await asyncio.sleep(silent)
        return await instance.stop()
    finally:
        await instance.kill()
        for _, writer in held:
            writer.close()


async def silent_drain(contestant, version, ip, upstream):
    """The same of connections that have long been silent, where no new ones are waited for."""
    return await idle_drain(contestant, version, ip, upstream, SILENT, NOBODY_COMES)


async def asked_drain(contestant, version, ip, upstream):
    """As many clients, each of which asks again before its connection counts as idle. Whoever is not
    told to close has lost its next request."""
    instance = Instance(contestant, version, ip, upstream, NOBODY_COMES)
    tally = load.Tally()

    async def client(kind):
        await asyncio.sleep(random.uniform(0, ASKED))
        reader, writer = await asyncio.open_connection(ip, HTTP)
        try:
            if not await kind(reader, writer, tally, ASKED):
                raise load.Failed("closed")
        except (load.Failed, OSError) as error:
            tally.fail(kind.__name__, error)
        finally:
            writer.close()

    try:
        await instance.start()
        kinds = [load.keep_alive, load.http2] * IDLE
        clients = [asyncio.create_task(client(kind)) for kind in kinds]
        await asyncio.sleep(ASKED + random.uniform(0.5, ASKED))
        if any(client.done() for client in clients):
            raise SystemExit(f"{contestant}: a client is gone before the drain: {tally.why}")
        seconds, _ = await instance.stop()
        await asyncio.gather(*clients)
        return {"requests": tally.requests, "failed": tally.failed, "why": tally.why, "seconds": seconds}
    finally:
        await instance.kill()


HTTP2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + load.http2_frame(load.FRAME_SETTINGS, 0, 0)
    + load.http2_frame(load.FRAME_HEADERS, load.END_STREAM | load.END_HEADERS, 1, b"\x82\x86\x84\x01\x05bench")
)


async def measure_all(quick):
    net, count = "127.69", 5 if quick else 30
    await load.upstream(f"{net}.0.1", HTTP, TCP)
    addresses = iter(f"{net}.{n // 200 + 1}.{n % 200 + 1}" for n in range(10_000))

    async def drain_all(job, kinds, times, at_once, what):
        """So many drains of each kind, and what each gave, by kind."""
        lanes = asyncio.Semaphore(at_once)

        async def in_lane(kind):
            async with lanes:
                return await job(*kind, next(addresses), f"{net}.0.1")

        print(f"latency: {len(kinds) * times} drains{what}, {at_once} side by side", file=sys.stderr)
        done = await asyncio.gather(*(in_lane(kind) for _ in range(times) for kind in kinds))
        return [(*kind, done[n :: len(kinds)]) for n, kind in enumerate(kinds)]

    def kinds(*contestants):
        return [(contestant, version) for version in VERSIONS for contestant in contestants]

    drains = await drain_all(one_drain, kinds("sidecar", "drainit"), count, LANES, "")
    idle = kinds("wrapper", "sidecar", "drainit")
    times = 1 if quick else 3
    idle = await drain_all(idle_drain, idle, times, len(idle) * times, " with idle connections")
    silent = await drain_all(silent_drain, kinds("drainit"), times, LANES, " with silent ones")
    asked = await drain_all(asked_drain, kinds("drainit"), 3 if quick else 50, LANES, " with clients that ask")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    return {
        "drains": [{"contestant": c, "envoy": v, "seconds": done} for c, v, done in drains],
        "idle": [ended(*kind) for kind in idle],
        "silent": [ended(*kind) for kind in silent],
        "asked": [
            {
                "contestant": c,
                "envoy": v,
                "requests": sum(one["requests"] for one in done),
                "failed": sum(one["failed"] for one in done),
                "why": [one["why"] for one in done if one["why"]],
                "seconds": [one["seconds"] for one in done],
            }
            for c, v, done in asked
        ],
    }


def ended(contestant, version, done):
    return {
        "contestant": contestant,
        "envoy": version,
        "seconds": [seconds for seconds, _ in done],
        "killed": sum(killed for _, killed in done),
    }


def measure(quick):
    return asyncio.run(measure_all(quick))
