"""Sentences of the Raft paper and the thesis, each as a test: set up, act, check.

What needs several nodes and a schedule is told in tests/scripts/raft; here stand the rules that one
node can be asked about.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from raft_cluster import three

from raftkv.raft import (
    BadMessage,
    ConfChange,
    Config,
    ConfState,
    Entry,
    HardState,
    LogDamaged,
    MemoryStorage,
    Message,
    MessageType,
    ProposalDropped,
    RawNode,
    Ready,
    Role,
    Snapshot,
)
from raftkv.raft.acknowledgements import APPENDS_PER_ACK

T = MessageType


class Solo:
    """Node 1 of voters 1..n, with a disk that works at once unless told otherwise."""

    def __init__(self, voters: int = 3, log: tuple[int, ...] = (), **options: Any) -> None:
        hard = options.pop("hard", HardState(max(log, default=0)))
        self.storage = MemoryStorage(hard, ConfState(tuple(range(1, voters + 1))))
        self.storage.append([Entry(term, index) for index, term in enumerate(log, start=1)])
        options.setdefault("pre_vote", False)
        options.setdefault("check_quorum", False)
        self.node = RawNode(Config(id=1, **options), self.storage, random.Random(1))
        self.at_once: list[Message] = []
        self.after_sync: list[Message] = []
        self.applied: list[Entry] = []

    def save(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        self.node.advance_append(ready)

    def settle(self) -> None:
        while self.node.has_ready():
            ready = self.node.ready()
            self.at_once += ready.messages
            self.save(ready)
            self.after_sync += ready.messages_after_sync
            self.applied += ready.committed_entries
            if ready.committed_entries:
                self.node.advance_apply(ready.committed_entries[-1].index)

    def step(self, kind: MessageType, sender: int = 2, **fields: Any) -> list[Message]:
        """Take in one message; what the node says in answer."""
        self.at_once, self.after_sync = [], []
        self.node.step(Message(kind, 1, sender, **fields))
        self.settle()
        return self.at_once + self.after_sync

    def lead(self, *followers: int) -> None:
        self.node.campaign()
        self.settle()
        for sender in followers or (2,):
            self.step(T.VOTE_RESP, sender, term=self.node.term)
        assert self.node.is_leader


@pytest.mark.parametrize("lead", [False, True])
def test_a_newer_term_makes_everybody_a_follower(lead: bool) -> None:
    """Paper §5.1: if a candidate or leader discovers that its term is out of date, it reverts to follower."""
    solo = Solo()
    if lead:
        solo.lead()
    else:
        solo.node.campaign()
        solo.settle()
    solo.step(T.APP, term=9)
    assert (solo.node.status().role, solo.node.term, solo.node.lead) == (Role.FOLLOWER, 9, 2)


def test_messages_of_an_old_term_are_rejected() -> None:
    """Paper §5.1: a server that receives a request with a stale term rejects it."""
    solo = Solo(log=(3,))
    assert solo.step(T.APP, term=2, index=1, log_term=3, entries=[Entry(2, 2)]) == []
    assert solo.node.status().last_index == 1


@pytest.mark.parametrize("check_quorum", [True, False])
def test_an_old_leader_is_told_the_term_when_elections_could_not_tell_it(check_quorum: bool) -> None:
    """RF-10."""
    solo = Solo(log=(3,), check_quorum=check_quorum)
    answers = [(m.type, m.term) for m in solo.step(T.HEARTBEAT, term=2)]
    assert answers == ([(T.APP_RESP, 3)] if check_quorum else [])


def test_followers_campaign_after_silence_within_the_randomized_timeout() -> None:
    """Paper §5.2: election timeouts are chosen from a fixed interval; here [election_ticks, 2x)."""
    seen = set()
    for seed in range(60):
        node = RawNode(
            Config(id=1, pre_vote=False),
            MemoryStorage(conf_state=ConfState((1, 2, 3))),
            random.Random(seed),
        )
        ticks = 0
        while node.status().role is Role.FOLLOWER:
            node.tick()
            ticks += 1
        seen.add(ticks)
    assert seen == set(range(10, 20))


@pytest.mark.parametrize(
    ("answers", "role"),
    [
        ([True], Role.CANDIDATE),
        ([True, True], Role.LEADER),
        ([True, False, False], Role.CANDIDATE),
        ([False, False, False], Role.FOLLOWER),
    ],
)
def test_a_majority_of_votes_wins(answers: list[bool], role: Role) -> None:
    """Paper §5.2: a candidate wins if it receives votes from a majority of the full cluster."""
    solo = Solo(voters=5)
    solo.node.campaign()
    solo.settle()
    for sender, granted in enumerate(answers, start=2):
        solo.step(T.VOTE_RESP, sender, term=1, reject=not granted)
    assert solo.node.status().role is role


def test_one_vote_per_term_first_come_first_served() -> None:
    """Paper §5.2; RF-01. A repeated request is granted again: the first answer may be lost."""
    solo = Solo()
    granted = [not solo.step(T.VOTE, sender, term=1)[0].reject for sender in (2, 3, 2)]
    assert granted == [True, False, True]


@pytest.mark.parametrize(
    ("mine", "index", "term", "granted"),
    [
        ((1,), 1, 1, True),
        ((1,), 1, 2, True),
        ((1, 1), 1, 1, False),
        ((1, 1), 1, 2, True),
        ((2,), 9, 1, False),
    ],
)
def test_votes_go_to_logs_at_least_as_up_to_date(mine: tuple[int, ...], index: int, term: int, granted: bool) -> None:
    """Paper §5.4.1: the later last term wins; with the same, the longer log."""
    solo = Solo(log=mine)
    answer = solo.step(T.VOTE, term=3, index=index, log_term=term)
    assert answer[0].reject is not granted


def test_votes_and_requests_for_votes_wait_for_the_disk() -> None:
    """Thesis §3.8: servers must persist before responding. A request for votes is a promise too: after
    a crash the candidate must not use the same term again, with another log."""
    solo = Solo()
    solo.node.step(Message(T.VOTE, 1, 2, term=1))
    ready = solo.node.ready()
    assert (ready.messages, [m.type for m in ready.messages_after_sync]) == ([], [T.VOTE_RESP])
    assert (ready.hard_state, ready.must_sync) == (HardState(1, 2, 0), True)
    candidate = Solo()
    candidate.node.campaign()
    ready = candidate.node.ready()
    assert (ready.messages, [m.type for m in ready.messages_after_sync]) == ([], [T.VOTE, T.VOTE])


def test_own_vote_counts_when_it_is_durable() -> None:
    solo = Solo()
    solo.node.campaign()
    ready = solo.node.ready()
    solo.node.step(Message(T.VOTE_RESP, 1, 2, term=1))
    assert not solo.node.is_leader
    solo.save(ready)
    assert solo.node.is_leader


def test_own_vote_of_an_old_election_counts_nothing() -> None:
    """The save of term 1's vote ends when the node already campaigns in term 2."""
    solo = Solo(voters=1)
    solo.node.campaign()
    first = solo.node.ready()
    solo.node.campaign()
    second = solo.node.ready()
    solo.save(first)
    assert solo.node.status().role is Role.CANDIDATE
    solo.save(second)
    assert (solo.node.is_leader, solo.node.term) == (True, 2)


