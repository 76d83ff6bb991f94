"""Calls that ask for a leader are refused while none is known: every unary method alike (G-20).

Streams ask for themselves, for they also end when the leader is lost later (see `leader_watch`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftkv.rpc.service import Method, MethodKind

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call, Routes, UnaryHandler


def with_leader_asked_for(context: ApiContext, routes: Routes) -> Routes:
    """The same routes; the price while there is a leader is one attribute."""
    return {path: _gated(context, method) for path, method in routes.items()}


def _gated(context: ApiContext, method: Method) -> Method:
    if method.kind is not MethodKind.UNARY:
        return method
    return method._replace(handler=_gated_unary(context, method.handler))


def _gated_unary(context: ApiContext, handler: Any) -> UnaryHandler:
    node, unless_no_leader = context.node, context.unless_no_leader

    def gated(call: Call, message: bytes) -> None:
        if node.leader_id or unless_no_leader(call):
            handler(call, message)

    return gated
