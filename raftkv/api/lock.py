"""v3lockpb.Lock: a lock is a name, and whoever has the oldest claim to it holds it (contract section 8.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.api.errors import EMPTY_KEY
from raftkv.api.local_client import or_refuse
from raftkv.pb import lock_pb2, rpc_pb2
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.claims import Claims, Ownership
    from raftkv.api.errors import Status
    from raftkv.rpc.service import Call


class Lock:
    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._context = claims.context

    def service(self) -> Service:
        return Service("v3lockpb.Lock").unary("Lock", self.lock).unary("Unlock", self.unlock)

    def lock(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, lock_pb2.LockRequest.FromString, message)
        if request is not None:
            self._claims.claim(call, request.name, request.lease, _on_owned)

    def unlock(self, call: Call, message: bytes) -> None:
        """Whoever knows the key may do it, and one that is not there is no error (LK-09)."""
        request = self._context.parse(call, lock_pb2.UnlockRequest.FromString, message)
        if request is None:
            return

        def on_deleted(answer: rpc_pb2.DeleteRangeResponse) -> None:
            call.reply(lock_pb2.UnlockResponse(header=answer.header).SerializeToString())

        self._claims.local.delete(call, rpc_pb2.DeleteRangeRequest(key=request.key), or_refuse(call, on_deleted))


def check_unlock(request: lock_pb2.UnlockRequest) -> Status | None:
    """Why the request is wrong by itself, whoever makes it."""
    return None if request.key else EMPTY_KEY


def _on_owned(call: Call, ownership: Ownership) -> None:
    call.reply(lock_pb2.LockResponse(header=ownership.confirmed, key=ownership.key).SerializeToString())
