"""How late the event loop is: a timer that looks at the clock.

Everything waits for the one loop, so its lag is part of every answer's time.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from raftkv.histogram import Histogram

INTERVAL_S: Final = 0.1


class LoopLag:
    __slots__ = ("_due_s", "_lags", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, lags: Histogram) -> None:
        self._loop = loop
        self._lags = lags
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        # The loop's own clock may count whole milliseconds.
        self._due_s = perf_counter() + INTERVAL_S
        self._timer = self._loop.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        self._lags.observe(max(0.0, perf_counter() - self._due_s))
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
