"""The links of a member in step with the member list, and what a lost message means."""

from __future__ import annotations

from typing import Any

import pytest
from peers_support import ME, MINE
from server_support import FakeLoop

from raftkv.membership import Member
from raftkv.raft import ConfState, Message, MessageType, Snapshot
from raftkv.server.peers import Links
from raftkv.server.peers import links as module


class FakeLink:
    def __init__(
        self, _loop: Any, _identity: Any, peer_id: int, urls: Any, own_urls: Any, _owner: Any, _tls: Any
    ) -> None:
        self.peer_id = peer_id
        self.own_urls = own_urls
        self.urls = [tuple(urls)]
        """All that it was given."""
        self.sent: list[Message] = []
        self.flushed = 0
        """How many of them have left."""
        self.full = False
        self.closed = False
        self.ticks: list[float] = []
        self.up_since_s: float | None = 7.0

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def send(self, message: Message) -> bool:
        if not self.full:
            self.sent.append(message)
        return not self.full

    def set_urls(self, urls: Any) -> None:
        self.urls.append(tuple(urls))

    def on_tick(self, now: float) -> None:
        self.ticks.append(now)

    def close(self) -> None:
        self.closed = True


class Scene:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        this: Any = self
        self.own_urls = ("http://me:1",)
        self.links = Links(this.loop, MINE, lambda: self.own_urls, this)
        self.unsent: list[Message] = []
        self.left: list[int] = []
        self.offered: list[int] = []

    def on_unsent(self, message: Message) -> None:
        self.unsent.append(message)

    def on_left(self, peer_id: int) -> None:
        self.left.append(peer_id)

    def on_snapshot_offered(self, member_id: int) -> None:
        self.offered.append(member_id)

    def update(self, *ids: int) -> None:
        self.links.update([Member(each, (f"http://m{each}:1",)) for each in (ME, *ids)])

    def link(self, peer_id: int) -> Any:
        return self.links.get(peer_id)

    def tick(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.links.on_tick(self.loop.time())

    @property
    def peers(self) -> list[int]:
        return [each.peer_id for each in self.links]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Members 1 and 2, beside this one."""
    monkeypatch.setattr(module, "Link", FakeLink)
    made = Scene()
    made.update(1, 2)
    return made


def message(to: int, kind: MessageType = MessageType.APP) -> Message:
    snapshot = Snapshot(5, 3, ConfState(voters=(ME, to))) if kind is MessageType.SNAP else None
    return Message(kind, to, sender=ME, term=2, snapshot=snapshot)


def test_every_other_member_has_a_link(scene: Scene) -> None:
    assert scene.peers == [1, 2]
    first = scene.link(1)
    scene.update(1, 2, 3)
    assert scene.peers == [1, 2, 3]
    assert scene.link(1) is first, "and keeps it"
    assert first.urls == [("http://m1:1",)] * 2
    assert scene.links.get(ME) is None


def test_a_link_says_where_this_member_listens_now(scene: Scene) -> None:
    """CL-40: as the member list has it when the link is made."""
    scene.own_urls = ("http://me:2",)
    scene.update(1, 2, 3)
    assert [scene.link(each).own_urls for each in (1, 2, 3)] == [("http://me:1",), ("http://me:1",), ("http://me:2",)]


def test_a_member_that_has_moved_keeps_its_link_with_the_new_address(scene: Scene) -> None:
    """CL-40."""
    scene.links.update([Member(1, ("http://new:1",)), Member(2, ("http://m2:1",))])
    assert [scene.link(each).urls[-1] for each in (1, 2)] == [("http://new:1",), ("http://m2:1",)]


def test_a_removed_member_is_told_for_a_while_and_then_left(scene: Scene) -> None:
    """CL-34, RF-64: the entry that removes it still has to reach it. It counts as not connected from the first."""
    gone = scene.link(1)
    scene.update(2)
    scene.links.send([message(1)])
    assert len(gone.sent) == 1
    assert (scene.links.connected_since(1), scene.links.connected_since(2)) == (None, 7.0)
    scene.tick(module.LINGER_S / 2)
    scene.update(2)
    assert (scene.peers, gone.closed, scene.left) == ([1, 2], False, [])
    scene.tick(module.LINGER_S / 2)
    assert (scene.peers, gone.closed, scene.left) == ([2], True, [1])
    scene.tick(10.0)
    assert scene.left == [1]


def test_a_member_that_is_back_in_the_list_is_not_left(scene: Scene) -> None:
    """As when the members are loaded from another store."""
    scene.update(2)
    scene.update(1, 2)
    scene.tick(2 * module.LINGER_S)
    assert (scene.peers, scene.left, scene.links.connected_since(1)) == ([1, 2], [], 7.0)


# --- strangers --------------------------------------------------------------------------------------------------------


def test_a_stranger_has_a_link_while_it_speaks(scene: Scene) -> None:
    """Thesis §4.1: it may be the leader, added while this member was away. The member list says nothing against it, and
    nothing of it is told when it has gone: it was never a member here."""
    scene.links.meet(9, ("http://m9:1",))
    link = scene.link(9)
    assert (link.urls, link.own_urls) == ([("http://m9:1",)], ("http://me:1",))
    scene.update(1, 2, 3)
    scene.tick(2 * module.LINGER_S)
    scene.links.send([message(9)])
    assert (link.sent, len(link.ticks), link.closed, scene.links.connected_since(9)) == ([message(9)], 1, False, 7.0)
    scene.links.part(9)
    assert (link.closed, scene.peers) == (True, [1, 2, 3])
    scene.tick(2 * module.LINGER_S)
    assert scene.left == []


def test_a_stranger_that_becomes_a_member_keeps_its_link(scene: Scene) -> None:
    scene.links.meet(9, ("http://m9:1",))
    link = scene.link(9)
    scene.update(1, 2, 9)
    scene.links.part(9)
    scene.tick(2 * module.LINGER_S)
    assert scene.link(9) is link
    assert (link.closed, scene.left) == (False, [])
    scene.update(1, 2)
    scene.tick(module.LINGER_S)
    assert (link.closed, scene.left) == (True, [9]), "and leaves as a member does"


def test_a_stranger_that_does_not_say_where_it_listens_has_no_link(scene: Scene) -> None:
    scene.links.meet(9, ())
    scene.links.part(9)
    assert scene.peers == [1, 2]


@pytest.mark.parametrize("leaving", [False, True])
def test_the_link_of_a_member_is_not_taken_for_a_strangers(scene: Scene, leaving: bool) -> None:
    """Nor that of one which is being told that it was removed."""
    scene.update(*([2] if leaving else [1, 2]))
    first = scene.link(1)
    scene.links.meet(1, ("http://elsewhere:1",))
    scene.links.part(1)
    assert (scene.link(1) is first, first.closed) == (True, False)
    scene.tick(module.LINGER_S)
    assert (first.closed, scene.left) == (leaving, [1] * leaving)


# --- messages ---------------------------------------------------------------------------------------------------------


def test_messages_go_to_whom_they_are_for_in_order(scene: Scene) -> None:
    messages = [message(to, kind) for kind in (MessageType.APP, MessageType.HEARTBEAT) for to in (2, 1, 2)]
    scene.links.send(messages)
    for peer in (1, 2):
        assert scene.link(peer).sent == [each for each in messages if each.to == peer]
    assert scene.unsent == []


@pytest.mark.parametrize("kind", MessageType, ids=lambda kind: kind.name)
@pytest.mark.parametrize("to", [1, 9], ids=["full", "unknown"])
def test_the_loss_of_appends_and_snapshots_is_reported(scene: Scene, kind: MessageType, to: int) -> None:
    """RF-42: of the others the core finds out by itself, and sends them again."""
    scene.link(1).full = True
    scene.links.send([message(to, kind), message(2, kind)])
    assert [each.to for each in scene.unsent] == [to] * (kind in (MessageType.APP, MessageType.SNAP))
    assert len(scene.link(2).sent) == 1


def test_a_snapshot_that_has_left_is_a_copy_to_come(scene: Scene) -> None:
    scene.link(1).full = True
    scene.links.send([message(1, MessageType.SNAP), message(2, MessageType.SNAP)])
    assert scene.offered == [2]


def test_an_unknown_member_is_not_connected(scene: Scene) -> None:
    scene.link(1).up_since_s = None
    assert [scene.links.connected_since(each) for each in (1, 2, 9, ME)] == [None, 7.0, None, None]


def test_ticks_and_the_end_reach_every_link(scene: Scene) -> None:
    scene.tick(0.1)
    scene.links.close()
    assert [(len(scene.link(each).ticks), scene.link(each).closed) for each in (1, 2)] == [(1, True), (1, True)]


@pytest.mark.parametrize(
    ("voters", "trips", "expected"),
    [
        ((ME,), {}, 0.0),
        ((ME, 1), {1: 0.4}, 0.4),
        ((ME, 1, 2), {1: 0.4, 2: 0.1}, 0.1),
        ((ME, 1, 2, 3), {1: 0.4, 2: 0.1, 3: 0.2}, 0.2),
        ((ME, 1, 2, 3, 4), {1: 0.4, 2: 0.1, 3: 0.2, 4: 0.3}, 0.2),
        ((ME, 1, 2), {1: 0.4, 2: 0.3, 3: 0.1}, 0.3),
        ((ME, 1, 2, 3, 9), {1: 0.4}, 0.0),
    ],
    ids=["alone", "both", "the nearer", "two of three", "two of four", "no learner", "not known"],
)
def test_how_far_the_nearest_quorum_is(
    scene: Scene, voters: tuple[int, ...], trips: dict[int, float], expected: float
) -> None:
    """Of this member and enough of the nearest voters."""
    scene.update(*trips)
    scene.tick(10.0)
    for peer, trip in trips.items():
        scene.link(peer).least_rtt_s = trip
    assert scene.links.quorum_rtt_s(voters) == expected
