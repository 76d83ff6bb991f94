"""What all families share: few keys, so that operations meet each other; revisions of every kind; odd intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from differ.ops import GrantedLease, Rev

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]

LONG: Final = b"k" * 600
COMMON_KEYS: Final = (b"a", b"b", b"c", b"ab", b"b/1", b"b/2")
ODD_KEYS: Final = (
    b"\x00",
    b"\x00\x00",
    b"a\x00",
    b"a\xff",
    b"b\xff\xff",
    b"\xff",
    b"\xff\xff",
    b"\xfe",
    LONG,
    LONG + b"\x00",
    LONG[:511],
    LONG[:512],
    LONG[:510] + b"\xff",
)
ODD_ENDS: Final = (b"\x00", b"\x00", b"\x00", b"\xff", b"a\x00", b"b0", b"c", b"l", b"z", b"b/\xff", LONG + b"\x01")
LEASES: Final = (101, 102, 103, -5, 0x7FFFFFFFFFFFFFF1)
BIG: Final = 2**62

_keys = st.sampled_from(COMMON_KEYS * 4 + ODD_KEYS)
_ends = st.sampled_from(COMMON_KEYS + ODD_KEYS[:8] + ODD_ENDS)
_values = st.sampled_from((b"", b"v", b"w", b"v\x00", b"\xff\x00", b"some longer value", b"v"))
_leases = st.sampled_from(LEASES * 2 + (GrantedLease(0), GrantedLease(1), 0x4242))
_members = st.integers(0, 2)
_revisions = st.sampled_from(
    [Rev("now", offset) for offset in (0, 0, -1, -2, -3, -5, -8, -13, -21, 1, 2, 7)]
    + [Rev("compacted", offset) for offset in (-2, -1, 0, 1, 2)]
    + [Rev("start", offset) for offset in (-3, 0, 1, 3, 6, 10)]
    + [1, 2, 2, -1, BIG]
)
_dice = {sides: st.integers(0, sides - 1) for sides in range(2, 65)}


def chance(draw: Draw[Any], one_in: int) -> bool:
    return draw(_dice[one_in]) == 0


def key(draw: Draw[Any]) -> bytes:
    """Now and then there is none."""
    return b"" if chance(draw, 40) else draw(_keys)


def good_key(draw: Draw[Any]) -> bytes:
    return draw(_keys)


def value(draw: Draw[Any]) -> bytes:
    return draw(_values)


def lease(draw: Draw[Any]) -> Any:
    return draw(_leases)


def member(draw: Draw[Any]) -> int:
    return draw(_members)


def revision(draw: Draw[Any]) -> Any:
    return draw(_revisions)


def interval(draw: Draw[Any], single_one_in: int = 3) -> dict[str, Any]:
    """key and range_end: single keys, prefixes, open ends, everything, and what is empty or the wrong way round."""
    kind = draw(_dice[8])
    if kind < 8 // single_one_in:
        return {"key": key(draw)}
    if kind == 7:
        return {"key": b"\0", "range_end": b"\0"}
    if kind == 6:
        prefix = draw(_keys)
        kept = prefix.rstrip(b"\xff")
        return {"key": prefix, "range_end": kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"}
    return {"key": key(draw), "range_end": draw(_ends)}


def some(draw: Draw[Any], values: Sequence[Any], most: int) -> list[Any]:
    strategy = st.sampled_from(values)
    return [draw(strategy) for _ in range(draw(_dice[most + 1]))]
