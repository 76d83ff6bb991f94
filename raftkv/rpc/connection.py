"""One HTTP/2 connection without a socket: bytes in, method calls and bytes out (RFC 9113).

Owns the frame loop, settings, the receive windows, the table of open streams and the answer to every broken
rule: GOAWAY and close for the connection, RST_STREAM for a stream. `receive_data` never raises, whatever the
peer sends. The roles derive from it and say what a header block, a ping and a GOAWAY mean to them.

Knows nothing of gRPC, sockets or clocks: `now` is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from raftkv.rpc import frames
from raftkv.rpc.flow import FloodGauge, Outbox
from raftkv.rpc.frames import ErrorCode, Http2Error
from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats
from raftkv.rpc.streams import Stream

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Stream)

RESET_MEMORY: Final = 1024
"""Streams that we reset lately, whose late frames are ignored. When full the oldest is forgotten: a frame for
it is then answered STREAM_CLOSED."""
CONTINUATION_COST_BYTES: Final = 32
"""What each frame of a header block counts beside its payload, so that empty ones reach the limit too."""

STREAMS_PER_TOKEN: Final = 100
"""A new initial window visits every open stream; so many of them count as one more SETTINGS frame."""


class Http2Connection(Generic[S]):
    __slots__ = (
        "_announced",
        "_block",
        "_block_cost",
        "_block_flags",
        "_block_stream",
        "_gauges",
        "_incomplete_since",
        "_recv_low",
        "_recv_window",
        "_reset_by_us",
        "_settings_acked",
        "_settings_seen",
        "_settings_sent_at",
        "_tail",
        "closed",
        "closing",
        "last_peer_stream",
        "last_received_at",
        "limits",
        "now",
        "outbox",
        "partial_bytes",
        "peer_gone",
        "stats",
        "stream_refill_bytes",
        "stream_window_bytes",
        "streams",
    )

    def __init__(self, limits: Limits, stats: Stats, wake: Callable[[], None], now: float) -> None:
        self.limits = limits
        self.stats = stats
        self.outbox = Outbox(wake, limits.stream_low_bytes)
        self.now = now
        """Of the event being handled, in the loop's time."""
        self.streams: dict[int, S] = {}
        """Open in either direction. Bounded by Limits.max_concurrent_streams and max_queued_bytes."""
        self.last_peer_stream = 0
        """Highest stream that the peer opened (never for a client)."""
        self.closing = False
        """GOAWAY for an error is out: nothing more is parsed, the owner writes what is left and closes."""
        self.closed = False
        """The transport is gone."""
        self.peer_gone = False
        """The peer sent GOAWAY."""
        self.partial_bytes = 0
        """Of messages not yet complete, over all streams. Bounded by Limits.max_partial_bytes."""
        self.last_received_at = now
        self.stream_window_bytes = limits.recv_window_bytes
        self.stream_refill_bytes = limits.recv_window_bytes // 2
        self._recv_window = limits.recv_window_bytes
        self._recv_low = limits.recv_window_bytes // 2
        self._tail = b""
        """The beginning of a frame. Shorter than a frame: its length is checked first."""
        self._incomplete_since: float | None = None
        """Since when a frame or header block has been incomplete at the end of what was received."""
        self._block: list[bytes] | None = None
        """Fragments of a header block whose end has not come: nothing else may come before it."""
        self._block_stream = 0
        self._block_flags = 0
        self._block_cost = 0
        self._reset_by_us: dict[int, None] = {}
        self._settings_seen = False
        self._settings_acked = False
        self._settings_sent_at = now
        self._gauges = {
            name: FloodGauge(name, limits.flood_burst, limits.flood_per_s)
            for name in ("resets", "settings", "empty frames", "pings", "ignored frames", "stream errors")
        }
        self._announced = self._announce()

    # --- what the owner of the transport calls

    def receive_data(self, data: bytes, now: float) -> None:
        """Take what the transport read. Whatever is wrong with it is answered, never raised."""
        if self.closing or self.closed:
            return
        self.now = self.last_received_at = now
        self.stats.bytes_received += len(data)
        if self._tail:
            data = self._tail + data
        block = self._block
        try:
            self._tail = self._parse(data)
            if self.outbox.control_bytes > self.limits.max_control_bytes:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "answers to control frames are not read")
        except Http2Error as error:
            self.fail(error.code, error.text)
            return
        if not self._tail and self._block is None:
            self._incomplete_since = None
        elif self._incomplete_since is None or (
            # Another frame than before, or another block: whoever sends without a pause is not slow.
            len(self._tail) < len(data) and (self._block is None or self._block is not block)
        ):
            self._incomplete_since = now

    def take_output(self) -> bytes:
        """The bytes to write now; call it after each `wake` and after `resume`."""
        data = self.outbox.take()
        self.stats.bytes_sent += len(data)
        return data

    def pause(self) -> None:
        """The transport's buffer is full: output waits in the streams' queues until `resume`."""
        self.outbox.pause()

    def resume(self) -> None:
        self.outbox.resume()

    def connection_lost(self) -> None:
        """The transport is gone: every open stream ends."""
        if self.closed:
            return
        self.closed = True
        self._disconnect_streams("connection lost")
        self.outbox.parts.clear()
        self.outbox.leaving.keep(0)

    def on_tick(self, now: float) -> None:
        """Called about once a second: what may not stay incomplete for ever."""
        self.now = now
        if self.closing or self.closed:
            return
        timeout_s = self.limits.handshake_timeout_s
        waiting = not self._settings_acked and now - self._settings_sent_at > timeout_s
        stuck = self._incomplete_since is not None and now - self._incomplete_since > timeout_s
        if waiting or stuck:
            self.stats.handshake_timeouts += 1
            code = ErrorCode.SETTINGS_TIMEOUT if waiting and self._settings_seen else ErrorCode.ENHANCE_YOUR_CALM
            self.fail(code, "no SETTINGS acknowledgement" if waiting else "frame or header block incomplete")

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection: GOAWAY, then every stream, then the owner closes the transport."""
        if self.closing or self.closed:
            return
        self.closing = True
        if code is ErrorCode.ENHANCE_YOUR_CALM:
            self.stats.floods += 1
        elif code is not ErrorCode.NO_ERROR:
            self.stats.protocol_errors += 1
        if code is not ErrorCode.NO_ERROR:
            logger.info("http2 connection ended", extra={"kv": {"code": code.name, "reason": text}})
        self.stats.goaways_sent += 1
        self.outbox.control(frames.goaway(self.last_peer_stream, code, text.encode()))
        self._disconnect_streams(f"connection given up: {text}")

    def _disconnect_streams(self, text: str) -> None:
        for stream in list(self.streams.values()):
            if stream.id in self.streams:
                self.forget(stream)
                stream.on_disconnect(text)

    # --- what streams call

    def forget(self, stream: Stream) -> None:
        """Both sides are closed, or the stream is reset."""
        if stream.queued_bytes or stream.in_ring:
            self.outbox.drop(stream)
        self.streams.pop(stream.id, None)

    def reset(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM and ignore what still comes for the stream."""
        self.stats.streams_reset_by_us += 1
        self.outbox.control(frames.rst_stream(stream_id, code))
        memory = self._reset_by_us
        memory[stream_id] = None
        if len(memory) > RESET_MEMORY:
            del memory[next(iter(memory))]

    def stream_error(self, stream_id: int, code: ErrorCode) -> None:
        """The peer broke a rule that ends one stream (section 5.4.2)."""
        self._gauges["stream errors"].hit(self.now)
        self.reset(stream_id, code)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.forget(stream)
            stream.on_reset(code)

    # --- what a role supplies

    def _announce(self) -> bytes:
        """Send the preface and SETTINGS of this role; returns the preface that the peer must send first."""
        raise NotImplementedError

    def _on_header_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        raise NotImplementedError

    def _is_idle(self, stream_id: int) -> bool:
        """Neither side has opened the stream yet (section 5.1)."""
        raise NotImplementedError

    def _on_ping(self, opaque: bytes) -> None:
        self.outbox.control(frames.ping(opaque, ack=True))

    def _on_pong(self, opaque: bytes) -> None:
        raise NotImplementedError

    def _on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        raise NotImplementedError

    def _on_begun(self) -> None:
        """The peer's first SETTINGS have been applied."""

    def _on_setting(self, key: int, value: int) -> None:
        """A setting that only concerns one role."""

    # --- the frame loop

    def _parse(self, data: bytes) -> bytes:
        """Handle each whole frame; returns the rest."""
        pos = 0
        end = len(data)
        if self._announced:
            preface = self._announced
            if not preface.startswith(data[: len(preface)]):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "bad connection preface")
            if end < len(preface):
                return data
            self._announced = b""
            pos = len(preface)
        unpack = frames.HEADER.unpack_from
        handlers = _HANDLERS
        while end - pos >= 9:
            word, flags, stream_id = unpack(data, pos)
            length = word >> 8
            if length > 16384:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "frame larger than SETTINGS_MAX_FRAME_SIZE")
            start = pos + 9
            pos = start + length
            if pos > end:
                return data[start - 9 :]
            frame_type = word & 0xFF
            stream_id &= 0x7FFFFFFF
            if self._block is not None and (frame_type != 9 or stream_id != self._block_stream):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
            if frame_type < 10:
                handlers[frame_type](self, flags, stream_id, data[start:pos])
            else:
                self._check_begun()
                self._gauges["ignored frames"].hit(self.now)
            if self.closing:
                return b""
        return data[pos:]

    def _check_begun(self) -> None:
        if not self._settings_seen:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "first frame is not SETTINGS")

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._recv_window -= size
        if self._recv_window < self._recv_low:
            self._refill_connection()
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._on_stray(stream_id, stream is not None)
            return
        stream.recv_window -= size
        if stream.recv_window < 0:
            self.stream_error(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if flags & 8:
            payload = frames.strip_padding(frames.PADDED, payload)
        if flags & 1:
            stream.remote_closed = True
            stream.on_data(payload, True)
            return
        if not payload:
            self._gauges["empty frames"].hit(self.now)
        stream.on_data(payload, False)
        if stream.recv_window < self.stream_refill_bytes and stream_id in self.streams:
            self.outbox.control(frames.window_update(stream_id, self.stream_window_bytes - stream.recv_window))
            stream.recv_window = self.stream_window_bytes

    def _refill_connection(self) -> None:
        """Messages are bounded one by one and together, so the connection's window opens at once: held back
        it could only deadlock two half-received messages."""
        if self._recv_window < 0:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeded")
        window = self.limits.recv_window_bytes
        self.outbox.control(frames.window_update(0, window - self._recv_window))
        self._recv_window = window

    def _on_stray(self, stream_id: int, half_closed: bool) -> None:
        """A frame that carries something, for a stream whose sender may not send it (section 5.1)."""
        if stream_id in self._reset_by_us:
            return
        if not half_closed:
            self._check_not_idle(stream_id)
        self.stream_error(stream_id, ErrorCode.STREAM_CLOSED)

    def _check_not_idle(self, stream_id: int) -> None:
        if not self._settings_seen or stream_id == 0 or self._is_idle(stream_id):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "frame for an idle stream")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._settings_seen or stream_id == 0:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0 or before SETTINGS")
        if flags & 0x28:
            # A stream that depends on itself is still an error although priorities are ignored
            # (RFC 7540 section 5.3.1; RFC 9113 lets us). The block must be decoded first all the same.
            at = 1 if flags & frames.PADDED else 0
            depends_on = int.from_bytes(payload[at : at + 4], "big") & 0x7FFFFFFF
            payload = frames.strip_padding(flags & 0x28, payload)
            if flags & frames.PRIORITY_FLAG and depends_on == stream_id:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "stream depends on itself")
        if flags & frames.END_HEADERS:
            self._on_header_block(stream_id, payload, flags & 1 == 1)
            return
        self._block = [payload]
        self._block_stream = stream_id
        self._block_flags = flags
        self._block_cost = len(payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.append(payload)
        self._block_cost += len(payload) + CONTINUATION_COST_BYTES
        if self._block_cost > self.limits.max_header_block_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_header_block(stream_id, b"".join(block), self._block_flags & 1 == 1)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._check_begun()
        if stream_id == 0:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            # RST_STREAM may not be sent for an idle stream, so this ends the connection.
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not five bytes")
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "stream depends on itself")
        self._gauges["ignored frames"].hit(self.now)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        self._check_not_idle(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._gauges["ignored frames"].hit(self.now)
            return
        self.stats.streams_reset_by_peer += 1
        self._gauges["resets"].hit(self.now)
        self.forget(stream)
        stream.on_reset(int.from_bytes(payload, "big"))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._gauges["settings"].hit(self.now)
        if flags & frames.ACK:
            if payload:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            self._check_begun()
            self._settings_acked = True
            return
        for key, value in frames.parse_settings(payload):
            self._apply_setting(key, value)
        self.outbox.control(frames.SETTINGS_ACK)
        if not self._settings_seen:
            self._settings_seen = True
            self._on_begun()

    def _apply_setting(self, key: int, value: int) -> None:
        """One setting of the peer, checked as section 6.5.2 says. Unknown ones are ignored."""
        outbox = self.outbox
        if key == frames.SETTINGS_INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "initial window too large")
            delta = value - outbox.initial_window
            if not delta:
                return
            if self.streams:
                self._gauges["settings"].hit(self.now, len(self.streams) / STREAMS_PER_TOKEN)
            outbox.initial_window = value
            for stream in self.streams.values():
                stream.send_window += delta
                if stream.send_window > frames.MAX_WINDOW:
                    raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "stream window too large")
                if stream.queued_bytes:
                    outbox.line_up(stream)
        elif key == frames.SETTINGS_MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value <= frames.MAX_FRAME_BYTES:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "bad SETTINGS_MAX_FRAME_SIZE")
            # More than 64 KiB would only make the streams' turns longer.
            outbox.max_frame_bytes = min(value, 65536)
            if not outbox.paused:
                outbox.fast_bytes = outbox.max_frame_bytes
        elif key == frames.SETTINGS_ENABLE_PUSH and value > 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "bad SETTINGS_ENABLE_PUSH")
        else:
            self._on_setting(key, value)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not welcome")

    def _on_ping_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._check_begun()
        if stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PING is not eight bytes")
        if flags & frames.ACK:
            self._gauges["pings"].hit(self.now)
            self._on_pong(payload)
        else:
            self._on_ping(payload)

    def _on_goaway_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._check_begun()
        if stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than eight bytes")
        self.stats.goaways_received += 1
        self.peer_gone = True
        last_stream_id = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        self._on_goaway(last_stream_id, int.from_bytes(payload[4:8], "big"), payload[8:])

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        outbox = self.outbox
        if not stream_id:
            self._check_begun()
            if not increment:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
            outbox.window += increment
            if outbox.window > frames.MAX_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "connection window too large")
            if outbox.ring and not outbox.awake:
                outbox.awake = True
                outbox.wake()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            return
        stream.send_window += increment
        if not increment:
            self.stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif stream.send_window > frames.MAX_WINDOW:
            self.stream_error(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        elif stream.queued_bytes:
            outbox.line_up(stream)


_HANDLERS: Final = tuple(
    getattr(Http2Connection, name)
    for name in (
        "_on_data",
        "_on_headers",
        "_on_priority",
        "_on_rst_stream",
        "_on_settings",
        "_on_push_promise",
        "_on_ping_frame",
        "_on_goaway_frame",
        "_on_window_update",
        "_on_continuation",
    )
)
"""Indexed by frame type (RFC 9113 section 6)."""
