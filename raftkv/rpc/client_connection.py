"""The client's role of an HTTP/2 connection: opening streams within the server's limit, keepalive, GOAWAY.

Knows no socket and never reconnects: that is the channel's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.rpc import frames
from raftkv.rpc.client_call import ClientCall, ResponseHead
from raftkv.rpc.codes import Code
from raftkv.rpc.connection import Http2Connection
from raftkv.rpc.flow import FloodGauge
from raftkv.rpc.frames import END_HEADERS, HEADER, HEADERS, ErrorCode, Http2Error
from raftkv.rpc.headers import HeaderReader, HeaderWriter
from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats

TEXT_CLOSING: Final = "grpc: the client connection is closing"

SERVER_PINGS_BURST: Final = 100_000
SERVER_PINGS_PER_S: Final = 20_000.0

_KEEPALIVE_PING: Final = b"keepaliv"


class ClientConnection(Http2Connection[ClientCall]):
    __slots__ = (
        "_keepalive_sent_at",
        "_next_stream_id",
        "_on_ready",
        "_peer_max_streams",
        "_reader",
        "_remembered",
        "writer",
    )

    def __init__(
        self,
        limits: Limits,
        stats: Stats,
        wake: Callable[[], None],
        on_ready: Callable[[], None],
        now: float,
    ) -> None:
        super().__init__(limits, stats, wake, now)
        # grpc-go's servers measure the path: a ping for every burst of data, thousands a second on a fast network.
        self._gauges["pings"] = FloodGauge("pings", SERVER_PINGS_BURST, SERVER_PINGS_PER_S)
        self._on_ready = on_ready
        """The server's first SETTINGS are here, so its limits are known."""
        self._reader = HeaderReader(ResponseHead, limits.max_header_list_bytes)
        self._remembered: dict[bytes, ResponseHead] = self._reader.remembered
        self.writer = HeaderWriter()
        self._next_stream_id = 1
        self._peer_max_streams = frames.MAX_STREAM_ID
        self._keepalive_sent_at: float | None = None

    def _on_ping(self, opaque: bytes) -> None:
        self._gauges["pings"].hit(self.now)
        super()._on_ping(opaque)

    @property
    def usable(self) -> bool:
        """New calls may come here, at least when others have ended."""
        return not (self.closing or self.closed or self.peer_gone or self._next_stream_id > frames.MAX_STREAM_ID)

    @property
    def has_room(self) -> bool:
        return len(self.streams) < self._peer_max_streams

    @property
    def finished(self) -> bool:
        return self.closing or (not self.usable and not self.streams)

    def open(self, call: ClientCall, block: bytes) -> None:
        """Give the call a stream; send its head and what else it has. The caller has checked `has_room`."""
        stream_id = self._next_stream_id
        self._next_stream_id = stream_id + 2
        self.streams[stream_id] = call
        outbox = self.outbox
        if len(block) <= frames.DEFAULT_FRAME_BYTES:
            outbox.parts.append(HEADER.pack(len(block) << 8 | HEADERS, END_HEADERS, stream_id))
            outbox.parts.append(block)
            if not outbox.awake:
                outbox.awake = True
                outbox.wake()
        else:
            outbox.headers(stream_id, block, end_stream=False)
        call.attach(self, stream_id)

    def on_tick(self, now: float) -> None:
        """Ping while calls wait on a silent connection: servers count pings without calls as abuse (G-40)."""
        super().on_tick(now)
        interval_s = self.limits.keepalive_interval_s
        if self.closing or self.closed or not interval_s:
            return
        if self._keepalive_sent_at is not None:
            if self.last_received_at >= self._keepalive_sent_at:
                self._keepalive_sent_at = None
            elif now - self._keepalive_sent_at >= self.limits.keepalive_timeout_s:
                self.stats.keepalive_timeouts += 1
                self.fail(ErrorCode.NO_ERROR, "keepalive ping not answered")
        elif self.streams and now - self.last_received_at >= interval_s:
            self._keepalive_sent_at = now
            self.outbox.control(frames.ping(_KEEPALIVE_PING, ack=False))

    def shut_down(self) -> None:
        """The channel closes: its calls end with CANCELLED, the server hears GOAWAY."""
        for call in list(self.streams.values()):
            if call.id in self.streams:
                self.forget(call)
                call.fail_unsent(Code.CANCELLED, TEXT_CLOSING)
        self.fail(ErrorCode.NO_ERROR, "channel closed")

    # --- what the role supplies

    def _announce(self) -> bytes:
        limits = self.limits
        self.outbox.control(
            frames.PREFACE
            + frames.settings(
                {
                    frames.SETTINGS_ENABLE_PUSH: 0,
                    frames.SETTINGS_INITIAL_WINDOW_SIZE: limits.recv_window_bytes,
                    frames.SETTINGS_MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
        )
        if limits.recv_window_bytes > frames.DEFAULT_WINDOW:
            self.outbox.control(frames.window_update(0, limits.recv_window_bytes - frames.DEFAULT_WINDOW))
        return b""

    def _on_begun(self) -> None:
        self._on_ready()

    def _on_header_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        head = self._remembered.get(block)
        if head is None:
            head = self._reader.read(block)
        call = self.streams.get(stream_id)
        if call is None:
            if stream_id not in self._reset_by_us:
                self._check_not_idle(stream_id)
                raise Http2Error(ErrorCode.STREAM_CLOSED, "HEADERS for a closed stream")
        elif call.remote_closed:
            self.stream_error(stream_id, ErrorCode.STREAM_CLOSED)
        else:
            if end_stream:
                call.remote_closed = True
            call.on_head(head, end_stream)

    def _is_idle(self, stream_id: int) -> bool:
        # The server may not open streams (push is off), so an even id is always idle.
        return not stream_id & 1 or stream_id >= self._next_stream_id

    def _on_setting(self, key: int, value: int) -> None:
        if key == frames.SETTINGS_MAX_CONCURRENT_STREAMS:
            self._peer_max_streams = value
        elif key == frames.SETTINGS_HEADER_TABLE_SIZE:
            self.writer.resize_table(value)
        elif key == frames.SETTINGS_ENABLE_PUSH and value:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a server may not enable push")

    def _on_pong(self, opaque: bytes) -> None:
        """Any received byte shows life; see `on_tick`."""

    def _on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Calls beyond the last id were not and will not be processed."""
        for call in [call for stream_id, call in self.streams.items() if stream_id > last_stream_id]:
            self.forget(call)
            call.fail_unsent(Code.UNAVAILABLE, f"there is no connection available: {debug.decode('utf-8', 'replace')}")
