"""A plain HTTP request over HTTP/2, for the pages and the gateway when TLS has chosen `h2` (H-03).

Owns gathering the body and writing the answer, whole or piece by piece. In plain text, where HTTP/2 is gRPC alone
(H-02), and where no HTTP is served, the answer is 415.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raftkv.rpc.frames import ErrorCode
from raftkv.rpc.headers import HeaderFields, literal, literal_indexed_name
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.server_call import ServerStream

if TYPE_CHECKING:
    from raftkv.rpc.server_connection import ServerConnection

logger = logging.getLogger(__name__)


class HttpStream(ServerStream):
    __slots__ = ("_body", "_exchange", "_fields", "_received_bytes", "_responded")

    def __init__(self, connection: ServerConnection, stream_id: int, fields: HeaderFields) -> None:
        super().__init__(connection, stream_id)
        self._fields = fields
        self._body: list[bytes] = []
        """At most Limits.max_http_body_bytes; counted with the connection's incomplete messages."""
        self._received_bytes = 0
        self._exchange: HttpExchange | None = None
        self._responded = False

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        if self._responded:
            return
        connection = self.connection
        self._received_bytes += len(payload)
        expected_bytes = self._fields.content_length
        if expected_bytes is not None and (
            self._received_bytes > expected_bytes or (end_stream and self._received_bytes != expected_bytes)
        ):
            connection.stream_error(self.id, ErrorCode.PROTOCOL_ERROR)
            return
        if payload:
            self._body.append(payload)
            connection.partial_bytes += len(payload)
        limits = connection.limits
        if self._received_bytes > limits.max_http_body_bytes or connection.partial_bytes > limits.max_partial_bytes:
            connection.stats.http_bodies_refused += 1
            self._respond(413, (("content-type", "text/plain"),), b"request body too large\n")
        elif end_stream:
            self._dispatch()

    def on_reset(self, code: int) -> None:
        self._release_body()
        self._responded = True
        if self._exchange is not None:
            self._guard(self._exchange.disconnect)

    def on_disconnect(self, text: str) -> None:
        self.on_reset(ErrorCode.CANCEL)

    def on_writable(self) -> None:
        if self._exchange is not None:
            self._guard(self._exchange.on_writable)

    # --- an answer without a known end: this stream is the exchange's Outlet

    def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        if not self._responded:
            self._responded = True
            self.outbox.headers(self.id, _head_block(status, headers), end_stream=False)

    def send(self, data: bytes) -> bool:
        self.outbox.enqueue(self, data)
        if self.queued_bytes < self.connection.limits.stream_high_bytes:
            return True
        self.throttled = True
        return False

    def finish(self) -> None:
        self.end(b"")

    def open_socket(self, protocol: str | None, on_text: Callable[[str], None]) -> None:
        raise AssertionError("no exchange over HTTP/2 wants one")

    def _dispatch(self) -> None:
        handler = self.connection.context.http_handler
        if handler is None or not self.connection.is_tls:
            text = b"HTTP/2 serves gRPC here: the content-type must begin with application/grpc\n"
            self._respond(415, (("content-type", "text/plain"),), text)
            return
        self._exchange = self._make_exchange()
        self._exchange.is_tls = True
        try:
            handler(self._exchange)
        except Exception:
            self.connection.stats.handler_errors += 1
            logger.exception("http handler raised", extra={"kv": {"target": self._exchange.target}})
            self._exchange.respond(500)

    def _make_exchange(self) -> HttpExchange:
        pseudo = self._fields.pseudo
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._fields.fields]
        if b":authority" in pseudo:
            headers.insert(0, ("host", pseudo[b":authority"].decode("latin-1")))
        body = b"".join(self._body)
        self._release_body()
        connection = self.connection
        return HttpExchange(
            pseudo[b":method"].decode("latin-1"),
            pseudo[b":path"].decode("latin-1"),
            headers,
            body,
            connection.peer,
            connection.tls_common_name,
            self._respond,
            self,
        )

    def _release_body(self) -> None:
        self.connection.partial_bytes -= sum(map(len, self._body))
        self._body.clear()

    def _respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        if self._responded:
            return
        self._responded = True
        self._release_body()
        # 28 is the name content-length in the static table.
        block = _head_block(status, headers) + literal_indexed_name(28, b"%d" % len(body))
        if not body or self._fields.pseudo[b":method"] == b"HEAD":
            self.outbox.headers(self.id, block, end_stream=True)
            self.on_end_sent()
            return
        self.outbox.headers(self.id, block, end_stream=False)
        self.outbox.enqueue(self, body)
        self.end(b"")

    def _guard(self, function: Callable[[], None]) -> None:
        """Call what the maker of an answer left to be called. One that raises is our mistake."""
        try:
            function()
        except Exception:
            self.connection.stats.handler_errors += 1
            logger.exception("http handler raised", extra={"kv": {"peer": self.connection.peer}})


def _head_block(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    # 8 is the name :status in the static table.
    return literal_indexed_name(8, b"%d" % status) + b"".join(
        literal(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers
    )
