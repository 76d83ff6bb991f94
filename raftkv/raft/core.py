"""The state of one Raft node, its roles, and the door every message goes through.

Owns term, vote, role, timers and the two outboxes. What a message means in a role stands in the
handler modules; the tables in `dispatch` say who handles what.

Time is a count of ticks handed in; chance is an Rng handed in; the disk is a Storage that is only
read. A node can therefore be replayed from its inputs alone.

The roles (Raft paper, figure 4, with the pre-vote of thesis §9.6):

    follower -> pre-candidate -> candidate -> leader
        ^____________|_______________|___________|      a newer term, a leader of this term, or a lost quorum
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from . import acknowledgements, dispatch, elections, membership, sending, transfer
from .confchange import check
from .config import Config, Rng
from .errors import BadConfChange, BadMessage, LogDamaged
from .log import RaftLog
from .progress import ProgressState
from .read_only import ReadOnly
from .storage import Storage
from .tracker import Tracker
from .types import (
    NOBODY,
    Entry,
    HardState,
    Index,
    Message,
    MessageType,
    NodeId,
    ReadState,
    Role,
    SoftState,
    Term,
)

Handler: TypeAlias = "Callable[[Raft, Message], None]"

_FROM_LEADER: Final = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})
"""Only the leader of the message's term sends these (Election Safety), so they tell who leads."""

_WITHOUT_TERM: Final = frozenset({MessageType.PROP, MessageType.READ_INDEX})
"""Requests of clients on their way: good for whoever leads when they arrive. All others pass the
comparison of terms, on which everything rests."""

_VOTE_REQUESTS: Final = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})


