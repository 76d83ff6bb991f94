"""etcdserverpb.Lease: grants and revokes go through the log; keep-alives are the leader's, in memory (L-24)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raftkv.api.errors import NO_LEADER, NOT_PRIMARY_LESSOR, STOPPED, Status, refuse, status_of
from raftkv.apply import LEASE_GRANT_COST_BYTES, Kind
from raftkv.lease import LeaseExpired, LeaseNotFound, LeaseTTLTooLarge, granted_ttl_s
from raftkv.pb import rpc_pb2
from raftkv.pb.splice import framed
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call


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
        lessor = self._node.lessor
        response = rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID)
        if not self._node.leads:
            refuse(call, NO_LEADER)
            return
        try:
            response.TTL = lessor.remaining_s(request.ID, self._node.now())
        except LeaseNotFound:
            response.TTL = -1  # L-30
        else:
            response.grantedTTL = lessor.ttl_s(request.ID)
            if request.keys:
                response.keys.extend(lessor.keys(self._node.backend.read(), request.ID))
        call.reply(self._context.header_now() + response.SerializeToString())

    def leases(self, call: Call, message: bytes) -> None:
        if self._context.parse(call, rpc_pb2.LeaseLeasesRequest.FromString, message) is None:
            return
        ids = self._node.lessor.ids(self._node.now())
        messages = (rpc_pb2.LeaseStatus(ID=each).SerializeToString() for each in ids)
        call.reply(self._context.header_now() + b"".join(framed(b"\x12", each) for each in messages))


class KeepAliveStream:
    """Each request is one answer, in order (L-20)."""

    __slots__ = ("_call", "_context", "_forget")

    def __init__(self, context: ApiContext, call: Call, forget: Callable[[KeepAliveStream, None], object]) -> None:
        self._context = context
        self._call = call
        self._forget = forget

    def on_message(self, message: bytes) -> None:
        request = self._context.parse(self._call, rpc_pb2.LeaseKeepAliveRequest.FromString, message)
        if request is None:
            return
        node = self._context.node
        if not node.leads:
            refuse(self._call, NOT_PRIMARY_LESSOR)
            return
        header = self._context.header_now()
        response = rpc_pb2.LeaseKeepAliveResponse(ID=request.ID)
        try:
            response.TTL = node.lessor.renew(request.ID, node.now())
        except (LeaseNotFound, LeaseExpired):
            response.TTL = 0  # unknown, revoked, or run out and about to be revoked (L-21, L-25)
        self._call.send(header + response.SerializeToString())

    def on_half_close(self) -> None:
        self._call.finish()

    def end(self, status: Status) -> None:
        refuse(self._call, status)

    def on_closed(self) -> None:
        self._forget(self, None)

    def on_writable(self) -> None: ...
