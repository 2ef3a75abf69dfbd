#!/usr/bin/env python3
"""Certificates for tests: a CA in DIR, and leaves of it.

    certs.py ca DIR [--name NAME]                      DIR/ca.crt, DIR/ca.key
    certs.py leaf DIR OUT [--san NAME] [--serial HEX]  OUT.crt, OUT.key, of the CA in DIR
    certs.py serve                                     a JSON line in, a JSON line out, to the end

What `serve` is asked, by `do`:

    ca      a CA called `name`
    leaf    of the CA with `ca_cert` and `ca_key`; `name`, `kind`, `bits`, `san`, `serial` (hex),
            `before` and `after` (days from now), `password`, `demand_staple`
    crl     of the CA with `ca_cert` and `ca_key`: `revoked` (certificates), `before` and `after`
    staple  an OCSP response for `cert` of that CA, in base64: `status`, `before` and `after`
    peek    the serial that `host`:`port` presents in a TLS handshake
    fetch   the same, and the status of a GET
    open    the same, and the connection stays open: `id`
            (`fetch` and `open` show `client`, the PEM of a certificate and its key, where they are given one)
    get     the status of a GET on the connection `id`

Needs cryptography.
"""

import argparse
import base64
import datetime
import http.client
import json
import os
import ssl
import sys
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def new_key(kind, bits=2048):
    if kind == "rsa":
        return rsa.generate_private_key(65537, bits)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key, sec1=False):
    form = serialization.PrivateFormat
    form = form.TraditionalOpenSSL if sec1 else form.PKCS8
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )


def certificate(name, key, issuer, issuer_key, san=None, serial=None, before=None, after=None,
                ca=False, demand_staple=False):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(before or now - DAY)
        .not_valid_after(after or now + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=ca or issuer is None, path_length=None), True)
    )
    if demand_staple:
        demand = x509.TLSFeature([x509.TLSFeatureType.status_request])
        builder = builder.add_extension(demand, False)
    if san:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(san)]), False
        )
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


def staple(cert, ca, ca_key, status, since, until):
    """An OCSP response, DER."""
    status = ocsp.OCSPCertStatus[status]
    revoked = since if status == ocsp.OCSPCertStatus.REVOKED else None
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=cert, issuer=ca, algorithm=hashes.SHA1(), cert_status=status, this_update=since,
        next_update=until, revocation_time=revoked, revocation_reason=None,
    ).responder_id(ocsp.OCSPResponderEncoding.HASH, ca)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def cert_pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def make_ca(directory, name="drainit tests"):
    os.makedirs(directory, exist_ok=True)
    key = new_key("ec")
    cert = certificate(name, key, None, key)
    write(f"{directory}/ca.crt", cert_pem(cert))
    write(f"{directory}/ca.key", key_pem(key))


def make_leaf(directory, name="envoy", kind="ec", **options):
    """The PEM of a certificate and its key, of the CA in `directory`."""
    with open(f"{directory}/ca.crt", "rb") as file:
        ca = x509.load_pem_x509_certificate(file.read())
    with open(f"{directory}/ca.key", "rb") as file:
        ca_key = serialization.load_pem_private_key(file.read(), None)
    key = new_key(kind)
    return cert_pem(certificate(name, key, ca.subject, ca_key, **options)), key_pem(key)


def key_pem_encrypted(key, password):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )


def issuer(ca_cert, ca_key):
    return (x509.load_pem_x509_certificate(ca_cert.encode()),
            serialization.load_pem_private_key(ca_key.encode(), None))


def days(number):
    return datetime.datetime.now(datetime.timezone.utc) + number * DAY


class Server:
    """What `serve` answers."""

    def __init__(self):
        self.open_connections = []

    def ca(self, name):
        key = new_key("ec")
        return self.pair(certificate(name, key, None, key), key)

    def leaf(self, ca_cert, ca_key, name="envoy", kind="ec", bits=2048, san=None, serial=None,
             before=-1, after=90, password=None, authority=False, demand_staple=False):
        ca, ca_key = issuer(ca_cert, ca_key)
        key = new_key(kind, bits)
        cert = certificate(name, key, ca.subject, ca_key, san, serial and int(serial, 16),
                           days(before), days(after), authority, demand_staple)
        return self.pair(cert, key, password)

    def crl(self, ca_cert, ca_key, revoked=(), before=-1, after=30):
        ca, ca_key = issuer(ca_cert, ca_key)
        builder = (x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
                   .last_update(days(before)).next_update(days(after)))
        for cert in revoked:
            serial = x509.load_pem_x509_certificate(cert.encode()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial)
                .revocation_date(days(-1)).build())
        crl = builder.sign(ca_key, hashes.SHA256())
        return {"crl": crl.public_bytes(serialization.Encoding.PEM).decode()}

    def staple(self, ca_cert, ca_key, cert, status="GOOD", before=-1, after=7):
        ca, ca_key = issuer(ca_cert, ca_key)
        cert = x509.load_pem_x509_certificate(cert.encode())
        der = staple(cert, ca, ca_key, status, days(before), days(after))
        return {"staple": base64.b64encode(der).decode()}

    def pair(self, cert, key, password=None):
        pem = key_pem_encrypted(key, password) if password else key_pem(key)
        serial = format(cert.serial_number, "x")
        return {"cert": cert_pem(cert).decode(), "key": pem.decode(), "serial": serial}

    def connect(self, host, port, client=None):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if client:
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(client)
                file.flush()
                context.load_cert_chain(file.name)
        connection = http.client.HTTPSConnection(host, port, timeout=20, context=context)
        connection.connect()
        der = connection.sock.getpeercert(True)
        return connection, format(x509.load_der_x509_certificate(der).serial_number, "x")

    def peek(self, host, port):
        connection, serial = self.connect(host, port)
        connection.close()
        return {"serial": serial}

    def fetch(self, host, port, client=None):
        connection, serial = self.connect(host, port, client)
        connection.request("GET", "/")
        status = connection.getresponse().status
        connection.close()
        return {"serial": serial, "status": status}

    def open(self, host, port, client=None):
        connection, serial = self.connect(host, port, client)
        self.open_connections.append(connection)
        return {"serial": serial, "id": len(self.open_connections) - 1}

    def get(self, id):
        connection = self.open_connections[id]
        if connection.sock is None:
            raise ConnectionError("it was closed")
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return {"status": answer.status}

    def serve(self):
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(self, request.pop("do"))(**request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("ca")
    command.add_argument("directory")
    command.add_argument("--name", default="drainit tests")
    command = commands.add_parser("leaf")
    command.add_argument("directory")
    command.add_argument("out")
    command.add_argument("--name", default="envoy")
    command.add_argument("--kind", choices=["ec", "rsa", "ed25519"], default="ec")
    command.add_argument("--san")
    command.add_argument("--serial", type=lambda text: int(text, 16))
    commands.add_parser("serve")
    args = parser.parse_args()
    if args.command == "serve":
        Server().serve()
    elif args.command == "ca":
        make_ca(args.directory, args.name)
    else:
        cert, key = make_leaf(
            args.directory, args.name, args.kind, san=args.san, serial=args.serial
        )
        write(args.out + ".crt", cert)
        write(args.out + ".key", key)


if __name__ == "__main__":
    main()
