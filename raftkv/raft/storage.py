"""The stable log as the core reads it, and an in-memory one that the shell keeps in step with its WAL.

The core only reads. The shell writes: first to the WAL, then here, then it says `advance_append`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .errors import Compacted, SnapshotUnavailable, Unavailable
from .types import ENTRY_HEADER_SIZE_BYTES, ConfState, Entry, HardState, Index, Snapshot, Term


class Storage(Protocol):
    """What the core asks of the stable log. Positions run from first_index to last_index."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Both as saved; the ConfState is the one in force at `Config.applied`."""
        ...

    def entries(self, lo: Index, hi: Index, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi), cut so as not to exceed max_bytes, but never to nothing.

        Raises Compacted if lo < first_index, Unavailable if hi > last_index + 1.
        """
        ...

    def term(self, index: Index) -> Term:
        """Known for first_index - 1 as well. Raises Compacted before that, Unavailable behind last_index."""
        ...

    def first_index(self) -> Index: ...

    def last_index(self) -> Index: ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot, not older than first_index - 1. Raises SnapshotUnavailable.

        Make one after every applied membership change: a member that a snapshot does not know yet
        is not sent it, and would wait for its entries until there is a newer one.
        """
        ...


def limit_size(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix within max_bytes, but at least one entry."""
    total = 0
    for k, entry in enumerate(entries):
        total += len(entry.data) + ENTRY_HEADER_SIZE_BYTES
        if total > max_bytes and k:
            return entries[:k]
    return entries


def _total_bytes(entries: Sequence[Entry]) -> int:
    total = len(entries) * ENTRY_HEADER_SIZE_BYTES
    for entry in entries:
        total += len(entry.data)
    return total


class MemoryStorage:
    """A Storage in a list. Not bounded by itself: the shell calls `compact` (RF-43).

    Invariant: _entries[k].index == _base_index + 1 + k, and _base_term is the term at _base_index.
    """

    __slots__ = ("_base_index", "_base_term", "_entries", "_hard_state", "_snapshot", "size_bytes")

    def __init__(
        self,
        hard_state: HardState = HardState(),  # noqa: B008 - immutable
        conf_state: ConfState = ConfState(),  # noqa: B008 - immutable
    ) -> None:
        self._hard_state = hard_state
        self._base_index: Index = 0
        self._base_term: Term = 0
        self._entries: list[Entry] = []
        self._snapshot = Snapshot(0, 0, conf_state)
        """Newest state known to be restorable. _base_index <= _snapshot.index once there is one."""
        self.size_bytes = 0
        """Of all entries, as `Entry.size_bytes` counts: what `compact` is called by."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._snapshot.conf_state

    def entries(self, lo: Index, hi: Index, max_bytes: int) -> list[Entry]:
        start = lo - self._base_index - 1
        if start < 0:
            raise Compacted(f"entry {lo} is gone, the first kept is {self._base_index + 1}")
        stop = hi - self._base_index - 1
        if stop > len(self._entries):
            raise Unavailable(f"entries up to {hi} asked for, the last is {self.last_index()}")
        return limit_size(self._entries[start:stop], max_bytes)

    def term(self, index: Index) -> Term:
        k = index - self._base_index - 1
        if k < -1:
            raise Compacted(f"term of {index} is gone, the first known is {self._base_index}")
        if k == -1:
            return self._base_term
        if k >= len(self._entries):
            raise Unavailable(f"term of {index} asked for, the last is {self.last_index()}")
        return self._entries[k].term

    def first_index(self) -> Index:
        return self._base_index + 1

    def last_index(self) -> Index:
        return self._base_index + len(self._entries)

    def snapshot(self) -> Snapshot:
        if self._snapshot.index < self._base_index:
            raise SnapshotUnavailable("the log was compacted beyond the newest snapshot")
        return self._snapshot

    def set_hard_state(self, hard_state: HardState) -> None:
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries, replacing everything from the first one's index on.

        What was compacted meanwhile is skipped. A gap behind last_index is our own mistake.
        """
        if not entries:
            return
        at = entries[0].index - self._base_index - 1
        if at < 0:
            entries = entries[-at:]
            at = 0
        known = self._entries
        assert at <= len(known), f"append at {entries[0].index} leaves a gap behind {self.last_index()}"
        if at < len(known):
            self.size_bytes -= _total_bytes(known[at:])
            del known[at:]
        known.extend(entries)
        self.size_bytes += _total_bytes(entries)

    def compact(self, index: Index) -> None:
        """Forget entries up to and including index. Raises Compacted or Unavailable outside the log."""
        term = self.term(index)
        count = index - self._base_index
        self.size_bytes -= _total_bytes(self._entries[:count])
        del self._entries[:count]
        self._base_index = index
        self._base_term = term

    def create_snapshot(self, index: Index, conf_state: ConfState, data: bytes = b"") -> Snapshot:
        """Declare that the state at index (with the configuration then) can be sent to followers.

        Raises Compacted if there is a newer one, Unavailable if index lies behind the log.
        """
        if index < self._snapshot.index:
            raise Compacted(f"a snapshot at {self._snapshot.index} exists")
        self._snapshot = Snapshot(index, self.term(index), conf_state, data)
        return self._snapshot

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the whole log by snapshot. Raises Compacted if a newer one is in place."""
        if snapshot.index < self._snapshot.index:
            raise Compacted(f"a snapshot at {self._snapshot.index} exists")
        self._snapshot = snapshot
        self._base_index = snapshot.index
        self._base_term = snapshot.term
        self._entries = []
        self.size_bytes = 0
