"""The budget of bytes in flight: who waits, who goes first, who is given up, and that nothing is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from raftkv.server.errors import TooManyRequests
from raftkv.server.list_budget import MAX_WAITING, MIN_PROGRESS_BYTES, STALLED_S, ListBudget, Share


class Told:
    """Remembers which shares heard that there is room, and which clients were given up."""

    def __init__(self) -> None:
        self.rooms: list[str] = []
        self.cuts: list[str] = []

    def ask(self, budget: ListBudget, name: str, size_bytes: int) -> Share:
        share = budget.ask(size_bytes)
        share.on_room = lambda: self.rooms.append(name)
        return share

    def send(self, share: Share, name: str, size_bytes: int) -> None:
        share.sends(size_bytes, lambda: self.cuts.append(name))


@pytest.fixture
def told() -> Told:
    return Told()


def test_what_fits_is_let_in_at_once_and_the_rest_waits_in_its_order(told: Told) -> None:
    budget = ListBudget(100)
    first, second = told.ask(budget, "first", 60), told.ask(budget, "second", 60)
    third = told.ask(budget, "third", 10)
    assert (first.granted, second.granted, third.granted) == (True, False, False), "a small one does not overtake"
    assert (budget.in_flight_bytes, budget.waiting) == (60, 2)
    first.release(19)
    assert told.rooms == []
    first.release(1)
    assert told.rooms == ["second"]
    assert second.granted
    second.close()
    assert told.rooms == ["second", "third"]
    first.close()
    third.close()
    assert (budget.in_flight_bytes, budget.waiting) == (0, 0)


def test_one_that_is_larger_than_the_budget_is_let_in_alone(told: Told) -> None:
    budget = ListBudget(100)
    small = told.ask(budget, "small", 1)
    large = told.ask(budget, "large", 500)
    assert not large.granted
    small.close()
    assert (large.granted, told.rooms, budget.in_flight_bytes) == (True, ["large"], 500)
    assert not told.ask(budget, "next", 1).granted


def test_the_oldest_may_grow_beyond_the_limit_and_no_other(told: Told) -> None:
    budget = ListBudget(100)
    old, young = told.ask(budget, "old", 50), told.ask(budget, "young", 50)
    assert not young.grow_to(51)
    assert old.grow_to(80)
    assert old.grow_to(200)
    assert (budget.in_flight_bytes, budget.waiting) == (250, 1)
    old.close()
    assert (told.rooms, young.held_bytes, budget.waiting) == (["young"], 51, 0)
    young.close()
    assert budget.in_flight_bytes == 0


def test_who_has_begun_goes_before_who_waits(told: Told) -> None:
    budget = ListBudget(100)
    old, young = told.ask(budget, "old", 50), told.ask(budget, "young", 40)
    told.ask(budget, "waits", 20)
    assert not young.grow_to(60)
    old.release(10)
    assert told.rooms == ["young"]
    old.close()
    assert told.rooms == ["young", "waits"]


def test_the_estimate_is_set_right_when_the_size_is_known(told: Told) -> None:
    budget = ListBudget(100)
    share = told.ask(budget, "share", 90)
    told.ask(budget, "waits", 50)
    told.send(share, "share", 40)
    assert (budget.in_flight_bytes, told.rooms) == (90, ["waits"])
    told.send(share, "share", 70)
    assert budget.in_flight_bytes == 120, "what is there counts, though it is more than was asked for"


def test_what_is_there_already_counts_and_goes_first(told: Told) -> None:
    budget = ListBudget(100)
    told.ask(budget, "first", 100)
    told.ask(budget, "waits", 1)
    there = budget.count(50)
    assert (there.granted, budget.in_flight_bytes) == (True, 150)
    there.release(99)
    there.release(99)
    there.close()
    assert budget.in_flight_bytes == 100


def test_nobody_waits_without_a_limit(told: Told) -> None:
    budget = ListBudget(0)
    shares = [told.ask(budget, "", 1 << 40) for _ in range(3)]
    assert all(share.granted and share.grow_to(1 << 50) for share in shares)
    assert (budget.in_flight_bytes, budget.waiting) == (3 << 50, 0)


def test_a_full_line_refuses() -> None:
    budget = ListBudget(100)
    first = budget.ask(100)
    waiting = [budget.ask(100) for _ in range(MAX_WAITING)]
    with pytest.raises(TooManyRequests):
        budget.ask(100)
    assert (budget.refused, budget.waiting) == (1, MAX_WAITING)
    waiting[500].close()
    assert not budget.ask(1).granted, "there is a place in the line again"
    for share in [first, *waiting]:
        share.close()
    assert budget.in_flight_bytes == 1


def test_who_gives_up_in_the_line_is_not_waited_for(told: Told) -> None:
    budget = ListBudget(100)
    first = told.ask(budget, "first", 60)
    told.ask(budget, "second", 90).close()
    assert told.ask(budget, "third", 40).granted
    first.close()
    assert told.rooms == []


def test_a_client_that_takes_nothing_is_given_up_while_others_wait(told: Told) -> None:
    size = 4 * MIN_PROGRESS_BYTES
    budget = ListBudget(3 * size)
    stuck, slow, made = (told.ask(budget, name, size) for name in ("stuck", "slow", "made"))
    told.send(stuck, "stuck", size)
    told.send(slow, "slow", size)
    assert made.granted
    budget.on_tick(0.0)
    slow.release(MIN_PROGRESS_BYTES)
    budget.on_tick(STALLED_S)
    assert told.cuts == [], "nobody waits"
    told.ask(budget, "waits", size)
    budget.on_tick(STALLED_S + 0.5)
    assert told.cuts == [], "looked at a moment ago"
    budget.on_tick(STALLED_S + 1)
    assert told.cuts == ["stuck"], "and not who makes progress, nor what is still being made"
    budget.on_tick(2 * STALLED_S - 1)
    assert told.cuts == ["stuck"]
    budget.on_tick(2 * STALLED_S + 1)
    assert sorted(told.cuts) == ["slow", "stuck", "stuck"]
    assert budget.cut_off == 3


class Model(RuleBasedStateMachine):
    """Any order of everything that may happen to replies."""

    LIMIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.budget = ListBudget(self.LIMIT)
        self.line: list[Share] = []
        """Who waits to begin, in the order of asking."""
        self.open: list[Share] = []
        self.counted: set[Share] = set()

    shares = Bundle("shares")

    @rule(target=shares, size=st.integers(1, 150))
    def ask(self, size: int) -> Share:
        share = self.budget.ask(size)
        share.on_room = lambda: self.on_room(share)
        if not share.granted:
            self.line.append(share)
        self.open.append(share)
        return share

    def on_room(self, share: Share) -> None:
        if share in self.line:
            assert self.line[0] is share, "not first in the line"
            self.line.remove(share)

    @rule(target=shares, size=st.integers(1, 50))
    def count(self, size: int) -> Share:
        share = self.budget.count(size)
        self.open.append(share)
        self.counted.add(share)
        return share

    @rule(share=shares, more=st.integers(1, 60))
    def grow(self, share: Share, more: int) -> None:
        if share.granted and share.cut_off is None and share not in self.counted and share.held_bytes:
            share.grow_to(share.held_bytes + more)

    @rule(share=shares, less=st.integers(0, 30))
    def send(self, share: Share, less: int) -> None:
        if share.granted and share.cut_off is None and share.held_bytes > less and not share.wanted_bytes:
            share.sends(share.held_bytes - less, lambda: None)

    @rule(share=shares, size=st.integers(1, 80))
    def release(self, share: Share, size: int) -> None:
        if share.cut_off is not None:
            share.release(size)

    @rule(share=consumes(shares))
    def end(self, share: Share) -> None:
        self.close(share)

    def close(self, share: Share) -> None:
        if share in self.line:
            self.line.remove(share)
        share.close()
        self.open.remove(share)

    @invariant()
    def what_is_in_flight_is_what_is_held(self) -> None:
        assert self.budget.in_flight_bytes == sum(share.held_bytes for share in self.open if share.granted)
        growing = sum(share.wanted_bytes > 0 for share in self.open)
        assert self.budget.waiting == len(self.line) + growing

    @invariant()
    def only_the_oldest_exceeds_the_limit(self) -> None:
        asked = [share for share in self.open if share.granted and share.held_bytes and share not in self.counted]
        largest = max((share.held_bytes for share in asked), default=0)
        counted = sum(share.held_bytes for share in self.counted & set(self.open))
        assert self.budget.in_flight_bytes <= self.LIMIT + largest + counted

    @invariant()
    def somebody_can_go_on(self) -> None:
        if self.budget.waiting:
            held = [share for share in self.open if share.granted and share.held_bytes]
            assert held, "all wait for nobody"
            assert any(not share.wanted_bytes for share in held), "all that have begun wait for each other"

    def teardown(self) -> None:
        for share in list(self.open):
            self.close(share)
        assert (self.budget.in_flight_bytes, self.budget.waiting) == (0, 0)


Model.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase
