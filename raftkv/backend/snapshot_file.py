"""A snapshot as a file: the bytes of a store, then their SHA-256. The layout that etcd's clients write (MT-10, MT-11).

    store      as in a data file, up to the end of its last used page; a multiple of 512 bytes (PY-34)
    SHA-256    of the store, 32 bytes

A plain copy of a data file has no such end, and nothing tells whether it is what was written. Owns the layout, the
order of writing, and telling a snapshot from what is none. Knows nothing of what is in the store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from raftkv.backend.checkpoint import sync_directory, write_all
from raftkv.backend.errors import DamagedError
from raftkv.backend.metapage import MAX_PAGE_BYTES, parse_metas

DIGEST_BYTES: Final = hashlib.sha256().digest_size
_SECTOR_BYTES: Final = 512
PIECE_BYTES: Final = 1 << 20

TAKE_ANOTHER: Final = "use another snapshot"

Progress = Callable[[int, int], None]
"""progress(bytes done, bytes in all)"""


class _Foreign(NamedTuple):
    """A file of another kind that people take for a snapshot of raftkv."""

    offset: int
    magic: bytes
    found: str
    remedy: str


_BBOLT_MAGIC: Final = (0xED0CDAED).to_bytes(4, "little")
_OF_ETCD: Final = (
    "this is a snapshot of etcd itself (a bbolt file), and raftkv stores its keys in another format",
    "restore it with etcdutl, start an etcd from that, and copy its keys over: etcdctl make-mirror",
)
_FOREIGN: Final = (
    _Foreign(16, _BBOLT_MAGIC, *_OF_ETCD),
    _Foreign(4096 + 16, _BBOLT_MAGIC, *_OF_ETCD),  # the second of its meta pages, if the first is damaged
    _Foreign(0, b"\x1f\x8b", "this file is compressed (gzip)", "unpack it first: gunzip"),
    _Foreign(0, b"\x28\xb5\x2f\xfd", "this file is compressed (zstd)", "unpack it first: unzstd"),
)


class SnapshotFile(NamedTuple):
    """What the two ends of a file say; nothing of it has been verified."""

    path: Path
    size_bytes: int
    """Of the store, which begins at offset 0."""
    digest: bytes | None
    """SHA-256 of the store. None: a plain copy of a data file."""


def open_snapshot(path: Path) -> SnapshotFile:
    """Tells a snapshot from other files, and a whole one from one that was cut. Raises DamagedError, OSError."""
    with path.open("rb") as file:
        head = file.read(2 * MAX_PAGE_BYTES)
        found_bytes = file.seek(0, os.SEEK_END)
        has_digest = found_bytes % _SECTOR_BYTES == DIGEST_BYTES
        file.seek(-DIGEST_BYTES if has_digest else 0, os.SEEK_END)
        digest = file.read() if has_digest else None
    metas = parse_metas(head)
    if metas is None:
        raise _not_a_snapshot(path, head)
    store_bytes = found_bytes - DIGEST_BYTES if has_digest else found_bytes
    if store_bytes < metas.size_bytes:
        raise DamagedError(
            path, f"cut short, it has {store_bytes:,} bytes of a store of {metas.size_bytes:,}", TAKE_ANOTHER
        )
    if store_bytes % _SECTOR_BYTES or (has_digest and store_bytes != metas.size_bytes):
        found = f"its {found_bytes:,} bytes are not a store of {metas.size_bytes:,} bytes and a checksum"
        raise DamagedError(path, found, TAKE_ANOTHER)
    # A data file may be longer than what is used of it: as long as the map, or by the blocks reserved ahead.
    return SnapshotFile(path, metas.size_bytes, digest)


def _not_a_snapshot(path: Path, head: bytes) -> DamagedError:
    if not head:
        return DamagedError(path, "the file is empty", TAKE_ANOTHER)
    for kind in _FOREIGN:
        if head[kind.offset : kind.offset + len(kind.magic)] == kind.magic:
            return DamagedError(path, kind.found, kind.remedy)
    return DamagedError(path, "this is not a snapshot of raftkv: it does not begin as an LMDB file does", TAKE_ANOTHER)


def store_pieces(saved: SnapshotFile, *, verify: bool, progress: Progress | None = None) -> Iterator[bytes]:
    """The store, from its begin to its end, a piece at a time.

    `verify`: compare with the checksum, if there is one, when the last piece has been handed out: what was done with
    the pieces counts only if the iterator ends without an error. Raises DamagedError, OSError.
    """
    sha256 = hashlib.sha256()
    done_bytes = 0
    with saved.path.open("rb", buffering=0) as file:
        while done_bytes < saved.size_bytes:
            piece = file.read(min(PIECE_BYTES, saved.size_bytes - done_bytes))
            if not piece:
                raise DamagedError(saved.path, "it was cut while it was read", TAKE_ANOTHER)
            sha256.update(piece)
            done_bytes += len(piece)
            if progress is not None:
                progress(done_bytes, saved.size_bytes)
            yield piece
    if verify and saved.digest is not None and sha256.digest() != saved.digest:
        found = f"damaged: the SHA-256 of its content is {sha256.hexdigest()}, its end says {saved.digest.hex()}"
        raise DamagedError(saved.path, found, TAKE_ANOTHER)


def verify_snapshot(saved: SnapshotFile, progress: Progress | None = None) -> None:
    """Reads all of it. Raises DamagedError unless it is what was written, OSError. Says nothing without a checksum."""
    for _ in store_pieces(saved, verify=True, progress=progress):
        pass


class SnapshotWriter:
    """A file being written under the name `FILE.part`, which becomes FILE when all of it is there, right and durable.

    After an error only `discard` makes sense. A FILE that was there before is replaced at that moment, or stays.
    """

    __slots__ = ("_fd", "_held_back", "_part", "_path", "_sha256", "written_bytes")

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._sha256 = hashlib.sha256()
        self._held_back = b""
        """The last bytes written: the checksum, if nothing follows."""
        self.written_bytes = 0
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """The next bytes of store or checksum; nobody needs to say where the one ends. Raises OSError."""
        write_all(self._fd, data)
        self.written_bytes += len(data)
        unread = self._held_back + data
        self._sha256.update(unread[:-DIGEST_BYTES])
        self._held_back = unread[-DIGEST_BYTES:]

    def write_digest(self) -> None:
        """The checksum of all that was written, for whoever has only a store."""
        sha256 = self._sha256.copy()
        sha256.update(self._held_back)
        self.write(sha256.digest())

    def finish(self) -> int:
        """Checks, syncs, and gives it its name; bytes of the store. Raises DamagedError, OSError."""
        store_bytes = self.written_bytes - DIGEST_BYTES
        if store_bytes <= 0 or store_bytes % _SECTOR_BYTES:
            raise DamagedError(self._part, f"{self.written_bytes:,} bytes are not a whole snapshot", "take it again")
        if self._sha256.digest() != self._held_back:
            raise DamagedError(self._part, "what came does not match the SHA-256 at its end", "take it again")
        # The content before the name: a backup that has its name must be whole, also after a power cut.
        os.fsync(self._fd)
        self._close()
        os.rename(self._part, self._path)
        sync_directory(self._path.parent)
        return store_bytes

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Removes what was written. Idempotent; does nothing after `finish`."""
        self._close()
        self._part.unlink(missing_ok=True)
