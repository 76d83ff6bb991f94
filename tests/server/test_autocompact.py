"""Automatic compaction (CMP-12), on a clock that the tests turn."""

from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given, strategies

from raftkv.apply import Kind
from raftkv.config import AutoCompaction
from raftkv.mvcc import CompactedError
from raftkv.pb import rpc_pb2
from raftkv.server.autocompact import AutoCompactor, make_plan
from raftkv.server.errors import RequestTimedOut

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DONE: Final = (1, b"")


class Member:
    """What the compactor sees of a node. Answers each proposal with `answer`; with None, not at all."""

    def __init__(self, **settings: Any) -> None:
        self.now = 5000.0
        """Not zero: a monotonic clock begins anywhere."""
        self.store = SimpleNamespace(current_revision=1)
        self.leads = True
        self.answer: Any = DONE
        self.waiting: list[Any] = []
        self.asked: list[tuple[float, int]] = []
        """(seconds since the start, revision) of every proposal."""
        self._start = self.now
        plan = make_plan(AutoCompaction(**settings))
        store: Any = self.store
        self._compactor = AutoCompactor(plan, store, lambda: self.leads, self._propose)
        self._compactor.on_tick(self.now)

    def _propose(self, kind: int, message: bytes, finish: Any, context: Any) -> None:
        assert kind == Kind.COMPACT
        request = rpc_pb2.CompactionRequest.FromString(message)
        assert not request.physical
        self.asked.append((self.now - self._start, request.revision))
        if self.answer is None:
            self.waiting.append((finish, context))
        else:
            finish(context, self.answer)

    def run(self, seconds: float, step: float, revisions_per_step: int = 1) -> None:
        """Let time pass, writing at each step after the compactor has looked."""
        for _ in range(round(seconds / step)):
            self.now += step
            self._compactor.on_tick(self.now)
            self.store.current_revision += revisions_per_step


def test_an_hour() -> None:
    """After an hour, and then every hour, the revision of an hour ago."""
    member = Member(period_s=HOUR)
    member.run(3.5 * HOUR, step=MINUTE)
    # Revision 1 is the first sample's; the tick at minute n sees n revisions.
    assert member.asked == [(HOUR, 1), (2 * HOUR, 60), (3 * HOUR, 120)]


def test_less_than_an_hour() -> None:
    member = Member(period_s=10.0)
    member.run(35.0, step=0.5)
    assert member.asked == [(10.0, 1), (20.0, 20), (30.0, 40)]


def test_more_than_an_hour() -> None:
    """First after the whole period, then hourly, always by the period behind."""
    member = Member(period_s=24 * HOUR)
    member.run(27 * HOUR, step=6 * MINUTE)
    assert member.asked == [(24 * HOUR, 1), (25 * HOUR, 10), (26 * HOUR, 20), (27 * HOUR, 30)]


def test_nothing_is_asked_twice() -> None:
    """As long as nothing is written there is nothing to compact; when there is, the next sample sees it."""
    member = Member(period_s=HOUR)
    member.run(3 * HOUR, step=MINUTE, revisions_per_step=0)
    assert member.asked == [(HOUR, 1)]
    member.store.current_revision = 7
    member.run(2 * HOUR, step=MINUTE, revisions_per_step=0)
    # Sampled 6 minutes after the write, and an hour old an hour later.
    assert member.asked[1:] == [(4 * HOUR + 6 * MINUTE, 7)]


def test_failure_is_retried_at_the_next_sample(caplog: pytest.LogCaptureFixture) -> None:
    member = Member(period_s=HOUR)
    member.answer = RequestTimedOut()
    member.run(HOUR, step=MINUTE)
    assert member.asked == [(HOUR, 1)]
    record = caplog.records[-1]
    assert (record.levelname, record.getMessage()) == ("WARNING", "automatic compaction failed")
    assert record.__dict__["kv"] == {
        "mode": "periodic",
        "revision": 1,
        "error": "RequestTimedOut",
        "retry_s": 360.0,
    }
    member.answer = DONE
    member.run(HOUR + 6 * MINUTE, step=MINUTE)
    # The retry takes what is an hour old by then, and the next hour counts from it.
    assert member.asked[1:] == [(HOUR + 6 * MINUTE, 6), (2 * HOUR + 6 * MINUTE, 66)]


def test_somebody_compacted_further() -> None:
    member = Member(period_s=HOUR)
    member.answer = CompactedError(1, 5)
    member.run(1.9 * HOUR, step=MINUTE)
    assert member.asked == [(HOUR, 1)]


def test_one_at_a_time() -> None:
    member = Member(period_s=10.0)
    member.answer = None
    member.run(30.0, step=0.5)
    assert member.asked == [(10.0, 1)]
    member.answer = DONE
    finish, context = member.waiting.pop()
    finish(context, DONE)
    member.run(10.0, step=0.5)
    assert member.asked[1:] == [(40.0, 60)]


def test_a_follower_waits_and_remembers() -> None:
    """A new leader knows what was an hour ago, though it did not lead then."""
    member = Member(period_s=HOUR)
    member.leads = False
    member.run(5 * HOUR, step=MINUTE)
    assert member.asked == []
    member.leads = True
    member.run(6 * MINUTE, step=MINUTE)
    assert member.asked == [(5 * HOUR + 6 * MINUTE, 246)]


@given(
    strategies.lists(strategies.floats(0.0, 5000.0), max_size=300),
    strategies.sampled_from([10.0, HOUR, 9000.0]),
)
def test_late_ticks_never_shorten_history(gaps: list[float], period_s: float) -> None:
    """Whatever is compacted was current a period ago, however irregular the ticks."""
    member = Member(period_s=period_s)
    written_at = {1: 0.0}
    elapsed = 0.0
    for gap in gaps:
        elapsed += gap
        member.run(gap, step=gap) if gap else None
        written_at[member.store.current_revision] = elapsed
    for asked_at, revision in member.asked:
        assert written_at[revision] <= asked_at - period_s + 1e-6


def test_revisions() -> None:
    """Every five minutes: all but the last so many."""
    member = Member(revisions=100)
    member.store.current_revision = 100
    member.run(5 * MINUTE, step=MINUTE, revisions_per_step=0)
    assert member.asked == []
    member.store.current_revision = 130
    member.run(4 * MINUTE, step=MINUTE, revisions_per_step=0)
    assert member.asked == []
    member.run(11 * MINUTE, step=MINUTE, revisions_per_step=0)
    assert member.asked == [(10 * MINUTE, 30)]
    member.store.current_revision = 131
    member.run(5 * MINUTE, step=MINUTE, revisions_per_step=0)
    assert member.asked[1:] == [(25 * MINUTE, 31)]


def test_a_failed_compaction_to_a_revision_is_retried() -> None:
    member = Member(revisions=1)
    member.store.current_revision = 10
    member.answer = RequestTimedOut()
    member.run(10 * MINUTE, step=MINUTE, revisions_per_step=0)
    assert member.asked == [(5 * MINUTE, 9), (10 * MINUTE, 9)]


def test_success_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    member = Member(period_s=HOUR)
    member.run(HOUR, step=MINUTE)
    record = caplog.records[-1]
    assert (record.levelname, record.getMessage()) == ("INFO", "compacted automatically")
    assert record.__dict__["kv"] == {"mode": "periodic", "revision": 1}
