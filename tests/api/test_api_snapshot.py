"""Maintenance.Snapshot: what is told of one that took long (MT-15). The bytes are checked in tests/contract."""

from __future__ import annotations

import asyncio
import logging

import pytest
from api_support import FakeCall, FakeNode

from raftkv.api import snapshot
from raftkv.api.snapshot import SnapshotStream


class _Call(FakeCall):
    finished = False

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize(("took_s", "lines"), [(29.0, 0), (31.0, 1)])
def test_a_snapshot_that_takes_long_is_logged(
    fake_node: FakeNode, took_s: float, lines: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MT-15."""
    clock = iter((100.0, 100.0 + took_s))
    monkeypatch.setattr(snapshot, "perf_counter", lambda: next(clock))
    caplog.set_level(logging.WARNING)
    call = _Call()

    async def story() -> None:
        fake_node.loop = asyncio.get_running_loop()
        stream = SnapshotStream(fake_node.context(), call)
        stream.on_message(b"")
        while not (call.finished or call.failure):
            await asyncio.sleep(0.01)
        stream.on_closed()

    asyncio.run(story())
    assert [record.message for record in caplog.records].count(
        "a snapshot took long; its pages could not be used again meanwhile"
    ) == lines
