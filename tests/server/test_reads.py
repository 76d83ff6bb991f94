"""Linearizable reads: one round at a time, and no read before its index is applied (RF-30 to RF-36)."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.raft.types import ReadState
from raftkv.server.errors import RequestTimedOut
from raftkv.server.reads import RETRY_S, Reads

TIMEOUT_S = 7.0


class Asked:
    """Stands for the core: remembers the contexts of the rounds asked for."""

    def __init__(self) -> None:
        self.rounds: list[bytes] = []
        self.reads = Reads(self)  # type: ignore[arg-type]
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
