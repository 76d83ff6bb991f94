"""Automatic compaction: which revision is old enough, and asking for it (CMP-12).

A plan looks at the current revision at regular samples and names what may go; `AutoCompactor` proposes it, on
the leader only, for a compaction goes through the log (CMP-04). Followers sample all the same, so that a new
leader knows the past. Time is handed in; what is deleted, and when, is not decided here.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv.apply import Kind
from raftkv.mvcc import CompactedError
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.config import AutoCompaction
    from raftkv.mvcc import Store
    from raftkv.server.proposals import Finish

_log = logging.getLogger(__name__)

HOUR_S: Final = 3600.0
SAMPLES_PER_COMPACTION: Final = 10
"""Periodic mode samples this often between two compactions."""
REVISION_INTERVAL_S: Final = 300.0
"""Revision mode looks this often."""


class Plan(Protocol):
    mode: str
    first_sample_s: float
    """From the start to the first sample."""
    interval_s: float
    """From one sample to the next."""

    def sample(self, revision: int) -> int:
        """Take note of the current revision; what may be compacted now, 0 or less for nothing."""

    def on_compacted(self) -> None:
        """The revision that `sample` named last is compacted."""


class Periodic:
    """Keeps the history of the last `period_s` seconds.

    Counts samples and compares no times: a late sample makes the history kept longer, never shorter.
    """

    __slots__ = ("_samples", "_since_compaction", "first_sample_s", "interval_s", "mode")

    def __init__(self, period_s: float) -> None:
        self.mode = "periodic"
        self.first_sample_s = 0.0
        self.interval_s = min(period_s, HOUR_S) / SAMPLES_PER_COMPACTION
        kept = math.ceil(max(period_s / HOUR_S, 1) * SAMPLES_PER_COMPACTION)
        self._samples: deque[int] = deque(maxlen=kept)
        """Revisions at the last samples, oldest first. When it is full, the oldest is a period old at the
        next sample, which drops it."""
        self._since_compaction = SAMPLES_PER_COMPACTION
        """Samples since the last compaction. Once there are SAMPLES_PER_COMPACTION, the next one is due."""

    def sample(self, revision: int) -> int:
        samples = self._samples
        self._since_compaction += 1
        full = len(samples) == samples.maxlen
        oldest = samples[0] if full else 0
        samples.append(revision)
        return oldest if self._since_compaction >= SAMPLES_PER_COMPACTION else 0

    def on_compacted(self) -> None:
        self._since_compaction = 0


class LastRevisions:
    """Keeps the last `revisions` revisions."""

    __slots__ = ("_kept", "first_sample_s", "interval_s", "mode")

    def __init__(self, revisions: int) -> None:
        self.mode = "revision"
        self.first_sample_s = self.interval_s = REVISION_INTERVAL_S
        self._kept = revisions

    def sample(self, revision: int) -> int:
        return revision - self._kept

    def on_compacted(self) -> None: ...


def make_plan(settings: AutoCompaction) -> Plan:
    return Periodic(settings.period_s) if settings.period_s else LastRevisions(settings.revisions)


class AutoCompactor:
    __slots__ = ("_compacted", "_in_flight", "_leads", "_next_sample_s", "_plan", "_propose", "_store")

    def __init__(
        self,
        plan: Plan,
        store: Store,
        leads: Callable[[], bool],
        propose: Callable[[int, bytes, Finish, Any], None],
    ) -> None:
        self._plan = plan
        self._store = store
        self._leads = leads
        self._propose = propose
        self._next_sample_s: float | None = None
        """None before the first tick."""
        self._in_flight = False
        """One is proposed and not answered yet: no other is proposed meanwhile."""
        self._compacted = 0
        """What was compacted last: the same is not asked for again while nothing is written."""

    def on_tick(self, now: float) -> None:
        """Call it more often than samples are due; `now` in seconds of any clock that does not go back."""
        if self._next_sample_s is None:
            self._next_sample_s = now + self._plan.first_sample_s
        if now >= self._next_sample_s:
            self._next_sample_s = now + self._plan.interval_s
            self._sample()

    def _sample(self) -> None:
        revision = self._plan.sample(self._store.current_revision)
        if revision <= 0 or revision == self._compacted or self._in_flight or not self._leads():
            return
        self._in_flight = True
        message = rpc_pb2.CompactionRequest(revision=revision).SerializeToString()
        self._propose(Kind.COMPACT, message, self._on_result, revision)

    def _on_result(self, revision: int, result: Any) -> None:
        self._in_flight = False
        fields = {"mode": self._plan.mode, "revision": revision}
        # Somebody may have compacted further meanwhile: then what was wanted is so.
        if type(result) is tuple or isinstance(result, CompactedError):
            self._compacted = revision
            self._plan.on_compacted()
            _log.info("compacted automatically", extra={"kv": fields})
        else:
            # Still due: the next sample asks again.
            fields |= {"error": str(result) or type(result).__name__, "retry_s": self._plan.interval_s}
            _log.warning("automatic compaction failed", extra={"kv": fields})
