"""The client's side of one stream: a unary call or a stream as the channel's users see it.

Owns the way from response frames to a status and messages. A call exists before it has a stream: while the
channel connects it waits, and can be cancelled or expire there. Knows nothing of sockets or reconnecting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.frames import END_STREAM, HEADER, ErrorCode
from raftkv.rpc.grpc import (
    PREFIX,
    MessageReader,
    is_grpc_content_type,
    percent_decode,
)
from raftkv.rpc.headers import Header, MalformedHeadersError, check_response
from raftkv.rpc.message_stream import MessageStream
from raftkv.rpc.service import TEXT_CANCELLED, TEXT_DEADLINE

if TYPE_CHECKING:
    from raftkv.rpc.channel import Channel
    from raftkv.rpc.client_connection import ClientConnection

logger = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str | bytes], ...]
OnDone = Callable[[Any, Code, str, bytes], None]
"""Context, code, text and, when the code is OK, the response message."""

_HTTP_TO_CODE: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
_RESET_TO_CODE: Final = {
    ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCode.CANCEL: Code.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}
"""gRPC's "HTTP2 Transport Mapping"; everything else is INTERNAL."""


class ResponseHead:
    """What a header block of a response says, shared by all responses with the same block."""

    __slots__ = ("code", "gzip", "is_grpc", "malformed", "status", "text")

    def __init__(self, headers: list[Header]) -> None:
        self.malformed = False
        self.status: int | None = None
        """None in trailers."""
        self.code: Code | None = None
        """None without grpc-status. A number that gRPC does not know is UNKNOWN."""
        self.text = ""
        self.gzip = False
        self.is_grpc = False
        try:
            fields = check_response(headers)
        except MalformedHeadersError:
            self.malformed = True
            return
        status = fields.pseudo.get(b":status")
        if status is not None:
            self.malformed = not (len(status) == 3 and status.isdigit())
            self.status = 0 if self.malformed else int(status)
        for name, value in fields.fields:
            if name == b"grpc-status":
                known = value.isdigit() and len(value) <= 2 and int(value) < len(Code)
                self.code = Code(int(value)) if known else Code.UNKNOWN
            elif name == b"grpc-message":
                self.text = percent_decode(value)
            elif name == b"content-type":
                self.is_grpc = is_grpc_content_type(value)
            elif name == b"grpc-encoding":
                self.gzip = value == b"gzip"


class StreamClient(Protocol):
    """The user's side of a stream opened by `Channel.stream`."""

    def on_message(self, message: bytes) -> None: ...

    def on_writable(self) -> None:
        """The queue fell below the low mark after `send` had said False."""

    def on_closed(self, code: Code, text: str) -> None:
        """The call is over, once, for whichever reason."""


