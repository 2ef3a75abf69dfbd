"""A client for HTTP/3, made of aioquic. `open_client` is for the benchmark. As a program it asks
again and again, on a new connection when the server says that the old one goes away.

usage: http3.py IP PORT PATH [stay]
With `stay` it goes on there, five times as slowly: Envoy grants no more than 100 requests then.
It prints `ready` after the first answer, and ends when its input does. The last line that it prints
is a JSON object: how many requests were `answered` and `failed`, on how many `connections`, and `why`.
"""

import asyncio
import json
import ssl
import sys
from contextlib import AsyncExitStack, asynccontextmanager

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

PAUSE = 0.02  # seconds between two requests


class Failed(Exception):
    """A request without its whole answer."""


class Connection(H3Connection):
    """aioquic's, which passes over GOAWAY."""

    going_away = False

    def _check_control_frame_type(self, frame_type):
        if frame_type == FrameType.GOAWAY:
            self.going_away = True
        super()._check_control_frame_type(frame_type)


class Client(QuicConnectionProtocol):
    """One connection, and any number of requests on it."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self._http = Connection(self._quic)
        self._answers, self._statuses = {}, {}
        self._ended = None

    @property
    def going_away(self):
        """Whether the server takes no more requests on this connection."""
        return self._ended is not None or self._http.going_away

    async def get(self, path):
        """Asks, and returns once the whole answer is there."""
        if self._ended is not None:
            raise Failed(self._ended)
        stream = self._quic.get_next_available_stream_id()
        answer = self._answers[stream] = asyncio.get_running_loop().create_future()
        self._http.send_headers(
            stream,
            [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"bench"), (b":path", path.encode())],
            end_stream=True,
        )
        self.transmit()
        await answer
        if self._statuses[stream] != b"200":
            raise Failed(self._statuses[stream].decode())

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self._ended = event.reason_phrase or f"the connection ended with {event.error_code:#x}"
            for answer in self._answers.values():
                self._fail(answer, self._ended)
        if isinstance(event, StreamReset) and event.stream_id in self._answers:
            self._fail(self._answers[event.stream_id], "reset")
        for part in self._http.handle_event(event):
            if isinstance(part, HeadersReceived):
                self._statuses.setdefault(part.stream_id, dict(part.headers).get(b":status", b"none"))
            if isinstance(part, (HeadersReceived, DataReceived)) and part.stream_ended:
                answer = self._answers.get(part.stream_id)
                if answer and not answer.done():
                    answer.set_result(None)

    @staticmethod
    def _fail(answer, why):
        if not answer.done():
            answer.set_exception(Failed(why))


@asynccontextmanager
async def open_client(ip, port):
    """A connection to there, whatever certificate is shown."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, idle_timeout=60
    )
    async with connect(ip, port, configuration=configuration, create_protocol=Client) as client:
        yield client


async def ask_until(over, ip, port, path, stays):
    """Asks one request after the other; what became of them. Whoever `stays` passes over GOAWAY."""
    tally = {"answered": 0, "failed": 0, "connections": 0, "why": {}}
    while not over.is_set():
        try:
            async with AsyncExitStack() as stack:
                client = await asyncio.wait_for(stack.enter_async_context(open_client(ip, port)), 5)
                tally["connections"] += 1
                while not over.is_set() and (stays or not client.going_away):
                    await asyncio.wait_for(client.get(path), 10)
                    tally["answered"] += 1
                    if tally["answered"] == 1:
                        print("ready", flush=True)
                    await asyncio.sleep(PAUSE * 5 if stays else PAUSE)
        except (Failed, OSError, asyncio.TimeoutError) as error:
            why = f"{type(error).__name__}: {error}"
            tally["failed"] += 1
            tally["why"][why] = tally["why"].get(why, 0) + 1
            await asyncio.sleep(0.1)
    return tally


async def main():
    ip, port, path, *more = sys.argv[1:]
    over = asyncio.Event()
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: over.set())
    print(json.dumps(await ask_until(over, ip, int(port), path, more == ["stay"])))


if __name__ == "__main__":
    asyncio.run(main())
