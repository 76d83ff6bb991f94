"""Taking a snapshot of a store, of a running member or a stopped one, and saying what is in it (MT-10 to MT-14, CT-21).

Of a running member, any client can take one. A stopped one is opened as its next start would open it, because its store
alone may lag behind: what a killed process had not committed is in the log only, and what a power cut tore is put back.
Changes nothing else, and never the file until a whole one can take its place.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from raftkv.backend import Meta
from raftkv.backend.saved_store import SavedStore, check_by_reading
from raftkv.backend.snapshot_file import PIECE_BYTES, SnapshotWriter, open_snapshot, verify_snapshot
from raftkv.config import StartError, load
from raftkv.mvcc import Store
from raftkv.pb import rpc_pb2
from raftkv.raft import EntryType
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code, RpcError
from raftkv.server.bootstrap import boot
from raftkv.server.login import log_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from raftkv.backend.snapshot_file import Progress, SnapshotFile
    from raftkv.mvcc.hashkv import HashResult
    from raftkv.raft import Entry
    from raftkv.rpc.tls import Tls
    from raftkv.server.bootstrap import Booted

SNAPSHOT: Final = b"/etcdserverpb.Maintenance/Snapshot"
CALL_TIMEOUT_S: Final = 10.0
"""Of a unary call. The stream has no time limit: a channel notices a member that is gone."""
_APPLY_BYTES: Final = 4 << 20
"""Entries applied at once."""


class Credentials(NamedTuple):
    user: str
    password: str


# --- of a running member ----------------------------------------------------------------------------------------------


async def save_online(
    host: str,
    port: int,
    path: Path,
    credentials: Credentials | None = None,
    progress: Progress | None = None,
    *,
    tls: Tls | None = None,
    socket: str = "",
) -> int:
    """The store of the member whose clients connect there, as of now; bytes of the store.

    `socket`: a Unix socket, instead of host and port. Raises RpcError, DamagedError if what came is not what was sent,
    OSError.
    """
    loop = asyncio.get_running_loop()
    channel = Channel(loop, host, port, path=socket, tls=tls, user_agent="raftkv-snapshot")
    try:
        metadata = () if credentials is None else (("token", await log_in(channel, *credentials, CALL_TIMEOUT_S)),)
        writer = SnapshotWriter(path)
        try:
            receiver = _Receiver(writer, loop.create_future(), progress)
            call = channel.stream(SNAPSHOT, receiver, metadata)
            receiver.cancel = call.cancel
            call.send(rpc_pb2.SnapshotRequest().SerializeToString())
            call.half_close()
            await receiver.ended
            return writer.finish()
        finally:
            writer.discard()
    finally:
        channel.close()


class _Receiver:
    """The messages of one Snapshot call, into the file. Writes on the loop: nothing else is on it."""

    def __init__(self, writer: SnapshotWriter, ended: asyncio.Future[None], progress: Progress | None) -> None:
        self._writer = writer
        self._progress = progress
        self._failure: Exception | None = None
        self.ended = ended
        self.cancel: Callable[[], None] = _nothing

    def on_message(self, message: bytes) -> None:
        try:
            response = rpc_pb2.SnapshotResponse.FromString(message)
            self._writer.write(response.blob)
        except (DecodeError, OSError) as failure:
            self._failure = failure
            self.cancel()
            return
        if self._progress is not None:
            self._progress(self._writer.written_bytes, self._writer.written_bytes + response.remaining_bytes)

    def on_writable(self) -> None: ...

    def on_closed(self, code: Code, text: str) -> None:
        if self.ended.done():
            return
        if self._failure is not None:
            self.ended.set_exception(self._failure)
        elif code is not Code.OK:
            self.ended.set_exception(RpcError(code, text))
        else:
            self.ended.set_result(None)


def _nothing() -> None: ...


# --- of a stopped member ----------------------------------------------------------------------------------------------


class SavedOffline(NamedTuple):
    size_bytes: int
    applied: int
    """The last entry whose effect is in the snapshot."""
    replayed: int
    """Entries that were only in the log, and are in the snapshot (and in the member's store) now."""
    left_out: int
    """Entries at the end of the log of which this member does not know whether they were committed."""


def save_offline(data_dir: Path, wal_dir: Path | None, path: Path, progress: Progress | None = None) -> SavedOffline:
    """The store of a member that does not run, with all of its log that is known to be committed.

    Raises StartError for what would stop a start too, DamagedError, NoSpaceError, OSError.
    """
    flags = [f"--data-dir={data_dir}", *([f"--wal-dir={wal_dir}"] if wal_dir else [])]
    config = load(flags, {})
    if not config.has_data():  # `boot` would make a new member
        raise StartError(
            f"there is no log in {config.wal_dir}, so there is no member to take a snapshot of",
            "Check --data-dir, and --wal-dir if the member is started with one",
        )
    booted = boot(config)
    try:
        before = booted.applier.index
        last = _last_committed(booted)
        _apply_up_to(booted, last)
        size_bytes = _copy(booted, path, progress)
        left_out = booted.storage.last_index() - last
        return SavedOffline(size_bytes, last, last - before, left_out)
    finally:
        booted.wal.close()
        booted.backend.close()
        booted.lock.release()


def _last_committed(booted: Booted) -> int:
    """The last entry that is known to be committed.

    The commit index on disk is behind what was acknowledged (RF-41). Of a member that is its cluster's only voter, all
    that is in its log was committed by being there, up to the entry that gives it company.
    """
    commit, last = booted.storage.initial_state()[0].commit, booted.storage.last_index()
    if booted.conf_state.voters != (booted.member_id,) or booted.conf_state.voters_outgoing:
        return commit
    while commit < last:
        for entry in booted.storage.entries(commit + 1, last + 1, _APPLY_BYTES):
            commit = entry.index
            if entry.type is EntryType.CONF_CHANGE:
                return commit
    return commit


def _apply_up_to(booted: Booted, last: int) -> None:
    applier, backend = booted.applier, booted.backend
    while applier.index < last:
        entries: Sequence[Entry] = booted.storage.entries(applier.index + 1, last + 1, _APPLY_BYTES)
        backend.reserve_batch(*applier.growth(entries))
        applier.apply(entries)
        if backend.commit_due:
            backend.commit()
    backend.commit()


def _copy(booted: Booted, path: Path, progress: Progress | None) -> int:
    writer = SnapshotWriter(path)
    copy = booted.backend.begin_copy()
    try:
        while piece := copy.read(writer.written_bytes, PIECE_BYTES):
            writer.write(piece)
            if progress is not None:
                progress(writer.written_bytes, copy.size_bytes)
        writer.write_digest()
        return writer.finish()
    finally:
        copy.close()
        writer.discard()


# --- what is in one ---------------------------------------------------------------------------------------------------


class SnapshotStatus(NamedTuple):
    """CT-21, and what a restore may want to know."""

    hash: int
    """Of the content, see `SavedStore.crc`."""
    revision: int
    compacted_revision: int
    """-1: never compacted."""
    total_keys: int
    """Alive at that revision."""
    size_bytes: int
    """Without the checksum at the end."""
    version: str
    """Of the storage format, like 3.6.0."""
    verified: bool
    """The checksum at the end matches; False: there is none."""


def snapshot_status(path: Path, progress: Progress | None = None) -> SnapshotStatus:
    """Verifies a snapshot, and reads all of it. Raises DamagedError, SchemaError, OSError."""
    saved = _verified(path, progress)
    with SavedStore(path) as opened:
        txn, tables = opened.txn, opened.tables
        store = Store(tables)
        store.load(txn)
        return SnapshotStatus(
            hash=opened.crc(),
            revision=store.current_revision,
            compacted_revision=store.compacted_revision,
            total_keys=store.live_keys,
            size_bytes=saved.size_bytes,
            version=txn.get(Meta.STORAGE_VERSION, b"", tables.meta).decode("ascii", "replace"),
            verified=saved.digest is not None,
        )


def snapshot_hash(path: Path, revision: int = 0, progress: Progress | None = None) -> HashResult:
    """HashKV at a revision (0: the newest), as the member that the snapshot comes from would give it (MT-20 to MT-24).

    Raises CompactedError, FutureRevisionError, DamagedError, SchemaError, OSError.
    """
    _verified(path, progress)
    with SavedStore(path) as opened:
        store = Store(opened.tables)
        store.load(opened.txn)
        scan = store.hash_scan(opened.txn, revision)
        while not scan.step():
            pass
        return scan.result()


def _verified(path: Path, progress: Progress | None) -> SnapshotFile:
    """Safe to be read, as far as anybody can tell."""
    saved = open_snapshot(path)
    if saved.digest is None:
        check_by_reading(path)
    else:
        verify_snapshot(saved, progress)
    return saved
