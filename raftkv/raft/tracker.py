"""The present configuration, with a Progress for every member and the votes of the present election.

Owns who counts. Knows no messages, no log and no roles.
"""

from __future__ import annotations

from .inflights import Inflights
from .progress import Progress
from .quorum import VoteResult, joint_value, joint_vote, majority_value
from .types import ConfState, Index, NodeId


class Tracker:
    __slots__ = (
        "_incoming",
        "_max_inflight_bytes",
        "_max_inflight_msgs",
        "_outgoing",
        "_self_id",
        "conf",
        "peers",
        "progress",
        "voters",
        "votes",
    )

    def __init__(self, self_id: NodeId, max_inflight_msgs: int, max_inflight_bytes: int) -> None:
        self._self_id = self_id
        self._max_inflight_msgs = max_inflight_msgs
        self._max_inflight_bytes = max_inflight_bytes
        self.conf = ConfState()
        self.progress: dict[NodeId, Progress] = {}
        """Every member, voters and learners. In order of id."""
        self.peers: tuple[NodeId, ...] = ()
        """Every member but this one, in order of id: whom a leader sends to."""
        self.voters: frozenset[NodeId] = frozenset()
        """Of both halves of a joint configuration."""
        self.votes: dict[NodeId, bool] = {}
        """Answers of the present election. The first answer of a voter counts."""
        self._incoming: list[Progress] = []
        self._outgoing: list[Progress] = []

    def switch(self, conf: ConfState, next_index: Index) -> None:
        """Take up conf. Members that stay keep their Progress (RF-63); new ones are probed at next_index."""
        known = self.progress
        self.progress = {}
        learners = set(conf.learners)
        self.voters = frozenset(conf.voters) | frozenset(conf.voters_outgoing)
        for node_id in sorted(self.voters | learners):
            progress = known.get(node_id)
            if progress is None:
                inflights = Inflights(self._max_inflight_msgs, self._max_inflight_bytes)
                progress = Progress(next_index, inflights, False)
                # A member that just joined counts as heard of, or the next check of the quorum
                # might depose a leader that never had time to reach it.
                progress.recent_active = True
            progress.is_learner = node_id in learners
            self.progress[node_id] = progress
        self.conf = conf
        self.peers = tuple(node_id for node_id in self.progress if node_id != self._self_id)
        self._incoming = [self.progress[node_id] for node_id in conf.voters]
        self._outgoing = [self.progress[node_id] for node_id in conf.voters_outgoing]

    @property
    def is_single_voter(self) -> bool:
        """This node alone is the quorum."""
        return not self._outgoing and self.conf.voters == (self._self_id,)

    def committed(self) -> Index:
        """Highest index that a quorum has on disk."""
        incoming = self._incoming
        if self._outgoing:
            return joint_value([p.match for p in incoming], [p.match for p in self._outgoing])
        if len(incoming) == 1:
            return incoming[0].match
        return majority_value([p.match for p in incoming])

    def confirmed_round(self) -> int:
        """Highest ReadIndex round that a quorum has echoed."""
        return joint_value(
            [p.read_round for p in self._incoming],
            [p.read_round for p in self._outgoing],
        )

    def quorum_active(self) -> bool:
        """A quorum has been heard of since the flags were last cleared."""
        active = joint_value(
            [int(p.recent_active) for p in self._incoming],
            [int(p.recent_active) for p in self._outgoing],
        )
        return active > 0

    def record_vote(self, node_id: NodeId, granted: bool) -> VoteResult:
        """Count an answer; those of non-voters count nothing."""
        self.votes.setdefault(node_id, granted)
        return joint_vote(self.conf.voters, self.conf.voters_outgoing, self.votes)
