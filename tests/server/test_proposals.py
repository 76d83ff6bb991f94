"""Requests on their way into the log: batches, bounds, and results to those who wait for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.apply import ITEM_BYTES, Kind, decode_batch
from raftkv.server import proposals as module
from raftkv.server.errors import RequestTimedOut
from raftkv.server.proposals import MAX_ENTRY_BYTES, MAX_QUEUED, MAX_QUEUED_BYTES, Proposals

MEMBER = 7
FIRST = 1000


class Queue:
    """Proposals with a clock, and the results in the order in which they come."""

    def __init__(self) -> None:
        self.now = 50.0
        self.results: list[tuple[Any, Any]] = []
        self.proposals = Proposals(MEMBER, FIRST, lambda: self.now)

    def add(self, context: Any, message: bytes = b"m", kind: int = Kind.PUT) -> bool:
        return self.proposals.add(kind, message, lambda *result: self.results.append(result), context)

    def take(self) -> tuple[int, list[bytes]]:
        number, data = self.proposals.take_batch()
        batch = decode_batch(data)
        assert (batch.proposer, batch.number) == (MEMBER, number)
        return number, [message for _, message in batch.requests]


@pytest.fixture
def queue() -> Queue:
    return Queue()


# --- batches ----------------------------------------------------------------------------------------------------------


def test_what_gathers_leaves_in_one_batch_in_order(queue: Queue) -> None:
    for name in (b"a", b"b", b"c"):
        queue.add(name, name)
    assert queue.proposals.queued == 3
    assert queue.take() == (FIRST, [b"a", b"b", b"c"])
    queue.add(b"d", b"d")
    assert queue.take() == (FIRST + 1, [b"d"])
    assert (queue.proposals.queued, queue.proposals.pending) == (0, 4)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_a_batch_is_as_large_as_the_limit_allows(sizes: list[int]) -> None:
    """Cut before the request that would exceed it; one that alone exceeds it goes alone."""
    queue, limit = Queue(), 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ENTRY_BYTES", limit)
        messages = [bytes([at]) * size for at, size in enumerate(sizes)]
        for message in messages:
            queue.add(None, message)
        batches = []
        while queue.proposals.queued:
            batches.append(queue.take()[1])
    assert [message for batch in batches for message in batch] == messages
    costs = [[len(message) + ITEM_BYTES for message in batch] for batch in batches]
    for cost, following in zip(costs, [*costs[1:], [limit]], strict=True):
        assert sum(cost) <= limit or len(cost) == 1
        assert sum(cost) + following[0] > limit


def test_a_request_larger_than_a_batch_goes_alone(queue: Queue) -> None:
    for message in (b"small", b"x" * (MAX_ENTRY_BYTES + 1), b"small"):
        queue.add(None, message)
    assert [[len(message) for message in queue.take()[1]] for _ in range(3)] == [[5], [MAX_ENTRY_BYTES + 1], [5]]


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_takes_nothing(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """G-55: by number and by bytes; what has left makes room."""
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    assert [queue.add(at) for at in range(5)] == [True, True, True, False, False]
    queue.take()
    assert queue.add("again")
    queue.take()
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10)
    assert [queue.add(None, b"12345") for _ in range(3)] == [True, True, False]
    queue.take()
    assert queue.add(None, b"12345")
    assert queue.results == [], "who is refused is told by `add`, and by nothing else"


def test_bytes_are_counted_over_a_cut(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRY_BYTES", 20)
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 30)
    assert [queue.add(None, b"x" * 10) for _ in range(4)] == [True, True, True, False]
    queue.take()
    assert [queue.add(None, b"x" * 10) for _ in range(2)] == [True, False]


def test_the_bounds_leave_room_for_a_batch() -> None:
    assert MAX_QUEUED_BYTES > MAX_ENTRY_BYTES
    assert MAX_QUEUED > 0


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_go_to_those_who_asked(queue: Queue) -> None:
    """RF-54: found by batch number, then by position; batches may be answered in any order."""
    queue.add("a")
    queue.add("b")
    first, _ = queue.take()
    queue.add("c")
    second, _ = queue.take()
    queue.proposals.complete(MEMBER, second, ["C"])
    queue.proposals.complete(MEMBER, first, ["A", "B"])
    assert queue.results == [("c", "C"), ("a", "A"), ("b", "B")]
    assert queue.proposals.pending == 0


def test_results_that_nobody_here_waits_for_are_ignored(queue: Queue) -> None:
    """RF-54: of other proposers, of an earlier life, and of a batch that was answered."""
    queue.add("a")
    number, _ = queue.take()
    queue.proposals.complete(MEMBER + 1, number, ["other member"])
    queue.proposals.complete(MEMBER, number - 1, ["earlier life", "with more requests"])
    assert queue.results == []
    queue.proposals.complete(MEMBER, number, ["A"])
    queue.proposals.complete(MEMBER, number, ["replayed"])
    assert queue.results == [("a", "A")]


def test_who_is_answered_may_ask_again_at_once(queue: Queue) -> None:
    queue.proposals.add(Kind.PUT, b"m", lambda context, _result: queue.add(context), "again")
    number, _ = queue.take()
    queue.proposals.complete(MEMBER, number, [None])
    assert queue.take()[1] == [b"m"]


# --- the end of waiting -----------------------------------------------------------------------------------------------


class Why(Exception):
    """What `expire` was asked: since when, and whether it was in the log."""

    def __init__(self, started_s: float, *, proposed: bool) -> None:
        super().__init__(started_s, proposed)


def test_waiting_ends_after_the_timeout_in_the_queue_and_in_the_log(queue: Queue) -> None:
    """RF-71, G-52: older ones only, each for its own reason, and the late result finds nobody."""

    def ended() -> list[tuple[Any, Any]]:
        return [(context, error.args) for context, error in queue.results]

    queue.add("old")
    old, _ = queue.take()
    queue.now = 51.0
    queue.add("newer")
    newer, _ = queue.take()
    queue.now = 52.0
    queue.add("queued")

    queue.proposals.expire(50.0, Why)
    assert queue.results == []
    queue.proposals.expire(50.5, Why)
    assert ended() == [("old", (50.0, True))]
    queue.proposals.expire(52.0, Why)
    assert ended() == [("old", (50.0, True)), ("newer", (51.0, True))]
    queue.proposals.expire(52.1, Why)
    assert ended()[2:] == [("queued", (52.0, False))]
    assert (queue.proposals.queued, queue.proposals.pending, queue.proposals.failed) == (0, 0, 3)
    for number in (old, newer):
        queue.proposals.complete(MEMBER, number, ["late"])
    assert len(queue.results) == 3


def test_a_queue_that_never_runs_empty_does_not_age(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued behind a cut came later than what left: it must not expire by the age of the first."""
    monkeypatch.setattr(module, "MAX_ENTRY_BYTES", ITEM_BYTES + 1)
    queue.add(0)
    for second in range(1, 20):
        queue.now += 1.0
        queue.add(second)
        number, _ = queue.take()
        queue.proposals.complete(MEMBER, number, ["done"])
        queue.proposals.expire(queue.now - 7.0, Why)
    assert queue.results == [(second, "done") for second in range(19)]