class Raft:
    __slots__ = (
        "after_sync",
        "commit_news",
        "config",
        "election_elapsed",
        "heartbeat_elapsed",
        "id",
        "lead",
        "lead_transferee",
        "log",
        "messages",
        "pending_conf_index",
        "randomized_timeout",
        "read_only",
        "read_states",
        "rng",
        "role",
        "save_elapsed",
        "state_hash",
        "state_index",
        "term",
        "tracker",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(self, config: Config, storage: Storage, rng: Rng) -> None:
        """Raises BadConfig, and LogDamaged when the stored state contradicts itself."""
        config.validate()
        self.config = config
        self.id: NodeId = config.id
        self.rng = rng
        hard, conf = storage.initial_state()
        try:
            check(conf)
        except BadConfChange as e:
            raise LogDamaged(f"the stored configuration is impossible: {e}") from e
        self.log = RaftLog(storage, hard.commit, config.applied, config.max_committed_size_per_ready)
        self.term: Term = hard.term
        """Newest term seen. Never decreases; on disk before anything promised in it is sent."""
        self.vote: NodeId = hard.vote
        """Who got our vote in `term`; changes at most once per term (thesis §3.4)."""
        if self.log.last_term > hard.term:
            # A torn save kept entries of a term and lost the hard state behind them. A vote in that
            # term was never told to anybody, or the save would have been complete.
            self.term, self.vote = self.log.last_term, NOBODY
        self.tracker = Tracker(self.id, config.max_inflight_msgs, config.max_inflight_bytes)
        self.tracker.switch(conf, self.log.last_index + 1)
        self.read_only = ReadOnly(config.max_pending_reads)
        self.role = Role.FOLLOWER
        self.lead: NodeId = NOBODY
        """Whom we believe to lead in `term` (RF-08: 0 if unknown)."""
        self.lead_transferee: NodeId = NOBODY
        """Leader only: to whom the leadership is going. Proposals are dropped meanwhile (RF-20)."""
        self.pending_conf_index: Index = 0
        """Leader only: behind this index the log holds no membership change. A new one may enter it
        once this is applied (thesis §4.1)."""
        self.uncommitted_bytes = 0
        """Leader only: data of the entries proposed in this term and not yet handed out as committed."""
        self.commit_news = False
        """Leader only: the commit index rose, and followers may not have been told."""
        self.election_elapsed = 0
        """Ticks since we heard of a leader, or since the leader last checked its quorum."""
        self.heartbeat_elapsed = 0
        """Leader only: ticks since the last heartbeat."""
        self.save_elapsed = 0
        """Leader only: ticks during which no save finished although some were under way."""
        self.randomized_timeout = 0
        """This time's patience: in [election_ticks, 2 * election_ticks)."""
        self.messages: list[Message] = []
        """May leave at once. Bounded by what one step sends: emptied at every Ready."""
        self.after_sync: list[Message] = []
        """Leave when everything so far is durable: promises (thesis §3.8). Emptied at every Ready."""
        self.read_states: list[ReadState] = []
        """Confirmed reads of this node. Emptied at every Ready; bounded by max_pending_reads."""
        self.state_index: Index = 0
        self.state_hash = 0
        """What `RawNode.attest` was last told; sent along with appends and heartbeats."""
        self.become_follower(self.term, NOBODY)

    # -- what one can ask ----------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def soft_state(self) -> SoftState:
        return SoftState(self.lead, self.role)

    @property
    def committed_in_term(self) -> bool:
        """An entry of this term is committed: our commit index is at least any earlier leader's."""
        return self.log.matches(self.log.committed, self.term)

    @property
    def promotable(self) -> bool:
        """May campaign: a voter by its own configuration (RF-06), with a whole log."""
        return self.id in self.tracker.voters and self.log.unstable.snapshot is None

    # -- sending ---------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """In our name and term; may leave before anything is saved."""
        message.sender = self.id
        message.term = self.term
        self.messages.append(message)

    def send_after_sync(self, message: Message) -> None:
        """In our name and term; leaves once all that was decided so far is on disk."""
        message.sender = self.id
        message.term = self.term
        self.after_sync.append(message)

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> None:
        if self.role is Role.LEADER:
            self._tick_leader()
        else:
            self._tick_electable()

    def _tick_electable(self) -> None:
        self.election_elapsed += 1
        if self.election_elapsed >= self.randomized_timeout and self.promotable:
            self.election_elapsed = 0
            elections.campaign(self)

    def _tick_leader(self) -> None:
        self.heartbeat_elapsed += 1
        self.election_elapsed += 1
        if self._disk_hangs():
            self.become_follower(self.term, NOBODY)
            return
        if self.election_elapsed >= self.config.election_ticks:
            self.election_elapsed = 0
            if self.config.check_quorum and not self._check_quorum():
                return
            transfer.abort(self)  # one election timeout is all it gets (RF-21)
            membership.maybe_leave_joint(self)
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks:
            self.heartbeat_elapsed = 0
            sending.bcast_heartbeat(self)

    def _check_quorum(self) -> bool:
        """RF-04. A leader that a quorum does not answer makes way: it could only mislead clients."""
        tracker = self.tracker
        own = tracker.progress.get(self.id)
        if own is not None:
            own.recent_active = True
        active = tracker.quorum_active()
        if not active:
            self.become_follower(self.term, NOBODY)
            return False
        for peer in tracker.peers:
            tracker.progress[peer].recent_active = False
        return True

    def _disk_hangs(self) -> bool:
        """Has no save finished for an election timeout? Others, with working disks, should lead then.

        A single voter stays: there is nobody to make way for.
        """
        if not self.log.unstable.saves or len(self.tracker.voters) < 2:
            self.save_elapsed = 0
            return False
        self.save_elapsed += 1
        return self.save_elapsed >= self.config.election_ticks

    # -- the door ------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take in a message. Raises BadMessage, LogDamaged, and ProposalDropped for a PROP."""
        if message.term:
            if message.term > self.term:
                if not self._enter_newer_term(message):
                    return
            elif message.term < self.term:
                self._answer_older_term(message)
                return
        elif message.type not in _WITHOUT_TERM:
            raise BadMessage(f"{message.sender} sent a message without a term")
        kind = message.type
        if kind in _VOTE_REQUESTS:
            elections.on_vote_request(self, message)
            return
        handler = dispatch.HANDLERS[self.role].get(kind)
        if handler is not None:
            handler(self, message)

    def _enter_newer_term(self, message: Message) -> bool:
        """False: the message is to be ignored, as if it had been lost."""
        kind = message.type
        if kind in _VOTE_REQUESTS:
            # RF-03, thesis §4.2.3: who heard of a leader within an election timeout does not help to
            # depose it, else a removed or cut-off member could stop a healthy cluster again and again.
            # Not so when that leader itself ordered the election.
            in_lease = self.lead != NOBODY and self.election_elapsed < self.config.election_ticks
            if self.config.check_quorum and in_lease and not message.transfer:
                return False
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESP and not message.reject):
            return True  # speaks about a term nobody has entered yet (RF-02)
        self.become_follower(message.term, message.sender if kind in _FROM_LEADER else NOBODY)
        return True

    def _answer_older_term(self, message: Message) -> None:
        """RF-10. Most old messages are simply late. Two kinds show somebody who is stuck."""
        kind = message.type
        if kind in (MessageType.HEARTBEAT, MessageType.APP):
            # A leader of an older term that does not know of ours. With leases (RF-03) or pre-votes
            # (RF-02) we could not tell it through an election, so the answer has to: it carries our term.
            if self.config.check_quorum or self.config.pre_vote:
                self.send_after_sync(Message(MessageType.APP_RESP, message.sender))
        elif kind is MessageType.PRE_VOTE:
            self.send(elections.answer(self, message, grant=False))

    # -- roles -----------------------------------------------------------------------------------------

    def become_follower(self, term: Term, lead: NodeId) -> None:
        assert term >= self.term, "a term never decreases"
        self._reset(term)
        self.role = Role.FOLLOWER
        self.lead = lead

    def become_pre_candidate(self) -> None:
        """Asks whether an election could be won; term and vote stay as they are."""
        assert self.role is not Role.LEADER, "a leader need not campaign"
        self.role = Role.PRE_CANDIDATE
        self.lead = NOBODY
        self.tracker.votes = {}
        self._draw_timeout()

    def become_candidate(self) -> None:
        assert self.role is not Role.LEADER, "a leader need not campaign"
        self._reset(self.term + 1)
        self.role = Role.CANDIDATE
        self.vote = self.id

    def become_leader(self) -> None:
        assert self.role is Role.CANDIDATE, "leaders are elected"
        self._reset(self.term)
        self.role = Role.LEADER
        self.lead = self.id
        log = self.log
        own = self.tracker.progress.get(self.id)
        if own is not None:
            own.become_replicate()
            own.maybe_update(log.durable)
            own.recent_active = True
        # What lies in the log beyond `applied` may contain a change of the membership, of an earlier
        # leader. Instead of looking, wait until all of it is applied.
        self.pending_conf_index = log.last_index
        # RF-07: nothing of older terms is committed by counting copies (Raft paper §5.4.2, figure 8);
        # an empty entry of our own term commits it along.
        log.append([Entry(self.term, log.last_index + 1)])
        sending.bcast_append(self)

    def _reset(self, term: Term) -> None:
        """What every change of role or term leaves behind."""
        if term != self.term:
            self.term = term
            self.vote = NOBODY
        self.lead = NOBODY
        self.lead_transferee = NOBODY
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.commit_news = False
        self.election_elapsed = self.heartbeat_elapsed = self.save_elapsed = 0
        self._draw_timeout()
        self.tracker.votes = {}
        self.read_only.reset()
        next_index = self.log.last_index + 1
        for progress in self.tracker.progress.values():
            progress.reset(next_index)

    def _draw_timeout(self) -> None:
        ticks = self.config.election_ticks
        self.randomized_timeout = self.rng.randrange(ticks, 2 * ticks)

    # -- events of the shell -----------------------------------------------------------------------------

    def on_saved(self, hard_state: HardState | None) -> None:
        """The oldest save under way is durable; it contained hard_state.

        Here a candidate counts its own vote and a leader its own copy: both only now, since either
        could be forgotten in a crash before (RF-40, thesis §10.2.1).
        """
        self.save_elapsed = 0
        self.log.finish_save()
        if self.role is Role.LEADER:
            own = self.tracker.progress.get(self.id)
            if own is not None and own.maybe_update(self.log.durable):
                acknowledgements.after_acknowledgement(self)
        elif (
            self.role is Role.CANDIDATE
            and hard_state is not None
            and (hard_state.term, hard_state.vote) == (self.term, self.id)
        ):
            elections.count_vote(self, self.id, True)

    def on_applied(self, index: Index) -> None:
        self.log.applied_to(index)
        if self.tracker.conf.auto_leave and self.role is Role.LEADER:
            membership.maybe_leave_joint(self)

    def on_unreachable(self, node_id: NodeId) -> None:
        """Appends to node_id were lost: stop streaming, find out what it has (RF-42)."""
        progress = self.tracker.progress.get(node_id)
        if self.role is Role.LEADER and progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def on_snapshot_report(self, node_id: NodeId, ok: bool) -> None:
        """The snapshot to node_id has been sent, or has failed."""
        progress = self.tracker.progress.get(node_id)
        if self.role is not Role.LEADER or progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = 0
        progress.become_probe()
        # Sent: wait for its acknowledgement. Failed: wait for a heartbeat's answer, then try again.
        progress.waiting = True
