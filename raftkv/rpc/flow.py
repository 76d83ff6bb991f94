"""What a connection has to send: finished frames, and streams taking turns at the flow-control windows.

Owns the send windows' bookkeeping, the order of frames on the wire and the cheap-frame gauges. Knows nothing
of parsing and never touches a socket: `take` hands over bytes, `wake` asks for `take` to be called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from raftkv.rpc.frames import (
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_STREAM,
    FRAME_HEADER_BYTES,
    HEADER,
    ErrorCode,
    Http2Error,
    header_frames,
)

if TYPE_CHECKING:
    from raftkv.rpc.service import Left
    from raftkv.rpc.streams import Stream

TURN_BYTES: Final = 256 * 1024
"""Most that one `take` moves from stream queues, so that a large reply does not hold the loop."""

_DATA_HEAD: Final = Struct(">IBI")


class FloodGauge:
    """A token bucket for one sort of frame that costs the peer nothing and us something."""

    __slots__ = ("_at", "_burst", "_name", "_per_s", "_tokens")

    def __init__(self, name: str, burst: int, per_s: float) -> None:
        self._name = name
        self._burst = float(burst)
        self._per_s = per_s
        self._tokens = float(burst)
        self._at = 0.0

    def hit(self, now: float, cost: float = 1.0) -> None:
        """Raises Http2Error ENHANCE_YOUR_CALM when the peer exceeds both burst and rate. A single frame never does,
        whatever it costs."""
        cost = min(cost, self._burst / 2)
        if self._tokens < cost:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
            self._at = now
            if self._tokens < cost:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, f"flood of {self._name}")
        elif self._tokens == self._burst:
            self._at = now
        self._tokens -= cost


class Leaving:
    """Bytes that somebody counts, on their way from the streams' queues to the kernel. The owner of the transport says
    how many are still on it."""

    __slots__ = ("_parts", "is_hopeless", "size_bytes")

    def __init__(self) -> None:
        self._parts: deque[tuple[Left, int]] = deque()
        self.size_bytes = 0
        """Of `_parts` together. 0 for a connection that carries small messages."""
        self.is_hopeless = False
        """The other side takes nothing: what is on the way is not to be waited for when the connection closes."""

    def add(self, left: Left, size_bytes: int) -> None:
        self._parts.append((left, size_bytes))
        self.size_bytes += size_bytes

    def keep(self, unsent_bytes: int) -> None:
        """All but the last so many bytes have left."""
        parts = self._parts
        while parts and self.size_bytes > unsent_bytes:
            left, size_bytes = parts.popleft()
            gone_bytes = min(size_bytes, self.size_bytes - unsent_bytes)
            if gone_bytes < size_bytes:
                parts.appendleft((left, size_bytes - gone_bytes))
            self.size_bytes -= gone_bytes
            left(gone_bytes)


class Outbox:
    """Everything one connection will write.

    `parts` are finished frames, control frames and small replies alike, in order. Streams whose messages
    found no room wait in `ring` and get one DATA frame per turn.
    """

    __slots__ = (
        "awake",
        "control_bytes",
        "fast_bytes",
        "initial_window",
        "leaving",
        "max_frame_bytes",
        "parts",
        "paused",
        "payload_sent",
        "queued_bytes",
        "reports",
        "ring",
        "stream_low_bytes",
        "turn_room",
        "waits_turn",
        "wake",
        "wake_later",
        "window",
        "writable",
    )

    def __init__(self, wake: Callable[[], None], stream_low_bytes: int) -> None:
        self.stream_low_bytes = stream_low_bytes
        """Limits.stream_low_bytes: below it a throttled stream is told to go on."""
        self.wake = wake
        """Asks the owner to call `take` soon; called once until it does."""
        self.wake_later: Callable[[], None] | None = None
        """Asks the owner to clear `waits_turn` and call `take` when it is this connection's turn among all that have
        much to send. None: they do not take turns."""
        self.waits_turn = False
        """What is in the ring stays there."""
        self.awake = False
        self.parts: list[bytes | memoryview] = []
        self.window = DEFAULT_WINDOW
        """What the peer lets the connection send. Never negative: only DATA that fits is built."""
        self.initial_window = DEFAULT_WINDOW
        """The peer's window for a new stream."""
        self.max_frame_bytes = DEFAULT_FRAME_BYTES
        """Payload of our DATA and HEADERS frames; the peer may allow more, never less (section 4.2)."""
        self.fast_bytes = DEFAULT_FRAME_BYTES
        """A message up to this size may go to `parts` directly if the windows let it; 0 while paused."""
        self.paused = False
        self.turn_room = TURN_BYTES
        """Stream messages that may still go to `parts` directly before the next `take`; the rest queue, so
        that a fast producer meets its high mark. May go below zero by one message."""
        self.ring: deque[Stream] = deque()
        """Streams with something queued and a window to send it. Bounded by the number of streams."""
        self.queued_bytes = 0
        """All streams' queues together. New streams are refused beyond Limits.max_queued_bytes."""
        self.writable: list[Stream] = []
        self.reports: dict[int, deque[tuple[Left, int]]] = {}
        """Stream -> who is told of so many bytes of its queue that they have left, in their order."""
        self.leaving = Leaving()
        self.payload_sent = False
        """HEADERS or DATA went out since the flag was last cleared (the ping rule G-40)."""
        self.control_bytes = 0
        """What no window holds back, in `parts` since the last `take`: control frames, and while paused answers without
        a body. The connection ends beyond a limit."""

    def control(self, frame: bytes) -> None:
        """Queue a frame that no window holds back."""
        self.parts.append(frame)
        self.control_bytes += len(frame)
        if not self.awake:
            self.awake = True
            self.wake()

    def headers(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        self.parts.append(header_frames(stream_id, block, end_stream, self.max_frame_bytes))
        self.payload_sent = True
        if end_stream and self.paused:
            # The stream leaves its table at once, so a peer that reads nothing could have any number of them kept.
            self.control_bytes += len(block) + FRAME_HEADER_BYTES
        if not self.awake:
            self.awake = True
            self.wake()

    def enqueue(self, stream: Stream, chunk: bytes) -> None:
        """Queue bytes of a stream's DATA; they are cut into frames as windows allow."""
        chunks = stream.chunks
        if chunks is None:
            chunks = stream.chunks = deque()
        chunks.append(chunk)
        size = len(chunk)
        stream.queued_bytes += size
        self.queued_bytes += size
        self.line_up(stream)

    def report(self, stream: Stream, left: Left, size_bytes: int) -> None:
        """Tell when so many bytes, the last ones that the stream has queued, have left or are dropped."""
        self.reports.setdefault(stream.id, deque()).append((left, size_bytes))

    def line_up(self, stream: Stream) -> None:
        """Give the stream its place in the ring if it has something that may be sent."""
        if stream.in_ring or not (stream.send_window > 0 or (stream.ending and not stream.queued_bytes)):
            return
        stream.in_ring = True
        self.ring.append(stream)
        if not self.awake:
            self.awake = True
            self.wake()

    def drop(self, stream: Stream) -> None:
        """Forget what a stream has queued; a place in the ring lapses at its turn."""
        if stream.chunks is not None:
            self.queued_bytes -= stream.queued_bytes
            stream.queued_bytes = 0
            stream.chunks = None
        stream.ending = False
        for left, size_bytes in self.reports.pop(stream.id, ()):
            left(size_bytes)

    def pause(self) -> None:
        self.paused = True
        self.fast_bytes = 0

    def resume(self) -> None:
        self.paused = False
        self.fast_bytes = self.max_frame_bytes
        if not self.awake:
            self.awake = True
            self.wake()

    def take(self) -> bytes:
        """The bytes to write now. Empty while the transport is paused, unless there are none anyway."""
        self.awake = False
        if self.paused:
            return b""
        if self.ring and self.window >= 0 and not self.waits_turn:
            self._pump()
        parts = self.parts
        if not parts:
            return b""
        self.parts = []
        self.control_bytes = 0
        self.turn_room = TURN_BYTES
        return b"".join(parts)

    def _pump(self) -> None:
        """Let the streams in the ring send one frame each, in turn, until a window or the turn is used up."""
        ring = self.ring
        budget = TURN_BYTES
        blocked = 0
        while ring and budget > 0 and blocked < len(ring):
            stream = ring.popleft()
            if stream.queued_bytes and self.window <= 0:
                # Only streams that are left with nothing but their end can move: look at the rest once.
                ring.append(stream)
                blocked += 1
                continue
            blocked = 0
            budget -= self._send_frame(stream)
            if stream.queued_bytes and stream.send_window > 0:
                ring.append(stream)
            else:
                stream.in_ring = False
        if ring and self.window > 0:
            if self.wake_later is None:
                self.awake = True
                self.wake()
            else:
                self.waits_turn = True
                self.wake_later()
        if self.writable:
            streams, self.writable = self.writable, []
            for stream in streams:
                stream.on_writable()

    def _send_frame(self, stream: Stream) -> int:
        """One DATA frame of what the windows allow, and the stream's end behind its last byte."""
        chunks = stream.chunks
        sent = 0
        if chunks:
            room = min(self.max_frame_bytes, self.window, stream.send_window)
            parts = self.parts
            at = len(parts)
            while chunks and sent < room:
                chunk = chunks[0]
                size = len(chunk)
                if size > room - sent:
                    view = memoryview(chunk)
                    size = room - sent
                    chunks[0] = view[size:]
                    parts.append(view[:size])
                else:
                    chunks.popleft()
                    parts.append(chunk)
                sent += size
            # A client's stream ends with its last DATA frame; a server's with trailers.
            flags = END_STREAM if stream.ending and not chunks and not stream.trailers else 0
            parts.insert(at, _DATA_HEAD.pack(sent << 8 | DATA, flags, stream.id))
            self.window -= sent
            self.queued_bytes -= sent
            stream.send_window -= sent
            stream.queued_bytes -= sent
            self.payload_sent = True
            if self.reports:
                self._note_leaving(stream, sent)
            if stream.throttled and stream.queued_bytes < self.stream_low_bytes:
                stream.throttled = False
                self.writable.append(stream)
            if flags:
                stream.ending = False
                stream.on_end_sent()
        if stream.ending and not stream.queued_bytes:
            stream.ending = False
            if stream.trailers:
                self.parts.append(header_frames(stream.id, stream.trailers, True, self.max_frame_bytes))
            else:
                self.parts.append(HEADER.pack(DATA, END_STREAM, stream.id))
            self.payload_sent = True
            stream.on_end_sent()
        return sent + FRAME_HEADER_BYTES

    def _note_leaving(self, stream: Stream, sent: int) -> None:
        waiting = self.reports.get(stream.id)
        while waiting and sent:
            left, size_bytes = waiting.popleft()
            part_bytes = min(sent, size_bytes)
            if part_bytes < size_bytes:
                waiting.appendleft((left, size_bytes - part_bytes))
            self.leaving.add(left, part_bytes)
            sent -= part_bytes
        if not waiting:
            self.reports.pop(stream.id, None)
