"""One Raft node as its shell drives it: events in, a Ready out.

Owns the contract of `Ready`: what has been handed out, what is being saved, what was told before.
The protocol is `core`'s. Not thread-safe, and never waits: every method runs to completion.

    event (tick, step, propose, ...) -> has_ready()? -> ready() -> do it -> advance_append, advance_apply

A follower's disk, a leader's disk and the network can all be busy at once: Ready after Ready may be
taken while earlier ones are still being saved. What ties them is one rule: saves finish in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from . import acknowledgements, elections, membership, proposals, reads, transfer
from .confdata import encode_conf_change
from .config import Config, Rng
from .core import Raft
from .errors import BadMessage, ProposalDropped
from .progress import ProgressState
from .storage import Storage
from .types import (
    NOBODY,
    ConfChange,
    ConfState,
    Entry,
    EntryType,
    Index,
    Message,
    MessageType,
    NodeId,
    Ready,
    Role,
    Snapshot,
    Term,
)


@dataclass(slots=True, frozen=True)
class PeerStatus:
    """A leader's knowledge of one member."""

    match: Index
    next: Index
    state: ProgressState
    is_learner: bool
    recent_active: bool
    inflight_msgs: int
    inflight_bytes: int


@dataclass(slots=True, frozen=True)
class Status:
    """A copy to look at; nothing in it changes later."""

    id: NodeId
    role: Role
    term: Term
    vote: NodeId
    lead: NodeId
    committed: Index
    applied: Index
    last_index: Index
    conf_state: ConfState
    lead_transferee: NodeId
    uncommitted_bytes: int
    saves_in_flight: int
    pending_reads: int
    progress: dict[NodeId, PeerStatus]
    """Empty unless this node leads. In order of id."""


