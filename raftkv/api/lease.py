"""etcdserverpb.Lease: grants and revokes go through the log; keep-alives and remaining times are the leader's
(L-24)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from raftkv.api.errors import NO_LEADER, STOPPED, TOO_MANY_REQUESTS, Status, refuse, status_of
from raftkv.api.identity_gate import identify
from raftkv.api.leader_watch import LeaderWatch
from raftkv.apply import LEASE_GRANT_COST_BYTES, Kind
from raftkv.apply.access import Caller, check_lease_read, check_lease_write
from raftkv.auth import AuthError
from raftkv.lease import granted_ttl_s
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.pb.splice import framed
from raftkv.rpc.service import Service
from raftkv.server.errors import NodeError

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.auth import Identity
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
        request.TTL = granted_ttl_s(request.TTL, self._node.min_lease_ttl_s)
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
        finish = self._finish_keys if request.keys else self._finish
        self._node.leader_calls.call(peer_pb2.ForwardRequest.TIME_TO_LIVE, message, finish, call)

    def _finish_keys(self, call: Call, result: bytes | Exception) -> None:
        """The keys that are told are those that must be readable, by the rights of now (L-33)."""
        auth = self._node.auth
        if auth.enabled and not isinstance(result, Exception):
            keys = rpc_pb2.LeaseTimeToLiveResponse.FromString(result).keys

            def check(identity: Identity) -> None:
                auth.check_authenticated(identity)
                for key in keys:
                    auth.check_read(identity, key)

            if not self._context.permits(call, check):
                return
        self._finish(call, result)

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
        if self._node.auth.enabled and not self._context.permits(call, lambda identity: self._check_all(identity, ids)):
            return
        messages = (rpc_pb2.LeaseStatus(ID=each).SerializeToString() for each in ids)
        call.reply(self._context.header_now() + b"".join(framed(b"\x12", each) for each in messages))

    def _check_all(self, identity: Identity, ids: Iterable[int]) -> None:
        node = self._node
        node.auth.check_authenticated(identity)
        caller = Caller(identity, node.auth, node.lessor, node.backend.read())
        for each in ids:
            check_lease_read(caller, each)


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
            message = self._asked.popleft()
            if self._context.node.auth.enabled:
                identify(self._context, self._call, self._renew_as, message)
            else:
                self._renew(message)
        self._asking = False
        if self._ended and not self._under_way:
            self._call.finish()

    def _renew_as(self, message: bytes, found: Identity | Exception) -> None:
        """L-28. The rights are looked at here, not by the leader, which does not know who calls."""
        node = self._context.node
        try:
            if isinstance(found, Exception):
                raise found
            caller = Caller(found, node.auth, node.lessor, node.backend.read())
            check_lease_write(caller, rpc_pb2.LeaseKeepAliveRequest.FromString(message).ID)
        except (AuthError, NodeError) as refusal:
            self._under_way = False
            self.end(status_of(refusal))
        else:
            self._renew(message)

    def _renew(self, message: bytes) -> None:
        # The header is filled before the renewal (L-22).
        header = self._context.header_now()
        self._context.node.leader_calls.call(peer_pb2.ForwardRequest.KEEP_ALIVE, message, self._answer, header)

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
