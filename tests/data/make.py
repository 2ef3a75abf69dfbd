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
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.x509 import ocsp  # noqa: E402

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
EC, EC_KEY = cert, key
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


# What CAs have revoked, and what they say of a certificate.
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
other_key = certs.new_key("ec")


def crl(issuer, key, until=day(2099), named=False):
    builder = (x509.CertificateRevocationListBuilder().issuer_name(issuer)
               .last_update(day(2024)).next_update(until)
               .add_revoked_certificate(x509.RevokedCertificateBuilder()
                                        .serial_number(0x0700).revocation_date(day(2024)).build()))
    if named:
        name = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        builder = builder.add_extension(name, False)
    return builder.sign(key, hashes.SHA256())


certs.write("crl.pem", crl(ca.subject, ca_key).public_bytes(PEM))
certs.write("crl.der", crl(ca.subject, ca_key).public_bytes(DER))
certs.write("crl-expired.pem", crl(ca.subject, ca_key, day(2024, 4)).public_bytes(PEM))
certs.write("crl-other.pem", crl(old_ca.subject, ca_key).public_bytes(PEM))

second = certs.certificate("drainit second CA", other_key, None, other_key, serial=0xCD, **LIFE)
certs.write("ca-second.crt", certs.cert_pem(second))
certs.write("crl-second.pem", crl(second.subject, other_key).public_bytes(PEM))

# Two keys of one name.
named = (x509.CertificateBuilder().subject_name(ca.subject).issuer_name(ca.subject)
         .public_key(other_key.public_key()).serial_number(0xCC)
         .not_valid_before(LIFE["before"]).not_valid_after(LIFE["after"])
         .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
         .add_extension(x509.SubjectKeyIdentifier.from_public_key(other_key.public_key()), False)
         .sign(other_key, hashes.SHA256()))
certs.write("ca-named.crt", certs.cert_pem(named))
certs.write("crl-named.pem", crl(ca.subject, other_key, named=True).public_bytes(PEM))
certs.write("crl-before.pem", crl(ca.subject, ca_key, named=True).public_bytes(PEM))

for name, status, until in [("good", "GOOD", day(2099)), ("expired", "GOOD", day(2024, 4)),
                            ("revoked", "REVOKED", day(2099)), ("unknown", "UNKNOWN", day(2099)),
                            ("endless", "GOOD", None)]:
    der = certs.staple(EC, ca, ca_key, status, day(2024), until)
    certs.write(f"staple-{name}.der", der)
later = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
certs.write("staple-later.der", later.public_bytes(DER))
demanding = certs.certificate("demanding", EC_KEY, ca.subject, ca_key, serial=0xA1B2C3,
                              demand_staple=True, **LIFE)
certs.write("must-staple.crt", certs.cert_pem(demanding))
