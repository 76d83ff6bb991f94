"""The bytes of the log: frames on the outside, records inside. Pure functions, no files.

A **frame** is what one flush writes and what is valid or invalid as a whole. All integers are big endian:

    magic     4 bytes   b"rkvF"
    crc       u32       CRC-32C of everything after this field up to the end of the payload, see *seed*
    previous  u32       crc of the frame before it, also across segments: frames form a chain
    sequence  u32       low 32 bits of the segment's number
    offset    u32       where the frame itself begins in its segment
    synced    u32       everything before this offset of the segment was durable when the frame was written
    length    u32       bytes of payload
    kind      u8        HEADER | BATCH | SEAL, then 3 zero bytes
    payload   length bytes, then zeros up to the next multiple of 8

*Seed.* The CRC of a frame starts from `salt = secret ^ sequence`, where the secret is drawn once per log.
A CRC with another start value always gives another result for the same bytes (each step is a bijection of
the state). So a frame left over from an earlier life of a recycled file can never validate: no chance is
involved. The secret keeps a client from sending a value that looks like a frame. The HEADER frame, which
carries the secret, starts from 0; it is rewritten before a file gets a segment's name.

A HEADER payload (`SegmentHeader`) begins a segment. A BATCH payload is one or more **units**, each what one
`stage` call handed over, and a unit is one or more **records**:

    ENTRIES     u8 1, entries as `raftkv.wire` writes them
    HARD_STATE  u8 2, a hard state as `raftkv.wire` writes it
    SNAPSHOT    u8 3, u64 index, u64 term: the log restarts behind this position

A SEAL has no payload: its `synced` field proves, after a clean close, that all before it was durable.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import google_crc32c

from raftkv.raft import Entry, HardState
from raftkv.wire import codec as wire

MAGIC: Final = b"rkvF"
FORMAT_VERSION: Final = 1

FRAME_HEADER: Final = struct.Struct(">4sIIIIIIB3x")
_CRC_COVERED_FROM: Final = 8
"""The magic and the crc itself are outside of the crc."""

ALIGNMENT: Final = 8
TERMINATOR: Final = bytes(FRAME_HEADER.size)
"""Written after the last frame of each write. In a recycled file it parts the log from stale bytes."""

MAX_PAYLOAD_BYTES: Final = 1 << 30
MAX_SEGMENT_BYTES: Final = 2 << 30
"""Offsets are u32. Far above any segment in use; keeps a damaged length from asking for absurd memory."""


class Kind(IntEnum):
    HEADER = 1
    BATCH = 2
    SEAL = 3


_KINDS: Final = frozenset(int(kind) for kind in Kind)


class Frame(NamedTuple):
    """A frame that was found valid by itself; whether it continues the chain is for the reader to check."""

    kind: int
    crc: int
    previous: int
    offset: int
    synced: int
    payload: bytes
    end: int
    """Where the next frame begins."""


@dataclass(frozen=True, slots=True)
class LogPosition:
    """An index and the term of the entry there."""

    index: int
    term: int


ORIGIN: Final = LogPosition(0, 0)
"""Before the first entry of a cluster."""


class SegmentHeader(NamedTuple):
    """What a segment must know to be the first one left: all that earlier segments established.

    The log's base is the entry before `first_index`; its term is `last_term`.
    """

    sequence: int
    first_index: int
    last_term: int
    size_bytes: int
    secret: int
    hard_state: HardState
    metadata: bytes


class MalformedRecord(Exception):
    """A frame with a valid checksum holds what this version never writes."""


def padding(length: int) -> int:
    return -length % ALIGNMENT


def frame_size(length: int) -> int:
    """Bytes on disk of a frame with `length` bytes of payload."""
    return FRAME_HEADER.size + length + padding(length)


def segment_salt(secret: int, sequence: int) -> int:
    return (secret ^ sequence) & 0xFFFF_FFFF


def encode_frame_header(
    kind: int, previous: int, sequence: int, offset: int, synced: int, payload: bytes, salt: int
) -> tuple[bytes, int]:
    """The header that goes before `payload`, and the frame's crc."""
    unsummed = FRAME_HEADER.pack(MAGIC, 0, previous, sequence & 0xFFFF_FFFF, offset, synced, len(payload), kind)
    crc: int = google_crc32c.extend(google_crc32c.extend(salt, unsummed[_CRC_COVERED_FROM:]), payload)
    return b"".join((MAGIC, crc.to_bytes(4, "big"), unsummed[_CRC_COVERED_FROM:])), crc


def decode_frame(data: bytes, offset: int, sequence: int, salt: int) -> Frame | None:
    """The frame at `offset` of a segment's bytes, or None when there is no valid one. Trusts no field."""
    if offset + FRAME_HEADER.size > len(data):
        return None
    magic, crc, previous, seen_sequence, seen_offset, synced, length, kind = FRAME_HEADER.unpack_from(data, offset)
    if magic != MAGIC or seen_offset != offset or seen_sequence != sequence & 0xFFFF_FFFF:
        return None
    stop = offset + FRAME_HEADER.size + length
    end = stop + padding(length)
    if kind not in _KINDS or length > MAX_PAYLOAD_BYTES or end > len(data) or any(data[stop:end]):
        return None
    if google_crc32c.extend(salt, data[offset + _CRC_COVERED_FROM : stop]) != crc:
        return None
    return Frame(kind, crc, previous, offset, synced, data[offset + FRAME_HEADER.size : stop], end)


