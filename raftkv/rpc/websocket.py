"""A WebSocket behind an HTTP/1.1 upgrade (RFC 6455), on wsproto. No socket inside: bytes in, texts out.

Owns frames, pings and the closing handshake. Knows nothing of what the texts are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

VERSION: Final = "13"


def accept_token(key: str) -> str:
    """What answers the `sec-websocket-key` of the request."""
    return generate_accept_token(key.encode("latin-1")).decode("ascii")


class WebSocket:
    """The server's end of an open one. `closed`: nothing more is to be written or read."""

    __slots__ = ("_connection", "_max_text_bytes", "_on_text", "_text", "_text_bytes", "_write", "closed")

    def __init__(
        self, first: bytes, write: Callable[[bytes], None], on_text: Callable[[str], None], max_text_bytes: int
    ) -> None:
        """`first`: what came right behind the request."""
        self._connection = Connection(ConnectionType.SERVER, trailing_data=first)
        self._write = write
        self._on_text = on_text
        self._max_text_bytes = max_text_bytes
        self._text: list[str] = []
        """Pieces of the message that is arriving. At most `max_text_bytes`. Beyond: closed with 1009."""
        self._text_bytes = 0
        self.closed = False

    def receive(self, data: bytes, may_answer: bool) -> None:
        """`may_answer`: whether the client reads what it is sent. If not, its pings are not answered either."""
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, TextMessage):
                    self._take(event.data, len(event.data.encode("utf-8", "surrogatepass")), event.message_finished)
                elif isinstance(event, BytesMessage):
                    self._take(event.data.decode("utf-8", "replace"), len(event.data), event.message_finished)
                elif isinstance(event, Ping):
                    if may_answer:
                        self._write(self._connection.send(event.response()))
                elif isinstance(event, CloseConnection):
                    self._write(self._connection.send(event.response()))
                    self.closed = True
                if self.closed:
                    return
        except RemoteProtocolError:
            self.close(CloseReason.PROTOCOL_ERROR)

    def _take(self, text: str, size_bytes: int, is_last: bool) -> None:
        self._text.append(text)
        self._text_bytes += size_bytes
        if self._text_bytes > self._max_text_bytes:
            self.close(CloseReason.MESSAGE_TOO_BIG)
        elif is_last:
            whole = "".join(self._text)
            self._text.clear()
            self._text_bytes = 0
            self._on_text(whole)

    def send(self, text: str) -> None:
        if not self.closed:
            self._write(self._connection.send(TextMessage(data=text)))

    def close(self, reason: CloseReason = CloseReason.NORMAL_CLOSURE) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            self._write(self._connection.send(CloseConnection(code=reason)))
        except LocalProtocolError:
            pass  # the client has said its part of the goodbye, and had its answer
