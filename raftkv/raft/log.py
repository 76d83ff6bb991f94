"""The log as this node sees it: what is stored, what is committed, what is applied.

Owns the order of those positions. Reads Storage but never writes it: new entries wait in
`unstable` until the shell reports them durable. Knows nothing of peers, roles or messages.

    first .................. durable ............... last      storage | unstable
    ........ applied <= applying <= committed ......
                        applying <= durable

`committed` may run ahead of `durable` on a follower (a quorum has entries this disk is still
writing), and behind it on a leader.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import Compacted, LogDamaged, StorageError, Unavailable
from .storage import Storage, limit_size
from .types import ENTRY_HEADER_SIZE_BYTES, Entry, Index, Snapshot, Term
from .unstable import Unstable


class RaftLog:
    __slots__ = (
        "_applying_bytes",
        "_max_applying_bytes",
        "applied",
        "applying",
        "committed",
        "storage",
        "unstable",
    )

    def __init__(self, storage: Storage, committed: Index, applied: Index, max_applying_bytes: int) -> None:
        """Raises LogDamaged when the stored log does not reach as far as what it is said to contain."""
        first, last = storage.first_index(), storage.last_index()
        # The commit index on disk may be old (HardState.commit); what has been applied was
        # committed, and what a snapshot replaced was as well.
        committed = max(committed, applied, first - 1)
        if committed > last:
            raise LogDamaged(f"the log ends at {last}, but {committed} was committed")
        if applied and applied < first - 1:
            raise LogDamaged(f"the log begins at {first}, but only {applied} was applied")
        self.storage = storage
        self.unstable = Unstable(last + 1)
        self.committed: Index = committed
        """Highest index a quorum has on disk. Never decreases, and outlives a change of leader."""
        self.applying: Index = max(applied, first - 1)
        """Highest index handed out for applying. Invariant: applied <= applying <= committed."""
        self.applied: Index = self.applying
        """Highest index whose effects are in the state machine."""
        self._applying_bytes = 0
        """Of the entries handed out since everything handed out had been applied."""
        self._max_applying_bytes = max_applying_bytes

    # -- positions ---------------------------------------------------------------------------

    @property
    def last_index(self) -> Index:
        return self.unstable.offset + len(self.unstable.entries) - 1

    @property
    def last_term(self) -> Term:
        entries = self.unstable.entries
        return entries[-1].term if entries else self.term(self.unstable.offset - 1)

    @property
    def durable(self) -> Index:
        """Highest index on this node's disk. Means nothing while a snapshot is being installed."""
        return self.unstable.offset - 1

    @property
    def first_index(self) -> Index:
        snapshot = self.unstable.snapshot
        return self.storage.first_index() if snapshot is None else snapshot.index + 1

    def term(self, index: Index) -> Term:
        """Known for first_index - 1 to last_index. Raises Compacted before, Unavailable behind."""
        unstable = self.unstable
        k = index - unstable.offset
        if k >= 0:
            if k < len(unstable.entries):
                return unstable.entries[k].term
            raise Unavailable(f"no entry {index} yet")
        snapshot = unstable.snapshot
        if snapshot is None:
            return self.storage.term(index)
        if index == snapshot.index:
            return snapshot.term
        raise Compacted(f"entry {index} went into the snapshot at {snapshot.index}")

    def matches(self, index: Index, term: Term) -> bool:
        """Is there an entry of that term at that index? False as well when we cannot know."""
        try:
            return self.term(index) == term
        except StorageError:
            return False

    def is_up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Is a log with that end at least as up to date as ours? (Raft paper §5.4.1)"""
        ours = self.last_term
        return last_term > ours or (last_term == ours and last_index >= self.last_index)

    # -- reading -----------------------------------------------------------------------------

    def entries(self, lo: Index, max_bytes: int) -> list[Entry]:
        """From lo to the end, cut at max_bytes but never to nothing. Raises Compacted."""
        unstable = self.unstable
        offset = unstable.offset
        if lo >= offset:
            return limit_size(unstable.entries[lo - offset :], max_bytes)
        if unstable.snapshot is not None:
            raise Compacted(f"entry {lo} went into the snapshot at {unstable.snapshot.index}")
        stored = self.storage.entries(lo, offset, max_bytes)
        if len(stored) < offset - lo or not unstable.entries:
            return stored
        return limit_size(stored + unstable.entries, max_bytes)

    def snapshot(self) -> Snapshot:
        """What to send to a follower that lags too far. Raises SnapshotUnavailable."""
        return self.unstable.snapshot or self.storage.snapshot()

    def find_conflict_by_term(self, index: Index, term: Term) -> tuple[Index, Term]:
        """The highest index <= `index` whose term is <= `term`, and that term (0 if no longer known).

        The other log has `term` at `index` and, terms never decreasing, at most `term` before it.
        So nothing of ours above the result can match: both sides skip whole terms at once (the fast
        back-off hinted at in the Raft paper §5.3).
        """
        while True:
            try:
                ours = self.term(index)
            except StorageError:
                return index, 0
            if ours <= term or index == 0:
                return index, ours
            index -= 1

    # -- writing -----------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """The leader appends only (Raft paper §5.3, Leader Append-Only)."""
        self.unstable.append(entries)

    def maybe_append(self, index: Index, term: Term, entries: Sequence[Entry]) -> Index | None:
        """Follower: put entries behind (index, term). None: there is no such entry here.

        Otherwise the index up to which the log now matches the leader's. Entries we have stay; a
        conflicting one and all that follow it go (Raft paper §5.3). Raises LogDamaged when a committed
        entry is in conflict.
        """
        if not self.matches(index, term):
            return None
        if entries:
            skip = self._find_conflict(entries)
            if skip < len(entries):
                if entries[skip].index <= self.committed:
                    raise LogDamaged(
                        f"the leader's entry {entries[skip].index} contradicts the committed one "
                        f"(committed up to {self.committed})"
                    )
                self.unstable.append(entries[skip:] if skip else entries)
        return index + len(entries)

    def _find_conflict(self, entries: Sequence[Entry]) -> int:
        """How many of entries the log has already."""
        if entries[0].index > self.last_index:
            return 0
        for k, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                return k
        return len(entries)

    def commit_to(self, index: Index) -> bool:
        """Raise `committed` to index; never lower it. True if it moved."""
        if index <= self.committed:
            return False
        if index > self.last_index:
            raise LogDamaged(f"{index} is committed, but the log ends at {self.last_index}: entries were lost")
        self.committed = index
        return True

    def restore(self, snapshot: Snapshot) -> None:
        assert snapshot.index > self.committed, "a snapshot must not take back what is committed"
        self.committed = snapshot.index
        self.unstable.restore(snapshot)

    # -- the way of an entry to disk and to the state machine ----------------------------------

    def finish_save(self) -> Snapshot | None:
        """The oldest save under way is durable. Gives back the snapshot installed by it, if any."""
        installed = self.unstable.finish_save()
        if installed is not None:
            self.applied = self.applying = installed.index
            self._applying_bytes = 0
        return installed

    @property
    def has_committed(self) -> bool:
        """Is there something to hand out to the state machine, and room for it?"""
        applying = self.applying
        return (
            applying < self.committed
            and applying < self.unstable.offset - 1
            and self.unstable.snapshot is None
            and self._applying_bytes < self._max_applying_bytes
        )

    def next_committed(self) -> list[Entry]:
        """Entries committed and durable here, each handed out once."""
        lo = self.applying + 1
        hi = min(self.committed, self.unstable.offset - 1) + 1
        entries = self.storage.entries(lo, hi, self._max_applying_bytes - self._applying_bytes)
        size = 0
        for entry in entries:
            size += len(entry.data) + ENTRY_HEADER_SIZE_BYTES
        self._applying_bytes += size
        self.applying += len(entries)
        return entries

    def applied_to(self, index: Index) -> None:
        """Told by the shell. An index overtaken by an installed snapshot changes nothing."""
        assert index <= self.applying, "applied something that was not handed out"
        if index <= self.applied:
            return
        self.applied = index
        if index == self.applying:
            self._applying_bytes = 0
