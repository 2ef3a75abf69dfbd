#!/usr/bin/env python3
"""Certificates for tests: a CA in DIR, and leaves of it.

    certs.py ca DIR [--name NAME]                      DIR/ca.crt, DIR/ca.key
    certs.py leaf DIR OUT [--san NAME] [--serial HEX]  OUT.crt, OUT.key, of the CA in DIR

Needs cryptography.
"""

import argparse
import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def new_key(kind):
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key, sec1=False):
    form = serialization.PrivateFormat
    form = form.TraditionalOpenSSL if sec1 else form.PKCS8
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )


def certificate(name, key, issuer, issuer_key, san=None, serial=None, before=None, after=None):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(before or now - DAY)
        .not_valid_after(after or now + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
    )
    if san:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(san)]), False
        )
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


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
    args = parser.parse_args()
    if args.command == "ca":
        make_ca(args.directory, args.name)
    else:
        cert, key = make_leaf(
            args.directory, args.name, args.kind, san=args.san, serial=args.serial
        )
        write(args.out + ".crt", cert)
        write(args.out + ".key", key)


if __name__ == "__main__":
    main()
