"""The log in memory, as Raft's core reads it: how much of it is kept, and which snapshot stands for the rest.

Kept are the entries that are not applied yet, and behind them what a follower that lags may want (RF-43): so many
entries, and no more than so many bytes, for an entry holds a whole batch. Whoever needs more gets a copy of the store,
which is always as new as what is applied. Owns these bounds; the core does not trim, and the WAL follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.raft import MemoryStorage, Snapshot

if TYPE_CHECKING:
    from raftkv.apply import Applier
    from raftkv.raft import ConfState, HardState, Index

MAX_KEPT_BYTES: Final = 64 << 20
"""Of applied entries: some 200,000 small writes."""


class ReplicaLog(MemoryStorage):
    """See the module. `applier` says what is applied, and with which configuration."""

    __slots__ = ("_applier",)

    def __init__(self, applier: Applier, hard_state: HardState, conf_state: ConfState) -> None:
        super().__init__(hard_state, conf_state)
        self._applier = applier

    def snapshot(self) -> Snapshot:
        """The store as it is now: a member that is sent this fetches a copy of it, at this index or a later one."""
        applier = self._applier
        return Snapshot(applier.index, applier.term, applier.conf_state)

    def trim(self, keep_entries: int, keep_from: Index | None) -> None:
        """Forget applied entries beyond the bounds; with `keep_from`, none from there on whatever their number.

        The first entry always goes once it is applied: a member that joins begins with nothing, not even the
        membership of a cluster that was founded before the log, so it must be given a snapshot.
        """
        applied = self._applier.index
        floor = max(applied - keep_entries, min(applied, 1))
        excess = self.size_bytes - MAX_KEPT_BYTES
        if excess > 0:
            first = self.first_index()
            if applied >= first:
                floor = max(floor, self.entries(first, applied + 1, excess)[-1].index)
        if keep_from is not None:
            floor = min(floor, keep_from)
        if floor >= self.first_index():
            self.compact(floor)
