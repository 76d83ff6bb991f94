"""Certificates for tests: a CA, what it issues and revokes, as PEM files in a directory.

Owns making them, quickly: all keys are ECDSA P-256. Knows nothing of what is done with them.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SERVER_AUTH: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH: Final = ExtendedKeyUsageOID.CLIENT_AUTH
BOTH: Final = (SERVER_AUTH, CLIENT_AUTH)
LOCAL: Final = ("localhost", "127.0.0.1")
_DAY: Final = datetime.timedelta(days=1)


class Pair(NamedTuple):
    """A certificate with its key."""

    cert: Path
    key: Path
    serial: int


class Authority:
    """A CA. `ca` is the file that trusts it; `issue` may be called again with a name, and replaces the files."""

    def __init__(self, directory: Path, name: str = "ca", above: Authority | None = None) -> None:
        """`above`: whose subordinate it is; None: its own."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.ca = directory / f"{name}.pem"
        self.crl = directory / f"{name}.crl"
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"test {name}")
        signer = above or self
        self._cert = (
            _builder(subject, above._cert.subject if above else subject, self._key.public_key(), _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(signer._key, hashes.SHA256())
        )
        self.serial = self._cert.serial_number
        write(self.ca, self._cert.public_bytes(Encoding.PEM))

    def subordinate(self, name: str) -> Authority:
        """A CA below this one."""
        return Authority(self.directory / name, name, self)

    def issue(
        self,
        file: str,
        common_name: str = "",
        *,
        names: Sequence[str] = LOCAL,
        usages: Sequence[ObjectIdentifier] = BOTH,
        valid: datetime.timedelta = _DAY,
        password: bytes | None = None,
    ) -> Pair:
        """`<file>.pem` and `<file>.key`. names: of hosts and addresses; valid: less than 0 for one that is expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name), self._cert.subject, key.public_key(), valid)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), False)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pair = Pair(self.directory / f"{file}.pem", self.directory / f"{file}.key", certificate.serial_number)
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
        # The key first: whoever looks between the two sees a pair that does not fit, and the next look finds it whole.
        write(pair.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        write(pair.cert, certificate.public_bytes(Encoding.PEM))
        return pair

    def server(self, file: str = "server", **more: object) -> Pair:
        return self.issue(file, "server", **more)  # type: ignore[arg-type]  # as `issue` takes them

    def client(self, common_name: str, **more: object) -> Pair:
        """For a client that is called so; valid for no host."""
        return self.issue(f"client-{common_name}", common_name, names=(), usages=(CLIENT_AUTH,), **more)  # type: ignore[arg-type]

    def revoke(self, *serials: int, form: Encoding = Encoding.PEM) -> Path:
        """The revocation list, with these serial numbers and no others."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(self._cert.subject, now - _DAY, now + _DAY)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder(serial, now - _DAY).build()
            builder = builder.add_revoked_certificate(revoked)
        write(self.crl, builder.sign(self._key, hashes.SHA256()).public_bytes(form))
        return self.crl


def write(path: Path, content: bytes) -> None:
    """Replace a file as a careful program does: at no moment it is half there."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid) - _DAY)
        .not_valid_after(now + valid)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
