"""`raftkv rebuild`: the operator's way back for a replica that diverged. The work is done in raftkv.server.rebuild."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raftkv.cli.arguments import Parser
from raftkv.cli.command import EXIT_OK
from raftkv.cli.progress import progress_bar
from raftkv.cli.tls import add_tls_flags, tls_for
from raftkv.config.errors import UsageError
from raftkv.config.urls import Url

if TYPE_CHECKING:
    from raftkv.server.rebuild import Rebuilt

_DESCRIPTION = """\
Replaces the store of a member by a fresh copy of another member's store.

For a member that stopped because its state differs from that of the others (its log says so, and the cluster raises
the alarm CORRUPT), or whose store is damaged while its log is sound. The member must not be running. It keeps its
log, its vote and its identity, so it comes back as the member that it was and forgets nothing that it promised. What is
missing since the copy it learns from the others. If the command is interrupted, run it again.

Afterwards: start the member as always, and clear the alarm with `etcdctl alarm disarm`.
"""


def _parser() -> Parser:
    parser = Parser(prog="raftkv rebuild", description=_DESCRIPTION)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="the member's data directory")
    parser.add_argument("--wal-dir", type=Path, metavar="DIR", help="its log, if it is started with --wal-dir")
    parser.add_argument(
        "--from", dest="source", metavar="URL", help="peer URL of another member, such as http://10.0.0.2:2380"
    )
    add_tls_flags(parser)
    return parser


def usage() -> str:
    return _parser().format_help()


def run(argv: Sequence[str]) -> int:
    """Blocks until the store is replaced. Raises StartError with what to do."""
    parser = _parser()
    arguments = parser.read(argv)
    if arguments is None:
        return EXIT_OK
    missing = [flag for flag, value in (("--data-dir", arguments.data_dir), ("--from", arguments.source)) if not value]
    if missing:
        parser.error(f"{' and '.join(missing)} must be given")
    url = _peer_url(arguments.source)
    tls = tls_for(url, arguments)
    wal_dir = arguments.wal_dir or arguments.data_dir / "member" / "wal"
    # Imported late: --help must not load a server.
    import uvloop

    from raftkv.server.rebuild import rebuild

    with progress_bar("fetching the store") as progress, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rebuilt = runner.run(rebuild(arguments.data_dir, wal_dir, str(url), progress, tls))
    sys.stdout.write(_report(rebuilt))
    return EXIT_OK


def _peer_url(text: str) -> Url:
    """Raises UsageError."""
    try:
        return Url.parse(text.rstrip("/"))
    except ValueError as error:
        raise UsageError(f"--from: {error}") from None


def _report(rebuilt: Rebuilt) -> str:
    replay = rebuilt.last.index - rebuilt.copy.index
    log = "Its log was kept."
    if rebuilt.log_restarted:
        log = f"Its log restarts behind entry {rebuilt.copy.index}."
    elif replay:
        log = f"Its log was kept; the next start applies {replay} more entr{'y' if replay == 1 else 'ies'} from it."
    return (
        f"Member {rebuilt.member_id:x} has the store of {rebuilt.peer_name} as of entry {rebuilt.copy.index}, "
        f"{rebuilt.size_bytes:,} bytes. {log}\n"
        "Start it now. If the cluster has raised CORRUPT, clear it when the member runs: etcdctl alarm disarm\n"
    )