def find_frames(data: bytes, start: int, sequence: int, salt: int) -> Iterator[Frame]:
    """Every valid frame from `start` on, whatever lies between."""
    at = data.find(MAGIC, start)
    while at >= 0:
        frame = decode_frame(data, at, sequence, salt) if at % ALIGNMENT == 0 else None
        if frame is not None:
            yield frame
        at = data.find(MAGIC, at + 4 if frame is None else frame.end)


# -- the segment header --------------------------------------------------------------------------------------

_HEADER: Final = struct.Struct(">HQQQIIQQQ")
SEGMENT_HEADER_BYTES: Final = _HEADER.size
"""Without the metadata, which follows."""


def encode_segment_header(header: SegmentHeader) -> bytes:
    state = header.hard_state
    return (
        _HEADER.pack(
            FORMAT_VERSION,
            header.sequence,
            header.first_index,
            header.last_term,
            header.size_bytes,
            header.secret,
            state.term,
            state.vote,
            state.commit,
        )
        + header.metadata
    )


def decode_segment_header(payload: bytes) -> SegmentHeader:
    """Raises MalformedRecord for a header that is too short or of another format version."""
    if len(payload) < _HEADER.size:
        raise MalformedRecord("segment header too short")
    version, sequence, first_index, last_term, size_bytes, secret, *state = _HEADER.unpack_from(payload)
    if version != FORMAT_VERSION:
        raise MalformedRecord(f"segment format version {version}, this program reads {FORMAT_VERSION}")
    return SegmentHeader(
        sequence, first_index, last_term, size_bytes, secret, HardState(*state), payload[_HEADER.size :]
    )


# -- records -------------------------------------------------------------------------------------------------

_ENTRIES: Final = 1
_HARD_STATE: Final = 2
_SNAPSHOT: Final = 3

_SNAPSHOT_RECORD: Final = struct.Struct(">BQQ")
_ENTRIES_MARK: Final = bytes([_ENTRIES])
_HARD_STATE_MARK: Final = bytes([_HARD_STATE])
_HARD_STATE_BYTES: Final = len(wire.encode_hard_state(HardState()))


def encode_unit(hard_state: HardState | None, entries: Sequence[Entry], snapshot: LogPosition | None = None) -> bytes:
    """One unit: where the log restarts, if it does; the entries; the hard state that may commit them."""
    parts: list[bytes] = []
    if snapshot is not None:
        parts.append(_SNAPSHOT_RECORD.pack(_SNAPSHOT, snapshot.index, snapshot.term))
    if entries:
        parts.append(_ENTRIES_MARK)
        parts += wire.entries_parts(entries)
    if hard_state is not None:
        parts.append(_HARD_STATE_MARK)
        parts.append(wire.encode_hard_state(hard_state))
    return b"".join(parts)


Record = list[Entry] | HardState | LogPosition


def decode_records(payload: bytes) -> Iterator[Record]:
    """The runs of entries, hard states and snapshot positions of a BATCH payload, in order.

    Raises MalformedRecord on an unknown record, a size that does not fit, or a gap between entries.
    """
    at = 0
    while at < len(payload):
        decoder = _DECODERS.get(payload[at])
        if decoder is None:
            raise MalformedRecord(f"unknown record type {payload[at]}")
        try:
            record, at = decoder(payload, at + 1)
        except (struct.error, wire.WireError) as error:
            raise MalformedRecord(f"record at byte {at} of the frame: {error}") from error
        yield record


def _decode_entries(payload: bytes, at: int) -> tuple[Record, int]:
    entries, end = wire.decode_entries_at(payload, at)
    if not entries:
        raise MalformedRecord("a run of no entries")
    for index, entry in enumerate(entries, entries[0].index):
        if entry.index != index:
            raise MalformedRecord(f"entry {entry.index} where {index} belongs")
    return entries, end


def _decode_hard_state(payload: bytes, at: int) -> tuple[Record, int]:
    end = at + _HARD_STATE_BYTES
    return wire.decode_hard_state(payload[at:end]), end


def _decode_snapshot(payload: bytes, at: int) -> tuple[Record, int]:
    _, index, term = _SNAPSHOT_RECORD.unpack_from(payload, at - 1)
    return LogPosition(index, term), at - 1 + _SNAPSHOT_RECORD.size


_DECODERS: Final[Mapping[int, Callable[[bytes, int], tuple[Record, int]]]] = {
    _ENTRIES: _decode_entries,
    _HARD_STATE: _decode_hard_state,
    _SNAPSHOT: _decode_snapshot,
}
