"""Which of two members that differ is wrong, where it began to differ, and who is told (design §6, AL-11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from peers_support import CLUSTER

from raftkv.apply import RecentHashes
from raftkv.pb import peer_pb2
from raftkv.rpc.codes import Code
from raftkv.server import divergence as module
from raftkv.server.divergence import Divergence
from raftkv.server.errors import Diverged
from raftkv.server.peers import Identity, PeerCallError
from raftkv.server.peers.protocol import DIVERGED, STATE_HASHES

ME = 1
RIGHT, WRONG = 1000, 2000
"""What is added to an index, for the hash after it."""


class Peer:
    """Another member, and its hashes: right up to `right_to`, wrong from then on. None: it does not answer."""

    def __init__(self, peer_id: int, right_to: int | None = 10**6, applied: int = 50) -> None:
        self.peer_id = peer_id
        self.right_to = right_to
        self.applied = applied
        self.told: list[tuple[int, int]] = []

    async def ask(self, path: bytes, request: bytes, timeout_s: float) -> bytes:
        assert timeout_s == module.ASK_TIMEOUT_S
        if self.right_to is None:
            raise PeerCallError(Code.UNAVAILABLE, "away")
        if path == DIVERGED:
            diverged = peer_pb2.DivergedRequest.FromString(request)
            self.told.append((diverged.member_id, diverged.index))
            return b""
        assert path == STATE_HASHES
        asked = peer_pb2.StateHashesRequest.FromString(request)
        indexes = range(asked.first, min(asked.last, self.applied) + 1)
        hashes = [index + (RIGHT if index <= self.right_to else WRONG) for index in indexes]
        first = asked.first if hashes else 0
        return peer_pb2.StateHashesResponse(first=first, hashes=hashes).SerializeToString()


class FakeLinks(dict[int, Peer]):
    def __iter__(self) -> Any:
        return iter(self.values())


class Scene:
    """Member 1 among these, with hashes up to entry 50, all of them right unless told otherwise."""

    def __init__(self, *peers: Peer, right_to: int = 10**6, applied: int = 50, remembers: int = 40) -> None:
        self.peers = {each.peer_id: each for each in peers}
        self.ended: list[Diverged] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.applier: Any = SimpleNamespace(index=0, hashes=RecentHashes(remembers))
        self.right_to = right_to
        self.apply(applied)
        links: Any = FakeLinks(self.peers)
        identity = Identity(CLUSTER, ME, 1)
        voters = (ME, *self.peers)
        applier: Any = self.applier
        self.divergence = Divergence(identity, applier, links, lambda: voters, self._spawn, self.ended.append)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(work))
        return self.tasks[-1]

    def apply(self, index: int) -> None:
        while self.applier.index < index:
            self.applier.index += 1
            right = RIGHT if self.applier.index <= self.right_to else WRONG
            self.applier.hashes.note(self.applier.index, self.applier.index + right)

    def hear(self, sender: int, index: int, *, right: bool) -> None:
        self.divergence.check(sender, index, index + (RIGHT if right else WRONG))

    async def settle(self) -> None:
        """Until every inquiry has come to its end."""
        await asyncio.gather(*self.tasks)

    @property
    def told(self) -> list[list[tuple[int, int]]]:
        return [each.told for each in self.peers.values()]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    monkeypatch.setattr(module, "PAUSE_S", 0.001)
    monkeypatch.setattr(module, "DECIDE_S", 0.05)


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def scenario() -> None:
        await asyncio.wait_for(story(), 10)

    asyncio.run(scenario())


# --- comparing --------------------------------------------------------------------------------------------------------


def test_equal_states_are_nothing_to_speak_of() -> None:
    async def story() -> None:
        scene = Scene(Peer(2), Peer(3))
        for index in (50, 49, 11):
            scene.hear(2, index, right=True)
        assert (scene.divergence.checked, scene.tasks) == (3, [])

    play(story)


def test_what_is_not_applied_here_is_compared_when_it_is() -> None:
    """The newest saying of each member is kept: what differs once differs from then on, and the newest is forgotten
    last."""

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3))
        scene.hear(2, 53, right=False)
        scene.hear(2, 56, right=True)
        scene.hear(3, 57, right=True)
        scene.divergence.on_applied()
        assert scene.divergence.checked == 0
        scene.apply(55)
        scene.divergence.on_applied()
        assert scene.divergence.checked == 0
        scene.apply(60)
        scene.divergence.on_applied()
        assert (scene.divergence.checked, scene.tasks) == (2, [])
        scene.divergence.on_applied()
        assert scene.divergence.checked == 2

    play(story)


def test_a_difference_is_found_later_too() -> None:
    async def story() -> None:
        scene = Scene(Peer(2), Peer(3), right_to=52)
        scene.hear(2, 55, right=True)
        scene.apply(60)
        scene.divergence.on_applied()
        assert len(scene.tasks) == 1
        await scene.settle()

    play(story)


def test_what_is_forgotten_here_cannot_be_compared() -> None:
    """Forty entries are remembered."""

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3))
        scene.hear(2, 10, right=False)
        assert (scene.divergence.checked, scene.tasks) == (0, [])
        scene.divergence.on_applied()
        assert scene.divergence.checked == 0

    play(story)


def test_a_member_that_catches_up_in_leaps_still_compares() -> None:
    """What the others said first is far behind what it remembers by then."""

    async def story() -> None:
        scene = Scene(Peer(2, applied=500), Peer(3, applied=500), right_to=60)
        scene.hear(2, 55, right=True)
        scene.hear(2, 495, right=True)
        scene.apply(500)
        scene.divergence.on_applied()
        assert scene.divergence.checked == 1
        await scene.settle()
        assert len(scene.ended) == 1

    play(story)


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "ends"),
    [
        ([10**6, 10**6], True),
        ([10**6, None], True),
        ([10**6, 40], False),
        ([10**6, 10**6, 10**6, 10**6], True),
        ([10**6, 40, 10**6, 10**6], True),
        ([10**6, 40, None, None], True),
        ([10**6, 40, 40, None], False),
        ([10**6, 40, 40, 40], False),
        ([10**6], True),
    ],
)
def test_who_has_no_majority_on_its_side_is_wrong(others: list[int | None], ends: bool) -> None:
    """This member's state is wrong from 41 on. Member 2, which it heard from, is right; of the others some agree
    with this one, some do not, some are away. Not knowing clears nobody."""

    async def story() -> None:
        scene = Scene(*(Peer(2 + at, right_to) for at, right_to in enumerate(others)), right_to=40)
        scene.hear(2, 45, right=True)
        await scene.settle()
        assert bool(scene.ended) is ends

    play(story)


@pytest.mark.parametrize("silent", [False, True], ids=["has not applied so far", "does not answer"])
def test_who_cannot_say_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    """Member 2 is wrong and member 3 is slow. Member 1, which is right, goes on: ended, it would take the majority with
    it."""
    monkeypatch.setattr(module, "DECIDE_S", 5.0)

    async def story() -> None:
        slow = Peer(3, None) if silent else Peer(3, applied=44)
        scene = Scene(Peer(2, right_to=40), slow)
        scene.hear(2, 45, right=False)
        await asyncio.sleep(0.02)
        assert scene.ended == []
        assert not scene.tasks[0].done()
        slow.right_to, slow.applied = 10**6, 45
        await scene.settle()
        assert scene.ended == []
        assert scene.told == [[(2, 45)], [(2, 45)]]

    play(story)


def test_who_is_outvoted_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the slow ones will say, there is no majority for it."""
    monkeypatch.setattr(module, "DECIDE_S", 60.0)

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3), Peer(4), Peer(5, None), right_to=40)
        scene.hear(2, 45, right=True)
        await scene.settle()
        assert len(scene.ended) == 1

    play(story)


