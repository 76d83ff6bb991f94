"""Pieces of protobuf's wire format made by hand, for messages that are put together from ready bytes.

Messages concatenated are messages merged (protobuf encoding, "Last One Wins"), so a response is its header's bytes
followed by its body's bytes, and a stored KeyValue enters a response without being parsed.
Knows the encoding only; which field means what is said where the pieces are joined.
"""

from typing import Final

_ONE_BYTE: Final = tuple(bytes((n,)) for n in range(128))
_TWO_BYTES_LIMIT: Final = 1 << 14
_THREE_BYTES_LIMIT: Final = 1 << 21
_FOUR_BYTES_LIMIT: Final = 1 << 28
_U64_MASK: Final = (1 << 64) - 1

MAX_VARINT_BYTES: Final = 10


def varint(value: int) -> bytes:
    """Base-128 encoding of an int64 or uint64; a negative number takes ten bytes, as protobuf wants it.

    Unrolled up to four bytes, because every put encodes its revision: a loop costs twice as much.
    """
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    if 0 <= value < _TWO_BYTES_LIMIT:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if 0 <= value < _THREE_BYTES_LIMIT:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    if 0 <= value < _FOUR_BYTES_LIMIT:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21))
    value &= _U64_MASK
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def framed(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited field: `tag` is the encoded field number with wire type 2."""
    return tag + varint(len(payload)) + payload
