"""Calls by the clock, whatever the answers do: an open loop sees a stall that clients who wait would sleep through.

Owns when something is to be sent. Knows nothing of what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Final

MAX_BURST_S: Final = 0.01
"""What a generator that was held up for longer has missed is not sent: nobody asked for load in bursts."""


class Pacer:
    """Calls `send` `per_s` times a second from `start` to `stop`, to within a timer's millisecond."""

    def __init__(self, loop: asyncio.AbstractEventLoop, per_s: float, send: Callable[[], None]) -> None:
        self._loop: Final = loop
        self._interval_s: Final = 1 / per_s
        self._send: Final = send
        self._due_s = 0.0
        """When the next call is to be made, by perf_counter."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due_s = perf_counter()
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now_s = perf_counter()
        self._due_s = max(self._due_s, now_s - MAX_BURST_S)
        while self._due_s <= now_s:
            self._due_s += self._interval_s
            self._send()
        self._timer = self._loop.call_later(self._due_s - now_s, self._tick)
