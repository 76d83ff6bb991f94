"""The search for an order: histories whose verdict is known, and a twin that tries every order."""

from __future__ import annotations

import itertools
import math
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.checkers.linearizability import Interval, Order, first_failure, search, until

Action = tuple[str, int]
"""("write", what) or ("read", what it saw), on a register that begins with 0."""


def step(state: int, action: Action) -> int | None:
    kind, value = action
    if kind == "write":
        return value
    return state if state == value else None


def call(called: float, returned: float, kind: str, value: int) -> Interval[Action]:
    return Interval(called, returned, (kind, value))


NEVER = math.inf

GOOD = {
    "nothing at all": [],
    "one after the other": [call(0, 1, "write", 1), call(2, 3, "read", 1)],
    "a read beside a write may see the old": [call(0, 9, "write", 1), call(1, 2, "read", 0)],
    "or the new": [call(0, 9, "write", 1), call(1, 2, "read", 1)],
    "a write without an answer may have happened": [call(0, NEVER, "write", 1), call(5, 6, "read", 1)],
    "or not": [call(0, NEVER, "write", 1), call(5, 6, "read", 0)],
    "or happen late": [call(0, NEVER, "write", 1), call(5, 6, "read", 0), call(7, 8, "read", 1)],
    "intervals that touch overlap": [call(0, 1, "write", 1), call(1, 2, "read", 0)],
    "two writers, two readers that agree": [
        call(0, 4, "write", 1),
        call(0, 4, "write", 2),
        call(5, 6, "read", 1),
        call(7, 8, "read", 1),
    ],
}

BAD = {
    "a stale read": [call(0, 1, "write", 1), call(2, 3, "read", 0)],
    "a value from nowhere": [call(0, 1, "read", 7)],
    "the old after the new": [call(0, 9, "write", 1), call(1, 2, "read", 1), call(3, 4, "read", 0)],
    "a write without an answer, undone": [call(0, NEVER, "write", 1), call(5, 6, "read", 1), call(7, 8, "read", 0)],
    "two readers that disagree": [
        call(0, 4, "write", 1),
        call(0, 4, "write", 2),
        call(5, 6, "read", 1),
        call(7, 8, "read", 2),
    ],
    "a write seen before it was asked for": [call(0, 1, "read", 1), call(2, 3, "write", 1)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_has_an_order(name: str) -> None:
    assert search(GOOD[name], 0, step) is Order.EXISTS


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_has_none(name: str) -> None:
    assert search(BAD[name], 0, step) is Order.IMPOSSIBLE


def every_order(intervals: list[Interval[Action]]) -> bool:
    """The twin: all permutations of all subsets that hold every completed call."""
    completed = [each for each in intervals if each.returned < NEVER]
    pending = [each for each in intervals if each.returned == NEVER]
    return any(
        _possible(order)
        for count in range(len(pending) + 1)
        for chosen in itertools.combinations(pending, count)
        for order in itertools.permutations((*completed, *chosen))
    )


def _possible(order: tuple[Interval[Action], ...]) -> bool:
    state = 0
    for place, each in enumerate(order):
        if any(later.returned < each.called for later in order[place + 1 :]):
            return False
        after = step(state, each.action)
        if after is None:
            return False
        state = after
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Interval[Action]]:
    """Few calls, moments and values, so that intervals overlap and touch, and values repeat."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        called = draw(st.integers(0, 8))
        returned = draw(st.one_of(st.just(NEVER), st.integers(called, 9)))
        found.append(call(called, returned, draw(st.sampled_from(["read", "write"])), draw(st.integers(0, 2))))
    return found


@given(histories())
@settings(max_examples=400, deadline=None)
def test_the_search_agrees_with_its_twin(history: list[Interval[Action]]) -> None:
    assert (search(history, 0, step) is Order.EXISTS) == every_order(history)


@given(histories())
@settings(max_examples=200, deadline=None)
def test_the_first_failure_is_the_first(history: list[Interval[Action]]) -> None:
    """Up to the culprit's return there is no order; up to every earlier return there is one."""
    if search(history, 0, step) is not Order.IMPOSSIBLE:
        return
    failure = first_failure(history, 0, step)
    assert failure is not None
    culprit, beginning = failure
    moment = history[culprit].returned
    assert [index for index, _ in until(history, moment)] == beginning
    assert not every_order([each for _, each in until(history, moment)])
    for each in history:
        if each.returned < moment:
            assert every_order([interval for _, interval in until(history, each.returned)])


def test_a_beginning_holds_what_was_called_by_then_as_it_was_then() -> None:
    """What has not returned yet is in it, and may come to pass or not."""
    over, under_way, later = call(0, 1, "write", 1), call(1, 5, "write", 2), call(4, 5, "read", 2)
    assert until([over, under_way, later], 3) == [(0, over), (1, under_way._replace(returned=NEVER))]


def test_without_time_the_search_does_not_guess() -> None:
    """Twenty concurrent writes and a read that fits none: more configurations than the moment allows."""
    history = [call(0, 1, "write", value) for value in range(1, 21)] + [call(2, 3, "read", 99)]
    assert search(history, 0, step, give_up_at=monotonic() - 1) is Order.UNDECIDED


def test_many_calls_that_never_return_do_not_hold_it_up() -> None:
    history = [call(0, NEVER, "write", value) for value in range(1, 40)]
    history += [call(index, index + 0.5, "read", 0) for index in range(1, 200)]
    assert search(history, 0, step, give_up_at=monotonic() + 10) is Order.EXISTS
