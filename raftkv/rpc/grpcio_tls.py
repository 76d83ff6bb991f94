"""TLS of the grpcio server: the same files and the same rules as our own, as far as grpcio goes.

Certificate, key and CA are read again when they change, as everywhere. What is decided after the handshake, who is
revoked and who has an allowed name, grpcio cannot ask anybody at that point: here it is decided call by call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from raftkv.rpc.tls_checks import Names, refusal

if TYPE_CHECKING:
    import grpc

    from raftkv.rpc.tls import Loaded, Tls

REMEMBERED: Final = 1024
"""Certificates whose verdict is kept. When full all are forgotten."""


class GrpcioTls:
    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._loaded = tls.loaded
        self._verdicts: dict[bytes, str | None] = {}

    def credentials(self) -> grpc.ServerCredentials:
        import grpc

        first = self._configuration()
        return grpc.dynamic_ssl_server_credentials(first, self._on_handshake, self._tls.settings.wants_client_cert)

    def refusal(self, auth_context: Mapping[str, Sequence[bytes]]) -> str | None:
        """Why the owner of a connection, as grpcio describes it, gets no answer; or None."""
        settings, loaded = self._tls.settings, self._tls.current()
        if not (loaded.revoked or settings.allowed_hostnames or settings.allowed_cns):
            return None
        self._renew(loaded)
        pem = next(iter(auth_context.get("x509_pem_cert", ())), b"")
        if pem not in self._verdicts:
            if len(self._verdicts) >= REMEMBERED:
                self._verdicts.clear()
            self._verdicts[pem] = self._judge(loaded, pem)
        return self._verdicts[pem]

    def _judge(self, loaded: Loaded, pem: bytes) -> str | None:
        if not pem:
            return None  # none was asked for
        certificate = x509.load_pem_x509_certificate(pem)
        return refusal(self._tls.settings, loaded, _names_in(certificate), [certificate.serial_number])

    def _renew(self, loaded: Loaded) -> bool:
        """Whether the files have changed; verdicts of earlier ones go."""
        if loaded is self._loaded:
            return False
        self._loaded = loaded
        self._verdicts.clear()
        return True

    def _on_handshake(self) -> grpc.ServerCertificateConfiguration | None:
        """None: as before."""
        return self._configuration() if self._renew(self._tls.current()) else None

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        settings = self._tls.settings
        pair = Path(settings.key_file).read_bytes(), Path(settings.cert_file).read_bytes()
        ca = Path(settings.ca_file).read_bytes() if settings.ca_file else None
        return grpc.ssl_server_certificate_configuration([pair], ca)


def _names_in(certificate: x509.Certificate) -> Names:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names(str(common[0].value) if common else "", (), ())
    dns: Any = names.get_values_for_type(x509.DNSName)
    addresses: Any = names.get_values_for_type(x509.IPAddress)
    return Names(
        str(common[0].value) if common else "",
        tuple(each.lower() for each in dns),
        tuple(str(each) for each in addresses),
    )