def test_a_new_leader_sends_at_once() -> None:
    """Paper §5.2: a winner sends messages to all others to establish its authority; RF-07: an empty entry."""
    solo = Solo(log=(1,))
    solo.lead()
    appends = [m for m in solo.at_once if m.type is T.APP]
    assert [(m.to, m.index, m.log_term, m.entries) for m in appends] == [
        (2, 1, 1, [Entry(2, 2)]),
        (3, 1, 1, [Entry(2, 2)]),
    ]


def test_who_is_far_behind_is_sent_more_with_every_answer_and_never_all_at_once() -> None:
    """Thesis §10.2.2; a burst as large as the window would be a pause for everybody else."""
    solo = Solo(log=(1,) * 40, max_size_per_msg=1, max_inflight_msgs=16)
    solo.lead()
    sent = [solo.step(T.APP_RESP, 3, term=2, index=40, reject=True, hint=0)]  # it has nothing
    acknowledged = 0
    while acknowledged < 41:
        acknowledged += 1
        appends = [m for m in solo.step(T.APP_RESP, 3, term=2, index=acknowledged) if m.type is T.APP and m.to == 3]
        assert len([m for m in appends if m.entries]) <= APPENDS_PER_ACK
        sent.append(appends)
    indexes = [entry.index for messages in sent for m in messages if m.to == 3 for entry in m.entries]
    assert indexes == list(range(1, 42)), "each once, in order, and all of them"
    sizes = [sum(len(m.entries) for m in messages if m.to == 3) for messages in sent]
    under_way = [sum(sizes[: answers + 1]) - answers for answers in range(len(sizes))]
    assert max(under_way) == 16, "it grows to what may be in flight"


