"""Keys as registers: what the store may answer, what it may not, and how little is shown of a violation."""

from __future__ import annotations

import math
from dataclasses import replace
from time import monotonic

import pytest
from chaos_support import cas, delete, failed, missed, read, unknown, write
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.checkers import register
from chaos.checkers.linearizability import Interval, Order, Step, search
from chaos.checkers.register import Action
from chaos.checkers.verdict import Result
from chaos.history import Kind, Op

GOOD = {
    "write, then read": [write(0, 1, "a", 2), read(2, 3, "a", 2, 2)],
    "a refused write": [failed(write(0, 1, "a", 2)), read(2, 3, None, 0, 1)],
    "a compare-and-set on what is there": [write(0, 1, "a", 2), cas(2, 3, "b", 2, 3), read(4, 5, "b", 3, 3)],
    "a compare-and-set that finds something else": [
        write(0, 1, "a", 2),
        missed(cas(2, 3, "b", 9, 0), "a", 2, 2),
        read(4, 5, "a", 2, 2),
    ],
    "a compare-and-set that creates": [cas(0, 1, "a", 0, 2), read(2, 3, "a", 2, 2)],
    "a delete": [write(0, 1, "a", 2), delete(2, 3, "a", 2, 3), read(4, 5, None, 0, 3)],
    "a delete of nothing": [delete(0, 1, None, 0, 1), read(2, 3, None, 0, 1)],
    "an unknown write that happened": [unknown(write(0, 1, "a", 0)), read(2, 3, "a", 2, 2)],
    "an unknown write that did not": [unknown(write(0, 1, "a", 0)), read(2, 3, None, 0, 1)],
    "an unknown write that happened late": [
        unknown(write(0, 1, "a", 0)),
        write(2, 3, "b", 2),
        read(4, 5, "b", 2, 2),
        read(6, 7, "a", 3, 3),
    ],
    "an unknown delete": [write(0, 1, "a", 2), unknown(delete(2, 3, None, 0, 0)), read(4, 5, None, 0, 3)],
}

