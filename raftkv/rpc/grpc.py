"""gRPC's part of a call: message framing, compression, timeouts, status trailers.

Turns the payload of DATA frames into messages and calls' ends into header blocks. Knows the rules of gRPC's
PROTOCOL-HTTP2 and the wording of grpc-go; knows no connection.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from struct import Struct
from typing import Final

from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.headers import literal, literal_indexed_name

PREFIX: Final = Struct(">BI")
"""Compressed flag and length before each message."""
PREFIX_BYTES: Final = 5

MAX_TIMEOUT_DIGITS: Final = 8
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

CONTENT_TYPE: Final = b"application/grpc"
ACCEPT_ENCODING: Final = b"identity,gzip"

# 0x88 is `:status: 200` in the static table, 31 is the name content-type.
RESPONSE_BLOCK: Final = b"\x88" + literal_indexed_name(31, CONTENT_TYPE)
"""Head of every response: no dynamic table, so it is a constant for all connections."""
OK_TRAILERS: Final = literal(b"grpc-status", b"0")


def is_grpc_content_type(value: bytes) -> bool:
    return value == CONTENT_TYPE or value.startswith((b"application/grpc+", b"application/grpc;"))


def error_trailers(code: Code, text: str) -> bytes:
    block = literal(b"grpc-status", b"%d" % code)
    return block + literal(b"grpc-message", percent_encode(text)) if text else block


def unsupported_encoding_trailers(encoding: bytes) -> tuple[str, bytes]:
    """Text and extra trailers for a grpc-encoding that we do not speak."""
    name = encoding.decode("utf-8", "replace")
    text = f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
    return text, literal(b"grpc-accept-encoding", ACCEPT_ENCODING)


def percent_encode(text: str) -> bytes:
    """`grpc-message`: printable ASCII except `%` stays, every other byte of the UTF-8 form becomes %XX."""
    raw = text.encode("utf-8", "replace")
    if raw.isascii() and b"%" not in raw and text.isprintable():
        return raw
    return b"".join(_PERCENT[octet] for octet in raw)


_PERCENT: Final = [
    bytes((octet,)) if 0x20 <= octet <= 0x7E and octet != 0x25 else b"%%%02X" % octet for octet in range(256)
]


def percent_decode(value: bytes) -> str:
    """The inverse. Sequences that are not %XX are kept as they are: the text is for people."""
    if b"%" not in value:
        return value.decode("utf-8", "replace")
    head, *rest = value.split(b"%")
    out = [head]
    for part in rest:
        try:
            out.append(bytes.fromhex(part[:2].decode("ascii")) + part[2:] if len(part) >= 2 else b"%" + part)
        except ValueError:
            out.append(b"%" + part)
    return b"".join(out).decode("utf-8", "replace")


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`. Raises RpcError INTERNAL, as grpc-go does, if it is malformed."""
    digits = value[:-1]
    unit_s = _UNIT_S.get(value[-1:])
    if unit_s is None or not digits.isdigit() or len(digits) > MAX_TIMEOUT_DIGITS:
        raise RpcError(Code.INTERNAL, f"malformed grpc-timeout: {value.decode('utf-8', 'replace')!r}")
    return int(digits) * unit_s


def format_timeout(timeout_s: float) -> bytes:
    """A `grpc-timeout`, never shorter than asked for, in the finest unit whose number has eight digits."""
    for unit, unit_s in ((b"n", 1e-9), (b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0)):
        count = -int(-max(timeout_s, 0.0) // unit_s)
        if count < 10**MAX_TIMEOUT_DIGITS:
            return b"%d%b" % (count, unit)
    return b"99999999H"


def metadata_text(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """First value of each key as `Call.metadata` presents it."""
    found: dict[str, str] = {}
    for name, value in fields:
        key = name.decode("ascii", "surrogateescape")
        if key not in found:
            raw = decode_bin(value) if key.endswith("-bin") else value
            found[key] = raw.decode("utf-8", "surrogateescape")
    return found


def decode_bin(value: bytes) -> bytes:
    """A `-bin` value: base64 with or without padding. What is not base64 is taken as it is."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return value


class MessageReader:
    """Cuts the bytes of one direction of one stream into messages."""

    __slots__ = ("_buffer", "_gzip", "_limit", "_need")

    def __init__(self, max_message_bytes: int, gzip: bool) -> None:
        self._buffer = bytearray()
        self._need = PREFIX_BYTES
        """Bytes that the buffer must hold before anything can be done."""
        self._limit = max_message_bytes
        self._gzip = gzip

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, payload: bytes) -> list[bytes]:
        """Messages completed by this payload. Raises RpcError when one breaks a rule."""
        buffer = self._buffer
        buffer += payload
        messages: list[bytes] = []
        pos = 0
        while len(buffer) - pos >= self._need:
            compressed, size = PREFIX.unpack_from(buffer, pos)
            if self._need == PREFIX_BYTES:
                self._check_prefix(compressed, size)
                self._need = PREFIX_BYTES + size
                if len(buffer) - pos < self._need:
                    break
            body = bytes(memoryview(buffer)[pos + PREFIX_BYTES : pos + self._need])
            messages.append(_gunzip(body, self._limit) if compressed else body)
            pos += self._need
            self._need = PREFIX_BYTES
        if pos:
            del buffer[:pos]
        return messages

    def _check_prefix(self, compressed: int, size: int) -> None:
        if compressed > 1:
            raise RpcError(Code.INTERNAL, f"grpc: received unexpected payload format {compressed}")
        if compressed and not self._gzip:
            raise RpcError(Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        if size > self._limit:
            raise message_too_large(size, self._limit)


def message_too_large(size: int, limit: int) -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})")


def _gunzip(body: bytes, limit: int) -> bytes:
    """One gzip message, bounded before it is inflated."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        message = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RpcError(Code.INTERNAL, f"grpc: failed to decompress the received message: {error}") from error
    if len(message) > limit:
        raise message_too_large(len(message), limit)
    if not inflater.eof or inflater.unused_data:
        raise RpcError(Code.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF")
    return message