@pytest.mark.parametrize(
    ("theirs", "expected_log", "reject"),
    [
        ((1, 1, [Entry(1, 2)]), [1, 1], False),
        ((2, 1, [Entry(2, 3)]), [1, 1, 2], False),
        ((1, 1, [Entry(2, 2)]), [1, 2], False),
        ((2, 2, [Entry(2, 3)]), [1, 1, 1], True),
        ((3, 1, []), [1, 1, 1], False),
        ((7, 2, [Entry(2, 8)]), [1, 1, 1], True),
    ],
)
def test_consistency_check_and_conflicts(
    theirs: tuple[int, int, list[Entry]], expected_log: list[int], reject: bool
) -> None:
    """Paper §5.3: refuse if the entry before is missing; delete what conflicts and all that follows it,
    but nothing because of a short message that is merely late."""
    solo = Solo(log=(1, 1, 1))
    index, log_term, new = theirs
    answer = solo.step(T.APP, term=2, index=index, log_term=log_term, entries=new)
    terms = [e.term for e in solo.storage.entries(1, solo.node.status().last_index + 1, 1 << 20)]
    keeps_tail = not reject and theirs == (1, 1, [Entry(1, 2)])
    assert terms == ([1, 1, 1] if keeps_tail else expected_log)
    assert answer[-1].reject is reject


def test_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    """Paper §5.4.2, figure 8."""
    solo = Solo(log=(1, 2))
    solo.lead()
    solo.step(T.APP_RESP, 2, term=3, index=2)
    assert solo.node.committed == 0
    solo.step(T.APP_RESP, 2, term=3, index=3)
    assert solo.node.committed == 3


def test_leader_counts_itself_after_its_own_save() -> None:
    """Thesis §10.2.1; RF-40."""
    solo = Solo(voters=1)
    solo.node.campaign()
    solo.settle()
    solo.node.propose([b"a"])
    ready = solo.node.ready()
    assert (solo.node.committed, ready.must_sync, ready.needs_save) == (1, True, True)
    solo.save(ready)
    assert solo.node.committed == 2


def test_committed_entries_are_handed_out_when_durable_here() -> None:
    """A follower may know that an entry is committed while its own disk still works on it."""
    solo = Solo()
    solo.node.step(Message(T.APP, 1, 2, term=1, entries=[Entry(1, 1, data=b"a")], commit=1))
    ready = solo.node.ready()
    assert (solo.node.committed, ready.committed_entries) == (1, [])
    solo.save(ready)
    assert solo.node.ready().committed_entries == [Entry(1, 1, data=b"a")]


def test_commit_index_alone_is_saved_lazily_and_without_sync() -> None:
    """RF-41."""
    solo = Solo(voters=1)
    solo.node.campaign()
    solo.settle()
    solo.node.propose([b"a"])
    solo.save(solo.node.ready())
    ready = solo.node.ready()
    assert (ready.hard_state, ready.needs_save) == (None, False)
    solo.node.advance_apply(2)
    assert not solo.node.has_ready()
    solo.node.tick()
    ready = solo.node.ready()
    assert (ready.hard_state, ready.needs_save, ready.must_sync) == (HardState(1, 1, 2), True, False)


def test_an_acknowledgement_waits_behind_earlier_saves() -> None:
    """A repeated append changes nothing, but its answer speaks about entries still being saved."""
    solo = Solo()
    append = Message(T.APP, 1, 2, term=1, entries=[Entry(1, 1)])
    solo.node.step(append)
    first = solo.node.ready()
    solo.node.step(append)
    second = solo.node.ready()
    assert (second.messages, second.needs_save, second.must_sync) == ([], True, False)
    assert [m.index for m in second.messages_after_sync] == [1]
    solo.save(first)
    solo.save(second)
    solo.node.step(append)
    third = solo.node.ready()
    assert ([m.index for m in third.messages], third.needs_save) == ([1], False)


