"""Files and directories of the log: names, durable creation, and the segment that is made ready ahead.

Owns how a segment's file comes into being and goes away. Knows nothing of what is in it, except that
its first bytes are a header frame handed in by `wal`.

A file gets its segment name by one rename, and only when its header is durable; the directory is
synced after each rename or removal. So after any crash the names on disk are consecutive, and a
file with a segment's name has a sound header. Everything else in the directory ends in `.tmp` and is
worthless after a crash.

Why written zeros, why recycling, and what both cost: docs/adr/0001-wal-preallocation.md.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from raftkv.wal.errors import WalCorruptError, is_no_space
from raftkv.wal.records import MAX_SEGMENT_BYTES

_log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")
_NEXT: Final = "next.tmp"
_SPARE: Final = "spare.tmp"

ZERO_STEP_BYTES: Final = 256 * 1024
"""Zeros written and synced per step: about a millisecond, so that a flush never waits long behind a step."""
_ZEROS: Final = bytes(ZERO_STEP_BYTES)


class SegmentName(NamedTuple):
    """`SEQUENCE-INDEX.wal`, both as 16 hexadecimal digits: INDEX is the first the segment was made for."""

    sequence: int
    first_index: int

    def path(self, directory: Path) -> Path:
        return directory / f"{self.sequence:016x}-{self.first_index:016x}.wal"


def list_segments(directory: Path) -> list[SegmentName]:
    """The segments in order. Raises WalCorruptError for a gap or a name that is none; ignores other files."""
    names: list[SegmentName] = []
    for path in sorted(directory.glob("*.wal")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise WalCorruptError(path, 0, "the file name is not of the form SEQUENCE-INDEX.wal")
        name = SegmentName(int(match[1], 16), int(match[2], 16))
        if names and name.sequence != names[-1].sequence + 1:
            raise WalCorruptError(
                path, 0, f"segment {names[-1].sequence + 1:016x} is missing before it, or is there twice"
            )
        names.append(name)
    return names


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_segment(path: Path, *, create: bool = False) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)


def write_at(descriptor: int, parts: list[bytes], offset: int) -> None:
    """Write all parts, one after the other, at `offset`. A short write goes on where it stopped."""
    size = sum(map(len, parts))
    written = os.pwritev(descriptor, parts, offset)
    while written < size:
        # Rare (a signal, or a disk that is just filling up): the next call goes on or tells the reason.
        written += os.pwrite(descriptor, b"".join(parts)[written:], offset + written)


def remove_leftovers(directory: Path) -> None:
    """Drop what a crash left behind half made. Nothing under these names was ever part of the log."""
    for path in sorted(directory.glob("*.tmp")):
        path.unlink()


class SegmentPool:
    """The files that will become segments: at most one made ahead and one recycled.

    Used by the WAL thread only, except `failed`, which any thread may read.
    """

    __slots__ = ("_descriptor", "_directory", "_spare", "_zeroed", "failed", "segment_bytes")

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self.segment_bytes = size_bytes
        self._descriptor: int | None = None
        """Open file `next.tmp`, all its blocks reserved; None before the first step after a cut."""
        self._zeroed = 0
        """Bytes of `next.tmp` that hold written zeros. A segment works with fewer; it only syncs slower."""
        self._spare = False
        """`spare.tmp` is there: a released segment of the usual size, its blocks written long ago."""
        self.failed = False
        """The last reservation found no room. Stays until a file is recycled or `retry` is called."""

    @property
    def has_next(self) -> bool:
        """All blocks for the next segment are reserved."""
        return self._spare or self._descriptor is not None

    @property
    def has_work(self) -> bool:
        """`step` would do something."""
        return not (self._spare or self.failed) and (self._descriptor is None or self._zeroed < self.segment_bytes)

    def recycle(self, path: Path) -> None:
        """Take a released segment out of the log: kept as the spare when there is none, deleted otherwise."""
        if self._spare or path.stat().st_size != self.segment_bytes:
            path.unlink()
        else:
            os.rename(path, self._directory / _SPARE)
            self._spare = True
            self.failed = False
        # Before the next older file may go, and before the spare is written to: a crash must find neither
        # a hole in the sequence nor a segment's name on a file with a later segment's bytes.
        sync_directory(self._directory)

    def step(self) -> bool:
        """One bounded piece of preparing the next segment; True while there is more to do.

        Raises OSError, except for want of room, which is only noted in `failed`: the segment in use may
        still have plenty.
        """
        if self._spare or self.failed:
            return False
        if self._descriptor is None:
            try:
                self._reserve()
            except OSError as error:
                if not is_no_space(error):
                    raise
                self.failed = True
                _log.warning(
                    "no room to prepare the next log segment",
                    extra={"kv": {"dir": str(self._directory), "size_bytes": self.segment_bytes}},
                )
                return False
        elif self._zeroed < self.segment_bytes:
            count = min(ZERO_STEP_BYTES, self.segment_bytes - self._zeroed)
            write_at(self._descriptor, [_ZEROS[:count]], self._zeroed)
            os.fdatasync(self._descriptor)
            self._zeroed += count
        return self._zeroed < self.segment_bytes

    def retry(self) -> None:
        """Let the next `step` try again after want of room."""
        self.failed = False

    def disk_has_room(self) -> bool:
        """Whether the file system counts enough free blocks for the next segment. It may know less than a try shows."""
        counts = os.statvfs(self._directory)
        return counts.f_bavail * counts.f_frsize >= self.segment_bytes

    def take(self, name: SegmentName, header: list[bytes], least_bytes: int) -> tuple[int, int]:
        """Make the next segment, with `header` written durably, and return (descriptor, size in bytes).

        Made on the spot when none is ready, or when a single unit needs more than the usual size. Raises
        OSError.
        """
        descriptor, size_bytes, source = self._pick(least_bytes)
        try:
            write_at(descriptor, header, 0)
            os.fsync(descriptor)
            os.rename(source, name.path(self._directory))
            sync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor, size_bytes

    def size_for(self, least_bytes: int) -> int:
        """The size of a segment with room for `least_bytes`."""
        assert least_bytes <= MAX_SEGMENT_BYTES, "one unit is larger than any segment may be"
        return max(self.segment_bytes, least_bytes)

    def close(self) -> None:
        """Let go of the file being prepared. The next open of the log removes it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _pick(self, least_bytes: int) -> tuple[int, int, Path]:
        if least_bytes > self.segment_bytes:
            path = self._directory / "large.tmp"
            return _create_reserved(path, least_bytes), least_bytes, path
        if self._spare:
            path = self._directory / _SPARE
            descriptor = open_segment(path)
            self._spare = False
            return descriptor, self.segment_bytes, path
        if self._descriptor is None:
            self._reserve()
        assert self._descriptor is not None
        descriptor, self._descriptor = self._descriptor, None
        return descriptor, self.segment_bytes, self._directory / _NEXT

    def _reserve(self) -> None:
        self._descriptor = _create_reserved(self._directory / _NEXT, self.segment_bytes)
        self._zeroed = 0


def _create_reserved(path: Path, size_bytes: int) -> int:
    """A new file with all its blocks reserved, so that no later write to it can find the disk full."""
    descriptor = open_segment(path, create=True)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        os.fsync(descriptor)
    except OSError:
        # A reservation that stopped half-way holds on to blocks that the rest of the node needs now.
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor
