"""The store on disk: one LMDB environment, its transactions, and its durability by checkpoints.

Owns the environment, the data file's directory and the lock on it. One thread (the loop's) calls everything
here; the slow parts are objects from `snapshots` whose marked methods run in threads. Knows nothing of what
the tables mean, except the consistent index, which tells how much of the log a snapshot has.

LMDB runs with a writable map and never syncs a commit: a commit costs microseconds and survives the death of
the process (the page cache holds it), but not a power cut. After a power cut the store goes back to its last
durable checkpoint, exactly, and the log replays the rest. One write transaction stays open over many batches:
what it holds is lost even with the process, and is in the log as well.
The map is large and the file sparse; growth is bounded by the quota of the rooms above, and by `reserve`,
which must cover a transaction before it begins.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from raftkv.backend import datadir, environment
from raftkv.backend.checkpoint import CheckpointRecord, read_boot_id
from raftkv.backend.errors import (
    BackendError,
    NoSpaceError,
    PinsOpenError,
    TooManyPinsError,
)
from raftkv.backend.handles import Db, ReadTxn, WriteTxn
from raftkv.backend.metapage import MetaPages, read_metas
from raftkv.backend.schema import Tables
from raftkv.backend.snapshots import Checkpoint, Defragmentation, HotCopy, ReadPin
from raftkv.backend.space import RESERVE_STEP_BYTES, Reservation, count_free_pages

_log = logging.getLogger(__name__)

MAP_SIZE_BYTES: Final = 64 << 30
"""Address space and apparent file size, not memory or blocks. Eight times the largest quota etcd advises."""

MAX_PINS: Final = 1000
"""Bound of concurrent pins and hot copies; one more raises TooManyPinsError."""

MAX_OPEN_PAGES: Final = 100_000
"""LMDB gives up (MDB_TXN_FULL) at 131,071 dirty pages in one transaction."""
MAX_OPEN_BYTES: Final = 32 << 20
SPLITS_BYTES: Final = 1 << 20
"""For new pages in a file that has few."""

_OWN_READERS: Final = 24
"""Reader slots beside the pins: the shared one, two checkpoints, a defragmentation, LMDB's spare."""


class Recovered(NamedTuple):
    """What opening found and did."""

    created: bool
    """There was no store; this one is new and empty."""
    clean: bool
    """The last owner closed it properly (or it was just created or swapped in)."""
    rolled_back: bool
    """Commits after the last checkpoint were given up: a power cut may have torn them. Replay the log."""
    swapped: bool
    """A staged store (defragmentation, snapshot install) was put in place."""
    consistent_index: int
    term: int


