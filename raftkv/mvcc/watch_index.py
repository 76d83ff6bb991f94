"""Which ranges of keys hold this key: the look-up that every event goes through.

Owns the rules of a watch's range (contract 2.2, W-03, W-20) and one index for each shape a range can have: a
single key and a prefix, as nearly all are, cost a dict look-up each (prefixes: one per distinct length); an
interval costs O(log n). The cost of an event hangs on how many ranges it matches, not on how many there are.
Knows nothing of watchers, revisions or events.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, Generic, TypeAlias, TypeVar

from raftkv.mvcc.errors import MvccError
from raftkv.mvcc.watch_intervals import IntervalTree

T = TypeVar("T")

Interval: TypeAlias = "tuple[bytes, bytes | None]"
"""(lo, hi): the keys lo <= key < hi; None stands above every key. One set of keys has one Interval."""

EVERYTHING: Final[Interval] = (b"", None)

MAX_PREFIX_LENGTHS: Final = 64
"""Distinct lengths that may have a dict of their own. Prefixes of further lengths are filed as intervals, so
that a client that watches prefixes of a thousand lengths does not make every event pay for a thousand
slices."""


class WatchRangeEmptyError(MvccError):
    """key >= range_end: no key can ever match (W-20)."""


def watch_interval(key: bytes, range_end: bytes) -> Interval:
    """Interval that a watch request means. Raises WatchRangeEmptyError (W-20)."""
    lo = key or b"\x00"  # W-03
    if not range_end:
        return lo, lo + b"\x00"
    if range_end == b"\x00":
        return EVERYTHING if lo == b"\x00" else (lo, None)
    if lo >= range_end:
        raise WatchRangeEmptyError(f"no key lies from {lo!r} up to {range_end!r}")
    return lo, range_end


def prefix_end(prefix: bytes) -> bytes | None:
    """First key after all keys with this prefix; None when there is none (b"" and runs of 0xff)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


class RangeIndex(Generic[T]):
    """Items filed under distinct Intervals.

    `match` returns them in an order that hangs only on the sequence of calls made before, so that every run
    of the same calls delivers in the same order.
    """

    __slots__ = ("_by_length", "_items", "_prefixes", "_single", "_spans", "_tail_items", "_tails")

    def __init__(self) -> None:
        self._items: dict[Interval, T] = {}
        self._single: dict[bytes, T] = {}
        """key -> item of the range that holds just this key."""
        self._prefixes: dict[int, dict[bytes, T]] = {}
        """length -> prefix -> item. No inner dict is empty; at most MAX_PREFIX_LENGTHS of them."""
        self._by_length: list[tuple[int, dict[bytes, T]]] = []
        """The same dicts by ascending length."""
        self._tails: list[bytes] = []
        """Sorted `lo` of the ranges without an end; `_tail_items` stand at the same places."""
        self._tail_items: list[T] = []
        self._spans: IntervalTree[T] = IntervalTree()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, interval: Interval) -> T | None:
        """What is filed under exactly this interval."""
        return self._items.get(interval)

    def items(self) -> list[T]:
        """Everything filed, oldest first."""
        return list(self._items.values())

    def match(self, key: bytes) -> list[T]:
        """Items of all ranges that hold `key`."""
        found: list[T] = []
        item = self._single.get(key)
        if item is not None:
            found.append(item)
        for length, table in self._by_length:
            item = table.get(key[:length])  # a key shorter than `length` is not in a table of that length
            if item is not None:
                found.append(item)
        if self._tails:
            found += self._tail_items[: bisect_right(self._tails, key)]
        if self._spans:
            self._spans.find(key, found)
        return found

    def add(self, interval: Interval, item: T) -> None:
        """File `item`. The interval must not be taken."""
        assert interval not in self._items, "the range is taken"
        self._items[interval] = item
        lo, hi = interval
        if hi == lo + b"\x00":
            self._single[lo] = item
        elif hi == prefix_end(lo) and self._has_room_for_length(len(lo)):
            self._add_prefix(lo, item)
        elif hi is None:
            at = bisect_left(self._tails, lo)
            self._tails.insert(at, lo)
            self._tail_items.insert(at, item)
        else:
            self._spans.add(lo, hi, item)

    def remove(self, interval: Interval) -> None:
        """Take out what is filed under exactly this interval; it must be there."""
        del self._items[interval]
        lo, hi = interval
        if hi == lo + b"\x00":
            del self._single[lo]
        elif hi == prefix_end(lo) and lo in self._prefixes.get(len(lo), ()):
            self._remove_prefix(lo)
        elif hi is None:
            at = bisect_left(self._tails, lo)
            del self._tails[at], self._tail_items[at]
        else:
            self._spans.remove(lo, hi)

    def _has_room_for_length(self, length: int) -> bool:
        return length in self._prefixes or len(self._prefixes) < MAX_PREFIX_LENGTHS

    def _add_prefix(self, prefix: bytes, item: T) -> None:
        table = self._prefixes.get(len(prefix))
        if table is None:
            table = self._prefixes[len(prefix)] = {}
            self._by_length = sorted(self._prefixes.items())
        table[prefix] = item

    def _remove_prefix(self, prefix: bytes) -> None:
        table = self._prefixes[len(prefix)]
        del table[prefix]
        if not table:
            del self._prefixes[len(prefix)]
            self._by_length = sorted(self._prefixes.items())
