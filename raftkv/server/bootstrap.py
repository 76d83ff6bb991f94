"""From a data directory to the parts of a node: made new, or found again.

A new data directory is made in an order that a crash may interrupt anywhere: the store first, with the members and an
empty log's position, then the log, then the mark in the store that there is one. The log is what tells that a member
exists (F-70): without it, a store without the mark is left over from such a crash and is made again.
Owns the lock on the directory (F-75). Starts nothing and knows no event loop.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.apply import Alarms, Applier
from raftkv.backend import Backend, BackendError, Meta
from raftkv.backend.schema import pack_u64, unpack_u64
from raftkv.config import StartError
from raftkv.lease import Lessor
from raftkv.membership import Member, Members, cluster_id, member_id
from raftkv.mvcc import Store
from raftkv.raft import ConfState, HardState, MemoryStorage, Snapshot
from raftkv.version import STORAGE_VERSION
from raftkv.wal import Wal, WalContents, WalCorruptError, WalError, WalFullError, WalMissingError
from raftkv.wire import decode_conf_state, encode_conf_state

if TYPE_CHECKING:
    from raftkv.config import Config

_log = logging.getLogger(__name__)

_IDS: Final = Struct(">BQQ")
"""The log's metadata: format 1, member id, cluster id."""
_METADATA_FORMAT: Final = 1


class Booted(NamedTuple):
    """Everything that lives on disk, open and consistent with each other."""

    member_id: int
    cluster_id: int
    conf_state: ConfState
    backend: Backend
    wal: Wal
    storage: MemoryStorage
    store: Store
    lessor: Lessor
    members: Members
    alarms: Alarms
    applier: Applier
    lock: DirectoryLock


class DirectoryLock:
    """One process at a time on a data directory (PY-36). Released by `release`, and by the death of the process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 64, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StartError(
                f"the data directory {directory.parent} is in use by another raftkv (process {holder or 'unknown'})",
                "Stop that process first, or give this one a data directory of its own with --data-dir",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def boot(config: Config) -> Booted:
    """Open the member's data, making it if there is none. Raises StartError with what to do about it."""
    member_dir = config.data_dir / "member"
    try:
        member_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(member_dir)
    except OSError as failure:
        raise StartError(
            f"the data directory {config.data_dir} cannot be used: {failure.strerror}",
            "Give --data-dir a directory that this user may write to",
        ) from failure
    try:
        return _open_or_explain(config, member_dir / "snap", lock)
    except BaseException:
        lock.release()
        raise


def _open_or_explain(config: Config, store_dir: Path, lock: DirectoryLock) -> Booted:
    try:
        return _open(config, store_dir, lock)
    except WalCorruptError as damage:
        raise StartError(
            str(damage),
            "Nothing was changed. Restore this member from a backup, or remove it from the cluster and add it anew",
        ) from damage
    except WalFullError as failure:
        raise StartError(str(failure), "Make room on the disk: the log needs 64 MiB, the store as much") from failure
    except (WalError, BackendError, OSError) as failure:
        raise StartError(f"the data in {config.data_dir} cannot be opened: {failure}") from failure


def _open(config: Config, store_dir: Path, lock: DirectoryLock) -> Booted:
    try:
        wal, contents = Wal.open(config.wal_dir, unsafe_no_fsync=config.unsafe_no_fsync)
    except WalMissingError:
        _refuse_lost_log(config, store_dir)
        _make(config, store_dir)
        wal, contents = Wal.open(config.wal_dir, unsafe_no_fsync=config.unsafe_no_fsync)
    _report_log(contents)
    ids = _IDS.unpack(contents.metadata) if len(contents.metadata) == _IDS.size else (0, 0, 0)
    if ids[0] != _METADATA_FORMAT:
        raise StartError(f"the log in {config.wal_dir} was not written by this raftkv", "Use the version that wrote it")
    backend = Backend.open(store_dir)
    tables = backend.tables
    store, lessor, members, alarms = Store(tables), Lessor(tables), Members(tables), Alarms(tables)
    applier = Applier(backend, store, lessor, members, alarms)
    applier.load()
    owner = [unpack_u64(backend.read().get(key, bytes(8), tables.meta)) for key in (Meta.MEMBER_ID, Meta.CLUSTER_ID)]
    if owner != list(ids[1:]):
        raise StartError(
            f"the log in {config.wal_dir} and the store in {store_dir} belong to different members",
            "If --wal-dir was changed, change it back; otherwise restore this member from a backup",
        )
    _refuse_mismatch(contents, applier, config)
    if backend.read().get(Meta.LOG_CREATED, db=tables.meta) is None:
        backend.begin_write().put(Meta.LOG_CREATED, b"\x01", db=tables.meta)
        backend.commit()
    raw_conf_state = backend.read().get(Meta.CONF_STATE, db=tables.meta)
    if raw_conf_state is None:
        raise StartError(f"the store in {store_dir} does not name its members", "Restore this member from a backup")
    conf_state = decode_conf_state(raw_conf_state)
    storage = _remember_log(contents, conf_state, applier)
    return Booted(
        ids[1], ids[2], conf_state, backend, wal, storage, store, lessor, members, alarms, applier, lock
    )  # fmt: skip


