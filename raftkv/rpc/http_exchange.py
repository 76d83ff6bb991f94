"""One HTTP request and its answer, the same over HTTP/1.1 and HTTP/2.

Knows nothing of either protocol: the connection that made it is told the answer through a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Respond = Callable[[int, Sequence[tuple[str, str]], bytes], None]


class HttpExchange:
    """`headers` have lower-case names; over HTTP/2 `:authority` appears as `host`."""

    __slots__ = ("_respond", "body", "cancelled", "headers", "method", "peer", "target", "tls_common_name")

    def __init__(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        peer: str,
        tls_common_name: str | None,
        respond: Respond,
    ) -> None:
        self.method = method
        self.target = target
        """Path and query as sent."""
        self.headers = headers
        self.body = body
        """Whole, at most Limits.max_http_body_bytes."""
        self.peer = peer
        self.tls_common_name = tls_common_name
        self.cancelled = False
        """The client is gone; `respond` will do nothing."""
        self._respond: Respond | None = respond

    def header(self, name: str) -> str | None:
        """First value of a lower-case name."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def respond(self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        """Answer now or later, once; content-length is added. Later answers and those to a client that is
        gone are ignored."""
        respond, self._respond = self._respond, None
        if respond is not None and not self.cancelled:
            respond(status, headers, body)


HttpHandler = Callable[[HttpExchange], None]
