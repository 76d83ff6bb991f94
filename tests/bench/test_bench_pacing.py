"""Calls by the clock: on a clock that the test turns, and against a server."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest
from bench_support import null_servers

from bench import pacing
from bench.load import LoadError, LoadOptions, LoadResult
from bench.pacing import MAX_BURST_S, Pacer
from bench.steady import drive_steady
from raftkv.rpc.codes import Code


class _Clock:
    """A loop with one timer and a time that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self._callback: Callable[[], None] | None = None
        monkeypatch.setattr(pacing, "perf_counter", lambda: self.now_s)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "_Clock":
        self.wake_s = self.now_s + delay_s
        self._callback = callback
        return self

    def cancel(self) -> None:
        self._callback = None

    def wake(self, late_s: float = 0.0) -> None:
        assert self._callback is not None
        self.now_s = self.wake_s + late_s
        self._callback()


def test_calls_are_evenly_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    sent: list[float] = []
    Pacer(clock, 500, lambda: sent.append(clock.now_s)).start()  # type: ignore[arg-type]
    for _ in range(4):
        clock.wake()
    assert sent == pytest.approx([100.0, 100.002, 100.004, 100.006, 100.008])


def test_a_late_wake_up_sends_what_is_due_and_keeps_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    sent: list[float] = []
    Pacer(clock, 1000, lambda: sent.append(clock.now_s)).start()  # type: ignore[arg-type]
    clock.wake(late_s=0.0035)
    assert len(sent) == 1 + 4
    assert clock.wake_s == pytest.approx(100.005)


def test_what_a_long_stall_has_missed_is_not_sent_in_one_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    sent: list[float] = []
    Pacer(clock, 1000, lambda: sent.append(clock.now_s)).start()  # type: ignore[arg-type]
    clock.wake(late_s=5.0)
    assert 1 < len(sent) - 1 <= MAX_BURST_S * 1000 + 1


def test_nothing_is_sent_after_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    pacer = Pacer(clock, 1000, lambda: None)  # type: ignore[arg-type]
    pacer.start()
    pacer.stop()
    with pytest.raises(AssertionError):
        clock.wake()


# --- the steady load


def _steady(script: list[str | float], per_s: float = 500) -> list[LoadResult]:
    """Drive a null server by a script of lines and of seconds to wait."""

    async def lines() -> AsyncIterator[str]:
        for step in script:
            if isinstance(step, str):
                yield step
            else:
                await asyncio.sleep(step)

    async def run() -> list[LoadResult]:
        async with null_servers(1) as (server,):
            options = LoadOptions("127.0.0.1", server.port, "put", connections=2)
            return [result async for result in drive_steady(options, per_s, lines())]

    return asyncio.run(run())


def test_each_window_counts_only_what_was_answered_in_it() -> None:
    first, second = _steady(["begin", 0.3, "end", 0.3, f"begin {os.getpid()}", 0.1, "end"])
    for result, seconds in ((first, 0.3), (second, 0.1)):
        assert result.errors == {}
        # Of a noisy machine only the upper bound is sure: what a late generator missed it does not make up for.
        assert 5 < result.operations <= 500 * result.seconds + 10
        assert result.seconds >= seconds
        assert 0 < result.p50_ms <= result.p99_ms
        assert result.clients == 0
    assert first.server_cpu is None
    assert second.server_cpu is not None


def test_a_window_that_nobody_asked_for_is_no_result() -> None:
    assert _steady(["begin", 0.05]) == []


def test_failed_puts_of_the_steady_load_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.nullserver.NullServer._put", lambda server, call, message: call.fail(Code.UNAVAILABLE, "no leader")
    )
    (result,) = _steady(["begin", 0.1, "end"])
    assert result.operations == 0
    assert result.errors["UNAVAILABLE: no leader"] > 0


def test_a_steady_load_on_nobody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async def none() -> AsyncIterator[str]:
            return
            yield

        async with null_servers(1) as (server,):
            port = server.port
        async for _ in drive_steady(LoadOptions("127.0.0.1", port, "put"), 10, none()):
            pass

    monkeypatch.setattr("bench.load.connect.__defaults__", (0.2,))
    with pytest.raises(LoadError, match="does not serve"):
        asyncio.run(run())
