"""A store that arrives from a peer, from its first byte to the moment when it is this member's (RF-45, RF-46).

A received store passes three names, and each says what a crash makes of it:

    incoming.tmp/data.mdb                being written: worthless, removed at the next open
    received-<index>-<term>.mdb          whole, checked, durable, but nobody has decided for it yet
    data.mdb.next                        the store from now on; whoever opens finishes the swap (see datadir.py)

Between the second and the third the log decides. It is made to restart behind (index, term), durably; from then on it
lacks the entries that the old store would need next. So the order is: `ReceivedStore.finish`, the record in the log,
`Backend.install`; and after a crash: read the log, `settle_received`, `Backend.open`. Without the record the old store
and the old log go on, with it the new store and the new log, and no crash leads to one of each.
Knows nothing of the network, nor of what the log looks like.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Final, NamedTuple

from raftkv.backend.checkpoint import sync_directory
from raftkv.backend.datadir import DATA_NAME, INCOMING_DIR_NAME, DirectoryLock, make_directory, stage_next
from raftkv.backend.errors import BackendError, DamagedError, NoSpaceError
from raftkv.backend.facts import StoreFacts, set_member_id, store_facts
from raftkv.backend.space import FULL_ERRNOS

_log = logging.getLogger(__name__)

SEND_AGAIN: Final = "fetch the copy again, or from another member"
SYNC_STEP_BYTES: Final = 32 << 20
"""Written back so often on the way, because one sync of gigabytes at the end would hold up the log's own."""
_RECEIVED_GLOB: Final = "received-*.mdb"


class Expected(NamedTuple):
    """What a received store must say of itself, as announced by the peer; and whose it shall be."""

    consistent_index: int
    term: int
    cluster_id: int
    conf_state: bytes
    member_id: int
    """This member's own, which replaces the sender's."""