class ClientCall(MessageStream):
    """What both sorts of call have in common. `id` is 0 until the call has a stream."""

    __slots__ = (
        "_gzip",
        "_reader",
        "_responded",
        "channel",
        "deadline",
        "done",
        "metadata",
        "path",
        "tick",
        "timeout_s",
    )

    connection: ClientConnection

    def __init__(self, channel: Channel, path: bytes, metadata: Metadata, timeout_s: float | None) -> None:
        self.id = 0
        self.channel = channel
        self.path = path
        self.metadata = metadata
        self.timeout_s = timeout_s
        self.deadline: float | None = None
        self.tick = 0
        self.done = False
        self._responded = False
        self._gzip = False
        self._reader: MessageReader | None = None

    def attach(self, connection: ClientConnection, stream_id: int) -> None:
        """The call has its stream and HEADERS are in the outbox: send what is there to send."""
        super().__init__(connection, stream_id)

    def cancel(self) -> None:
        """End the call with CANCELLED; the server is told. No effect on one that has ended."""
        self._abandon(Code.CANCELLED, TEXT_CANCELLED)

    def on_deadline(self) -> None:
        self._abandon(Code.DEADLINE_EXCEEDED, TEXT_DEADLINE)

    def fail_unsent(self, code: Code, text: str) -> None:
        """The call ends before it had a stream."""
        self._settle(code, text)

    # --- as the connection sees it

    def on_head(self, head: ResponseHead, end_stream: bool) -> None:
        """A header block: informational, the head, trailers, or head and trailers in one."""
        if not self._responded:
            if head.status is None or head.malformed:
                self.connection.stream_error(self.id, ErrorCode.PROTOCOL_ERROR)
                return
            if 100 <= head.status < 200 and not end_stream:
                return
            self._responded = True
            if head.status != 200:
                code = _HTTP_TO_CODE.get(head.status, Code.UNKNOWN)
                phrase = HTTPStatus(head.status).phrase if head.status in HTTPStatus._value2member_map_ else ""
                text = f"unexpected HTTP status code received from server: {head.status} ({phrase})"
                self._end(head.code if head.code is not None else code, head.text or text, end_stream)
                return
            if not head.is_grpc:
                self._end(Code.UNKNOWN, "malformed header: missing HTTP content-type", end_stream)
                return
            self._gzip = head.gzip
            if not end_stream:
                return
        elif not end_stream or head.malformed or head.status is not None:
            self.connection.stream_error(self.id, ErrorCode.PROTOCOL_ERROR)
            return
        if head.code is None:
            self._end(Code.UNKNOWN, "server closed the stream without sending a status", True)
        else:
            self._end(head.code, head.text, True)

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        if self.done:
            return
        if not self._responded:
            self.connection.stream_error(self.id, ErrorCode.PROTOCOL_ERROR)
            return
        # The usual frame: one whole message, not compressed.
        if self._reader is None and len(payload) >= 5:
            compressed, size = PREFIX.unpack_from(payload)
            if not compressed and size == len(payload) - 5:
                self._on_message(payload[5:])
                if end_stream:
                    self._end_without_status()
                return
        if payload:
            self._read(payload)
        if end_stream:
            self._end_without_status()

    def on_reset(self, code: int) -> None:
        known = code if code in ErrorCode._value2member_map_ else ErrorCode.INTERNAL_ERROR
        name = ErrorCode(known).name
        status = _RESET_TO_CODE.get(ErrorCode(known), Code.INTERNAL)
        self._settle(status, f"stream terminated by RST_STREAM with error code: {name}")

    def on_disconnect(self, text: str) -> None:
        # Not a text of ER-02: the request may have been executed.
        self._settle(Code.UNAVAILABLE, f"error reading from server: {text}")

    def on_writable(self) -> None:
        """Only streams wait for room."""

    # --- within

    def _on_message(self, message: bytes) -> None:
        raise NotImplementedError

    def _on_settled(self, code: Code, text: str) -> None:
        """Tell the user. May raise: that is logged."""
        raise NotImplementedError

    def _read(self, payload: bytes) -> None:
        if self._reader is None:
            self._reader = MessageReader(self.channel.max_message_bytes, self._gzip)
        try:
            for message in self._reader.feed(payload):
                self._on_message(message)
                if self.done:
                    return
        except RpcError as error:
            self._abandon(error.code, error.text)

    def _end(self, code: Code, text: str, end_stream: bool) -> None:
        """The server has said how the call ends."""
        if self._reader is not None and self._reader.buffered_bytes and code is Code.OK:
            code, text = Code.INTERNAL, "unexpected EOF"
        if end_stream and self.local_closed:
            self.connection.forget(self)
            self._settle(code, text)
        else:
            self._abandon(code, text)

    def _end_without_status(self) -> None:
        self._end(Code.UNKNOWN, "server closed the stream without sending trailers", True)

    def _abandon(self, code: Code, text: str) -> None:
        """The call ends while the stream is open, at least on one side."""
        if self.done:
            return
        if self.id:
            self.connection.reset(self.id, ErrorCode.CANCEL)
            self.connection.forget(self)
        self._settle(code, text)

    def _settle(self, code: Code, text: str) -> None:
        if self.done:
            return
        self.done = True
        if self.deadline is not None:
            self.channel.deadlines.discard(self, self.tick)
        try:
            self._on_settled(code, text)
        except Exception:
            self.channel.stats.handler_errors += 1
            logger.exception("callback of a call raised", extra={"kv": {"path": self.path.decode()}})
        self.channel.on_call_ended()


