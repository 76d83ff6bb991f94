"""Keep-alives over one stream: in order, one on its way at a time, however long the leader takes (L-20 to L-24)."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw

from raftkv.api import lease as module
from raftkv.api.lease import LeaseService
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import Forwarded, NoLeader


class SlowLeader:
    """Calls that wait until the test answers them; at once when `prompt`."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes, Any, Any]] = []
        self.prompt = False

    def call(self, method: int, body: bytes, answer: Any, context: Any) -> None:
        if self.prompt:
            answer(context, _renewed(body))
        else:
            self.asked.append((method, body, answer, context))

    def answer(self, result: Any = None) -> None:
        _, body, answer, context = self.asked.pop(0)
        answer(context, result if isinstance(result, Exception) else _renewed(body))


def _renewed(body: bytes) -> bytes:
    return raw(rpc_pb2.LeaseKeepAliveResponse(ID=rpc_pb2.LeaseKeepAliveRequest.FromString(body).ID, TTL=60))


class Scene:
    """A keep-alive stream of a client."""

    def __init__(self, node: FakeNode, **metadata: str) -> None:
        self.node = node
        self.leader = SlowLeader()
        node.leader_calls = self.leader  # type: ignore[attr-defined]
        self.service = LeaseService(node.context())
        self.call = FakeCall(None, **metadata)
        call: Any = self.call
        self.stream = self.service.keep_alive(call)

    def ask(self, *lease_ids: int) -> None:
        for lease_id in lease_ids:
            self.stream.on_message(raw(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)))

    @property
    def answers(self) -> list[rpc_pb2.LeaseKeepAliveResponse]:
        return [rpc_pb2.LeaseKeepAliveResponse.FromString(each) for each in self.call.sent]


@pytest.fixture
def scene(fake_node: FakeNode) -> Scene:
    return Scene(fake_node)


def test_each_request_is_one_answer_in_order(scene: Scene) -> None:
    """L-20: with one on its way to the leader; the next is asked when that is answered."""
    scene.ask(1, 2, 3)
    assert [method for method, *_ in scene.leader.asked] == [peer_pb2.ForwardRequest.KEEP_ALIVE]
    assert scene.answers == []
    for count in (1, 2, 3):
        scene.leader.answer()
        assert [(each.ID, each.TTL) for each in scene.answers] == [(1, 60), (2, 60), (3, 60)][:count]
    assert scene.leader.asked == []
    scene.ask(4)
    scene.leader.answer()
    assert scene.answers[-1].ID == 4


def test_the_header_is_that_of_the_member_that_was_asked_and_older_than_the_renewal(scene: Scene) -> None:
    """G-10, L-22."""
    scene.ask(1, 2)
    scene.node.put(b"k")
    scene.leader.answer()
    scene.leader.answer()
    assert [each.header.revision for each in scene.answers] == [1, 2]
    assert {(each.header.member_id, each.header.cluster_id) for each in scene.answers} == {(7, 8)}


def test_a_half_closed_stream_ends_when_all_is_answered(scene: Scene) -> None:
    """L-23."""
    ended: list[int] = []
    scene.call.finish = lambda: ended.append(len(scene.call.sent))  # type: ignore[attr-defined]
    scene.ask(1, 2)
    scene.stream.on_half_close()
    assert ended == []
    scene.leader.answer()
    scene.leader.answer()
    assert ended == [2]
    other = Scene(scene.node)
    other.call.finish = lambda: ended.append(0)  # type: ignore[attr-defined]
    other.stream.on_half_close()
    assert ended == [2, 0], "at once, when nothing was asked"


def test_thousands_behind_a_slow_one_are_answered_when_the_leader_is_prompt_again(scene: Scene) -> None:
    """L-20: when this member has become the leader itself it answers within the call; each of them within the other
    would be too deep."""
    scene.ask(*range(1, 3001))
    scene.leader.prompt = True
    scene.leader.answer()
    assert [each.ID for each in scene.answers] == list(range(1, 3001))
    scene.ask(3001, 3002)
    assert [each.ID for each in scene.answers[3000:]] == [3001, 3002]
    assert scene.leader.asked == []


def test_answers_come_in_order_though_the_leader_is_slow_and_prompt_by_turns(scene: Scene) -> None:
    scene.leader.prompt = True
    scene.ask(1, 2)
    scene.leader.prompt = False
    scene.ask(3, 4, 5)
    scene.leader.answer()
    assert len(scene.leader.asked) == 1, "one on its way at a time"
    scene.leader.prompt = True
    scene.ask(6)
    assert len(scene.answers) == 3
    scene.leader.answer()
    assert [each.ID for each in scene.answers] == [1, 2, 3, 4, 5, 6]


