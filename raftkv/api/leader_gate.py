"""Calls that ask for a leader are refused while none is known: every unary method alike, and every stream that the
server alone fills (G-20).

Streams of both directions ask for themselves, for they also end when the leader is lost later (see `leader_watch`);
the others end by themselves. From here a call goes on to its handler, or with auth on first to `identity_gate`: a gate
of its own would cost every request one call more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftkv.api.identity_gate import stream_when_identified, when_identified
from raftkv.api.learner_gate import RefusedStream
from raftkv.rpc.service import Method, MethodKind

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call, Routes, StreamHandler, StreamReceiver, UnaryHandler


def with_leader_asked_for(context: ApiContext, routes: Routes) -> Routes:
    """The same routes; the price while there is a leader, and auth is off, is two attributes."""
    return {path: _gated(context, method) for path, method in routes.items()}


def _gated(context: ApiContext, method: Method) -> Method:
    if method.kind is MethodKind.UNARY:
        return method._replace(handler=_gated_unary(context, method, method.handler))
    if method.kind is MethodKind.SERVER_STREAM:
        return method._replace(handler=_gated_stream(context, method, method.handler))
    return method


def _gated_unary(context: ApiContext, method: Method, handler: Any) -> UnaryHandler:
    node, auth, unless_no_leader = context.node, context.node.auth, context.unless_no_leader
    identified = when_identified(context, method)

    def gated(call: Call, message: bytes) -> None:
        if node.leader_id or unless_no_leader(call):
            if auth.enabled:
                identified(call, message)
            else:
                handler(call, message)

    return gated


def _gated_stream(context: ApiContext, method: Method, handler: Any) -> StreamHandler:
    def gated(call: Call) -> StreamReceiver:
        if not context.unless_no_leader(call):
            return RefusedStream()
        receiver: StreamReceiver = handler(call)
        return stream_when_identified(context, method, call, receiver)

    return gated
