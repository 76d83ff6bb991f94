"""From a data directory to the parts of a node: made new, or found again.

What a new member begins with comes from `joining`. A new data directory is made in an order that a crash may interrupt
anywhere: the store first, with the members and an empty log's position, then the log, then the mark in the store that
there is one. The log is what tells that a member exists (F-70): without it, a store without the mark is left over from
such a crash and is made again. Owns the lock on the directory (F-75). Starts nothing and knows no event loop.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.apply import Alarms, Applier
from raftkv.auth import AuthStore
from raftkv.backend import Backend, BackendError, Meta, NoSpaceError, settle_received
from raftkv.backend.schema import pack_consistent_index, pack_u64, unpack_u64
from raftkv.config import StartError
from raftkv.lease import Lessor
from raftkv.membership import Members
from raftkv.mvcc import Store
from raftkv.raft import ConfState, HardState, Snapshot
from raftkv.server.disaster import force_new_cluster
from raftkv.server.joining import Founding, found_cluster
from raftkv.server.replica_log import ReplicaLog
from raftkv.version import STORAGE_VERSION
from raftkv.wal import ORIGIN, LogPosition, Wal, WalContents, WalCorruptError, WalError, WalFullError, WalMissingError
from raftkv.wire import encode_conf_state

if TYPE_CHECKING:
    from raftkv.backend import Tables, WriteTxn
    from raftkv.config import Config

_log = logging.getLogger(__name__)

GENESIS: Final = LogPosition(1, 1)
"""Where the log of a cluster that several members found together begins: its membership is what a snapshot at entry 1
would hold, the same on all of them. Whoever joins later has nothing, so entry 2 is never sent to it: it gets a
snapshot."""


class Ids(NamedTuple):
    """The log's metadata: who this is."""

    member_id: int
    cluster_id: int
    data_id: int
    """Random, made with the log: tells this data directory from another of the same member (RF-72). 0 in old ones."""

    def encode(self) -> bytes:
        return _IDS.pack(_METADATA_FORMAT, *self)

    @classmethod
    def decode(cls, raw: bytes) -> Ids | None:
        """None for what no raftkv wrote."""
        for metadata_format, layout in ((_METADATA_FORMAT, _IDS), (1, _OLD_IDS)):
            if len(raw) == layout.size and raw[0] == metadata_format:
                return cls(*(*layout.unpack(raw)[1:], 0)[:3])
        return None


_IDS: Final = Struct(">BQQQ")
"""Format 2, member id, cluster id, data id."""
_METADATA_FORMAT: Final = 2
_OLD_IDS: Final = Struct(">BQQ")
"""Format 1: without a data id."""


class Booted(NamedTuple):
    """Everything that lives on disk, open and consistent with each other."""

    member_id: int
    cluster_id: int
    data_id: int
    conf_state: ConfState
    backend: Backend
    wal: Wal
    storage: ReplicaLog
    store: Store
    lessor: Lessor
    members: Members
    alarms: Alarms
    auth: AuthStore
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


def boot(config: Config, founding: Founding | None = None) -> Booted:
    """Open the member's data, making it if there is none. Raises StartError with what to do about it.

    `founding`: what to make it from; when not given, what the settings alone say.
    """
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
        return _open_or_explain(config, member_dir / "snap", lock, founding)
    except BaseException:
        lock.release()
        raise


def _open_or_explain(config: Config, store_dir: Path, lock: DirectoryLock, founding: Founding | None) -> Booted:
    try:
        return _open(config, store_dir, lock, founding)
    except WalCorruptError as damage:
        raise StartError(
            str(damage),
            "Nothing was changed. Restore this member from a backup, or remove it from the cluster and add it anew",
        ) from damage
    except WalFullError as failure:
        raise StartError(str(failure), "Make room on the disk: the log needs 64 MiB, the store as much") from failure
    except (WalError, BackendError, OSError) as failure:
        raise StartError(f"the data in {config.data_dir} cannot be opened: {failure}") from failure


