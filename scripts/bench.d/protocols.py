"""One drain for each protocol, with nothing but its sessions in flight: what is cut, how long does it take?"""

import asyncio
import json
import logging
import subprocess
import sys
from types import SimpleNamespace

import grpc
import websockets

import load
import sessions
from instance import HTTP, TCP, WORK, Instance, config

VERSIONS = ["1.36", "1.40"]
CONTESTANTS = ["bare", "sidecar", "drainit"]
LANES = 6  # drains side by side
HTTP3, UDP, GRPC, WEBSOCKET = 21443, 21082, 21083, 21084
BEFORE = 1.0  # seconds that the sessions have been open when it is stopped
EXTENSIONS = "type.googleapis.com/envoy.extensions"


def everything(ip, upstream):
    """The other benchmarks' configuration, and what the other protocols need."""
    whole = config(ip, upstream)
    resources = whole["static_resources"]
    listener = resources["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]
    fields = manager["typed_config"]
    fields["upgrade_configs"].append({"upgrade_type": "CONNECT"})
    tunnel = {"cluster": "tcp", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    fields["route_config"]["virtual_hosts"][0]["routes"][:0] = [
        {"match": {"connect_matcher": {}}, "route": tunnel},
        {"match": {"prefix": "/bench.Bench/"}, "route": {"cluster": "grpc", "timeout": "0s"}},
        {"match": {"prefix": "/socket"}, "route": {"cluster": "websocket", "timeout": "0s"}},
    ]

    def at(address, port, **more):
        return {"socket_address": {"address": address, "port_value": port, **more}}

    certificate = {"certificate_chain": {"filename": f"{WORK}/quic.crt"}, "private_key": {"filename": f"{WORK}/quic.key"}}
    quic = {
        "@type": f"{EXTENSIONS}.transport_sockets.quic.v3.QuicDownstreamTransport",
        "downstream_tls_context": {"common_tls_context": {"tls_certificates": [certificate]}},
    }
    upgrades = [one for one in fields["upgrade_configs"] if one["upgrade_type"] == "websocket"]
    http3 = {"name": "http", "typed_config": {**fields, "codec_type": "HTTP3", "stat_prefix": "http3", "upgrade_configs": upgrades}}
    chain = {"transport_socket": {"name": "quic", "typed_config": quic}, "filters": [http3]}
    resources["listeners"].append(
        {
            "name": "http3",
            "address": at(ip, HTTP3, protocol="UDP"),
            "udp_listener_config": {"quic_options": {}},
            "filter_chains": [chain],
        }
    )
    route = {"@type": f"{EXTENSIONS}.filters.udp.udp_proxy.v3.Route", "cluster": "udp"}
    proxy = {
        "@type": f"{EXTENSIONS}.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": "udp",
        "idle_timeout": "1s",
        "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": route}}},
    }
    resources["listeners"].append(
        {"name": "udp", "address": at(ip, UDP, protocol="UDP"), "listener_filters": [{"name": "udp", "typed_config": proxy}]}
    )
    options = f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
    for name, port in (("udp", UDP), ("websocket", WEBSOCKET), ("grpc", GRPC)):
        cluster = json.loads(json.dumps(resources["clusters"][0]).replace(f'"port_value": {HTTP}', f'"port_value": {port}'))
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
        resources["clusters"].append(cluster)
    most = dict.fromkeys(["max_connections", "max_requests", "max_pending_requests"], 100_000)
    resources["clusters"][0]["circuit_breakers"] = {"thresholds": [most]}
    cluster["typed_extension_protocol_options"] = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": options,
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    return whole


class Everything(Instance):
    """An instance that speaks all of the protocols."""

    def configure(self, number):
        self.log = WORK / f"log-{self.ip}"
        self.log.write_bytes(b"")
        self.file.write_text(json.dumps(everything(self.ip, self.upstream)))


class GrpcServer(grpc.GenericRpcHandler):
    """`Wait` answers after so many seconds, `Count` with so many messages, two a second."""

    def service(self, call):
        if call.method.endswith("/Wait"):
            return grpc.unary_unary_rpc_method_handler(self._wait)
        return grpc.unary_stream_rpc_method_handler(self._count)

    @staticmethod
    async def _wait(request, context):
        await asyncio.sleep(float(request))
        return request

    @staticmethod
    async def _count(request, context):
        for number in range(int(request)):
            await asyncio.sleep(0.5)
            yield str(number).encode()


class UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


async def websocket_echo(socket):
    async for message in socket:
        await socket.send(message)


async def upstreams(ip):
    await load.upstream(ip, HTTP, TCP)
    await asyncio.get_running_loop().create_datagram_endpoint(UdpEcho, local_addr=(ip, UDP))
    await websockets.serve(websocket_echo, ip, WEBSOCKET)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GrpcServer(),))
    server.add_insecure_port(f"{ip}:{GRPC}")
    await server.start()
    return server


async def one_drain(contestant, version, kind, ip, upstream):
    """Starts the sessions, stops it, and returns what became of both."""
    _, count, session = kind
    instance = Everything(contestant, version, ip, upstream)
    at = SimpleNamespace(
        ip=ip,
        http=f"http://{ip}:{HTTP}",
        http_port=HTTP,
        tcp_port=TCP,
        http3_port=HTTP3,
        udp_port=UDP,
        upload=WORK / "upload",
        told=asyncio.Event(),
    )
    try:
        await instance.start()
        opened = [asyncio.create_task(session(at)) for _ in range(count)]
        await asyncio.sleep(BEFORE)
        stopping = asyncio.create_task(instance.stop())
        at.told.set()  # and open no more
        ended = await asyncio.gather(*opened, return_exceptions=True)
        seconds, killed = await stopping
        why = sorted({f"{type(error).__name__}: {error}" for error in ended if error})
        return {
            "sessions": count,
            "cut": sum(error is not None for error in ended),
            "seconds": seconds,
            "killed": killed,
            "verdict": instance.verdict(),
            "why": why,
        }
    finally:
        await instance.kill()


async def measure_all(quick):
    net = "127.68"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        + ["-subj", "/CN=bench", "-keyout", WORK / "quic.key", "-out", WORK / "quic.crt"],
        check=True,
        capture_output=True,
    )
    (WORK / "upload").write_bytes(bytes(1 << 19))
    # What breaks is counted where it was asked for.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    logging.disable()
    server = await upstreams(f"{net}.0.1")
    addresses = iter(f"{net}.{n // 200 + 1}.{n % 200 + 1}" for n in range(10_000))
    lanes = asyncio.Semaphore(LANES)

    async def in_lane(contestant, version, kind):
        async with lanes:
            return await one_drain(contestant, version, kind, next(addresses), f"{net}.0.1")

    jobs = [(c, v, kind) for kind in sessions.KINDS for v in (VERSIONS[1:] if quick else VERSIONS) for c in CONTESTANTS]
    print(f"protocols: {len(jobs)} drains, {LANES} side by side", file=sys.stderr)
    done = await asyncio.gather(*(in_lane(*job) for job in jobs))
    await server.stop(None)
    return [{"contestant": c, "envoy": v, "kind": kind[0], **row} for (c, v, kind), row in zip(jobs, done)]


def measure(quick):
    return asyncio.run(measure_all(quick))
