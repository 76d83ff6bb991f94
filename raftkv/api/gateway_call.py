"""A call that came as JSON, as the handlers of the gRPC services see it, and the ways its answer takes.

Owns the step from reply bytes to JSON, the status codes of HTTP, and the end of a call for whatever reason. Knows no
path: what is called, and with which messages, it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from json.encoder import encode_basestring_ascii
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from google.protobuf.message import Message

from raftkv.api.gateway_json import json_pieces, to_json
from raftkv.rpc.codes import Code
from raftkv.rpc.service import TEXT_DEADLINE, StreamReceiver, UnaryWaiter

if TYPE_CHECKING:
    import asyncio

    from raftkv.rpc.http_exchange import HttpExchange
    from raftkv.rpc.service import Method
    from raftkv.rpc.stats import MethodStats
    from raftkv.server.slices import Slices

_log = logging.getLogger(__name__)

Headers: TypeAlias = Sequence[tuple[str, str]]

LONG_REPLY_BYTES: Final = 64 << 10
"""A larger reply becomes JSON in slices, between other work: every byte of it costs a hundred times what gRPC's do."""
SLICE_S: Final = 0.004
_PIECES_PER_LOOK: Final = 32
"""Pieces written between two looks at the clock."""

_JSON: Final = ("content-type", "application/json")

