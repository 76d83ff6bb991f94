"""Calls that only the leader can answer: here, forwarded, tried again, given up (G-50, L-24, CL-44)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from peers_support import FakeCall

from raftkv.lease import LeaseExpired, LeaseNotFound
from raftkv.membership import LearnerNotReady
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server import leader_calls as module
from raftkv.server.errors import ApplyLags, Forwarded, NoLeader, NotLeader, NotPrimaryLessor, RequestTimedOut, Stopped
from raftkv.server.leader_calls import LeaderCalls
from raftkv.server.peers import TEXT_NOT_LEADER, PeerCallError
from raftkv.server.peers.protocol import FORWARD

LEADER = 2
TIMEOUT_S = 7.0
PROMOTE, KEEP_ALIVE, TIME_TO_LIVE = (
    peer_pb2.ForwardRequest.PROMOTE,
    peer_pb2.ForwardRequest.KEEP_ALIVE,
    peer_pb2.ForwardRequest.TIME_TO_LIVE,
)
ALIVE = rpc_pb2.LeaseKeepAliveRequest(ID=7).SerializeToString()
NOT_LEADER = PeerCallError(Code.FAILED_PRECONDITION, TEXT_NOT_LEADER)
UNSENT = PeerCallError(Code.UNAVAILABLE, "there is no connection available: connecting to b:1: refused")
LOST = PeerCallError(Code.UNAVAILABLE, "error reading from server: connection lost")


class FakeLink:
    """The way to the leader: answers in turn with what it was given, and each answer takes a second."""

    def __init__(self, node: FakeNode, *answers: bytes | PeerCallError) -> None:
        self._node = node
        self._answers = list(answers)
        self.up = True
        self.asked: list[tuple[peer_pb2.ForwardRequest, float]] = []

    async def ask(self, path: bytes, request: bytes, timeout_s: float) -> bytes:
        assert path == FORWARD
        self.asked.append((peer_pb2.ForwardRequest.FromString(request), timeout_s))
        self._node.clock += 1.0
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, PeerCallError):
            raise answer
        return peer_pb2.ForwardResponse(body=answer).SerializeToString()


class FakeNode:
    def __init__(self, *, leads: bool) -> None:
        self.leads = leads
        self.leader_id = 1 if leads else LEADER
        self.clock = 100.0
        self.config = SimpleNamespace(request_timeout_s=TIMEOUT_S)
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.links: dict[int, FakeLink] = {}
        self.peering = SimpleNamespace(links=self.links)
        self.tasks: list[asyncio.Task[None]] = []
        self.ticks_are_late = False
        self.reads: list[tuple[Callable[[Any, Any], None], Any]] = []
        self.renewed: list[int] = []
        self.lessor = SimpleNamespace(remaining_s=self._remaining_s, ttl_s=lambda _id: 60, keys=None)
        self.lease_keeper = SimpleNamespace(renew=self._renew)
        self.reconfiguration = SimpleNamespace(promote=self._promote)
        self.promotion: Any = (0, b"members")
        self.committed = 5
        self.applier = SimpleNamespace(index=5)

    def now(self) -> float:
        return self.clock

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(work))
        return self.tasks[-1]

    def linearizable(self, read: Callable[[Any, Any], None], context: Any) -> None:
        self.reads.append((read, context))

    def _renew(self, lease_id: int, now: float) -> int:
        assert now == self.clock
        failures = {404: LeaseNotFound, 410: LeaseExpired}
        if lease_id in failures:
            raise failures[lease_id]
        self.renewed.append(lease_id)
        return 60

    def _remaining_s(self, lease_id: int, _now: float) -> int:
        if lease_id == 404:
            raise LeaseNotFound
        return 42

    def _promote(self, member_id: int, finish: Callable[[Any, Any], None], context: Any) -> None:
        assert member_id == 9
        finish(context, self.promotion)


class Scene:
    def __init__(self, *, leads: bool = False) -> None:
        self.node = FakeNode(leads=leads)
        node: Any = self.node
        self.calls = LeaderCalls(node, lambda error: (Code.ABORTED, type(error).__name__))
        self.answers: list[tuple[Any, Any]] = []

    def link(self, *answers: bytes | PeerCallError, to: int = LEADER) -> FakeLink:
        self.node.links[to] = FakeLink(self.node, *answers)
        return self.node.links[to]

    def call(self, method: Any = KEEP_ALIVE, body: bytes = ALIVE) -> None:
        self.calls.call(method, body, lambda *answer: self.answers.append(answer), "ctx")

    async def answer(self) -> Any:
        """The one answer, once all that was spawned has ended."""
        await asyncio.gather(*self.node.tasks)
        [(context, answer)] = self.answers
        assert context == "ctx"
        return answer

    def forwarded(self, method: Any, body: bytes) -> FakeCall:
        """As the leader's member sees it."""
        call: Any = FakeCall()
        self.calls.on_forwarded(call, peer_pb2.ForwardRequest(method=method, body=body))
        seen: FakeCall = call
        return seen


