"""Watches: what is in order, once, without a gap, and as written (W-54, W-55, W-60)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from chaos_support import delete, failed, unknown, write

from chaos.checkers import watching
from chaos.checkers.verdict import Result
from chaos.checkers.watching import Batch, Event, Past, Watched

A2 = Event(2, "a", "v1", 1, 2, 0)
B3 = Event(3, "b", "v2", 1, 3, 0)
A4 = Event(4, "a", "v3", 2, 2, 2)
A5 = Event(5, "a", None, 0, 0, 4)
A6 = Event(6, "a", "v4", 1, 6, 0)
STORY = (A2, B3, A4, A5, A6)


def watched(*batches: Sequence[Event], name: str = "w1") -> Watched:
    return Watched(
        name,
        [Batch(float(at), "m1", events[-1].revision, tuple(events)) for at, events in enumerate(batches)],
    )


def one_by_one(events: Sequence[Event], name: str = "w1") -> Watched:
    return watched(*([event] for event in events), name=name)


def order(*each: Watched) -> Result:
    return watching.check_order("test", each).result


def test_the_whole_story_is_in_order() -> None:
    assert order(one_by_one(STORY)) is Result.PASSED
    assert order(watched(STORY)) is Result.PASSED


@pytest.mark.parametrize("missing", [A2, A4, A5])
def test_a_missing_event_breaks_the_chain_of_its_key(missing: Event) -> None:
    assert order(one_by_one([event for event in STORY if event is not missing])) is Result.FAILED


@pytest.mark.parametrize("place", range(len(STORY)))
def test_an_event_that_comes_twice(place: int) -> None:
    assert order(one_by_one([*STORY[: place + 1], *STORY[place:]])) is Result.FAILED


def test_events_in_the_wrong_order() -> None:
    assert order(one_by_one([A2, A4, B3, A5])) is Result.FAILED
    assert order(watched([A2, A4, B3, A5])) is Result.FAILED


def test_a_revision_comes_whole() -> None:
    """W-55: two keys of one transaction in two responses."""
    first, second = Event(2, "a", "v1", 1, 2, 0), Event(2, "b", "v1", 1, 2, 0)
    assert order(watched([first, second])) is Result.PASSED
    assert order(watched([first], [second])) is Result.FAILED
    assert order(watched([first, first])) is Result.FAILED


def test_a_version_that_was_skipped() -> None:
    assert order(one_by_one([A2, A4._replace(version=3)])) is Result.FAILED


def test_a_header_behind_its_events() -> None:
    behind = Watched("w1", [Batch(0.0, "m1", 1, (A2,))])
    assert order(behind) is Result.FAILED


def test_watchers_agree_to_the_end() -> None:
    def agreement(*each: Watched, end: int = 6) -> Result:
        return watching.check_agreement("test", each, end).result

    assert agreement(one_by_one(STORY), watched(STORY, name="w2")) is Result.PASSED
    assert agreement(one_by_one(STORY), one_by_one(STORY[:-1], name="w2")) is Result.FAILED
    assert agreement(one_by_one(STORY), one_by_one([A2, A4, A5, A6], name="w2")) is Result.FAILED
    assert agreement(one_by_one(STORY), one_by_one([A2, B3._replace(value="x"), A4, A5, A6])) is Result.FAILED
    later = Event(7, "a", "late", 2, 6, 6)
    assert agreement(one_by_one(STORY), one_by_one([*STORY, later])) is Result.PASSED
    assert agreement(one_by_one(STORY), end=0) is Result.UNDECIDED


WRITES = (
    write(0, 1, "v1", 2, key="a"),
    write(2, 3, "v2", 3, key="b"),
    write(4, 5, "v3", 4, key="a"),
    delete(6, 7, "v3", 4, 5, key="a"),
    write(8, 9, "v4", 6, key="a"),
)
PAST = (
    Past(2, {"a": "v1"}, frozenset()),
    Past(3, {"b": "v2"}, frozenset()),
    Past(4, {"a": "v3"}, frozenset()),
    Past(5, {}, frozenset({"a"})),
    Past(6, {"a": "v4"}, frozenset()),
)


def truth(events: Sequence[Event] = STORY, writes=WRITES, past=PAST) -> Result:  # type: ignore[no-untyped-def]
    return watching.check_truth("test", [one_by_one(events)], writes, past).result


def test_events_are_what_was_written_and_what_the_past_holds() -> None:
    assert truth() is Result.PASSED


def test_an_acknowledged_write_that_nobody_saw() -> None:
    assert truth(STORY[:-1], past=PAST[:-1]) is Result.FAILED


def test_an_event_that_nobody_wrote() -> None:
    assert truth(writes=WRITES[:-1]) is Result.FAILED
    assert truth(writes=(*WRITES[:-1], failed(WRITES[-1]))) is Result.FAILED
    assert truth(writes=(*WRITES[:-1], unknown(WRITES[-1]))) is Result.PASSED


def test_one_write_seen_at_two_revisions() -> None:
    again = Event(7, "a", "v4", 2, 6, 6)
    assert truth((*STORY, again), past=(*PAST, Past(7, {"a": "v4"}, frozenset()))) is Result.FAILED


@pytest.mark.parametrize(
    "other",
    [
        Past(4, {"a": "else"}, frozenset()),
        Past(4, {}, frozenset()),
        Past(4, {"a": "v3", "b": "v9"}, frozenset()),
        Past(5, {}, frozenset()),
    ],
)
def test_a_past_that_differs_from_what_was_watched(other: Past) -> None:
    assert truth(past=[each if each.revision != other.revision else other for each in PAST]) is Result.FAILED


def test_a_revision_that_was_not_read_back_is_a_failure() -> None:
    assert truth(past=PAST[:-1]) is Result.FAILED


def test_a_transaction_is_one_write_of_several_keys() -> None:
    events = (Event(2, "a", "v", 1, 2, 0), Event(2, "b", "v", 1, 2, 0))
    past = [Past(2, {"a": "v", "b": "v"}, frozenset())]
    assert truth(events, [write(0, 1, "v", 2, key="a b")], past) is Result.PASSED
    assert truth(events[:1], [write(0, 1, "v", 2, key="a b")], past) is Result.FAILED
