"""TLS of one side of a server or client: its files, read again when they change, and the contexts made of them.

    tls = server_tls(settings)          raises TlsFilesError: nobody should start with files that cannot be used
    context = tls.current().context     for the next handshake (TLS-02)

Owns certificate, key, CA bundle and revocation list. A change that cannot be used leaves the last good ones in force
and is logged. Knows no sockets (`tls_layer`) and not who may connect (`tls_checks`).
"""

from __future__ import annotations

import datetime
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from raftkv.rpc.tls_names import ALPN_HTTP2, openssl_list

_log = logging.getLogger(__name__)

_VERSIONS: Final = {"TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}


class TlsFilesError(Exception):
    """A certificate, key, CA bundle or revocation list cannot be used.

    text: one sentence, which file and why. hint: what to do about it.
    """

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(f"{text}. {hint}")
        self.text = text
        self.hint = hint


class FileNames(NamedTuple):
    """How messages call the files: the flags that name them."""

    cert: str = "--cert-file"
    key: str = "--key-file"
    ca: str = "--trusted-ca-file"
    crl: str = "--client-crl-file"


class TlsSettings(NamedTuple):
    """What an operator says of one side. Paths may be empty: there is no such file."""

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    """Empty: whom the system trusts."""
    crl_file: str = ""
    """PEM or DER. Certificates with these serial numbers are refused (TLS-04)."""
    wants_client_cert: bool = False
    """A server's: clients without a certificate that can be verified are refused (TLS-03)."""
    allowed_cns: tuple[str, ...] = ()
    """The other side's certificate must have one of these common names; empty: any (TLS-05)."""
    allowed_hostnames: tuple[str, ...] = ()
    """... must be valid for one of these."""
    checks_address: bool = False
    """A server's: the client's address must be among the names in its certificate (TLS-06)."""
    trusts_anybody: bool = False
    """A client's: the server's certificate is not verified."""
    min_version: str = "TLS1.2"
    max_version: str = ""
    """Empty: the newest there is."""
    cipher_suites: tuple[str, ...] = ()
    """Go's names, known ones. Of TLS 1.2 alone."""
    alpn: tuple[str, ...] = (ALPN_HTTP2,)
    usages: tuple[str, ...] = ()
    """What the certificate is used for, `serverAuth` or `clientAuth`: one that forbids it is warned of (TLS-11)."""
    names: FileNames = FileNames()

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(each for each in (self.cert_file, self.key_file, self.ca_file, self.crl_file) if each)


class Loaded(NamedTuple):
    """All files of one side as they were at one moment."""

    context: ssl.SSLContext
    revoked: frozenset[int]
    """Serial numbers."""
    not_after_s: float | None
    """Unix time from which the own certificate is no longer valid; None without one."""
    serial: int | None
    """Of the own certificate."""
    ca_not_after_s: float | None
    """Unix time from which the first of the CA file's certificates is no longer valid; None without such a file."""
    crl_next_update_s: float | None
    """Unix time at which the revocation list says that it is out of date; it counts afterwards too. None if it does not
    say, or there is none."""


class Tls:
    """One side's files in use. Counters are plain attributes, for whoever shows them."""

    def __init__(self, settings: TlsSettings, make_context: Callable[[TlsSettings], ssl.SSLContext]) -> None:
        self.settings: Final = settings
        self._make_context: Final = make_context
        # Before the files are read: a change while we read is then seen as one.
        self._signature = _signature(settings)
        self._loaded = _load(settings, make_context)
        self.reloads = 0
        self.reload_failures = 0
        """Changes that could not be used."""

    @property
    def loaded(self) -> Loaded:
        """What is in force, without a look at the files."""
        return self._loaded

    def current(self) -> Loaded:
        """What the files say now, or the last that could be used. Costs a stat per file."""
        signature = _signature(self.settings)
        if signature != self._signature:
            self._signature = signature
            self._reload()
        return self._loaded

    def _reload(self) -> None:
        try:
            self._loaded = _load(self.settings, self._make_context)
        except TlsFilesError as failure:
            self.reload_failures += 1
            fields = {"problem": failure.text, "hint": failure.hint}
            _log.error("changed TLS files cannot be used; the ones read before stay in force", extra={"kv": fields})
            return
        self.reloads += 1
        fields = {"files": ",".join(self.settings.files)}
        if self._loaded.serial is not None:
            fields["serial"] = f"{self._loaded.serial:x}"
        _log.info("TLS files have changed and are in force", extra={"kv": fields})


def server_tls(settings: TlsSettings) -> Tls:
    """Raises TlsFilesError."""
    return Tls(settings, _server_context)


def client_tls(settings: TlsSettings) -> Tls:
    """Raises TlsFilesError."""
    return Tls(settings, _client_context)


def _signature(settings: TlsSettings) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_file_signature(path) for path in settings.files)