def play(story: Callable[[Scene], Coroutine[Any, Any, None]], *, leads: bool = False) -> None:
    async def scenario() -> None:
        await asyncio.wait_for(story(Scene(leads=leads)), 10)

    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead, a second passes with each call."""
    monkeypatch.setattr(module, "RETRY_S", 0)


def alive(raw: bytes) -> rpc_pb2.LeaseKeepAliveResponse:
    return rpc_pb2.LeaseKeepAliveResponse.FromString(raw)


# --- on the leader ----------------------------------------------------------------------------------------------------


def test_the_leader_answers_at_once() -> None:
    """L-20, L-21, L-25: unknown, run out, or revoked is no error but a TTL of 0."""

    async def story(scene: Scene) -> None:
        for lease_id in (7, 404, 410):
            scene.call(KEEP_ALIVE, rpc_pb2.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())
        answers = [alive(raw) for _, raw in scene.answers]
        assert [(each.ID, each.TTL) for each in answers] == [(7, 60), (404, 0), (410, 0)]
        assert (scene.node.renewed, scene.node.tasks) == ([7], [])

    play(story, leads=True)


def test_the_time_that_a_lease_has_left() -> None:
    """L-30, L-32: -1 for one that is not there."""

    async def story(scene: Scene) -> None:
        for lease_id in (7, 404):
            scene.call(TIME_TO_LIVE, rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id).SerializeToString())
        answers = [rpc_pb2.LeaseTimeToLiveResponse.FromString(raw) for _, raw in scene.answers]
        assert [(each.ID, each.TTL, each.grantedTTL) for each in answers] == [(7, 42, 60), (404, -1, 0)]

    play(story, leads=True)


def test_a_leader_that_was_suspended_makes_sure_that_it_leads() -> None:
    """L-26: by a read index, and renews nothing before."""

    async def story(scene: Scene) -> None:
        scene.node.ticks_are_late = True
        scene.call()
        assert (scene.node.renewed, scene.answers) == ([], [])
        read, context = scene.node.reads.pop()
        read(context, None)
        assert scene.node.renewed == [7]
        assert alive(await scene.answer()).TTL == 60

    play(story, leads=True)


@pytest.mark.parametrize("how", ["no read index", "deposed meanwhile"])
def test_a_leader_that_was_suspended_and_is_deposed_renews_nothing(how: str) -> None:
    """L-26, G-57."""

    async def story(scene: Scene) -> None:
        scene.node.ticks_are_late = True
        scene.call()
        read, context = scene.node.reads.pop()
        scene.node.leads = how != "deposed meanwhile"
        read(context, RequestTimedOut() if how == "no read index" else None)
        assert isinstance(await scene.answer(), NotPrimaryLessor)
        assert scene.node.renewed == []

    play(story, leads=True)


# --- for other members ------------------------------------------------------------------------------------------------


def test_the_leader_answers_for_others() -> None:
    """CL-44, L-24, L-32: the response's body, without a header: that is the asked member's."""

    async def story(scene: Scene) -> None:
        promote = rpc_pb2.MemberPromoteRequest(ID=9).SerializeToString()
        for method, body in ((KEEP_ALIVE, ALIVE), (TIME_TO_LIVE, ALIVE), (PROMOTE, promote)):
            call = scene.forwarded(method, body)
            assert call.ended == (Code.OK, "")
        assert peer_pb2.ForwardResponse.FromString(call.replies[0]).body == b"members"

    play(story, leads=True)


def test_its_verdict_goes_out_as_the_client_shall_see_it() -> None:
    """CL-44: by the leader's table of errors."""

    async def story(scene: Scene) -> None:
        scene.node.promotion = LearnerNotReady()
        call = scene.forwarded(PROMOTE, rpc_pb2.MemberPromoteRequest(ID=9).SerializeToString())
        assert call.ended == (Code.ABORTED, "LearnerNotReady")

    play(story, leads=True)


