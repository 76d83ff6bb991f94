"""`raftkv snapshot`: backups. Owns what is read and said; the work is done in raftkv.server.backup and .restore."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftkv.cli.arguments import Parser
from raftkv.cli.command import EXIT_OK
from raftkv.cli.local.table import size_text
from raftkv.cli.progress import progress_bar
from raftkv.cli.tls import add_tls_flags, given_tls_flags, tls_for
from raftkv.config.errors import StartError, UsageError
from raftkv.config.urls import Url, with_scheme

if TYPE_CHECKING:
    from raftkv.server.backup import Credentials, SavedOffline, SnapshotStatus
    from raftkv.server.restore import Restored

DEFAULT_ENDPOINT: Final = "127.0.0.1:2379"

_DESCRIPTION = """\
Backs up a store, looks into a backup, and makes a new member from one.

A backup of a running cluster, and a cluster of three members made from it:
  raftkv snapshot save backup.db --endpoints=10.0.0.1:2379
  raftkv snapshot status backup.db
  raftkv snapshot restore backup.db --name=m1 --data-dir=/var/lib/raftkv \\
      --initial-cluster=m1=http://10.0.1.1:2380,m2=http://10.0.1.2:2380,m3=http://10.0.1.3:2380 \\
      --initial-cluster-token=after-the-fire --initial-advertise-peer-urls=http://10.0.1.1:2380
  ... the same on the other two machines with their own --name and URL, then `raftkv serve` on all three.

`etcdctl snapshot save` makes the same files. Snapshots of etcd itself have another format and cannot be restored here.
"""
_SAVE = """\
Writes the store to FILE, with a SHA-256 at its end: as it is at one moment, while the cluster goes on.

One member is asked, any of them, and gives what it has applied. FILE is written as FILE.part and gets its name when all
of it is there, verified and on disk; an older FILE stays until then. If authentication is on, the user root is needed.

With --data-dir, of a member that does not run: its data directory is opened as the next start would open it, so what a
crash has left only in its log is in the snapshot as well, if it is known to be committed. Of a cluster whose majority
runs, ask a running member instead: it knows more.
"""
_STATUS = """\
Verifies a snapshot, and says what is in it: a hash of the content, the revision, how many keys are alive, the size, and
the version of the storage format. In a pipe: one line, separated by commas, as etcdutl prints it. With -w json: its
field names.

A file without a SHA-256 at its end is a plain copy of a data file. It is read as far as it can be, and that is said: a
backup should be made with `snapshot save`.
"""
_HASHKV = """\
Verifies a snapshot, and prints one number for all keys and revisions in it, the revision that it is of, and the compact
revision (-1: never compacted). Members print the same for the same history: `etcdctl endpoint hashkv --rev=N`.
"""
_RESTORE = """\
Makes the data directory of one member of a new cluster from FILE. Run it once for each member, with the same FILE, the
same --initial-cluster and the same --initial-cluster-token; then start all of them with `raftkv serve`.

All keys with their revisions, leases, alarms and users stay. Members and ids are new. Nothing is ever written over:
--data-dir must be empty or not exist. Give a token that was not used before, so that members of the old cluster that
are still about cannot be taken for members of the new one.

