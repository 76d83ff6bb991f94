"""When the store is made durable, and what may go then: with a backend and a log that remember the calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raftkv.server.checkpoints import INTERVAL_S, LOG_BYTES, Checkpoints

CATCH_UP = 10
"""Entries that a follower may still want."""


class Checkpoint:
    """One sync in the thread, which ends when the test says so."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.trusted = True
        self.failure: OSError | None = None

    def sync(self) -> None:
        assert self.may_end.wait(10)
        if self.failure is not None:
            raise self.failure


class Scene:
    """The backend, the log and the owner in one."""

    def __init__(self) -> None:
        self.durable_index = 100
        self.nothing_new = False
        self.begun: list[Checkpoint] = []
        self.ended: list[Checkpoint] = []
        self.released: list[int] = []
        self.fatal: list[Exception] = []
        self.checkpoints = Checkpoints(
            asyncio.get_running_loop(),
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lambda durable_index: durable_index - CATCH_UP,
            self.fatal.append,
        )
        self.start = self.checkpoints._last_s

    def begin_checkpoint(self) -> Checkpoint | None:
        if self.nothing_new:
            return None
        self.begun.append(Checkpoint())
        return self.begun[-1]

    def end_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.ended.append(checkpoint)

    def release_before(self, index: int) -> None:
        self.released.append(index)

    def tick(self, after_s: float) -> int:
        """How many were begun so far."""
        self.checkpoints.on_tick(self.start + after_s)
        return len(self.begun)

    async def end(self, failure: OSError | None = None, *, trusted: bool = True) -> None:
        checkpoint = self.begun[-1]
        checkpoint.failure, checkpoint.trusted = failure, trusted
        checkpoint.may_end.set()
        await self.checkpoints.settled()


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def scenario() -> None:
        scene = Scene()
        try:
            await story(scene)
        finally:
            for checkpoint in scene.begun:
                checkpoint.may_end.set()
            await scene.checkpoints.stop()

    asyncio.run(scenario())


def test_every_interval_or_sooner_when_much_was_logged() -> None:
    async def story(scene: Scene) -> None:
        assert scene.tick(INTERVAL_S - 0.1) == 0
        assert scene.tick(INTERVAL_S) == 1
        await scene.end()
        assert scene.tick(2 * INTERVAL_S - 0.1) == 1
        scene.checkpoints.log_bytes = LOG_BYTES
        assert scene.tick(2 * INTERVAL_S - 0.1) == 2
        assert scene.checkpoints.log_bytes == 0

    play(story)


def test_one_at_a_time() -> None:
    async def story(scene: Scene) -> None:
        scene.tick(INTERVAL_S)
        assert scene.tick(9 * INTERVAL_S) == 1
        await scene.end()
        assert scene.tick(9 * INTERVAL_S) == 2

    play(story)


def test_the_log_goes_when_the_checkpoint_is_durable_and_not_before() -> None:
    """But for what slow followers may need (RF-43)."""

    async def story(scene: Scene) -> None:
        scene.tick(INTERVAL_S)
        assert scene.released == []
        await scene.end()
        assert (scene.ended, scene.released) == (scene.begun, [100 - CATCH_UP])

    play(story)


def test_an_idle_store_costs_nothing() -> None:
    async def story(scene: Scene) -> None:
        scene.nothing_new = True
        assert scene.tick(INTERVAL_S) == 0
        await scene.checkpoints.settled()
        scene.nothing_new = False
        assert scene.tick(2 * INTERVAL_S) == 1

    play(story)


def test_a_failure_that_lost_nothing_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk: the log stays."""

    async def story(scene: Scene) -> None:
        scene.tick(INTERVAL_S)
        await scene.end(OSError(28, "no space"))
        assert (scene.fatal, scene.released, scene.ended) == ([], [], scene.begun)
        assert scene.tick(2 * INTERVAL_S) == 2
        await scene.end()
        assert scene.released == [100 - CATCH_UP]

    play(story)
    assert "no checkpoint; trying again" in caplog.text


def test_pages_that_the_kernel_lost_stop_the_member() -> None:
    """RF-53: the log must not be cut on the word of such a disk."""

    async def story(scene: Scene) -> None:
        scene.tick(INTERVAL_S)
        failure = OSError(5, "input/output error")
        await scene.end(failure, trusted=False)
        assert (scene.fatal, scene.released, scene.ended) == ([failure], [], scene.begun)

    play(story)


def test_none_begins_while_paused_and_who_pauses_waits_for_the_one_under_way() -> None:
    async def story(scene: Scene) -> None:
        scene.tick(INTERVAL_S)
        scene.checkpoints.pause()
        settled: Any = asyncio.ensure_future(scene.checkpoints.settled())
        await asyncio.sleep(0)
        assert not settled.done()
        await scene.end()
        await settled
        assert scene.ended == scene.begun
        assert scene.tick(9 * INTERVAL_S) == 1
        scene.checkpoints.resume()
        assert scene.tick(9 * INTERVAL_S) == 2

    play(story)