def _open(config: Config, store_dir: Path, lock: DirectoryLock, founding: Founding | None) -> Booted:
    try:
        wal, contents = Wal.open(config.wal_dir, unsafe_no_fsync=config.unsafe_no_fsync)
    except WalMissingError:
        _refuse_lost_log(config, store_dir)
        _make(config, store_dir, founding or found_cluster(config))
        wal, contents = Wal.open(config.wal_dir, unsafe_no_fsync=config.unsafe_no_fsync)
    _report_log(contents)
    ids = Ids.decode(contents.metadata)
    if ids is None:
        raise StartError(f"the log in {config.wal_dir} was not written by this raftkv", "Use the version that wrote it")
    # The log has decided whether a snapshot that was being installed counts (RF-46).
    settle_received(store_dir, (contents.base.index, contents.base.term))
    backend = Backend.open(store_dir)
    _defragment_if_due(config, backend)
    tables = backend.tables
    store, lessor, members, alarms = Store(tables), Lessor(tables), Members(tables), Alarms(tables)
    auth = AuthStore(tables)
    applier = Applier(backend, store, lessor, members, alarms, auth)
    applier.load()
    _refuse_other_owner(config, store_dir, backend, ids)
    _refuse_mismatch(contents, applier, config)
    if backend.read().get(Meta.LOG_CREATED, db=tables.meta) is None:
        backend.begin_write().put(Meta.LOG_CREATED, b"\x01", db=tables.meta)
        backend.commit()
    if backend.read().get(Meta.CONF_STATE, db=tables.meta) is None:
        raise StartError(f"the store in {store_dir} does not name its members", "Restore this member from a backup")
    if config.force_new_cluster:
        if members.get(ids.member_id) is None:
            raise StartError(
                f"member {ids.member_id:x} was removed from its cluster, so --force-new-cluster cannot go on with it",
                "Use the data directory of a member that was not removed",
            )
        contents = force_new_cluster(ids.member_id, wal, contents, backend, applier, members)
    storage = _remember_log(contents, applier)
    return Booted(*ids, applier.conf_state, backend, wal, storage, store, lessor, members, alarms, auth, applier, lock)


def _defragment_if_due(config: Config, backend: Backend) -> None:
    """MT-32. Free pages are used again all the same: a disk too full for the copy is no reason not to start."""
    reclaimable_bytes = backend.size_bytes - backend.in_use_bytes
    threshold_bytes = config.bootstrap_defrag_threshold_bytes
    if not threshold_bytes or reclaimable_bytes < threshold_bytes:
        return
    job = backend.begin_defragment()
    try:
        job.run()
    except NoSpaceError as failure:
        backend.abandon_defragment(job)
        _log.warning("not defragmented at start", extra={"kv": {"reason": str(failure)}})
    else:
        backend.finish_defragment(job)


def _refuse_other_owner(config: Config, store_dir: Path, backend: Backend, ids: Ids) -> None:
    meta = backend.tables.meta
    owner = [unpack_u64(backend.read().get(key, bytes(8), meta)) for key in (Meta.MEMBER_ID, Meta.CLUSTER_ID)]
    if owner != [ids.member_id, ids.cluster_id]:
        raise StartError(
            f"the log in {config.wal_dir} and the store in {store_dir} belong to different members",
            "If --wal-dir was changed, change it back; otherwise restore this member from a backup",
        )


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


def _make(config: Config, store_dir: Path, founding: Founding) -> None:
    """A new member: the store, then the log, which says that the member exists."""
    # One member alone counts from entry 1; so did every version of raftkv.
    base = GENESIS if len(founding.members) > 1 and not founding.joins else ORIGIN
    backend = Backend.open(store_dir)
    write_founding(backend.begin_write(), backend.tables, founding, base)
    backend.commit()
    backend.close()  # durable before the log
    ids = Ids(founding.member_id, founding.cluster_id, secrets.randbits(64) or 1)
    Wal.create(config.wal_dir, ids.encode(), base=base, unsafe_no_fsync=config.unsafe_no_fsync).close()
    fields = {
        "member_id": f"{ids.member_id:x}",
        "cluster_id": f"{ids.cluster_id:x}",
        "data_dir": str(config.data_dir),
        "members": len(founding.members),
        "joins": founding.joins,
    }
    _log.info("made a new member", extra={"kv": fields})


def write_founding(txn: WriteTxn, tables: Tables, founding: Founding, base: LogPosition) -> ConfState:
    """Whose the store is: members, ids, and consensus' configuration, which is returned, as of the position behind
    which the log begins. The members' tables are empty."""
    members = Members(tables)
    for each in founding.members:
        members.add(txn, each)
    for removed_id in founding.removed:
        txn.put(pack_u64(removed_id), b"", db=tables.members_removed)
    conf_state = ConfState(voters=() if founding.joins else tuple(each.id for each in founding.members))
    meta = {
        Meta.CONF_STATE: encode_conf_state(conf_state),
        Meta.CLUSTER_ID: pack_u64(founding.cluster_id),
        Meta.MEMBER_ID: pack_u64(founding.member_id),
        Meta.STORAGE_VERSION: STORAGE_VERSION.encode("ascii"),
        Meta.CONSISTENT_INDEX: pack_consistent_index(base.index, base.term),
    }
    for key, value in meta.items():
        txn.put(key, value, db=tables.meta)
    return conf_state


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


def _remember_log(contents: WalContents, applier: Applier) -> ReplicaLog:
    term, vote, commit = contents.hard_state
    # The commit index on disk may be old; what was applied was committed (RF-41).
    commit = min(max(commit, applier.index), contents.last.index)
    conf_state = applier.conf_state
    storage = ReplicaLog(applier, HardState(term, vote, commit), conf_state)
    storage.apply_snapshot(Snapshot(contents.base.index, contents.base.term, conf_state))
    storage.append(contents.entries)
    return storage
