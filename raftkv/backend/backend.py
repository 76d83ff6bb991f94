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
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import lmdb

from raftkv.backend import datadir, environment
from raftkv.backend.checkpoint import CheckpointRecord, read_boot_id
from raftkv.backend.durability import Checkpoint, Durability
from raftkv.backend.errors import BackendError, NoSpaceError, PinsOpenError, TooManyPinsError
from raftkv.backend.handles import Db, ReadTxn, WriteTxn
from raftkv.backend.metapage import MetaPages, read_metas
from raftkv.backend.received import ReceivedStore
from raftkv.backend.recovery import Recovered, recover
from raftkv.backend.schema import Tables
from raftkv.backend.snapshots import MAX_PINS, Defragmentation, HotCopy, Pins, ReadPin
from raftkv.backend.space import RESERVE_STEP_BYTES, Reservation, Room, close_in_thread, count_free_pages

if TYPE_CHECKING:
    from raftkv.histogram import Histogram

_log = logging.getLogger(__name__)

MAP_SIZE_BYTES: Final = 64 << 30
"""Address space and apparent file size, not memory or blocks. Eight times the largest quota etcd advises."""

_OWN_READERS: Final = 24
"""Reader slots beside the pins: the shared one, two checkpoints, a defragmentation, LMDB's spare."""


