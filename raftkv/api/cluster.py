"""etcdserverpb.Cluster: who the members are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.api.errors import refuse, status_of
from raftkv.pb import rpc_pb2
from raftkv.pb.splice import framed
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call


class Cluster:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def service(self) -> Service:
        return Service("etcdserverpb.Cluster").unary("MemberList", self.member_list)

    def member_list(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.MemberListRequest.FromString, message)
        if request is None:
            return
        if request.linearizable:
            self._context.node.linearizable(self._list, call)
        else:
            self._list(call, None)

    def _list(self, call: Call, error: Exception | None) -> None:
        if error is not None:
            refuse(call, status_of(error))
            return
        members = (each.to_message().SerializeToString() for each in self._context.node.members)
        body = b"".join(framed(b"\x12", each) for each in members)
        call.reply(self._context.header_without_revision() + body)
