"""Between the core and the disk: batches, order, and what happens before and after a flush.

The core is the real one, of a lone voter; the disk is flushed when the test says so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from server_support import FakeLoop

from raftkv.apply import Kind, decode_batch
from raftkv.raft import Config, ConfState, Entry, HardState, MemoryStorage, RawNode, ReadState, SoftState
from raftkv.server import ready_loop as module
from raftkv.server.proposals import Proposals
from raftkv.server.ready_loop import ReadyLoop
from raftkv.wal import FlushResult

ME = 1


class Flusher:
    def __init__(self, _loop: object, _wal: object, on_flushed: Any, *_: object) -> None:
        self.on_flushed = on_flushed
        self.busy = False
        self.kicks = 0
        self.stopped = False

    def kick(self) -> None:
        assert not self.busy
        self.busy = True
        self.kicks += 1

    def stop(self) -> None:
        self.stopped = True


class Scene:
    """The loop's owner, its log, and the hand on the disk."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.story: list[Any] = []
        """What was staged and applied: ("stage" or "apply", the requests of these entries)."""
        self.backlogged = False
        self.flushes = 0
        self.fatal: list[Exception] = []
        self.apply_error: Exception | None = None
        storage = MemoryStorage(HardState(), ConfState(voters=(ME,)))
        rawnode = RawNode(Config(id=ME, election_ticks=10, heartbeat_ticks=1), storage, random.Random(1))
        self.proposals = Proposals(ME, 1, lambda: 0.0)
        this: Any = self
        self.ready_loop = ReadyLoop(this.loop, rawnode, storage, this, self.proposals, this)
        self.flusher: Any = self.ready_loop._flusher

    # --- the log

    def stage(self, _hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        self._note("stage", entries)

    def flush(self) -> None:
        self.flushes += 1

    # --- the owner

    def on_soft_state(self, soft_state: SoftState) -> None: ...

    def on_committed(self, entries: Sequence[Entry]) -> None:
        if self.apply_error is not None:
            raise self.apply_error
        self._note("apply", entries)

    def on_read_states(self, states: list[ReadState]) -> None:
        self.story.append(("reads", [state.context for state in states]))

    def on_proposal_dropped(self, number: int) -> None:
        raise AssertionError(f"batch {number} was dropped")

    def on_flushed(self, result: FlushResult) -> None: ...

    def on_fatal(self, failure: Exception) -> None:
        self.fatal.append(failure)

    def _note(self, what: str, entries: Sequence[Entry]) -> None:
        requests = [[message for _, message in decode_batch(entry.data).requests] for entry in entries if entry.data]
        if requests:
            self.story.append((what, requests))

    # --- the test's hand

    def lead(self) -> None:
        self.elect()
        self.story.clear()

    def elect(self) -> None:
        """... and flush until there is nothing more to flush."""
        self.ready_loop.rawnode.campaign()
        self.ready_loop.schedule()
        self.loop.run()
        while self.flusher.busy:
            self.flushed()

    def propose(self, *messages: bytes) -> None:
        for message in messages:
            assert self.proposals.add(Kind.PUT, message, lambda *_: None, None)
        self.ready_loop.schedule()
        self.loop.run()

    def flushed(self, sync_s: float = 10.0) -> None:
        """The flush under way has ended; by default it took longer than applying does."""
        self.flusher.busy = False
        self.flusher.on_flushed(FlushResult(100, 0.0, sync_s))
        self.loop.run()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Nobody leads yet."""
    monkeypatch.setattr(module, "Flusher", Flusher)
    monkeypatch.setattr(module, "KernelSync", SimpleNamespace(open=lambda: None))
    return Scene()


@pytest.fixture
def scene(fresh: Scene) -> Scene:
    fresh.lead()
    return fresh


def test_nothing_is_applied_before_it_is_durable(scene: Scene) -> None:
    scene.propose(b"a")
    assert scene.story == [("stage", [[b"a"]])]
    scene.flushed()
    assert scene.story == [("stage", [[b"a"]]), ("apply", [[b"a"]])]


@pytest.mark.parametrize("sync_s", [10.0, -1.0], ids=["slow disk", "disk faster than applying"])
def test_what_comes_during_a_flush_makes_one_entry_of_the_next(scene: Scene, sync_s: float) -> None:
    """Group commit, without a timer."""
    scene.propose(b"a")
    scene.propose(b"b")
    scene.propose(b"c")
    assert scene.story == [("stage", [[b"a"]])]
    scene.flushed(sync_s)
    assert sorted(scene.story[1:]) == [("apply", [[b"a"]]), ("stage", [[b"b", b"c"]])]
    assert scene.flusher.busy
    scene.flushed(sync_s)
    assert scene.story[-1] == ("apply", [[b"b", b"c"]])


def test_a_slow_disk_works_while_entries_are_applied(scene: Scene) -> None:
    scene.propose(b"a")
    scene.propose(b"b")
    scene.flushed(sync_s=10.0)
    assert scene.story[1:] == [("stage", [[b"b"]]), ("apply", [[b"a"]])]


def test_a_fast_disk_waits_until_entries_are_applied(scene: Scene) -> None:
    scene.propose(b"a")
    scene.propose(b"b")
    scene.flushed(sync_s=-1.0)
    assert scene.story[1:] == [("apply", [[b"a"]]), ("stage", [[b"b"]])]


def test_one_turn_takes_a_bounded_part_of_the_queue(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROPOSED_BYTES", 1)
    monkeypatch.setattr("raftkv.server.proposals.MAX_ENTRY_BYTES", 1)
    scene.propose(b"a", b"b")
    assert scene.story == [("stage", [[b"a"]])]
    assert scene.proposals.queued == 1
    scene.flushed()
    assert ("stage", [[b"b"]]) in scene.story


def test_without_a_leader_requests_wait(fresh: Scene) -> None:
    """G-51."""
    fresh.propose(b"a")
    assert (fresh.story, fresh.proposals.queued) == ([], 1)
    fresh.elect()
    assert fresh.story == [("stage", [[b"a"]]), ("apply", [[b"a"]])]


def test_a_log_with_a_backlog_is_given_nothing_more(scene: Scene) -> None:
    scene.backlogged = True
    scene.propose(b"a")
    assert scene.story == []
    scene.backlogged = False
    scene.ready_loop.schedule()
    scene.loop.run()
    scene.flushed()
    assert scene.story == [("stage", [[b"a"]]), ("apply", [[b"a"]])]


def test_paused_nothing_is_applied_and_proposals_gather(scene: Scene) -> None:
    """Defragment: also when a flush ends in the pause."""
    scene.propose(b"a")
    scene.ready_loop.pause()
    scene.flushed()
    scene.propose(b"b")
    scene.propose(b"c")
    assert scene.story == [("stage", [[b"a"]])]
    scene.ready_loop.resume()
    scene.loop.run()
    scene.flushed()
    assert [requests for what, requests in scene.story if what == "apply"] == [[[b"a"]], [[b"b", b"c"]]]


def test_an_error_of_applying_ends_the_member(scene: Scene) -> None:
    """RF-53."""
    scene.apply_error = OSError("disk")
    scene.propose(b"a")
    scene.flushed()
    assert scene.fatal == [scene.apply_error]


def test_any_number_of_schedules_make_one_turn(scene: Scene) -> None:
    for _ in range(3):
        scene.ready_loop.schedule()
    scene.loop.turn()
    assert scene.loop.idle


def test_after_the_stop_nothing_is_done_any_more(scene: Scene) -> None:
    scene.propose(b"a")
    scene.ready_loop.stop()
    scene.flushed()
    scene.propose(b"b")
    assert scene.flusher.stopped
    assert scene.story == [("stage", [[b"a"]])]
