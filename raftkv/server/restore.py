"""A new member from a snapshot: the keys of an old cluster under the identity of a new one (CT-22, CT-23).

Everything in the store stays: keys, revisions, leases, alarms, users. What says whose it is, is new: the members are
those of --initial-cluster, all voters, with the ids that a cluster founded from the same settings has (F-71), and the
log begins anew. So each member of the new cluster is restored from the same snapshot with the same settings but its own
name, and they agree from the first entry on.

Never touches what is there: a directory that is not empty is refused. The order leaves nothing that starts:

    1  an empty store that says that it has lost its log     a start is refused from here on
    2  the copy, verified, made this member's, durable       in the place of the empty store
    3  the log                                               the member exists

A failure takes back what was made; a crash leaves a directory that neither starts nor is restored into, to be removed.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.apply.state_hash import mix
from raftkv.backend import Backend, DamagedError, Expected, Meta, ReceivedStore, install, store_facts
from raftkv.backend.checkpoint import sync_directory
from raftkv.backend.datadir import make_directory
from raftkv.backend.saved_store import check_by_reading
from raftkv.backend.schema import pack_u64, unpack_u64
from raftkv.backend.snapshot_file import TAKE_ANOTHER, open_snapshot, store_pieces
from raftkv.config import StartError
from raftkv.config.bootstrap import verify_bootstrap
from raftkv.mvcc import Store
from raftkv.server.bootstrap import GENESIS, DirectoryLock, Ids, write_founding
from raftkv.server.joining import found_cluster
from raftkv.wal import Wal
from raftkv.wire import encode_conf_state

if TYPE_CHECKING:
    from pathlib import Path

    from raftkv.backend import StoreFacts, WriteTxn
    from raftkv.backend.snapshot_file import Progress, SnapshotFile
    from raftkv.config import Config
    from raftkv.membership import Member
    from raftkv.server.joining import Founding

_log = logging.getLogger(__name__)

MAX_REVISION: Final = (1 << 63) - 1
_ROOM_BYTES: Final = 1 << 20
"""For the pages that the new identity copies: a handful in every table that it touches."""


class Restored(NamedTuple):
    """The new member."""

    member_id: int
    cluster_id: int
    members: tuple[Member, ...]
    revision: int
    compacted_revision: int
    """-1: never compacted."""
    same_cluster: bool
    """The snapshot comes from a cluster with the same id: same URLs and token."""


def restore(
    config: Config, path: Path, *, skip_hash_check: bool = False, bump: int = 0, progress: Progress | None = None
) -> Restored:
    """Make the member that `config` describes, in its data directory, from the snapshot at `path`.

    `bump`: how much to add to the newest revision, which then counts as compacted; 0: leave both as they are.
    Raises StartError, DamagedError, NoSpaceError, WalError, OSError; nothing is left behind then.
    """
    verify_bootstrap(config)
    _refuse_existing(config)
    saved = open_snapshot(path)
    if saved.digest is None and not skip_hash_check:
        raise StartError(
            f"{path} has no checksum at its end, so it was not written by `snapshot save`, or it was cut",
            "If it is a copy of the data file of a member that did not run, add --skip-hash-check",
        )
    if saved.digest is None or skip_hash_check:
        check_by_reading(path)
    directory = _Directory(config)
    try:
        directory.claim()
        founding = found_cluster(config)
        facts = _copy_store(saved, directory.store_dir, founding, verify=not skip_hash_check, progress=progress)
        revision, compacted = _own_store(directory.store_dir, founding, bump)
        ids = Ids(founding.member_id, founding.cluster_id, secrets.randbits(64) or 1)
        directory.make_wal_dir()
        # From here on there is a member.
        Wal.create(config.wal_dir, ids.encode(), base=GENESIS, unsafe_no_fsync=config.unsafe_no_fsync).close()
    except BaseException:
        directory.take_back()
        raise
    directory.release()
    same = facts.cluster_id == founding.cluster_id
    return Restored(founding.member_id, founding.cluster_id, founding.members, revision, compacted, same)


def _refuse_existing(config: Config) -> None:
    data_dir = config.data_dir
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise StartError(
            f"{data_dir} is not an empty directory, and a restore never writes over data",
            "Give a new directory with --data-dir; or remove this one, if all that is in it is an interrupted restore",
        )
    if config.wal_dir.exists():
        raise StartError(
            f"{config.wal_dir} exists, and a restore makes a new directory for the log",
            "Give a directory that does not exist yet with --wal-dir",
        )


class _Directory:
    """What this restore has made, as far as it has come."""

    def __init__(self, config: Config) -> None:
        self._data_dir = config.data_dir
        self._wal_dir = config.wal_dir
        self._member_dir = config.data_dir / "member"
        self.store_dir = self._member_dir / "snap"
        self._made: list[Path] = []
        """To be taken back, in the order of making."""
        self._lock: DirectoryLock | None = None

    def claim(self) -> None:
        """From here on no member can be started there, nor another restore begin."""
        if not self._data_dir.exists():
            make_directory(self._data_dir)
            self._made.append(self._data_dir)
        self._make(self._member_dir)
        self._lock = DirectoryLock(self._member_dir)
        backend = Backend.open(self.store_dir)
        try:
            backend.begin_write().put(Meta.LOG_CREATED, b"\x01", db=backend.tables.meta)
            backend.commit()
        finally:
            backend.close()  # durable

    def make_wal_dir(self) -> None:
        make_directory(self._wal_dir.parent)
        self._make(self._wal_dir)

    def _make(self, directory: Path) -> None:
        """Fails if it is there: somebody else has made it meanwhile."""
        directory.mkdir(mode=0o700)
        self._made.append(directory)
        sync_directory(directory.parent)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def take_back(self) -> None:
        """What was there before, or came from somebody else, stays."""
        for directory in reversed(self._made):
            shutil.rmtree(directory, ignore_errors=True)
        self.release()


def _copy_store(
    saved: SnapshotFile, store_dir: Path, founding: Founding, *, verify: bool, progress: Progress | None
) -> StoreFacts:
    """The snapshot in the place of the empty store; what it said of itself."""
    received = ReceivedStore(store_dir, saved.size_bytes)
    try:
        for piece in store_pieces(saved, verify=verify, progress=progress):
            received.write(received.received_bytes, piece)
        facts = store_facts(saved.path)
        if facts.cluster_id is None or facts.conf_state is None:
            raise DamagedError(saved.path, "it does not say which cluster's it is", TAKE_ANOTHER)
        expect = Expected(facts.consistent_index, facts.term, facts.cluster_id, facts.conf_state, founding.member_id)
        received.finish(expect)
    except BaseException:
        received.discard()
        raise
    install(store_dir, received.path)
    return facts


def _own_store(store_dir: Path, founding: Founding, bump: int) -> tuple[int, int]:
    """Give the store its new identity, durably; (current revision, compact revision)."""
    backend = Backend.open(store_dir)
    try:
        store = Store(backend.tables)
        store.load(backend.read())
        _check_bump(store, bump)
        backend.reserve(_ROOM_BYTES)
        txn = backend.begin_write()
        if bump:
            store.current_revision += bump
            store.schedule_compaction(txn, store.current_revision)
        _replace_members(txn, backend, founding, store.current_revision)
        backend.commit()
    finally:
        backend.close()
    return store.current_revision, store.compacted_revision


def _check_bump(store: Store, bump: int) -> None:
    if store.current_revision + bump > MAX_REVISION:
        raise StartError(
            f"the snapshot is at revision {store.current_revision}, and --bump-revision={bump} would lead beyond the "
            f"largest there is, {MAX_REVISION}",
            "A few times the number of writes since the snapshot is enough",
        )


def _replace_members(txn: WriteTxn, backend: Backend, founding: Founding, revision: int) -> None:
    """As of the first entry of a log that nobody has written to yet (see GENESIS)."""
    tables = backend.tables
    for table in (tables.members, tables.members_removed):
        txn.drop(table, delete=False)
    old_index = txn.get(Meta.CONSISTENT_INDEX, bytes(16), tables.meta)
    old_hash = unpack_u64(txn.get(Meta.STATE_HASH, bytes(8), tables.meta))
    conf_state = encode_conf_state(write_founding(txn, tables, founding, GENESIS))
    # Not zero, as a new cluster has: members restored from different snapshots must notice that they differ.
    state_hash = mix(old_hash, GENESIS.index, GENESIS.term, revision, (), ((revision, old_index + conf_state),))
    txn.put(Meta.STATE_HASH, pack_u64(state_hash), db=tables.meta)
    # The log comes next; until then a start must take it for lost.
    txn.put(Meta.LOG_CREATED, b"\x01", db=tables.meta)
