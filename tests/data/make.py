#!/usr/bin/env python3
"""Makes the certificates and keys in this directory; they are for tests and guard nothing.

Valid from 2024 to 2099, so that no test ends with a certificate. Needs cryptography and openssl.
"""

import datetime
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "xds"))
import certs  # noqa: E402
from cryptography.hazmat.primitives import serialization  # noqa: E402

os.chdir(os.path.dirname(os.path.abspath(__file__)))


def day(year, month=1, day=1):
    return datetime.datetime(year, month, day, tzinfo=datetime.timezone.utc)


LIFE = {"before": day(2024), "after": day(2099)}

ca_key = certs.new_key("ec")
ca = certs.certificate("drainit test CA", ca_key, None, ca_key, serial=0xCA, **LIFE)
old_ca = certs.certificate("drainit old CA", ca_key, None, ca_key, serial=0xCB,
                           before=day(2024), after=day(2024, 4))
certs.write("ca.crt", certs.cert_pem(ca))
certs.write("ca-expired.crt", certs.cert_pem(old_ca))


def leaf(name, kind="ec", key=None, **options):
    key = key or certs.new_key(kind)
    options = {**LIFE, **options}
    cert = certs.certificate(name, key, ca.subject, ca_key, **options)
    certs.write(f"{name}.crt", certs.cert_pem(cert))
    return cert, key


cert, key = leaf("ec", serial=0xA1B2C3)
certs.write("ec.key", certs.key_pem(key))
certs.write("ec-sec1.key", certs.key_pem(key, sec1=True))
bare = ["openssl", "ec", "-in", "ec.key", "-no_public", "-out", "ec-bare.key"]
subprocess.run(bare, check=True, stderr=subprocess.DEVNULL)
certs.write("ec-encrypted.key", key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"secret")))
certs.write("ec-sec1-encrypted.key", key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.BestAvailableEncryption(b"secret")))
certs.write("chain.crt", b"# the leaf\r\n" + certs.cert_pem(cert).replace(b"\n", b"\r\n")
            + b"\r\n# its CA\r\n" + certs.cert_pem(ca))
leaf("expired", key=key, serial=0xE0, before=day(2024), after=day(2024, 4))
leaf("future", key=key, serial=0xE1, before=day(2098), after=day(2099))
_, key = leaf("rsa", "rsa", serial=0xF << 152 | 1)
certs.write("rsa.key", certs.key_pem(key))
certs.write("rsa-pkcs1.key", certs.key_pem(key, sec1=True))
_, key = leaf("ed25519", "ed25519", serial=0xED)
certs.write("ed25519.key", certs.key_pem(key))
_, key = leaf("other", serial=0x0700)
certs.write("other.key", certs.key_pem(key))