def test_who_does_not_lead_says_so() -> None:
    """And so does one that was deposed while it made sure: the member asks again elsewhere (L-26)."""

    async def story(scene: Scene) -> None:
        assert scene.forwarded(KEEP_ALIVE, ALIVE).ended == (Code.FAILED_PRECONDITION, TEXT_NOT_LEADER)
        scene.node.leads = scene.node.ticks_are_late = True
        call = scene.forwarded(KEEP_ALIVE, ALIVE)
        read, context = scene.node.reads.pop()
        read(context, RequestTimedOut())
        assert call.ended == (Code.FAILED_PRECONDITION, TEXT_NOT_LEADER)
        scene.node.promotion = NotLeader()
        call = scene.forwarded(PROMOTE, rpc_pb2.MemberPromoteRequest(ID=9).SerializeToString())
        assert call.ended == (Code.FAILED_PRECONDITION, TEXT_NOT_LEADER)
        assert scene.node.renewed == []

    play(story)


def test_a_method_of_a_newer_version_is_refused() -> None:
    async def story(scene: Scene) -> None:
        call = scene.forwarded(0, b"")
        assert call.ended is not None
        assert call.ended[0] is Code.UNIMPLEMENTED

    play(story, leads=True)


# --- forwarding -------------------------------------------------------------------------------------------------------


def test_a_follower_asks_its_leader() -> None:
    """L-24: with the time that the request has left (G-50)."""

    async def story(scene: Scene) -> None:
        link = scene.link(b"the leader's answer")
        scene.call()
        assert await scene.answer() == b"the leader's answer"
        assert link.asked == [(peer_pb2.ForwardRequest(method=KEEP_ALIVE, body=ALIVE), TIMEOUT_S)]
        assert scene.node.renewed == []

    play(story)


@pytest.mark.parametrize("failure", [NOT_LEADER, UNSENT, LOST, PeerCallError(Code.CANCELLED, "closing")])
def test_a_keep_alive_is_tried_again(failure: PeerCallError) -> None:
    """L-24: it may be done twice. Its time goes on meanwhile."""

    async def story(scene: Scene) -> None:
        link = scene.link(failure, failure, b"answer")
        scene.call()
        assert await scene.answer() == b"answer"
        assert [left_s for _, left_s in link.asked] == [TIMEOUT_S, TIMEOUT_S - 1.0, TIMEOUT_S - 2.0]

    play(story)


@pytest.mark.parametrize("failure", [NOT_LEADER, UNSENT])
def test_a_promotion_that_was_surely_not_done_is_tried_again(failure: PeerCallError) -> None:
    async def story(scene: Scene) -> None:
        link = scene.link(failure, b"answer")
        scene.call(PROMOTE, b"")
        assert await scene.answer() == b"answer"
        assert len(link.asked) == 2

    play(story)


@pytest.mark.parametrize(
    "failure", [LOST, PeerCallError(Code.CANCELLED, "closing"), PeerCallError(Code.INTERNAL, "reset")]
)
def test_a_promotion_that_may_have_been_done_is_a_time_out(failure: PeerCallError) -> None:
    """ER-02, CL-44: a second one would be refused though the first was made; and UNAVAILABLE would make clients try a
    second one by themselves."""

    async def story(scene: Scene) -> None:
        link = scene.link(failure, b"answer")
        scene.call(PROMOTE, b"")
        assert isinstance(await scene.answer(), RequestTimedOut)
        assert len(link.asked) == 1

    play(story)


def test_the_leaders_refusal_is_passed_on() -> None:
    """CL-44: code and text as they are."""

    async def story(scene: Scene) -> None:
        scene.link(PeerCallError(Code.NOT_FOUND, "etcdserver: member not found"))
        scene.call(PROMOTE, b"")
        answer = await scene.answer()
        assert isinstance(answer, Forwarded)
        assert (answer.code, answer.text) == (Code.NOT_FOUND, "etcdserver: member not found")

    play(story)


