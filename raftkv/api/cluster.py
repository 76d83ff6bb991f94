"""etcdserverpb.Cluster: who the members are, and changing that (contract section 5).

Checks what a request says by itself. Whether the cluster can take a change is asked of the node; the member lists in
the answers come from applying (CL-07).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raftkv.api.errors import BAD_URLS, Status, refuse, status_of
from raftkv.apply import Kind
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.pb.splice import framed
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call


class Cluster:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node

    def service(self) -> Service:
        return (
            Service("etcdserverpb.Cluster")
            .unary("MemberList", self.member_list)
            .unary("MemberAdd", self.member_add)
            .unary("MemberRemove", self.member_remove)
            .unary("MemberUpdate", self.member_update)
            .unary("MemberPromote", self.member_promote)
        )

    def member_list(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.MemberListRequest.FromString, message)
        if request is None:
            return
        if request.linearizable:
            self._node.linearizable(self._list, call)
        else:
            self._list(call, None)

    def _list(self, call: Call, error: Exception | None) -> None:
        if error is not None:
            refuse(call, status_of(error))
            return
        auth = self._node.auth
        if auth.enabled and not self._context.may_read(call, auth.check_authenticated, self._list, call):
            return
        members = (each.to_message().SerializeToString() for each in self._node.members)
        body = b"".join(framed(b"\x12", each) for each in members)
        call.reply(self._context.header_without_revision() + body)

    def member_add(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.MemberAddRequest.FromString, message)
        if request is None:
            return
        refused = check_peer_urls(request)
        if refused is not None:
            refuse(call, refused)
            return
        self._node.reconfiguration.add(request.peerURLs, request.isLearner, self._finish, call)

    def member_remove(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.MemberRemoveRequest.FromString, message)
        if request is not None:
            self._node.reconfiguration.remove(request.ID, self._finish, call)

    def member_update(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.MemberUpdateRequest.FromString, message)
        if request is None:
            return
        refused = check_peer_urls(request)
        if refused is not None:
            refuse(call, refused)
            return
        self._context.propose(call, Kind.MEMBER_UPDATE, message, self._finish)

    def member_promote(self, call: Call, message: bytes) -> None:
        if self._context.parse(call, rpc_pb2.MemberPromoteRequest.FromString, message) is not None:
            self._node.leader_calls.call(peer_pb2.ForwardRequest.PROMOTE, message, self._finish_promotion, call)

    def _finish(self, call: Call, result: Any) -> None:
        if type(result) is tuple:
            call.reply(self._context.header_without_revision() + result[1])
        else:
            refuse(call, status_of(result))

    def _finish_promotion(self, call: Call, result: bytes | Exception) -> None:
        self._finish(call, result if isinstance(result, Exception) else (0, result))


def check_peer_urls(request: rpc_pb2.MemberAddRequest | rpc_pb2.MemberUpdateRequest) -> Status | None:
    """CL-20."""
    return None if are_peer_urls(request.peerURLs) else BAD_URLS


def are_peer_urls(urls: Sequence[str]) -> bool:
    return bool(urls) and all(map(_is_peer_url, urls))


def _is_peer_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("unix", "unixs"):
            return bool(parts.netloc or parts.path)
        return (
            parts.scheme in ("http", "https")
            and parts.port is not None
            and bool(parts.hostname)
            and not (parts.path or parts.query or parts.fragment)
        )
    except ValueError:
        return False
