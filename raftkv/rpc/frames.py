"""The HTTP/2 frame layer: numbers of RFC 9113 sections 6 and 7, and frames as bytes.

Builds and takes apart single frames. Knows no stream, window or header.

    frame = length 24 bits | type 8 | flags 8 | reserved 1, stream id 31 | payload
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

SETTINGS_HEADER_TABLE_SIZE: Final = 0x1
SETTINGS_ENABLE_PUSH: Final = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 0x4
SETTINGS_MAX_FRAME_SIZE: Final = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 0x6

FRAME_HEADER_BYTES: Final = 9
DEFAULT_WINDOW: Final = 65535
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_FRAME_BYTES: Final = 16384
MAX_FRAME_BYTES: Final = 2**24 - 1
MAX_STREAM_ID: Final = 2**31 - 1

HEADER: Final = Struct(">IBI")
"""Length and type in one word, flags, stream id: `(length << 8 | type, flags, stream_id)`."""

_RST: Final = Struct(">IBII")
_WINDOW: Final = Struct(">IBII")
_PING: Final = Struct(">IB4x8s")
_GOAWAY: Final = Struct(">IB4xII")
_SETTING: Final = Struct(">HI")


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """The peer broke a rule that ends the whole connection. Never leaves the connection object."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


def frame(frame_type: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload) << 8 | frame_type, flags, stream_id) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    return _RST.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def window_update(stream_id: int, increment: int) -> bytes:
    return _WINDOW.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def ping(opaque: bytes, ack: bool) -> bytes:
    return _PING.pack(8 << 8 | PING, ACK if ack else 0, opaque)


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    return _GOAWAY.pack((8 + len(debug)) << 8 | GOAWAY, 0, last_stream_id, code) + debug


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifier and value of each setting. Raises Http2Error unless they are whole."""
    if len(payload) % 6:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS payload is not a multiple of six bytes")
    return list(_SETTING.iter_unpack(payload))


def strip_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without padding and priority fields (sections 6.1, 6.2)."""
    start = 0
    end = len(payload)
    if flags & PADDED:
        if not payload:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
        start = 1
        end -= payload[0]
    if flags & PRIORITY_FLAG:
        start += 5
    if start > end:
        # Both are connection errors: a HEADERS frame that cannot be read leaves HPACK out of step.
        if not flags & PADDED:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS frame too short for its priority fields")
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "padding is longer than the frame")
    return payload[start:end]


def header_frames(stream_id: int, block: bytes, end_stream: bool, max_frame_bytes: int) -> bytes:
    """A header block as HEADERS and, if it is larger than a frame, CONTINUATION frames."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [frame(HEADERS, flags, stream_id, block[:max_frame_bytes])]
    for start in range(max_frame_bytes, len(block), max_frame_bytes):
        part = block[start : start + max_frame_bytes]
        last = start + max_frame_bytes >= len(block)
        parts.append(frame(CONTINUATION, END_HEADERS if last else 0, stream_id, part))
    return b"".join(parts)
