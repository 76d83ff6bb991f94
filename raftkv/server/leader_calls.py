"""Calls that only the leader can answer: done here if this member leads, else forwarded to the one that does.

Keep-alives and remaining times live in the leader's memory (L-24, L-32); only it knows whether a learner has caught up
(CL-44). Owns the waiting for a leader and the trying again. Answers are response bodies without their header, which is
that of the member that was asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from raftkv.lease import LeaseExpired, LeaseNotFound
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import ApplyLags, Forwarded, NoLeader, NotLeader, NotPrimaryLessor, RequestTimedOut, Stopped
from raftkv.server.peers import TEXT_NOT_LEADER, PeerCallError
from raftkv.server.peers.protocol import FORWARD

if TYPE_CHECKING:
    from raftkv.rpc.service import Call
    from raftkv.server.node import Node

RETRY_S: Final = 0.05
APPLY_WAIT_S: Final = 1.0
"""L-27: so long a call about a lease waits for the leader to apply what is committed."""

Method = peer_pb2.ForwardRequest
Answer: TypeAlias = Callable[[Any, "bytes | Exception"], None]
"""answer(context, body) or answer(context, error)."""
Handler: TypeAlias = Callable[[bytes, Answer, Any], None]
Status: TypeAlias = "tuple[Code, str]"


class LeaderCalls:
    def __init__(self, node: Node, status_of: Callable[[Exception], Status]) -> None:
        """`status_of`: what a client is told of an error, for the member that forwards."""
        self._node = node
        self._status_of = status_of
        self._handlers: dict[int, Handler] = {
            Method.PROMOTE: self._promote,
            Method.KEEP_ALIVE: partial(self._when_applied, self._keep_alive),
            Method.TIME_TO_LIVE: partial(self._when_applied, self._time_to_live),
        }
        self._lagging: deque[tuple[int, float, Handler, tuple[bytes, Answer, Any]]] = deque()
        """(index to be applied, until when, what to do then); bounded by the open requests."""

    def call(self, method: Method.Method.ValueType, body: bytes, answer: Answer, context: Any) -> None:
        """`body` is the client's request, well formed. `answer` is called once, perhaps at once."""
        if self._node.leads:
            self._handlers[method](body, answer, context)
        else:
            self._node.spawn(self._forward(method, body, answer, context))

    # --- on another member --------------------------------------------------------------------------------------------

    async def _forward(self, method: Method.Method.ValueType, body: bytes, answer: Answer, context: Any) -> None:
        node = self._node
        until_s = node.now() + node.config.request_timeout_s
        request = Method(method=method, body=body).SerializeToString()
        while not node.stopped.done():
            if node.leads:
                self._handlers[method](body, answer, context)
                return
            left_s = until_s - node.now()
            if left_s <= 0:
                break
            link = node.peering.links.get(node.leader_id) if node.leader_id else None
            if link is not None and link.up:
                try:
                    raw = await link.ask(FORWARD, request, left_s)
                except PeerCallError as failure:
                    if failure.code is Code.DEADLINE_EXCEEDED:
                        break
                    if not _may_try_again(method, failure):
                        # Of a broken connection nobody can tell whether the leader has done it.
                        broken = failure.code in _BROKEN
                        answer(context, RequestTimedOut() if broken else Forwarded(failure.code, failure.text))
                        return
                else:
                    answer(context, peer_pb2.ForwardResponse.FromString(raw).body)
                    return
            await asyncio.sleep(RETRY_S)
        if node.stopped.done():
            answer(context, Stopped())
        else:
            answer(context, RequestTimedOut() if node.leader_id else NoLeader())

    # --- on the leader ------------------------------------------------------------------------------------------------

    def on_forwarded(self, call: Call, request: peer_pb2.ForwardRequest) -> None:
        handler = self._handlers.get(request.method)
        if handler is None:
            call.fail(Code.UNIMPLEMENTED, f"the leader does not know method {request.method}: upgrade it")
        elif not self._node.leads:
            call.fail(Code.FAILED_PRECONDITION, TEXT_NOT_LEADER)
        else:
            handler(request.body, self._answer_member, call)

    def _answer_member(self, call: Call, result: bytes | Exception) -> None:
        if isinstance(result, NotLeader | NotPrimaryLessor):
            call.fail(Code.FAILED_PRECONDITION, TEXT_NOT_LEADER)  # it will ask who leads now (L-26)
        elif isinstance(result, Exception):
            call.fail(*self._status_of(result))
        else:
            call.reply(peer_pb2.ForwardResponse(body=result).SerializeToString())

    def _when_applied(self, handler: Handler, body: bytes, answer: Answer, context: Any) -> None:
        """A follower may have applied, and told its client of, what a leader with a slower disk has committed and not
        applied yet: a lease just granted must be known when it is asked for (L-27)."""
        node = self._node
        if node.applier.index >= node.committed:
            handler(body, answer, context)
        else:
            self._lagging.append((node.committed, node.now() + APPLY_WAIT_S, handler, (body, answer, context)))

    def on_applied(self, applied: int) -> None:
        while self._lagging and self._lagging[0][0] <= applied:
            _, _, handler, (body, answer, context) = self._lagging.popleft()
            if self._node.leads:
                handler(body, answer, context)
            else:
                answer(context, NotPrimaryLessor())

    def fail_all(self, error: Exception) -> None:
        lagging, self._lagging = self._lagging, deque()
        for *_, (_, answer, context) in lagging:
            answer(context, error)

    def on_tick(self, now: float) -> None:
        while self._lagging and now >= self._lagging[0][1]:
            *_, (_, answer, context) = self._lagging.popleft()
            answer(context, ApplyLags())

    def _promote(self, body: bytes, answer: Answer, context: Any) -> None:
        member_id = rpc_pb2.MemberPromoteRequest.FromString(body).ID

        def finish(_context: None, result: Any) -> None:
            answer(context, result[1] if type(result) is tuple else result)

        self._node.reconfiguration.promote(member_id, finish, None)

    def _keep_alive(self, body: bytes, answer: Answer, context: Any) -> None:
        """A leader that was suspended may have been deposed meanwhile: it makes sure first (L-26)."""
        if self._node.ticks_are_late:
            self._node.linearizable(self._keep_alive_confirmed, (body, answer, context))
        else:
            self._keep_alive_confirmed((body, answer, context), None)

    def _keep_alive_confirmed(self, asked: tuple[bytes, Answer, Any], error: Exception | None) -> None:
        body, answer, context = asked
        if error is not None or not self._node.leads:
            answer(context, NotPrimaryLessor())
            return
        response = rpc_pb2.LeaseKeepAliveResponse(ID=rpc_pb2.LeaseKeepAliveRequest.FromString(body).ID)
        try:
            response.TTL = self._node.lease_keeper.renew(response.ID, self._node.now())
        except (LeaseNotFound, LeaseExpired):
            response.TTL = 0  # unknown, revoked, or run out and about to be revoked (L-21, L-25)
        answer(context, response.SerializeToString())

    def _time_to_live(self, body: bytes, answer: Answer, context: Any) -> None:
        node, lessor = self._node, self._node.lessor
        request = rpc_pb2.LeaseTimeToLiveRequest.FromString(body)
        response = rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID)
        try:
            response.TTL = lessor.remaining_s(request.ID, node.now())
        except LeaseNotFound:
            response.TTL = -1  # L-30
        else:
            response.grantedTTL = lessor.ttl_s(request.ID)
            if request.keys:
                response.keys.extend(lessor.keys(node.backend.read(), request.ID))
        answer(context, response.SerializeToString())


def _may_try_again(method: int, failure: PeerCallError) -> bool:
    """It was surely not done, or may be done twice."""
    if failure.text == TEXT_NOT_LEADER or failure.text.startswith("there is no connection available"):
        return True
    return method != Method.PROMOTE and failure.code in _BROKEN


_BROKEN: Final = (Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL)
