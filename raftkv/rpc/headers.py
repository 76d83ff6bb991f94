"""Header blocks: HPACK bytes to checked heads with a memory of blocks, and our own blocks to bytes.

Owns the HPACK state of one direction of one connection and the rules of RFC 9113 sections 8.2 and 8.3 for
what a request or a response may carry. Knows no stream and nothing of gRPC.

A block that changes nothing in the dynamic table means the same until the table next changes, so its
result is remembered under its bytes and a busy client costs one dict look-up per request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from hpack.huffman_constants import REQUEST_CODES_LENGTH
from jh2._hazmat import Decoder, Encoder, HPACKError, OversizedHeaderListError

from raftkv.rpc.frames import ErrorCode, Http2Error

Header = tuple[bytes, bytes, bool]
"""Name, value, and whether the sender marked it never-indexed."""

T = TypeVar("T")

REMEMBERED_BLOCKS: Final = 256
"""Blocks kept for one connection. When full all are forgotten, which costs one decode each."""
REMEMBERED_BLOCK_BYTES: Final = 1024
"""Longer blocks are decoded every time."""
FIELD_COST_BYTES: Final = 32
"""What each field of a header list counts beside its name and value (RFC 9113 section 6.5.2)."""
TEXT_TOO_LARGE: Final = "header list too large"

_HUFFMAN_BITS: Final = bytes(REQUEST_CODES_LENGTH[:256])
"""Bits of each byte's Huffman code (RFC 7541 appendix B)."""

_INDEXED: Final = re.compile(rb"[\x80-\xfe]*+")
"""A run of fields that are a table index in one byte: they change nothing."""


class HeaderReader(Generic[T]):
    """Decodes blocks in the order they arrive and gives `interpret`'s view of their header list."""

    __slots__ = ("_decoder", "_interpret", "_max_list_bytes", "remembered")

    def __init__(self, interpret: Callable[[list[Header]], T], max_list_bytes: int) -> None:
        self._max_list_bytes = max_list_bytes
        self._decoder = Decoder(max_list_bytes)
        self._interpret = interpret
        self.remembered: Final[dict[bytes, T]] = {}
        """Callers look here first; on a miss they call `read`."""

    def read(self, block: bytes) -> T:
        """Decode a block that is not remembered. Raises Http2Error: what cannot be decoded leaves the two
        tables out of step, so it ends the connection (RFC 9113 section 4.3)."""
        # Before decoding: the decoder aborts in native code on a block that is cut short.
        changes, huffman, count = _walk(block)
        # The decoder counts names and values, but no 32 bytes for each field: 64 KiB of empty ones would pass.
        names_and_values_bytes = self._max_list_bytes - count * FIELD_COST_BYTES
        if names_and_values_bytes < 0:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, TEXT_TOO_LARGE)
        try:
            headers = self._decoder.decode(block, True)
        except OversizedHeaderListError as error:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, TEXT_TOO_LARGE) from error
        except HPACKError as error:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        if sum(len(name) + len(value) for name, value, _ in headers) > names_and_values_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, TEXT_TOO_LARGE)
        for field, part, length, last_octet in huffman:
            _check_padding(headers[field][part], length, last_octet)
        value = self._interpret(headers)
        if changes:
            self.remembered.clear()
        elif len(block) <= REMEMBERED_BLOCK_BYTES:
            if len(self.remembered) >= REMEMBERED_BLOCKS:
                self.remembered.clear()
            self.remembered[block] = value
        return value


HuffmanString = tuple[int, int, int, int]
"""Field number, 0 for its name and 1 for its value, encoded length, last byte."""


def _walk(block: bytes) -> tuple[bool, list[HuffmanString], int]:
    """Whether a block will insert into the dynamic table or resize it, its Huffman strings, and how many fields it has.

    Checks the structure of every field (RFC 7541 section 6) and that no size update follows one (4.2).
    """
    changes = False
    huffman: list[HuffmanString] = []
    pos = 0
    field = 0
    size = len(block)
    try:
        while True:
            run = _INDEXED.match(block, pos).end()  # type: ignore[union-attr]  # matches the empty run too
            field += run - pos
            pos = run
            if pos >= size:
                break
            first = block[pos]
            if first == 0xFF:
                _, pos = _read_integer(block, pos, 0x7F)
            elif first & 0xE0 == 0x20:
                if field:
                    raise Http2Error(ErrorCode.COMPRESSION_ERROR, "table size update after a field")
                changes = True
                _, pos = _read_integer(block, pos, 0x1F)
                continue
            else:
                changes = changes or first >= 0x40
                index, pos = _read_integer(block, pos, 0x3F if first & 0x40 else 0x0F)
                for part in (1,) if index else (0, 1):
                    is_huffman = block[pos] >= 0x80
                    length, pos = _read_integer(block, pos, 0x7F)
                    pos += length
                    if is_huffman and length:
                        huffman.append((field, part, length, block[pos - 1]))
            field += 1
    except IndexError:
        pos = size + 1
    if pos > size:
        raise Http2Error(ErrorCode.COMPRESSION_ERROR, "header block ends within a field")
    return changes, huffman, field


