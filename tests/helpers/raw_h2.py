"""One unary gRPC call made of bytes by hand, for metadata that no client library lets through.

Owns as much of HTTP/2 as such a call takes. Sends literal header fields only; reads with `hpack`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

import hpack

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 7, 8
_INITIAL_WINDOW_SIZE: Final = 4
_WINDOW_BYTES: Final = 1 << 30
"""Large enough for any answer, so that none is ever asked for."""
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_STREAM: Final = 1
_TIMEOUT_S: Final = 20


def call(endpoint: str, path: str, message: bytes, metadata: Sequence[tuple[bytes, bytes]]) -> tuple[int, str]:
    """(code, text) of the call's status. Raises OSError when the connection ends without one."""
    host, _, port = endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as sock:
        head = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", endpoint.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *metadata,
        ]
        body = struct.pack(">BI", 0, len(message)) + message
        sock.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW_BYTES))
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW_BYTES))
            + _frame(_HEADERS, _END_HEADERS, _STREAM, b"".join(map(_literal, head)))
            + _frame(_DATA, _END_STREAM, _STREAM, body)
        )
        return _read_status(sock)


def _read_status(sock: socket.socket) -> tuple[int, str]:
    decoder, fields = hpack.Decoder(), dict[bytes, bytes]()
    with sock.makefile("rb") as answer:
        while True:
            start = answer.read(9)
            size, kind, flags = int.from_bytes(start[:3], "big"), start[3:4], start[4:5]
            payload = answer.read(size)
            if len(start) < 9 or kind[0] == _GOAWAY:
                raise OSError("the connection ended without a status")
            if kind[0] == _SETTINGS and not flags[0] & _ACK:
                sock.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            if kind[0] == _HEADERS:
                fields.update(decoder.decode(payload, raw=True))
                if flags[0] & _END_STREAM:
                    return int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode()


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def _literal(field: tuple[bytes, bytes]) -> bytes:
    """A field that changes no table (RFC 7541 section 6.2.2)."""
    name, value = field
    assert len(name) < 127, "one byte says the length"
    assert len(value) < 127, "one byte says the length"
    return bytes((0, len(name))) + name + bytes((len(value),)) + value
