"""What a range has found, in an order that is not that of the walk.

Owns sorting, and cutting to the limit (RNG-06, RNG-11 to RNG-14). What one slice of a scan finds is a *run*. Runs are
sorted one by one and merged as they are handed out, for to sort a million keys at once would stop the event loop for a
second; of a range with a limit no more is kept than may still be part of the answer. Frames are opaque here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final

LOOSE_FRAME_BYTES: Final = 150
"""What a frame costs beside its bytes while it is an object of its own, with its place in a list and what sorts it."""
MAX_BEST: Final = 10_000
"""Up to this limit only the best are kept, sorted anew after every slice: a millisecond or two."""

_value = itemgetter(0)


class SortedRuns:
    """By a value of each frame. Those of equal value stay in the order of the walk."""

    __slots__ = ("_descend", "_limit", "_run", "_runs", "found", "held_bytes", "kept", "most")

    def __init__(self, descend: bool, limit: int) -> None:
        self._descend = descend
        self._limit = limit
        self._run: list[tuple[bytes | int, bytes]] = []
        self._runs: list[list[tuple[bytes | int, bytes]]] = []
        self.found = 0
        """All that were added."""
        self.kept = 0
        self.most = limit if limit <= MAX_BEST else 0
        """How many are kept after a slice; 0: all."""
        self.held_bytes = 0
        """What is kept takes in memory."""

    def add(self, value: bytes | int, frame: bytes) -> None:
        self._run.append((value, frame))
        self.found += 1
        self.kept += 1
        self.held_bytes += _cost(value, frame)

    def end_run(self) -> None:
        """After each slice; what follows lies behind it in the walk."""
        run, self._run = self._run, []
        if self.most and self._runs:
            run[:0] = self._runs.pop()
        run.sort(key=_value, reverse=self._descend)
        if 0 < self.most < len(run):
            del run[self.most :]
            self.kept = len(run)
            self.held_bytes = sum(_cost(value, frame) for value, frame in run)
        if run:
            self._runs.append(run)

    def frames(self) -> Iterator[bytes]:
        """In order, up to the limit. Can be had once: each is let go as it is handed out."""
        self.end_run()
        merged = merge(*map(_drain, self._runs), key=_value, reverse=self._descend)
        return (frame for _, frame in islice(merged, self._limit or None))


class Backwards:
    """By descending key: the walk from its end. Of a range with a limit only what may be among the last is kept."""

    __slots__ = ("_limit", "_run", "_runs", "found", "held_bytes", "kept", "most")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._run: list[bytes] = []
        self._runs: deque[list[bytes]] = deque()
        self.found = 0
        self.kept = 0
        self.most = limit
        """About as many are kept after a slice; 0: all."""
        self.held_bytes = 0

    def add(self, value: bytes | int, frame: bytes) -> None:
        self._run.append(frame)
        self.found += 1
        self.kept += 1
        self.held_bytes += _cost(value, frame)

    def end_run(self) -> None:
        if not self._run:
            return
        self._runs.append(self._run)
        self._run = []
        while self._limit and self.kept - len(self._runs[0]) >= self._limit:
            dropped = self._runs.popleft()
            self.kept -= len(dropped)
            self.held_bytes -= sum(_cost(0, frame) for frame in dropped)

    def frames(self) -> Iterator[bytes]:
        self.end_run()
        return islice(self._from_the_end(), self._limit or None)

    def _from_the_end(self) -> Iterator[bytes]:
        while self._runs:
            run = self._runs.pop()
            while run:
                yield run.pop()


Ordering = SortedRuns | Backwards


def _cost(value: bytes | int, frame: bytes) -> int:
    return LOOSE_FRAME_BYTES + len(frame) + (len(value) if isinstance(value, bytes) else 0)


def _drain(run: list[tuple[bytes | int, bytes]]) -> Iterator[tuple[bytes | int, bytes]]:
    run.reverse()  # what was handed over is let go, which costs nothing at the end of a list
    while run:
        yield run.pop()
