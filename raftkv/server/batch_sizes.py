"""How many requests go together lately, and what that makes worth while (docs/adr/0010).

What is done for the sake of many clients is only in the way of one or two: having hands free while the disk works, and
answering together. Owns the evidence. Knows neither the log nor the requests.
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 1 / 20
"""Of the newest batch in the mean."""
FIRST_MEAN: Final = 8.0
"""Of a member that knows nothing yet. Some sixty batches of one bring it below SMALL, a hundred below SINGLE."""
SMALL: Final = 1.4
"""With more the loop has something to do while the disk works: it makes the next batch larger."""
SINGLE: Final = 1.05
QUICK_S: Final = 0.001
"""A disk that took longer may take longer again, and everything else would wait for it..."""
WARY_FLUSHES: Final = 64
"""... so long."""


class BatchSizes:
    __slots__ = ("_mean", "_wary")

    def __init__(self) -> None:
        self._mean = FIRST_MEAN
        self._wary = 0
        """Flushes until the disk is trusted again."""

    @property
    def single(self) -> bool:
        """Hardly ever do two requests go together."""
        return self._mean < SINGLE

    @property
    def may_sync(self) -> bool:
        """The loop may sync the log itself: it would have little to do meanwhile, and it will not be long."""
        return self._mean < SMALL and not self._wary

    def on_batch(self, requests: int) -> None:
        self._mean += (requests - self._mean) * WEIGHT

    def on_flushed(self, sync_s: float) -> None:
        if sync_s > QUICK_S:
            self._wary = WARY_FLUSHES
        elif self._wary:
            self._wary -= 1
