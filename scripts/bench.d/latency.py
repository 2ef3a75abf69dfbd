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


async def idle_drain(contestant, version, ip, upstream):
    """Connections that had a request each, and then stay open, idle."""
    instance = Instance(contestant, version, ip, upstream)
    held = []
    try:
        await instance.start()
        for _ in range(IDLE):
            for protocol in (load.http1_request("/"), HTTP2_REQUEST):
                reader, writer = await asyncio.open_connection(ip, HTTP)
                writer.write(protocol)
                await reader.read(1)
                held.append((reader, writer))
        await asyncio.sleep(0.5)
        return await instance.stop()
    finally:
        await instance.kill()
        for _, writer in held:
            writer.close()


HTTP2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + load.http2_frame(load.FRAME_SETTINGS, 0, 0)
    + load.http2_frame(load.FRAME_HEADERS, load.END_STREAM | load.END_HEADERS, 1, b"\x82\x86\x84\x01\x05bench")
)


async def measure_all(quick):
    net, count = "127.69", 5 if quick else 30
    await load.upstream(f"{net}.0.1", HTTP, TCP)
    addresses = iter(f"{net}.{n // 200 + 1}.{n % 200 + 1}" for n in range(10_000))
    lanes = asyncio.Semaphore(LANES)

    async def in_lane(job, contestant, version):
        async with lanes:
            return await job(contestant, version, next(addresses), f"{net}.0.1")

    kinds = [(c, v) for v in VERSIONS for c in ("sidecar", "drainit")]
    jobs = [(one_drain, *kind) for _ in range(count) for kind in kinds]
    print(f"latency: {len(jobs)} drains, {LANES} side by side", file=sys.stderr)
    done = await asyncio.gather(*(in_lane(*job) for job in jobs))
    drains = [
        {"contestant": c, "envoy": v, "seconds": [s for job, s in zip(jobs, done) if job[1:] == (c, v)]}
        for c, v in kinds
    ]
    kinds = [(c, v) for v in VERSIONS for c in ("wrapper", "sidecar", "drainit")]
    jobs = [(idle_drain, *kind) for kind in kinds for _ in range(1 if quick else 3)]
    print(f"latency: {len(jobs)} drains with idle connections", file=sys.stderr)
    done = await asyncio.gather(*(job(c, v, next(addresses), f"{net}.0.1") for job, c, v in jobs))
    idle = [
        {
            "contestant": c,
            "envoy": v,
            "seconds": [s for job, (s, _) in zip(jobs, done) if job[1:] == (c, v)],
            "killed": sum(k for job, (_, k) in zip(jobs, done) if job[1:] == (c, v)),
        }
        for c, v in kinds
    ]
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    return {"drains": drains, "idle": idle}


def measure(quick):
    return asyncio.run(measure_all(quick))
