"""Whether the owner of a certificate that was verified may connect: revoked, named right, calling from its address.

Rules TLS-04 to TLS-06, decided after the handshake, as etcd does. Owns reading the other side's certificate; the only
thing that may take time is asking the name service, which a thread does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import sys
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509

from raftkv.rpc.tls import Loaded, TlsSettings
from raftkv.rpc.tls_names import common_name_in

Verdict = str | None | Awaitable[str | None]
"""Why the connection is refused, or None; or, when the name service has to be asked, that later."""

_WILDCARD: Final = "*."


class Names(NamedTuple):
    """Whom a certificate speaks for."""

    common_name: str
    dns: tuple[str, ...]
    """Lower case, `*.` in front for a wildcard."""
    addresses: tuple[str, ...]
    """In their usual form."""

    def fit(self, host: str) -> bool:
        """Whether the certificate is valid for a host name or address. The common name does not count, as in Go."""
        address = _address(host)
        if address is not None:
            return address in self.addresses
        host = host.lower().rstrip(".")
        return any(_fits_pattern(pattern, host) for pattern in self.dns)


def names_in(certificate: dict[str, Any]) -> Names:
    """Of a certificate as `SSLObject.getpeercert` describes it."""
    alternatives: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    return Names(
        common_name_in(certificate) or "",
        tuple(value.lower() for kind, value in alternatives if kind == "DNS"),
        tuple(_address(value.strip()) or value for kind, value in alternatives if kind == "IP Address"),
    )


def judge(settings: TlsSettings, loaded: Loaded, session: ssl.SSLObject, remote: str) -> Verdict:
    """`remote`: the address of a client whose certificate has to tell it; empty: there is none, or it need not."""
    certificate = session.getpeercert()
    if not certificate:
        return None  # none was asked for
    names = names_in(certificate)
    try:
        serials = _serials(session) if loaded.revoked else ()
    except ValueError as failure:  # OpenSSL takes what a stricter parser does not
        return f"the certificate cannot be read: {failure}"
    why = refusal(settings, loaded, names, serials)
    if why is None and settings.checks_address and remote:
        return _judge_address(names, remote)
    return why


def refusal(settings: TlsSettings, loaded: Loaded, names: Names, serials: Iterable[int]) -> str | None:
    """What needs no question to anybody. `serials`: of the certificate and those above it."""
    revoked = loaded.revoked.intersection(serials)
    if revoked:
        return f"the certificate with serial number {min(revoked):x} is revoked"
    if settings.allowed_cns and names.common_name not in settings.allowed_cns:
        return f"the certificate's common name {names.common_name!r} is not among those allowed"
    if settings.allowed_hostnames and not any(names.fit(each) for each in settings.allowed_hostnames):
        return "the certificate is for none of the host names allowed"
    return None


def _judge_address(names: Names, remote: str) -> Verdict:
    """TLS-06. A certificate that names no host at all tells nothing, and passes."""
    if not names.dns and not names.addresses:
        return None
    address = _address(remote) or remote
    if address in names.addresses:
        return None
    if names.dns:
        return _judge_by_name(names.dns, address)
    return f"the certificate is not for {address}, from where the connection comes"


async def _judge_by_name(names: Sequence[str], address: str) -> str | None:
    found = await asyncio.get_running_loop().run_in_executor(None, _is_one_of, names, address)
    return None if found else f"none of the certificate's names leads to {address}, from where the connection comes"


def _is_one_of(names: Sequence[str], address: str) -> bool:
    """In a thread: whether the name service knows the address by one of these names, or a name by that address."""
    try:
        name, aliases, _ = socket.gethostbyaddr(address)
    except OSError:
        pass
    else:
        known = [each.lower().rstrip(".") for each in (name, *aliases)]
        if any(_fits_suffix(pattern, each) for pattern in names for each in known):
            return True
    for pattern in names:
        if pattern.startswith(_WILDCARD):
            continue
        try:
            found = socket.getaddrinfo(pattern, None, type=socket.SOCK_STREAM)
        except OSError:
            continue
        if any(_address(str(each[4][0])) == address for each in found):
            return True
    return False


def _fits_suffix(pattern: str, name: str) -> bool:
    """As etcd compares names of callers: a wildcard stands for any number of labels."""
    return name.endswith(pattern[1:]) if pattern.startswith(_WILDCARD) else name == pattern


def _fits_pattern(pattern: str, host: str) -> bool:
    """RFC 6125: a wildcard stands for exactly one label."""
    if pattern.startswith(_WILDCARD):
        _, dot, rest = host.partition(".")
        return bool(dot) and rest == pattern[2:]
    return host == pattern


def _address(text: str) -> str | None:
    """The usual form of an IP address; an IPv4 address that came through IPv6 is one. None: it is a name."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _serials(session: ssl.SSLObject) -> Sequence[int]:
    """Of the whole chain: an intermediate CA may be revoked as well. Raises ValueError."""
    if sys.version_info >= (3, 13):
        chain = session.get_verified_chain()
    else:
        inner: Any = session._sslobj  # type: ignore[attr-defined]  # noqa: SLF001  # public from Python 3.13 on
        chain = [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in inner.get_verified_chain()]
    return [x509.load_der_x509_certificate(each).serial_number for each in chain]
