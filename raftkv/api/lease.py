"""etcdserverpb.Lease: grants and revokes go through the log; keep-alives and remaining times are the leader's
(L-24)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raftkv.api.errors import NO_LEADER, STOPPED, TOO_MANY_REQUESTS, Status, refuse, status_of
from raftkv.api.leader_watch import LeaderWatch
from raftkv.apply import LEASE_GRANT_COST_BYTES, Kind
from raftkv.lease import LeaseTTLTooLarge, granted_ttl_s
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.pb.splice import framed
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call


MAX_ASKED: Final = 10_000
"""Keep-alives of one stream that wait for the leader: clients send one a lease and third of its time."""


class LeaseService:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node
        self._streams: dict[KeepAliveStream, None] = {}

    def service(self) -> Service:
        return (
            Service("etcdserverpb.Lease")
            .unary("LeaseGrant", self.grant)
            .unary("LeaseRevoke", self.revoke)
            .bidi("LeaseKeepAlive", self.keep_alive)
            .unary("LeaseTimeToLive", self.time_to_live)
            .unary("LeaseLeases", self.leases)
        )

    def grant(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.LeaseGrantRequest.FromString, message)
        if request is None:
            return
        if not self._node.quota.allows(LEASE_GRANT_COST_BYTES):
            self._context.refuse_no_space(call)
            return
        # Settled here, so that all members apply the same entry: which id (L-01), and the least TTL (L-04).
        try:
            request.TTL = granted_ttl_s(request.TTL, self._node.min_lease_ttl_s)
        except LeaseTTLTooLarge as refusal:
            refuse(call, status_of(refusal))
            return
        request.ID = request.ID or self._node.new_lease_id()
        self._context.propose(call, Kind.LEASE_GRANT, request.SerializeToString())

    def revoke(self, call: Call, message: bytes) -> None:
        if self._context.parse(call, rpc_pb2.LeaseRevokeRequest.FromString, message) is None:
            return
        self._context.propose(call, Kind.LEASE_REVOKE, message)

    def keep_alive(self, call: Call) -> KeepAliveStream:
        stream = KeepAliveStream(self._context, call, self._streams.pop)
        if self._context.unless_no_leader(call):
            self._streams[stream] = None
        return stream

    def end_streams(self) -> None:
        for stream in list(self._streams):
            stream.end(STOPPED)

    def time_to_live(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.LeaseTimeToLiveRequest.FromString, message)
        if request is None:
            return
        self._node.leader_calls.call(peer_pb2.ForwardRequest.TIME_TO_LIVE, message, self._finish, call)

    def _finish(self, call: Call, result: bytes | Exception) -> None:
        if isinstance(result, Exception):
            refuse(call, status_of(result))
        else:
            call.reply(self._context.header_now() + result)

    def on_tick(self, now: float) -> None:
        """Streams that lost their leader (G-21)."""
        for stream in list(self._streams):
            stream.on_tick(now)

    def leases(self, call: Call, message: bytes) -> None:
        if self._context.parse(call, rpc_pb2.LeaseLeasesRequest.FromString, message) is None:
            return
        ids = self._node.lessor.ids(self._node.now())
        messages = (rpc_pb2.LeaseStatus(ID=each).SerializeToString() for each in ids)
        call.reply(self._context.header_now() + b"".join(framed(b"\x12", each) for each in messages))


class KeepAliveStream:
    """Each request is one answer, in order (L-20): one is under way, perhaps on the leader's member, the others
    wait."""

    __slots__ = ("_asked", "_asking", "_call", "_context", "_ended", "_forget", "_leader_watch", "_under_way")

    def __init__(self, context: ApiContext, call: Call, forget: Callable[[KeepAliveStream, None], object]) -> None:
        self._context = context
        self._call = call
        self._forget = forget
        self._asked: deque[bytes] = deque()
        """Requests behind the one under way. Bounded by MAX_ASKED: a client that asks for more is refused."""
        self._under_way = False
        self._asking = False
        """`_ask` is running: an answer that comes within it leaves the next request to its loop."""
        self._ended = False
        """The client asks nothing more."""
        self._leader_watch = LeaderWatch(context.node, call)

    def on_message(self, message: bytes) -> None:
        if self._context.parse(self._call, rpc_pb2.LeaseKeepAliveRequest.FromString, message) is None:
            return
        if len(self._asked) >= MAX_ASKED:
            self.end(TOO_MANY_REQUESTS)
            return
        self._asked.append(message)
        self._ask()

    def _ask(self) -> None:
        """One after the other. An answer may come within the call or later; a loop takes both without nesting."""
        self._asking = True
        while self._asked and not self._under_way:
            self._under_way = True
            # The header is filled before the renewal (L-22).
            header = self._context.header_now()
            message = self._asked.popleft()
            self._context.node.leader_calls.call(peer_pb2.ForwardRequest.KEEP_ALIVE, message, self._answer, header)
        self._asking = False
        if self._ended and not self._under_way:
            self._call.finish()

    def _answer(self, header: bytes, result: bytes | Exception) -> None:
        self._under_way = False
        if isinstance(result, Exception):
            self.end(status_of(result))
            return
        self._call.send(header + result)
        if not self._asking:
            self._ask()

    def on_half_close(self) -> None:
        self._ended = True
        self._ask()

    def on_tick(self, now: float) -> None:
        if self._leader_watch.is_lost(now):
            self.end(NO_LEADER)

    def end(self, status: Status) -> None:
        self._asked.clear()
        refuse(self._call, status)

    def on_closed(self) -> None:
        self._asked.clear()
        self._forget(self, None)

    def on_writable(self) -> None: ...