class ReceivedStore:
    """One copy on its way in; one at a time in a directory.

    `write` may be called by several threads at once, the rest by one. After an error only `discard` makes sense.
    `done`: whole, checked and durable under `path`; then `consistent_index` and `term` are set.
    """

    __slots__ = (
        "_arrived",
        "_changed",
        "_directory",
        "_failure",
        "_fd",
        "_incoming",
        "_unsynced_bytes",
        "_writers",
        "consistent_index",
        "done",
        "path",
        "size_bytes",
        "term",
    )

    path: Path
    consistent_index: int
    term: int

    def __init__(self, directory: Path, size_bytes: int) -> None:
        """Makes room for a copy of `size_bytes` beside the store in `directory`, which may be open, or not exist yet.

        In a thread. What an earlier copy left half made goes. Raises NoSpaceError, DamagedError if that is no size of
        a store, OSError; nothing is left behind then.
        """
        self._directory = directory
        self._incoming = directory / INCOMING_DIR_NAME / DATA_NAME
        self._changed = threading.Condition()
        """Held for what writers share: all of the following. Not while one of them waits for the disk."""
        self._fd = -1
        self._writers = 0
        """Threads that are writing. Invariant: while there are any, `_fd` is not closed (its number would be given
        to another file, and their bytes with it)."""
        self._arrived: list[tuple[int, int]] = []
        """Spans from offset to offset, disjoint and ascending; about as many as pieces are under way."""
        self._unsynced_bytes = 0
        self._failure: OSError | None = None
        """Of a write or a sync. The kernel tells it once, and later calls the lost pages written."""
        self.size_bytes = size_bytes
        self.done = False
        if size_bytes <= 0 or size_bytes % 512:
            raise DamagedError(self._incoming, f"a store never has {size_bytes} bytes", SEND_AGAIN)
        make_directory(directory)
        shutil.rmtree(self._incoming.parent, ignore_errors=True)
        try:
            self._incoming.parent.mkdir(mode=0o700)
            self._fd = os.open(self._incoming, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(self._fd, 0, size_bytes)
        except OSError as error:
            self.discard()
            self._raise_if_full(error)
            raise

    @property
    def received_bytes(self) -> int:
        """How much has arrived."""
        with self._changed:
            return sum(end - begin for begin, end in self._arrived)

    def write(self, offset: int, data: bytes) -> None:
        """In a thread. Pieces may come in any order, and again.

        Raises DamagedError if the piece does not lie within the store, BackendError after `discard`, NoSpaceError,
        OSError.
        """
        end = offset + len(data)
        if not 0 <= offset <= end <= self.size_bytes:
            found = f"a piece from {offset} to {end} in a store of {self.size_bytes} bytes"
            raise DamagedError(self._incoming, found, SEND_AGAIN)
        with self._changed:
            if self._fd < 0:
                raise BackendError(f"{self._incoming}: nobody waits for this copy any more")
            fd = self._fd
            self._writers += 1
        try:
            self._write_all(fd, offset, data)
        except OSError as error:
            self._failure = error
            self._raise_if_full(error)
            raise
        finally:
            with self._changed:
                self._writers -= 1
                self._changed.notify_all()

    def _write_all(self, fd: int, offset: int, data: bytes) -> None:
        view, at = memoryview(data), offset
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written
        with self._changed:
            self._arrived = _joined(self._arrived, offset, at)
            self._unsynced_bytes += len(data)
            sync_due = self._unsynced_bytes >= SYNC_STEP_BYTES
            if sync_due:
                self._unsynced_bytes = 0
        if sync_due:
            os.fdatasync(fd)

    def finish(self, expect: Expected) -> None:
        """In a thread. Checks that all of it is there and what was expected, makes it this member's, and durable.

        From here on it survives a crash, until `settle_received` asks the log. Raises DamagedError, which names all
        that differs, BackendError if a write has failed, NoSpaceError, OSError.
        """
        assert self._fd >= 0, "finished or discarded"
        assert not self._writers, "pieces are being written"
        self._check(expect)
        index, term = expect.consistent_index, expect.term
        path = self._directory / received_name(index, term)
        try:
            set_member_id(self._incoming, expect.member_id)
            # Both content and name must last before the log is told: it will trust whatever has that name.
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            os.rename(self._incoming, path)
            self.path = path
            sync_directory(self._directory)
        except OSError as error:
            self._failure = error
            self._raise_if_full(error)
            raise
        shutil.rmtree(self._incoming.parent, ignore_errors=True)
        self.consistent_index, self.term = index, term
        self.done = True
        _log.info("received a store", extra={"kv": {"path": str(path), "size_bytes": self.size_bytes}})

    def _check(self, expect: Expected) -> None:
        if self._failure is not None:
            raise BackendError(f"{self._incoming}: not written whole: {self._failure}") from self._failure
        if self._arrived != [(0, self.size_bytes)]:
            raise DamagedError(self._incoming, f"{self.received_bytes} bytes of {self.size_bytes}", SEND_AGAIN)
        differing = _differing(store_facts(self._incoming), self.size_bytes, expect)
        if differing:
            raise DamagedError(self._incoming, "; ".join(differing), SEND_AGAIN)

    def _raise_if_full(self, error: OSError) -> None:
        if error.errno in FULL_ERRNOS:
            full = f"{self._directory}: no room for a copy of {self.size_bytes} bytes beside the store; make some"
            raise NoSpaceError(full) from error

    def discard(self) -> None:
        """Gives it up and frees its blocks; in a thread, they may be many. Waits for writers. Idempotent.

        Not once the log may have been told of it: then only the log knows, and `settle_received` asks it.
        """
        with self._changed:
            fd, self._fd = self._fd, -1
            self._changed.wait_for(lambda: not self._writers)
        if fd >= 0:
            os.close(fd)
        shutil.rmtree(self._incoming.parent, ignore_errors=True)
        if hasattr(self, "path"):
            self.path.unlink(missing_ok=True)
        self.done = False


def received_name(index: int, term: int) -> str:
    """File name of a received store that holds the effects of the log up to this entry."""
    return f"received-{index:016x}-{term:016x}.mdb"


def settle_received(directory: Path, decided: tuple[int, int] | None) -> bool:
    """At the start of a process, before the backend is opened: the received store that the log decided for becomes the
    store, every other one goes. True if there was one to stage; the next open puts it in place.

    `decided`: (index, term) behind which the log, as read and durable, restarts; None if it begins with the first
    entry. May be repeated after a crash at any step: a store that was staged or put in place already has lost its
    received name. Were there one of that name all the same, going back to it would be right too, because the log holds
    all that comes after. Raises LockedError, OSError.
    """
    if not directory.is_dir():
        return False
    lock = DirectoryLock(directory)
    try:
        chosen = None if decided is None else directory / received_name(*decided)
        staged = False
        for path in sorted(directory.glob(_RECEIVED_GLOB)):
            if path == chosen:
                # It was durable before the log named it, content and all.
                stage_next(directory, path)
                staged = True
            else:
                path.unlink()
            _log.info("received store settled", extra={"kv": {"path": str(path), "chosen": path == chosen}})
        return staged
    finally:
        lock.release()


def _joined(spans: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """Disjoint, ascending spans, with one more; those that touch it become one with it."""
    if begin == end:
        return spans
    apart = [span for span in spans if span[1] < begin or span[0] > end]
    touching = [(begin, end), *(span for span in spans if not (span[1] < begin or span[0] > end))]
    return sorted([*apart, (min(each[0] for each in touching), max(each[1] for each in touching))])


def _differing(facts: StoreFacts, size_bytes: int, expect: Expected) -> list[str]:
    """One phrase for each thing in which a store is not the expected one."""
    pairs = {
        "size_bytes": (facts.size_bytes, size_bytes),
        "consistent index": (facts.consistent_index, expect.consistent_index),
        "term": (facts.term, expect.term),
        "cluster id": (_hex(facts.cluster_id), _hex(expect.cluster_id)),
        "conf_state": (_hex(facts.conf_state), _hex(expect.conf_state)),
    }
    return [f"its {name} is {found}, not {wanted}" for name, (found, wanted) in pairs.items() if found != wanted]


def _hex(value: int | bytes | None) -> str:
    if value is None:
        return "missing"
    return f"{value:x}" if isinstance(value, int) else value.hex() or "empty"