def _read_integer(block: bytes, pos: int, mask: int) -> tuple[int, int]:
    """An integer with a prefix (RFC 7541 section 5.1) and the position after it. May raise IndexError."""
    value = block[pos] & mask
    pos += 1
    if value < mask:
        return value, pos
    for shift in (0, 7, 14, 21):
        octet = block[pos]
        pos += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, pos
    raise Http2Error(ErrorCode.COMPRESSION_ERROR, "integer too large")


def _check_padding(text: bytes, length: int, last_octet: int) -> None:
    """Huffman padding is all ones (RFC 7541 section 5.2); the decoder has checked that it is short enough."""
    ones = (1 << 8 * length - sum(text.translate(_HUFFMAN_BITS))) - 1
    if last_octet & ones != ones:
        raise Http2Error(ErrorCode.COMPRESSION_ERROR, "Huffman padding is not all ones")


_NAME_IS_VALID: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_VALUE_IS_INVALID: Final = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z").search
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_RESPONSE_PSEUDO: Final = frozenset((b":status",))


class MalformedHeadersError(Exception):
    """A header list that RFC 9113 section 8 forbids: a stream error, because the block could be decoded."""


class HeaderFields:
    """A checked header list. `pseudo` holds the fields that begin with a colon, `fields` the others."""

    __slots__ = ("content_length", "fields", "pseudo")

    def __init__(self, headers: list[Header], allowed_pseudo: frozenset[bytes], is_request: bool) -> None:
        self.pseudo: dict[bytes, bytes] = {}
        self.fields: list[tuple[bytes, bytes]] = []
        self.content_length: int | None = None
        for name, value, _ in headers:
            if name[:1] == b":":
                self._add_pseudo(name, value, allowed_pseudo)
            else:
                self._add_field(name, value, is_request)

    def _add_pseudo(self, name: bytes, value: bytes, allowed: frozenset[bytes]) -> None:
        if self.fields or name not in allowed or name in self.pseudo:
            raise MalformedHeadersError(f"misplaced, unknown or repeated {name!r}")
        if _VALUE_IS_INVALID(value):
            raise MalformedHeadersError(f"forbidden bytes in the value of {name!r}")
        self.pseudo[name] = value

    def _add_field(self, name: bytes, value: bytes, is_request: bool) -> None:
        if not _NAME_IS_VALID(name) or name in _CONNECTION_SPECIFIC:
            raise MalformedHeadersError(f"forbidden field {name!r}")
        if _VALUE_IS_INVALID(value):
            raise MalformedHeadersError(f"forbidden bytes in the value of {name!r}")
        if name == b"te" and is_request and value != b"trailers":
            raise MalformedHeadersError("te may only be trailers")
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or self.content_length not in (None, int(value)):
                raise MalformedHeadersError("bad content-length")
            self.content_length = int(value)
        self.fields.append((name, value))


def check_request(headers: list[Header]) -> HeaderFields:
    """The head of a request (section 8.3.1). Raises MalformedHeadersError."""
    fields = HeaderFields(headers, _REQUEST_PSEUDO, is_request=True)
    for name in (b":method", b":scheme", b":path"):
        if not fields.pseudo.get(name):
            raise MalformedHeadersError(f"no {name!r}")
    return fields


def check_response(headers: list[Header]) -> HeaderFields:
    """A head or the trailers of a response (sections 8.3.2, 8.1). Raises MalformedHeadersError."""
    return HeaderFields(headers, _RESPONSE_PSEUDO, is_request=False)


def check_request_trailers(headers: list[Header]) -> None:
    """Raises MalformedHeadersError: trailers have no pseudo-fields (section 8.1)."""
    HeaderFields(headers, frozenset(), is_request=True)


class HeaderWriter:
    """Encodes request heads for the channel. Remembers all-indexed blocks until the table changes."""

    __slots__ = ("_encoder", "remembered")

    def __init__(self) -> None:
        self._encoder = Encoder()
        self.remembered: Final[dict[Hashable, bytes]] = {}
        """Callers look here first, under the key that they give `encode` on a miss."""

    def resize_table(self, size_bytes: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE. More than the default is not used."""
        self._encoder.header_table_size = min(size_bytes, 4096)
        self.remembered.clear()

    def encode(self, key: Hashable, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The block must be sent, and in the order of encoding: it may have changed the peer's table."""
        block = bytes(self._encoder.encode([(name, value, False) for name, value in headers]))
        if not _INDEXED.fullmatch(block) or len(self.remembered) >= REMEMBERED_BLOCKS:
            self.remembered.clear()
        if _INDEXED.fullmatch(block):
            self.remembered[key] = block
        return block


def literal(name: bytes, value: bytes) -> bytes:
    """One field as a literal without indexing (RFC 7541 section 6.2.2): leaves every table as it is."""
    return b"\x00" + _string(name) + _string(value)


def literal_indexed_name(static_index: int, value: bytes) -> bytes:
    """The same with a name from the static table."""
    return _integer(static_index, 0x0F) + _string(value)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 0x7F) + text


def _integer(value: int, mask: int) -> bytes:
    if value < mask:
        return bytes((value,))
    out = bytearray((mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