def test_the_one_in_the_minority_names_the_first_entry_that_differs_and_tells_all() -> None:
    """AL-11: so that the alarm is raised before it is gone."""

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3), right_to=40)
        scene.hear(2, 45, right=True)
        await scene.settle()
        [reason] = scene.ended
        assert "member, 1, differs" in str(reason)
        assert "from entry 41 on" in str(reason)
        assert "raftkv rebuild" in str(reason)
        assert scene.told == [[(ME, 41)], [(ME, 41)]]

    play(story)


def test_the_one_in_the_majority_tells_who_is_meant_and_goes_on() -> None:
    async def story() -> None:
        scene = Scene(Peer(2, right_to=30), Peer(3))
        scene.hear(2, 45, right=False)
        await scene.settle()
        assert scene.ended == []
        assert scene.told == [[(2, 45)], [(2, 45)]]

    play(story)


def test_an_accusation_that_lies_too_far_back_accuses_nobody() -> None:
    """This member remembers nothing of it, so it can say neither that it is wrong itself nor that the other is."""

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3))
        scene.divergence.inquire(2, 5)
        await scene.settle()
        assert (scene.ended, scene.told) == ([], [[], []])
        scene.divergence.inquire(2, 5)
        assert len(scene.tasks) == 2, "and it may be asked again"
        await scene.settle()

    play(story)