class RawNode:
    __slots__ = ("_commit_overdue", "_hard", "_raft", "_saving", "_soft", "hold_commit_news")

    def __init__(self, config: Config, storage: Storage, rng: Rng) -> None:
        """A follower with what storage remembers. Raises BadConfig and LogDamaged."""
        self._hard = storage.initial_state()[0]
        """As last handed out for saving."""
        self._raft = Raft(config, storage, rng)
        self._soft = self._raft.soft_state
        self._commit_overdue = False
        """The commit index moved, a tick has passed, and no entries came along to save it with."""
        self.hold_commit_news = False
        """As leader, do not write to followers only to tell them a new commit index: the shell expects to propose soon,
        and appends carry it. Safe for any length of time; heartbeats carry it as well."""
        self._saving: deque[Ready] = deque()
        """Handed out and not yet reported durable, oldest first. As many as the shell takes."""

    # -- events ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of the shell's clock has passed."""
        self._raft.tick()
        self._commit_overdue = self._raft.log.committed != self._hard.commit

    def campaign(self) -> None:
        """Stand for election now, if this node may (RF-05, RF-06)."""
        elections.campaign(self._raft)

    def propose(self, payloads: Sequence[bytes]) -> None:
        """Ask for one log entry per payload, in this order, all or none. Raises ProposalDropped.

        Not raising promises nothing: an entry counts when it comes back in committed_entries. An
        empty payload is legal, but looks there like a new leader's first entry. No payloads: nothing.
        """
        if not payloads:
            return
        raft = self._raft
        if raft.role is Role.LEADER:
            proposals.propose_data(raft, payloads)
        else:
            self._give_to_leader([Entry(0, 0, EntryType.NORMAL, data) for data in payloads])

    def propose_conf_change(self, change: ConfChange) -> None:
        """Ask for a membership change. Raises ProposalDropped.

        If another one is not yet applied, the entry is committed as an empty normal one (RF-60).
        """
        entries = [Entry(0, 0, EntryType.CONF_CHANGE, encode_conf_change(change))]
        if self._raft.role is Role.LEADER:
            proposals.propose(self._raft, entries)
        else:
            self._give_to_leader(entries)

    def _give_to_leader(self, entries: list[Entry]) -> None:
        message = Message(MessageType.PROP, self._raft.id, sender=self._raft.id, entries=entries)
        self._raft.step(message)

    def step(self, message: Message) -> None:
        """A message of a peer has arrived.

        Raises BadMessage (drop the connection) and LogDamaged (stop this member).
        """
        raft = self._raft
        if message.to != raft.id or message.sender in (NOBODY, raft.id):
            raise BadMessage(f"a message from {message.sender} to {message.to} reached {raft.id}")
        try:
            raft.step(message)
        except ProposalDropped:
            # A peer's proposal. There is no answer to one: its client times out or retries.
            return

    def read_index(self, context: bytes) -> bool:
        """Ask for an index at which a read that begins now is linearizable; see Ready.read_states.

        Even True promises nothing: the request or its answer may be lost, ask again with the same
        context or another (RF-35). False: no leader is known or too many are waiting (on this node).
        """
        raft = self._raft
        if raft.role is Role.LEADER:
            return reads.request(raft, raft.id, context)
        if raft.lead == NOBODY:
            return False
        reads.forward(raft, Message(MessageType.READ_INDEX, raft.id, sender=raft.id, context=context))
        return True

    def transfer_leader(self, target: NodeId) -> None:
        """Ask that target leads. Ignored if it cannot; given up after an election timeout (RF-20, RF-21)."""
        raft = self._raft
        if raft.role is Role.LEADER:
            transfer.start(raft, target)
        else:
            transfer.forward(raft, Message(MessageType.TRANSFER_LEADER, raft.id, index=target))

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """A committed change is being applied: call before `advance_apply` of its entry (RF-61).

        Raises BadConfChange if the present configuration cannot make it; nothing has changed then. A
        change that the shell itself refuses is simply not reported here (RF-62).
        """
        return membership.apply_conf_change(self._raft, change)

    def report_unreachable(self, node_id: NodeId) -> None:
        """Messages to node_id were dropped by the transport (RF-42)."""
        self._raft.on_unreachable(node_id)

    def report_snapshot(self, node_id: NodeId, ok: bool) -> None:
        """The snapshot for node_id was delivered, or was not. Must come for every SNAP sent."""
        self._raft.on_snapshot_report(node_id, ok)

    def attest(self, index: Index, state_hash: int) -> None:
        """From now on appends and heartbeats say: applied up to index, our state hashes to state_hash."""
        self._raft.state_index = index
        self._raft.state_hash = state_hash

    # -- what is to be done ------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Would ready() contain anything? Costs the same however much is waiting."""
        raft = self._raft
        hard, soft, log = self._hard, self._soft, raft.log
        return bool(
            raft.messages
            or (raft.commit_news and not self.hold_commit_news)
            or raft.after_sync
            or raft.read_states
            or log.has_committed
            or log.unstable.has_new
            or raft.term != hard.term
            or raft.vote != hard.vote
            or raft.lead != soft.lead
            or raft.role is not soft.role
            or self._commit_overdue
        )

    def ready(self) -> Ready:
        """All there is to do now, each thing handed out once. The shell must do it: see Ready."""
        raft = self._raft
        log = raft.log
        soft = None
        if raft.lead != self._soft.lead or raft.role is not self._soft.role:
            soft = self._soft = raft.soft_state
        if raft.commit_news and not self.hold_commit_news:
            acknowledgements.tell_commit(raft)
        messages, raft.messages = raft.messages, []
        after_sync, raft.after_sync = raft.after_sync, []
        read_states, raft.read_states = raft.read_states, []
        committed: list[Entry] = []
        if log.has_committed:
            committed = log.next_committed()
            if raft.uncommitted_bytes:
                self._free_uncommitted(committed)
        has_new = log.unstable.has_new
        must_sync = has_new or raft.term != self._hard.term or raft.vote != self._hard.vote
        if must_sync or self._commit_overdue or (after_sync and self._saving):
            ready = Ready(soft, None, [], None, committed, messages, after_sync, read_states, must_sync, True)
            self._fill_save(ready)
        else:
            # Nothing to wait for: promises about what is durable already may leave at once.
            ready = Ready(soft, None, [], None, committed, messages + after_sync, [], read_states)
        return ready

    def _fill_save(self, ready: Ready) -> None:
        hard = self._raft.hard_state
        if hard != self._hard:
            self._hard = ready.hard_state = hard
        self._commit_overdue = False
        ready.entries, ready.snapshot = self._raft.log.unstable.hand_out()
        self._saving.append(ready)

    def _free_uncommitted(self, committed: list[Entry]) -> None:
        size = 0
        for entry in committed:
            size += len(entry.data)
        # Entries of earlier leaders were never counted here.
        self._raft.uncommitted_bytes = max(0, self._raft.uncommitted_bytes - size)

    # -- what has been done --------------------------------------------------------------------------

    def advance_append(self, ready: Ready) -> None:
        """The save of ready, and of every Ready before, is durable, and Storage shows it.

        A snapshot in it is installed: it counts as applied. For a Ready without needs_save nothing
        happens.
        """
        if not ready.needs_save:
            return
        oldest = self._saving.popleft()
        assert oldest is ready, "saves finish in the order of their Readys"
        self._raft.on_saved(ready.hard_state)

    def advance_apply(self, index: Index) -> None:
        """The committed entries up to index have been applied."""
        self._raft.on_applied(index)

    # -- looking in ------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self._raft.role is Role.LEADER

    @property
    def reads_at_once(self) -> bool:
        """`committed` is a read index now: this node leads, alone is the quorum, and has committed in
        its term (RF-32)."""
        raft = self._raft
        return raft.role is Role.LEADER and raft.tracker.is_single_voter and raft.committed_in_term

    @property
    def can_change_conf(self) -> bool:
        """As leader: a membership change proposed now would enter the log (RF-60)."""
        raft = self._raft
        return raft.pending_conf_index <= raft.log.applied and not raft.tracker.conf.voters_outgoing

    @property
    def pending_snapshot(self) -> Snapshot | None:
        """Accepted, and not yet reported as installed."""
        return self._raft.log.unstable.snapshot

    @property
    def lead(self) -> NodeId:
        """Who leads as far as we know, or 0."""
        return self._raft.lead

    @property
    def term(self) -> Term:
        return self._raft.term

    @property
    def committed(self) -> Index:
        return self._raft.log.committed

    @property
    def has_commit_news(self) -> bool:
        """Followers may not have been told the commit index."""
        return self._raft.commit_news

    @property
    def last_index(self) -> Index:
        return self._raft.log.last_index

    @property
    def applied(self) -> Index:
        return self._raft.log.applied

    def status(self) -> Status:
        raft = self._raft
        progress: dict[NodeId, PeerStatus] = {}
        if raft.is_leader:
            for node_id, p in raft.tracker.progress.items():
                progress[node_id] = PeerStatus(
                    p.match,
                    p.next,
                    p.state,
                    p.is_learner,
                    p.recent_active or node_id == raft.id,
                    len(p.inflights),
                    p.inflights.size_bytes,
                )
        return Status(
            id=raft.id,
            role=raft.role,
            term=raft.term,
            vote=raft.vote,
            lead=raft.lead,
            committed=raft.log.committed,
            applied=raft.log.applied,
            last_index=raft.log.last_index,
            conf_state=raft.tracker.conf,
            lead_transferee=raft.lead_transferee,
            uncommitted_bytes=raft.uncommitted_bytes,
            saves_in_flight=len(self._saving),
            pending_reads=len(raft.read_only.held) + len(raft.read_only.waiting),
            progress=progress,
        )
