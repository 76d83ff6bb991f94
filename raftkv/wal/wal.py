"""The write-ahead log: what this node has promised to remember, in the order of the promises (RF-40, RF-47).

Owns the order stage -> write -> sync -> cut, and the rule that nothing goes on after a failed sync.
Knows no Raft: it stores entries and hard states without judging them. The bytes are the business of
`records`, files that of `files`, reading back that of `reader`. The server locks the data directory.

Two threads use a Wal, and no lock is needed between them:
  - the loop calls `stage`, which only encodes and appends to the pending list;
  - the WAL thread calls `flush` and, when the result has been handed back, `maintain`.
While the WAL thread has nothing to do, the loop may take its side for one flush: `begin_flush` writes and leaves the
sync to the caller, who reports it with `end_flush`.
Every field below belongs to one side, which alone writes it. The pending list is shared: the loop appends
at its end, the WAL thread removes from its front, and each is a single list operation.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from raftkv.raft import Entry, HardState
from raftkv.wal import records
from raftkv.wal.errors import WalExistsError, WalIoError, from_os_error
from raftkv.wal.files import (
    SegmentName,
    SegmentPool,
    list_segments,
    open_segment,
    remove_leftovers,
    sync_directory,
    write_at,
)
from raftkv.wal.reader import LogReader, Tail, TornTail, WalContents
from raftkv.wal.records import ORIGIN, TERMINATOR, Kind, LogPosition, SegmentHeader

_log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 64 << 20
"""RF-47. The same as etcd's."""

MAX_STAGED_BYTES: Final = 64 << 20
"""Bound of what waits for a flush. What Raft has handed out cannot be refused, so `stage` takes it still; but
when `backlogged`, the server takes no further Ready from the core until a flush has returned."""

MAX_INLINE_BYTES: Final = 1 << 20
"""What `begin_flush` writes on the loop: a copy into the page cache, a fraction of a millisecond."""

MAX_UNIT_BYTES: Final = 16 << 20
"""A larger `stage` is written as several units, so that it needs no segment of its own."""

RESERVE_BYTES: Final = 1 << 20
"""Not counted in `room_bytes`: with a full disk, terms, votes, and the entry that raises the NOSPACE alarm
must still find a place."""


class FlushResult(NamedTuple):
    bytes_written: int
    write_s: float
    sync_s: float
    """0.0 when no sync was due (RF-41) or syncing is switched off."""


class _Unit(NamedTuple):
    """One `stage` call, encoded, and what a segment header has to say once it is written."""

    payload: bytes
    last: LogPosition
    hard_state: HardState
    must_sync: bool


