"""TLS flags of commands that call a member, under etcdctl's names."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from raftkv.config.errors import StartError, UsageError

if TYPE_CHECKING:
    from raftkv.cli.arguments import Parser
    from raftkv.config.urls import Url
    from raftkv.rpc.tls import Tls

FLAGS: Final = ("cacert", "cert", "key", "insecure_skip_tls_verify")
"""As they are called in the parsed arguments."""


def add_tls_flags(parser: Parser) -> None:
    parser.add_argument(
        "--cacert", metavar="FILE", help="CA that the member's certificate must come from (the system's)"
    )
    parser.add_argument("--cert", metavar="FILE", help="certificate to show to the member")
    parser.add_argument("--key", metavar="FILE", help="key of that certificate")
    skip = "take any certificate of the member; for tests, it protects from nobody who is in between"
    parser.add_argument("--insecure-skip-tls-verify", action="store_true", help=skip)


def given_tls_flags(arguments: argparse.Namespace) -> list[str]:
    """As they were typed."""
    return [f"--{name.replace('_', '-')}" for name in FLAGS if getattr(arguments, name)]


def tls_for(url: Url, arguments: argparse.Namespace) -> Tls | None:
    """None for a URL that is not TLS. Raises UsageError, and StartError for files that cannot be used."""
    given = given_tls_flags(arguments)
    if not url.is_tls:
        if given:
            raise UsageError(f"{given[0]} goes with an https:// URL, not with {url}")
        return None
    if bool(arguments.cert) != bool(arguments.key):
        raise UsageError("one of --cert and --key is given without the other", "Give both")
    # Imported late: --help must not load a server.
    from raftkv.rpc.tls import FileNames, TlsFilesError, TlsSettings, client_tls

    settings = TlsSettings(
        cert_file=arguments.cert or "",
        key_file=arguments.key or "",
        ca_file=arguments.cacert or "",
        trusts_anybody=arguments.insecure_skip_tls_verify,
        names=FileNames("--cert", "--key", "--cacert"),
    )
    try:
        return client_tls(settings)
    except TlsFilesError as failure:
        raise StartError(failure.text, failure.hint) from failure
