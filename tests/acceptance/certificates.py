"""A certificate authority for the tests, members that serve over TLS, and channels that show a certificate.

Owns keys and certificates of an hour. Knows nothing of users.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from helpers.processes import Server

_LOCAL: Final = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
_USAGES: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


class Pair(NamedTuple):
    """Files in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates for this machine, each with a common name of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority")
        signed = _unsigned(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.certificate = directory / "authority.crt"
        self.certificate.write_bytes(_pem(signed.sign(self._key, hashes.SHA256())))

    def issue(self, common_name: str) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(_name(common_name), self._name, key.public_key())
        for extension in (_LOCAL, _USAGES):
            unsigned = unsigned.add_extension(extension, critical=False)
        pair = Pair(self._directory / f"{common_name}.crt", self._directory / f"{common_name}.key")
        pair.certificate.write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def channel(self, endpoint: str, pair: Pair) -> grpc.Channel:
        """Trusts this authority and shows the pair's certificate."""
        credentials = grpc.ssl_channel_credentials(
            self.certificate.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes()
        )
        # Channels with equal options would share a connection, and with it the first one's certificate.
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200))
        return grpc.secure_channel(endpoint, credentials, options)


class TlsServer(Server):
    """A member whose client URLs are https. `start` would ask it in plain text: use `spawn` and ask it yourself."""

    def command(self, extra_flags: Sequence[str] = ()) -> list[str]:
        return [
            word.replace(f"http://{self.endpoint}", f"https://{self.endpoint}") for word in super().command(extra_flags)
        ]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
