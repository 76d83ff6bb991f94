"""The end of the log that this node's disk does not have yet.

Owns which entries wait for a save, which saves are under way, and what a finished save proves.
Knows nothing of terms' meaning, peers or commits.

Saves finish in the order in which they were handed out, so a finished save proves that its last
entry and everything before it is on disk, unless the log has been cut below that entry since.
That exception is the ABA problem. A log may see, under three leaders of terms 1, 2, 3:

    save A   2@1            handed out, slow disk
    save B   2@2            a leader of term 2 replaces it
    save C   2@1            a leader of term 3 had the old entry and restores it

When A finishes, entry 2@1 is in the log and 2@1 has been written; but B will yet destroy it. If
A's end counted for index 2, the node would acknowledge an entry that a crash after B loses.
Comparing terms cannot tell; so every cut lowers what the saves under way will prove: here A and B
prove index 1, and only C proves 2. The price is nothing on the common path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .types import Entry, Index, Snapshot


class Save:
    """One hand-out to the disk."""

    __slots__ = ("proves", "snapshot")

    def __init__(self, proves: Index, snapshot: Snapshot | None) -> None:
        self.proves = proves
        """Index known to be durable when this save is. Lowered when the log is cut below it."""
        self.snapshot = snapshot


class Unstable:
    __slots__ = ("entries", "handed", "offset", "saves", "snapshot", "snapshot_handed")

    def __init__(self, offset: Index) -> None:
        self.offset = offset
        """Index of entries[0]. Without a pending snapshot, everything below is durable and in Storage;
        with one, offset == snapshot.index + 1."""
        self.entries: list[Entry] = []
        self.handed: Index = offset
        """Next index to hand out. Invariant: offset <= handed <= offset + len(entries)."""
        self.snapshot: Snapshot | None = None
        """Received, not yet installed. While it is here, Storage holds a log that no longer counts."""
        self.snapshot_handed = False
        self.saves: deque[Save] = deque()
        """Under way, oldest first. Bounded by the shell: one Ready, one save."""

    @property
    def has_new(self) -> bool:
        return self.handed < self.offset + len(self.entries) or (self.snapshot is not None and not self.snapshot_handed)

    def append(self, entries: Sequence[Entry]) -> None:
        """Put entries behind the log or over its end, from the first one's index on."""
        at = entries[0].index
        last = self.offset + len(self.entries)
        if at == last:
            self.entries.extend(entries)
            return
        assert at < last, "a gap in the log"
        if at <= self.offset:
            assert self.snapshot is None or at == self.offset, "a snapshot cannot be overwritten"
            self.offset = at
            self.entries = list(entries)
        else:
            del self.entries[at - self.offset :]
            self.entries.extend(entries)
        self.handed = min(self.handed, at)
        self._distrust_saves(at - 1)

    def restore(self, snapshot: Snapshot) -> None:
        """Forget everything in favour of snapshot. Saves under way prove nothing any more."""
        self.offset = self.handed = snapshot.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_handed = False
        self._distrust_saves(0)

    def hand_out(self) -> tuple[list[Entry], Snapshot | None]:
        """What has not been handed out yet, each once; enters a Save for it."""
        entries = self.entries
        skip = self.handed - self.offset
        fresh = entries[skip:] if skip else entries[:]
        last = self.offset + len(entries)
        self.handed = last
        snapshot = None
        if self.snapshot is not None and not self.snapshot_handed:
            snapshot = self.snapshot
            self.snapshot_handed = True
        self.saves.append(Save(last - 1, snapshot))
        return fresh, snapshot

    def finish_save(self) -> Snapshot | None:
        """The oldest save is durable. Gives back the snapshot that is installed now, if it still counts."""
        save = self.saves.popleft()
        installed = None
        if save.snapshot is not None and save.snapshot is self.snapshot:
            installed = self.snapshot
            self.snapshot = None
            self.snapshot_handed = False
        count = save.proves - self.offset + 1
        if count > 0:
            del self.entries[:count]
            self.offset += count
        return installed

    def _distrust_saves(self, index: Index) -> None:
        for save in self.saves:
            save.proves = min(save.proves, index)
