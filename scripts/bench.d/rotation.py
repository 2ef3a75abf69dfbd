"""New certificates, good and bad, in files: what does Envoy make of them by itself, and with drainit?

One listener whose certificate and client CA come from SDS files, in the form of Contour's
bootstrap. It is asked for its certificates (`/certs`) until it has the new one; and clients shake
hands with it while what is in the files is bad."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from instance import ADMIN, DRAINIT, HTTP, ROOT, SUPERVISOR, WORK, envoy_path

PYTHON = ROOT / "target/tools/python/bin/python"
LEAF, CA = "contour_xds_tls_certificate", "contour_xds_tls_validation_context"
TYPE = "type.googleapis.com/envoy.extensions"
NAMES = ("tls.crt", "tls.key", "ca.crt")
NEVER = 5.0  # seconds, after which a new certificate counts as not taken
BAD = 1.5  # seconds that a bad set stays

# What keeps the certificates fresh, in which Envoy, and the table's words.
WAYS = [
    ("contour", "1.36", "Contour's"),
    ("contour", "1.40", "Contour's"),
    ("watch_modify", "1.40", "watch_modify"),
    ("poll_interval", "1.40", "poll_interval 1s"),
    ("drainit", "1.36", "drainit"),
    ("drainit", "1.40", "drainit"),
]


class Maker:
    """Makes certificates, by the script that the tests use."""

    def __init__(self):
        script = ROOT / "tests/xds/certs.py"
        self.process = subprocess.Popen([PYTHON, script, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ca = self.ask(do="ca", name="bench CA")
        self.other = self.ask(do="ca", name="other CA")

    def ask(self, **question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def leaf(self, **more):
        ca = {"ca_cert": self.ca["cert"], "ca_key": self.ca["key"]}
        return self.ask(do="leaf", name="bench", san="contour", **ca, **more)


class Node:
    """An Envoy that serves TLS with what is in its files, and what keeps those fresh."""

    def __init__(self, maker, way, version, number, first=None, mounted=False):
        self.maker, self.way, self.ip = maker, way, f"127.98.{number // 250}.{number % 250 + 1}"
        self.dir = WORK / f"rotation-{number}"
        shutil.rmtree(self.dir, ignore_errors=True)
        self.live, self.sds = self.dir / "live", self.dir / "resources/sds"
        self.sds.mkdir(parents=True)
        self.live.mkdir()
        self.leaf = maker.leaf()
        if first:
            first(self, self.files(self.leaf))
        if mounted:
            (self.dir / "host").mkdir()
            for name in NAMES:
                shutil.copy(self.live / name, self.dir / "host" / name)
        (self.dir / "envoy.json").write_text(json.dumps(self.config()))
        line = [envoy_path(version), "-c", self.dir / "envoy.json", "--concurrency", "2", "-l", "warning"]
        if way == "drainit":
            options = ["--envoy-cert-file", "--envoy-key-file", "--envoy-cafile"]
            files = [word for option, name in zip(options, NAMES) for word in (option, self.live / name)]
            resources = ["--resources-dir", self.sds.parent, "--listen", f"{self.ip}:{SUPERVISOR}"]
            line = [DRAINIT, *files, *resources, "--", *line]
        else:
            line.append("--disable-hot-restart")
            self.write_sds()
        if mounted:
            mounts = "".join(f'mount --bind "{self.dir}/host/{name}" "{self.live}/{name}"; ' for name in NAMES)
            line = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{mounts}exec "$@"', "sh", *line]
            if os.getuid() != 0:
                line = ["sudo", "--close-from=3", *line]
        with open(WORK / "log", "ab") as log:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        client = self.maker.leaf()
        for name in ("cert", "key"):
            (self.dir / f"client.{name}").write_text(client[name])
        self.admin = None

    def files(self, leaf, ca=None):
        return dict(zip(NAMES, (leaf["cert"], leaf["key"], ca or self.maker.ca["cert"])))

    def config(self):
        def at(port):
            return {"socket_address": {"address": self.ip, "port_value": port}}

        def secret(name, file):
            source = {"path": str(self.sds / f"{file}.json")}
            if self.way == "poll_interval":
                source["poll_interval"] = "1s"
            return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}

        manager = {
            "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}],
        }
        tls = {
            "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [secret(LEAF, "xds-tls-certificate")],
                "validation_context_sds_secret_config": secret(CA, "xds-validation-context"),
            },
        }
        chain = {
            "filters": [{"name": "http", "typed_config": manager}],
            "transport_socket": {"name": "tls", "typed_config": tls},
        }
        return {
            "node": {"id": "bench", "cluster": "bench"},
            "admin": {"address": at(ADMIN)},
            "static_resources": {"listeners": [{"name": "tls", "address": at(HTTP), "filter_chains": [chain]}]},
        }

    def write_sds(self):
        """As `contour bootstrap --resources-dir` writes them; and with `watch_modify`."""
        cert, key, ca = ({"filename": str(self.live / name)} for name in NAMES)
        matcher = [{"san_type": "DNS", "matcher": {"exact": "contour"}}]
        bodies = {
            ("xds-tls-certificate", LEAF, "tls_certificate"): {"certificate_chain": cert, "private_key": key},
            ("xds-validation-context", CA, "validation_context"): {"trusted_ca": ca, "match_typed_subject_alt_names": matcher},
        }
        for (file, name, kind), body in bodies.items():
            if self.way == "watch_modify":
                body["watched_directory"] = {"path": str(self.live), "watch_modify": True}
            resource = {"@type": f"{TYPE}.transport_sockets.tls.v3.Secret", "name": name, kind: body}
            (self.sds / f"{file}.json").write_text(json.dumps({"resources": [resource]}))

    def has_loaded(self, leaf):
        try:
            if self.admin is None:
                self.admin = http.client.HTTPConnection(self.ip, ADMIN, timeout=5)
            self.admin.request("GET", "/certs")
            return leaf["serial"] in self.admin.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            self.admin = None
            return False

    def wait_loaded(self, leaf, limit=NEVER):
        """Seconds until it has this one; none where it does not take it."""
        start = time.monotonic()
        while not self.has_loaded(leaf):
            if time.monotonic() - start > limit or self.process.poll() is not None:
                return None
            time.sleep(0.001)
        return time.monotonic() - start

    def shakes_hands(self):
        """Whether a client gets an answer over a new connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.maker.ca["cert"])
        context.load_cert_chain(self.dir / "client.cert", self.dir / "client.key")
        try:
            with socket.create_connection((self.ip, HTTP), 2) as plain, context.wrap_socket(plain) as tls:
                # With TLS 1.3 a client learns only here whether its own certificate was taken.
                tls.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
                return tls.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def handshakes(self, seconds):
        """How many failed, and of how many."""
        failed, all, until = 0, 0, time.monotonic() + seconds
        while time.monotonic() < until:
            failed += not self.shakes_hands()
            all += 1
            time.sleep(0.02)
        return failed, all

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


