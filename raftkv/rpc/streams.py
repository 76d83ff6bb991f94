"""What the connection knows of any stream: windows, which sides are closed, what waits to be sent.

The roles derive from it: a server's call, an HTTP exchange, a client's call. Knows nothing of messages.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from raftkv.rpc.connection import Http2Connection
    from raftkv.rpc.flow import Outbox


class Stream:
    """One open stream. It leaves its connection's table when both sides have closed, or at a reset."""

    __slots__ = (
        "chunks",
        "connection",
        "ending",
        "id",
        "in_ring",
        "local_closed",
        "outbox",
        "queued_bytes",
        "recv_window",
        "remote_closed",
        "send_window",
        "throttled",
        "trailers",
    )

    def __init__(self, connection: Http2Connection[Any], stream_id: int) -> None:
        self.id = stream_id
        self.connection = connection
        outbox: Outbox = connection.outbox
        self.outbox = outbox
        self.send_window = outbox.initial_window
        """Negative after the peer shrank its initial window (section 6.9.2)."""
        self.recv_window = connection.stream_window_bytes
        self.local_closed = False
        self.remote_closed = False
        self.chunks: deque[bytes | memoryview] | None = None
        """DATA that waits for windows. Bounded by the sender: `send` says False beyond the high mark, and a
        unary call has one reply."""
        self.queued_bytes = 0
        self.in_ring = False
        self.ending = False
        """Our side closes as soon as the queue is empty, with `trailers` or else with END_STREAM on DATA."""
        self.trailers = b""
        self.throttled = False
        """`send` said False and `on_writable` is owed."""

    def end(self, trailers: bytes) -> None:
        """Close our side behind what is queued."""
        self.trailers = trailers
        self.ending = True
        self.outbox.line_up(self)

    def on_end_sent(self) -> None:
        """Our END_STREAM is in the outbox."""
        self.local_closed = True
        if self.remote_closed:
            self.connection.forget(self)

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        """DATA without padding. When `end_stream` is set, `remote_closed` is already true."""
        raise NotImplementedError

    def on_reset(self, code: int) -> None:
        """The peer reset the stream, or we did because the peer broke a rule. It has already left the
        connection's table."""
        raise NotImplementedError

    def on_disconnect(self, text: str) -> None:
        """The connection is gone or given up. The stream has already left its table."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """The queue fell below the low mark."""
        raise NotImplementedError