def test_one_inquiry_at_a_time_and_then_again() -> None:
    """Every heartbeat says the same until the other has stopped."""

    async def story() -> None:
        scene = Scene(Peer(2, right_to=30), Peer(3))
        for _ in range(5):
            scene.hear(2, 45, right=False)
        assert len(scene.tasks) == 1
        await scene.settle()
        scene.hear(2, 45, right=False)
        assert len(scene.tasks) == 2
        await scene.settle()

    play(story)


def test_a_member_that_is_accused_looks_at_itself() -> None:
    """The other may be the one that is wrong."""

    async def story() -> None:
        accused_rightly, accused_wrongly = Scene(Peer(2), Peer(3), right_to=40), Scene(Peer(2, right_to=40), Peer(3))
        for scene in (accused_rightly, accused_wrongly):
            scene.divergence.inquire(2, 45)
            await scene.settle()
        assert len(accused_rightly.ended) == 1
        assert accused_wrongly.ended == []
        assert accused_wrongly.told == [[(2, 45)], [(2, 45)]]

    play(story)


@pytest.mark.parametrize(
    ("right_to", "first"), [(44, 45), (40, 41), (20, 21), (10, 11), (5, 11)], ids=["the last", "", "", "", "forgotten"]
)
def test_the_first_entry_that_differs_is_looked_for_as_far_back_as_is_remembered(right_to: int, first: int) -> None:
    """Forty entries, up to 50, so the oldest is 11; what began before it is said to have begun there."""

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3), right_to=right_to)
        scene.hear(3, 45, right=True)
        await scene.settle()
        assert f"from entry {first} on" in str(scene.ended[0])

    play(story)


def test_members_that_cannot_be_asked_leave_the_entry_where_it_was_noticed() -> None:
    """Nobody clears this member, so it ends all the same."""

    async def story() -> None:
        scene = Scene(Peer(2, right_to=None), Peer(3, right_to=None), right_to=40)
        scene.hear(2, 45, right=True)
        await scene.settle()
        assert "from entry 45 on" in str(scene.ended[0])

    play(story)


def test_learners_have_no_say() -> None:
    """A majority is one of voters."""

    async def story() -> None:
        scene = Scene(Peer(2), Peer(3), Peer(4, right_to=40), Peer(5, right_to=40), right_to=40)
        scene.divergence._voters = lambda: (ME, 2, 3)
        scene.hear(2, 45, right=True)
        await scene.settle()
        assert len(scene.ended) == 1

    play(story)


def test_an_inquiry_that_fails_is_no_reason_to_go_on() -> None:
    async def story() -> None:
        scene = Scene(Peer(2), Peer(3), right_to=40)

        async def ask(path: bytes, _request: bytes, _timeout_s: float) -> bytes:
            return b"\xff nonsense" if path == STATE_HASHES else b""

        other: Any = scene.peers[3]
        other.ask = ask
        scene.hear(2, 45, right=True)
        await scene.settle()
        assert "from entry 45 on" in str(scene.ended[0])

    play(story)