class Backend:
    """An open store.

    `tables`: the table handles. New ones after `finish_defragment`, so hold the backend, or be told.
    `size_bytes`: up to the end of the last used page, as of the last commit. What the quota compares (AL-22).
    `durable_index`: consistent index of the last durable checkpoint; entries above it must stay in the log.
    """

    __slots__ = (
        "_boot_id",
        "_checkpoint",
        "_defragmentation",
        "_directory",
        "_distrusted",
        "_durable",
        "_durable_pin",
        "_env",
        "_fd",
        "_free",
        "_lock",
        "_map_size_bytes",
        "_meta",
        "_open_bytes",
        "_open_pages",
        "_page_size",
        "_path",
        "_pins",
        "_poisoned",
        "_read",
        "_reservation",
        "_step_bytes",
        "_txn_id",
        "_write",
        "before_commit",
        "durable_index",
        "on_failed",
        "recovered",
        "size_bytes",
        "tables",
    )

    _env: lmdb.Environment
    _fd: int
    """Of the data file. Never the map's: for the meta pages, the free list, fallocate and fdatasync."""
    _meta: Db
    _page_size: int
    _read: ReadTxn | None
    """The shared one; None until somebody reads the newest commit."""
    _txn_id: int
    """Of the newest commit."""
    _durable: CheckpointRecord
    _durable_pin: ReadTxn
    """Keeps the pages of `_durable`. Invariant: from the first commit to the last, one is open."""
    _checkpoint: Checkpoint | None
    """The one in flight."""
    _free: tuple[int, int]
    """(transaction id, free pages) of the last count."""
    _reservation: Reservation
    tables: Tables
    size_bytes: int
    durable_index: int
    recovered: Recovered

    def __init__(
        self, directory: Path, lock: datadir.DirectoryLock, boot_id: str, map_size_bytes: int, step_bytes: int
    ) -> None:
        """Use `Backend.open`."""
        self._directory = directory
        self._path = directory / datadir.DATA_NAME
        self._lock = lock
        self._boot_id = boot_id
        self._map_size_bytes = map_size_bytes
        self._step_bytes = step_bytes
        self._pins: dict[ReadPin, None] = {}  # oldest first
        self._defragmentation: Defragmentation | None = None
        self._distrusted = False
        self.before_commit: Callable[[WriteTxn], None] | None = None
        """Given by whoever writes: called with each transaction before its commit, for what only a commit needs."""
        self.on_failed: Callable[[Exception], None] | None = None
        """Told once writing has failed for good."""
        self._poisoned: Exception | None = None
        self._write: WriteTxn | None = None
        """Open, with what was written since the last commit."""
        self._open_bytes = 0
        """Values written into it, as announced by `reserve_batch`."""
        self._open_pages = 0
        """Pages that it may have dirtied; an upper bound."""

    # --- open and close -------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        map_size_bytes: int = MAP_SIZE_BYTES,
        reserve_step_bytes: int = RESERVE_STEP_BYTES,
        boot_id: str | None = None,
    ) -> Backend:
        """Opens the store in `directory`, or makes an empty one there.

        After a power cut it goes back to the last checkpoint, see `recovered`.
        `boot_id`: of the running kernel, unless given. Blocks for one sync of the data file.
        Raises LockedError, DamagedError, OSError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = datadir.DirectoryLock(directory)
        try:
            self = cls(directory, lock, boot_id or read_boot_id(), map_size_bytes, reserve_step_bytes)
            created, clean, rolled_back, swapped = self._recover()
            self._attach()
        except BaseException:
            lock.release()
            raise
        index, term = self._durable.consistent_index, self._durable.term
        self.recovered = Recovered(created, clean, rolled_back, swapped, index, term)
        fields = {"directory": str(directory), **self.recovered._asdict()}
        _log.log(logging.WARNING if rolled_back else logging.INFO, "store opened", extra={"kv": fields})
        return self

    def _recover(self) -> tuple[bool, bool, bool, bool]:
        """Makes data.mdb a file that LMDB may open. (created, clean, rolled back, swapped)."""
        directory = self._directory
        datadir.remove_leftovers(directory)
        swapped = datadir.finish_swap(directory, self._boot_id, (0, 0))
        record = datadir.load_checkpoint(directory)
        created = record is None
        if record is None:
            environment.make_store(directory)
            datadir.finish_swap(directory, self._boot_id, (0, 0))
            record = datadir.load_checkpoint(directory)
            assert record is not None
        rolled_back = datadir.needs_rollback(record, self._boot_id)
        if rolled_back:
            datadir.put_back(directory, record)
        datadir.check_data_file(directory, record)
        self._durable = record
        return created, record.clean, rolled_back, swapped

    def _attach(self) -> None:
        """Opens the environment on data.mdb and makes what it holds the first checkpoint."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._env = environment.open_environment(self._directory, self._map_size_bytes, MAX_PINS + _OWN_READERS)
        except BaseException:
            os.close(self._fd)
            raise
        try:
            self._page_size = self._durable.metas.newest.page_size
            self._read = None
            self._checkpoint = None
            self._free = (-1, 0)
            self._note_commit()
            self._reserve_at_open()
            self._meta = environment.open_meta(self._env, self._path)
            # Before the first commit: the commits of an earlier process may still be in the page cache only,
            # and from the first commit on their pages could be reused, were they not pinned and durable.
            self._first_checkpoint()
            self.tables = environment.open_tables(self._env)
            self._note_commit()
        except BaseException:
            self._detach()
            raise

    def _reserve_at_open(self) -> None:
        self._reservation = Reservation(self._fd, self._step_bytes, self._env.info()["map_size"])
        try:
            self._reservation.extend(self.size_bytes)
        except NoSpaceError as error:
            # Reading works all the same, and `reserve` refuses the writes.
            _log.warning("no room ahead of the data file", extra={"kv": {"error": str(error)}})

    def _first_checkpoint(self) -> None:
        self._durable_pin = self._env.begin()
        checkpoint = self._new_checkpoint(clean=False)
        checkpoint.sync()
        self.end_checkpoint(checkpoint)

    def _detach(self) -> None:
        """Closes the environment; every transaction on it dies."""
        self.abort()
        self._read = None
        self._env.close()
        os.close(self._fd)

    def close(self) -> None:
        """A last checkpoint with the clean mark, then lets go of the directory. Pins and hot copies end here.

        Blocks. Raises OSError if the last checkpoint failed: the store is closed then too, and will replay.
        """
        assert self._checkpoint is None, "a checkpoint is in flight"
        if self._defragmentation is not None:
            self.abandon_defragment(self._defragmentation)
        try:
            if not (self._distrusted or self._poisoned):
                self.commit()
                checkpoint = self._new_checkpoint(clean=True)
                checkpoint.sync()
        finally:
            self._checkpoint = None
            self._pins.clear()
            self._detach()
            self._lock.release()

    # --- transactions ---------------------------------------------------------------------------------------

    def begin_write(self) -> WriteTxn:
        """The write transaction: the open one, or a new one. It stays open over any number of batches until `commit`.

        A page is copied once in a transaction, however often it is written; so the longer it stays open, the fewer
        pages are dirtied (docs/adr/0003). What it holds is seen by `read`, and is lost with the process.
        """
        txn = self._write
        if txn is None:
            self._refuse_if_poisoned()
            txn = self._write = self._env.begin(write=True)
        return txn

    def commit(self) -> None:
        """Makes what is open, if anything, the newest snapshot; it survives the process. Ends `read`'s transaction."""
        self._refuse_if_poisoned()
        txn = self._write
        if txn is None:
            return
        try:
            if self.before_commit is not None:
                self.before_commit(txn)
            self._write = None
            txn.commit()
        except Exception as failure:
            # Whoever asked (a long read, perhaps) may answer it as an error of its own and go on. Nothing else may.
            self.poison(failure)
            raise BackendError(f"{self._path}: a commit failed: {failure}; restart this member") from failure
        if self._read is not None:
            self._read.abort()
            self._read = None
        self._note_commit()

    def poison(self, failure: Exception) -> None:
        """What is open cannot be committed, and those who wrote it are ahead of the disk: drop it, and accept no more.

        Otherwise a later commit would carry their consistent index without their data, and the log would not replay
        it. Tells `on_failed`. The last commit stands; the next start replays from there.
        """
        self._poisoned = self._poisoned or failure
        self.abort()
        if self.on_failed is not None:
            self.on_failed(failure)

    def _refuse_if_poisoned(self) -> None:
        if self._poisoned is not None:
            raise BackendError(
                f"{self._path}: takes no writes after a failure; restart this member"
            ) from self._poisoned

    def abort(self) -> None:
        """Undoes everything since the last commit: several batches, perhaps. What was loaded must be reloaded."""
        txn, self._write = self._write, None
        if txn is not None:
            txn.abort()
        self._open_bytes = self._open_pages = 0

    @property
    def commit_due(self) -> bool:
        """The open transaction has grown enough; LMDB bounds how many pages one may dirty."""
        return self._open_growth(0, 0) >= MAX_OPEN_PAGES * self._page_size or self._open_bytes >= MAX_OPEN_BYTES

    def _note_commit(self) -> None:
        info = self._env.info()
        self._txn_id = info["last_txnid"]
        self.size_bytes = (info["last_pgno"] + 1) * self._page_size
        self._open_bytes = self._open_pages = 0

    def read(self) -> ReadTxn:
        """The newest state, what is open included; valid until the next commit, never closed by callers."""
        if self._write is not None:
            return self._write
        read = self._read
        if read is None:
            read = self._read = self._env.begin()
        return read

    def pin(self) -> ReadPin:
        """The newest state as a snapshot of its own, for work in slices; commits what is open.

        Raises TooManyPinsError at MAX_PINS.
        """
        if len(self._pins) >= MAX_PINS:
            raise TooManyPinsError(f"{MAX_PINS} snapshots are pinned already")
        self.commit()
        pin = ReadPin(self._env.begin(), time.monotonic(), self._unpin)
        self._pins[pin] = None
        return pin

    def _unpin(self, pin: ReadPin) -> None:
        self._pins.pop(pin, None)

    @property
    def pin_count(self) -> int:
        """Open pins and hot copies."""
        return len(self._pins)

    @property
    def oldest_pin_age_s(self) -> float:
        """0.0 if there are none."""
        for pin in self._pins:
            return time.monotonic() - pin.opened_s
        return 0.0

    # --- space ----------------------------------------------------------------------------------------------

    def reserve(self, extra_bytes: int) -> None:
        """Makes sure that the file can grow by so much beyond what is open. Raises NoSpaceError."""
        self._must_have(self._open_growth(0, 0) + extra_bytes)

    def reserve_batch(self, value_bytes: int, pages: int) -> None:
        """Before every batch: room for its values, and for copies of the pages that it touches.

        A transaction copies a page once, so copies are never more than the file has pages. Raises NoSpaceError; a
        transaction that outgrows its reservation on a full disk kills the process.
        """
        try:
            self._must_have(self._open_growth(value_bytes, pages))
        except NoSpaceError:
            if self._write is None:
                raise
            self.commit()  # what is open may have taken less than was reckoned
            self._must_have(self._open_growth(value_bytes, pages))
        self._open_bytes += value_bytes
        self._open_pages += pages

    def reserve_more(self, pages: int) -> None:
        """In the middle of a batch: room for copies of so many pages more. Raises NoSpaceError."""
        self.check_room(pages)
        self._open_pages += pages

    def check_room(self, pages: int) -> None:
        """Raises NoSpaceError if a batch that touches so many pages would find no blocks for their copies now."""
        self._must_have(self._open_growth(0, pages))

    def _open_growth(self, value_bytes: int, pages: int) -> int:
        copies_bytes = (self._open_pages + pages) * self._page_size
        return self._open_bytes + value_bytes + min(copies_bytes, self.size_bytes + SPLITS_BYTES)

    def _must_have(self, growth_bytes: int) -> None:
        needed_bytes = self.size_bytes + growth_bytes
        if needed_bytes > self._reservation.reserved_bytes:
            self._reservation.extend(needed_bytes)

    @property
    def open_bytes(self) -> int:
        """Bytes of values in the open transaction, which `size_bytes` does not know of yet."""
        return self._open_bytes

    @property
    def in_use_bytes(self) -> int:
        """`size_bytes` without the pages on the free list (PY-31). Counted when asked, once per commit."""
        if self._free[0] != self._txn_id:
            self._free = (self._txn_id, count_free_pages(self._fd, self._metas().newest))
        return self.size_bytes - self._free[1] * self._page_size

    def _metas(self) -> MetaPages:
        metas = read_metas(self._fd, self._path)
        assert metas.newest.txn_id == self._txn_id, "a commit went past Backend.commit"
        return metas

    # --- checkpoints ----------------------------------------------------------------------------------------

    def begin_checkpoint(self) -> Checkpoint | None:
        """Pins the newest snapshot for `Checkpoint.sync`; None if it is durable already. One at a time.

        Raises BackendError after the kernel has failed to write pages back: close, and start again.
        """
        assert self._checkpoint is None, "a checkpoint is in flight"
        if self._distrusted:
            raise BackendError(f"{self._directory}: pages were lost on their way to disk; restart this member")
        self.commit()
        if self._txn_id == self._durable.metas.newest.txn_id:
            return None
        return self._new_checkpoint(clean=False)

    def _new_checkpoint(self, *, clean: bool) -> Checkpoint:
        txn = self._env.begin()
        metas = self._metas()
        assert txn.id() == metas.newest.txn_id
        index, term = environment.consistent_index(txn, self._meta, self._path)
        record = CheckpointRecord(metas, index, term, self._boot_id, clean)
        self._checkpoint = Checkpoint(self._directory, self._fd, txn, record, self._durable)
        return self._checkpoint

    def end_checkpoint(self, checkpoint: Checkpoint) -> None:
        """After `sync` has returned or raised. Only when the newer one is durable does the older pin go."""
        assert checkpoint is self._checkpoint
        self._checkpoint = None
        if checkpoint.durable:
            self._durable_pin.abort()
            self._durable_pin = checkpoint.txn
            self._durable = checkpoint.record
            self.durable_index = checkpoint.consistent_index
        else:
            checkpoint.txn.abort()
            self._distrusted = self._distrusted or not checkpoint.trusted

    # --- copies ---------------------------------------------------------------------------------------------

    def begin_copy(self) -> HotCopy:
        """The newest snapshot as a file's bytes, while commits go on. Close it. Raises TooManyPinsError."""
        pin = self.pin()
        metas = self._metas()
        try:
            consistent = environment.consistent_index(pin.txn, self._meta, self._path)
            return HotCopy(pin, os.dup(self._fd), metas, consistent)
        except BaseException:
            pin.close()
            raise

    def begin_defragment(self) -> Defragmentation:
        """From here to `finish_defragment` or `abandon_defragment` nobody may commit. Reads go on."""
        assert self._defragmentation is None, "a defragmentation is under way"
        self.commit()
        self._defragmentation = Defragmentation(self._directory, self._env, self._env.begin())
        return self._defragmentation

    def finish_defragment(self, job: Defragmentation) -> None:
        """Swaps the copy in and opens it: `tables` are new, the shared read transaction is gone. Blocks.

        Raises PinsOpenError if somebody holds a pin or a hot copy: wait for them and call again, or abandon.
        An OSError later on leaves the backend closed; the next open finishes the swap.
        """
        assert job is self._defragmentation, "not the defragmentation under way"
        assert job.done, "the copy is not whole"
        assert self._checkpoint is None, "a checkpoint is in flight"
        assert job.txn.id() == self._txn_id, "a commit after the copy would be lost"
        if self._pins:
            raise PinsOpenError(f"{len(self._pins)} snapshots are pinned")
        before_bytes = self.size_bytes
        consistent = environment.consistent_index(job.txn, self._meta, self._path)
        datadir.stage_next(self._directory, job.path)
        self._defragmentation = None
        self._detach()
        datadir.finish_swap(self._directory, self._boot_id, consistent)
        record = datadir.load_checkpoint(self._directory)
        assert record is not None
        self._durable = record
        self._attach()
        fields = {"before_bytes": before_bytes, "after_bytes": self.size_bytes}
        _log.info("store defragmented", extra={"kv": fields})

    def abandon_defragment(self, job: Defragmentation) -> None:
        """Gives the copy up, after `run` has returned or raised."""
        assert job is self._defragmentation, "not the defragmentation under way"
        self._defragmentation = None
        job.discard()