class Backend:
    """An open store.

    `tables`: the table handles. New ones after `finish_defragment` and `install`, so hold the backend, or be told.
    `size_bytes`: up to the end of the last used page, as of the last commit. What the quota compares (AL-22).
    """

    __slots__ = (
        "_boot_id",
        "_defragmentation",
        "_directory",
        "_durability",
        "_env",
        "_fd",
        "_free",
        "_lock",
        "_map_size_bytes",
        "_meta",
        "_page_size",
        "_path",
        "_pins",
        "_poisoned",
        "_read",
        "_room",
        "_step_bytes",
        "_txn_id",
        "_write",
        "before_commit",
        "commit_durations",
        "on_failed",
        "recovered",
        "refuse_pins",
        "size_bytes",
        "tables",
    )

    _env: lmdb.Environment
    _fd: int
    """Of the data file; -1 once detached. Never the map's: for the meta pages, the free list, fallocate, fdatasync."""
    _meta: Db
    _page_size: int
    _read: ReadTxn | None
    """The shared one; None until somebody reads the newest commit."""
    _txn_id: int
    """Of the newest commit."""
    _durability: Durability
    _free: tuple[int, int]
    """(transaction id, free pages) of the last count."""
    _room: Room
    tables: Tables
    size_bytes: int
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
        self._pins = Pins()
        self.refuse_pins = False
        """For whoever waits for the open pins to end: `pin` and `begin_copy` raise TooManyPinsError meanwhile."""
        self._defragmentation: Defragmentation | None = None
        self.before_commit: Callable[[WriteTxn], None] | None = None
        """Given by whoever writes: called with each transaction before its commit, for what only a commit needs."""
        self.commit_durations: Histogram | None = None
        """Given by whoever measures: seconds."""
        self.on_failed: Callable[[Exception], None] | None = None
        """Told once writing has failed for good."""
        self._poisoned: BaseException | None = None
        self._write: WriteTxn | None = None
        """Open, with what was written since the last commit."""

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
        datadir.make_directory(directory)
        lock = datadir.DirectoryLock(directory)
        try:
            self = cls(directory, lock, boot_id or read_boot_id(), map_size_bytes, reserve_step_bytes)
            record, self.recovered = recover(directory, self._boot_id)
            self._attach(record)
        except BaseException:
            lock.release()
            raise
        # `_attach` made a checkpoint of what it found, which may be newer than the one recovered from.
        record = self._durability.record
        self.recovered = self.recovered._replace(consistent_index=record.consistent_index, term=record.term)
        self.recovered.report(directory)
        return self

    def _attach(self, record: CheckpointRecord) -> None:
        """Opens the environment on data.mdb and makes what it holds the first checkpoint after `record`."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._env = environment.open_environment(self._directory, self._map_size_bytes, MAX_PINS + _OWN_READERS)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise
        try:
            self._page_size = record.metas.newest.page_size
            self._read = None
            self._free = (-1, 0)
            reservation = Reservation(self._fd, self._step_bytes, self._env.info()["map_size"])
            self._room = Room(reservation, self._page_size)
            self._note_commit()
            self._room.reserve_if_there_is()
            self._meta = environment.open_meta(self._env, self._path)
            self._durability = Durability(self._directory, self._fd, self._boot_id, record, self._env.begin())
            # Before the first commit: the commits of an earlier process may still be in the page cache only,
            # and from the first commit on their pages could be reused, were they not pinned and durable.
            self._checkpoint_now(clean=False)
            self.tables = environment.open_tables(self._env)
            self._note_commit()
        except BaseException:
            self._detach()
            raise

    def _detach(self) -> None:
        """Closes the environment; every transaction on it dies. Idempotent."""
        self.abort()
        self._read = None
        self._env.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """A last checkpoint with the clean mark, then lets go of the directory. Pins and hot copies end here.

        Blocks. Raises OSError if the last checkpoint failed: the store is closed then too, and will replay.
        """
        assert self._durability.in_flight is None, "a checkpoint is in flight"
        if self._defragmentation is not None:
            self.abandon_defragment(self._defragmentation)
        try:
            if not (self._durability.distrusted or self._poisoned):
                self.commit()
                self._checkpoint_now(clean=True)
        finally:
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
        started_s = perf_counter()
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
        if self.commit_durations is not None:
            self.commit_durations.observe(perf_counter() - started_s)

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
        self._room.note_end(self.size_bytes)

    @property
    def commit_due(self) -> bool:
        """The open transaction has grown enough; LMDB bounds how many pages one may dirty."""
        return self._room.commit_due

    def _note_commit(self) -> None:
        info = self._env.info()
        self._txn_id = info["last_txnid"]
        self.size_bytes = (info["last_pgno"] + 1) * self._page_size
        self._room.note_end(self.size_bytes)

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

        Raises TooManyPinsError at MAX_PINS, and while `refuse_pins`.
        """
        return self._pin(of_copy=False)

    def _pin(self, *, of_copy: bool) -> ReadPin:
        if self.refuse_pins:
            raise TooManyPinsError("the store is about to be replaced; try again in a moment")
        self._pins.check_room()
        self.commit()
        return self._pins.add(self._env.begin(), of_copy=of_copy)

    @property
    def pin_count(self) -> int:
        """Open pins and hot copies."""
        return len(self._pins)

    @property
    def blocking_pin_count(self) -> int:
        """Pins that `install` and `finish_defragment` have to wait for; hot copies outlive the environment."""
        return self._pins.blocking_count

    @property
    def oldest_pin_age_s(self) -> float:
        """0.0 if there are none."""
        return self._pins.oldest_age_s

    # --- space ----------------------------------------------------------------------------------------------

    def reserve(self, extra_bytes: int) -> None:
        """Makes sure that the file can grow by so much beyond what is open. Raises NoSpaceError."""
        self._room.reserve(extra_bytes)

    def reserve_batch(self, value_bytes: int, pages: int) -> None:
        """Before every batch: room for its values, and for copies of the pages that it touches.

        A transaction copies a page once, so copies are never more than the file has pages. Raises NoSpaceError; a
        transaction that outgrows its reservation on a full disk kills the process.
        """
        try:
            self._room.check(value_bytes, pages)
        except NoSpaceError:
            if self._write is None:
                raise
            self.commit()  # what is open may have taken less than was reckoned
            self._room.check(value_bytes, pages)
        self._room.note(value_bytes, pages)

    def reserve_more(self, pages: int) -> None:
        """In the middle of a batch: room for copies of so many pages more. Raises NoSpaceError."""
        self._room.check(0, pages)
        self._room.note(0, pages)

    def check_room(self, pages: int) -> None:
        """Raises NoSpaceError if a batch that touches so many pages would find no blocks for their copies now."""
        self._room.check(0, pages)

    @property
    def open_bytes(self) -> int:
        """Bytes of values in the open transaction, which `size_bytes` does not know of yet."""
        return self._room.open_bytes

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

    @property
    def durable_index(self) -> int:
        """Consistent index of the last durable checkpoint; entries above it must stay in the log."""
        return self._durability.record.consistent_index

    def begin_checkpoint(self) -> Checkpoint | None:
        """Pins the newest snapshot for `Checkpoint.sync`; None if it is durable already. One at a time.

        Raises BackendError after the kernel has failed to write pages back: close, and start again.
        """
        if self._durability.distrusted:
            raise BackendError(f"{self._directory}: pages were lost on their way to disk; restart this member")
        self.commit()
        if self._txn_id == self._durability.record.metas.newest.txn_id:
            return None
        return self._new_checkpoint(clean=False)

    def _new_checkpoint(self, *, clean: bool) -> Checkpoint:
        txn = self._env.begin()
        consistent = environment.consistent_index(txn, self._meta, self._path)
        return self._durability.begin(txn, self._metas(), consistent, clean=clean)

    def _checkpoint_now(self, *, clean: bool) -> None:
        checkpoint = self._new_checkpoint(clean=clean)
        try:
            checkpoint.sync()
        finally:
            self._durability.end(checkpoint)

    def end_checkpoint(self, checkpoint: Checkpoint) -> None:
        """After `sync` has returned or raised."""
        self._durability.end(checkpoint)

    # --- copies ---------------------------------------------------------------------------------------------

    def begin_copy(self) -> HotCopy:
        """The newest snapshot as a file's bytes, while commits go on. Close it. Raises TooManyPinsError."""
        pin = self._pin(of_copy=True)
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

        Raises PinsOpenError if somebody holds a pin: wait for them and call again, or abandon. Raises BackendError
        after a failure of this backend. An OSError later on leaves the backend closed; the next open finishes the swap.
        """
        assert job is self._defragmentation, "not the defragmentation under way"
        assert job.done, "the copy is not whole"
        assert job.txn.id() == self._txn_id, "a commit after the copy would be lost"
        self._check_replaceable()
        before_bytes = self.size_bytes
        consistent = environment.consistent_index(job.txn, self._meta, self._path)
        self._defragmentation = None
        self._replace(job.path, consistent)
        fields = {"before_bytes": before_bytes, "after_bytes": self.size_bytes}
        _log.info("store defragmented", extra={"kv": fields})

    def abandon_defragment(self, job: Defragmentation) -> None:
        """Gives the copy up, after `run` has returned or raised."""
        assert job is self._defragmentation, "not the defragmentation under way"
        self._defragmentation = None
        job.discard()

    # --- another store in this one's place --------------------------------------------------------------------

    def install(self, received: ReceivedStore) -> None:
        """Puts a received store, finished in this directory, in the place of this one (RF-45). Blocks briefly.

        Only after the log has decided for it, durably: see `settle_received`. What is in the open transaction is
        dropped, `tables` are new, the shared read transaction is gone; all that was loaded must be loaded again.
        Raises PinsOpenError if somebody holds a pin: wait for them (`blocking_pin_count`, `refuse_pins`) and call
        again. Raises BackendError after a failure of this backend, OSError when the swap fails, which leaves the
        backend closed: in either case end the process, the next start finishes the swap.
        """
        assert received.done, "the received store is not whole"
        assert received.path.parent == self._directory, "received for another directory"
        assert self._defragmentation is None, "a defragmentation is under way"
        self._check_replaceable()
        before_index = self.durable_index
        self._replace(received.path, (received.consistent_index, received.term))
        fields = {"index": self.durable_index, "before_index": before_index, "size_bytes": self.size_bytes}
        _log.info("received store installed", extra={"kv": fields})

    def _check_replaceable(self) -> None:
        assert self._durability.in_flight is None, "a checkpoint is in flight"
        if self._durability.distrusted or self._poisoned:
            # A received file has none of the lost pages and nothing of the dropped transaction, so installing would
            # cure the disk. But not the memory: whoever wrote what was dropped may hold on to it, and the member was
            # told to end. Refusing loses nothing: the log has decided, the next start installs. And a compacted
            # copy was read from this file's pages, lost ones perhaps among them.
            raise BackendError(f"{self._path}: is not replaced after a failure; restart this member")
        if self._pins.blocking_count:
            raise PinsOpenError(f"{self._pins.blocking_count} snapshots are pinned")

    def _replace(self, whole: Path, consistent: tuple[int, int]) -> None:
        """Makes a synced data file the open store. Whatever fails leaves this backend closed, for good.

        A crash, or such a failure, leads to the old store until `whole` is staged, and to the new one afterwards.
        """
        old_fd = os.dup(self._fd)
        try:
            datadir.stage_next(self._directory, whole)
            # Hot copies read on through descriptors of their own: once the environment is closed nobody writes to
            # the old file any more, so its pages need no pin.
            self._pins.end_copies()
            self._detach()
            datadir.finish_swap(self._directory, self._boot_id, consistent)
            record = datadir.load_checkpoint(self._directory)
            assert record is not None
            self._attach(record)
        except BaseException as failure:
            self._detach()
            # Not the old store any more, nor the new one: `close` must write no checkpoint of either.
            self._poisoned = self._poisoned or failure
            raise
        finally:
            close_in_thread(old_fd)  # the last one, unless a hot copy reads: frees all blocks of the old file
