#!/usr/bin/env python3
"""A gRPC client for tests, and the server of its calls behind Envoy.

Needs grpcio. Takes HOST:PORT for the server, HOST:PORT of Envoy and, if the client is to send an
HTTP/2 PING every second, --pings. Writes "answered" on stdout after a call, and stays connected.
"""

import signal
import sys
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(lambda message, _context: message)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
server.add_generic_rpc_handlers((Echo(),))
server.add_insecure_port(sys.argv[1])
server.start()
options = {}
if "--pings" in sys.argv:
    options = {"keepalive_time_ms": 1000, "keepalive_permit_without_calls": 1, "http2.max_pings_without_data": 0}
channel = grpc.insecure_channel(sys.argv[2], [(f"grpc.{name}", value) for name, value in options.items()])
assert channel.unary_unary("/test.Test/Echo")(b"hello", wait_for_ready=True) == b"hello"
print("answered", flush=True)
signal.pause()
