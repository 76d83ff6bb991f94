"""One HTTP request and its answer, the same over HTTP/1.1 and HTTP/2.

An answer is either whole (`respond`) or a body of unknown length (`start`, `send`, `finish`), or, if the client asked
for one, a WebSocket (`open_socket`, then `send` and `finish` as well). Knows neither protocol: the connection that made
it is told through an Outlet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

Headers: TypeAlias = Sequence[tuple[str, str]]
Respond: TypeAlias = Callable[[int, Headers, bytes], None]


class Outlet(Protocol):
    """Where the parts of a streamed answer go."""

    def start(self, status: int, headers: Headers) -> None: ...

    def send(self, data: bytes) -> bool: ...

    def finish(self) -> None: ...

    def open_socket(self, protocol: str | None, on_text: Callable[[str], None]) -> None: ...


def _do_nothing() -> None: ...


class HttpExchange:
    """`headers` have lower-case names; over HTTP/2 `:authority` appears as `host`."""

    __slots__ = (
        "_outlet",
        "_respond",
        "body",
        "cancelled",
        "headers",
        "is_tls",
        "method",
        "on_closed",
        "on_writable",
        "peer",
        "target",
        "tls_common_name",
        "wants_socket",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        peer: str,
        tls_common_name: str | None,
        respond: Respond,
        outlet: Outlet | None = None,
        wants_socket: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        """Path and query as sent."""
        self.headers = headers
        self.body = body
        """Whole, at most Limits.max_http_body_bytes."""
        self.peer = peer
        self.tls_common_name = tls_common_name
        self.is_tls = False
        """Set by the connection that made it."""
        self.cancelled = False
        """The client is gone; nothing that is sent matters any more."""
        self.wants_socket = wants_socket
        """The client asks for a WebSocket and may be given one."""
        self.on_writable: Callable[[], None] = _do_nothing
        """Called when there is room again after `send` said False."""
        self.on_closed: Callable[[], None] = _do_nothing
        """Called once if the client goes before the answer has ended."""
        self._respond: Respond | None = respond
        """None: answered, or the answer has begun."""
        self._outlet = outlet
        """None: nothing can be sent, or nothing more."""

    def header(self, name: str) -> str | None:
        """First value of a lower-case name."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def respond(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answer now or later, once; content-length is added. Later answers and those to a client that is
        gone are ignored."""
        respond, self._respond = self._respond, None
        if respond is not None and not self.cancelled:
            self._outlet = None
            respond(status, headers, body)

    def start(self, status: int, headers: Headers = ()) -> None:
        """Begin an answer whose length is not known yet, in place of `respond`."""
        if self._respond is not None and self._outlet is not None and not self.cancelled:
            self._respond = None
            self._outlet.start(status, headers)

    def open_socket(self, protocol: str | None, on_text: Callable[[str], None]) -> None:
        """Begin a WebSocket, in place of `respond`. `protocol`: of those that the client offers, the one to use.

        From now on `send` takes the UTF-8 text of one message, and `on_text` gets those that come.
        """
        assert self.wants_socket, "nobody asked for one"
        if self._respond is not None and self._outlet is not None and not self.cancelled:
            self._respond = None
            self._outlet.open_socket(protocol, on_text)

    def send(self, data: bytes) -> bool:
        """A part of the body. False: much is queued for a client that takes its time; go on at `on_writable`."""
        if self._respond is not None or self._outlet is None or self.cancelled:
            return True
        return self._outlet.send(data)

    def finish(self) -> None:
        """The end of what `start` or `open_socket` began. Nothing can be sent afterwards."""
        outlet = self._outlet
        if self._respond is None and outlet is not None and not self.cancelled:
            self._outlet = None
            outlet.finish()

    def disconnect(self) -> None:
        """For the connection: the client is gone."""
        if not self.cancelled:
            ended = self._respond is None and self._outlet is None
            self.cancelled = True
            if not ended:
                self.on_closed()


HttpHandler = Callable[[HttpExchange], None]
