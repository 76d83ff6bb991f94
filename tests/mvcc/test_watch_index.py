"""Which ranges hold a key: the index against a look at every range."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raftkv.mvcc import watch_index
from raftkv.mvcc.watch_index import (
    EVERYTHING,
    Interval,
    RangeIndex,
    WatchRangeEmptyError,
    prefix_end,
    watch_interval,
)
from raftkv.mvcc.watch_intervals import IntervalTree

KEYS = st.text(alphabet="\x00a\xff", min_size=1, max_size=4).map(lambda text: text.encode("latin-1"))


def holds(interval: Interval, key: bytes) -> bool:
    lo, hi = interval
    return lo <= key and (hi is None or key < hi)


@pytest.mark.parametrize(
    ("key", "range_end", "interval"),
    [
        (b"k", b"", (b"k", b"k\x00")),
        (b"k", b"\x00", (b"k", None)),
        (b"\x00", b"\x00", EVERYTHING),
        (b"k", b"m", (b"k", b"m")),
        (b"", b"", (b"\x00", b"\x00\x00")),
        (b"", b"\x00", EVERYTHING),
        (b"", b"m", (b"\x00", b"m")),
        (b"k", b"k\x00", (b"k", b"k\x00")),
    ],
)
def test_range_of_a_request_w03_w04(key: bytes, range_end: bytes, interval: Interval) -> None:
    assert watch_interval(key, range_end) == interval


@pytest.mark.parametrize(("key", "range_end"), [(b"k", b"k"), (b"m", b"k"), (b"k\x00", b"k")])
def test_range_without_keys_is_refused_w20(key: bytes, range_end: bytes) -> None:
    with pytest.raises(WatchRangeEmptyError):
        watch_interval(key, range_end)


@given(KEYS, KEYS)
def test_prefix_end_bounds_exactly_the_prefix(prefix: bytes, key: bytes) -> None:
    assert holds((prefix, prefix_end(prefix)), key) == key.startswith(prefix)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    key = draw(KEYS)
    shape = draw(st.sampled_from(["single", "prefix", "tail", "span", "everything"]))
    if shape == "single":
        return key, key + b"\x00"
    if shape == "prefix":
        return key, prefix_end(key)
    if shape == "tail":
        return key, None
    if shape == "everything":
        return EVERYTHING
    other = draw(KEYS.filter(lambda other: other != key))
    return min(key, other), max(key, other)


class IndexBesideList(RuleBasedStateMachine):
    """`match` returns what a look at every filed range returns, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(watch_index, "MAX_PREFIX_LENGTHS", 2)
        self.index: RangeIndex[Interval] = RangeIndex()
        self.filed: list[Interval] = []

    def teardown(self) -> None:
        self.patch.undo()

    @rule(interval=intervals())
    def add(self, interval: Interval) -> None:
        if interval in self.filed:
            assert self.index.get(interval) == interval
        else:
            self.index.add(interval, interval)
            self.filed.append(interval)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.filed:
            interval = data.draw(st.sampled_from(self.filed))
            self.index.remove(interval)
            self.filed.remove(interval)
            assert self.index.get(interval) is None

    @rule(key=KEYS)
    def match(self, key: bytes) -> None:
        found = self.index.match(key)
        assert sorted(found, key=repr) == sorted(
            (interval for interval in self.filed if holds(interval, key)), key=repr
        )

    @invariant()
    def same_ranges(self) -> None:
        assert self.index.items() == self.filed
        assert len(self.index) == len(self.filed)
        self.index._spans.check()


TestIndexBesideList = IndexBesideList.TestCase
TestIndexBesideList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), unique=True, max_size=80), st.data())
@settings(max_examples=60, deadline=None)
def test_tree_stays_balanced_whatever_the_order(spans: list[tuple[int, int]], data: st.DataObject) -> None:
    tree: IntervalTree[int] = IntervalTree()
    named = [(bytes((lo,)), bytes((lo + size,))) for lo, size in spans]
    for number, (lo, hi) in enumerate(named):
        tree.add(lo, hi, number)
        tree.check()
    for lo, hi in data.draw(st.permutations(named)):
        tree.remove(lo, hi)
        tree.check()
    assert not tree


def test_ten_thousand_ranges_elsewhere_are_not_looked_at() -> None:
    """Counts comparisons with range bounds, not time."""

    class CountedKey(bytes):
        looks = 0

        def __lt__(self, other: bytes) -> bool:
            CountedKey.looks += 1
            return bytes(self) < other

        def __ge__(self, other: bytes) -> bool:
            CountedKey.looks += 1
            return bytes(self) >= other

    index: RangeIndex[int] = RangeIndex()
    for number in range(10_000):
        name = b"%06d" % number
        index.add((name, name + b"m"), number)
    assert index.match(CountedKey(b"004711a")) == [4711]
    assert CountedKey.looks < 100
