"""Reading the log back: is it sound, where does it end, what does it say.

Owns the judgement between a torn tail, which is cut, and damage, which is refused. Opens files for
reading only; the cut itself is made by `wal`.

Torn tail or damage?
    A crash may leave any subset of the sectors of writes that were not synced yet. None of them was
    acknowledged to anybody, so they may go. Everything that was synced must be there, bit by bit; a bad
    byte in it means that acknowledged data is lost, and a log cut short there would lie to the cluster.

    Take the first frame, at offset p, that does not validate or does not continue the chain. It *had been
    synced* if anything proves so:
      - a later segment. Before a cut gives the new segment its name the old one is synced to its end; the
        new header carries the crc of the last frame, so a segment that ends early does not fit either.
      - a valid frame behind p in the same segment whose `synced` field is beyond p. The field is the offset
        up to which the writer had seen fdatasync succeed. (The SEAL of a clean close is such a frame.)
    Otherwise p belongs to the last write or to several writes without a sync in between, and the whole
    tail from p on is cut. Valid frames behind p with `synced` <= p are of the same unsynced run: they may
    hold entries, but behind a hole, so they go as well.

    What cannot be told apart: damage that hits exactly the last synced write, after a crash, looks like a
    torn tail. It is cut and reported, never replayed as other data. The server can still notice that
    the log then ends before the store's consistent index.

Where does a sound log end?
    Each write puts zeros the size of a frame header behind its last frame, so a sound log ends with zeros,
    also in a recycled file with stale bytes behind. Anything else there is a torn tail and is reported; so is
    a valid frame further on, whose predecessor was lost: left there, it could meet the end of a later write.
    Stale bytes of an earlier life cannot validate (see `records`), nor can they be taken for proof.

A sector is taken to be written whole or not at all, and a write that appends within a sector to keep the
bytes already in it. Disks that lie about either, or about fdatasync, are outside of what a log can defend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from raftkv.raft import Entry, HardState
from raftkv.wal import records
from raftkv.wal.errors import WalCorruptError, WalMetadataError, WalMissingError, from_os_error
from raftkv.wal.files import SegmentName, list_segments
from raftkv.wal.records import Frame, Kind, LogPosition, MalformedRecord, SegmentHeader


class TornTail(NamedTuple):
    """What an interrupted write left behind: `size_bytes` from `offset` on that are not replayed."""

    file: Path
    offset: int
    size_bytes: int


@dataclass(slots=True)
class WalContents:
    """What the log says, after replaying every record in order."""

    metadata: bytes
    hard_state: HardState
    base: LogPosition
    """The position before the first entry: where the log was created or restarted by a snapshot, or up to
    where segments were released."""
    entries: list[Entry] = field(default_factory=list)
    """Consecutive, from base.index + 1 on."""
    torn: TornTail | None = None

    @property
    def first_index(self) -> int:
        """Index of the first entry, or of the one to come when there is none."""
        return self.base.index + 1

    @property
    def last(self) -> LogPosition:
        return LogPosition(self.entries[-1].index, self.entries[-1].term) if self.entries else self.base


class Tail(NamedTuple):
    """Where writing goes on: the last segment and the state of its chain."""

    name: SegmentName
    header: SegmentHeader
    offset: int
    chain: int
    sealed: bool


class SegmentReport(NamedTuple):
    """One sound segment, as `verify` saw it."""

    file: Path
    sequence: int
    first_index: int
    last_index: int
    """Index of the log's last entry at the end of this segment."""
    frames: int
    end_offset: int
    torn: TornTail | None


