"""Handing over the leadership (MT-40 to MT-43), and leaving it to another before stopping (RF-23)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.raft import ConfState
from raftkv.server.errors import BadTransferee, NotLeader, Stopped, TransferTooSlow
from raftkv.server.leadership import Leadership

ME, ONE, TWO, LEARNER = 1, 2, 3, 4
TIMEOUT_S = 7.0


class Scene:
    """The core, and who could be reached since when."""

    def __init__(self, *, leads: bool = True, since: dict[int, float] | None = None) -> None:
        self.is_leader = leads
        self.transfers: list[int] = []
        self.scheduled = 0
        self.moved: list[tuple[str, Any]] = []
        core: Any = self
        connected: dict[int, float] = {ONE: 10.0, TWO: 5.0} if since is None else since
        self.leadership = Leadership(core, connected.get, self._schedule, TIMEOUT_S)

    def _schedule(self) -> None:
        self.scheduled += 1

    def status(self) -> Any:
        return SimpleNamespace(id=ME, conf_state=ConfState(voters=(ME, ONE, TWO), learners=(LEARNER,)))

    def transfer_leader(self, target: int) -> None:
        self.transfers.append(target)

    def move(self, target: int, name: str = "", now: float = 100.0) -> None:
        self.leadership.move(target, now, lambda *told: self.moved.append(told), name)

    def told(self) -> list[tuple[str, type]]:
        return [(name, type(error)) for name, error in self.moved]


OK = type(None)


def test_only_the_leader_moves_the_leadership() -> None:
    """MT-40; whatever the target is."""
    scene = Scene(leads=False)
    for target in (ME, ONE, 99, 0):
        scene.move(target)
    assert [error for _, error in scene.told()] == [NotLeader] * 4
    assert scene.transfers == []


@pytest.mark.parametrize("target", [0, 99, LEARNER])
def test_the_target_must_be_a_voter(target: int) -> None:
    """MT-41, CL-45."""
    scene = Scene()
    scene.move(target)
    assert scene.told() == [("", BadTransferee)]
    assert scene.transfers == []


def test_to_whom_has_it_already_nothing_happens() -> None:
    """MT-42."""
    scene = Scene()
    scene.move(ME)
    assert scene.told() == [("", OK)]
    assert (scene.transfers, scene.scheduled) == ([], 0)


def test_it_is_answered_when_the_target_leads() -> None:
    """MT-43: and not when another does."""
    scene = Scene()
    scene.move(ONE, "first")
    scene.move(ONE, "second")
    scene.move(TWO, "other")
    assert (scene.transfers, scene.scheduled, scene.moved) == ([ONE, ONE, TWO], 3, [])
    scene.leadership.on_leader(ME)
    assert scene.moved == []
    scene.leadership.on_leader(ONE)
    assert scene.told() == [("first", OK), ("second", OK)]
    scene.leadership.on_leader(ONE)
    scene.leadership.on_leader(TWO)
    assert scene.told()[2:] == [("other", OK)]


def test_a_target_that_does_not_lead_in_time_is_too_slow() -> None:
    """MT-43: counted from when it was asked."""
    scene = Scene()
    scene.move(ONE, "first", now=100.0)
    scene.move(ONE, "second", now=101.0)
    scene.leadership.on_tick(100.0 + TIMEOUT_S - 0.01)
    assert scene.moved == []
    scene.leadership.on_tick(100.0 + TIMEOUT_S)
    assert scene.told() == [("first", TransferTooSlow)]
    scene.leadership.on_leader(ONE)
    assert scene.told()[1:] == [("second", OK)]
    scene.leadership.on_tick(1e9)
    assert len(scene.moved) == 2


def test_stopping_answers_everybody_once() -> None:
    """G-56."""
    scene = Scene()
    scene.move(ONE, "a")
    scene.move(TWO, "b")
    scene.leadership.fail_all()
    scene.leadership.fail_all()
    scene.leadership.on_leader(ONE)
    assert scene.told() == [("a", Stopped), ("b", Stopped)]


# --- before stopping --------------------------------------------------------------------------------------------------


def hand_over(scene: Scene, *, answered: bool = True) -> None:
    """`answered`: the transfer comes to its end while it is waited for."""

    async def scenario() -> None:
        handing = asyncio.ensure_future(scene.leadership.hand_over(60.0 if answered else 0.05))
        await asyncio.sleep(0)
        if answered:
            assert not handing.done()
            scene.is_leader = False
        await asyncio.wait_for(handing, 10)

    asyncio.run(scenario())


def test_a_stopping_leader_gives_it_to_the_voter_that_it_reached_the_longest() -> None:
    """RF-23."""
    scene = Scene(since={ONE: 10.0, TWO: 5.0, LEARNER: 0.0, 99: 0.0})
    hand_over(scene)
    assert (scene.transfers, scene.scheduled) == ([TWO], 1)


def test_of_several_that_it_reached_as_long_it_takes_the_first() -> None:
    scene = Scene(since={TWO: 5.0, ONE: 5.0})
    hand_over(scene)
    assert scene.transfers == [ONE]


def test_a_transfer_that_does_not_end_is_not_waited_for_for_ever() -> None:
    scene = Scene()
    hand_over(scene, answered=False)
    assert scene.is_leader


@pytest.mark.parametrize(
    "scene", [Scene(leads=False), Scene(since={}), Scene(since={LEARNER: 0.0})], ids=["follower", "alone", "learners"]
)
def test_who_has_nothing_to_give_or_nobody_to_give_it_to_just_stops(scene: Scene) -> None:
    asyncio.run(scene.leadership.hand_over(60.0))
    assert scene.transfers == []
