"""How often a value lay in which range: the plain counting half of a Prometheus histogram.

Kept by whoever measures, read by `metrics` when it is asked. For what happens once per batch: an observation costs a
bisection and two additions. Every room may import it, and it imports none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the inclusive upper ends of the ranges, ascending; what is above the last is counted as well."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Per range, not cumulative."""
        self.total = 0.0
        """Sum of all values."""

    @property
    def count(self) -> int:
        return sum(self.counts)

    @classmethod
    def of_all(cls, parts: Sequence[Histogram]) -> Histogram:
        """One that counts what all of these counted; they have the same bounds."""
        whole = cls(parts[0].bounds)
        whole.counts = [sum(counts) for counts in zip(*(each.counts for each in parts), strict=True)]
        whole.total = sum(each.total for each in parts)
        return whole

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
