"""The rolling hash of the applied state: what makes a replica that differs notice it.

After every entry a member has mixed in what the entry did: the events it produced, the results it gave, the revision
it led to. Members that applied the same entries to the same state have the same hash; from the first entry on whose
effect differed, they differ. They compare what they remember (`RecentHashes`), which tells where it began.

Owns the arithmetic and the memory of recent hashes. Nothing that is a member's own goes in: neither clocks, nor how
entries were cut into batches and commits, nor how far compaction has got. What goes in, and how, is a format shared by
all members: to change it, or a result's bytes, or a refusal's name, makes members of two versions call each other
corrupt.

Knows neither the log nor the peers. It guards against mistakes and broken hardware, not against a forger: bulk goes
through a CRC, so that a put costs some 0.2 µs, and one digest per entry mixes.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from google_crc32c import extend
from google_crc32c import value as crc32c

if TYPE_CHECKING:
    from raftkv.mvcc.watch import RevisionEvents

_MIX: Final = Struct(">QQQQII")
_HASH_BYTES: Final = 8
_REFUSED: Final = (1 << 64) - 1
"""Stands where a refusal has no revision."""

RECENT_HASHES: Final = 16_384
"""Entries that a member remembers the hash after: 128 KiB, and ten seconds or more at full load."""

Hashes: TypeAlias = "tuple[int, Sequence[int]]"
"""(index of the first, the hash after it and after each following entry)."""


def mix(
    previous: int,
    index: int,
    term: int,
    revision: int,
    events: Sequence[RevisionEvents],
    results: Sequence[tuple[int, bytes] | Exception],
) -> int:
    """The hash after an entry, from the one before it: 64 bits.

    `revision` is the store's after the entry; `events` are the entry's own.
    """
    # An event is a protobuf message that tells its own length, so that a run of them can be read in one way only.
    events_crc = crc32c(b"".join([change[1] for _, changes in events for change in changes]))
    mixed = _MIX.pack(previous, index, term, revision, events_crc, _results_crc(results))
    return int.from_bytes(blake2b(mixed, digest_size=_HASH_BYTES).digest(), "big")


def _results_crc(results: Sequence[tuple[int, bytes] | Exception]) -> int:
    try:
        revisions = [result[0] for result in results]  # type: ignore[index]
    except TypeError:  # a refusal is no pair
        return _results_crc([_told(result) for result in results])
    crc: int = crc32c(_packed(revisions))
    bodies = [result[1] for result in results]  # type: ignore[index]
    body = b"".join(bodies)
    if body:  # most requests have none to tell apart
        crc = extend(extend(crc, _packed(map(len, bodies))), body)
    return crc


def _told(result: tuple[int, bytes] | Exception) -> tuple[int, bytes]:
    """A refusal's text may name what is local; its type may not."""
    return (_REFUSED, type(result).__name__.encode()) if isinstance(result, Exception) else result


def _packed(numbers: Iterable[int]) -> bytes:
    """Eight bytes each, little endian on every machine. struct would compile a format for each new count."""
    packed = array("Q", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


class RecentHashes:
    """The hashes after the last entries applied, for comparing with another member's. Bounded: a ring."""

    __slots__ = ("_capacity", "_count", "_last", "_ring")

    def __init__(self, capacity: int = RECENT_HASHES) -> None:
        self._capacity = capacity
        self._ring = array("Q", bytes(8 * capacity))
        """The hash after entry i is at i modulo the capacity."""
        self._last = 0
        self._count = 0

    def clear(self) -> None:
        self._count = 0

    def note(self, index: int, state_hash: int) -> None:
        """Entries are noted in order, each once; only after `clear` may there be a gap."""
        assert not self._count or index == self._last + 1, "a hash was left out"
        self._ring[index % self._capacity] = state_hash
        self._last = index
        if self._count < self._capacity:
            self._count += 1

    def span(self) -> tuple[int, int]:
        """(first, last) index remembered; (0, 0) for none."""
        return (self._last - self._count + 1, self._last) if self._count else (0, 0)

    def at(self, index: int) -> int | None:
        """The hash after that entry; None when it is forgotten, or not applied yet."""
        return self._ring[index % self._capacity] if self._last - self._count < index <= self._last else None

    def between(self, first: int, last: int) -> tuple[int, list[int]]:
        """What is remembered of [first, last]: (index of the first, the hashes); (0, []) for nothing."""
        oldest, newest = self.span()
        first, last = max(first, oldest), min(last, newest)
        if first > last or not self._count:
            return 0, []
        ring, capacity = self._ring, self._capacity
        return first, [ring[index % capacity] for index in range(first, last + 1)]


def first_difference(ours: Hashes, theirs: Hashes) -> int | None:
    """The first index after which two members' hashes differ; None when they agree on all they have in common.

    Hashes roll: after the index found all differ, and if it is the first that both remember, the members may have
    parted earlier.
    """
    first = max(ours[0], theirs[0])
    pairs = zip(ours[1][first - ours[0] :], theirs[1][first - theirs[0] :], strict=False)
    return next((first + at for at, (own, other) in enumerate(pairs) if own != other), None)
