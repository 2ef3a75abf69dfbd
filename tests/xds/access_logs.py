#!/usr/bin/env python3
"""A receiver of access logs for tests: Envoy's own over gRPC, and OpenTelemetry's.

Needs grpcio. Takes HOST:PORT to listen on. Writes "ready" on stdout, and then a line for each
message that comes: Envoy sends none without entries.
"""

import sys
from concurrent import futures

import grpc

def take(message):
    print(len(message), "bytes", flush=True)


def stream(messages, _context):
    for message in messages:
        take(message)
    return b""


def unary(message, _context):
    take(message)
    return b""


class Services(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method.endswith("/StreamAccessLogs"):
            return grpc.stream_unary_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((Services(),))
server.add_insecure_port(sys.argv[1])
server.start()
print("ready", flush=True)
server.wait_for_termination()