def test_a_half_closed_stream_ends_once_though_its_last_answers_come_at_once(scene: Scene) -> None:
    """L-23."""
    ended: list[int] = []
    scene.call.finish = lambda: ended.append(len(scene.call.sent))  # type: ignore[attr-defined]
    scene.ask(1, 2, 3)
    scene.stream.on_half_close()
    scene.leader.prompt = True
    scene.leader.answer()
    assert ended == [3]


def test_so_many_keep_alives_of_a_stream_may_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound its client is refused, which then begins anew; one that is under way does not count."""
    monkeypatch.setattr(module, "MAX_ASKED", 2)
    scene.ask(1, 2, 3)
    before = scene.call.failure
    scene.ask(4)
    after = scene.call.failure
    assert (before, after) == (None, (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"))
    scene.leader.answer()
    assert scene.leader.asked == [], "what waited is not asked for nobody"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (NoLeader(), (Code.UNAVAILABLE, "etcdserver: no leader")),
        (Forwarded(Code.UNKNOWN, "the leader's own"), (Code.UNKNOWN, "the leader's own")),
    ],
)
def test_a_failure_ends_the_stream(scene: Scene, failure: Exception, status: tuple[Code, str]) -> None:
    """L-23, L-24: what waits behind it is not asked any more."""
    scene.ask(1, 2)
    scene.leader.answer(failure)
    assert (scene.call.failure, scene.answers, scene.leader.asked) == (status, [], [])


def test_an_answer_that_comes_when_the_client_has_gone_is_lost(scene: Scene) -> None:
    scene.ask(1, 2)
    scene.stream.on_closed()
    scene.leader.answer()
    assert scene.leader.asked == [], "the rest is not asked for nobody"
    scene.service.on_tick(0.0)
    scene.service.end_streams()
    assert scene.call.failure is None


def test_what_is_no_request_ends_the_stream(scene: Scene) -> None:
    scene.stream.on_message(b"\xff\xff")
    assert scene.call.failure is not None
    assert scene.call.failure[0] is Code.INTERNAL
    assert scene.leader.asked == []


def test_a_stream_that_wants_a_leader_is_refused_without_one(fake_node: FakeNode) -> None:
    """G-20."""
    fake_node.leader_id = 0
    assert Scene(fake_node, hasleader="true").call.failure == (Code.UNAVAILABLE, "etcdserver: no leader")
    assert Scene(fake_node).call.failure is None


def test_streams_end_when_the_leader_has_been_gone_for_long(fake_node: FakeNode) -> None:
    """G-21, G-22: those that asked for it."""
    wanting, other = Scene(fake_node, hasleader="true"), Scene(fake_node)
    fake_node.leader_id = 0
    for now in (0.0, 2.9):
        wanting.service.on_tick(now)
        other.service.on_tick(now)
        assert (wanting.call.failure, other.call.failure) == (None, None)
    wanting.service.on_tick(3.0)
    other.service.on_tick(99.0)
    assert wanting.call.failure == (Code.UNAVAILABLE, "etcdserver: no leader")
    assert other.call.failure is None


def test_stopping_ends_the_streams(scene: Scene) -> None:
    """ER-03: with a code after which clients go on elsewhere."""
    scene.service.end_streams()
    assert scene.call.failure == (Code.UNAVAILABLE, "etcdserver: server stopped")


def test_the_remaining_time_is_the_leaders_answer(scene: Scene) -> None:
    """L-32: under the header of the member that was asked."""
    call: Any = FakeCall()
    scene.service.time_to_live(call, raw(rpc_pb2.LeaseTimeToLiveRequest(ID=5)))
    [(method, _, answer, context)] = scene.leader.asked
    assert method == peer_pb2.ForwardRequest.TIME_TO_LIVE
    answer(context, raw(rpc_pb2.LeaseTimeToLiveResponse(ID=5, TTL=42, grantedTTL=60)))
    response = rpc_pb2.LeaseTimeToLiveResponse.FromString(call.replies[0])
    assert (response.header.member_id, response.ID, response.TTL, response.grantedTTL) == (7, 5, 42, 60)
    refused: Any = FakeCall()
    scene.service.time_to_live(refused, raw(rpc_pb2.LeaseTimeToLiveRequest(ID=5)))
    answer(refused, NoLeader())
    assert refused.failure == (Code.UNAVAILABLE, "etcdserver: no leader")
