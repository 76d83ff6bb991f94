"""A client inside the member: the KV and Lease services as the services built on them call them.

Each request goes through the very handlers that the network's go through, gates included, with the metadata and the
certificate of the call that it is made for. So quota, size limits, validation and permissions hold for Lock and
Election without being written again, and a token is judged at each step, not only when the outer call began. Owns the
way there and back; knows no recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from raftkv.api.errors import Status, refuse
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.rpc.codes import Code
    from raftkv.rpc.service import Call, Left, Method, Routes

Response = TypeVar("Response")
Answered: TypeAlias = Callable[[Response | Status], None]
"""Called once, perhaps before the request's own call returns: with the response message, or with why there is none."""

_OUTER_CALL_ONLY: Final = frozenset({"hasleader"})
"""What the client asked of its own call. A step of it that meets an election waits like any other (G-51)."""


def or_refuse(caller: Call, then: Callable[[Response], None]) -> Answered[Response]:
    """`then`, if there is an answer; otherwise the outer call ends as the inner one did."""

    def answered(answer: Response | Status) -> None:
        if isinstance(answer, Status):
            refuse(caller, answer)
        else:
            then(answer)

    return answered


class LocalClient:
    def __init__(self) -> None:
        self._routes: Routes = {}

    def bind(self, routes: Routes) -> None:
        """The table to call by. After the constructor, because the services that call are part of it."""
        self._routes = routes

    def range(self, caller: Call, request: rpc_pb2.RangeRequest, answered: Answered[rpc_pb2.RangeResponse]) -> None:
        self._call(b"/etcdserverpb.KV/Range", caller, request, rpc_pb2.RangeResponse.FromString, answered)

    def txn(self, caller: Call, request: rpc_pb2.TxnRequest, answered: Answered[rpc_pb2.TxnResponse]) -> None:
        self._call(b"/etcdserverpb.KV/Txn", caller, request, rpc_pb2.TxnResponse.FromString, answered)

    def delete(
        self, caller: Call, request: rpc_pb2.DeleteRangeRequest, answered: Answered[rpc_pb2.DeleteRangeResponse]
    ) -> None:
        self._call(b"/etcdserverpb.KV/DeleteRange", caller, request, rpc_pb2.DeleteRangeResponse.FromString, answered)

    def grant(self, caller: Call, ttl_s: int, answered: Answered[rpc_pb2.LeaseGrantResponse]) -> None:
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        self._call(b"/etcdserverpb.Lease/LeaseGrant", caller, request, rpc_pb2.LeaseGrantResponse.FromString, answered)

    def _call(
        self, path: bytes, caller: Call, request: Any, read: Callable[[bytes], Any], answered: Answered[Any]
    ) -> None:
        method: Any = self._routes[path]
        method.handler(_InnerCall(method, caller, read, answered), request.SerializeToString())


class _InnerCall:
    """`raftkv.rpc.service.Call` of a unary request from inside."""

    __slots__ = ("_answered", "_caller", "_on_failed", "_read", "identity", "method")

    cancelled = False
    """Never: what was begun for a client that has gone since may be what cleans up behind it."""
    deadline = None
    queued_bytes = 0

    def __init__(self, method: Method, caller: Call, read: Callable[[bytes], Any], answered: Answered[Any]) -> None:
        self.method = method
        self.identity: Any = None
        """As the gates find it, anew at each step: what the caller had when it began may be outdated."""
        self._caller = caller
        self._read = read
        self._answered = answered
        self._on_failed: Callable[[], None] | None = None

    @property
    def peer(self) -> str:
        return self._caller.peer

    @property
    def tls_common_name(self) -> str | None:
        return self._caller.tls_common_name

    def metadata(self, key: str) -> str | None:
        return None if key in _OUTER_CALL_ONLY else self._caller.metadata(key)

    def reply(self, message: bytes) -> None:
        self._answered(self._read(message))

    def reply_in_parts(self, parts: list[bytes], left: Left) -> None:
        left(sum(map(len, parts)))
        self.reply(b"".join(parts))

    def fail(self, code: Code, text: str) -> None:
        if self._on_failed is not None:
            self._on_failed()
        self._answered(Status(code, text))

    def when_closed(self, callback: Callable[[], None]) -> None:
        """It ends by its answer alone, so this is when it fails."""
        self._on_failed = callback

    def cut_off(self) -> None:
        raise AssertionError("an answer is taken as soon as it is given")

    def send(self, message: bytes) -> bool:
        raise AssertionError("a unary call has one answer")

    def send_counted(self, message: bytes, left: Left) -> bool:
        raise AssertionError("a unary call has one answer")

    def finish(self) -> None:
        raise AssertionError("a unary call has one answer")
