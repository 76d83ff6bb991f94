"""The server's role of an HTTP/2 connection: opening streams, the ping rule, keepalive, draining.

Owns which header block opens a call, an HTTP exchange or an error, and when the connection may end. Knows no
socket; what a call does with its messages is `server_call`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from raftkv.rpc import frames
from raftkv.rpc.connection import Http2Connection
from raftkv.rpc.frames import ErrorCode, Http2Error
from raftkv.rpc.headers import HeaderReader
from raftkv.rpc.http_stream import HttpStream
from raftkv.rpc.server_call import ServerCall, ServerStream, TimedServerCall
from raftkv.rpc.server_context import CallHead, ServerContext

MAX_PING_STRIKES: Final = 2
IDLE_PING_MIN_S: Final = 7200.0
"""Least interval of a client's pings while it has no stream (G-40)."""
DRAIN_ROUND_TRIP_S: Final = 1.0
"""The longest wait for the ping that shows that the client has read the first GOAWAY."""
SKIPPED_MEMORY: Final = 64
"""Ranges of stream ids that the client passed over. When full the oldest is forgotten; a late HEADERS there
is then answered with STREAM_CLOSED instead of PROTOCOL_ERROR."""
STREAM_COST_BYTES: Final = 1024
"""What an open stream counts beside what it has queued, once the connection has something that cannot leave."""

_KEEPALIVE_PING: Final = b"keepaliv"
_DRAIN_PING: Final = b"draining"


