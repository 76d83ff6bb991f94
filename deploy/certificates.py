"""Certificates for a cluster: an authority, and a pair for each member and client, in PEM.

    python certificates.py DIRECTORY node1=node1,node1.example,10.0.0.1 node2=... client

makes DIRECTORY/ca with the authority's own pair, and for each word DIRECTORY/<name> with ca.pem, cert.pem and key.pem.
After `=` stand the names and addresses under which others reach it; a client needs none. What is there and still good
is kept: run it again to renew what ends within a month, or to add members. A running raftkv takes new files by itself.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA: Final = "ca"
_AUTHORITY_LIFE: Final = datetime.timedelta(days=3650)
_LIFE: Final = datetime.timedelta(days=365)
_RENEW_BEFORE: Final = datetime.timedelta(days=30)
_CLOCK_SKEW: Final = datetime.timedelta(hours=1)


class Pair(NamedTuple):
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Holder(NamedTuple):
    """Who gets a certificate. `name`: its common name and its directory. `hosts`: its subject alternative names."""

    name: str
    hosts: tuple[str, ...]

    @classmethod
    def parse(cls, word: str) -> Holder:
        name, _, hosts = word.partition("=")
        if not name or name == CA or "/" in name or name.startswith("."):
            raise argparse.ArgumentTypeError(f"{name!r} cannot be a name: it becomes a directory beside {CA!r}")
        return cls(name, tuple(host for host in hosts.split(",") if host))

    def alternative_names(self) -> x509.SubjectAlternativeName:
        return x509.SubjectAlternativeName([_general_name(host) for host in self.hosts])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("holders", type=Holder.parse, nargs="+", metavar="NAME[=HOST,...]")
    parser.add_argument("--owner", type=int, help="numeric user and group that the holders' files are given to")
    options = parser.parse_args(argv)
    try:
        authority = _kept_authority(options.directory / CA)
        for holder in options.holders:
            _keep(options.directory / holder.name, holder, authority, options.owner)
    except (OSError, ValueError) as failure:
        sys.stderr.write(f"certificates: {failure}\n")
        return 1
    return 0


def _kept_authority(directory: Path) -> Pair:
    """The pair that is there, or a new one. A directory with one file of the two is refused: nobody knows why."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    if cert.exists() != key.exists():
        raise ValueError(f"{directory} has only one of cert.pem and key.pem; put the other back, or remove it")
    if cert.exists():
        return Pair(x509.load_pem_x509_certificate(cert.read_bytes()), _private(key.read_bytes()))
    made = _sign("raftkv authority", None, _AUTHORITY_LIFE, x509.BasicConstraints(ca=True, path_length=0))
    _write(directory, made, None)
    _say(f"made an authority in {directory}")
    return made


def _keep(directory: Path, holder: Holder, authority: Pair, owner: int | None) -> None:
    if _is_good(directory / "cert.pem", directory / "key.pem", holder, authority):
        _say(f"kept the certificate of {holder.name}")
        return
    made = _sign(holder.name, authority, _LIFE, x509.BasicConstraints(ca=False, path_length=None), holder)
    # Before the pair: whoever sees the new certificate must be able to judge it.
    _write_file(directory, "ca.pem", authority.cert.public_bytes(Encoding.PEM), owner)
    _write(directory, made, owner)
    _say(f"made a certificate for {holder.name}: {', '.join(holder.hosts) or 'a client'}")


def _is_good(cert_file: Path, key_file: Path, holder: Holder, authority: Pair) -> bool:
    if not cert_file.exists() or not key_file.exists():
        return False
    cert = x509.load_pem_x509_certificate(cert_file.read_bytes())
    try:
        cert.verify_directly_issued_by(authority.cert)
        names = list(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    except (InvalidSignature, TypeError, ValueError):
        return False  # it is another authority's
    ends_in = cert.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return ends_in > _RENEW_BEFORE and names == list(holder.alternative_names())


def _sign(
    name: str,
    authority: Pair | None,
    life: datetime.timedelta,
    constraints: x509.BasicConstraints,
    holder: Holder | None = None,
) -> Pair:
    """A new key, and a certificate for it; without an authority it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.cert.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if authority is not None:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        # Both: a member serves the others and calls them with the same pair.
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(issuer, critical=False).add_extension(usages, critical=False)
    if holder is not None and holder.hosts:
        builder = builder.add_extension(holder.alternative_names(), critical=False)
    return Pair(builder.sign(authority.key if authority else key, hashes.SHA256()), key)


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not of an elliptic curve, as those made here are")
    return key


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(directory: Path, pair: Pair, owner: int | None) -> None:
    key = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # The certificate last: one without its key would be taken for a whole pair.
    _write_file(directory, "key.pem", key, owner)
    _write_file(directory, "cert.pem", pair.cert.public_bytes(Encoding.PEM), owner)


def _write_file(directory: Path, name: str, content: bytes, owner: int | None) -> None:
    """Whole or not at all, and readable for its owner alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = directory / f".{name}.part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)
        file.write(content)
    part.rename(directory / name)


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
