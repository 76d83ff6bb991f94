"""HTTP/1.1: health, version, metrics and the JSON gateway.

A connection without a socket, like the HTTP/2 one: bytes in, exchanges to the handler, bytes out. Requests of
one connection are served one after the other, so pipelined answers keep their order. A request that became a WebSocket
is the last of its connection. What is a request, `http1_requests` says; answers are written here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from raftkv.rpc import websocket
from raftkv.rpc.http1_requests import Request, RequestError, RequestReader
from raftkv.rpc.http_exchange import Headers, HttpExchange, HttpHandler
from raftkv.rpc.server_context import ServerContext

__all__ = ["Http1Connection", "HttpExchange", "HttpHandler"]

logger = logging.getLogger(__name__)

OPENING_BYTES = 8192
"""How much of a connection's beginning is looked at to tell whether it is HTTP/1 at all."""
MAX_PIPELINED_BYTES = 256 * 1024
"""Bytes of later requests kept while one is served. Beyond: the connection is closed."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus}
_CLOSE: Final = ("connection", "close")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Http1Connection:
    __slots__ = (
        "_advancing",
        "_ahead",
        "_context",
        "_exchange",
        "_is_tls",
        "_opening",
        "_out",
        "_paused",
        "_peer",
        "_queued_bytes",
        "_reader",
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
        self._reader = RequestReader(context.limits.max_http_body_bytes)
        self._opening: bytes | None = b""
        """The first bytes of the connection. None: they were a request."""
        self._request: Request | None = None
        self._exchange: HttpExchange | None = None
        """The same being served, and None without one: no other request is looked at until the answer."""
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
        idle = self._exchange is None and not self._reader.has_head
        return not self._out and (self.closing or (self.draining and idle))

    def receive_data(self, data: bytes, now: float) -> None:
        if self.closing:
            return
        self._context.stats.bytes_received += len(data)
        if self._socket is not None:
            self._receive_frames(self._socket, data)
            return
        if self._exchange is None and not self._reader.has_begun:
            # A request's time begins with its first byte; more bytes do not extend it.
            self._waiting_since = now
        if self._exchange is not None:
            self._ahead += len(data)
            if self._ahead > MAX_PIPELINED_BYTES:
                self._context.stats.http_pipelining_closes += 1
                self._out.clear()  # whoever does not read must not keep the connection open either
                self._close()
                return
        if self._opening is not None and len(self._opening) < OPENING_BYTES:
            self._opening += data[:OPENING_BYTES]
        self._reader.receive(data)
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
        self._reader.close()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._guard(exchange.disconnect)

    def on_tick(self, now: float) -> None:
        if self.closing or self._exchange is not None:
            self._waiting_since = now
            return
        limits = self._context.limits
        begun = self._reader.has_begun
        timeout_s = limits.handshake_timeout_s if begun else limits.idle_http_timeout_s
        if now - self._waiting_since > timeout_s:
            if begun:
                self._context.stats.handshake_timeouts += 1
            else:
                self._context.stats.http_idle_closes += 1
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
        """Serve what has come, until an answer takes its time, more bytes are needed or the peer made a mistake."""
        if self._advancing:
            return  # an answer from within the handler returns to the loop below: no recursion
        self._advancing = True
        try:
            while self._exchange is None and not self.closing:
                request = self._reader.next()
                if request is None:
                    if self._reader.take_expectation():
                        self._write(_CONTINUE)
                    return
                self._dispatch(request)
        except RequestError as error:
            self._refuse(error)
        finally:
            self._advancing = False

    def _dispatch(self, request: Request) -> None:
        self._request = request
        self._opening = None
        self._exchange = exchange = HttpExchange(
            request.method,
            request.target,
            request.headers,
            request.body,
            self._peer,
            self._tls_common_name,
            self._respond,
            self,
            request.wants_socket,
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

    def _respond(self, status: int, headers: Headers, body: bytes) -> None:
        """The answer to the exchange, and on to the next request."""
        if self.closing:
            return
        assert self._request is not None, "there is no exchange without a request"
        self._write(self._head(status, [*headers, ("content-length", str(len(body)))]))
        if self._request.method != "HEAD":
            self._write(body)
        self._next_request()

    # --- an answer without a known end: this connection is the exchange's Outlet

    def start(self, status: int, headers: Headers) -> None:
        if not self.closing:
            # To an HTTP/1.0 client everything until the connection closes.
            chunked = [("transfer-encoding", "chunked")] if self._sends_chunks else []
            self._write(self._head(status, [*headers, *chunked]))

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
        self._write(_encode_head(101, headers))
        limit = self._context.limits.max_http_body_bytes
        self._socket = websocket.WebSocket(self._reader.take_rest(), self._write, on_text, limit)

    def send(self, data: bytes) -> bool:
        if self.closing:
            return True
        if self._socket is not None:
            self._socket.send(data.decode())
        elif self._sends_chunks:
            if data:  # a chunk without any would be the last one
                self._write(b"%x\r\n%b\r\n" % (len(data), data))
        elif self._request is not None and self._request.method != "HEAD":
            self._write(data)
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
        if self._sends_chunks:
            self._write(b"0\r\n\r\n")
        self._next_request()

    @property
    def _sends_chunks(self) -> bool:
        request = self._request
        return request is not None and request.is_http11 and request.method != "HEAD"

    def _receive_frames(self, socket: websocket.WebSocket, data: bytes) -> None:
        self._guard(socket.receive, data, not self._paused)
        if socket.closed:
            self._close()

    # --- the end of an answer

    def _next_request(self) -> None:
        is_last = self._is_last
        self._throttled = False
        self._exchange = self._request = None
        self._ahead = 0
        if is_last:
            self._close()
        else:
            self._advance()

    @property
    def _is_last(self) -> bool:
        """The connection ends with the answer to this request."""
        return self.draining or self._request is None or not self._request.keeps_alive

    def _head(self, status: int, headers: Headers) -> bytes:
        return _encode_head(status, [*headers, _CLOSE] if self._is_last else headers)

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that cannot be served or understood, then close."""
        stats = self._context.stats
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            stats.http_bodies_refused += 1
        else:
            stats.protocol_errors += 1
        # What is not HTTP/1 at all, such as a broken HTTP/2 preface, is not answered: that would only confuse.
        if self._opening is None or b" HTTP/1." in self._opening.partition(b"\n")[0]:
            body = f"{error}\n".encode()
            headers = [("content-type", "text/plain"), ("content-length", str(len(body))), _CLOSE]
            self._write(_encode_head(error.status, headers) + body)
        self._close()

    def _close(self) -> None:
        self.closing = True
        self._wake()

    def _write(self, data: bytes) -> None:
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


def _encode_head(status: int, headers: Headers) -> bytes:
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} "]
    lines += [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join(lines)
    assert head.count("\n") == len(headers), "no header holds a line break: it would begin another one"
    return f"{head}\r\n\r\n".encode("latin-1", "replace")
