"""HTTP/1.1 from bytes to requests, on httptools (llhttp). No socket and no answer here.

Owns cutting what a client sends into whole requests, one at a time, and refusing what is none, or what two servers
could read in two ways: with those, requests are smuggled (RFC 9112 section 11.2). Knows nothing of what is served.
"""

from __future__ import annotations

from collections import deque
from typing import Final, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser
from httptools.parser.errors import HttpParserInvalidMethodError

from raftkv.rpc.websocket import VERSION as WEBSOCKET_VERSION

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers of one request, and what stands between the chunks of a body or behind them, while it is
incomplete, so it may be larger by what one piece brings. Beyond: 431."""
PIECE_BYTES: Final = 16 * 1024
"""The parser does not stop behind a request: no more requests than fit into a piece are ever parsed ahead."""
_BLANK: Final = b" \t"


class RequestError(Exception):
    """What came is no request that can be served. `status`: of the answer to it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Request:
    """One whole request."""

    __slots__ = ("body", "headers", "is_http11", "keeps_alive", "method", "target", "wants_socket")

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.headers: list[tuple[str, str]] = []
        """Lower-case names."""
        self.body = b""
        self.is_http11 = False
        self.keeps_alive = False
        """The client may send another one on this connection."""
        self.wants_socket = False
        """It asks for a WebSocket, and nothing but frames follows it if it gets one (RFC 6455 section 4.1)."""


