"""Who calls, found out before a handler runs, while auth is on (contract 7.5, 7.6).

The one place where a token or a certificate becomes an Identity, and the one list of the methods that need no more than
to be somebody, or an administrator (contract 6.8, AU-36, AU-73). What depends on the request, on keys, leases or users,
its handler checks. While auth is off nothing of this runs, and whatever clients say of themselves is ignored (AU-13).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from raftkv.api.errors import refuse, status_of
from raftkv.api.validation import why_invalid
from raftkv.auth import NO_IDENTITY, AuthError, AuthStore, Identity

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call, Method, StreamReceiver, UnaryHandler

Found: TypeAlias = Callable[[Any, "Identity | Exception"], None]
"""found(argument, identity) or found(argument, why not)."""
Check: TypeAlias = Callable[[Identity], None]
"""Raises AuthError."""

_BEARER: Final = "Bearer "

_OPEN: Final = frozenset(
    {
        "/etcdserverpb.Auth/Authenticate",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
"""For those who have no token yet, and those who never have one."""

_NEEDS: Final[Mapping[str, Callable[[AuthStore, Identity], None]]] = {
    "/etcdserverpb.KV/Compact": AuthStore.check_root,
    "/etcdserverpb.Lease/LeaseGrant": AuthStore.check_authenticated,
    "/etcdserverpb.Lease/LeaseTimeToLive": AuthStore.check_authenticated,
    "/etcdserverpb.Cluster/MemberAdd": AuthStore.check_root,
    "/etcdserverpb.Cluster/MemberRemove": AuthStore.check_root,
    "/etcdserverpb.Cluster/MemberUpdate": AuthStore.check_root,
    "/etcdserverpb.Cluster/MemberPromote": AuthStore.check_root,
    "/etcdserverpb.Maintenance/Status": AuthStore.check_authenticated,
    "/etcdserverpb.Maintenance/Defragment": AuthStore.check_root,
    "/etcdserverpb.Maintenance/Hash": AuthStore.check_root,
    "/etcdserverpb.Maintenance/HashKV": AuthStore.check_root,
    "/etcdserverpb.Maintenance/Snapshot": AuthStore.check_root,
    "/etcdserverpb.Maintenance/MoveLeader": AuthStore.check_root,
    "/etcdserverpb.Maintenance/Downgrade": AuthStore.check_root,
    # To hash a password costs too much to do it for anybody.
    "/etcdserverpb.Auth/UserAdd": AuthStore.check_root,
    "/etcdserverpb.Auth/UserChangePassword": AuthStore.check_root,
}


def identify(context: ApiContext, call: Call, found: Found, argument: Any) -> None:
    """Tell who calls, perhaps at once: NO_IDENTITY for those who say nothing of themselves (AU-48).

    A token counts before a certificate (AU-61), and `token` before `authorization` (G-23).
    """
    token = call.metadata("token")
    if token is None:
        token = call.metadata("authorization")
    if token is None:
        found(argument, _certified(context, call))
    else:
        context.node.authenticator.identify(token.removeprefix(_BEARER), found, argument)


def _certified(context: ApiContext, call: Call) -> Identity:
    """The user whom a verified client certificate names (AU-60), of a call that did not come through the JSON gateway,
    whose own certificate that would be (AU-62)."""
    if not context.node.config.client_tls.client_cert_auth or call.metadata("grpcgateway-accept") is not None:
        return NO_IDENTITY
    name = call.tls_common_name
    return Identity(name, context.node.auth.revision) if name else NO_IDENTITY


def _need(context: ApiContext, path: str) -> Check | None:
    check = _NEEDS.get(path)
    return None if check is None else partial(check, context.node.auth)


def when_identified(context: ApiContext, method: Method) -> UnaryHandler:
    """The handler of a unary method for while auth is on."""
    handler = cast("UnaryHandler", method.handler)
    if method.path in _OPEN:
        return handler
    need = _need(context, method.path)

    def identified(call: Call, message: bytes) -> None:
        identify(context, call, noted, (call, message))

    def noted(asked: tuple[Call, bytes], found: Identity | Exception) -> None:
        call, message = asked
        if _admits(context, method.path, need, call, message, found):
            handler(call, message)

    return identified


def _admits(
    context: ApiContext, path: str, need: Check | None, call: Call, message: bytes, found: Identity | Exception
) -> bool:
    """Whether the request may go on to its handler, by whose it is. False, and the call is refused: for what is wrong
    with the request by itself, if something is."""
    denied = _why_denied(found, need)
    if denied is None:
        call.identity = found
        return True
    refuse(call, why_invalid(path, message, context.node.config.max_txn_ops) or status_of(denied))
    return False


def _why_denied(found: Identity | Exception, need: Check | None) -> Exception | None:
    if isinstance(found, Exception):
        return found
    if need is not None:
        try:
            need(found)
        except AuthError as refusal:
            return refusal
    return None


def stream_when_identified(context: ApiContext, method: Method, call: Call, receiver: StreamReceiver) -> StreamReceiver:
    """The receiver of a stream that one request opens. Whether auth is on is asked when the request comes: the stream
    may have been opened long before.

    Streams that the client writes to identify their caller themselves, for each request anew.
    """
    return receiver if method.path in _OPEN else _Identified(context, method.path, call, receiver)


class _Identified:
    """Holds the request back until it is known whose it is."""

    __slots__ = ("_call", "_context", "_held", "_path", "_receiver")

    def __init__(self, context: ApiContext, path: str, call: Call, receiver: StreamReceiver) -> None:
        self._context = context
        self._path = path
        self._call = call
        self._receiver = receiver
        self._held: deque[Callable[[], None]] | None = None
        """What came while the caller was being identified: at most the end of the request."""

    def on_message(self, message: bytes) -> None:
        if not self._context.node.auth.enabled:
            self._receiver.on_message(message)
            return
        self._held = deque()
        identify(self._context, self._call, self._noted, message)

    def _noted(self, message: bytes, found: Identity | Exception) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        if _admits(self._context, self._path, _need(self._context, self._path), self._call, message, found):
            self._receiver.on_message(message)
            for each in held:
                each()

    def on_half_close(self) -> None:
        if self._held is None:
            self._receiver.on_half_close()
        else:
            self._held.append(self._receiver.on_half_close)

    def on_closed(self) -> None:
        self._held = None  # whoever is identified now is gone
        self._receiver.on_closed()

    def on_writable(self) -> None:
        self._receiver.on_writable()
