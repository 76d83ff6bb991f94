"""Between the pure core and the disk: takes each Ready and obeys it.

Order within one turn (raft.Ready says why each step may stand where it does):

1. what waits in the queue becomes log entries, if no flush is under way and few enough batches are on their way to a
   quorum, or goes to the leader;
2. messages leave; entries and hard state are staged, and one flush begins;
3. while the disk works, and the peers' disks, committed entries are applied and their clients answered;
4. when the flush is done, the core hears of it, and what had to wait for the disk leaves; where applying takes longer
   than flushing, step 3 comes before the next step 1.

With one voter and one or two clients there is little to do while the disk works: then the turn ends with the sync.

A snapshot is installed between its record in the log and the core's hearing of it. Owns the core, the in-memory log and
the WAL with its flusher. Decides nothing about requests or members.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.raft import NOBODY, ProposalDropped
from raftkv.server.batch_sizes import BatchSizes
from raftkv.server.flusher import Flusher
from raftkv.wal import KernelSync, LogPosition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raftkv.raft import Entry, MemoryStorage, Message, NodeId, RawNode, ReadState, Ready, Snapshot, SoftState
    from raftkv.server.proposals import Proposals
    from raftkv.wal import FlushResult, Wal

MAX_PROPOSED_BYTES: Final = 8 << 20
"""Most that one turn takes from the queue: one flush stays short, and its apply too. The rest follows with the next."""
DISTANCE_S: Final = 0.002
"""For every so much of round trip to a quorum one more batch may be on its way. Nearby, batches gather while one is
under way, as they do during a flush, and cost less; far away, the way is what takes time, and is kept filled."""
MAX_BATCHES: Final = 16
PROMISE_S: Final = 0.02
COMMIT_NEWS_S: Final = 0.001
"""How long followers may be left without the news that a batch is committed, which only this member's clients wait for:
the next batch carries it, and saves each of them a message to read and one to write."""


class Owner(Protocol):
    """What the loop reports to. All calls come on the event loop, between two turns of nobody else."""

    def send(self, messages: Sequence[Message]) -> None:
        """To their receivers, in this order, without waiting. May be lost."""

    def reaches(self, member_id: NodeId) -> bool:
        """Whether what is sent there now has a chance to arrive."""

    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        """The log has been restarted behind this snapshot, durably: put its store in place, then call `done`."""

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
        "_behind_install",
        "_commit_news_due",
        "_flusher",
        "_held",
        "_held_up",
        "_kicked_s",
        "_loop",
        "_owner",
        "_paused",
        "_proposals",
        "_proposed",
        "_saving",
        "_scheduled",
        "_staged",
        "_stopped",
        "_storage",
        "_wal",
        "batch_sizes",
        "quorum_rtt_s",
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
        self._behind_install: deque[Ready] = deque()
        """Durable, but a snapshot in the first of them is still being installed; the core hears of all of them then."""
        self._proposed: deque[int] = deque()
        """As leader of several: last index of each batch that is not committed yet."""
        self.quorum_rtt_s = 0.0
        """Round trip to the nearest quorum when nothing delays it; the owner measures."""
        self._commit_news_due = False
        """A timer will let the news go. A lone voter has nobody to keep from them."""
        rawnode.hold_commit_news = True
        self._apply_s = 0.0
        """How long the last batch took to apply and answer."""
        self._scheduled = False
        self._paused = False
        """Nothing is applied and nothing proposed; what members say to each other goes on. Proposals gather in their
        bounded queue."""
        self._held: deque[list[Entry]] = deque()
        """Handed out by the core and not applied yet: while paused, and see `_promises_first`. Bounded by the core:
        `Config.max_committed_size_per_ready`."""
        self._kicked_s = 0.0
        """When the last flush began."""
        self.batch_sizes = BatchSizes()
        self._held_up = False
        """What is queued has waited for a leader, and perhaps longer than whoever asked for it."""
        self._stopped = False

    def check_log_space(self, *, room_was_made: bool = False) -> bool:
        """Whether the disk has no room for the next segment of the log. If so, it is tried again until it has.

        The answer is that of the last try, unless `room_was_made`: then, until the next one, the file system's word.
        """
        if not self._wal.preallocate_failed:
            return False
        self._wal.retry_preallocation()
        self._flusher.look_after()
        return not (room_was_made and self._wal.disk_has_room())

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

    @property
    def is_due(self) -> bool:
        """A turn comes in this turn of the event loop."""
        return self._scheduled

    def turn(self) -> None:
        """Make log entries of what waits, and do all that the core wants done."""
        self._scheduled = False
        if self._stopped:
            return
        try:
            if self.rawnode.reads_at_once or not self._answer_first():
                self._propose()
                self._obey_all()
        except Exception as failure:
            self._owner.on_fatal(failure)

    def _answer_first(self) -> bool:
        """Among several members a turn comes with an acknowledgement. Who is answered by what it commits asks again:
        apply, let the sockets be read once, then make the next batch, as large as it can be (docs/adr/0006)."""
        before = self.rawnode.applied
        self._obey_all()
        answered = self.rawnode.applied > before and self.rawnode.is_leader
        if answered:
            self._loop.call_soon(self.schedule)
        return answered

    def _obey_all(self) -> None:
        self._apply_held()
        while self.rawnode.has_ready() and not self._wal.backlogged:
            self._obey(self.rawnode.ready())
        self._flush_staged()  # what was staged during the last flush, though the core has nothing new
        self.rawnode.hold_commit_news = not self.rawnode.reads_at_once
        if self.rawnode.hold_commit_news and self.rawnode.has_commit_news and not self._commit_news_due:
            self._commit_news_due = True
            self._loop.call_later(COMMIT_NEWS_S, self._tell_commit)
        if self._flusher.waits_for_sync:
            self._flusher.sync()  # at the very end: its report begins the next turn

    def _propose(self) -> None:
        """Only while no flush is under way: what arrives during one makes a single batch (group commit)."""
        if not self._proposals.queued or self._paused:
            return
        if self.rawnode.lead == NOBODY:
            self._held_up = True  # they wait (G-51)
            return
        leads = self.rawnode.is_leader
        if leads and (self._flusher.busy or not self._has_room()):
            return  # a follower's proposals do not wait for its own disk
        if not leads and not self._owner.reaches(self.rawnode.lead):
            self._held_up = True  # they would be lost on the way to a leader that is gone; the next one is told
            return
        if self._held_up:
            self._held_up = False
            self._proposals.drop_abandoned()
        if self._proposals.queued:
            self._propose_queued(leads)

    def _propose_queued(self, leads: bool) -> None:
        self.batch_sizes.on_batch(self._proposals.queued)
        size = 0
        while size < MAX_PROPOSED_BYTES and self._proposals.queued:
            number, data = self._proposals.take_batch()
            size += len(data)
            try:
                self.rawnode.propose([data])
            except ProposalDropped:
                self._owner.on_proposal_dropped(number)
        if leads:
            self._proposed.append(self.rawnode.last_index)

    def _has_room(self) -> bool:
        """Whether another batch may be sent on its way to a quorum. For a lone voter the flush is all there is."""
        proposed, committed = self._proposed, self.rawnode.committed
        while proposed and proposed[0] <= committed:
            proposed.popleft()
        return len(proposed) <= min(int(self.quorum_rtt_s / DISTANCE_S), MAX_BATCHES - 1)

    def tell_commit_now(self) -> None:
        """Somebody on another member waits for what has just been committed."""
        self.rawnode.hold_commit_news = False

    def _tell_commit(self) -> None:
        self._commit_news_due = False
        self.rawnode.hold_commit_news = False
        self.schedule()

    def _obey(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._proposed.clear()
            self._owner.on_soft_state(ready.soft_state)
        if ready.messages:
            self._owner.send(ready.messages)
        if ready.needs_save:
            snapshot = ready.snapshot
            position = None if snapshot is None else LogPosition(snapshot.index, snapshot.term)
            self._wal.stage(ready.hard_state, ready.entries, position)
            self._staged.append(ready)
        self._flush_staged()
        if ready.committed_entries:
            self._held.append(ready.committed_entries)
            self._apply_held()
        if ready.read_states:
            self._owner.on_read_states(ready.read_states)

    def _flush_staged(self) -> None:
        if self._staged and not self._flusher.busy:
            self._saving, self._staged = self._staged, []
            self._kicked_s = perf_counter()
            self._flusher.kick(on_loop=self.batch_sizes.may_sync and self.rawnode.reads_at_once)

    def _apply_held(self) -> None:
        while self._held and not self._paused and not self._promises_first():
            self._apply(self._held.popleft())

    def _promises_first(self) -> bool:
        """A follower's flush is under way, and the whole cluster waits for what it will promise; its end would go
        unnoticed while a batch is applied, which nobody else waits for. Not on a disk that hangs."""
        return self._flusher.busy and not self.rawnode.is_leader and perf_counter() - self._kicked_s < PROMISE_S

    def _apply(self, entries: list[Entry]) -> None:
        started_s = perf_counter()
        self._owner.on_committed(entries)
        self.rawnode.advance_apply(entries[-1].index)
        self._apply_s = perf_counter() - started_s

    def _on_flushed(self, result: FlushResult) -> None:
        try:
            self._note_saved()
            self.batch_sizes.on_flushed(result.sync_s)
            self._owner.on_flushed(result)
            if self._stopped:
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
            if ready.snapshot is not None:
                self._storage.apply_snapshot(ready.snapshot)
            self._storage.append(ready.entries)
            if ready.snapshot is not None or self._behind_install:
                self._behind_install.append(ready)
                if len(self._behind_install) == 1:
                    self._install_first()
            else:
                self._finish_save(ready)

    def _finish_save(self, ready: Ready) -> None:
        self.rawnode.advance_append(ready)
        if ready.messages_after_sync:
            self._owner.send(ready.messages_after_sync)

    def _install_first(self) -> None:
        snapshot = self._behind_install[0].snapshot
        assert snapshot is not None
        # What was handed out and not applied yet is part of the snapshot.
        self._held.clear()
        self._owner.install(snapshot, self._on_installed)

    def _on_installed(self) -> None:
        waiting = self._behind_install
        self._finish_save(waiting.popleft())
        while waiting and waiting[0].snapshot is None:
            self._finish_save(waiting.popleft())
        if waiting:
            self._install_first()
        self.schedule()

    def halt(self) -> None:
        """Do nothing any more, not even what is staged: the member has failed."""
        self._stopped = True

    def stop(self) -> None:
        """Finish the flush under way, then flush what is staged: an unacknowledged entry may as well be durable."""
        halted, self._stopped = self._stopped, True
        if self._flusher.stop() and self._staged and not halted:
            self._wal.flush()
