"""The server's side of one stream: a gRPC call as handlers see it.

Owns the way from DATA frames to a handler and from its answer to frames. The unary path for a small
request and a small reply makes no object but the call itself. Knows nothing of connections' rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from struct import Struct
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.frames import END_HEADERS, END_STREAM, HEADERS, ErrorCode
from raftkv.rpc.grpc import (
    OK_TRAILERS,
    PREFIX,
    PREFIX_BYTES,
    RESPONSE_BLOCK,
    MessageReader,
    error_trailers,
)
from raftkv.rpc.message_stream import MessageStream
from raftkv.rpc.server_context import CallHead
from raftkv.rpc.service import (
    TEXT_DEADLINE,
    Left,
    Method,
    MethodKind,
    StreamHandler,
    StreamReceiver,
    UnaryHandler,
    UnaryWaiter,
)
from raftkv.rpc.streams import Stream

if TYPE_CHECKING:
    from raftkv.rpc.server_connection import ServerConnection

logger = logging.getLogger(__name__)

# One unary reply: HEADERS with the constant block, the head of DATA and the message's prefix; then the
# message; then HEADERS with the constant trailers. Each word is `length << 8 | type`.
_REPLY_HEAD: Final = Struct(f">IBI{len(RESPONSE_BLOCK)}sIBIBI")
_REPLY_TAIL: Final = Struct(f">IBI{len(OK_TRAILERS)}s")
_HEAD_WORD: Final = len(RESPONSE_BLOCK) << 8 | HEADERS
_TAIL_WORD: Final = len(OK_TRAILERS) << 8 | HEADERS
_END_ALL: Final = END_HEADERS | END_STREAM


class ServerStream(Stream):
    """What a call and an HTTP exchange have in common."""

    __slots__ = ()

    connection: ServerConnection

    def on_end_sent(self) -> None:
        self.local_closed = True
        if not self.remote_closed:
            # The client need not send the rest of its request (RFC 9113 section 8.1).
            self.connection.reset(self.id, ErrorCode.NO_ERROR)
        self.connection.forget(self)


class ServerCall(ServerStream, MessageStream):
    """One gRPC call. See `raftkv.rpc.service.Call` for what handlers may do with it."""

    __slots__ = (
        "_partial_bytes",
        "_reader",
        "_received_bytes",
        "_receiver",
        "_request",
        "_responded",
        "_tick",
        "cancelled",
        "deadline",
        "done",
        "head",
        "identity",
    )

    def __init__(self, connection: ServerConnection, stream_id: int, head: CallHead) -> None:
        super().__init__(connection, stream_id)
        self.head = head
        self.cancelled = False
        self.done = False
        """The status is decided; the trailers may still wait behind queued messages."""
        self.deadline: float | None = None
        self.identity: Any = None
        self._tick = 0
        self._reader: MessageReader | None = None
        self._receiver: StreamReceiver | None = None
        self._request: bytes | None = None
        """A whole unary request that waits for END_STREAM."""
        self._responded = False
        self._partial_bytes = 0
        self._received_bytes = 0

    # --- as handlers see it

    @property
    def method(self) -> Method:
        assert self.head.method is not None, "a refused call reaches no handler"
        return self.head.method

    @property
    def peer(self) -> str:
        return self.connection.peer

    @property
    def tls_common_name(self) -> str | None:
        return self.connection.tls_common_name

    def metadata(self, key: str) -> str | None:
        return self.head.metadata(key)

    def when_closed(self, callback: Callable[[], None]) -> None:
        if self.done:
            callback()
        else:
            self._receiver = UnaryWaiter(callback)

    def reply(self, message: bytes) -> None:
        if self.done:
            return
        stats = self.head.stats
        stats.sent += 1
        size = len(message)
        framed = size + 5
        outbox = self.outbox
        if framed > outbox.fast_bytes or framed > outbox.window or framed > self.send_window:
            self._reply_queued(message)
            return
        outbox.window -= framed
        stream_id = self.id
        outbox.parts += (
            _REPLY_HEAD.pack(_HEAD_WORD, END_HEADERS, stream_id, RESPONSE_BLOCK, framed << 8, 0, stream_id, 0, size),
            message,
            _REPLY_TAIL.pack(_TAIL_WORD, _END_ALL, stream_id, OK_TRAILERS),
        )
        outbox.payload_sent = True
        if not outbox.awake:
            outbox.awake = True
            outbox.wake()
        self.done = True
        stats.handled[0] += 1
        if self.deadline is not None:
            self.connection.context.deadlines.discard(self, self._tick)
        del self.connection.streams[stream_id]

    def _reply_queued(self, message: bytes) -> None:
        """A reply that a window, a frame or a slow client holds up."""
        self._respond()
        self.enqueue_message(message)
        self._settle(Code.OK)
        self.end(OK_TRAILERS)

    def reply_in_parts(self, parts: list[bytes], left: Left) -> None:
        size = sum(map(len, parts))
        if self.done:
            left(size)
            return
        self.head.stats.sent += 1
        self._respond()
        outbox = self.outbox
        outbox.report(self, left, size + PREFIX_BYTES)
        outbox.enqueue(self, PREFIX.pack(0, size))
        for part in parts:
            outbox.enqueue(self, part)
        parts.clear()
        self._receiver = None  # answered: the handler and what it holds may go
        self._settle(Code.OK)
        self.end(OK_TRAILERS)

    def fail(self, code: Code, text: str) -> None:
        self.fail_with(code, text, b"")

    def fail_with(self, code: Code, text: str, extra_trailers: bytes) -> None:
        if self.done:
            return
        self._settle(code)
        trailers = error_trailers(code, text) + extra_trailers
        if self._responded:
            self.end(trailers)
        else:
            self.outbox.headers(self.id, RESPONSE_BLOCK + trailers, end_stream=True)
            self.on_end_sent()
        self._notify_closed()

    def send(self, message: bytes) -> bool:
        if self.done:
            return True
        if not self._responded:
            self._respond()
        self.head.stats.sent += 1
        return self.write_message(message)

    def send_counted(self, message: bytes, left: Left) -> bool:
        before = self.queued_bytes
        has_room = self.send(message)
        queued_bytes = self.queued_bytes - before
        if queued_bytes:
            self.outbox.report(self, left, queued_bytes)
        else:  # nothing held it up, or nobody waits for it
            left(len(message))
        return has_room

    def cut_off(self) -> None:
        connection = self.connection
        if connection.streams.get(self.id) is self:
            # What gRPC clients know as RESOURCE_EXHAUSTED.
            connection.reset(self.id, ErrorCode.ENHANCE_YOUR_CALM)
            connection.forget(self)
            self.on_reset(ErrorCode.ENHANCE_YOUR_CALM)
        else:
            self.outbox.leaving.is_hopeless = True
            connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "replies are not read")

    def finish(self) -> None:
        if self.done:
            return
        if not self._responded:
            self._respond()
        self._settle(Code.OK)
        self.end(OK_TRAILERS)
        self._notify_closed()

    # --- as the connection sees it

    def open(self) -> None:
        """The head has been read: refuse the call or, for a stream, meet its handler."""
        head = self.head
        if head.refusal is not None:
            self.connection.stats.calls_rejected += 1
            self.fail_with(*head.refusal)
            return
        method = self.method
        if method.kind is MethodKind.UNARY:
            return
        try:
            self._receiver = cast(StreamHandler, method.handler)(self)
        except Exception:
            self._on_handler_error()
            return
        if self.done:
            # The handler ended the call before the connection knew its receiver.
            self._notify_closed()

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        head = self.head
        if end_stream and head.fast and self._reader is None and len(payload) >= 5:
            compressed, size = PREFIX.unpack_from(payload)
            if not compressed and size == len(payload) - 5 and size <= self.connection.limits.max_message_bytes:
                head.stats.received += 1
                try:
                    head.method.handler(self, payload[5:])  # type: ignore[union-attr, call-arg]  # fast: unary
                except Exception:
                    self._on_handler_error()
                return
        self._on_data_slow(payload, end_stream)

    def on_reset(self, code: int) -> None:
        if self.done:
            return
        self.cancelled = True
        self._settle(Code.CANCELLED)
        self._notify_closed()

    def on_deadline(self) -> None:
        self.cancelled = True
        self.connection.stats.calls_expired += 1
        self.outbox.drop(self)
        self.fail(Code.DEADLINE_EXCEEDED, TEXT_DEADLINE)

    def on_disconnect(self, text: str) -> None:
        self.on_reset(ErrorCode.CANCEL)

    def on_writable(self) -> None:
        if self._receiver is None or self.done:
            return
        try:
            self._receiver.on_writable()
        except Exception:
            self._on_handler_error()

    def expire_at(self, deadline: float) -> None:
        self.deadline = deadline
        connection = self.connection
        self._tick = connection.context.deadlines.add(self, deadline, connection.now)

    # --- within

    def _on_data_slow(self, payload: bytes, end_stream: bool) -> None:
        if self.done:
            return
        fields = self.head.fields
        assert fields is not None, "a malformed head makes no call"
        expected_bytes = fields.content_length
        if expected_bytes is not None:
            self._received_bytes += len(payload)
            if self._received_bytes > expected_bytes or (end_stream and self._received_bytes != expected_bytes):
                self.connection.stream_error(self.id, ErrorCode.PROTOCOL_ERROR)
                return
        try:
            self._read(payload, end_stream)
        except RpcError as error:
            self.fail(error.code, error.text)
        except Exception:
            self._on_handler_error()

    def _read(self, payload: bytes, end_stream: bool) -> None:
        """Raises RpcError when the request breaks a rule of gRPC."""
        reader = self._reader
        if reader is None:
            reader = self._reader = MessageReader(self.connection.limits.max_message_bytes, self.head.gzip)
        for message in reader.feed(payload):
            self._on_message(message)
            if self.done:
                return
        held_bytes = reader.buffered_bytes
        if end_stream:
            if held_bytes:
                raise RpcError(Code.INTERNAL, "unexpected EOF")
            self._on_half_close()
            return
        if self._request is not None and self._receiver is None:
            held_bytes += len(self._request)
        self._hold(held_bytes)
        if self.connection.partial_bytes > self.connection.limits.max_partial_bytes:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "too many incomplete messages on one connection")

    def _on_message(self, message: bytes) -> None:
        if self.method.kind is not MethodKind.BIDI:
            if self._request is not None:
                raise RpcError(Code.INTERNAL, "cardinality violation: more than one request message")
            self._request = message
        self.head.stats.received += 1
        if self._receiver is not None:
            self._receiver.on_message(message)

    def _on_half_close(self) -> None:
        self._hold(0)
        if self.method.kind is not MethodKind.BIDI and self._request is None:
            raise RpcError(Code.INTERNAL, "cardinality violation: no request message")
        if self._receiver is not None:
            self._receiver.on_half_close()
        else:
            assert self._request is not None, "only a stream has no request here"
            cast(UnaryHandler, self.method.handler)(self, self._request)

    def _hold(self, size_bytes: int) -> None:
        """Account for request bytes kept until the rest comes."""
        self.connection.partial_bytes += size_bytes - self._partial_bytes
        self._partial_bytes = size_bytes

    def _respond(self) -> None:
        self._responded = True
        self.outbox.headers(self.id, RESPONSE_BLOCK, end_stream=False)

    def _settle(self, code: Code) -> None:
        """The call's status is decided."""
        self.done = True
        self.head.stats.handled[code] += 1
        if self.deadline is not None:
            self.connection.context.deadlines.discard(self, self._tick)
        if self._partial_bytes:
            self._hold(0)

    def _notify_closed(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        try:
            receiver.on_closed()
        except Exception:
            self._log_handler_error()

    def _on_handler_error(self) -> None:
        """A handler raised: our mistake, which must not take other calls of the connection with it."""
        self._log_handler_error()
        self.fail(Code.INTERNAL, "internal error")

    def _log_handler_error(self) -> None:
        self.connection.stats.handler_errors += 1
        logger.exception("handler raised", extra={"kv": {"method": self.method.path, "peer": self.peer}})


class TimedServerCall(ServerCall):
    """One whose time is measured (--metrics=extensive), so that the others pay nothing for it."""

    __slots__ = ("_began_s",)

    def __init__(self, connection: ServerConnection, stream_id: int, head: CallHead) -> None:
        super().__init__(connection, stream_id, head)
        self._began_s = perf_counter()

    def reply(self, message: bytes) -> None:
        if not self.done:
            super().reply(message)
            self._observe()

    def _settle(self, code: Code) -> None:
        super()._settle(code)
        self._observe()

    def _observe(self) -> None:
        """Once: a reply that had to be queued has come through `_settle` already."""
        durations = self.head.stats.durations
        if durations is not None and self._began_s:
            durations.observe(perf_counter() - self._began_s)
        self._began_s = 0.0
