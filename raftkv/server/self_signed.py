"""Certificates that a member makes for itself, and keeps below its data directory (TLS-08).

They hide what is said from who only listens, and prove nothing: whoever connects must skip verification, or be given
the certificate as its CA. Owns their form; imported only by a member that makes one.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_log = logging.getLogger(__name__)

CERT: Final = "cert.pem"
KEY: Final = "key.pem"
_YEAR: Final = datetime.timedelta(days=365)
_CLOCK_SKEW: Final = datetime.timedelta(hours=1)
"""Others' clocks may be behind."""


def keep_self_signed(directory: Path, hosts: Sequence[str], years: int) -> tuple[str, str]:
    """Paths of certificate and key: those that are there, or new ones. Raises OSError."""
    cert, key = directory / CERT, directory / KEY
    fields = {"directory": str(directory)}
    if cert.exists() and key.exists():
        if not _is_expired(cert):
            return str(cert), str(key)
        _log.warning("the self-signed certificate has expired; another one is made", extra={"kv": fields})
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    raw_cert, raw_key = make_self_signed(hosts, years)
    # The certificate last: one without its key would be taken for a whole pair.
    _write(key, raw_key)
    _write(cert, raw_cert)
    _log.info("made a self-signed certificate", extra={"kv": fields | {"hosts": ",".join(hosts), "years": str(years)}})
    return str(cert), str(key)


def make_self_signed(hosts: Sequence[str], years: int) -> tuple[bytes, bytes]:
    """Certificate and key in PEM form, for these names and addresses."""
    key = ec.generate_private_key(ec.SECP521R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "raftkv")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + years * _YEAR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name_of(host) for host in hosts]), critical=False)
    certificate = builder.sign(key, hashes.SHA512())
    return (
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _is_expired(cert: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(cert.read_bytes())
    except ValueError:
        return False  # whoever loads it says what is wrong
    return certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and readable for this user alone."""
    part = path.with_name(f"{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