def test_the_next_leader_is_asked_when_there_is_one() -> None:
    async def story(scene: Scene) -> None:
        old = scene.link(NOT_LEADER)
        new = scene.link(b"answer", to=3)
        scene.call()
        for _ in range(5):
            await asyncio.sleep(0)
        scene.node.leader_id = 0
        asked = len(old.asked)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(old.asked) - asked <= 1
        assert scene.answers == []
        scene.node.leader_id = 3
        assert await scene.answer() == b"answer"
        assert len(new.asked) == 1

    play(story)


def test_a_link_that_is_down_is_waited_for() -> None:
    async def story(scene: Scene) -> None:
        link = scene.link(b"answer")
        link.up = False
        scene.call()
        for _ in range(5):
            await asyncio.sleep(0)
        assert link.asked == []
        link.up = True
        assert await scene.answer() == b"answer"

    play(story)


def test_who_becomes_leader_itself_answers_itself() -> None:
    async def story(scene: Scene) -> None:
        scene.node.leader_id = 0
        scene.call()
        await asyncio.sleep(0)
        assert scene.answers == []
        scene.node.leads = True
        assert alive(await scene.answer()).TTL == 60

    play(story)


@pytest.mark.parametrize(("leader", "error"), [(LEADER, RequestTimedOut), (0, NoLeader)])
def test_after_the_request_timeout_it_is_given_up(leader: int, error: type[Exception]) -> None:
    """G-50, L-24: `request timed out`, or `no leader` if none is known then."""

    async def story(scene: Scene) -> None:
        scene.node.leader_id = leader
        scene.call()
        await asyncio.sleep(0)
        scene.node.clock += TIMEOUT_S - 0.1
        for _ in range(5):
            await asyncio.sleep(0)
        assert scene.answers == []
        scene.node.clock += 0.1
        assert type(await scene.answer()) is error

    play(story)


def test_a_leader_that_never_answers_well_is_not_asked_for_ever() -> None:
    async def story(scene: Scene) -> None:
        link = scene.link(LOST)
        scene.call()
        assert type(await scene.answer()) is RequestTimedOut
        assert len(link.asked) == TIMEOUT_S

    play(story)


def test_a_leader_that_does_not_answer_in_time_is_a_time_out() -> None:
    """L-24: as any other; the client knows nothing of deadlines between members."""

    async def story(scene: Scene) -> None:
        scene.link(PeerCallError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        scene.call()
        assert isinstance(await scene.answer(), RequestTimedOut)

    play(story)


def test_stopping_ends_the_waiting() -> None:
    """G-56: a client must not be left without an answer."""

    async def story(scene: Scene) -> None:
        scene.node.leader_id = 0
        scene.call()
        await asyncio.sleep(0)
        scene.node.stopped.set_result(None)
        assert isinstance(await scene.answer(), Stopped)

    play(story)


# --- a leader whose own disk is the slowest ---------------------------------------------------------------------------


def lagging() -> Scene:
    """Its followers have committed entry 7, and perhaps told their clients; it has applied entry 5."""
    scene = Scene(leads=True)
    scene.node.committed = 7
    scene.calls.call(KEEP_ALIVE, ALIVE, lambda _context, answer: scene.answers.append((None, answer)), None)
    assert scene.answers == []
    return scene


def test_a_lease_is_asked_for_once_the_leader_has_applied_what_is_committed() -> None:
    """L-27: a follower's client may ask about a lease that the leader has yet to hear of."""

    async def story() -> None:
        scene = lagging()
        scene.calls.on_applied(6)
        assert scene.node.renewed == []
        scene.calls.on_applied(7)
        assert scene.node.renewed == [7]

    asyncio.run(story())


def test_a_leader_that_does_not_catch_up_with_itself_says_so() -> None:
    """L-27: after a second."""

    async def story() -> None:
        scene = lagging()
        scene.calls.on_tick(scene.node.clock + module.APPLY_WAIT_S - 0.01)
        assert scene.answers == []
        scene.calls.on_tick(scene.node.clock + module.APPLY_WAIT_S)
        assert [type(answer) for _, answer in scene.answers] == [ApplyLags]
        assert scene.node.renewed == []

    asyncio.run(story())


def test_a_leader_that_is_deposed_meanwhile_renews_nothing() -> None:
    """L-26."""

    async def story() -> None:
        scene = lagging()
        scene.node.leads = False
        scene.calls.on_applied(7)
        assert [type(answer) for _, answer in scene.answers] == [NotPrimaryLessor]
        assert scene.node.renewed == []

    asyncio.run(story())