class RequestReader:
    """`receive`, then `next` until it has none. After a RequestError nothing can be read any more."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_error",
        "_expects_continue",
        "_is_offer_declined",
        "_loose_bytes",
        "_max_body_bytes",
        "_parser",
        "_request",
        "_target",
        "_unread",
        "_whole",
        "has_head",
    )

    def __init__(self, max_body_bytes: int) -> None:
        """Beyond `max_body_bytes`: 413."""
        self._max_body_bytes = max_body_bytes
        self._parser = HttpRequestParser(self)
        self._unread = bytearray()
        """Received and not parsed. Bounded by whoever calls `receive` before the last request is served."""
        self._whole: deque[Request] = deque()
        """Of the piece that was parsed last, without the first ones."""
        self._error: RequestError | None = None
        """Behind them."""
        self._request: Request | None = None
        """Being read."""
        self.has_head = False
        """A request's head has come, and its body has not yet."""
        self._target = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._loose_bytes = 0
        """Parsed since something was complete. Bounded by MAX_HEAD_BYTES and a piece."""
        self._expects_continue = False
        self._is_offer_declined = False

    @property
    def has_begun(self) -> bool:
        """A part of a request has come."""
        return self._request is not None or bool(self._unread) or bool(self._whole)

    def receive(self, data: bytes) -> None:
        self._unread += data

    def next(self) -> Request | None:
        """The next whole request; None until more has come. Raises RequestError."""
        while not self._whole and self._error is None and self._unread:
            piece = bytes(self._unread[:PIECE_BYTES])
            del self._unread[:PIECE_BYTES]
            try:
                self._parse(piece)
            except RequestError as error:
                self._error = error
        if self._whole:
            return self._whole.popleft()
        if self._error is not None:
            raise self._error
        return None

    def take_expectation(self) -> bool:
        """True once: the client waits for a `100 Continue` before it sends the body."""
        expects, self._expects_continue = self._expects_continue, False
        return expects

    def take_rest(self) -> bytes:
        """What came right behind a request that has become a WebSocket."""
        rest, self._unread = bytes(self._unread), bytearray()
        return rest

    def close(self) -> None:
        """Nothing more will be read. Parser and reader know each other: so they go at once, and not when the collector
        finds them."""
        self._parser = cast(HttpRequestParser, None)

    # --- what the parser calls

    def on_message_begin(self) -> None:
        self._request = Request()
        self._target = b""

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None and not self.has_head:  # behind a body they are trailers, which nobody asks for
            field = name.lower().decode("ascii"), value.strip(_BLANK).decode("latin-1")
            self._request.headers.append(field)

    def on_headers_complete(self) -> None:
        request, parser = self._request, self._parser
        assert request is not None, "no head ends that has not begun"
        self._loose_bytes = 0
        self.has_head = True
        request.method = parser.get_method().decode("ascii")
        request.target = self._target.decode("latin-1")
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):  # a request line without one is HTTP/0.9 to the parser
            raise RequestError(505 if version > "1.1" else 400, "a request must be of HTTP/1.0 or HTTP/1.1")
        request.is_http11 = version == "1.1"
        fields = dict(reversed(request.headers))
        _check(request)
        if parser.should_upgrade():
            request.wants_socket = _asks_for_socket(request, fields)
            self._is_offer_declined = not request.wants_socket
        self._expects_continue = request.is_http11 and fields.get("expect", "").lower() == "100-continue"

    def on_chunk_header(self) -> None:
        self._loose_bytes = 0

    def on_body(self, part: bytes) -> None:
        self._loose_bytes = 0
        self._expects_continue = False
        self._body.append(part)
        self._body_bytes += len(part)
        if self._body_bytes > self._max_body_bytes:
            raise RequestError(413, "request body too large")

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None, "no message ends that has not begun"
        self._request = None
        self.has_head = self._expects_continue = False
        self._loose_bytes = 0
        if self._is_offer_declined:
            self._request = request  # it has not been read to its end: see `_decline`
            return
        # Keeping a connection of HTTP/1.0 is an extension that no client needs.
        request.keeps_alive = request.is_http11 and self._parser.should_keep_alive()
        request.body = b"".join(self._body)
        self._body.clear()
        self._body_bytes = 0
        self._whole.append(request)

    # --- within

    def _parse(self, piece: bytes) -> None:
        """Raises RequestError."""
        self._loose_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade as offer:
            self._loose_bytes = 0
            self._unread[:0] = piece[offer.args[0] :]
            self._parser = HttpRequestParser(self)
            if self._is_offer_declined:
                self._decline()
        except HttpParserCallbackError as failure:
            raise _cause(failure) from None
        except HttpParserInvalidMethodError as failure:
            raise RequestError(501, str(failure)) from None
        except HttpParserError as failure:
            raise RequestError(400, str(failure)) from None
        if self._loose_bytes > MAX_HEAD_BYTES:
            raise RequestError(431, "request head too large")

    def _decline(self) -> None:
        """The same head once more, without the offer of another protocol: a server may ignore one (RFC 9110 section
        7.8), but the parser takes what follows for that protocol, which is a body or the next request."""
        self._is_offer_declined = False
        request, self._request = self._request, None
        assert request is not None, "the head with the offer was whole"
        version = "1.1" if request.is_http11 else "1.0"
        lines = [f"{request.method} {request.target} HTTP/{version}"]
        lines += [f"{name}: {value}" for name, value in request.headers if name != "upgrade"]
        self._parse("\r\n".join([*lines, "", ""]).encode("latin-1"))


def _cause(failure: HttpParserCallbackError) -> Exception:
    """What one of our callbacks raised."""
    cause = failure.__context__
    return cause if isinstance(cause, Exception) else failure


def _check(request: Request) -> None:
    """What llhttp leaves to its users. Raises RequestError."""
    hosts = sum(name == "host" for name, _ in request.headers)
    if hosts > 1 or (not hosts and request.is_http11):  # RFC 9112 section 3.2
        raise RequestError(400, "a request must have one Host header")
    if request.method == "CONNECT":
        raise RequestError(501, "this is no proxy")
    codings = [value.lower() for name, value in request.headers if name == "transfer-encoding"]
    if codings and not request.is_http11:  # RFC 9112 section 6.1
        raise RequestError(400, "there is no Transfer-Encoding in HTTP/1.0")
    if codings not in ([], ["chunked"]):
        raise RequestError(501, "the only Transfer-Encoding that is understood is chunked")


def _asks_for_socket(request: Request, fields: dict[str, str]) -> bool:
    return (
        request.is_http11
        and request.method == "GET"
        and fields.get("upgrade", "").lower() == "websocket"
        and fields.get("sec-websocket-version") == WEBSOCKET_VERSION
        and "sec-websocket-key" in fields
        and fields.get("content-length", "0") == "0"
        and "transfer-encoding" not in fields
    )
