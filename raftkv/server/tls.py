"""TLS of a member, made from its settings: for clients, for other members that call, for calling them, and for calling
the discovery service.

Owns which settings make which side (TLS-01 to TLS-11), and the certificates that a member makes for itself (TLS-08).
What a side does with its files is `raftkv.rpc.tls`'s.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.config import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from raftkv.config import Config, Discovery, TlsFiles, Url
    from raftkv.rpc.tls import FileNames, Tls, TlsSettings

_log = logging.getLogger(__name__)


class MemberTls(NamedTuple):
    """None: that side is plain text."""

    clients: Tls | None = None
    """For the client URLs, the HTTP URLs and the metrics URLs that are https."""
    peers: Tls | None = None
    """For the peer URLs."""
    to_peers: Tls | None = None
    """For calling other members. None: they are verified by whom the system trusts, if one is called over https."""


def load_tls(config: Config) -> MemberTls:
    """Raises StartError for files that cannot be used (TLS-01)."""
    client_urls = (*config.listen_client_urls, *config.listen_client_http_urls, *config.listen_metrics_urls)
    return MemberTls(
        _for_clients(config, client_urls) if _any_tls(client_urls) else None,
        _for_peers(config) if _any_tls(config.listen_peer_urls) else None,
        _to_peers(config),
    )


def _any_tls(urls: Iterable[Url]) -> bool:
    return any(url.is_tls for url in urls)


def _for_clients(config: Config, urls: Sequence[Url]) -> Tls:
    from raftkv.rpc.tls import FileNames, server_tls
    from raftkv.rpc.tls_names import ALPN_HTTP1, ALPN_HTTP2

    files = config.client_tls
    pair = _own_pair(config, files, "client", urls)
    settings = _settings(config, files, pair, FileNames())._replace(
        wants_client_cert=files.wants_client_cert, alpn=(ALPN_HTTP2, ALPN_HTTP1), usages=("serverAuth",)
    )
    return _made(lambda: server_tls(settings))


def _for_peers(config: Config) -> Tls:
    from raftkv.rpc.tls import server_tls

    files = config.peer_tls
    settings = _settings(
        config, files, _own_pair(config, files, "peer", config.listen_peer_urls), _peer_names("")
    )._replace(
        wants_client_cert=files.wants_client_cert,
        checks_address=not files.skip_client_san_verification,
        usages=("serverAuth",),
    )
    return _made(lambda: server_tls(settings))


def _to_peers(config: Config) -> Tls | None:
    files = config.peer_tls
    listens = _any_tls(config.listen_peer_urls)
    certain = listens or any(_any_tls(urls) for urls in config.initial_cluster.values())
    if not certain and not (files.cert_file or files.trusted_ca_file):
        return None
    from raftkv.rpc.tls import client_tls

    if files.client_cert_file:
        pair, names = (files.client_cert_file, files.client_key_file), _peer_names("client-")
    elif listens:
        pair, names = _own_pair(config, files, "peer", config.listen_peer_urls), _peer_names("")
    else:
        pair, names = (files.cert_file, files.key_file), _peer_names("")
    settings = _settings(config, files, pair, names)._replace(
        # As etcd does: who makes its own certificates cannot know those of the others.
        trusts_anybody=files.auto_tls and not files.cert_file,
        usages=("clientAuth",),
    )
    try:
        return _made(lambda: client_tls(settings))
    except StartError as failure:
        if certain:
            raise
        _log.warning("TLS settings for other members cannot be used", extra={"kv": {"problem": failure.text}})
        return None


def to_discovery(discovery: Discovery) -> Tls:
    """For calling the discovery service over https (F-74). Raises StartError for files that cannot be used."""
    from raftkv.rpc.tls import FileNames, TlsSettings, client_tls

    settings = TlsSettings(
        discovery.cert_file,
        discovery.key_file,
        ca_file=discovery.cacert_file,
        trusts_anybody=discovery.insecure_skip_tls_verify,
        usages=("clientAuth",),
        names=FileNames("--discovery-cert", "--discovery-key", "--discovery-cacert", ""),
    )
    return _made(lambda: client_tls(settings))


def _peer_names(which: str) -> FileNames:
    from raftkv.rpc.tls import FileNames

    return FileNames(f"--peer-{which}cert-file", f"--peer-{which}key-file", "--peer-trusted-ca-file", "--peer-crl-file")


def _settings(config: Config, files: TlsFiles, pair: tuple[str, str], names: FileNames) -> TlsSettings:
    from raftkv.rpc.tls import TlsSettings

    return TlsSettings(
        *pair,
        ca_file=files.trusted_ca_file,
        crl_file=files.crl_file,
        allowed_cns=files.allowed_cns,
        allowed_hostnames=files.allowed_hostnames,
        min_version=config.tls_min_version,
        max_version=config.tls_max_version,
        cipher_suites=config.cipher_suites,
        names=names,
    )


def _made(make: Callable[[], Tls]) -> Tls:
    from raftkv.rpc.tls import TlsFilesError

    try:
        return make()
    except TlsFilesError as failure:
        raise StartError(failure.text, failure.hint) from failure


# --- certificates of one's own ----------------------------------------------------------------------------------------

FIXTURES: Final = "fixtures"
"""Directory below the data directory, as in etcd."""


def _own_pair(config: Config, files: TlsFiles, side: str, urls: Sequence[Url]) -> tuple[str, str]:
    """The files given; or, with --auto-tls, those made now or at an earlier start (TLS-08)."""
    if files.cert_file or not files.auto_tls:
        return files.cert_file, files.key_file
    from raftkv.server.self_signed import keep_self_signed

    directory: Path = config.data_dir / FIXTURES / side
    hosts = sorted({url.host for url in urls if url.is_tls and url.host})
    try:
        return keep_self_signed(directory, hosts, config.self_signed_cert_validity_years)
    except OSError as failure:
        flag = "--peer-auto-tls" if side == "peer" else "--auto-tls"
        raise StartError(
            f"{flag}: a certificate cannot be kept in {directory}: {failure.strerror}",
            "Make the data directory writable for this user, or give certificate files",
        ) from failure