# Who writes: a node, and the text by file's name. What they do last is the last byte.


def kubelet(node, files):
    data, new = node.live / "..data", f"..{time.monotonic_ns()}"
    (node.live / new).mkdir(parents=True)
    for name, text in files.items():
        (node.live / new / name).write_text(text)
        if not (node.live / name).is_symlink():
            (node.live / name).symlink_to(f"..data/{name}")
    old = os.readlink(data) if data.is_symlink() else None
    (node.live / "..data_tmp").symlink_to(new)
    os.rename(node.live / "..data_tmp", data)
    if old:
        shutil.rmtree(node.live / old)


def rename(node, files):
    for name, text in files.items():
        (node.dir / "new").write_text(text)
        os.rename(node.dir / "new", node.live / name)


def in_place(node, files):
    for name, text in files.items():
        (node.live / name).write_text(text)


def slow(node, files):
    for name, text in files.items():
        time.sleep(0.3)
        (node.live / name).write_text(text)


def torn(node, files):
    """Two seconds for two files, in pieces."""
    for name in NAMES[:2]:
        with open(node.live / name, "w") as file:
            for at in range(0, len(files[name]), 200):
                file.write(files[name][at : at + 200])
                file.flush()
                time.sleep(0.2)


def remove(node, files):
    for name, text in files.items():
        (node.live / name).unlink()
        (node.live / name).write_text(text)


def links(node, files):
    """As certbot does."""
    archive = node.dir / f"archive-{time.monotonic_ns()}"
    archive.mkdir()
    for name, text in files.items():
        (archive / name).write_text(text)
        (node.live / name).unlink()
        (node.live / name).symlink_to(archive / name)


