"""Unions of intervals against sets of keys: AU-70 and AU-71 over an alphabet small enough to write all keys down."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.auth.permissions import KeyRanges, is_interval

LETTERS = (b"\x00", b"a", b"b", b"\xff")
KEYS = sorted(b"".join(letters) for size in range(1, 4) for letters in product(LETTERS, repeat=size))
"""All keys there are. Between two neighbours there are others in truth: `GAPS` stand for them."""
BEYOND = b"\xff\xff\xff\xff"
"""Stands for whatever comes after them."""
GAPS = sorted({*KEYS, *(key + b"\x00" for key in KEYS), *(key + b"\x00\x01" for key in KEYS), BEYOND})

short_keys = st.sampled_from([key for key in KEYS if len(key) < 3])
ends = st.one_of(st.just(b""), st.just(b"\x00"), short_keys)
grants = st.lists(st.tuples(short_keys, ends).filter(lambda each: is_interval(*each)), max_size=8)


def keys_in(key: bytes, range_end: bytes) -> frozenset[bytes]:
    """Interval rules of contract 2.2."""
    if not range_end:
        return frozenset([key])
    if range_end == b"\x00":
        return frozenset(each for each in GAPS if each >= key)
    return frozenset(each for each in GAPS if key <= each < range_end)


@given(grants, short_keys, ends)
def test_covered_is_what_every_key_of_is_granted_au70_au71(
    granted: list[tuple[bytes, bytes]], key: bytes, range_end: bytes
) -> None:
    wanted = keys_in(key, range_end) or {key}  # an interval without keys is as its key
    held = frozenset().union(*(keys_in(*each) for each in granted))
    assert KeyRanges(granted).cover(key, range_end) == (wanted <= held)


@given(grants, st.randoms(use_true_random=False), short_keys, ends)
def test_the_order_and_repetition_of_grants_do_not_show(
    granted: list[tuple[bytes, bytes]], random: Random, key: bytes, range_end: bytes
) -> None:
    shuffled = granted * 2
    random.shuffle(shuffled)
    assert KeyRanges(shuffled).cover(key, range_end) == KeyRanges(granted).cover(key, range_end)


@pytest.mark.parametrize(
    ("granted", "asked", "expected"),
    [
        ([(b"a", b"b"), (b"b", b"c")], (b"a", b"c"), True),
        ([(b"a", b"b"), (b"b\x00", b"c")], (b"a", b"c"), False),
        ([(b"a", b"b"), (b"b", b""), (b"b\x00", b"c")], (b"a", b"c"), True),
        ([(b"a", b"z"), (b"b", b"c")], (b"a", b"z"), True),
        ([(b"k", b"")], (b"k", b""), True),
        ([(b"k", b"")], (b"k", b"k\x00"), True),
        ([(b"k", b"")], (b"k", b"k\x01"), False),
        ([(b"k", b"\x00")], (b"k", b"\x00"), True),
        ([(b"k", b"\x00")], (b"j", b"\x00"), False),
        ([(b"a", b"\xff\xff")], (b"a", b"\x00"), False),
        ([(b"a", b"c"), (b"b", b"\x00")], (b"a", b"\x00"), True),
        ([(b"\x00", b"\x00")], (b"\x00", b"\x00"), True),
        ([(b"\x00", b"\x00")], (b"anything", b""), True),
        ([], (b"k", b""), False),
        ([(b"k", b"m")], (b"k", b"a"), True),
        ([(b"k", b"m")], (b"m", b"m"), False),
    ],
)
def test_examples_au70_au71(granted: list[tuple[bytes, bytes]], asked: tuple[bytes, bytes], expected: bool) -> None:
    assert KeyRanges(granted).cover(*asked) is expected