def _refuse_lost_log(config: Config, store_dir: Path) -> None:
    """A store that ever had a log belongs to it; starting a new log beside it would reuse its past.

    What it has applied does not tell: its first writes may have been in an open transaction, and in the log alone.
    """
    if not store_dir.exists():
        return
    backend = Backend.open(store_dir)
    had_log = backend.read().get(Meta.LOG_CREATED, db=backend.tables.meta) is not None
    backend.close()
    if had_log:
        raise StartError(
            f"there is a store in {store_dir} but no log in {config.wal_dir}",
            "If --wal-dir was changed, change it back; otherwise restore this member from a backup",
        )
    shutil.rmtree(store_dir)


def _make(config: Config, store_dir: Path) -> None:
    """A new member of a new cluster: all bootstrap members compute the same ids (CL-05)."""
    ids = {
        name: member_id([str(url) for url in urls], config.initial_cluster_token)
        for name, urls in config.initial_cluster.items()
    }
    own_id, common_id = ids[config.name], cluster_id(ids.values())
    backend = Backend.open(store_dir)
    txn = backend.begin_write()
    members = Members(backend.tables)
    for name, urls in config.initial_cluster.items():
        members.add(txn, Member(ids[name], tuple(str(url) for url in urls)))
    meta = {
        Meta.CONF_STATE: encode_conf_state(ConfState(voters=tuple(sorted(ids.values())))),
        Meta.CLUSTER_ID: pack_u64(common_id),
        Meta.MEMBER_ID: pack_u64(own_id),
        Meta.STORAGE_VERSION: STORAGE_VERSION.encode("ascii"),
    }
    for key, value in meta.items():
        txn.put(key, value, db=backend.tables.meta)
    backend.commit()
    backend.close()  # durable before the log, which says that the member exists
    metadata = _IDS.pack(_METADATA_FORMAT, own_id, common_id)
    Wal.create(config.wal_dir, metadata, unsafe_no_fsync=config.unsafe_no_fsync).close()
    _log.info(
        "made a new member",
        extra={
            "kv": {
                "member_id": f"{own_id:x}",
                "cluster_id": f"{common_id:x}",
                "data_dir": str(config.data_dir),
            }
        },
    )


def _report_log(contents: WalContents) -> None:
    if contents.torn is not None:
        _log.warning(
            "cut a torn tail off the log: what was being written when the process or the machine stopped, and was "
            "never acknowledged",
            extra={"kv": contents.torn._asdict()},
        )


def _refuse_mismatch(contents: WalContents, applier: Applier, config: Config) -> None:
    """The store must lie within the log, or one of the two comes from elsewhere."""
    if applier.index < contents.base.index:
        raise StartError(
            f"the store has applied entry {applier.index}, but the log in {config.wal_dir} begins after entry "
            f"{contents.base.index}",
            "The two do not belong together. Restore this member from a backup",
        )
    if applier.index > contents.last.index:
        raise StartError(
            f"the store has applied entry {applier.index}, but the log in {config.wal_dir} ends at entry "
            f"{contents.last.index}",
            "Entries were lost from the log. Restore this member from a backup",
        )


def _remember_log(contents: WalContents, conf_state: ConfState, applier: Applier) -> MemoryStorage:
    term, vote, commit = contents.hard_state
    # The commit index on disk may be old; what was applied was committed (RF-41).
    commit = min(max(commit, applier.index), contents.last.index)
    storage = MemoryStorage(HardState(term, vote, commit), conf_state)
    storage.apply_snapshot(Snapshot(contents.base.index, contents.base.term, conf_state))
    storage.append(contents.entries)
    return storage