Clients that have cached what they read (Kubernetes' controllers, for one) must learn that the past has changed. With
--bump-revision=1000000000 --mark-compacted revisions do not go back, every read or watch from an older one is told that
it was compacted, and the client lists anew.
"""


def _parser() -> Parser:
    parser = Parser(prog="raftkv snapshot", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")

    def add(name: str, help_: str, description: str) -> Parser:
        verb = verbs.add_parser(name, help=help_, description=description)
        verb.add_argument("file", metavar="FILE", type=Path, help="the snapshot")
        return verb

    save = add("save", "back up the store of a member, running or stopped", _SAVE)
    save.add_argument("--endpoints", metavar="URL", help=f"client URL of one member ({DEFAULT_ENDPOINT})")
    save.add_argument("--user", metavar="NAME[:PASSWORD]", help="whom to authenticate as; asks for what is missing")
    save.add_argument("--password", help="of the user")
    add_tls_flags(save)
    save.add_argument("--data-dir", type=Path, metavar="DIR", help="data directory of a stopped member instead")
    save.add_argument("--wal-dir", type=Path, metavar="DIR", help="its log, if it is started with --wal-dir")
    status = add("status", "verify a snapshot and say what is in it", _STATUS)
    help_ = "simple, table or json (table on a terminal, else simple)"
    status.add_argument("-w", "-o", "--write-out", "--output", dest="output", choices=tuple(_PRINTERS), help=help_)
    hashkv = add("hashkv", "print the HashKV of a snapshot, to compare with that of members", _HASHKV)
    hashkv.add_argument("--rev", type=_revisions, default=0, metavar="N", help="revision to hash at (the newest)")
    hashkv.add_argument(
        "-w", "-o", "--write-out", "--output", dest="output", choices=("simple", "json"), help="(simple)"
    )
    _add_restore_flags(add("restore", "make a member of a new cluster from a snapshot", _RESTORE))
    return parser


_MEMBER_FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "data-dir": ("DIR", "where the member's data will be (NAME.etcd)"),
    "wal-dir": ("DIR", "where its log will be, if not in --data-dir; must not exist"),
    "name": ("NAME", "of this member (default)"),
    "initial-cluster": ("NAME=URL,...", "peer URLs of all members of the new cluster (this member alone)"),
    "initial-cluster-token": ("TEXT", "the same for all members, and new (etcd-cluster)"),
    "initial-advertise-peer-urls": ("URL,...", "peer URLs of this member, as in --initial-cluster"),
}
"""Flags of `serve` that say who a new member is."""


def _add_restore_flags(restore: Parser) -> None:
    for flag, (metavar, help_) in _MEMBER_FLAGS.items():
        restore.add_argument(f"--{flag}", metavar=metavar, help=help_)
    skip = "do not compare with the SHA-256 at the end; for copies of a data file, which have none"
    restore.add_argument("--skip-hash-check", action="store_true", help=skip)
    bump = "add so much to the newest revision; more than there were writes since the snapshot"
    restore.add_argument("--bump-revision", type=_revisions, default=0, metavar="N", help=bump)
    mark = "refuse reads and watches from before that revision; goes together with --bump-revision"
    restore.add_argument("--mark-compacted", action="store_true", help=mark)


def _revisions(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of revisions")
    return int(text)


def usage() -> str:
    return _parser().format_help()


def run(argv: Sequence[str]) -> int:
    """The exit code. Raises StartError with what to do."""
    arguments = _parser().read_verb(argv)
    if isinstance(arguments, int):
        return arguments
    _VERBS[arguments.verb](arguments)
    return EXIT_OK


@contextmanager
def _explained(failed: str, hint: str = "") -> Iterator[None]:
    """What the rooms below raise, in words for the person who typed the command."""
    from raftkv.backend import BackendError
    from raftkv.wal import WalError

    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as failure:
        raise StartError(f"{failed}: {failure}", hint) from failure
    except (BackendError, WalError) as failure:
        raise StartError(str(failure), hint) from failure


# --- save -------------------------------------------------------------------------------------------------------------


def _save(arguments: argparse.Namespace) -> None:
    online = [f"--{flag}" for flag in ("endpoints", "user", "password") if getattr(arguments, flag) is not None]
    online += given_tls_flags(arguments)
    if arguments.data_dir is None:
        if arguments.wal_dir is not None:
            raise UsageError("--wal-dir goes with --data-dir")
        _save_online(arguments)
    elif online:
        raise UsageError(f"--data-dir is for a member that does not run, {online[0]} for one that runs", "Give one")
    else:
        _save_offline(arguments)


def _save_online(arguments: argparse.Namespace) -> None:
    url = _endpoint(arguments.endpoints or DEFAULT_ENDPOINT, "https" if given_tls_flags(arguments) else "http")
    tls = tls_for(url, arguments)
    credentials = _credentials(arguments)
    # Imported late: --help must not load a server.
    import uvloop

    from raftkv.rpc.codes import RpcError
    from raftkv.server.backup import save_online

    with (
        _explained(f"the snapshot could not be written to {arguments.file}", "Nothing was left behind"),
        progress_bar("saving") as progress,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            saving = save_online(url.host, url.port, arguments.file, credentials, progress, tls=tls, socket=url.path)
            size_bytes = runner.run(saving)
        except RpcError as failure:
            raise _refused(url, failure) from failure
    _say(f"Snapshot saved at {arguments.file}: {size_bytes:,} bytes, the SHA-256 matches.")


def _refused(url: Url, failure: Exception) -> StartError:
    from raftkv.rpc.codes import Code, RpcError

    assert isinstance(failure, RpcError)
    auth = "With authentication on, snapshots are for the user root: --user root"
    hints = {
        Code.UNAVAILABLE: "Is it the client URL (port 2379 by default) of a member that runs, and is it http or https?",
        Code.UNAUTHENTICATED: auth,
        Code.PERMISSION_DENIED: auth,
        Code.INVALID_ARGUMENT: auth,
        Code.FAILED_PRECONDITION: "If authentication is off, leave --user away",
    }
    hint = (
        auth if failure.text.startswith("auth: ") else hints.get(failure.code, "")
    )  # etcd's code for these is UNKNOWN
    return StartError(f"no snapshot can be had from {url.address}: {failure.text}", hint)


def _endpoint(text: str, scheme: str) -> Url:
    """`scheme`: of an address without one. Raises UsageError."""
    if "," in text:
        raise UsageError("--endpoints: a snapshot is taken of one member", "Name one of them")
    try:
        url = Url.parse(with_scheme(text, scheme).rstrip("/"))
    except ValueError as error:
        raise UsageError(f"--endpoints: {error}") from None
    return url


def _credentials(arguments: argparse.Namespace) -> Credentials | None:
    """Raises UsageError."""
    from raftkv.server.backup import Credentials

    if arguments.user is None:
        if arguments.password is not None:
            raise UsageError("--password goes with --user")
        return None
    name, colon, password = arguments.user.partition(":")
    if arguments.password is not None:
        return Credentials(arguments.user, arguments.password)
    if not colon:
        if not sys.stdin.isatty():
            raise UsageError("--user: the password is missing", f"Write --user {name}:PASSWORD, or --password")
        password = getpass.getpass("Password: ")
    return Credentials(name, password)


def _save_offline(arguments: argparse.Namespace) -> None:
    from raftkv.server.backup import save_offline

    with (
        _explained(f"the snapshot could not be written to {arguments.file}"),
        progress_bar("saving") as progress,
    ):
        saved = save_offline(arguments.data_dir, arguments.wal_dir, arguments.file, progress)
    _say(_describe_offline(arguments.file, saved))


def _describe_offline(file: Path, saved: SavedOffline) -> str:
    text = f"Snapshot saved at {file}: {saved.size_bytes:,} bytes, up to entry {saved.applied} of the log."
    if saved.replayed:
        text += f"\n{_entries(saved.replayed)} that only the log had went into the store first."
    if saved.left_out:
        text += (
            f"\n{_entries(saved.left_out)} at the end of the log left out: this member does not know whether "
            "they were committed. A snapshot of a running member has what was."
        )
    return text


def _entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"


# --- status -----------------------------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> None:
    from raftkv.server.backup import snapshot_status

    with _explained(f"{arguments.file} cannot be read"):
        with progress_bar("verifying") as progress:
            status = snapshot_status(arguments.file, progress)
        if not status.verified:
            sys.stderr.write(
                "raftkv: there is no checksum at the end of this file: it could be read, but nothing tells whether it "
                "is what was written\n"
            )
        _PRINTERS[arguments.output or ("table" if sys.stdout.isatty() else "simple")](status)


def _print_simple(status: SnapshotStatus) -> None:
    """As etcdutl does."""
    _say(f"{status.hash:x}, {status.revision}, {status.total_keys}, {size_text(status.size_bytes)}, {status.version}")


def _print_json(status: SnapshotStatus) -> None:
    """etcdutl's names."""
    fields = {
        "hash": status.hash,
        "revision": status.revision,
        "totalKey": status.total_keys,
        "totalSize": status.size_bytes,
        "version": status.version,
    }
    _say(_as_json(fields))


def _as_json(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _print_table(status: SnapshotStatus) -> None:
    from rich.box import ASCII
    from rich.console import Console
    from rich.table import Table

    table = Table(box=ASCII, show_edge=False)
    cells = {
        "HASH": f"{status.hash:x}",
        "REVISION": str(status.revision),
        "COMPACTED": str(status.compacted_revision) if status.compacted_revision >= 0 else "never",
        "TOTAL KEYS": str(status.total_keys),
        "TOTAL SIZE": size_text(status.size_bytes),
        "VERSION": status.version,
        "SHA-256": "matches" if status.verified else "none",
    }
    for heading in cells:
        table.add_column(heading, justify="right")
    table.add_row(*cells.values())
    Console().print(table)


_PRINTERS: Final[Mapping[str, Callable[[SnapshotStatus], None]]] = {
    "simple": _print_simple,
    "table": _print_table,
    "json": _print_json,
}


def _hashkv(arguments: argparse.Namespace) -> None:
    from raftkv.mvcc import MvccError
    from raftkv.server.backup import snapshot_hash

    with _explained(f"{arguments.file} cannot be read"), progress_bar("verifying") as progress:
        try:
            result = snapshot_hash(arguments.file, arguments.rev, progress)
        except MvccError as refusal:
            raise StartError(f"{arguments.file} cannot be hashed at revision {arguments.rev}: {refusal}") from refusal
    fields = {
        "hash": result.hash,
        "hashRevision": result.hash_revision,
        "compactRevision": result.compact_revision,
    }
    _say(_as_json(fields) if arguments.output == "json" else ", ".join(map(str, fields.values())))


# --- restore ----------------------------------------------------------------------------------------------------------


def _restore(arguments: argparse.Namespace) -> None:
    if bool(arguments.bump_revision) != arguments.mark_compacted:
        raise UsageError(
            "--bump-revision and --mark-compacted go together",
            "With only one of them, clients would go on with what they have cached; give both, or none",
        )
    from raftkv.config import load
    from raftkv.server.restore import restore

    given = {flag: getattr(arguments, flag.replace("-", "_")) for flag in _MEMBER_FLAGS}
    config = load([f"--{flag}={value}" for flag, value in given.items() if value is not None], {})
    with (
        _explained(f"{config.data_dir} could not be made from {arguments.file}", "Nothing was left behind"),
        progress_bar("restoring") as progress,
    ):
        restored = restore(
            config,
            arguments.file,
            skip_hash_check=arguments.skip_hash_check,
            bump=arguments.bump_revision,
            progress=progress,
        )
    _say(_describe_restored(config.data_dir, config.name, restored))


def _describe_restored(data_dir: Path, name: str, restored: Restored) -> str:
    compacted = f", compacted at {restored.compacted_revision}" if restored.compacted_revision >= 0 else ""
    size = len(restored.members)
    place = "its only member" if size == 1 else f"one of {size}"
    identity = f"member {restored.member_id:x} ({name}) of cluster {restored.cluster_id:x}"
    lines = [f"{data_dir} is now {identity}, {place}, at revision {restored.revision}{compacted}."]
    if restored.same_cluster:
        lines.append(
            "The snapshot comes from a cluster with the same id. Make sure that no member of that one runs any more, "
            "or restore all members with another --initial-cluster-token."
        )
    others = "" if size == 1 else "Restore the others from the same file, then start them all. "
    lines.append(f"{others}Start it: raftkv serve --name={name} --data-dir={data_dir} ...")
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


_VERBS: Final[Mapping[str, Callable[[argparse.Namespace], None]]] = {
    "save": _save,
    "status": _status,
    "hashkv": _hashkv,
    "restore": _restore,
}
