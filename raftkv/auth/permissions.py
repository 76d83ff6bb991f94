"""Intervals of keys that a user may read or write, joined so that one look tells (AU-70 to AU-72).

Pure: from the permissions of roles to two unions of intervals. Knows neither users nor tables.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from raftkv.pb import auth_pb2

TO_THE_END: Final = b"\x00"
"""As a range_end: every key from the given one on."""
_INFINITY: Final = b""
"""As the end of an interval here. Never a true end: no key sorts before the empty one."""

_READERS: Final = frozenset({auth_pb2.Permission.READ, auth_pb2.Permission.READWRITE})
_WRITERS: Final = frozenset({auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE})


def is_interval(key: bytes, range_end: bytes) -> bool:
    """Whether a permission can be given on it: it has at least one key (AU-32)."""
    return bool(key) and (not range_end or range_end == TO_THE_END or key < range_end)


class KeyRanges:
    """A union of intervals: those that overlap or adjoin are one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, intervals: Iterable[tuple[bytes, bytes]]) -> None:
        """From (key, range_end) as requests have them."""
        self._starts: list[bytes] = []
        """Ascending."""
        self._ends: list[bytes] = []
        """The first key after each interval, or _INFINITY."""
        for start, end in sorted((key, _end(key, range_end)) for key, range_end in intervals):
            self._append(start, end)

    def _append(self, start: bytes, end: bytes) -> None:
        """The next by start."""
        if not self._starts or _ends_before(self._ends[-1], start):
            self._starts.append(start)
            self._ends.append(end)
        elif self._ends[-1] != _INFINITY and (end == _INFINITY or end > self._ends[-1]):
            self._ends[-1] = end

    def cover(self, key: bytes, range_end: bytes) -> bool:
        """Whether all keys of a request lie within; (key, range_end) as requests have them (AU-70, AU-71).

        Of an interval without keys, its end not after its key, the key must: whether etcd grants it depends on how its
        tree of grants is balanced.
        """
        at = bisect_right(self._starts, key) - 1
        if at < 0:
            return False
        end = self._ends[at]
        if end == _INFINITY:
            return True
        return key < end and range_end <= end and range_end != TO_THE_END


class Rights(NamedTuple):
    """What one user may do."""

    is_root: bool
    """Holds the role root: may do everything (AU-04, AU-75)."""
    read: KeyRanges
    write: KeyRanges


def merge_rights(is_root: bool, permissions: Iterable[auth_pb2.Permission]) -> Rights:
    """From the permissions of all roles of a user."""
    granted = list(permissions)
    return Rights(is_root, _ranges(granted, _READERS), _ranges(granted, _WRITERS))


def _ranges(permissions: Iterable[auth_pb2.Permission], types: frozenset[int]) -> KeyRanges:
    return KeyRanges((each.key, each.range_end) for each in permissions if each.permType in types)


def _end(key: bytes, range_end: bytes) -> bytes:
    if not range_end:
        return key + b"\x00"
    return _INFINITY if range_end == TO_THE_END else range_end


def _ends_before(end: bytes, start: bytes) -> bool:
    """A gap lies between."""
    return end != _INFINITY and end < start
