"""What a member tells the cluster of itself before it serves: until it is applied, or in vain (G-03, CL-02, F-76)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.apply import Kind
from raftkv.membership import DataDirectoryChanged, MemberNotFound
from raftkv.pb import peer_pb2
from raftkv.server.entrance import enter
from raftkv.server.errors import DataForgotten, ProposalLost, Removed, RequestTimedOut, Stopped
from raftkv.version import CLUSTER_VERSION

ME, OTHER = 1, 2
APPLIED = (0, b"")


class FakeNode:
    """What is proposed is answered from `answers`, in turn; the last one is given again and again."""

    def __init__(self, *answers: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.member_id = ME
        self.leader_id = ME
        self.config = SimpleNamespace(name="m1", advertise_client_urls=("http://c:1",), heartbeat_interval_ms=1)
        self.applier = SimpleNamespace(cluster_version="")
        self.peering = SimpleNamespace(identity=SimpleNamespace(data_id=77))
        self.was_removed = False
        self.members = SimpleNamespace(was_removed=lambda _id: self.was_removed)
        self.stopped: asyncio.Future[Exception | None] = self.loop.create_future()
        self.proposed: list[tuple[int, bytes]] = []
        self._answers = list(answers) or [APPLIED]

    def propose(self, kind: int, message: bytes, finish: Callable[[Any, Any], None], context: Any) -> None:
        self.proposed.append((kind, message))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if kind == Kind.CLUSTER_VERSION and answer is APPLIED:
            self.applier.cluster_version = message.decode()
        if answer is not None:
            finish(context, answer)

    def end(self, reason: Exception) -> None:
        if not self.stopped.done():
            self.stopped.set_result(reason)

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.proposed]


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def scenario() -> None:
        await asyncio.wait_for(story(), 10)

    asyncio.run(scenario())


async def entering(node: FakeNode) -> None:
    entered: Any = node
    await enter(entered)


def test_it_says_its_name_its_urls_and_which_data_it_has() -> None:
    """CL-02, RF-72; and as leader of a new cluster, which version that has (F-76)."""

    async def story() -> None:
        node = FakeNode()
        await entering(node)
        assert node.kinds == [Kind.PUBLISH, Kind.CLUSTER_VERSION]
        record = peer_pb2.MemberRecord.FromString(node.proposed[0][1])
        assert (record.ID, record.name, list(record.clientURLs), record.data_id) == (ME, "m1", ["http://c:1"], 77)
        assert node.proposed[1][1] == CLUSTER_VERSION.encode()

    play(story)


def test_a_cluster_that_has_a_version_is_not_given_another() -> None:
    async def story() -> None:
        node = FakeNode()
        node.applier.cluster_version = "3.6.0"
        await entering(node)
        assert node.kinds == [Kind.PUBLISH]

    play(story)


def test_a_follower_waits_until_the_leader_has_decided_the_version() -> None:
    """G-03: clients may ask for it at once."""

    async def story() -> None:
        node = FakeNode()
        node.leader_id = OTHER
        task = asyncio.ensure_future(entering(node))
        await asyncio.sleep(0.01)
        assert (node.kinds, task.done()) == ([Kind.PUBLISH], False)
        node.applier.cluster_version = "3.6.0"
        await task
        assert node.kinds == [Kind.PUBLISH]

    play(story)


@pytest.mark.parametrize("failure", [RequestTimedOut(), ProposalLost(), MemberNotFound()])
def test_it_tries_until_it_is_applied(failure: Exception) -> None:
    """A member that joins may not be known yet where its entry is applied."""

    async def story() -> None:
        node = FakeNode(failure, failure, APPLIED)
        await entering(node)
        assert node.kinds == [Kind.PUBLISH] * 3 + [Kind.CLUSTER_VERSION]

    play(story)


def test_a_member_with_other_data_than_it_joined_with_ends() -> None:
    """RF-72: its last line of defence, should nobody have refused it before."""

    async def story() -> None:
        node = FakeNode(DataDirectoryChanged("told apart"))
        with pytest.raises(DataForgotten):
            await entering(node)

    play(story)


def test_a_member_that_was_removed_ends() -> None:
    """CL-34."""

    async def story() -> None:
        node = FakeNode(MemberNotFound())
        node.was_removed = True
        with pytest.raises(Removed):
            await entering(node)

    play(story)


@pytest.mark.parametrize("reason", [None, OSError("disk")])
def test_a_member_that_ends_meanwhile_does_not_go_on_trying(reason: Exception | None) -> None:
    """Whoever waits for the start learns what ended it."""

    async def story() -> None:
        node = FakeNode(None)
        task = asyncio.ensure_future(entering(node))
        await asyncio.sleep(0)
        node.stopped.set_result(reason)
        with pytest.raises(Stopped if reason is None else OSError):
            await task

    play(story)
