"""What the shell asks of the core beside Readys: sizes, whether a change may be made, news that are held back."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Config,
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    Ready,
    Snapshot,
)

ME, ONE, TWO = 1, 2, 3


class Member:
    """One of three, whose disk saves at once."""

    def __init__(self, *, applies: bool = True) -> None:
        self.storage = MemoryStorage(HardState(), ConfState(voters=(ME, ONE, TWO)))
        self.node = RawNode(Config(id=ME, election_ticks=10, heartbeat_ticks=1), self.storage, random.Random(1))
        self.applies = applies
        self.sent: list[Message] = []

    def run(self) -> None:
        while self.node.has_ready():
            ready = self.node.ready()
            self.sent += ready.messages
            self._save(ready)
            self.sent += ready.messages_after_sync
            if ready.committed_entries and self.applies:
                self.node.advance_apply(ready.committed_entries[-1].index)

    def _save(self, ready: Ready) -> None:
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
        self.storage.append(ready.entries)
        self.node.advance_append(ready)

    def hear(self, kind: MessageType, sender: int = ONE, **fields: object) -> None:
        self.node.step(Message(kind, ME, sender=sender, **fields))  # type: ignore[arg-type]
        self.run()

    def lead(self) -> None:
        """In term 1, with its first entry acknowledged by one of the others."""
        self.node.campaign()
        self.run()
        self.hear(MessageType.PRE_VOTE_RESP, term=1)
        self.hear(MessageType.VOTE_RESP, term=1)
        self.acknowledge(1)
        assert self.node.is_leader
        self.sent.clear()

    def acknowledge(self, index: int) -> None:
        self.hear(MessageType.APP_RESP, term=1, index=index)

    def may_change(self) -> bool:
        return self.node.can_change_conf

    def has_news(self) -> bool:
        return self.node.has_commit_news

    def appends(self) -> list[tuple[int, int]]:
        """(receiver, commit index) of what was sent."""
        return [(message.to, message.commit) for message in self.sent if message.type is MessageType.APP]


# --- how much is kept -------------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(0, 50), min_size=1, max_size=5)),
    st.tuples(st.just("overwrite"), st.lists(st.integers(0, 50), min_size=1, max_size=5)),
    st.tuples(st.just("compact"), st.integers(0, 10)),
    st.tuples(st.just("snapshot"), st.integers(0, 10)),
)


@given(st.lists(STEPS, max_size=30))
def test_the_size_of_the_log_is_that_of_its_entries(steps: list[tuple[str, object]]) -> None:
    """RF-43: the shell trims by it, so it must not drift, whatever overwrites or drops entries."""
    log, term = MemoryStorage(), 1
    for what, how in steps:
        term += 1
        first, last = log.first_index(), log.last_index()
        if isinstance(how, list):
            begin = last + 1 if what == "append" else max(first, last - 2)
            log.append([Entry(term, begin + at, data=bytes(size)) for at, size in enumerate(how)])
        elif what == "compact":
            assert isinstance(how, int)
            log.compact(min(last, first - 1 + how))
        else:
            assert isinstance(how, int)
            log.apply_snapshot(Snapshot(last + how, term, ConfState()))
        kept = log.entries(log.first_index(), log.last_index() + 1, 1 << 30)
        assert log.size_bytes == sum(entry.size_bytes() for entry in kept)


# --- whether a change may be made -------------------------------------------------------------------------------------


def test_a_change_may_be_made_when_the_last_is_applied() -> None:
    """RF-60. A new leader first applies what its log holds, for there may be one in it (thesis §4.1)."""
    member = Member(applies=False)
    member.lead()
    assert member.may_change(), "nothing lay in its log before its first entry"
    member.node.propose_conf_change(ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER, 9),)))
    member.run()
    assert not member.may_change()
    member.acknowledge(2)
    assert member.node.committed == 2
    assert not member.may_change(), "committed is not applied"
    member.node.apply_conf_change(ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER, 9),)))
    member.node.advance_apply(2)
    assert member.may_change()


def test_no_other_change_during_a_joint_configuration() -> None:
    member = Member()
    member.lead()
    change = ConfChange(
        (ConfChangeSingle(ConfChangeType.ADD_VOTER, 8), ConfChangeSingle(ConfChangeType.REMOVE, TWO)),
    )
    member.node.propose_conf_change(change)
    member.run()
    member.acknowledge(2)
    assert member.node.applied == 2
    member.node.apply_conf_change(change)
    assert member.node.status().conf_state.voters_outgoing
    assert not member.may_change()


# --- news of commits --------------------------------------------------------------------------------------------------


def test_news_of_a_commit_leave_at_once_or_with_what_comes() -> None:
    """Held back they cost a message less per batch; followers need them for nothing but applying."""
    member = Member()
    member.lead()
    for hold in (False, True):
        member.node.propose([b"x"])
        member.run()
        member.sent.clear()
        member.node.hold_commit_news = hold
        last = member.node.last_index
        member.acknowledge(last)
        assert member.node.committed == last
        assert (member.appends(), member.has_news()) == ([] if hold else [(ONE, last)], hold)
    member.node.propose([b"y"])
    member.run()
    assert member.appends() == [(ONE, member.node.committed)], "the next batch carries it"


def test_held_news_leave_when_they_are_let_go() -> None:
    member = Member()
    member.lead()
    member.node.propose([b"x"])
    member.run()
    member.sent.clear()
    member.node.hold_commit_news = True
    member.acknowledge(2)
    assert not member.node.has_ready()
    member.node.hold_commit_news = False
    assert member.node.has_ready()
    member.run()
    assert member.appends() == [(ONE, 2)]
    assert not member.has_news()


def test_heartbeats_carry_held_news() -> None:
    """So a follower never waits longer than for the next one."""
    member = Member()
    member.lead()
    member.node.propose([b"x"])
    member.run()
    member.node.hold_commit_news = True
    member.acknowledge(2)
    member.sent.clear()
    member.node.tick()
    member.run()
    beats = {message.to: message.commit for message in member.sent if message.type is MessageType.HEARTBEAT}
    assert beats == {ONE: 2, TWO: 0}, "no further than each is known to have"


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_pending_until_it_is_installed() -> None:
    """RF-45: so that the shell knows whether what it has fetched was of use."""
    member = Member()
    snapshot = Snapshot(40, 3, ConfState(voters=(ME, ONE, TWO)))
    message = Message(MessageType.SNAP, ME, sender=ONE, term=3, snapshot=snapshot)
    member.node.step(message)
    pending = [member.node.pending_snapshot]
    ready = member.node.ready()
    assert ready.snapshot is snapshot
    pending.append(member.node.pending_snapshot)
    member._save(ready)
    pending.append(member.node.pending_snapshot)
    assert pending == [snapshot, snapshot, None]
    assert (member.node.applied, member.node.committed, member.node.last_index) == (40, 40, 40)


def test_a_snapshot_that_is_of_no_use_is_not_pending() -> None:
    """It is older than what is committed, is of another term's leader, or does not name this member."""
    for index, term, voters in ((0, 3, (ME, ONE)), (40, 2, (ME, ONE)), (40, 3, (ONE, TWO))):
        member = Member()
        member.hear(MessageType.HEARTBEAT, term=3)
        member.node.step(
            Message(MessageType.SNAP, ME, sender=ONE, term=term, snapshot=Snapshot(index, 1, ConfState(voters=voters)))
        )
        assert member.node.pending_snapshot is None
