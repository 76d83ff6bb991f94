"""A loop whose time and turns are the test's."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class FakeLoop:
    """What the server's parts use of an event loop; nothing runs but by `run` and `advance`."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self._count = 0
        self._timers: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.call_later(0, callback, *args)

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._timers, (self.now + delay_s, self._count, callback, args))

    @property
    def idle(self) -> bool:
        return not self._timers

    def turn(self) -> None:
        """What is due now, and nothing of what that schedules."""
        due = []
        while self._timers and self._timers[0][0] <= self.now:
            due.append(heapq.heappop(self._timers))
        for _, _, callback, args in due:
            callback(*args)

    def run(self) -> None:
        """All that is due without time going on."""
        while self._timers and self._timers[0][0] <= self.now:
            self.turn()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.run()
