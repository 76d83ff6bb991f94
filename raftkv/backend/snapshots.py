"""Things that hold one snapshot of the store while something slow goes on beside the commits.

`ReadPin` for long reads in slices, `Checkpoint` for making a snapshot durable, `HotCopy` for sending one
away, `Defragmentation` for a compacted copy. Each is begun and ended on the loop, by Backend; only what is
marked "in a thread" may be called elsewhere, and it touches nothing that the loop changes.

A held snapshot costs space, not correctness: LMDB does not reuse pages that it can see.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from raftkv.backend.checkpoint import UNKNOWN_BOOT, CheckpointRecord, write_all, write_checkpoint
from raftkv.backend.datadir import TMP_NAME
from raftkv.backend.errors import BackendError, NoSpaceError
from raftkv.backend.metapage import MetaPages

if TYPE_CHECKING:
    from raftkv.backend.handles import ReadTxn

COPY_CHUNK_BYTES: Final = 1 << 20


class ReadPin:
    """A read transaction of its own, for work that outlives the next commit. Close it soon (PY-32)."""

    __slots__ = ("_on_close", "opened_s", "txn")

    def __init__(self, txn: ReadTxn, opened_s: float, on_close: Callable[[ReadPin], None]) -> None:
        self.txn = txn
        self.opened_s = opened_s
        """Monotonic clock."""
        self._on_close = on_close

    def close(self) -> None:
        """Idempotent. Cursors and values borrowed from `txn` die with it."""
        self.txn.abort()
        self._on_close(self)


class Checkpoint:
    """One snapshot on its way to being durable: `begin_checkpoint`, `sync`, `end_checkpoint`."""

    __slots__ = ("_directory", "_fd", "_previous", "durable", "record", "trusted", "txn")

    def __init__(
        self, directory: Path, fd: int, txn: ReadTxn, record: CheckpointRecord, previous: CheckpointRecord
    ) -> None:
        self.txn = txn
        self.record = record
        self.durable = False
        """Set by `sync`: a power cut from here on leads to this snapshot or a later one."""
        self.trusted = True
        """False once the kernel failed to write pages back: it may since call them clean although they are
        lost, so no later sync of this data file means anything."""
        self._directory = directory
        self._fd = fd
        self._previous = previous

    @property
    def consistent_index(self) -> int:
        """Of this snapshot. When durable, the log up to it is no longer needed for recovery."""
        return self.record.consistent_index

    def sync(self) -> None:
        """In a thread. Blocks until the snapshot is durable. Raises OSError; `end_checkpoint` it anyway."""
        try:
            # On Linux this writes the pages dirtied through the map as well; unlike LMDB's own sync it
            # reports errors as OSError, and needs no lock of the environment.
            os.fdatasync(self._fd)
        except OSError:
            self.trusted = False
            # Make the next start go back to the last durable checkpoint even without a reboot: replaying the
            # log then writes the lost pages anew.
            write_checkpoint(self._directory, self._previous._replace(boot_id=UNKNOWN_BOOT, clean=False))
            raise
        write_checkpoint(self._directory, self.record)
        self.durable = True


class HotCopy:
    """The store at one snapshot, as the bytes of a data file, while commits go on (MT-10).

    `size_bytes` is known before the first byte and is a multiple of the page size, hence of 512 (MT-11,
    PY-34). Free pages come along as whatever they hold at that moment: a second pass over the same copy may
    give other bytes there, so send and hash in one pass.
    """

    __slots__ = ("_fd", "_metas", "_pin", "consistent_index", "size_bytes", "term")

    def __init__(self, pin: ReadPin, fd: int, metas: MetaPages, consistent: tuple[int, int]) -> None:
        """`fd`: of the data file, owned by this copy from now on."""
        self._pin = pin
        self._fd = fd
        self._metas = metas
        self.size_bytes: int = metas.size_bytes
        self.consistent_index, self.term = consistent

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; b"" at the end. In a thread if the disk may be slow."""
        head = self._metas.raw
        if offset < len(head):
            # The live meta pages have moved on; the saved ones are this snapshot.
            return head[offset : offset + size]
        data = os.pread(self._fd, max(0, min(size, self.size_bytes - offset)), offset)
        if not data and offset < self.size_bytes and size > 0:
            raise BackendError(f"the data file ends at {offset} bytes, but {self.size_bytes} are in use")
        return data

    def write_to(self, fd: int) -> None:
        """In a thread. Writes all of it to `fd` (not synced). Raises OSError."""
        offset = 0
        while chunk := self.read(offset, COPY_CHUNK_BYTES):
            write_all(fd, chunk)
            offset += len(chunk)

    def close(self) -> None:
        """Ends the pin. On the loop, after the last read has returned."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._pin.close()


class Defragmentation:
    """A compacted copy of the newest snapshot, to be swapped in (MT-30, MT-31)."""

    __slots__ = ("_directory", "_env", "done", "txn")

    def __init__(self, directory: Path, env: lmdb.Environment, txn: ReadTxn) -> None:
        self._directory = directory
        self._env = env
        self.txn = txn
        self.done = False

    def run(self) -> None:
        """In a thread. Writes and syncs the copy; reads go on beside it, writers must be paused.

        Raises NoSpaceError if the disk has no room for a second copy, else OSError or BackendError.
        """
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._env.copyfd(fd, compact=True, txn=self.txn)
            os.fsync(fd)
        except (lmdb.Error, OSError) as error:
            code = error.code if isinstance(error, lmdb.Error) else error.errno
            if code in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpaceError(f"{self.path}: no room for a compacted copy") from error
            if isinstance(error, lmdb.Error):
                raise BackendError(f"{self.path}: {error}") from error
            raise
        finally:
            os.close(fd)
        self.done = True

    @property
    def path(self) -> Path:
        return self._directory / TMP_NAME

    def discard(self) -> None:
        """Idempotent; after `run` has returned or raised."""
        self.txn.abort()
        self.path.unlink(missing_ok=True)
