"""A peer may say anything: the node answers, ignores it, or raises BadMessage or LogDamaged.

Never another exception, and never does a peer that breaks the protocol trip an assert, since those
speak of our own mistakes only.
"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.raft import (
    BadMessage,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    LogDamaged,
    MemoryStorage,
    Message,
    MessageType,
    ProposalDropped,
    RawNode,
    Snapshot,
)

SMALL = st.integers(0, 6)
CONFS = st.builds(
    ConfState,
    *([st.frozensets(st.integers(0, 4), max_size=3).map(lambda ids: tuple(sorted(ids)))] * 4),
    st.booleans(),
)
ENTRIES = st.lists(
    st.builds(Entry, SMALL, SMALL, st.sampled_from(EntryType), st.sampled_from([b"", b"x", b"\x01\0\0\1\0"])),
    max_size=3,
)


@st.composite
def hostile(draw: st.DrawFn) -> Message:
    index, term = draw(SMALL), draw(SMALL)
    tail = draw(st.integers(0, 2))
    plausible = [Entry(term, index + 1 + k) for k in range(tail)]
    return Message(
        draw(st.sampled_from(MessageType)),
        1,
        draw(st.integers(2, 5)),
        term=draw(SMALL),
        index=index,
        log_term=term,
        entries=draw(st.just(plausible) | ENTRIES),
        commit=draw(SMALL),
        reject=draw(st.booleans()),
        hint=draw(SMALL),
        round=draw(SMALL),
        transfer=draw(st.booleans()),
        snapshot=draw(st.none() | st.builds(Snapshot, SMALL, SMALL, CONFS)),
    )


EVENTS = st.lists(hostile() | st.sampled_from(["tick", "campaign", "propose", "read", "drain"]), max_size=25)


class Victim:
    """Node 1 of 1, 2, 3 with an honest shell."""

    def __init__(self) -> None:
        self.storage = MemoryStorage(HardState(1, 0, 1), ConfState((1, 2, 3)))
        self.storage.append([Entry(1, 1), Entry(1, 2)])
        self.node = RawNode(Config(id=1), self.storage, random.Random(0))

    def play(self, event: Message | str) -> None:
        if isinstance(event, Message):
            self.node.step(event)
        elif event == "propose":
            try:
                self.node.propose([b"p"])
            except ProposalDropped:
                pass
        elif event == "read":
            self.node.read_index(b"r")
        elif event == "drain":
            self.drain()
        else:
            getattr(self.node, event)()

    def drain(self) -> None:
        while self.node.has_ready():
            ready = self.node.ready()
            if ready.snapshot is not None:
                self.storage.apply_snapshot(ready.snapshot)
            self.storage.append(ready.entries)
            if ready.hard_state is not None:
                self.storage.set_hard_state(ready.hard_state)
            self.node.advance_append(ready)
            if ready.committed_entries:
                self.node.advance_apply(ready.committed_entries[-1].index)


@settings(max_examples=400, deadline=None)
@given(EVENTS)
def test_only_typed_errors_come_out(events: list[Message | str]) -> None:
    victim = Victim()
    committed = term = 0
    for event in events:
        try:
            victim.play(event)
        except BadMessage:
            pass
        except LogDamaged:
            return  # the member stops here
        assert victim.node.committed >= committed
        assert victim.node.term >= term
        committed, term = victim.node.committed, victim.node.term


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_a_leader_is_not_harmed_either(events: list[Message | str]) -> None:
    victim = Victim()
    victim.node.campaign()
    victim.play(Message(MessageType.PRE_VOTE_RESP, 1, 2, term=2))
    victim.drain()
    victim.play(Message(MessageType.VOTE_RESP, 1, 2, term=2))
    victim.drain()
    assert victim.node.is_leader
    for event in events:
        if isinstance(event, Message):
            event.term = min(event.term, 2)
        try:
            victim.play(event)
            victim.drain()
        except BadMessage:
            pass
        except LogDamaged:
            return
