"""Clients that never retry, and the upstream that they are proxied to.

A client opens its connections to any instance that was ready some time ago, as one does whose
orchestrator needs that long to spread the news. `Tally` says what became of its requests.
"""

import asyncio
import random
import re
import struct
import time

SLOW = 3.0  # seconds that a slow request takes
SESSION = 2.0  # seconds that a WebSocket or TCP session lasts
LAG = 1.0  # seconds until clients hear that an instance is ready, or no longer is, unless told otherwise
PAUSE = 0.05  # seconds between a client's requests
PER_CONNECTION = 25  # requests on a keep-alive connection
PATIENCE = 10.0  # seconds; nothing here takes so long


class Tally:
    """What became of the requests and the sessions."""

    def __init__(self):
        self.requests = self.failed = self.refused = self.sessions = self.cut = 0
        self.why = {}
        self.over = False

    def fail(self, kind, error):
        self.failed += 1
        self.refused += isinstance(error, ConnectionRefusedError)
        self._note(f"{kind} failed: {type(error).__name__}")

    def cut_off(self, kind):
        self.cut += 1
        self._note(f"{kind} cut")

    def _note(self, what):
        self.why[what] = self.why.get(what, 0) + 1


class View:
    """Which instances are ready, as a client knows it: so many seconds late."""

    def __init__(self, lag=LAG):
        self._lag = lag
        self._history = [(0.0, ())]

    def set(self, ready):
        if tuple(ready) != self._history[-1][1]:
            self._history.append((time.monotonic(), tuple(ready)))

    def pick(self):
        then = time.monotonic() - self._lag
        known = next(ready for since, ready in reversed(self._history) if since <= then)
        if not known:
            raise ConnectionError("no instance is ready")
        return random.choice(known)


class OneNode:
    """An instance with nobody beside it: clients go there, ready or not."""

    def __init__(self, ip):
        self._ip = ip

    def pick(self):
        return self._ip


class Failed(Exception):
    """A request without its whole answer."""


