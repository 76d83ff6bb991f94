"""Deleting what a compaction made unreadable, slice by slice: CMP-05, CMP-06."""

from __future__ import annotations

from typing import Any

import pytest
from server_support import FakeLoop

from raftkv.backend import NoSpaceError
from raftkv.server.compactor import PAGES_PER_EVENT, RETRY_S, Compactor

SLICE_EVENTS = 5
PAUSE_S = 0.01


class Scene:
    """Store and backend: `slices` are left to delete. Remembers in which order things were called."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.compaction = self
        self.slices = 0
        self.done = 0
        self.no_space = False
        self.failure: Exception | None = None
        self.fatal: list[Exception] = []
        self.reserved: list[tuple[int, int]] = []
        self.commit_due = False
        self.commits = 0
        self.poisoned: list[Exception] = []
        this: Any = self
        self.compactor = Compactor(this.loop, this, this, SLICE_EVENTS, PAUSE_S, self.fatal.append)

    @property
    def pending(self) -> bool:
        return self.slices > 0

    def step(self, _txn: object, max_events: int) -> bool:
        assert max_events == SLICE_EVENTS
        if self.failure is not None:
            raise self.failure
        self.slices -= 1
        self.done += 1
        return not self.pending

    def begin_write(self) -> object:
        return object()

    def reserve_batch(self, value_bytes: int, pages: int) -> None:
        if self.no_space:
            raise NoSpaceError("full")
        self.reserved.append((value_bytes, pages))

    def commit(self) -> None:
        self.commits += 1

    def poison(self, failure: Exception) -> None:
        self.poisoned.append(failure)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_slices_leave_room_for_others(scene: Scene) -> None:
    """CMP-05: with a pause between them, and pages reserved for each."""
    scene.slices = 3
    scene.compactor.wake()
    scene.loop.run()
    assert scene.done == 1
    scene.loop.advance(PAUSE_S)
    assert scene.done == 2
    scene.loop.advance(PAUSE_S)
    assert (scene.done, scene.loop.idle) == (3, True)
    assert scene.reserved == [(0, PAGES_PER_EVENT * SLICE_EVENTS)] * 3


def test_waking_again_does_not_double_the_work(scene: Scene) -> None:
    scene.slices = 2
    for _ in range(3):
        scene.compactor.wake()
    scene.loop.run()
    scene.compactor.wake()
    scene.loop.run()
    assert scene.done == 1


def test_nothing_to_do_costs_nothing(scene: Scene) -> None:
    scene.compactor.wake()
    assert scene.loop.idle


def test_who_waits_is_called_when_nothing_is_left(scene: Scene) -> None:
    """CMP-06: and at once if nothing is."""
    called: list[str] = []
    scene.compactor.when_finished(lambda: called.append("at once"))
    assert called == ["at once"]
    scene.slices = 2
    scene.compactor.when_finished(lambda: called.append("a"))
    scene.compactor.when_finished(lambda: called.append("b"))
    scene.loop.run()
    assert called == ["at once"]
    scene.loop.advance(PAUSE_S)
    assert called == ["at once", "a", "b"]
    scene.slices = 1
    scene.compactor.wake()
    scene.loop.run()
    assert called == ["at once", "a", "b"], "each once"


def test_who_is_called_may_ask_for_the_next_compaction(scene: Scene) -> None:
    called: list[str] = []

    def again() -> None:
        scene.slices = 1
        scene.compactor.when_finished(lambda: called.append("second"))

    scene.slices = 1
    scene.compactor.when_finished(again)
    scene.loop.run()
    assert called == ["second"]


def test_paused_it_touches_nothing_and_then_goes_on(scene: Scene) -> None:
    """Whether a slice was due in the pause or not; waiting goes on over it."""
    called: list[str] = []
    scene.slices = 3
    scene.compactor.when_finished(lambda: called.append("done"))
    scene.loop.run()
    scene.compactor.pause()
    scene.loop.advance(10)
    assert scene.done == 1
    scene.compactor.resume()
    scene.compactor.pause()
    scene.loop.run()
    assert scene.done == 1
    scene.compactor.resume()
    scene.loop.run()
    assert scene.done == 2
    scene.compactor.pause()
    scene.compactor.resume()
    scene.loop.advance(PAUSE_S)
    assert (scene.done, called, scene.loop.idle) == (3, ["done"], True)


def test_work_that_comes_in_a_pause_is_done_after_it(scene: Scene) -> None:
    scene.compactor.pause()
    scene.slices = 1
    scene.compactor.wake()
    scene.loop.run()
    assert scene.done == 0
    scene.compactor.resume()
    scene.loop.run()
    assert scene.done == 1


def test_a_full_disk_is_waited_for(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """What else is in the open transaction is not undone."""
    scene.slices, scene.no_space = 1, True
    scene.compactor.wake()
    scene.loop.run()
    assert "compaction waits for disk space" in caplog.text
    scene.no_space = False
    scene.loop.run()
    assert scene.done == 0
    scene.loop.advance(RETRY_S)
    assert (scene.done, scene.fatal, scene.poisoned) == (1, [], [])


def test_any_other_failure_ends_the_member(scene: Scene) -> None:
    """RF-53: and what is open can never be committed."""
    scene.slices, scene.failure = 1, OSError("disk")
    scene.compactor.wake()
    scene.loop.run()
    assert (scene.fatal, scene.poisoned, scene.loop.idle) == ([scene.failure], [scene.failure], True)


def test_a_long_deletion_is_committed_as_it_grows(scene: Scene) -> None:
    scene.slices, scene.commit_due = 2, True
    scene.compactor.wake()
    scene.loop.run()
    assert scene.commits == 1
    scene.commit_due = False
    scene.loop.advance(PAUSE_S)
    assert (scene.done, scene.commits) == (2, 1)


def test_who_waits_is_told_after_the_commit(scene: Scene) -> None:
    """CMP-06: not even the death of the process undoes what was told."""
    commits: list[int] = []
    scene.slices = 1
    scene.compactor.when_finished(lambda: commits.append(scene.commits))
    scene.loop.run()
    assert commits == [1]
