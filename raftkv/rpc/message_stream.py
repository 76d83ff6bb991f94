"""Sending gRPC messages on a stream, the same for a server's call and a client's.

Owns the choice between the direct way into the outbox and the stream's queue. Knows neither role.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from raftkv.rpc.frames import DATA
from raftkv.rpc.grpc import PREFIX
from raftkv.rpc.streams import Stream

COPIED_BYTES: Final = 4096
"""A queued message below this is joined with its prefix; a larger one is never copied until it leaves."""

_MESSAGE_HEAD: Final = Struct(">IBIBI")
"""Head of a DATA frame with one whole message, and the message's prefix."""


class MessageStream(Stream):
    __slots__ = ()

    def write_message(self, message: bytes) -> bool:
        """False: more than the high mark is queued, and `on_writable` will be called."""
        size = len(message)
        framed = size + 5
        outbox = self.outbox
        if (
            framed <= outbox.fast_bytes
            and not self.queued_bytes
            and framed <= outbox.window
            and framed <= self.send_window
            and outbox.turn_room > 0
        ):
            outbox.window -= framed
            outbox.turn_room -= framed
            self.send_window -= framed
            outbox.parts += (_MESSAGE_HEAD.pack(framed << 8 | DATA, 0, self.id, 0, size), message)
            outbox.payload_sent = True
            if not outbox.awake:
                outbox.awake = True
                outbox.wake()
            return True
        self.enqueue_message(message)
        if self.queued_bytes < self.connection.limits.stream_high_bytes:
            return True
        self.throttled = True
        return False

    def enqueue_message(self, message: bytes) -> None:
        prefix = PREFIX.pack(0, len(message))
        if len(message) < COPIED_BYTES:
            self.outbox.enqueue(self, prefix + message)
        else:
            self.outbox.enqueue(self, prefix)
            self.outbox.enqueue(self, message)
