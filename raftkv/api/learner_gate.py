"""What a learner serves: its status, its snapshot, and reads that need nobody else (G-30 to G-32).

A second table of routes for a member that starts as a learner, so that a voter's calls are not asked anything. Owns
which calls pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raftkv.api.errors import NOT_FOR_LEARNERS, refuse
from raftkv.pb import rpc_pb2
from raftkv.rpc.service import Method, MethodKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftkv.rpc.service import Call, Routes, StreamHandler, StreamReceiver, UnaryHandler
    from raftkv.server import Node

_SERVED: Final = frozenset({b"/etcdserverpb.Maintenance/Status", b"/etcdserverpb.Maintenance/Snapshot"})
_RANGE: Final = b"/etcdserverpb.KV/Range"


class LearnerGate:
    def __init__(self, node: Node, routes: Routes) -> None:
        self._node = node
        self._for_voters = routes
        self._for_learners = {path: self._gated(path, method) for path, method in routes.items()}

    def routes(self) -> Routes:
        """The table to serve from now on. That of a learner goes on to serve a member that has been promoted, for
        connections remember what they have looked up; a voter never becomes a learner."""
        return self._for_learners if self._node.is_learner else self._for_voters

    def _gated(self, path: bytes, method: Method) -> Method:
        if path in _SERVED:
            return method
        if method.kind is not MethodKind.UNARY:
            return method._replace(handler=self._gated_stream(method.handler))
        return method._replace(handler=self._gated_unary(method.handler, passes=_is_local if path == _RANGE else None))

    def _gated_unary(self, handler: Any, passes: Callable[[bytes], bool] | None) -> UnaryHandler:
        def gated(call: Call, message: bytes) -> None:
            if self._node.is_learner and (passes is None or not passes(message)):
                refuse(call, NOT_FOR_LEARNERS)
            else:
                handler(call, message)

        return gated

    def _gated_stream(self, handler: Any) -> StreamHandler:
        def gated(call: Call) -> StreamReceiver:
            if not self._node.is_learner:
                receiver: StreamReceiver = handler(call)
                return receiver
            refuse(call, NOT_FOR_LEARNERS)  # G-31
            return RefusedStream()

        return gated


def _is_local(message: bytes) -> bool:
    """A range that asks nobody else; or no range at all, of which the handler says what is wrong."""
    try:
        return rpc_pb2.RangeRequest.FromString(message).serializable
    except Exception:
        return True


class RefusedStream:
    """What is left of a refused stream."""

    def on_message(self, _message: bytes) -> None: ...

    def on_half_close(self) -> None: ...

    def on_closed(self) -> None: ...

    def on_writable(self) -> None: ...
