"""Latencies of one measurement, in memory that does not grow with their number.

Owns the buckets and what is read off them. Knows nothing of what was timed.
"""

from __future__ import annotations

from array import array
from typing import Final

FINE_BUCKETS: Final = 100_000
"""Of 1 µs each: exact to the microsecond below 100 ms."""
COARSE_BUCKETS: Final = 100_000
"""Of 1 ms each, so within 1 % between 100 ms and 100 s. Whatever is longer counts in the last."""
_COARSE_US: Final = 1000


class Histogram:
    """Counts of durations. Percentiles are by nearest rank, rounded down to the bucket."""

    __slots__ = ("_coarse", "_fine", "count", "max_us", "total_us")

    def __init__(self) -> None:
        self._fine = array("Q", bytes(8 * FINE_BUCKETS))
        self._coarse = array("Q", bytes(8 * COARSE_BUCKETS))
        self.count = 0
        self.total_us = 0
        self.max_us = 0

    def record(self, duration_us: int) -> None:
        if duration_us < FINE_BUCKETS:
            self._fine[duration_us] += 1
        else:
            self._coarse[min(duration_us // _COARSE_US, COARSE_BUCKETS - 1)] += 1
        self.count += 1
        self.total_us += duration_us
        if duration_us > self.max_us:
            self.max_us = duration_us

    @property
    def mean_ms(self) -> float:
        return self.total_us / self.count / 1000 if self.count else 0.0

    def percentile_ms(self, percent: float) -> float:
        """The least duration that at least `percent` of all do not exceed; 0 without any."""
        rank = max(-(-self.count * percent // 100), 1)
        seen = 0
        for buckets, width_us in ((self._fine, 1), (self._coarse, _COARSE_US)):
            for index, count in enumerate(buckets):
                seen += count
                if count and seen >= rank:
                    return index * width_us / 1000
        return 0.0