def test_a_dropped_batch_fails_alone(queue: Queue) -> None:
    error = RequestTimedOut()
    queue.add("a")
    dropped, _ = queue.take()
    queue.add("b")
    queue.proposals.fail_batch(dropped, error)
    assert queue.results == [("a", error)]
    assert queue.proposals.queued == 1


def test_stopping_answers_everybody_once(queue: Queue) -> None:
    error = RequestTimedOut()
    queue.add("in the log")
    queue.take()
    queue.add("queued")
    queue.proposals.fail_all(error)
    queue.proposals.fail_all(error)
    assert sorted(queue.results) == [("in the log", error), ("queued", error)]


# --- requests with an entry of their own ------------------------------------------------------------------------------


def test_a_request_with_an_entry_of_its_own_is_answered_like_a_batch_of_one(queue: Queue) -> None:
    """RF-54: numbers are shared with the batches, so none is used twice."""
    first = queue.proposals.register(lambda *result: queue.results.append(result), "change")
    queue.add("a")
    second, _ = queue.take()
    third = queue.proposals.register(lambda *result: queue.results.append(result), "another")
    assert (first, second, third) == (FIRST, FIRST + 1, FIRST + 2)
    assert queue.proposals.pending == 3
    queue.proposals.complete(MEMBER, third, ["C"])
    queue.proposals.complete(MEMBER, first, ["A"])
    assert queue.results == [("another", "C"), ("change", "A")]