def directory(node, files):
    (node.dir / "next").mkdir()
    for name, text in files.items():
        (node.dir / "next" / name).write_text(text)
    os.rename(node.live, node.dir / f"old-{time.monotonic_ns()}")
    os.rename(node.dir / "next", node.live)


def host(node, files):
    for name, text in files.items():
        (node.dir / "host" / name).write_text(text)


WRITERS = {
    "kubelet's swap": kubelet,
    "rename of each file": rename,
    "in place (cp, spiffe-helper)": in_place,
    "in place, 300 ms between": slow,
    "in place, torn, 2 s": torn,
    "removed and written": remove,
    "links (certbot)": links,
    "the directory renamed": directory,
    "in place, file mounted": host,
}


def bad_sets(maker):
    """What is bad, by the table's words. Written by rename: every Envoy looks then."""
    good = maker.leaf()
    cert, key = good["cert"], good["key"]
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    weak = maker.leaf(kind="rsa", bits=1024)
    other = maker.ask(do="leaf", name="bench", san="contour", ca_cert=maker.other["cert"], ca_key=maker.other["key"])
    return {
        "another leaf's key": (cert, maker.leaf()["key"], None),
        "a certificate cut off": (cert[:300], key, None),
        "garbage": ("\xa5" * 500, key, None),
        "an empty key": (cert, "", None),
        "an expired leaf": pair(maker.leaf(before=-9, after=-1)),
        "a leaf of next week": pair(maker.leaf(before=1, after=9)),
        "a garbage CA": (cert, key, pem),
        "a weak key, which Envoy refuses": pair(weak),
        "another CA's leaf": pair(other),
        "another CA": (cert, key, maker.other["cert"]),
    }


def pair(leaf):
    return leaf["cert"], leaf["key"], None


def rotations(maker, way, version, number, writer, times):
    """Seconds from the last byte until Envoy has the new leaf, of as many; stops at the first
    that it does not take."""
    took = []
    node = Node(maker, way, version, number, kubelet if writer is kubelet else in_place, writer is host)
    try:
        if node.wait_loaded(node.leaf, 20) is None:
            return [None]
        time.sleep(0.2)
        for _ in range(times):
            leaf = maker.leaf()
            writer(node, node.files(leaf))
            took.append(node.wait_loaded(leaf))
            if took[-1] is None:
                break
            # At any time of a second, and of a look.
            time.sleep(0.1 + (len(took) * 0.37) % 1)
        return took
    finally:
        node.end()


def bad(maker, way, version, number, files):
    """What handshakes a bad set costs, and whether all is well once a good one is there."""
    node = Node(maker, way, version, number, kubelet)
    try:
        node.wait_loaded(node.leaf, 20)
        time.sleep(1)  # for drainit to have Envoy's word on it
        cert, key, ca = files
        rename(node, node.files({"cert": cert, "key": key}, ca))
        failed, all = node.handshakes(BAD)
        # The old ones again, and then new ones: the worst for Envoy.
        rename(node, node.files(node.leaf))
        time.sleep(1)
        leaf = maker.leaf()
        rename(node, node.files(leaf))
        healed = node.wait_loaded(leaf) is not None and node.shakes_hands()
        return {"failed": failed, "all": all, "healed": healed}
    finally:
        node.end()


def late(maker, way, version, number):
    """Certificates that come two seconds after the start; whether Envoy serves with them."""
    node = Node(maker, way, version, number)
    try:
        time.sleep(2)
        kubelet(node, node.files(node.leaf))
        return node.wait_loaded(node.leaf) is not None and node.shakes_hands()
    finally:
        node.end()


def measure(quick):
    maker = Maker()
    numbers = iter(range(1, 1_000_000))
    table = []
    for way, version, words in WAYS:
        print(f"rotation: {words}, Envoy {version}", file=sys.stderr)
        row = {"way": words, "envoy": version, "writers": {}, "bad": {}}
        for name, writer in WRITERS.items():
            times = 2 if quick else 5 if writer in (slow, torn) else 40
            row["writers"][name] = rotations(maker, way, version, next(numbers), writer, times)
        for name, files in bad_sets(maker).items():
            row["bad"][name] = bad(maker, way, version, next(numbers), files)
        row["late"] = late(maker, way, version, next(numbers))
        table.append(row)
    maker.process.stdin.close()
    maker.process.wait()
    return table
