"""Linearizable reads: one round at a time, and no read before its index is applied (RF-30 to RF-36)."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.raft.types import ReadState
from raftkv.server.errors import LeaderChanged, RequestTimedOut
from raftkv.server.reads import RETRY_S, Reads

TIMEOUT_S = 7.0
FIRST_ROUND = (1 << 62) - 1


class Asked:
    """Stands for the core: remembers the contexts of the rounds asked for."""

    def __init__(self) -> None:
        self.rounds: list[bytes] = []
        self.reads = Reads(self, FIRST_ROUND)  # type: ignore[arg-type]
        self.done: list[tuple[str, Any]] = []

    def read_index(self, context: bytes) -> None:
        self.rounds.append(context)

    def add(self, name: str, now: float = 0.0) -> None:
        self.reads.add(lambda *result: self.done.append(result), name)
        self.reads.maybe_start(now)

    def answer(self, index: int, applied: int, at: int = -1, now: float = 0.0) -> None:
        self.reads.on_read_states([ReadState(index, self.rounds[at])], applied, now)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_reads_that_come_during_a_round_share_the_next(asked: Asked) -> None:
    """They must not use the index of a round that began before them."""
    for name in ("a", "b", "c"):
        asked.add(name)
    assert len(asked.rounds) == 1
    asked.answer(index=5, applied=5)
    assert asked.done == [("a", None)]
    assert len(asked.rounds) == 2, "the next round starts by itself"
    assert asked.rounds[0] != asked.rounds[1]
    asked.answer(index=5, applied=5)
    assert asked.done == [("a", None), ("b", None), ("c", None)]
    assert len(asked.rounds) == 2, "nobody waits: no round"


def test_a_late_answer_of_an_old_round_is_ignored(asked: Asked) -> None:
    """RF-35."""
    asked.add("a")
    asked.answer(index=1, applied=1)
    asked.add("b")
    asked.answer(index=1, applied=9, at=0)
    assert asked.done == [("a", None)]
    asked.answer(index=2, applied=9)
    asked.answer(index=2, applied=9)
    assert asked.done == [("a", None), ("b", None)]


def test_a_read_waits_until_its_index_is_applied(asked: Asked) -> None:
    """RF-34; rounds are done in order."""
    asked.add("a")
    asked.answer(index=5, applied=3)
    asked.add("b")
    asked.answer(index=7, applied=4)
    assert asked.done == []
    asked.reads.on_applied(5)
    assert asked.done == [("a", None)]
    asked.reads.on_applied(6)
    assert len(asked.done) == 1
    asked.reads.on_applied(9)
    assert asked.done == [("a", None), ("b", None)]


def test_a_round_without_an_answer_is_asked_for_again(asked: Asked) -> None:
    """RF-35: the same round, so the answer to either request counts."""
    error = RequestTimedOut()
    asked.add("a", now=10.0)
    asked.reads.on_tick(10.0 + RETRY_S - 0.01, TIMEOUT_S, error)
    assert len(asked.rounds) == 1
    asked.reads.on_tick(10.0 + RETRY_S, TIMEOUT_S, error)
    asked.reads.on_tick(10.0 + RETRY_S + 0.01, TIMEOUT_S, error)
    assert asked.rounds == [asked.rounds[0]] * 2
    assert asked.reads.slow == 1
    asked.answer(index=1, applied=1, at=0)
    asked.answer(index=1, applied=1, at=1)
    assert asked.done == [("a", None)]


def test_after_the_timeout_the_round_fails_and_the_next_begins(asked: Asked) -> None:
    error = RequestTimedOut()
    asked.add("a", now=10.0)
    asked.add("b", now=16.0)
    asked.reads.on_tick(10.0 + TIMEOUT_S, TIMEOUT_S, error)
    assert asked.done == [("a", error)]
    assert asked.reads.failed == 1
    assert len(asked.rounds) == 2
    asked.answer(index=1, applied=1, at=0)
    assert len(asked.done) == 1
    asked.answer(index=1, applied=1)
    assert asked.done[1:] == [("b", None)]


def test_time_alone_starts_nothing(asked: Asked) -> None:
    asked.reads.on_tick(1e9, TIMEOUT_S, RequestTimedOut())
    asked.reads.maybe_start(1e9)
    assert asked.rounds == []


def test_stopping_answers_everybody_once(asked: Asked) -> None:
    error = RequestTimedOut()
    for name in ("not applied", "on the way", "next round"):
        asked.add(name)
        if name == "not applied":
            asked.answer(index=5, applied=1)
    asked.reads.fail_all(error)
    asked.reads.fail_all(error)
    asked.reads.on_applied(9)
    assert sorted(asked.done) == [("next round", error), ("not applied", error), ("on the way", error)]


# --- the leader changes -----------------------------------------------------------------------------------------------


def test_what_was_asked_of_the_last_leader_fails_and_the_rest_goes_to_the_new(asked: Asked) -> None:
    """RF-35: the answer may be lost with it."""
    error = LeaderChanged()
    asked.add("asked", now=1.0)
    asked.add("waits", now=1.0)
    asked.reads.on_leader_changed(error, 2.0)
    assert (asked.done, asked.reads.failed) == ([("asked", error)], 1)
    assert len(asked.rounds) == 2
    asked.answer(index=9, applied=9, at=0)
    assert len(asked.done) == 1, "a late answer of the old leader is no answer to the new round"
    asked.answer(index=5, applied=5)
    assert asked.done[1:] == [("waits", None)]


def test_a_read_whose_index_is_known_outlives_its_leader(asked: Asked) -> None:
    """It was confirmed: only applying is waited for, and that does not need a leader."""
    asked.add("a")
    asked.answer(index=5, applied=3)
    asked.reads.on_leader_changed(LeaderChanged(), 1.0)
    assert (asked.done, asked.reads.failed) == ([], 0)
    asked.reads.on_applied(5)
    assert asked.done == [("a", None)]


def test_a_new_leader_is_asked_nothing_that_nobody_waits_for(asked: Asked) -> None:
    asked.reads.on_leader_changed(LeaderChanged(), 1.0)
    assert (asked.rounds, asked.done, asked.reads.failed) == ([], [], 0)


def test_the_new_round_has_its_whole_time(asked: Asked) -> None:
    asked.add("asked", now=1.0)
    asked.add("waits", now=1.0)
    asked.reads.on_leader_changed(LeaderChanged(), 6.0)
    asked.reads.on_tick(1.0 + TIMEOUT_S, TIMEOUT_S, RequestTimedOut())
    assert len(asked.done) == 1
    asked.reads.on_tick(6.0 + TIMEOUT_S, TIMEOUT_S, RequestTimedOut())
    assert len(asked.done) == 2


def test_rounds_are_told_apart_from_those_of_an_earlier_life(asked: Asked) -> None:
    """RF-33: an answer to one of them may still be on its way, and knows nothing of what was written since."""
    asked.add("a")
    earlier = ReadState(1, (FIRST_ROUND - 5).to_bytes(8, "big"))
    asked.reads.on_read_states([earlier], 9, 0.0)
    assert asked.done == []
    assert asked.rounds == [(FIRST_ROUND + 1).to_bytes(8, "big")]
    asked.answer(index=1, applied=9)
    assert asked.done == [("a", None)]
