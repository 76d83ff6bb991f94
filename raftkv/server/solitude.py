"""Whether a single client writes, one request after the other (docs/adr/0010).

Then there is nothing to gain from having hands free while the disk works, nor from answering together: what is done for
the sake of many clients is only in the way of this one. Owns the evidence. Knows neither the log nor the requests.
"""

from __future__ import annotations

from typing import Final

ALONE: Final = 64
"""So many flushes in a row, each of one request, during which nobody else came."""
LOOK_EVERY: Final = 16
"""Who syncs cannot see who comes meanwhile: every so many flushes the kernel syncs and the loop looks."""
QUICK_S: Final = 0.001
"""A disk that took longer may take longer again, and everything else would wait for it."""


class Solitude:
    __slots__ = ("_flushes",)

    def __init__(self) -> None:
        self._flushes = 0
        """In a row, without a sign of anybody else."""

    @property
    def is_proven(self) -> bool:
        return self._flushes >= ALONE

    @property
    def may_sync(self) -> bool:
        """The next flush may be synced by the loop."""
        return self._flushes >= ALONE and self._flushes % LOOK_EVERY != 0

    def on_batch(self, requests: int) -> None:
        """So many requests came together."""
        if requests > 1:
            self._flushes = 0

    def on_flushed(self, sync_s: float, *, others: bool) -> None:
        """`others`: somebody has come while the disk was at work. Not to be seen when the loop has synced."""
        self._flushes = 0 if others or sync_s > QUICK_S else self._flushes + 1