class ServerConnection(Http2Connection[ServerStream]):
    __slots__ = (
        "_accept_until",
        "_drain_began_at",
        "_keepalive_sent_at",
        "_last_ping_at",
        "_make_call",
        "_reader",
        "_remembered",
        "_skipped",
        "_strikes",
        "context",
        "is_tls",
        "peer",
        "tls_common_name",
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
        super().__init__(context.limits, context.stats, wake, now)
        self.context = context
        self.peer = peer
        self.is_tls = is_tls
        self.tls_common_name = tls_common_name
        self._reader = HeaderReader(context.interpret, context.limits.max_header_list_bytes)
        self._remembered: dict[bytes, tuple[CallHead, float | None]] = self._reader.remembered
        self._skipped: deque[tuple[int, int]] = deque(maxlen=SKIPPED_MEMORY)
        self._accept_until = frames.MAX_STREAM_ID
        """Streams beyond the id in our last GOAWAY are not served (section 6.8)."""
        self._drain_began_at: float | None = None
        self._make_call = TimedServerCall if context.stats.duration_bounds else ServerCall
        self._strikes = 0
        self._last_ping_at = float("-inf")
        self._keepalive_sent_at: float | None = None

    @property
    def finished(self) -> bool:
        """Nothing is left to do but to write the outbox and close the transport."""
        if self.closing:
            return True
        leaving = self._accept_until < frames.MAX_STREAM_ID or self.peer_gone
        return leaving and not self.streams

    def drain(self, now: float) -> None:
        """Begin to end: the client hears of it, opens nothing more, and has its calls answered.

        Two GOAWAYs, because streams may be on their way while the first one travels (section 6.8).
        """
        if self._drain_began_at is not None or self.closing or self.closed:
            return
        self.now = self._drain_began_at = now
        self.stats.goaways_sent += 1
        self.outbox.control(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, b"server is leaving"))
        self.outbox.control(frames.ping(_DRAIN_PING, ack=False))

    def on_tick(self, now: float) -> None:
        super().on_tick(now)
        if self.closing or self.closed:
            return
        if self._drain_began_at is not None and now - self._drain_began_at >= DRAIN_ROUND_TRIP_S:
            self._stop_accepting()
        interval_s = self.limits.keepalive_interval_s
        if not interval_s or not self.limits.keepalive_timeout_s:
            return
        if self._keepalive_sent_at is not None:
            if self.last_received_at >= self._keepalive_sent_at:
                self._keepalive_sent_at = None
            elif now - self._keepalive_sent_at >= self.limits.keepalive_timeout_s:
                self.stats.keepalive_timeouts += 1
                self.fail(ErrorCode.NO_ERROR, "keepalive ping not answered")
        elif now - self.last_received_at >= interval_s:
            self._keepalive_sent_at = now
            self.outbox.control(frames.ping(_KEEPALIVE_PING, ack=False))

    # --- what the role supplies

    def _announce(self) -> bytes:
        limits = self.limits
        self.outbox.control(
            frames.settings(
                {
                    frames.SETTINGS_MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: limits.recv_window_bytes,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
        )
        if limits.recv_window_bytes > frames.DEFAULT_WINDOW:
            self.outbox.control(frames.window_update(0, limits.recv_window_bytes - frames.DEFAULT_WINDOW))
        return frames.PREFACE

    def _on_header_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        known = self._remembered.get(block)
        if known is None:
            known = self._reader.read(block)
        if stream_id <= self.last_peer_stream:
            self._on_late_headers(stream_id, known[0], end_stream)
            return
        if not stream_id & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "client opened an even stream")
        if stream_id > self._accept_until:
            return
        if stream_id > self.last_peer_stream + 2:
            self._skipped.append((self.last_peer_stream + 1, stream_id - 1))
        self.last_peer_stream = stream_id
        head, timeout_s = known
        if self._must_refuse():
            self._gauges["stream errors"].hit(self.now)
            self.stats.calls_refused += 1
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
        elif head.method is not None:
            call = self._make_call(self, stream_id, head)
            self.streams[stream_id] = call
            head.stats.started += 1
            if timeout_s is not None:
                call.expire_at(self.now + timeout_s)
            if not head.fast:
                call.open()
            if end_stream:
                self._end_request(stream_id)
        else:
            self._open_other(stream_id, head, end_stream)

    def _open_other(self, stream_id: int, head: CallHead, end_stream: bool) -> None:
        """A head that is not a call we serve."""
        if head.refusal is not None:
            call = ServerCall(self, stream_id, head)
            self.streams[stream_id] = call
            call.remote_closed = end_stream
            call.open()
        elif head.fields is not None:
            self.streams[stream_id] = HttpStream(self, stream_id, head.fields)
            if end_stream:
                self._end_request(stream_id)
        else:
            self.stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _must_refuse(self) -> bool:
        limits = self.limits
        if len(self.streams) >= limits.max_concurrent_streams:
            return True
        # Replies of a few bytes: the streams that wait with them are what fills the memory.
        queued_bytes = self.outbox.queued_bytes
        return queued_bytes > 0 and queued_bytes + len(self.streams) * STREAM_COST_BYTES > limits.max_queued_bytes

    def _end_request(self, stream_id: int) -> None:
        """END_STREAM came with a header block."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.remote_closed = True
            stream.on_data(b"", True)

    def _on_late_headers(self, stream_id: int, head: CallHead, end_stream: bool) -> None:
        """A header block on a stream already opened: trailers, or a mistake (section 5.1)."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            if stream.remote_closed:
                self.stream_error(stream_id, ErrorCode.STREAM_CLOSED)
            elif not end_stream or not head.is_trailers:
                self.stream_error(stream_id, ErrorCode.PROTOCOL_ERROR)
            else:
                self._end_request(stream_id)
        elif stream_id not in self._reset_by_us:
            if self._was_never_open(stream_id):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "stream id lower than one already used")
            raise Http2Error(ErrorCode.STREAM_CLOSED, "HEADERS for a closed stream")

    def _on_stray(self, stream_id: int, half_closed: bool) -> None:
        if stream_id <= self._accept_until:
            super()._on_stray(stream_id, half_closed)

    def _was_never_open(self, stream_id: int) -> bool:
        return not stream_id & 1 or any(low <= stream_id <= high for low, high in self._skipped)

    def _is_idle(self, stream_id: int) -> bool:
        # Late frames for streams that we never took (after GOAWAY) are not the client's mistake.
        return not stream_id & 1 or self.last_peer_stream < stream_id <= self._accept_until

    def _on_ping(self, opaque: bytes) -> None:
        super()._on_ping(opaque)
        since_last_s = self.now - self._last_ping_at
        self._last_ping_at = self.now
        if self.outbox.payload_sent:
            self.outbox.payload_sent = False
            self._strikes = 0
            return
        if since_last_s < (self.limits.keepalive_min_time_s if self.streams else IDLE_PING_MIN_S):
            self._strikes += 1
            self.stats.ping_strikes += 1
            if self._strikes > MAX_PING_STRIKES:
                self.fail(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")

    def _on_pong(self, opaque: bytes) -> None:
        if opaque == _DRAIN_PING and self._drain_began_at is not None:
            self._stop_accepting()

    def _on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """The client opens nothing more; its calls are still answered."""

    def _stop_accepting(self) -> None:
        if self._accept_until == frames.MAX_STREAM_ID:
            self._accept_until = self.last_peer_stream
            self.outbox.control(frames.goaway(self.last_peer_stream, ErrorCode.NO_ERROR, b"server is leaving"))
