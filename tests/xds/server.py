#!/usr/bin/env python3
"""An xDS control plane for tests: ADS over mutual TLS, one listener and one cluster.

Needs grpcio and cryptography. Writes one JSON object a line on stdout:

    {"event": "ready", "port": 18000}
    {"event": "handshake", "serial": "1f", "subject": "CN=envoy", "peer": "ipv4:127.0.0.1:40000"}
    {"event": "sent", "type": "Cluster", "version": "1"}
    {"event": "ack", "type": "Cluster", "version": "1"} or {"event": "nack", ..., "error": "why"}
    {"event": "closed", "serial": "1f"}
    {"event": "reloaded", "serial": "2a"}            its own certificate

A client without a certificate of the CA gets no connection. The server's own pair and CA are read
again when they change; connections that are open keep what they have. Messages are put together
by hand, so that no generated code is needed.
"""

import argparse
import json
import queue
import signal
import sys
import threading
import time
from concurrent import futures

import grpc
from cryptography import x509

XDS = "type.googleapis.com/envoy."
CLUSTER = XDS + "config.cluster.v3.Cluster"
LISTENER = XDS + "config.listener.v3.Listener"
MANAGER = XDS + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = XDS + "extensions.filters.http.router.v3.Router"
METHOD = ("envoy.service.discovery.v3.AggregatedDiscoveryService", "StreamAggregatedResources")


# --- protobuf's wire format ---------------------------------------------------------------------


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """One field: an int, a string, or bytes (a message that is encoded already)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*fields):
    return b"".join(field(number, value) for number, value in fields)


def fields(data):
    """The (number, value) pairs of a message; fixed-width values are left out."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
        elif kind == 2:
            size = number()
            yield key >> 3, data[at : at + size]
            at += size
        else:
            at += 8 if kind == 1 else 4


def packed(type_url, *parts):
    return message((1, type_url), (2, message(*parts)))


# --- the resources ------------------------------------------------------------------------------


def address(host, port):
    return message((1, message((2, host), (3, port))))


def cluster(host, port):
    endpoint = message((1, message((1, address(host, port)))))
    assignment = message((1, "upstream"), (2, message((2, endpoint))))
    return packed(CLUSTER, (1, "upstream"), (4, message((1, 5))), (33, assignment))


def listener(host, port):
    route = message((1, message((1, "/"))), (2, message((1, "upstream"))))
    virtual_host = message((1, "all"), (2, "*"), (3, route))
    routes = message((1, "routes"), (2, virtual_host))
    router = message((1, "envoy.filters.http.router"), (4, packed(ROUTER)))
    manager = packed(MANAGER, (2, "ingress"), (4, routes), (5, router))
    http = message((1, "envoy.filters.network.http_connection_manager"), (4, manager))
    return packed(LISTENER, (1, "ingress"), (2, address(host, port)), (3, message((3, http))))


# --- the server ---------------------------------------------------------------------------------


output = threading.Lock()


def say(event, **details):
    with output:
        print(json.dumps({"event": event, "time": round(time.time(), 3), **details}), flush=True)


def serial(pem):
    return format(x509.load_pem_x509_certificate(pem).serial_number, "x")


class Pair:
    """The server's own certificate, key and CA: read again at a handshake when they changed."""

    def __init__(self, cert, key, ca):
        self.paths = (key, cert, ca)
        self.current = self.read()

    def read(self):
        out = []
        for path in self.paths:
            with open(path, "rb") as file:
                out.append(file.read())
        return out

    def configuration(self):
        key, cert, ca = self.current
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    def changed(self):
        try:
            now = self.read()
            if now == self.current:
                return None
            name = serial(now[1])
        except (OSError, ValueError):
            return None
        self.current = now
        say("reloaded", serial=name)
        return self.configuration()


class Discovery:
    def __init__(self, resources):
        self.resources = resources

    def stream(self, requests, context):
        auth = context.auth_context()
        pem = auth["x509_pem_cert"][0]
        name = serial(pem)
        subject = x509.load_pem_x509_certificate(pem).subject.rfc4514_string()
        say("handshake", serial=name, subject=subject, peer=context.peer())
        answers = queue.Queue()

        def read():
            try:
                for request in requests:
                    answer = self.answer(dict(fields(request)))
                    if answer:
                        answers.put(answer)
            except Exception:  # the stream ends in many ways, all alike to us
                pass
            answers.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (answer := answers.get()) is not None:
            yield answer
        say("closed", serial=name)

    def answer(self, request):
        type_url = request.get(4, b"").decode()
        short = type_url.rsplit(".", 1)[-1]
        if 6 in request:
            error = dict(fields(request[6])).get(2, b"").decode()
            say("nack", type=short, error=error)
            return None
        if 5 in request:
            say("ack", type=short, version=request.get(1, b"").decode())
            return None
        if type_url not in self.resources:
            return None
        say("sent", type=short, version="1")
        resource = self.resources[type_url]
        return message((1, "1"), (2, resource), (4, type_url), (5, short + "-1"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: any")
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", required=True, help="whose clients are let in")
    parser.add_argument("--listener-host", default="127.0.0.1")
    parser.add_argument("--listener-port", type=int, default=10000)
    parser.add_argument("--upstream-host", default="127.0.0.1")
    parser.add_argument("--upstream-port", type=int, default=8080)
    parser.add_argument("--max-connection-age", type=float, help="seconds, then GOAWAY")
    parser.add_argument("--max-connection-age-grace", type=float, default=0.1, help="seconds")
    args = parser.parse_args()

    options = [("grpc.so_reuseport", 0)]
    if args.max_connection_age:
        options += [
            ("grpc.max_connection_age_ms", int(args.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(args.max_connection_age_grace * 1000)),
        ]
    discovery = Discovery(
        {
            CLUSTER: cluster(args.upstream_host, args.upstream_port),
            LISTENER: listener(args.listener_host, args.listener_port),
        }
    )
    handler = grpc.stream_stream_rpc_method_handler(discovery.stream)
    service = grpc.method_handlers_generic_handler(METHOD[0], {METHOD[1]: handler})
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=options)
    server.add_generic_rpc_handlers((service,))
    pair = Pair(args.cert, args.key, args.ca)
    credentials = grpc.dynamic_ssl_server_credentials(
        pair.configuration(), pair.changed, require_client_authentication=True
    )
    port = server.add_secure_port(f"{args.host}:{args.port}", credentials)
    server.start()
    say("ready", port=port)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
