"""Between the core of a lone voter and its disk: batches, order, and what happens before and after a flush."""

from __future__ import annotations

import pytest
from ready_loop_support import Scene, take_the_disk

from raftkv.server import ready_loop as module


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Nobody leads yet."""
    take_the_disk(monkeypatch)
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
    scene.loop.advance(1.0)
    assert scene.loop.idle
    for _ in range(3):
        scene.ready_loop.schedule()
    scene.loop.turn()
    assert scene.loop.idle


def test_a_lone_voter_keeps_no_news_of_commits(scene: Scene) -> None:
    """It has nobody to keep them from: no timer for each batch."""
    scene.loop.advance(1.0)
    for text in (b"a", b"b"):
        scene.propose(text)
        scene.flushed()
        assert scene.loop.idle
    assert [requests for what, requests in scene.story if what == "apply"] == [[[b"a"]], [[b"b"]]]


def test_after_the_stop_nothing_is_done_any_more(scene: Scene) -> None:
    scene.propose(b"a")
    scene.ready_loop.stop()
    scene.flushed()
    scene.propose(b"b")
    assert scene.flusher.stopped
    assert scene.story == [("stage", [[b"a"]])]
    assert scene.flushes == 0, "nothing was staged behind the flush under way"


@pytest.mark.parametrize(
    ("room_was_made", "has_room", "full"), [(False, True, True), (True, True, False), (True, False, True)]
)
def test_a_log_without_room_is_tried_again(scene: Scene, room_was_made: bool, has_room: bool, full: bool) -> None:
    """AL-27. Until that is done the answer is that of the last try, or what the file system says."""
    assert not scene.ready_loop.check_log_space(room_was_made=room_was_made)
    assert scene.flusher.looks == 0
    scene.preallocate_failed, scene.has_room = True, has_room
    assert scene.ready_loop.check_log_space(room_was_made=room_was_made) is full
    assert (scene.preallocate_failed, scene.flusher.looks) == (False, 1)


# --- one client or two ------------------------------------------------------------------------------------------------


def test_while_batches_are_small_the_turn_ends_with_the_sync(scene: Scene) -> None:
    """docs/adr/0010. Nothing is applied before, as ever; the loop goes on by itself."""
    for number in range(100):
        scene.propose(b"%d" % number)
        if scene.flusher.busy:
            scene.flushed(0.0001)
    assert 0 < scene.flusher.syncs < scene.flusher.kicks, "it takes some time to know it"
    scene.story.clear()
    scene.propose(b"a")
    assert scene.story == [("stage", [[b"a"]]), ("apply", [[b"a"]])]
    assert not scene.flusher.busy
    scene.propose(*[b"%d" % number for number in range(20)])
    scene.propose(b"b")
    assert scene.flusher.busy, "many have come"
    assert not scene.fatal