BAD = {
    "a stale read (RF-36)": [write(0, 1, "a", 2), write(2, 3, "b", 3), read(4, 5, "a", 2, 2)],
    "a lost write": [write(0, 1, "a", 2), read(2, 3, None, 0, 1)],
    "a refused write that happened": [failed(write(0, 1, "a", 2)), read(2, 3, "a", 2, 2)],
    "a write done twice": [write(0, 1, "a", 2), read(2, 3, "a", 2, 2), read(4, 5, "a", 3, 3)],
    "an unknown write done twice": [unknown(write(0, 1, "a", 0)), read(2, 3, "a", 2, 2), read(4, 5, "a", 3, 3)],
    "a compare-and-set on what is not there": [write(0, 1, "a", 2), cas(2, 3, "b", 1, 3)],
    "a compare-and-set that refused what is there": [write(0, 1, "a", 2), missed(cas(2, 3, "b", 2, 0), "a", 2, 2)],
    "both of two compare-and-sets": [write(0, 1, "a", 2), cas(2, 9, "b", 2, 3), cas(2, 9, "c", 2, 4)],
    "a write before the revision it replaces": [write(0, 1, "a", 5), write(2, 3, "b", 4)],
    "a delete that did not": [write(0, 1, "a", 2), delete(2, 3, "a", 2, 3), read(4, 5, "a", 2, 3)],
    "a delete that saw another value": [write(0, 1, "a", 2), write(2, 3, "b", 3), delete(4, 5, "a", 2, 4)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_passes(name: str) -> None:
    assert register.check("test", GOOD[name], math.inf).result is Result.PASSED


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_fails(name: str) -> None:
    assert register.check("test", BAD[name], math.inf).result is Result.FAILED


def test_keys_are_judged_one_by_one() -> None:
    history = [write(0, 1, "a", 2, key="x"), read(2, 3, None, 0, 2, key="y"), read(2, 3, "a", 2, 2, key="x")]
    assert register.check("test", history, math.inf).result is Result.PASSED
    verdict = register.check("test", [*history, read(4, 5, "a", 2, 2, key="y")], math.inf)
    assert verdict.result is Result.FAILED
    assert verdict.evidence[0].startswith("y:")


def test_out_of_time_is_not_a_pass() -> None:
    history = [write(0, 100, f"v{number}", number + 2) for number in range(200)]
    history += [read(0, 100, f"v{number}", number + 2, 300) for number in range(200)]
    verdict = register.check("test", [*history, read(101, 102, "other", 999, 999)], monotonic() - 1)
    assert verdict.result is Result.UNDECIDED
    assert verdict.evidence


def test_the_evidence_is_few_calls_and_ends_with_the_culprit() -> None:
    """200 innocent calls around one stale read: only what contradicts it is shown."""
    history: list[Op] = []
    for number in range(100):
        history.append(write(number, number + 0.4, f"v{number}", number + 2))
        history.append(read(number + 0.5, number + 0.9, f"v{number}", number + 2, number + 2))
    stale = read(60.45, 60.49, "v58", 60, 60, member="m3")
    verdict = register.check("test", [*history, stale], math.inf)
    assert verdict.result is Result.FAILED
    head, titles, *rows = verdict.evidence
    assert "k:" in head
    assert titles.split()[0] == "member"
    assert len(rows) <= 4
    assert rows[-1].startswith("=> m3")
    assert "found v58 (revision 60)" in rows[-1]
    assert sum(row.startswith("=>") for row in rows) == 1


def test_what_is_shown_is_still_a_violation() -> None:
    history = [
        write(0, 1, "a", 2),
        unknown(write(0, 1, "b", 0)),
        read(1.5, 1.8, "a", 2, 2),
        cas(2, 3, "c", 2, 4),
        read(3.5, 3.8, "c", 4, 4),
        read(4, 5, "a", 2, 2),
    ]
    pairs = register.intervals_of(history)
    intervals = [interval for _, interval in pairs]
    kept = register.shrink(intervals, culprit=len(intervals) - 1, give_up_at=math.inf)
    assert len(kept) < len(intervals)
    assert search([intervals[index] for index in kept], register.NO_KEY, register.step) is Order.IMPOSSIBLE


# --- what is left out of the search makes no difference ---------------------------------------------------------------


SlowState = tuple[str | None, int | None, int]
"""(value, its revision or None as long as nobody has told it, a revision that it must be higher than)."""


def slow_model(history: list[Op]) -> Step[SlowState, Action]:
    """The register without foresight: an unknown write has some revision, which the first who sees it tells.

    Who expects a revision tells it as well, if that revision was ever seen with that value.
    """
    sightings = {(op.seen, op.seen_revision) for op in history}

    def told(value: str | None, action: Action) -> int:
        if action.seen is not None:
            return action.seen[1] if action.seen[0] == value else 0
        expected = action.expected_revision if action.kind is Kind.CAS and action.took else 0
        return expected if (value, expected) in sightings else 0

    def step(state: SlowState, action: Action) -> SlowState | None:
        value, revision, floor = state
        if revision is None:
            if told(value, action) > floor:
                revision = told(value, action)
            elif action.seen is not None or (action.kind is Kind.CAS and action.took):
                return None
        if revision is not None and (action.revision or not action.took or action.kind is Kind.DELETE):
            known = register.step((value, revision), action)
            return None if known is None else (*known, 0)
        if not action.took:
            return state
        if action.kind is Kind.DELETE:
            return None, 0, 0
        if revision is not None and action.kind is Kind.CAS and revision != action.expected_revision:
            return None
        floor = floor if revision is None else revision
        if not action.revision:
            return action.value, None, floor
        return (action.value, action.revision, 0) if action.revision > floor else None

    return step


@st.composite
def key_histories(draw: st.DrawFn) -> list[Op]:
    """Up to six calls with unique values and answers that are often wrong.

    What a compare-and-set expects was acknowledged or seen before, as in a run.
    """
    found: list[Op] = []
    values: list[tuple[str | None, int]] = [(None, 0)]
    told = [0]
    for number in range(draw(st.integers(1, 6))):
        called = draw(st.integers(0, 8))
        returned = draw(st.integers(called, 9))
        value, revision = f"v{number}", number + 2
        kind = draw(st.sampled_from(["read", "write", "cas", "missed", "delete", "unknown delete"]))
        seen, at = draw(st.sampled_from(values))
        expected = draw(st.sampled_from(told))
        op = {
            "read": lambda: read(called, returned, seen, at, 20),  # noqa: B023 - called at once
            "write": lambda: write(called, returned, value, revision),  # noqa: B023
            "cas": lambda: cas(called, returned, value, expected, revision),  # noqa: B023
            "missed": lambda: missed(cas(called, returned, value, 99, 0), seen, at, 20),  # noqa: B023
            "delete": lambda: delete(called, returned, seen, at, 20),  # noqa: B023
            "unknown delete": lambda: unknown(delete(called, returned, None, 0, 0)),  # noqa: B023
        }[kind]()
        if kind in {"write", "cas"}:
            values.append((value, revision))
            if draw(st.booleans()):
                op = unknown(op)
        told.append(op.revision if op.took else op.seen_revision)
        found.append(op)
    return found


@given(key_histories())
@settings(max_examples=600, deadline=None)
def test_what_the_search_leaves_out_makes_no_difference(history: list[Op]) -> None:
    kept = [interval for _, interval in register.intervals_of(history)]
    everything = [interval for interval in kept if interval.returned < math.inf]
    everything += [
        Interval(op.called_s, math.inf, Action(op.kind, True, op.value, 0, None, op.expected_revision))
        for op in history
        if op.returned_s == math.inf
    ]
    assert search(kept, register.NO_KEY, register.step) is search(everything, (None, 0, 0), slow_model(history))


@given(key_histories())
@settings(max_examples=600, deadline=None)
def test_leaving_out_what_nobody_needs_never_makes_a_good_history_bad(history: list[Op]) -> None:
    """Otherwise the evidence could accuse the innocent."""
    plain = dict(enumerate(interval for _, interval in register.intervals_of(history)))
    relaxed = {index: register._relaxed(interval) for index, interval in plain.items()}
    for calls, model in ((plain, register.step), (relaxed, register.step), (relaxed, register.step_of_values)):
        if search(list(calls.values()), register.NO_KEY, model) is Order.EXISTS:
            for index in calls:
                if register._removable(index, calls, model):
                    rest = [interval for each, interval in calls.items() if each != index]
                    assert search(rest, register.NO_KEY, model) is Order.EXISTS
        else:
            assert search(list(plain.values()), register.NO_KEY, register.step) is Order.IMPOSSIBLE


def test_a_stale_read_long_after_deletes_is_told_in_few_calls() -> None:
    """As a deposed leader would answer: what was written and deleted in between is left out."""
    history = [write(0, 1, "a", 2)]
    for number in range(1, 20):
        history.append(
            delete(2 * number, 2 * number + 0.5, f"v{number - 1}" if number > 1 else "a", number * 2, number * 2 + 1)
        )
        history.append(write(2 * number + 0.6, 2 * number + 1, f"v{number}", number * 2 + 2))
    verdict = register.check("test", [*history, read(99, 100, "v3", 8, 40, member="m3")], math.inf)
    assert verdict.result is Result.FAILED
    assert len(verdict.evidence) <= 2 + 3


def test_a_culprit_keeps_its_own_reason() -> None:
    """A compare-and-set that took although its expectation did not hold: forgetting it would leave no violation.

    What the writers before it expected is forgotten, though; else the whole chain would have to be shown.
    """
    history = [cas(number, number + 0.5, f"v{number}", number and number + 1, number + 2) for number in range(20)]
    culprit = cas(30, 31, "c", 20, 99)
    verdict = register.check("test", [*history, culprit], math.inf)
    assert verdict.result is Result.FAILED
    assert verdict.evidence[-1].startswith("=>")
    assert "if at revision 20" in verdict.evidence[-1]
    assert len(verdict.evidence) == 2 + 3


def test_who_only_saw_is_left_out_even_if_it_saw_nothing() -> None:
    history = [read(0, 1, None, 0, 1), read(0, 1, None, 0, 1), write(2, 3, "a", 2), read(4, 5, None, 0, 2)]
    verdict = register.check("test", history, math.inf)
    assert verdict.result is Result.FAILED
    assert len(verdict.evidence) == 2 + 2


def test_answers_are_told_in_words() -> None:
    assert register.answered(write(0, 1, "a", 2)) == "done at revision 2"
    assert register.answered(delete(0, 1, "a", 2, 3)) == "done at revision 3, removed a (revision 2)"
    assert register.answered(read(0, 1, None, 0, 7)) == "found no such key, store at 7"
    assert register.answered(unknown(write(0, 1, "a", 2))) == "unknown: gone"
    assert register.asked(cas(0, 1, "a", 5, 6)) == "write a if at revision 5"
    assert replace(write(0, 1, "a", 2)).took