async def http1_answer(reader):
    """Reads one answer; returns its head."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"content-length:" in lower:
            await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
    except (asyncio.IncompleteReadError, OSError) as error:
        raise Failed from error
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")):
        raise Failed(head.split(b"\r\n")[0])
    return lower


def http1_request(path, headers=""):
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n".encode()


async def keep_alive(reader, writer, tally, pause=PAUSE):
    """HTTP/1.1: requests one after the other on one connection. Whether the server said that it closes it."""
    for _ in range(PER_CONNECTION):
        if reader.at_eof():
            return False  # closed while nothing was under way: nothing is lost
        tally.requests += 1
        writer.write(http1_request("/"))
        closes = b"connection: close" in await http1_answer(reader)
        await asyncio.sleep(PAUSE if closes else pause)
        if closes:
            return True
    return False


async def anew(reader, writer, tally):
    """HTTP/1.1: one request, and half a second later a new connection for the next."""
    tally.requests += 1
    writer.write(http1_request("/", "Connection: close\r\n"))
    await http1_answer(reader)
    writer.close()
    await asyncio.sleep(0.5)


async def pooled(reader, writer, tally):
    """HTTP/1.1: requests on one connection until the server says that it closes it."""
    closes = False
    while not (closes or reader.at_eof() or tally.over):
        tally.requests += 1
        writer.write(http1_request("/"))
        closes = b"connection: close" in await http1_answer(reader)
        await asyncio.sleep(0.25)


async def slow(reader, writer, tally):
    """HTTP/1.1: one request that takes 3 s."""
    tally.requests += 1
    writer.write(http1_request("/slow"))
    await http1_answer(reader)


FRAME_DATA, FRAME_HEADERS, FRAME_RESET, FRAME_SETTINGS, FRAME_PING, FRAME_GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def http2_frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


async def http2(reader, writer, tally, pause=PAUSE):
    """HTTP/2 with prior knowledge: streams one after the other on one connection. Whether the server said that it
    goes away."""
    get = b"\x82\x86\x84\x01\x05bench"  # GET http / bench, in HPACK
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(FRAME_SETTINGS, 0, 0))
    going_away = False
    for stream in range(1, 2 * PER_CONNECTION, 2):
        if going_away or reader.at_eof():
            return going_away
        tally.requests += 1
        writer.write(http2_frame(FRAME_HEADERS, END_STREAM | END_HEADERS, stream, get))
        answered = False
        while not answered:
            try:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            except (asyncio.IncompleteReadError, OSError) as error:
                raise Failed from error
            kind, flags, on = struct.unpack(">BBI", head[3:])
            if kind == FRAME_SETTINGS and not flags & ACK:
                writer.write(http2_frame(FRAME_SETTINGS, ACK, 0))
            elif kind == FRAME_PING and not flags & ACK:
                writer.write(http2_frame(FRAME_PING, ACK, 0, payload))
            elif kind == FRAME_GOAWAY:
                going_away = True
                if int.from_bytes(payload[:4], "big") < stream:
                    raise Failed("went away without the stream")
            elif on == stream and kind == FRAME_RESET:
                raise Failed("reset")
            elif on == stream and kind in (FRAME_DATA, FRAME_HEADERS):
                # ':status: 200' is one byte in HPACK.
                if kind == FRAME_HEADERS and b"\x88" not in payload[:4]:
                    raise Failed("not 200")
                answered = bool(flags & END_STREAM)
        await asyncio.sleep(PAUSE if going_away else pause)
    return going_away


async def echo_session(reader, writer, tally, kind):
    """Says something ten times a second for 2 s, and hears it again."""
    tally.sessions += 1
    end = time.monotonic() + SESSION
    try:
        while time.monotonic() < end:
            writer.write(b"still here")
            await reader.readexactly(10)
            await asyncio.sleep(0.1)
    except (asyncio.IncompleteReadError, OSError):
        tally.cut_off(kind)


async def tcp(reader, writer, tally):
    await echo_session(reader, writer, tally, "tcp")


async def websocket(reader, writer, tally):
    tally.requests += 1
    writer.write(
        http1_request(
            "/ws",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        )
    )
    await http1_answer(reader)
    await echo_session(reader, writer, tally, "websocket")


# How many clients of each kind, and to which port's name they go.
ANEW, POOLED = [(anew, 10, "http")], [(pooled, 20, "http")]
MIX = [(keep_alive, 3, "http"), (http2, 2, "http"), (slow, 3, "http"), (websocket, 2, "http"), (tcp, 2, "tcp")]


def clients(ports, view, tally, over, mix=MIX):
    """Starts all of them; `ports` by their names in the mix."""
    return [
        asyncio.create_task(client(kind, ports[port], view, tally, over))
        for kind, count, port in mix
        for _ in range(count)
    ]


async def client(kind, port, view, tally, over):
    """Opens one connection after the other, for as long as `over` is not set."""
    await asyncio.sleep(random.random())
    while not over.is_set():
        writer = None
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(view.pick(), port), PATIENCE)
            await asyncio.wait_for(kind(reader, writer, tally), None if kind is pooled else PATIENCE)
        except (Failed, OSError, asyncio.TimeoutError) as error:
            tally.fail(kind.__name__, error)
            await asyncio.sleep(0.1)
        finally:
            if writer:
                writer.close()


async def upstream(ip, http_port, tcp_port):
    """Answers `/slow` after 3 s or as many as are asked for (`/slow?4`), an upload when it is whole,
    upgrades `/ws` to an echo, echoes TCP."""

    async def echo(reader, writer):
        try:
            while data := await reader.read(4096):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    async def http(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /ws"):
                    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                    return await echo(reader, writer)
                if head.startswith(b"PUT"):
                    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))
                else:
                    asked = re.match(rb"GET /slow\?(\d+)", head)
                    await asyncio.sleep(int(asked[1]) if asked else SLOW)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    await asyncio.start_server(http, ip, http_port)
    await asyncio.start_server(echo, ip, tcp_port)
