"""Is there an order in which these calls could have happened one after the other?

The search of Wing and Gong (1993) with Lowe's memory of configurations already seen (2017): walk the calls and returns
in order of time; a call whose answer fits the present state may be taken next; if none fits before the earliest return
of a call not taken, some earlier choice was wrong. A configuration is (set of calls taken, state); a configuration seen
before is not entered again.

A call that never returned may be taken at any time after it was made, or never. Knows no keys and no clients: what a
call does to a state is the caller's function. Pure, but for the clock that bounds it.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from time import monotonic
from typing import Final, Generic, NamedTuple, TypeVar

A = TypeVar("A")
S = TypeVar("S", bound=Hashable)

_CLOCK_EVERY: Final = 2048
"""Steps between two looks at the clock: about a millisecond."""


class Interval(NamedTuple, Generic[A]):
    """A call: it took effect, if ever, at one moment between these two, ends included. inf: it never returned."""

    called: float
    returned: float
    action: A


class Order(Enum):
    """What the search found."""

    EXISTS = "exists"
    IMPOSSIBLE = "impossible"
    UNDECIDED = "undecided"


Step = Callable[[S, A], S | None]
"""The state after the action, or None if the action cannot be answered so in this state."""


def search(intervals: Sequence[Interval[A]], initial: S, step: Step[S, A], give_up_at: float = math.inf) -> Order:
    """Look for an order; `give_up_at` is a time of time.monotonic."""
    path = _Path(intervals)
    state = initial
    taken = 0
    left = sum(1 for interval in intervals if interval.returned < math.inf)
    seen: set[tuple[int, S]] = set()
    choices: list[tuple[int, S]] = []
    """Calls taken, in order, each with the state before it."""
    node = path.first()
    steps = 0
    while left:
        steps += 1
        if steps % _CLOCK_EVERY == 0 and monotonic() > give_up_at:
            return Order.UNDECIDED
        if node == NOTHING_FITS:
            # A call that has returned cannot be taken later: one of the choices before it was wrong.
            if not choices:
                return Order.IMPOSSIBLE
            node, state = choices.pop()
            taken &= ~(1 << path.call_at(node))
            left += path.put_back(node)
            node = path.after(node)
            continue
        call = path.call_at(node)
        after = step(state, intervals[call].action)
        # To take a call that may be left out gains nothing if the state stays: it can still be taken later.
        idle = after == state and intervals[call].returned == math.inf
        if after is None or idle or (taken | 1 << call, after) in seen:
            node = path.after(node)
            continue
        taken |= 1 << call
        seen.add((taken, after))
        choices.append((node, state))
        state = after
        left -= path.take(node)
        node = path.first()
    return Order.EXISTS


NOTHING_FITS: Final = 0
"""Instead of a node: all candidates have been tried."""


class _Path:
    """What may be taken next: the calls made before the earliest return among the calls not taken yet.

    Of these, calls that have returned come first, in order of time, because they have to be taken anyway; then those
    that never returned. Nodes are numbers from 1 in order of time. Those of the former kind form, with their returns,
    a doubly linked list from which a call and its return can be lifted out; 0 is before its first and after its last.
    """

    def __init__(self, intervals: Sequence[Interval[A]]) -> None:
        events: list[tuple[float, int, int]] = []
        for number, interval in enumerate(intervals):
            # Of events at one moment calls come first: intervals that touch overlap.
            events.append((interval.called, 0, number))
            if interval.returned < math.inf:
                events.append((interval.returned, 1, number))
        events.sort()
        count = len(events)
        self._call: list[int] = [0] * (count + 1)
        self._next: list[int] = [0] * (count + 1)
        self._before: list[int] = [0] * (count + 1)
        self._return_of: dict[int, int] = {}
        """Node of a call -> node of its return."""
        self._pending: list[int] = []
        """Calls that never returned and are not taken, in order of time."""
        opened: dict[int, int] = {}
        last = 0
        for node, (_, kind, number) in enumerate(events, start=1):
            self._call[node] = number
            if kind == 1:
                self._return_of[opened[number]] = node
            elif intervals[number].returned == math.inf:
                self._pending.append(node)
                continue
            else:
                opened[number] = node
            self._next[last], self._before[node] = node, last
            last = node
        self._next[last], self._before[0] = 0, last

    def call_at(self, node: int) -> int:
        """Index of the interval."""
        return self._call[node]

    def first(self) -> int:
        """The first candidate; there is one as long as a call that has returned is not taken."""
        return self._next[0]

    def after(self, node: int) -> int:
        """The candidate after this one, or NOTHING_FITS."""
        if node in self._return_of:
            following = self._next[node]
            if following in self._return_of:
                return following
            return self._pending_after(0, following)
        limit = self._next[0]
        while limit in self._return_of:
            limit = self._next[limit]
        return self._pending_after(node, limit)

    def _pending_after(self, node: int, limit: int) -> int:
        """The next pending call that was made before the return `limit`."""
        place = bisect_right(self._pending, node)
        if place < len(self._pending) and self._pending[place] < limit:
            return self._pending[place]
        return NOTHING_FITS

    def take(self, node: int) -> int:
        """Lift out this call, and its return if it has one. The number of returns lifted."""
        back = self._return_of.get(node)
        if back is None:
            self._pending.remove(node)
            return 0
        self._unlink(node)
        self._unlink(back)
        return 1

    def put_back(self, node: int) -> int:
        """Undo `take`; only in the reverse order. The number of returns put back."""
        back = self._return_of.get(node)
        if back is None:
            insort(self._pending, node)
            return 0
        self._link(back)
        self._link(node)
        return 1

    def _unlink(self, node: int) -> None:
        before, after = self._before[node], self._next[node]
        self._next[before] = after
        self._before[after] = before

    def _link(self, node: int) -> None:
        self._next[self._before[node]] = node
        self._before[self._next[node]] = node


def until(intervals: Sequence[Interval[A]], moment: float) -> list[tuple[int, Interval[A]]]:
    """What had been called by then, with its index; what had not returned yet may come to pass or not.

    If the whole has an order, so has every such beginning: the same order, cut to it.
    """
    return [
        (index, interval if interval.returned <= moment else interval._replace(returned=math.inf))
        for index, interval in enumerate(intervals)
        if interval.called <= moment
    ]


def first_failure(
    intervals: Sequence[Interval[A]], initial: S, step: Step[S, A], give_up_at: float = math.inf
) -> tuple[int, list[int]] | None:
    """Of intervals without an order: the call whose return first made one impossible, and all calls made by then.

    Both as indexes; None if time ran out.
    """
    returns = sorted((interval.returned, index) for index, interval in enumerate(intervals))
    returns = [(moment, index) for moment, index in returns if moment < math.inf]
    low, high = 0, len(returns) - 1
    while low < high:
        middle = (low + high) // 2
        beginning = [interval for _, interval in until(intervals, returns[middle][0])]
        order = search(beginning, initial, step, give_up_at)
        if order is Order.UNDECIDED:
            return None
        low, high = (low, middle) if order is Order.IMPOSSIBLE else (middle + 1, high)
    moment, culprit = returns[low]
    return culprit, [index for index, _ in until(intervals, moment)]
