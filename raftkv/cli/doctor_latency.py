"""What `raftkv doctor` has in common for disks and networks: a summary of many durations, and a finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

FEW_SAMPLES: Final = 100
"""With fewer, the slowest one is the p99."""


class Latencies(NamedTuple):
    """Seconds; percentiles by nearest rank."""

    samples: int
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, samples_s: Sequence[float]) -> Latencies:
        """At least one sample."""
        ordered = sorted(samples_s)
        ranks = (max(math.ceil(share * len(ordered)), 1) - 1 for share in (0.5, 0.9, 0.99))
        p50_s, p90_s, p99_s = (ordered[rank] for rank in ranks)
        return cls(len(ordered), p50_s, p90_s, p99_s, ordered[-1])

    def as_json(self) -> dict[str, float]:
        return dict(self._asdict())


class Finding(NamedTuple):
    """Something that the operator should know."""

    problem: bool
    """False: worth knowing, and no reason not to go on."""
    text: str
    """What is so, and why it matters."""
    advice: str
    """What to do; may be empty."""


def milliseconds(seconds: float) -> str:
    """Three digits that count: "0.153 ms", "2.41 ms", "118 ms"."""
    value = seconds * 1000
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f} ms"
