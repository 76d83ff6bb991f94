"""Things that hold one snapshot of the store while something slow goes on beside the commits.

`ReadPin` for long reads in slices, `HotCopy` for sending a snapshot away, `Defragmentation` for a compacted copy (and
`Checkpoint`, see durability.py). Each is begun and ended on the loop, by Backend; only what is marked "in a thread"
may be called elsewhere, and it touches nothing that the loop changes.

A held snapshot costs space, not correctness: LMDB does not reuse pages that it can see.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from raftkv.backend.checkpoint import write_all
from raftkv.backend.datadir import TMP_NAME
from raftkv.backend.environment import from_lmdb
from raftkv.backend.errors import BackendError, NoSpaceError, TooManyPinsError
from raftkv.backend.metapage import MetaPages
from raftkv.backend.space import FULL_ERRNOS, close_in_thread

if TYPE_CHECKING:
    from raftkv.backend.handles import ReadTxn

COPY_CHUNK_BYTES: Final = 1 << 20

MAX_PINS: Final = 1000
"""Bound of concurrent pins and hot copies; one more raises TooManyPinsError."""


class ReadPin:
    """A read transaction of its own, for work that outlives the next commit. Close it soon (PY-32)."""

    __slots__ = ("_on_close", "of_copy", "opened_s", "txn")

    def __init__(self, txn: ReadTxn, opened_s: float, on_close: Callable[[ReadPin], None], *, of_copy: bool) -> None:
        self.txn = txn
        self.opened_s = opened_s
        """Monotonic clock."""
        self.of_copy = of_copy
        """Of a hot copy, which reads the file itself: without a writer it needs no pin."""
        self._on_close = on_close

    def close(self) -> None:
        """Idempotent. Cursors and values borrowed from `txn` die with it."""
        self.txn.abort()
        self._on_close(self)


class Pins:
    """The open pins of a store, oldest first."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[ReadPin, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raises TooManyPinsError at MAX_PINS."""
        if len(self._open) >= MAX_PINS:
            raise TooManyPinsError(f"{MAX_PINS} snapshots are pinned already")

    def add(self, txn: ReadTxn, *, of_copy: bool) -> ReadPin:
        pin = ReadPin(txn, time.monotonic(), self._forget, of_copy=of_copy)
        self._open[pin] = None
        return pin

    def _forget(self, pin: ReadPin) -> None:
        self._open.pop(pin, None)

    def clear(self) -> None:
        """The environment is about to close, and their transactions with it."""
        self._open.clear()

    def end_copies(self) -> None:
        """Ends the pins of hot copies; the copies read on."""
        for pin in [pin for pin in self._open if pin.of_copy]:
            pin.close()

    @property
    def blocking_count(self) -> int:
        """Pins whose owners read through the environment."""
        return sum(not pin.of_copy for pin in self._open)

    @property
    def oldest_age_s(self) -> float:
        """0.0 if there are none."""
        for pin in self._open:
            return time.monotonic() - pin.opened_s
        return 0.0


class HotCopy:
    """The store at one snapshot, as the bytes of a data file, while commits go on (MT-10).

    `size_bytes` is known before the first byte and is a multiple of the page size, hence of 512 (MT-11,
    PY-34). Free pages come along as whatever they hold at that moment: a second pass over the same copy may
    give other bytes there, so send and hash in one pass. When the store is replaced (`install`, `finish_defragment`)
    a copy of the old one goes on to its end: nobody changes the old file any more.
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
            fd, self._fd = self._fd, -1
            if os.fstat(fd).st_nlink:
                os.close(fd)
            else:
                close_in_thread(fd)  # the store was replaced meanwhile, and this may be the last to let go of it
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
        except lmdb.Error as error:
            raise from_lmdb(error, self.path) from error
        except OSError as error:
            if error.errno in FULL_ERRNOS:
                raise NoSpaceError(f"{self.path}: no room for a compacted copy") from error
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
