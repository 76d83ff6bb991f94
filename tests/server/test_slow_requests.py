"""Requests that took too long are counted, and told in one line a second (G-59)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from raftkv.server.proposals import Proposals
from raftkv.server.slow_requests import SlowRequests

ME = 7


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.kv for record in caplog.records if record.message == "requests took too long"]  # type: ignore[attr-defined]


def test_only_what_took_longer_than_allowed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowRequests(0.3)
    slow.note("writes", 5, 0.3)
    slow.on_tick(10.0)
    assert told(caplog) == []
    slow.note("writes", 5, 0.31)
    slow.note("reads", 1, 0.5)
    slow.on_tick(10.1)
    assert told(caplog) == [{"writes": 5, "reads": 1, "slowest_ms": 500}]
    assert slow.total == 6


def test_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowRequests(0.3)
    for tenth in range(30):
        slow.note("writes", 1, 1.0 if tenth == 5 else 0.4)
        slow.on_tick(100 + tenth / 10)
    assert [each["writes"] for each in told(caplog)] == [1, 10, 10]
    assert [each["slowest_ms"] for each in told(caplog)] == [400, 1000, 400]


def test_a_batch_is_as_old_as_its_proposal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    now = 50.0
    slow = SlowRequests(0.3)
    proposals = Proposals(ME, 1, lambda: now, slow)
    results: list[object] = []
    for _ in range(3):
        proposals.add(1, b"put", lambda _context, result: results.append(result), None)
    number, _ = proposals.take_batch()
    now = 50.4
    proposals.complete(ME, number, ["done"] * 3)
    slow.on_tick(now)
    assert results == ["done"] * 3
    assert told(caplog) == [{"writes": 3, "slowest_ms": 400}]