HTTP_STATUS: Final[Mapping[Code, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""H-30."""


def error_text(code: int, text: str) -> str:
    return f'{{"code":{int(code)},"message":{encode_basestring_ascii(text)}}}'


def respond_error(exchange: HttpExchange, headers: Headers, code: Code, text: str) -> None:
    exchange.respond(HTTP_STATUS[code], _error_headers(headers, code, text), error_text(code, text).encode())


def _error_headers(headers: Headers, code: Code, text: str) -> Headers:
    if code is Code.UNAUTHENTICATED:  # a 401 must say by what one could authenticate (RFC 9110 section 15.5.2)
        return [_JSON, ("www-authenticate", text), *headers]
    return [_JSON, *headers]


# --- the ways of an answer --------------------------------------------------------------------------------------------


class Answer(Protocol):
    """Told the JSON of each reply, then once how the call ended."""

    def send(self, text: str) -> bool:
        """False: stop until the exchange is writable again."""

    def fail(self, code: Code, text: str) -> None: ...

    def finish(self) -> None: ...


class WholeAnswer:
    """Of a method with one reply."""

    __slots__ = ("_exchange", "_headers")

    def __init__(self, exchange: HttpExchange, headers: Headers) -> None:
        self._exchange = exchange
        self._headers = headers

    def send(self, text: str) -> bool:
        self._exchange.respond(200, [_JSON, *self._headers], text.encode())
        return True

    def fail(self, code: Code, text: str) -> None:
        respond_error(self._exchange, self._headers, code, text)

    def finish(self) -> None: ...


class LinesAnswer:
    """Of a stream: each reply is a line with a `result`, and an error behind them is the last line (H-27).

    A line is sent at once and as a whole: there are clients (etcd3gw) that take each chunk of HTTP/1.1 for one line.
    """

    __slots__ = ("_exchange", "_headers", "_started")

    def __init__(self, exchange: HttpExchange, headers: Headers) -> None:
        self._exchange = exchange
        self._headers = headers
        self._started = False

    def send(self, text: str) -> bool:
        self._start(Code.OK, "")
        return self._exchange.send(f'{{"result":{text}}}\n'.encode())

    def fail(self, code: Code, text: str) -> None:
        self._start(code, text)
        self._exchange.send(f'{{"error":{error_text(code, text)}}}\n'.encode())
        self._exchange.finish()

    def finish(self) -> None:
        self._start(Code.OK, "")
        self._exchange.finish()

    def _start(self, code: Code, text: str) -> None:
        """Not before the first line, whose kind decides on the status."""
        if not self._started:
            self._started = True
            self._exchange.start(HTTP_STATUS[code], _error_headers(self._headers, code, text))


class SocketAnswer:
    """The same lines as messages of a WebSocket (H-28). `is_stream`: replies stand in a `result`."""

    __slots__ = ("_exchange", "_is_stream")

    def __init__(self, exchange: HttpExchange, is_stream: bool) -> None:
        self._exchange = exchange
        self._is_stream = is_stream

    def send(self, text: str) -> bool:
        return self._exchange.send((f'{{"result":{text}}}' if self._is_stream else text).encode())

    def fail(self, code: Code, text: str) -> None:
        error = error_text(code, text)
        self._exchange.send((f'{{"error":{error}}}' if self._is_stream else error).encode())
        self._exchange.finish()

    def finish(self) -> None:
        self._exchange.finish()


# --- the call ---------------------------------------------------------------------------------------------------------


class GatewayCall:
    """`raftkv.rpc.service.Call`. Ends when it is answered, when its time is over, or when the client goes."""

    __slots__ = (
        "_answer",
        "_exchange",
        "_metadata",
        "_receiver",
        "_response",
        "_slices",
        "_stats",
        "_timer",
        "cancelled",
        "deadline",
        "done",
        "full",
        "identity",
        "method",
    )

    tls_common_name = None
    """Whoever calls through the gateway says who it is by a token (G-25, AU-62)."""
    queued_bytes = 0

    def __init__(
        self,
        exchange: HttpExchange,
        method: Method,
        metadata: Mapping[str, str],
        response: type[Message],
        answer: Answer,
        stats: MethodStats,
        slices: Slices,
    ) -> None:
        self.method = method
        self.identity: Any = None
        self.cancelled = False
        self.deadline: float | None = None
        self.done = False
        self.full = False
        """`send` said False, and the exchange has not been writable since."""
        self._exchange = exchange
        self._metadata = metadata
        self._response: Any = response
        self._answer = answer
        self._stats = stats
        self._slices = slices
        self._receiver: StreamReceiver | None = None
        self._timer: asyncio.TimerHandle | None = None
        stats.started += 1
        exchange.on_closed = self._on_disconnect

    # --- as handlers see it

    @property
    def peer(self) -> str:
        return self._exchange.peer

    def metadata(self, key: str) -> str | None:
        return self._metadata.get(key)

    def when_closed(self, callback: Callable[[], None]) -> None:
        if self.done:
            callback()
        else:
            self._receiver = UnaryWaiter(callback)

    def reply(self, message: bytes) -> None:
        if self.done:
            return
        self._stats.sent += 1
        if len(message) > LONG_REPLY_BYTES:
            self._receiver = None  # answered, as far as the handler is concerned
            self._slices.add(_LongReply(self, self._response.FromString(message)))
        else:
            self.finish_reply(to_json(self._response.FromString(message)))

    def finish_reply(self, text: str) -> None:
        """The only reply, as JSON."""
        if self.done:
            return
        self._receiver = None
        self._settle(Code.OK)
        self._answer.send(text)
        self._answer.finish()

    def fail(self, code: Code, text: str) -> None:
        if self.done:
            return
        self._settle(code)
        self._answer.fail(code, text)
        self._notify_closed()

    def send(self, message: bytes) -> bool:
        if self.done:
            return True
        self._stats.sent += 1
        if self._answer.send(to_json(self._response.FromString(message))):
            return True
        self.full = True
        return False

    def finish(self) -> None:
        if self.done:
            return
        self._settle(Code.OK)
        self._answer.finish()
        self._notify_closed()

    # --- as the gateway sees it

    def meet(self, receiver: StreamReceiver) -> None:
        """What the stream's handler answered with."""
        self._receiver = receiver
        if self.done:
            self._notify_closed()

    def expire_in(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.deadline = loop.time() + timeout_s
        self._timer = loop.call_later(timeout_s, self._on_deadline)

    def guard(self, function: Callable[..., None], *args: Any) -> None:
        """Call a handler. One that raises is our mistake, and fails its own call only."""
        try:
            function(*args)
        except Exception:
            _log.exception("handler raised", extra={"kv": {"method": self.method.path, "peer": self.peer}})
            self.fail(Code.INTERNAL, "internal error")

    # --- within

    def on_writable(self) -> None:
        self.full = False
        if self._receiver is not None and not self.done:
            self.guard(self._receiver.on_writable)

    def _on_disconnect(self) -> None:
        if not self.done:
            self.cancelled = True
            self._settle(Code.CANCELLED)
            self._notify_closed()

    def _on_deadline(self) -> None:
        self.cancelled = True
        self.fail(Code.DEADLINE_EXCEEDED, TEXT_DEADLINE)

    def _settle(self, code: Code) -> None:
        """The call's status is decided."""
        self.done = True
        self._stats.handled[code] += 1
        # The exchange need not know this call any more: without the circle both go at once.
        self._exchange.on_closed = self._exchange.on_writable = _do_nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _notify_closed(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self.guard(receiver.on_closed)


def _do_nothing() -> None: ...


class _LongReply:
    """A reply that is being written as JSON. Its text is in memory twice at the end, as any answer with a length is."""

    __slots__ = ("_call", "_parts", "_pieces")

    def __init__(self, call: GatewayCall, message: Message) -> None:
        self._call = call
        self._pieces = json_pieces(message)
        self._parts: list[str] = []

    def step(self) -> bool:
        if self._call.done:
            return False
        try:
            more = self._write_some()
        except Exception:
            _log.exception("a reply cannot be written as JSON", extra={"kv": {"method": self._call.method.path}})
            self._call.fail(Code.INTERNAL, "internal error")
            return False
        if not more:
            self._call.finish_reply("".join(self._parts))
        return more

    def _write_some(self) -> bool:
        end_s = monotonic() + SLICE_S
        while monotonic() < end_s:
            pieces = list(islice(self._pieces, _PIECES_PER_LOOK))
            if not pieces:
                return False
            self._parts += pieces
        return True