def _file_signature(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


# --- contexts ---------------------------------------------------------------------------------------------------------


def _load(settings: TlsSettings, make_context: Callable[[TlsSettings], ssl.SSLContext]) -> Loaded:
    certificate = _checked_pair(settings) if settings.cert_file else None
    context = make_context(settings)
    revoked, next_update_s = _read_crl(settings) if settings.crl_file else (frozenset[int](), None)
    not_after_s, serial = None, None
    if certificate is not None:
        not_after_s, serial = certificate.not_valid_after_utc.timestamp(), certificate.serial_number
    return Loaded(context, revoked, not_after_s, serial, _ca_not_after_s(context, settings), next_update_s)


def _ca_not_after_s(context: ssl.SSLContext, settings: TlsSettings) -> float | None:
    if not settings.ca_file:
        return None  # whom the system trusts is not this member's affair
    return min((ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()), default=None)


def _server_context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_up(context, settings)
    # A resumed session would skip the certificates; clients stay connected for hours, and a handshake is cheap enough.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    if settings.wants_client_cert:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, settings, ssl.Purpose.CLIENT_AUTH)
    return context


def _client_context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _set_up(context, settings)
    if settings.trusts_anybody:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.hostname_checks_common_name = False
        _trust(context, settings, ssl.Purpose.SERVER_AUTH)
    return context


def _set_up(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.minimum_version = _VERSIONS[settings.min_version]
    if settings.max_version:
        context.maximum_version = _VERSIONS[settings.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    # As in Go: whatever is in the CA file is trusted, also an intermediate CA without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    ciphers = openssl_list(settings.cipher_suites)
    if ciphers:
        context.set_ciphers(ciphers)
    context.set_alpn_protocols(settings.alpn)
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except (OSError, ssl.SSLError) as failure:
            raise TlsFilesError(
                f"{settings.names.cert} {settings.cert_file} and {settings.names.key} {settings.key_file} cannot be "
                f"used: {reason_of(failure)}",
                "Were they just being replaced? If not, check that they are a PEM certificate and its key",
            ) from failure


def _trust(context: ssl.SSLContext, settings: TlsSettings, purpose: ssl.Purpose) -> None:
    if not settings.ca_file:
        context.load_default_certs(purpose)
        return
    raw = _read(settings.names.ca, settings.ca_file)
    try:
        context.load_verify_locations(cadata=raw.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as failure:
        raise TlsFilesError(
            f"{settings.names.ca} {settings.ca_file} cannot be used: {reason_of(failure)}",
            "It must hold CA certificates in PEM form, one after the other",
        ) from failure


def reason_of(failure: Exception) -> str:
    """What OpenSSL says, without its addresses in the source."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return failure.verify_message
    if isinstance(failure, ssl.SSLError) and failure.reason:
        return failure.reason.lower().replace("_", " ")
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return str(failure) or type(failure).__name__


# --- files ------------------------------------------------------------------------------------------------------------


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as failure:
        raise TlsFilesError(
            f"{name} {path} cannot be read: {failure.strerror}", "Name a file that this user may read"
        ) from failure


def _checked_pair(settings: TlsSettings) -> x509.Certificate:
    """The certificate, once it is known that the key belongs to it: OpenSSL's own words would not say what is wrong."""
    names = settings.names
    try:
        certificate = x509.load_pem_x509_certificate(_read(names.cert, settings.cert_file))
    except ValueError as failure:
        raise TlsFilesError(
            f"{names.cert} {settings.cert_file} holds no certificate in PEM form",
            "It must begin with -----BEGIN CERTIFICATE-----",
        ) from failure
    raw_key = _read(names.key, settings.key_file)
    try:
        key = load_pem_private_key(raw_key, None)
    except TypeError as failure:
        raise TlsFilesError(
            f"{names.key} {settings.key_file} is encrypted, and nobody is there to type its passphrase",
            "Remove the passphrase: openssl pkey -in KEY -out NEW_KEY, and let only this user read the file",
        ) from failure
    except (ValueError, UnsupportedAlgorithm) as failure:
        raise TlsFilesError(
            f"{names.key} {settings.key_file} holds no private key in PEM form",
            "It must begin with a line like -----BEGIN PRIVATE KEY-----",
        ) from failure
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise TlsFilesError(
            f"{names.key} {settings.key_file} is not the key of {names.cert} {settings.cert_file}",
            "Give the key with which that certificate was requested, or request another one",
        )
    if certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        fields = {"flag": names.cert, "file": settings.cert_file, "since": str(certificate.not_valid_after_utc)}
        _log.warning("the certificate has expired; others will refuse it", extra={"kv": fields})
    _warn_of_usages(settings, certificate)
    return certificate


_USAGES: Final[dict[str, ObjectIdentifier]] = {
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
}


def _warn_of_usages(settings: TlsSettings, certificate: x509.Certificate) -> None:
    """TLS-11. Not an error: the other side may not look at it."""
    try:
        allowed = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return
    for usage in settings.usages:
        if _USAGES[usage] not in allowed and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in allowed:
            fields = {"flag": settings.names.cert, "file": settings.cert_file, "missing": usage}
            _log.warning(
                "the certificate's extended key usage forbids what it is used for; others may refuse it",
                extra={"kv": fields},
            )


def _read_crl(settings: TlsSettings) -> tuple[frozenset[int], float | None]:
    """Serial numbers, and when the next list is due."""
    raw = _read(settings.names.crl, settings.crl_file)
    try:
        crl = x509.load_pem_x509_crl(raw) if b"-----BEGIN" in raw else x509.load_der_x509_crl(raw)
        due = crl.next_update_utc
        return frozenset(each.serial_number for each in crl), None if due is None else due.timestamp()
    except ValueError as failure:
        raise TlsFilesError(
            f"{settings.names.crl} {settings.crl_file} holds no revocation list",
            "It must be a CRL in PEM or DER form, as a CA issues them",
        ) from failure
