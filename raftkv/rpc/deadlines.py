"""Deadlines of many calls by one coarse sweep instead of one timer each.

Owns which call expires in which tick of 10 ms. Knows no clock: the owner is asked for a
wake-up and hands in the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.010
"""A call expires at most this much late, never early."""


class Expiring(Protocol):
    def on_deadline(self) -> None: ...


class Deadlines:
    __slots__ = ("_armed", "_buckets", "_request_sweep", "_swept")

    def __init__(self, request_sweep: Callable[[], None]) -> None:
        self._request_sweep = request_sweep
        """Asks the owner to call `sweep` after TICK_S; called once until `sweep` runs."""
        self._buckets: dict[int, dict[Expiring, None]] = {}
        """By tick, in order of arrival. A bucket exists only while it holds a call."""
        self._armed = False
        """A sweep has been asked for and has not run."""
        self._swept = 0

    def add(self, call: Expiring, deadline: float, now: float) -> int:
        """Returns the tick, which `discard` wants back."""
        if not self._armed:
            self._armed = True
            self._swept = int(now / TICK_S)
            self._request_sweep()
        tick = max(int(deadline / TICK_S), self._swept) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
        bucket[call] = None
        return tick

    def discard(self, call: Expiring, tick: int) -> None:
        """The call ended in time. No effect on one that has expired."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.pop(call, None)
            if not bucket:
                del self._buckets[tick]

    def sweep(self, now: float) -> None:
        """Expire what is due, and ask for the next sweep while anything waits."""
        due = int(now / TICK_S)
        for tick in range(self._swept + 1, due + 1):
            # Taken out first: an expiring call may end others.
            for call in list(self._buckets.pop(tick, ())):
                call.on_deadline()
        self._swept = due
        self._armed = bool(self._buckets)
        if self._armed:
            self._request_sweep()