class Wal:
    """An open log. Made by `create` or `open`; afterwards see the module about who may call what."""

    __slots__ = (
        "_begun",
        "_broken",
        "_chain",
        "_descriptor",
        "_directory",
        "_flushed_bytes",
        "_hard_state",
        "_last",
        "_metadata",
        "_no_sync",
        "_offset",
        "_pending",
        "_pool",
        "_release_index",
        "_salt",
        "_sealed",
        "_secret",
        "_segments",
        "_size_bytes",
        "_staged_bytes",
        "_staged_hard_state",
        "_staged_last",
        "_synced",
        "_unsynced",
    )

    def __init__(
        self, directory: Path, header: SegmentHeader, last: LogPosition, segment_bytes: int, no_sync: bool
    ) -> None:
        """Not for callers: `create` and `open` finish what begins here."""
        assert segment_bytes <= records.MAX_SEGMENT_BYTES
        # The loop's.
        self._staged_last = last
        self._staged_hard_state = header.hard_state
        self._staged_bytes = 0
        """Bytes of payload ever staged; minus `_flushed_bytes` that is what waits."""
        self._release_index = 0
        """Entries before it may go. Never decreases."""

        # Shared, see the module.
        self._pending: list[_Unit] = []

        # The WAL thread's.
        self._directory = directory
        self._metadata = header.metadata
        self._secret = header.secret
        self._no_sync = no_sync
        self._pool = SegmentPool(directory, segment_bytes)
        self._segments: list[SegmentName] = []
        """Oldest first; the last is the one written to."""
        self._last = last
        """The last position *written*: a segment header must not speak of what only comes after it."""
        self._hard_state = header.hard_state
        self._flushed_bytes = 0
        self._descriptor = -1
        self._size_bytes = 0
        self._offset = 0
        """Where the next frame begins in the segment. Zeros stand there."""
        self._synced = 0
        """Everything before this offset is durable; what `Frame.synced` says. Stays behind without syncs."""
        self._chain = 0
        self._salt = 0
        self._sealed = False
        """The last frame is a SEAL: closing again has nothing to add."""
        self._unsynced = False
        """Written since the last fdatasync."""
        self._begun: FlushResult | None = None
        """Between `begin_flush` and `end_flush`."""
        self._broken = False
        """A write or sync failed, or was interrupted. What is on disk is unknown until it is read again."""

    # -- making one ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Path,
        metadata: bytes,
        *,
        base: LogPosition = ORIGIN,
        segment_bytes: int = SEGMENT_BYTES,
        unsafe_no_fsync: bool = False,
    ) -> Wal:
        """A new log whose first entry will be base.index + 1, durable when this returns.

        `metadata` is opaque (node and cluster id) and is repeated in every segment. `base` is not (0, 0) when
        the node starts from a restored snapshot. Raises WalExistsError when there are segments,
        WalFullError, WalIoError.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if list_segments(directory):
                raise WalExistsError(f"there is already a write-ahead log in {directory}")
            remove_leftovers(directory)
            secret = int.from_bytes(os.urandom(4), "big")
            header = SegmentHeader(0, base.index + 1, base.term, 0, secret, HardState(0, 0, 0), metadata)
            wal = cls(directory, header, base, segment_bytes, unsafe_no_fsync)
            wal._begin_segment(0)
            sync_directory(directory.parent)
        except OSError as error:
            raise from_os_error(error, f"creating a log in {directory}") from error
        return wal

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        metadata: bytes | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        unsafe_no_fsync: bool = False,
    ) -> tuple[Wal, WalContents]:
        """Read the log back, cut a torn tail, and be ready to append.

        With `metadata` given the log must carry the same. Raises WalMissingError, WalCorruptError,
        WalMetadataError (nothing has been changed then), WalFullError, WalIoError.
        """
        reader = LogReader(directory, metadata)
        for _ in reader.run():
            pass
        contents, tail = reader.contents, reader.tail
        header = tail.header._replace(hard_state=contents.hard_state)
        wal = cls(directory, header, contents.last, segment_bytes, unsafe_no_fsync)
        try:
            remove_leftovers(directory)
            if reader.unfinished is not None:
                reader.unfinished.unlink()
            sync_directory(directory)
            wal._segments = list_segments(directory)
            wal._resume(tail, contents.torn)
        except OSError as error:
            raise from_os_error(error, f"opening the log in {directory}") from error
        return wal, contents

    def _resume(self, tail: Tail, torn: TornTail | None) -> None:
        """Continue behind the last sound frame, with everything up to there durable and zeros behind it."""
        descriptor = open_segment(tail.name.path(self._directory))
        try:
            if torn is not None:
                _cut_tail(descriptor, torn, tail.header.size_bytes)
            # After a mere process kill, frames can be sound in the page cache and not yet on disk. From now
            # on they are part of the log, so they have to be durable before a later frame says so.
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._size_bytes = tail.header.size_bytes
        self._salt = records.segment_salt(self._secret, tail.name.sequence)
        self._offset = self._synced = tail.offset
        self._chain = tail.chain
        self._sealed = tail.sealed

    # -- the loop's side -------------------------------------------------------------------------------------

    def stage(
        self, hard_state: HardState | None, entries: Sequence[Entry], snapshot: LogPosition | None = None
    ) -> None:
        """Encode what the next flush is to make durable. Never blocks.

        `entries` are consecutive and begin at or before the end of the log: an index that is there already
        replaces it and all that follow. With `snapshot` the log first restarts behind that position, and all
        entries staged before are void; the snapshot must be durable before the flush that writes this.
        """
        last = snapshot or self._staged_last
        if entries:
            assert entries[0].index <= last.index + 1, "entries leave a gap"
            final = entries[-1]
            assert final.index - entries[0].index == len(entries) - 1, "entries are not consecutive"
            last = LogPosition(final.index, final.term)
        payload = records.encode_unit(hard_state, entries, snapshot)
        if not payload:
            return
        if len(payload) > MAX_UNIT_BYTES and len(entries) > 1:
            # The hard state comes with the second half, so it never commits an entry that is not there.
            middle = len(entries) // 2
            self.stage(None, entries[:middle], snapshot)
            self.stage(hard_state, entries[middle:])
            return
        known, state = self._staged_hard_state, hard_state or self._staged_hard_state
        # A commit index alone may be lost: it is learned again (RF-41).
        must_sync = bool(entries) or snapshot is not None or state.term != known.term or state.vote != known.vote
        self._staged_last = last
        self._staged_hard_state = state
        self._staged_bytes += len(payload)
        self._pending.append(_Unit(payload, last, state, must_sync))

    def release_before(self, index: int) -> None:
        """Entries before `index` are no longer needed: a durable checkpoint covers them.

        Only notes it; `maintain` removes the segments that lie wholly before.
        """
        self._release_index = max(self._release_index, index)

    @property
    def staged_bytes(self) -> int:
        """Encoded and not yet durable."""
        return self._staged_bytes - self._flushed_bytes

    @property
    def backlogged(self) -> bool:
        """See MAX_STAGED_BYTES."""
        return self.staged_bytes >= MAX_STAGED_BYTES

    @property
    def room_bytes(self) -> int:
        """What can be staged from now on without asking the disk for blocks; negative in the reserve."""
        ahead = self._pool.segment_bytes if self._pool.has_next else 0
        return self._size_bytes - self._offset + ahead - self.staged_bytes - RESERVE_BYTES

    @property
    def preallocate_failed(self) -> bool:
        """The disk has no room for the next segment. There is time to act: `room_bytes` are still left."""
        return self._pool.failed

    def disk_has_room(self) -> bool:
        """What the file system says of the next segment, without a try."""
        return self._pool.disk_has_room()

    def retry_preallocation(self) -> None:
        """After space was made: let the next `maintain` try again."""
        self._pool.retry()

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    # -- the WAL thread's side -------------------------------------------------------------------------------

    def flush(self) -> FlushResult:
        """Make everything staged so far durable: one write and one fdatasync, unless a segment ends within.

        Raises WalFullError or WalIoError; after either, and on every later call, the log is unusable.
        """
        units = self._take_pending()
        if not units:
            return FlushResult(0, 0.0, 0.0)
        with_sync = not self._no_sync and any(unit.must_sync for unit in units)
        started = perf_counter()
        self._claim()
        try:
            written = self._write(units)
            wrote = perf_counter()
            if with_sync:
                self._sync()
        except OSError as error:
            raise self._failed(error) from error
        self._broken = False
        self._flushed_bytes += sum(len(unit.payload) for unit in units)
        return FlushResult(written, wrote - started, perf_counter() - wrote if with_sync else 0.0)

    def begin_flush(self) -> int | None:
        """Write everything staged, and return the descriptor that the caller has to fdatasync; then `end_flush`.

        None: this flush is not of that kind (large, ends the segment, needs no sync) and nothing was done: call `flush`
        in the WAL thread. Raises WalFullError or WalIoError; the log is unusable then.
        """
        count = len(self._pending)
        units = self._pending[:count]
        size_bytes = sum(len(unit.payload) for unit in units)
        with_sync = not self._no_sync and any(unit.must_sync for unit in units)
        if not with_sync or size_bytes > MAX_INLINE_BYTES or not self._fits(size_bytes):
            return None
        self._claim()
        del self._pending[:count]
        started = perf_counter()
        try:
            written = self._write(units)
        except OSError as error:
            raise self._failed(error) from error
        self._flushed_bytes += size_bytes
        self._begun = FlushResult(written, perf_counter() - started, 0.0)
        return self._descriptor

    def end_flush(self, sync_s: float, error: OSError | None) -> FlushResult:
        """The caller's fdatasync after `begin_flush` took so long, or failed: then raises WalIoError."""
        assert self._begun is not None, "no flush has begun"
        begun, self._begun = self._begun, None
        if error is not None:
            raise self._failed(error) from error
        self._unsynced = False
        self._synced = self._offset
        self._broken = False
        return begun._replace(sync_s=sync_s)

    def _failed(self, error: OSError) -> WalIoError:
        return from_os_error(error, f"writing to {self._segments[-1].path(self._directory)}")

    @property
    def maintenance_due(self) -> bool:
        """`maintain` has something to do. Read by the loop, while the WAL thread has nothing to do.

        Blocks for the next segment are reserved at once, to know in time whether there are any. Zeros are written into
        them only when a quarter of this one is full: each step is a sync that a flush may have to wait for.
        """
        released = len(self._segments) > 1 and self._segments[1].first_index <= self._release_index
        near = not self._pool.has_next or 4 * self._offset >= self._size_bytes
        return released or (near and self._pool.has_work)

    def maintain(self) -> bool:
        """One bounded step of housekeeping: drop released segments, prepare the next one. True: call again.

        To be called after the result of `flush` was handed back, so that nobody waits for it. Without it
        the log works, but a cut stalls for the preparation and released segments stay. Raises WalIoError.
        """
        self._claim()
        try:
            self._release()
            more = self._pool.step()
        except OSError as error:
            raise from_os_error(error, f"preparing a segment in {self._directory}") from error
        self._broken = False
        return more

    def close(self) -> None:
        """Flush what is staged, seal the log if it is sound, and let go of the files.

        No flush may be running. Raises WalFullError or WalIoError when the rest could not be made durable;
        the files are closed in any case.
        """
        if self._descriptor < 0:
            return
        try:
            if not self._broken:
                self.flush()
                self._seal()
        except OSError as error:
            raise from_os_error(error, f"closing the log in {self._directory}") from error
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
            self._pool.close()

    def _claim(self) -> None:
        """Refuse a broken log, and take it for broken until the work now beginning has come to its end."""
        if self._broken:
            raise WalIoError("the write-ahead log takes no more writes after an earlier failure")
        self._broken = True

    def _take_pending(self) -> list[_Unit]:
        # Not `units, self._pending = self._pending, []`: the loop may have fetched the old list just before
        # and append to it just after, when nobody will look at it any more.
        count = len(self._pending)
        units = self._pending[:count]
        del self._pending[:count]
        return units

    def _write(self, units: list[_Unit]) -> int:
        """Write the units as one frame, or as one per segment when they do not fit. Returns bytes written."""
        written = 0
        for group in self._by_segment(units):
            written += self._write_frame(Kind.BATCH, b"".join([unit.payload for unit in group]))
            self._last = group[-1].last
            self._hard_state = group[-1].hard_state
        return written

    def _by_segment(self, units: list[_Unit]) -> Iterator[list[_Unit]]:
        """The units in groups that fit; a cut is made between two groups. A unit is never divided."""
        group: list[_Unit] = []
        size = 0
        for unit in units:
            size += len(unit.payload)
            if not self._fits(size):
                if group:
                    yield group
                size = len(unit.payload)
                group = []
                if not self._fits(size):
                    self._cut(size)
            group.append(unit)
        yield group

    def _fits(self, length: int) -> bool:
        return self._offset + records.frame_size(length) + len(TERMINATOR) <= self._size_bytes

    def _write_frame(self, kind: Kind, payload: bytes) -> int:
        header, crc = records.encode_frame_header(
            kind, self._chain, self._segments[-1].sequence, self._offset, self._synced, payload, self._salt
        )
        size = records.frame_size(len(payload))
        write_at(
            self._descriptor,
            [header, payload, bytes(records.padding(len(payload))) + TERMINATOR],
            self._offset,
        )
        self._chain = crc
        self._offset += size
        self._unsynced = True
        self._sealed = kind is Kind.SEAL
        return size

    def _sync(self) -> None:
        if self._unsynced:
            os.fdatasync(self._descriptor)
            self._unsynced = False
        self._synced = self._offset

    def _cut(self, length: int) -> None:
        """Begin a new segment with room for a frame of `length`."""
        # Even with `unsafe_no_fsync`: a successor is taken as proof that this segment is durable to its end.
        self._sync()
        self._release()  # so that an old segment can be the new one
        finished = self._descriptor
        self._begin_segment(length)
        os.close(finished)

    def _begin_segment(self, length: int) -> None:
        """Write to the next segment from now on. Its header has all that earlier ones told a reader."""
        sequence = self._segments[-1].sequence + 1 if self._segments else 0
        name = SegmentName(sequence, self._last.index + 1)
        head_bytes = records.frame_size(records.SEGMENT_HEADER_BYTES + len(self._metadata))
        least_bytes = head_bytes + records.frame_size(length) + len(TERMINATOR)
        payload = records.encode_segment_header(
            SegmentHeader(
                *name,
                self._last.term,
                self._pool.size_for(least_bytes),
                self._secret,
                self._hard_state,
                self._metadata,
            )
        )
        header, crc = records.encode_frame_header(Kind.HEADER, self._chain, sequence, 0, 0, payload, salt=0)
        parts = [header, payload, bytes(records.padding(len(payload))) + TERMINATOR]
        self._descriptor, self._size_bytes = self._pool.take(name, parts, least_bytes)
        self._segments.append(name)
        self._salt = records.segment_salt(self._secret, sequence)
        self._offset = self._synced = records.frame_size(len(payload))
        self._chain = crc

    def _release(self) -> None:
        # A segment begins at the end of the log as it then was, so what lives in earlier ones is smaller.
        while len(self._segments) > 1 and self._segments[1].first_index <= self._release_index:
            self._pool.recycle(self._segments[0].path(self._directory))
            del self._segments[0]

    def _seal(self) -> None:
        if self._sealed or not self._fits(0):
            return
        self._sync()
        self._write_frame(Kind.SEAL, b"")
        self._sync()


def _cut_tail(descriptor: int, torn: TornTail, size_bytes: int) -> None:
    """Zeros in place of the torn tail, and the file at its proper size. Safe to interrupt and repeat."""
    _log.warning(
        "cut an unfinished write off the log",
        extra={"kv": {"file": str(torn.file), "offset": torn.offset, "size_bytes": torn.size_bytes}},
    )
    os.ftruncate(descriptor, size_bytes)
    os.posix_fallocate(descriptor, 0, size_bytes)
    end = min(torn.offset + torn.size_bytes, size_bytes)
    for start in range(torn.offset, end, 1 << 20):
        write_at(descriptor, [bytes(min(1 << 20, end - start))], start)
