"""Requests that took too long, told in the log (G-59): how many, of which kind, and the slowest of them.

One line a second at most: when everything is slow, a line for each would make it slower. Neither keys nor values are
logged. Knows nothing of what a request is; whoever finishes some says when they came.
"""

from __future__ import annotations

import logging
from typing import Final

_log = logging.getLogger(__name__)

REPORT_INTERVAL_S: Final = 1.0


class SlowRequests:
    __slots__ = ("_counts", "_last_report_s", "_slowest_s", "_threshold_s", "total")

    def __init__(self, threshold_s: float) -> None:
        """`threshold_s`: --warning-unary-request-duration."""
        self._threshold_s = threshold_s
        self._counts: dict[str, int] = {}
        """Kind -> requests since the last report."""
        self._slowest_s = 0.0
        self._last_report_s = 0.0
        self.total = 0

    def note(self, kind: str, count: int, took_s: float) -> None:
        """`count` requests of a kind (writes, reads) are finished, the oldest of them after `took_s`."""
        if took_s > self._threshold_s:
            self._counts[kind] = self._counts.get(kind, 0) + count
            self._slowest_s = max(self._slowest_s, took_s)
            self.total += count

    def on_tick(self, now: float) -> None:
        if self._counts and now - self._last_report_s >= REPORT_INTERVAL_S:
            fields = {**self._counts, "slowest_ms": round(self._slowest_s * 1000)}
            _log.warning("requests took too long", extra={"kv": fields})
            self._last_report_s, self._slowest_s = now, 0.0
            self._counts.clear()
