"""HTTP/1.1 on h11: health, version, metrics and the JSON gateway. Not a fast path.

A connection without a socket, like the HTTP/2 one: bytes in, exchanges to the handler, bytes out. Requests of
one connection are served one after the other, so pipelined answers keep their order. A request that became a WebSocket
is the last of its connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

import h11

from raftkv.rpc import websocket
from raftkv.rpc.http_exchange import HttpExchange, HttpHandler
from raftkv.rpc.server_context import ServerContext

__all__ = ["Http1Connection", "HttpExchange", "HttpHandler"]

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers of one request while they are incomplete, so a head may be larger by what one read
brings. Beyond: 431."""
OPENING_BYTES = 8192
"""How much of a connection's beginning is looked at to tell whether it is HTTP/1 at all."""
MAX_PIPELINED_BYTES = 256 * 1024
"""Bytes of later requests kept while one is served. Beyond: the connection is closed."""

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class Http1Connection:
    __slots__ = (
        "_advancing",
        "_ahead",
        "_body",
        "_body_bytes",
        "_context",
        "_exchange",
        "_h11",
        "_is_tls",
        "_opening",
        "_out",
        "_paused",
        "_peer",
        "_queued_bytes",
        "_request",
        "_socket",
        "_throttled",
        "_tls_common_name",
        "_waiting_since",
        "_wake",
        "closing",
        "draining",
    )

    def __init__(
        self,
        context: ServerContext,
        peer: str,
        is_tls: bool,
        tls_common_name: str | None,
        wake: Callable[[], None],
        now: float,
    ) -> None:
        self._context = context
        self._peer = peer
        self._is_tls = is_tls
        self._tls_common_name = tls_common_name
        self._wake = wake
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._opening = b""
        """The first bytes of the connection, until they were understood."""
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        """At most Limits.max_http_body_bytes. Beyond: 413 and the connection closes."""
        self._body_bytes = 0
        self._exchange: HttpExchange | None = None
        """The request being served; nothing more is parsed until its answer."""
        self._advancing = False
        self._ahead = 0
        """Bytes received while an exchange is being served."""
        self._out: list[bytes] = []
        """Answers of which the client takes its time: one at a time, see `_ahead`. Of one that has no end yet, as much
        as its maker queues after `send` has said False."""
        self._queued_bytes = 0
        """In `_out`."""
        self._throttled = False
        """`send` said False and `on_writable` is owed."""
        self._socket: websocket.WebSocket | None = None
        """What the connection is from an upgrade on."""
        self._paused = False
        self._waiting_since = now
        self.closing = False
        self.draining = False

    @property
    def finished(self) -> bool:
        return not self._out and (self.closing or (self.draining and self._exchange is None and self._request is None))

    def receive_data(self, data: bytes, now: float) -> None:
        if self.closing:
            return
        self._context.stats.bytes_received += len(data)
        if self._socket is not None:
            self._receive_frames(self._socket, data)
            return
        if self._request is None and self._exchange is None and not self._h11.trailing_data[0]:
            # A request's time begins with its first byte; more bytes do not extend it.
            self._waiting_since = now
        if self._exchange is not None:
            self._ahead += len(data)
            if self._ahead > MAX_PIPELINED_BYTES:
                self._out.clear()  # whoever does not read must not keep the connection open either
                self._close()
                return
        if len(self._opening) < OPENING_BYTES:
            self._opening += data[:OPENING_BYTES]
        self._h11.receive_data(data)
        self._advance()

    def take_output(self) -> bytes:
        if self._paused:
            return b""
        out = b"".join(self._out)
        self._out.clear()
        self._queued_bytes = 0
        self._context.stats.bytes_sent += len(out)
        if self._throttled:
            self._throttled = False
            if self._exchange is not None:
                self._guard(self._exchange.on_writable)  # what it sends leaves with the next output
        return out

    def connection_lost(self) -> None:
        self.closing = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._guard(exchange.disconnect)

    def on_tick(self, now: float) -> None:
        if self.closing or self._exchange is not None:
            self._waiting_since = now
            return
        limits = self._context.limits
        begun = self._request is not None or bool(self._h11.trailing_data[0])
        timeout_s = limits.handshake_timeout_s if begun else limits.idle_http_timeout_s
        if now - self._waiting_since > timeout_s:
            if begun:
                self._context.stats.handshake_timeouts += 1
            self._close()

    def drain(self, now: float) -> None:
        """Serve the request under way, if any, and end."""
        self.draining = True

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._wake()

    # --- within

    def _advance(self) -> None:
        """Parse until a request is being served, more bytes are needed or the peer made a mistake."""
        self._advancing = True
        try:
            while self._exchange is None and not self.closing:
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    self._answer_expectation()
                    return
                self._on_event(event)
        except h11.RemoteProtocolError as error:
            self._context.stats.protocol_errors += 1
            if b" HTTP/1." not in self._opening.partition(b"\n")[0]:
                # Not HTTP/1 at all, such as a broken HTTP/2 preface: an answer would only confuse.
                self._close()
                return
            self._refuse(error.error_status_hint, str(error))
        finally:
            self._advancing = False

    def _on_event(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        if isinstance(event, h11.Request):
            self._request = event
        elif isinstance(event, h11.Data):
            self._body.append(bytes(event.data))
            self._body_bytes += len(event.data)
            if self._body_bytes > self._context.limits.max_http_body_bytes:
                self._refuse(413, "request body too large")
        elif isinstance(event, h11.EndOfMessage):
            self._dispatch()
        elif isinstance(event, h11.ConnectionClosed):
            self._close()

    def _answer_expectation(self) -> None:
        if self._h11.they_are_waiting_for_100_continue:
            self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")))

    def _dispatch(self) -> None:
        request = self._request
        assert request is not None, "h11 ends no message that has not begun"
        body = b"".join(self._body)
        self._body.clear()
        self._body_bytes = 0
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
        self._exchange = exchange = HttpExchange(
            request.method.decode("ascii"),
            request.target.decode("latin-1"),
            headers,
            body,
            self._peer,
            self._tls_common_name,
            self._respond,
            self,
            request.http_version == b"1.1" and request.method == b"GET" and _asks_for_socket(headers),
        )
        exchange.is_tls = self._is_tls
        handler = self._context.http_handler
        if handler is None:
            exchange.respond(404, (("content-type", "text/plain"),), b"404 page not found\n")
            return
        try:
            handler(exchange)
        except Exception:
            self._context.stats.handler_errors += 1
            logger.exception("http handler raised", extra={"kv": {"target": exchange.target}})
            exchange.respond(500)
            if self._exchange is exchange:
                self._close()  # the answer had begun
        if self._socket is not None:
            self._receive_frames(self._socket, b"")  # what came right behind the request

    def _respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """The answer to the exchange, and on to the next request."""
        if self.closing:
            return
        all_headers = [*headers, ("content-length", str(len(body)))]
        if self.draining:
            all_headers.append(("connection", "close"))
        self._send_response(status, all_headers, body)
        self._next_request()

    # --- an answer without a known end: this connection is the exchange's Outlet

    def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        if not self.closing:
            # Without a length h11 sends chunks, or to an HTTP/1.0 client everything until the connection closes.
            self._send_head(status, [*headers, ("connection", "close")] if self.draining else headers)

    def open_socket(self, protocol: str | None, on_text: Callable[[str], None]) -> None:
        exchange = self._exchange
        if self.closing or exchange is None:
            return
        headers = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", websocket.accept_token(exchange.header("sec-websocket-key") or "")),
        ]
        if protocol is not None:
            headers.append(("sec-websocket-protocol", protocol))
        switch = h11.InformationalResponse(status_code=101, headers=headers, reason=b"Switching Protocols")
        self._write(self._h11.send(switch))
        first, _ = self._h11.trailing_data
        limit = self._context.limits.max_http_body_bytes
        self._socket = websocket.WebSocket(first, self._write, on_text, limit)

    def send(self, data: bytes) -> bool:
        if self.closing:
            return True
        if self._socket is not None:
            self._socket.send(data.decode())
        else:
            self._write(self._h11.send(h11.Data(data=data)))
        if self._queued_bytes < self._context.limits.stream_high_bytes:
            return True
        self._throttled = True
        return False

    def finish(self) -> None:
        if self.closing:
            return
        if self._socket is not None:
            self._socket.close()
            self._exchange = None
            self._close()
            return
        self._write(self._h11.send(h11.EndOfMessage()))
        self._next_request()

    def _receive_frames(self, socket: websocket.WebSocket, data: bytes) -> None:
        self._guard(socket.receive, data, not self._paused)
        if socket.closed:
            self._close()

    # --- the end of an answer

    def _next_request(self) -> None:
        self._throttled = False
        self._exchange = None
        self._request = None
        self._ahead = 0
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            # An answer from within the handler returns to the loop in `_advance`: no recursion.
            if not self._advancing:
                self._advance()
        else:
            self._close()

    def _send_head(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        response = h11.Response(status_code=status, headers=list(headers), reason=_REASONS.get(status, b""))
        self._write(self._h11.send(response))

    def _send_response(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        is_head = self._request is not None and self._request.method == b"HEAD"
        self._send_head(status, headers)
        if body and not is_head:
            self._write(self._h11.send(h11.Data(data=body)))
        self._write(self._h11.send(h11.EndOfMessage()))

    def _refuse(self, status: int, text: str) -> None:
        """Answer a request that cannot be served or understood, then close."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = text.encode("utf-8", "replace") + b"\n"
            headers = [
                ("content-type", "text/plain"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            self._send_response(status, headers, body)
        self._close()

    def _close(self) -> None:
        self.closing = True
        self._wake()

    def _write(self, data: bytes | None) -> None:
        if data:
            self._out.append(data)
            self._queued_bytes += len(data)
            self._wake()

    def _guard(self, function: Callable[..., None], *args: object) -> None:
        """Call what the maker of an answer left to be called. One that raises is our mistake, and ends the
        connection."""
        try:
            function(*args)
        except Exception:
            self._context.stats.handler_errors += 1
            logger.exception("http handler raised", extra={"kv": {"peer": self._peer}})
            self._close()


def _asks_for_socket(headers: Sequence[tuple[str, str]]) -> bool:
    fields = dict(reversed(headers))
    return (
        fields.get("upgrade", "").lower() == "websocket"
        and fields.get("sec-websocket-version") == websocket.VERSION
        and "sec-websocket-key" in fields
    )