def test_whether_a_batch_is_still_waited_for(queue: Queue) -> None:
    waiting = queue.proposals.is_waiting
    numbers = [queue.proposals.register(lambda *_: None, None) for _ in range(3)]
    assert [waiting(number) for number in (*numbers, numbers[-1] + 1, 0)] == [True, True, True, False, False]
    queue.proposals.complete(MEMBER + 1, numbers[0], ["other member"])
    assert waiting(numbers[0])
    queue.proposals.complete(MEMBER, numbers[0], ["applied"])
    queue.proposals.fail_batch(numbers[1], RequestTimedOut())
    queue.now += 10.0
    queue.proposals.expire(queue.now, Why)
    assert [waiting(number) for number in numbers] == [False, False, False]


def test_what_is_in_the_log_can_be_given_up_and_what_is_queued_stays(queue: Queue) -> None:
    """RF-45: a store came from another member, and the results of what it holds do not come with it."""
    error = RequestTimedOut()
    queue.add("in the log")
    number, _ = queue.take()
    queue.add("queued")
    queue.proposals.fail_in_flight(error)
    assert queue.results == [("in the log", error)]
    queue.proposals.complete(MEMBER, number, ["late"])
    number, _ = queue.take()
    queue.proposals.complete(MEMBER, number, ["done"])
    assert queue.results[1:] == [("queued", "done")]
    assert queue.proposals.failed == 1


def test_each_request_waits_its_own_time_for_a_leader(queue: Queue) -> None:
    """G-50, G-51: those that came later are not given up with the oldest."""
    queue.add("early")
    queue.now = 51.0
    queue.add("late")
    queue.proposals.expire(50.5, Why)
    assert [(context, error.args) for context, error in queue.results] == [("early", (50.0, False))]
    assert queue.take() == (FIRST, [b"m"]), "the other one is still there to be proposed"
    queue.proposals.complete(MEMBER, FIRST, ["done"])
    assert queue.results[1:] == [("late", "done")]


# --- what nobody waits for any more -----------------------------------------------------------------------------------


class Asking:
    """A call, as far as proposals look at it."""

    def __init__(self, *, cancelled: bool = False) -> None:
        self.cancelled = cancelled


def test_what_waits_for_nobody_is_forgotten(queue: Queue) -> None:
    """G-51: the deadline of a client, or its going away, ends the wait for a leader."""
    future: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    gone, here = Asking(cancelled=True), Asking()
    for context, message in ((None, b"a"), (gone, b"b" * 100), (here, b"c"), (future, b"d"), (gone, b"e")):
        queue.add(context, message)
    queue.proposals.drop_abandoned()
    assert [(context, type(result)) for context, result in queue.results] == [(gone, RequestTimedOut)] * 2
    assert (queue.proposals.queued, queue.proposals.failed) == (3, 2)
    assert queue.take() == (FIRST, [b"a", b"c", b"d"])
    queue.add(here, b"f")
    queue.proposals.drop_abandoned()
    assert queue.take() == (FIRST + 1, [b"f"])
    future.get_loop().close()
