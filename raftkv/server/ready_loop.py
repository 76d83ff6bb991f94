"""Between the pure core and the disk: takes each Ready and obeys it.

Order within one turn (raft.Ready says why each step may stand where it does):

1. what waits in the queue becomes log entries, if no flush is under way;
2. messages leave; entries and hard state are staged, and one flush begins;
3. while the disk works, committed entries are applied and their clients answered;
4. when the flush is done, the core hears of it, and what had to wait for the disk leaves; where applying takes longer
   than flushing, step 3 comes before the next step 1.

Owns the core, the in-memory log and the WAL with its flusher. Decides nothing about requests or members.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.raft import NOBODY, ProposalDropped
from raftkv.server.flusher import Flusher
from raftkv.wal import KernelSync

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.raft import Entry, MemoryStorage, RawNode, ReadState, Ready, SoftState
    from raftkv.server.proposals import Proposals
    from raftkv.wal import FlushResult, Wal

MAX_PROPOSED_BYTES: Final = 8 << 20
"""Most that one turn takes from the queue: one flush stays short, and its apply too. The rest follows with the next."""


class Owner(Protocol):
    """What the loop reports to. All calls come on the event loop, between two turns of nobody else."""

    def on_soft_state(self, soft_state: SoftState) -> None: ...

    def on_committed(self, entries: Sequence[Entry]) -> None:
        """Apply them. An exception ends the node."""

    def on_read_states(self, states: list[ReadState]) -> None: ...

    def on_proposal_dropped(self, number: int) -> None: ...

    def on_flushed(self, result: FlushResult) -> None: ...

    def on_fatal(self, failure: Exception) -> None: ...


class ReadyLoop:
    __slots__ = (
        "_apply_s",
        "_flusher",
        "_loop",
        "_owner",
        "_paused",
        "_proposals",
        "_saving",
        "_scheduled",
        "_staged",
        "_stopped",
        "_storage",
        "_wal",
        "rawnode",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rawnode: RawNode,
        storage: MemoryStorage,
        wal: Wal,
        proposals: Proposals,
        owner: Owner,
    ) -> None:
        self._loop = loop
        self.rawnode = rawnode
        self._storage = storage
        self._wal = wal
        self._proposals = proposals
        self._owner = owner
        self._flusher = Flusher(loop, wal, self._on_flushed, owner.on_fatal, KernelSync.open())
        self._staged: list[Ready] = []
        """Staged in the WAL, waiting for the next flush; in order."""
        self._saving: list[Ready] = []
        """Being flushed; in order, all before `_staged`."""
        self._apply_s = 0.0
        """How long the last batch took to apply and answer."""
        self._scheduled = False
        self._paused = False
        """Nothing is taken from the core, so nothing is applied. Proposals gather in their bounded queue."""
        self._stopped = False

    def check_log_space(self) -> bool:
        """Whether the disk has no room for the next segment of the log. If so, it is tried again until it has."""
        full = self._wal.preallocate_failed
        if full:
            self._wal.retry_preallocation()
            self._flusher.look_after()
        return full

    def pause(self) -> None:
        self._paused = True

    async def settled(self) -> None:
        """A turn is never left half done."""

    def resume(self) -> None:
        self._paused = False
        self.schedule()

    def schedule(self) -> None:
        """Have a turn soon: something may have changed. Any number of calls before it make one turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Make log entries of what waits, and do all that the core wants done."""
        self._scheduled = False
        if self._stopped or self._paused:
            return
        try:
            if not self._flusher.busy:
                self._propose()
            self._obey_all()
        except Exception as failure:
            self._owner.on_fatal(failure)

    def _obey_all(self) -> None:
        while self.rawnode.has_ready() and not self._wal.backlogged:
            self._obey(self.rawnode.ready())

    def _propose(self) -> None:
        """Only while no flush is under way: what arrives during one makes a single batch (group commit)."""
        if not self._proposals.queued or self.rawnode.lead == NOBODY:
            return  # without a leader they wait (G-51)
        size = 0
        while size < MAX_PROPOSED_BYTES and self._proposals.queued:
            number, data = self._proposals.take_batch()
            size += len(data)
            try:
                self.rawnode.propose([data])
            except ProposalDropped:
                self._owner.on_proposal_dropped(number)

    def _obey(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._owner.on_soft_state(ready.soft_state)
        assert not ready.messages, "a lone voter has nobody to write to"
        if ready.needs_save:
            self._wal.stage(ready.hard_state, ready.entries)
            self._staged.append(ready)
        if self._staged and not self._flusher.busy:
            self._saving, self._staged = self._staged, []
            self._flusher.kick()
        if ready.committed_entries:
            started_s = perf_counter()
            self._owner.on_committed(ready.committed_entries)
            self.rawnode.advance_apply(ready.committed_entries[-1].index)
            self._apply_s = perf_counter() - started_s
        if ready.read_states:
            self._owner.on_read_states(ready.read_states)

    def _on_flushed(self, result: FlushResult) -> None:
        try:
            self._note_saved()
            self._owner.on_flushed(result)
            if self._stopped or self._paused:
                return
            if result.write_s + result.sync_s < self._apply_s:
                # Applying takes longer than the disk does, so having it work meanwhile would win little. Apply and
                # answer first: who is answered asks again, and the next batch is as large as it can be (docs/adr/0004).
                self._obey_all()
                self._loop.call_soon(self.schedule)  # one poll later: the answers leave, and sockets are read
                return
        except Exception as failure:
            self._owner.on_fatal(failure)
            return
        self.turn()

    def _note_saved(self) -> None:
        saved, self._saving = self._saving, []
        for ready in saved:
            # The in-memory log first: `advance_append` lets the core forget its own copy of these entries.
            if ready.hard_state is not None:
                self._storage.set_hard_state(ready.hard_state)
            self._storage.append(ready.entries)
            self.rawnode.advance_append(ready)
            assert not ready.messages_after_sync, "a lone voter has nobody to promise anything to"

    def stop(self) -> None:
        """Finish the flush under way, then flush what is staged: an unacknowledged entry may as well be durable."""
        self._stopped = True
        if self._flusher.stop() and self._staged:
            self._wal.flush()