def test_saves_must_finish_in_order() -> None:
    solo = Solo(voters=1)
    solo.node.campaign()
    solo.settle()
    solo.node.propose([b"a"])
    solo.node.ready()
    solo.node.propose([b"b"])
    second = solo.node.ready()
    with pytest.raises(AssertionError):
        solo.node.advance_append(second)


def test_torn_save_does_not_let_the_term_go_back() -> None:
    """Entries of term 5 were saved, the hard state behind them was not. Nothing was promised in term 5."""
    solo = Solo(log=(1, 5), hard=HardState(1, 3, 0))
    status = solo.node.status()
    assert (status.term, status.vote) == (5, 0)
    assert solo.node.ready().hard_state == HardState(5, 0, 0)


def test_lease_protects_the_leader_except_from_its_own_order() -> None:
    """Thesis §4.2.3; RF-03."""
    for transfer in (False, True):
        solo = Solo(check_quorum=True)
        solo.step(T.HEARTBEAT, 2, term=1)
        answers = solo.step(T.VOTE, 3, term=2, index=9, log_term=1, transfer=transfer)
        assert bool(answers) is transfer


def test_pre_vote_changes_neither_term_nor_vote() -> None:
    """Thesis §9.6; RF-02. The grant carries the term asked about, a refusal our own."""
    solo = Solo(log=(1,))
    (grant,) = solo.step(T.PRE_VOTE, 2, term=7, index=1, log_term=1)
    (refusal,) = solo.step(T.PRE_VOTE, 3, term=7)
    assert (grant.reject, grant.term, refusal.reject, refusal.term) == (False, 7, True, 1)
    assert (solo.node.term, solo.node.status().vote) == (1, 0)


def test_a_refusal_tells_what_is_committed() -> None:
    solo = Solo(log=(1, 1))
    solo.node.campaign()
    solo.settle()
    solo.step(T.VOTE_RESP, 2, term=2, reject=True, commit=1, log_term=1)
    assert solo.node.committed == 1
    solo.step(T.VOTE_RESP, 3, term=2, reject=True, commit=2, log_term=7)
    assert solo.node.committed == 1


def test_single_voter_reads_at_once_but_not_before_its_first_commit() -> None:
    """RF-32, RF-30: after a restart the commit index on disk may be older than answers already given."""
    solo = Solo(voters=1, log=(1, 1))
    solo.node.campaign()
    solo.save(solo.node.ready())
    assert solo.node.read_index(b"r")
    early = solo.node.ready()
    assert early.read_states == []
    solo.save(early)
    assert [(r.index, r.context) for r in solo.node.ready().read_states] == [(3, b"r")]


def test_pending_reads_are_bounded() -> None:
    solo = Solo(max_pending_reads=2)
    solo.lead()
    assert [solo.node.read_index(b"%d" % k) for k in range(3)] == [True, True, False]
    solo.step(T.APP_RESP, 2, term=1, index=1)
    assert not solo.node.read_index(b"3")
    assert solo.node.status().pending_reads == 2


def test_old_rounds_confirm_nothing_new() -> None:
    """RF-33: the late answer of an old round is ignored."""
    solo = Solo()
    solo.lead()
    solo.step(T.APP_RESP, 2, term=1, index=1)
    solo.node.read_index(b"a")
    solo.step(T.HEARTBEAT_RESP, 2, term=1, round=1)
    solo.node.read_index(b"b")
    solo.step(T.HEARTBEAT_RESP, 2, term=1, round=1)
    assert solo.node.status().pending_reads == 1


def test_a_peers_read_does_not_travel_on() -> None:
    """A stale peer takes this follower for the leader; the answer would not find its way back."""
    solo = Solo()
    solo.step(T.HEARTBEAT, 2, term=1)
    assert solo.step(T.READ_INDEX, 3, context=b"r") == []


