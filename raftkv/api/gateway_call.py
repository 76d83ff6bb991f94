"""A call that came as JSON, as the handlers of the gRPC services see it, and the ways its answer takes.

Owns the step from reply bytes to JSON, the status codes of HTTP, and the end of a call for whatever reason. Knows no
path: what is called, and with which messages, it is told.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from json.encoder import encode_basestring_ascii
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from google.protobuf.message import Message

from raftkv.api.gateway_json import json_of_parts, json_pieces, to_json
from raftkv.rpc.codes import Code
from raftkv.rpc.service import TEXT_DEADLINE, Left, StreamReceiver, UnaryWaiter

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

    __slots__ = ("_exchange", "_headers", "_started")

    def __init__(self, exchange: HttpExchange, headers: Headers) -> None:
        self._exchange = exchange
        self._headers = headers
        self._started = False

    def send(self, text: str) -> bool:
        self._exchange.respond(200, [_JSON, *self._headers], text.encode())
        return True

    def send_some(self, text: str) -> bool:
        """A part of one that is too long to be in memory as a whole; `finish` ends it."""
        if not self._started:
            self._started = True
            self._exchange.start(200, [_JSON, *self._headers])
        return self._exchange.send(text.encode())

    def fail(self, code: Code, text: str) -> None:
        if self._started:
            self._exchange.finish()  # what is cut short is no JSON, and so no answer
        else:
            respond_error(self._exchange, self._headers, code, text)

    def finish(self) -> None:
        if self._started:
            self._exchange.finish()


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

    def reply_in_parts(self, parts: list[bytes], left: Left) -> None:
        if self.done:
            left(sum(map(len, parts)))
        elif isinstance(self._answer, WholeAnswer):
            self._stats.sent += 1
            receiver: Any = _PartedReply(self, self._answer, self._response, parts, left, self._slices)
            self._receiver = receiver
            self._exchange.on_writable = self.on_writable
            self._slices.add(receiver)
        else:  # of a WebSocket, whose message has its length in front
            left(sum(map(len, parts)))
            self.reply(b"".join(parts))

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

    def send_counted(self, message: bytes, left: Left) -> bool:
        """As JSON it takes other room, and the high mark bounds that."""
        left(len(message))
        return self.send(message)

    def cut_off(self) -> None:
        if not self.done:
            self.cancelled = True
            self.fail(Code.RESOURCE_EXHAUSTED, "the answer is not read")

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


class _PartedReply:
    """A reply of which every part is written as JSON when the client has taken those before."""

    __slots__ = (
        "_answer",
        "_call",
        "_in_hand_bytes",
        "_left",
        "_parts",
        "_pieces",
        "_response",
        "_slices",
        "_waits_for_client",
    )

    def __init__(
        self,
        call: GatewayCall,
        answer: WholeAnswer,
        response: Any,
        parts: list[bytes],
        left: Left,
        slices: Slices,
    ) -> None:
        self._call = call
        self._answer = answer
        self._response = response
        self._parts = deque(parts)
        parts.clear()
        self._in_hand_bytes = 0
        """Of the part that is being written."""
        self._left = left
        self._slices = slices
        self._pieces = json_of_parts(self._messages())
        self._waits_for_client = False

    def _messages(self) -> Iterator[Message]:
        while self._parts:
            part = self._parts.popleft()
            self._in_hand_bytes = len(part)
            yield self._response.FromString(part)
            self._report(self._in_hand_bytes)

    def _report(self, size_bytes: int) -> None:
        self._in_hand_bytes = 0
        self._left(size_bytes)

    def step(self) -> bool:
        call = self._call
        written = _write_some(call, self._pieces)
        if written is None:
            return False
        text, more = written
        has_room = self._answer.send_some(text)
        if not more:
            call.finish()
        self._waits_for_client = more and not has_room
        return more and has_room

    def on_writable(self) -> None:
        if self._waits_for_client:
            self._waits_for_client = False
            self._slices.add(self)

    def on_closed(self) -> None:
        rest_bytes = self._in_hand_bytes + sum(map(len, self._parts))
        self._parts.clear()
        if rest_bytes:
            self._report(rest_bytes)


class _LongReply:
    """A reply that is being written as JSON. Its text is in memory twice at the end, as any answer with a length is."""

    __slots__ = ("_call", "_parts", "_pieces")

    def __init__(self, call: GatewayCall, message: Message) -> None:
        self._call = call
        self._pieces = json_pieces(message)
        self._parts: list[str] = []

    def step(self) -> bool:
        written = _write_some(self._call, self._pieces)
        if written is None:
            return False
        text, more = written
        self._parts.append(text)
        if not more:
            self._call.finish_reply("".join(self._parts))
        return more


def _write_some(call: GatewayCall, pieces: Iterator[str]) -> tuple[str, bool] | None:
    """The next text of a reply, and whether there is more. None: the call has ended, or does now."""
    if call.done:
        return None
    try:
        return _some_of(pieces)
    except Exception:
        _log.exception("a reply cannot be written as JSON", extra={"kv": {"method": call.method.path}})
        call.fail(Code.INTERNAL, "internal error")
        return None


def _some_of(pieces: Iterator[str]) -> tuple[str, bool]:
    """What SLICE_S is long enough for, and whether there is more."""
    end_s = monotonic() + SLICE_S
    taken: list[str] = []
    while monotonic() < end_s:
        some = list(islice(pieces, _PIECES_PER_LOOK))
        if not some:
            return "".join(taken), False
        taken += some
    return "".join(taken), True