class LogReader:
    """Replays the segments of one directory. After `run` is exhausted, `contents` and `tail` are set."""

    def __init__(self, directory: Path, metadata: bytes | None = None) -> None:
        self._directory = directory
        self._expected_metadata = metadata
        self._replay: _Replay | None = None
        self._ended_at: tuple[Path, int] | None = None
        """Where the previous segment's frames stopped; the place to name when the next one does not fit."""
        self._chain = 0
        self._tail: Tail | None = None
        self.unfinished: Path | None = None
        """A last segment without any byte in it: a cut that did not get through. To be removed."""

    @property
    def contents(self) -> WalContents:
        assert self._replay is not None
        return self._replay.contents

    @property
    def tail(self) -> Tail:
        assert self._tail is not None
        return self._tail

    def run(self) -> Iterator[SegmentReport]:
        """Read segment after segment.

        Raises WalMissingError, WalCorruptError, WalMetadataError, WalIoError.
        """
        if not self._directory.is_dir():
            raise WalMissingError(f"no write-ahead log: {self._directory} is not a directory")
        names = list_segments(self._directory)
        if not names:
            raise WalMissingError(f"no write-ahead log in {self._directory}")
        last = len(names) - 1
        for position, name in enumerate(names):
            path = name.path(self._directory)
            data = self._read(path)
            if position == last > 0 and not data.strip(b"\0"):
                self.unfinished = path
                break
            # A successor, even one without content, was made after this segment had been synced.
            yield self._read_segment(name, path, data, may_be_torn=position == last)
        assert self._replay is not None
        needed = max(self.contents.hard_state.commit, self.contents.base.index)
        if self._replay.last_index < needed:
            self._refuse(f"the log ends at entry {self._replay.last_index}, but {needed} had been committed")

    def _read(self, path: Path) -> bytes:
        try:
            size_bytes = path.stat().st_size
            if size_bytes > records.MAX_SEGMENT_BYTES:
                raise WalCorruptError(path, records.MAX_SEGMENT_BYTES, "the file is longer than any segment")
            return path.read_bytes()
        except OSError as error:
            raise from_os_error(error, f"reading {path}") from error

    def _read_segment(self, name: SegmentName, path: Path, data: bytes, *, may_be_torn: bool) -> SegmentReport:
        head, header = self._open_segment(name, path, data)
        salt = records.segment_salt(header.secret, name.sequence)
        frames, offset, sealed = 1, head.end, False
        while frame := records.decode_frame(data, offset, name.sequence, salt):
            if frame.previous != self._chain:
                break
            self._apply(path, frame)
            self._chain, offset, sealed = frame.crc, frame.end, frame.kind == Kind.SEAL
            frames += 1
        self._ended_at = path, offset
        torn = _torn_tail(path, data, offset, header.size_bytes)
        for stray in records.find_frames(data, offset, name.sequence, salt):
            if stray.synced > offset:
                raise WalCorruptError(path, offset, f"bad record before a durable one at {stray.offset}")
            torn = torn or _everything_from(path, data, offset)
        if torn is not None and not may_be_torn:
            raise WalCorruptError(path, offset, "bad record in a segment that later ones follow")
        self.contents.torn = torn
        self._tail = Tail(name, header, offset, self._chain, sealed)
        return SegmentReport(path, name.sequence, name.first_index, self.contents.last.index, frames, offset, torn)

    def _open_segment(self, name: SegmentName, path: Path, data: bytes) -> tuple[Frame, SegmentHeader]:
        """Check the header against the name, the caller's metadata and all that was read before."""
        frame = records.decode_frame(data, 0, name.sequence, salt=0)
        if frame is None or frame.kind != Kind.HEADER:
            raise WalCorruptError(path, 0, "no valid segment header")
        try:
            header = records.decode_segment_header(frame.payload)
        except MalformedRecord as error:
            raise WalCorruptError(path, 0, str(error)) from error
        if (header.sequence, header.first_index) != name:
            raise WalCorruptError(path, 0, "the segment was written under another name")
        if self._replay is None:
            self._begin(header)
        else:
            self._continue(path, frame, header)
        self._chain = frame.crc
        return frame, header

    def _begin(self, header: SegmentHeader) -> None:
        if self._expected_metadata is not None and header.metadata != self._expected_metadata:
            raise WalMetadataError(f"the write-ahead log in {self._directory} is of another node or cluster")
        base = LogPosition(header.first_index - 1, header.last_term)
        self._replay = _Replay(WalContents(header.metadata, header.hard_state, base))

    def _continue(self, path: Path, frame: Frame, header: SegmentHeader) -> None:
        replay, contents = self._replay, self.contents
        assert replay is not None
        if frame.previous != self._chain:
            self._refuse(f"the records before segment {path.name} are missing or damaged")
        if header.metadata != contents.metadata:
            raise WalMetadataError(f"segment {path} is of another node or cluster than the ones before")
        position = header.first_index - 1, header.last_term
        if position != (replay.last_index, replay.last_term) or header.hard_state != contents.hard_state:
            raise WalCorruptError(path, 0, "the segment header contradicts the records before it")

    def _apply(self, path: Path, frame: Frame) -> None:
        assert self._replay is not None
        try:
            self._replay.apply(frame.payload)
        except MalformedRecord as error:
            raise WalCorruptError(path, frame.offset, str(error)) from error

    def _refuse(self, reason: str) -> None:
        assert self._ended_at is not None
        raise WalCorruptError(*self._ended_at, reason)


def _torn_tail(path: Path, data: bytes, offset: int, size_bytes: int) -> TornTail | None:
    """Is there anything but a sound end at `offset`? A segment never changes its size, so that tells too."""
    if any(data[offset : offset + records.FRAME_HEADER.size]) or len(data) != size_bytes:
        return _everything_from(path, data, offset)
    return None


def _everything_from(path: Path, data: bytes, offset: int) -> TornTail:
    return TornTail(path, offset, max(len(data.rstrip(b"\0")) - offset, 0))


class _Replay:
    """Rebuilds the log from its records: an entry at an index that is taken replaces the log from there."""

    __slots__ = ("contents", "last_index", "last_term")

    def __init__(self, contents: WalContents) -> None:
        self.contents = contents
        self.last_index, self.last_term = contents.base.index, contents.base.term
        """The end of the log as of the last record. Before the base only while a log whose early segments
        were released is still being replaced from an entry before that point."""

    def apply(self, payload: bytes) -> None:
        """Raises MalformedRecord, also for a gap between entries."""
        for record in records.decode_records(payload):
            if isinstance(record, list):
                self._on_entries(record)
            elif isinstance(record, HardState):
                self.contents.hard_state = record
            else:
                self.contents.base = record
                self.contents.entries.clear()
                self.last_index, self.last_term = record.index, record.term

    def _on_entries(self, entries: list[Entry]) -> None:
        contents = self.contents
        first, last = entries[0], entries[-1]
        if first.index > self.last_index + 1:
            raise MalformedRecord(f"entry {first.index} follows entry {self.last_index}")
        kept = first.index - contents.first_index
        if kept >= 0:
            del contents.entries[kept:]
            contents.entries += entries
        else:
            # The first segment left was cut while a new leader was still replacing entries before it. They
            # have been committed since, or earlier segments would still be here: only the base's term counts.
            if last.index >= contents.base.index:
                base = entries[-1 - kept]
                contents.base = LogPosition(base.index, base.term)
            contents.entries = entries[-kept:]
        self.last_index, self.last_term = last.index, last.term


def verify(directory: Path) -> Iterator[SegmentReport]:
    """Check a log without changing it (for `raftkv doctor`); the node that owns it must not be running.

    Yields one report per segment, the last with a torn tail if there is one. Raises like `LogReader.run`.
    """
    return LogReader(directory).run()