@pytest.mark.parametrize(
    "message",
    [
        Message(T.APP, 9, 2, term=1),
        Message(T.APP, 1, 1, term=1),
        Message(T.APP, 1, 0, term=1),
        Message(T.APP, 1, 2, term=1, entries=[Entry(1, 2)]),
        Message(T.APP, 1, 2, term=2, entries=[Entry(2, 1), Entry(1, 2)]),
        Message(T.APP, 1, 2, term=1, entries=[Entry(2, 1)]),
        Message(T.SNAP, 1, 2, term=1),
        Message(T.SNAP, 1, 2, term=1, snapshot=Snapshot(3, 1, ConfState((1, 1)))),
    ],
)
def test_what_no_correct_peer_says_is_refused(message: Message) -> None:
    solo = Solo()
    with pytest.raises(BadMessage):
        solo.node.step(message)
    assert solo.node.status().last_index == 0


def test_acknowledging_what_was_never_sent_is_refused() -> None:
    solo = Solo()
    solo.lead()
    with pytest.raises(BadMessage):
        solo.step(T.APP_RESP, 2, term=1, index=99)


def test_commit_beyond_the_log_means_that_entries_were_lost() -> None:
    """RF-72."""
    with pytest.raises(LogDamaged):
        Solo().step(T.HEARTBEAT, 2, term=1, commit=5)


def test_snapshot_that_the_log_contains_only_commits() -> None:
    solo = Solo(log=(1, 1, 1))
    snapshot = Snapshot(2, 1, ConfState((1, 2, 3)))
    (answer,) = solo.step(T.SNAP, 2, term=1, snapshot=snapshot)
    assert (answer.index, solo.node.committed, solo.node.status().last_index) == (2, 2, 3)


def test_snapshot_for_others_is_ignored() -> None:
    solo = Solo()
    (answer,) = solo.step(T.SNAP, 2, term=1, snapshot=Snapshot(5, 1, ConfState((2, 3))))
    assert answer.index == 0


def test_a_peers_proposal_that_is_dropped_is_just_dropped() -> None:
    assert Solo().step(T.PROP, 2, entries=[Entry(0, 0, data=b"x")]) == []


def test_proposals_of_one_call_are_all_or_none() -> None:
    solo = Solo(max_uncommitted_bytes=4)
    solo.lead()
    solo.node.propose([b"ab"])
    with pytest.raises(ProposalDropped):
        solo.node.propose([b"c", b"de"])
    assert solo.node.status().last_index == 2


def test_a_change_that_was_not_admitted_takes_no_room() -> None:
    """It enters the log as an empty entry (RF-60); were its data counted, nothing would ever free it
    and in the end every proposal would be refused (simulator, seed 651)."""
    solo = Solo(voters=1)
    solo.node.campaign()
    solo.settle()
    for _ in range(3):
        solo.node.propose_conf_change(ConfChange(context=b"leaves a joint configuration there is none of"))
        solo.settle()
    assert solo.node.status().uncommitted_bytes == 0


def test_reads_at_once_only_for_a_single_voter_that_has_committed() -> None:
    """RF-32, RF-30."""
    alone, among_three = Solo(voters=1), Solo(voters=3)
    assert not alone.node.reads_at_once
    alone.node.campaign()
    alone.save(alone.node.ready())
    assert (alone.node.is_leader, alone.node.reads_at_once) == (True, False)
    alone.settle()
    assert alone.node.reads_at_once
    among_three.lead()
    among_three.step(T.APP_RESP, 2, term=1, index=1)
    assert not among_three.node.reads_at_once


def test_attested_state_rides_on_appends_and_heartbeats() -> None:
    cluster = three()
    leader = cluster.members[1]
    leader.node.attest(1, 0xABC)
    leader.node.propose([b"a"])
    leader.node.read_index(b"r")
    leader.take_ready()
    carried = {m.type: (m.state_index, m.state_hash) for m in leader.outbox}
    assert carried == {T.APP: (1, 0xABC), T.HEARTBEAT: (1, 0xABC)}


def test_has_ready_tells_the_truth() -> None:
    """Whatever ready() holds, has_ready() announced; and after an announced one nothing is left over."""
    solo = Solo()
    for _ in range(25):
        solo.node.tick()
        announced = solo.node.has_ready()
        ready = solo.node.ready()
        assert announced == (ready != Ready())
        solo.save(ready)