class UnaryCall(ClientCall):
    __slots__ = ("_ctx", "_on_done", "_request", "_response")

    def __init__(
        self,
        channel: Channel,
        path: bytes,
        metadata: Metadata,
        timeout_s: float | None,
        request: bytes,
        on_done: OnDone,
        ctx: object,
    ) -> None:
        super().__init__(channel, path, metadata, timeout_s)
        self._request = request
        self._on_done = on_done
        self._ctx = ctx
        self._response: bytes | None = None

    def attach(self, connection: ClientConnection, stream_id: int) -> None:
        super().attach(connection, stream_id)
        request = self._request
        framed = len(request) + 5
        outbox = self.outbox
        if framed <= outbox.fast_bytes and framed <= outbox.window and framed <= self.send_window:
            outbox.window -= framed
            # Word, flags, stream id; compressed flag and length are the message's prefix.
            outbox.parts += (
                HEADER.pack(framed << 8, END_STREAM, stream_id),
                PREFIX.pack(0, framed - 5),
                request,
            )
            self.local_closed = True
        else:
            self.enqueue_message(request)
            self.end(b"")

    def _on_message(self, message: bytes) -> None:
        if self._response is not None:
            self._abandon(Code.INTERNAL, "cardinality violation: more than one response message")
        else:
            self._response = message

    def _on_settled(self, code: Code, text: str) -> None:
        response = self._response
        if code is not Code.OK:
            self._on_done(self._ctx, code, text, b"")
        elif response is None:
            self._on_done(self._ctx, Code.INTERNAL, "cardinality violation: no response message", b"")
        else:
            self._on_done(self._ctx, Code.OK, "", response)


class StreamCall(ClientCall):
    """A stream in both directions. Also serves calls with one request: send it and half-close."""

    __slots__ = ("_client", "_early", "_early_bytes", "_half_closed")

    def __init__(
        self, channel: Channel, path: bytes, metadata: Metadata, timeout_s: float | None, client: StreamClient
    ) -> None:
        super().__init__(channel, path, metadata, timeout_s)
        self._client = client
        self._early: list[bytes] = []
        """Messages sent before there is a stream. `send` says False beyond the high mark."""
        self._early_bytes = 0
        self._half_closed = False

    def attach(self, connection: ClientConnection, stream_id: int) -> None:
        super().attach(connection, stream_id)
        early, self._early = self._early, []
        for message in early:
            self.write_message(message)
        if self._half_closed:
            self.end(b"")
        elif self._early_bytes >= connection.limits.stream_high_bytes:
            self.throttled = True
            if not self.queued_bytes:
                self.outbox.writable.append(self)

    def send(self, message: bytes) -> bool:
        """Queue one message. False: the high mark is passed, stop until `on_writable`."""
        if self.done or self._half_closed:
            return True
        if self.id:
            return self.write_message(message)
        self._early.append(message)
        self._early_bytes += len(message)
        return self._early_bytes < self.channel.limits.stream_high_bytes

    def half_close(self) -> None:
        """Nothing more will be sent."""
        if self.done or self._half_closed:
            return
        self._half_closed = True
        if self.id:
            self.end(b"")

    def on_writable(self) -> None:
        if not self.done:
            try:
                self._client.on_writable()
            except Exception:
                self._on_client_error()

    def _on_message(self, message: bytes) -> None:
        try:
            self._client.on_message(message)
        except Exception:
            self._on_client_error()

    def _on_client_error(self) -> None:
        self.channel.stats.handler_errors += 1
        logger.exception("receiver of a stream raised", extra={"kv": {"path": self.path.decode()}})
        self.cancel()

    def _on_settled(self, code: Code, text: str) -> None:
        self._client.on_closed(code, text)
