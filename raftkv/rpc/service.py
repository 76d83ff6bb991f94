"""What a service is, said once for both servers: the native one and the one on grpcio.

A service is a table from path to handler. Handlers run to completion on the event loop and see
messages as bytes. Knows nothing of frames, sockets or either server's classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from raftkv.rpc.codes import Code

TEXT_DEADLINE: Final = "context deadline exceeded"
TEXT_CANCELLED: Final = "context canceled"
"""The two texts that Go clients know for an expired and for a cancelled context (ER-04)."""

Left: TypeAlias = Callable[[int], None]
"""left(size_bytes): so much more of what somebody counts is with the kernel now, or will never be sent. Comes in the
middle of sending, perhaps before what was called to send it returns; in all as much as was to be sent, or a little more
for the framing."""


class MethodKind(Enum):
    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    """One request, many replies. The server checks that there is exactly one request."""
    BIDI = "bidi"


class Call(Protocol):
    """One request being served. Both servers give handlers an object with this surface.

    After the call has ended, for whichever reason, `reply`, `fail`, `send` and `finish` do nothing: a
    handler that answers late need not ask first.
    """

    identity: Any
    """For the layers above: what they know of who calls. None at first."""

    @property
    def method(self) -> Method: ...

    @property
    def peer(self) -> str:
        """`host:port` of the client, or the empty string on a Unix socket."""

    @property
    def tls_common_name(self) -> str | None:
        """Common name of the verified client certificate; None in plain text or without one."""

    @property
    def deadline(self) -> float | None:
        """In the event loop's time. None when the client set none."""

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for the answer: reset, deadline passed, connection lost."""

    @property
    def queued_bytes(self) -> int:
        """Stream messages accepted by `send` that the connection has not yet taken."""

    def metadata(self, key: str) -> str | None:
        """The first value of a lower-case key, or None.

        Bytes that are not UTF-8 appear as lone surrogates (`surrogateescape`), so that a handler can tell
        (G-24). The value of a `-bin` key is base64-decoded first and presented in the same way.
        """

    def when_closed(self, callback: Callable[[], None]) -> None:
        """For a unary handler that answers later: call back once if the call ends otherwise than by `reply`, at once
        if it has ended already.

        A stream has its receiver for that. When the handler itself ends the call, this runs inside its `fail`.
        """

    def reply(self, message: bytes) -> None:
        """Answer a unary call with OK."""

    def reply_in_parts(self, parts: list[bytes], left: Left) -> None:
        """The same with a message that is large and in pieces, each of which is let go as it leaves. The list is the
        call's from now on, and emptied. Each piece is whole fields of the message, in the order of their numbers."""

    def fail(self, code: Code, text: str) -> None:
        """End any call with an error."""

    def send(self, message: bytes) -> bool:
        """Queue one stream message. False: the high mark is passed, stop until `on_writable`."""

    def send_counted(self, message: bytes, left: Left) -> bool:
        """The same with a message that somebody counts."""

    def cut_off(self) -> None:
        """The client does not take what is queued: give up the call, and at the second time its connection."""

    def finish(self) -> None:
        """End a stream with OK, after everything queued."""


class StreamReceiver(Protocol):
    """The handler's side of a stream."""

    def on_message(self, message: bytes) -> None: ...

    def on_half_close(self) -> None:
        """The client will send nothing more."""

    def on_closed(self) -> None:
        """The call is over: reset, deadline, connection lost, or ended by us. Called exactly once.

        When the handler itself ends the call, this runs inside its `finish` or `fail`.
        """

    def on_writable(self) -> None:
        """The queue fell below the low mark after `send` had said False."""


class UnaryWaiter:
    """What a unary call has in place of a receiver while its handler waits: nothing comes but the end."""

    __slots__ = ("on_closed",)

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self.on_closed = on_closed

    def on_message(self, message: bytes) -> None: ...

    def on_half_close(self) -> None: ...

    def on_writable(self) -> None: ...


UnaryHandler = Callable[[Call, bytes], None]
StreamHandler = Callable[[Call], StreamReceiver]

Admit = Callable[[Callable[[str], str | None]], tuple[Code, str] | None]
"""admit(metadata): why a call with such metadata (`Call.metadata`) is refused, or None. Depends on nothing else: the
answer is remembered with the request head."""


class Method(NamedTuple):
    """`path` is `/package.Service/Method`. UNARY has a `UnaryHandler`, the others a `StreamHandler`."""

    path: str
    kind: MethodKind
    handler: UnaryHandler | StreamHandler
    admit: Admit | None = None
    """Asked before the handler is."""


Routes = Mapping[bytes, Method]
"""From the `:path` on the wire to its method."""


class Service:
    """A named group of methods, declared once: `Service("etcdserverpb.KV").unary("Put", kv.put)`."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.methods: Final[list[Method]] = []

    def unary(self, method: str, handler: UnaryHandler) -> Service:
        return self._add(method, MethodKind.UNARY, handler)

    def server_stream(self, method: str, handler: StreamHandler) -> Service:
        return self._add(method, MethodKind.SERVER_STREAM, handler)

    def bidi(self, method: str, handler: StreamHandler) -> Service:
        return self._add(method, MethodKind.BIDI, handler)

    def _add(self, method: str, kind: MethodKind, handler: UnaryHandler | StreamHandler) -> Service:
        self.methods.append(Method(f"/{self.name}/{method}", kind, handler))
        return self


def build_routes(services: Iterable[Service]) -> Routes:
    """Merge services into one table. Raises ValueError when two claim the same path."""
    routes: dict[bytes, Method] = {}
    for service in services:
        for method in service.methods:
            if routes.setdefault(method.path.encode(), method) is not method:
                raise ValueError(f"path served twice: {method.path}")
    return routes


def unimplemented_text(routes: Routes, path: bytes) -> str:
    """What grpc-go says of a path that nobody serves (ER-05)."""
    text = path.decode("utf-8", "replace")
    service, slash, method = text.removeprefix("/").rpartition("/")
    if not slash or not text.startswith("/"):
        return f'malformed method name: "{text}"'
    prefix = f"/{service}/".encode()
    if any(known.startswith(prefix) for known in routes):
        return f"unknown method {method} for service {service}"
    return f"unknown service {service}"
