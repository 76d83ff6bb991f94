"""A whole cluster under a seed: losses, duplicates, reordering, partitions, crashes, slow disks,
membership changes, transfers, compaction; and the laws that must hold all the while.

The seed decides everything. The safety phase lets anything go wrong and checks after every step what
Raft promises (Raft paper, figure 3). The liveness phase then heals the world and demands progress.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from raft_cluster import Cluster, Member

from raftkv.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Message,
    MessageType,
    ProposalDropped,
)

QUEUE_BOUND = 400
"""Messages on the network; beyond, the oldest are lost."""


@dataclass
class Options:
    """Drawn from the seed, printed with a failure."""

    members: int
    voters: int
    pre_vote: bool
    check_quorum: bool
    loss: float
    duplication: float
    reorder: float
    partition: float
    crash: float
    slow_disk: float
    conf_change: float
    compaction: float
    max_inflight_msgs: int
    max_size_per_msg: int

    @classmethod
    def draw(cls, rng: random.Random) -> Options:
        members = rng.choice([1, 3, 3, 4, 5, 6])
        return cls(
            members=members,
            voters=rng.randint(1, members) if members < 3 else rng.randint(2, min(members, 5)),
            pre_vote=rng.random() < 0.7,
            check_quorum=rng.random() < 0.7,
            loss=rng.choice([0.0, 0.02, 0.2]),
            duplication=rng.choice([0.0, 0.02, 0.1]),
            reorder=rng.choice([0.0, 0.1, 0.5]),
            partition=rng.choice([0.0, 0.002, 0.01]),
            crash=rng.choice([0.0, 0.005, 0.02]),
            slow_disk=rng.choice([0.0, 0.3, 0.8]),
            conf_change=rng.choice([0.0, 0.01, 0.03]),
            compaction=rng.choice([0.0, 0.01]),
            max_inflight_msgs=rng.choice([1, 3, 64]),
            max_size_per_msg=rng.choice([1, 60, 1 << 20]),
        )


@dataclass
class Laws:
    """What has been seen so far, and what therefore must never be seen."""

    leaders: dict[int, int] = field(default_factory=dict)
    votes: dict[tuple[int, int], int] = field(default_factory=dict)
    applied: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    reads: dict[bytes, int] = field(default_factory=dict)
    reads_answered: int = 0

    def on_message(self, message: Message) -> None:
        """One vote per member and term, however often it crashed in between (thesis §3.8)."""
        if message.type is MessageType.VOTE_RESP and not message.reject:
            key = (message.sender, message.term)
            assert self.votes.setdefault(key, message.to) == message.to, f"two votes: {key}"

    def on_applied(self, member: Member, since: int) -> None:
        """State Machine Safety: no two members apply different entries at one index."""
        for index, term, data in member.state[since:]:
            known = self.applied.setdefault(index, (term, data))
            assert known == (term, data), f"n{member.id} applied {term, data} at {index}, others {known}"

    def on_leader(self, member: Member) -> None:
        """Election Safety, and Leader Completeness for everything that anybody has applied."""
        term = member.node.term
        if self.leaders.setdefault(term, member.id) != member.id:
            raise AssertionError(f"two leaders in term {term}: n{self.leaders[term]}, n{member.id}")
        log = member.node._raft.log
        for index in range(log.first_index, max(self.applied, default=0) + 1):
            if self.applied[index][0] <= term:
                assert log.matches(index, self.applied[index][0]), (
                    f"n{member.id} leads term {term} without committed entry {index}"
                )

    def on_read(self, context: bytes, index: int) -> None:
        """RF-36: a read sees everything that anybody knew to be committed when it was asked for."""
        self.reads_answered += 1
        assert index >= self.reads[context], f"stale read: {index}, committed were {self.reads[context]}"


def log_matching(one: Member, other: Member) -> None:
    """Same index and term in two logs: same entries up to there."""
    a, b = one.node._raft.log, other.node._raft.log
    lo = max(a.first_index, b.first_index)
    last = min(a.last_index, b.last_index)
    same = False
    for index in range(last, lo - 1, -1):
        equal = a.term(index) == b.term(index)
        assert equal or not same, f"logs of n{one.id} and n{other.id} differ at {index}, agree behind it"
        same = same or equal


class Simulator:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.options = o = Options.draw(self.rng)
        self.cluster = Cluster(
            range(1, o.members + 1),
            ConfState(voters=tuple(range(1, o.voters + 1))),
            rng=lambda node_id: random.Random(seed * 31 + node_id),
            bootstrapped=True,
            election_ticks=10,
            heartbeat_ticks=2,
            pre_vote=o.pre_vote,
            check_quorum=o.check_quorum,
            max_inflight_msgs=o.max_inflight_msgs,
            max_size_per_msg=o.max_size_per_msg,
            max_uncommitted_bytes=400,
            max_committed_size_per_ready=120,
        )
        self.laws = Laws()
        self.cut: set[int] = set()
        """One side of the present partition."""
        self.counter = 0
        self.seen_applied = dict.fromkeys(self.cluster.members, 0)
        self.seen_lead: set[tuple[int, int]] = set()
        self.safe_phase = True

    # -- the world -----------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        members = list(self.cluster.members.values())
        for _ in range(steps):
            self._mischief(members)
            self._act(self.rng.choice(members))
            self._network()
            if self.rng.random() < 0.02:
                log_matching(*self.rng.choices([m for m in members if m.up] or members, k=2))

    def _mischief(self, members: list[Member]) -> None:
        rng, o = self.rng, self.options
        if rng.random() < o.partition:
            self.cut = set(rng.sample(sorted(self.cluster.members), rng.randint(0, o.members - 1)))
        elif self.cut and rng.random() < 0.01:
            self.cut = set()
        if rng.random() < o.crash:
            victim = rng.choice(members)
            if victim.up:
                written = rng.randint(0, len(victim.saving))
                victim.crash(written, torn_entries=rng.randint(0, 2))
                self.seen_applied[victim.id] = 0
        for member in members:
            if not member.up and rng.random() < 0.05:
                member.start()
                self.laws.on_applied(member, 0)
                self.seen_applied[member.id] = len(member.state)

    def _act(self, member: Member) -> None:
        if not member.up:
            return
        rng, o = self.rng, self.options
        dice = rng.random()
        if dice < 0.35:
            member.node.tick()
        elif dice < 0.5:
            self._propose(member)
        elif dice < 0.6:
            self._read(member)
        elif dice < 0.6 + o.conf_change:
            self._change_membership(member)
        elif dice < 0.64 + o.compaction:
            if dice >= 0.64:
                member.checkpoint(keep=rng.randint(0, 5))
            elif dice >= 0.63:
                member.node.transfer_leader(rng.randint(1, o.members))
        self._pump(member)

    def _pump(self, member: Member) -> None:
        """Take Readys; let some saves finish, in order, some time."""
        rng = self.rng
        while member.take_ready() is not None:
            self._observe(member)
            if rng.random() < 0.3:
                break
        while member.saving and rng.random() >= self.options.slow_disk:
            member.finish_save()
            self._observe(member)
        for message in self.cluster.collect(member):
            self.laws.on_message(message)
            if message.type is MessageType.SNAP and rng.random() < 0.5:
                # The transport reports at some time; at once is one of them, never is none.
                member.node.report_snapshot(message.to, rng.random() < 0.7)

    def _observe(self, member: Member) -> None:
        if len(member.state) != self.seen_applied[member.id]:
            self.laws.on_applied(member, min(self.seen_applied[member.id], len(member.state)))
            self.seen_applied[member.id] = len(member.state)
        if member.node.is_leader and (member.id, member.node.term) not in self.seen_lead:
            self.seen_lead.add((member.id, member.node.term))
            self.laws.on_leader(member)
        for read in member.reads:
            self.laws.on_read(read.context, read.index)
        member.reads.clear()

    def _network(self) -> None:
        rng, o, queue = self.rng, self.options, self.cluster.queue
        del queue[:-QUEUE_BOUND]
        for _ in range(min(len(queue), rng.randint(0, 4))):
            position = rng.randrange(len(queue)) if rng.random() < o.reorder else 0
            message = queue[position] if rng.random() < o.duplication else queue.pop(position)
            if (message.to in self.cut) != (message.sender in self.cut) or rng.random() < o.loss:
                if message.type is MessageType.APP and self.cluster.members[message.sender].up:
                    self.cluster.members[message.sender].node.report_unreachable(message.to)
                continue
            if self.cluster.deliver(message):
                self._pump(self.cluster.members[message.to])

    # -- clients ---------------------------------------------------------------------------------

    def _propose(self, member: Member) -> None:
        self.counter += 1
        payloads = [b"%d.%d" % (self.counter, k) for k in range(self.rng.randint(1, 3))]
        try:
            member.node.propose(payloads)
        except ProposalDropped:
            pass

    def _read(self, member: Member) -> None:
        self.counter += 1
        context = b"r%d" % self.counter
        self.laws.reads[context] = max(m.node.committed for m in self.cluster.members.values() if m.up)
        member.node.read_index(context)

    def _change_membership(self, member: Member) -> None:
        rng = self.rng
        changes = tuple(
            ConfChangeSingle(rng.choice(list(ConfChangeType)), rng.randint(1, self.options.members))
            for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))
        )
        try:
            member.node.propose_conf_change(ConfChange(changes, rng.choice(list(ConfChangeTransition))))
        except ProposalDropped:
            pass

    # -- liveness ----------------------------------------------------------------------------------

    def heal_and_demand_progress(self) -> None:
        """Everything works again: within a few election timeouts a write and a read succeed, and
        every member of the configuration catches up."""
        self.cut = set()
        members = list(self.cluster.members.values())
        for member in members:
            if not member.up:
                member.start()
        goal = b"goal"
        for _ in range(400):
            for member in members:
                member.node.tick()
            self.cluster.settle()
            for member in members:
                self._observe(member)
            leader = self.cluster.leader()
            if leader is None:
                continue
            for peer in leader.node.status().progress:
                leader.node.report_snapshot(peer, False)
            if not any(data == goal for _, _, data in leader.state):
                try:
                    leader.node.propose([goal])
                except ProposalDropped:
                    pass
                continue
            conf = leader.conf
            following = [self.cluster.members[i] for i in (*conf.voters, *conf.learners, *conf.voters_outgoing)]
            if all(m.state == leader.state for m in following):
                return
        raise AssertionError(f"no progress: {[m.node.status() for m in members]}")
