"""Sessions of every protocol, by clients that others wrote: curl, h2load, grpcio, websockets and aioquic. Each
takes so many seconds, and ends with an exception if it was not answered in full."""

import asyncio
import re
import time

import grpc
import websockets

import http3
import load

SHORT, LONG = 4, 18  # seconds
STREAMS = 250  # requests at the same time on one HTTP/2 connection


class Cut(Exception):
    """A session that did not last as long as it should have."""


async def curl(*arguments):
    command = ["curl", "--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code} "]
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    codes, said = await process.communicate()
    if process.returncode or set(codes.split()) != {b"200"}:
        raise Cut(said.decode().strip() or codes.decode())


async def http1(at):
    await curl(f"{at.http}/slow?{SHORT}")


async def http2(at):
    await curl("--http2-prior-knowledge", f"{at.http}/slow?{SHORT}")


async def upload(at):
    """Half a megabyte, at a rate that makes it last."""
    await curl("--upload-file", str(at.upload), "--limit-rate", str(at.upload.stat().st_size // SHORT), f"{at.http}/upload")


async def over_http3(at):
    async with http3.open_client(at.ip, at.http3_port) as client:
        await asyncio.gather(*(client.get(f"/slow?{SHORT}") for _ in range(5)))


def channel(at, retries):
    # A channel of its own: grpcio shares connections between channels with the same options.
    options = [("grpc.enable_retries", retries), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"{at.ip}:{at.http_port}", options=options)


async def grpc_unary(at, retries=1):
    """Calls of half a second, one after the other."""
    async with channel(at, retries) as open_channel:
        call = open_channel.unary_unary("/bench.Bench/Wait")
        end = time.monotonic() + SHORT
        while time.monotonic() < end and not at.told.is_set():
            if await call(b"0.5") != b"0.5":
                raise Cut("the wrong answer")


async def grpc_unary_without_retries(at):
    await grpc_unary(at, 0)


async def grpc_stream(at):
    async with channel(at, 0) as open_channel:
        answers = [answer async for answer in open_channel.unary_stream("/bench.Bench/Count")(str(SHORT * 2).encode())]
        if len(answers) != SHORT * 2:
            raise Cut(f"{len(answers)} messages")


async def many_streams(at):
    """Requests on one HTTP/2 connection, all at the same time."""
    streams = str(STREAMS)
    process = await asyncio.create_subprocess_exec(
        *["h2load", "--requests", streams, "--max-concurrent-streams", streams, f"{at.http}/slow?{SHORT}"],
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    if f", {STREAMS} succeeded".encode() not in said:
        raise Cut(re.search(r"requests: .*", said.decode())[0])


async def websocket(at, seconds=LONG):
    """Says something four times a second, and hears it again."""
    async with websockets.connect(f"ws://{at.ip}:{at.http_port}/socket", proxy=None, ping_interval=None) as socket:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await socket.send("still here")
            await asyncio.wait_for(socket.recv(), load.PATIENCE)
            await asyncio.sleep(0.25)


async def echo(reader, writer, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        writer.write(b"still here")
        await asyncio.wait_for(reader.readexactly(10), load.PATIENCE)
        await asyncio.sleep(0.25)
    writer.close()


async def connect_tunnel(at):
    reader, writer = await asyncio.open_connection(at.ip, at.http_port)
    writer.write(b"CONNECT upstream:1 HTTP/1.1\r\nHost: upstream:1\r\n\r\n")
    if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200"):
        raise Cut("no tunnel")
    await echo(reader, writer, LONG)


async def tcp(at):
    await echo(*await asyncio.open_connection(at.ip, at.tcp_port), SHORT)


async def udp(at):
    """A session of Envoy's: an answer to every datagram."""

    class Heard(asyncio.DatagramProtocol):
        count = 0

        def datagram_received(self, data, address):
            self.count += 1

    transport, heard = await asyncio.get_running_loop().create_datagram_endpoint(
        Heard, remote_addr=(at.ip, at.udp_port)
    )
    said = 0
    end = time.monotonic() + SHORT
    while time.monotonic() < end:
        transport.sendto(b"still here")
        said += 1
        await asyncio.sleep(0.25)
    transport.close()
    if heard.count < said:
        raise Cut(f"{said - heard.count} of {said} datagrams")


# The table's words, how many sessions at the same time, and what each is.
KINDS = [
    ("HTTP/1.1, 4 s (curl)", 10, http1),
    ("HTTP/2, 4 s (curl)", 10, http2),
    ("HTTP/3, 5 streams of 4 s (aioquic)", 5, over_http3),
    ("upload, 4 s (curl)", 10, upload),
    ("gRPC, unary (grpcio)", 10, grpc_unary),
    ("gRPC, unary, no retries (grpcio)", 10, grpc_unary_without_retries),
    ("gRPC, streams of 4 s (grpcio)", 10, grpc_stream),
    (f"HTTP/2, {STREAMS} streams of 4 s each (h2load)", 8, many_streams),
    ("WebSocket, 18 s (websockets)", 10, websocket),
    ("CONNECT, 18 s", 10, connect_tunnel),
    ("TCP, 4 s", 10, tcp),
    ("UDP, 4 s", 10, udp),
]
