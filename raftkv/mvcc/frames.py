"""KeyValues and events as bytes: made by hand where every write passes, read back by protobuf.

A *frame* is `12 len KeyValue`: field 2 of RangeResponse (kvs), of PutResponse (prev_kv) and of Event (kv)
alike, so the same bytes are stored, answered and watched without being encoded again. The event of a put is
its frame (the type PUT is 0 and thus absent); the event of a delete is `08 01` and a frame with only key and
mod_revision (W-52).

Knows encodings only: no tables, no revisions' meaning.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from raftkv.backend.errors import SchemaError
from raftkv.pb import kv_pb2
from raftkv.pb.splice import varint

_SMALL: Final = 1 << 11
_VARINTS: Final = tuple(varint(n) for n in range(_SMALL))
"""Most lengths and versions: an index costs a fifth of a call."""
_MORE_TO_COME: Final = tuple(bytes((n | 0x80,)) for n in range(128))
"""Seven bits of a varint that goes on."""
_KEY_HEADS: Final = tuple(b"\x0a" + n for n in _VARINTS)
_VALUE_HEADS: Final = tuple(b"\x2a" + n for n in _VARINTS)
_FRAME_HEADS: Final = tuple(b"\x12" + n for n in _VARINTS)
_NUMBERS_MAX: Final = 3 * 11 + 6
"""Bytes that tags, lengths and three numbers may add to key and value in a KeyValue whose length is small."""

DELETE_TYPE: Final = 0x08
"""First byte of the event of a delete (field 1, type); the event of a put begins with a frame's 0x12."""

_parse_event: Final = kv_pb2.Event.FromString


class KeyState(NamedTuple):
    """One revision of one key, as a client sees it."""

    key: bytes
    create: int
    mod: int
    version: int
    value: bytes
    lease: int


def number(n: int) -> bytes:
    """`n` ≥ 0 as a varint; like splice.varint, in a third of its time for lengths, versions and usual
    revisions."""
    if n < _SMALL:
        return _VARINTS[n]
    if n < _SMALL << 14:
        return _MORE_TO_COME[n & 127] + (
            _VARINTS[n >> 7] if n < _SMALL << 7 else _MORE_TO_COME[n >> 7 & 127] + _VARINTS[n >> 14]
        )
    return varint(n)


def frame(key: bytes, create: int, mod: int, version: int, value: bytes, lease: int) -> bytes:
    """The frame of a put. Canonical: what protobuf would serialize, zero fields left out."""
    return put_frame(key, b"\x10" + number(create) + b"\x18" + number(mod) + b"\x20" + number(version), value, lease)


def put_frame(key: bytes, numbers: bytes, value: bytes, lease: int) -> bytes:
    """The frame of a put whose fields create, mod and version (2, 3, 4) are encoded already. Hot."""
    key_size, size = len(key), len(value)
    if size and not lease and key_size + size < _SMALL - _NUMBERS_MAX:
        head = _KEY_HEADS[key_size] + key + numbers + _VALUE_HEADS[size]
        return _FRAME_HEADS[len(head) + size] + head + value
    head = b"\x0a" + number(key_size) + key + numbers
    if size:
        head += b"\x2a" + number(size)
    tail = b"\x30" + varint(lease) if lease else b""
    return b"".join((b"\x12", number(len(head) + size + len(tail)), head, value, tail))


def delete_event(key: bytes, mod: int) -> bytes:
    """The event of a delete (W-52)."""
    body = b"\x0a" + number(len(key)) + key + b"\x18" + number(mod)
    return b"\x08\x01\x12" + number(len(body)) + body


def parse_event(event: bytes) -> KeyState:
    """What a stored event (or a frame, which is the event of a put) says; a delete has version 0.

    Raises SchemaError when the bytes are no event: they come from disk.
    """
    try:
        kv = _parse_event(event).kv
    except DecodeError as error:
        raise SchemaError(f"events: {len(event)} bytes that are no Event") from error
    return KeyState(kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease)


def event_key(event: bytes) -> bytes:
    """The user key of a stored event. Raises SchemaError when the bytes are no event."""
    try:
        key = _parse_event(event).kv.key
    except DecodeError as error:
        raise SchemaError(f"events: {len(event)} bytes that are no Event") from error
    if not key:
        raise SchemaError("events: an event without a key")
    return key


def live_change(event: bytes) -> tuple[bytes, int]:
    """(key, by how much the event changed the number of live keys): +1 creation, -1 delete, 0 overwrite."""
    state = parse_event(event)
    if event[0] == DELETE_TYPE:
        return state.key, -1
    return state.key, 1 if state.version == 1 else 0


def stored_key_value(event: bytes) -> bytes:
    """The serialized KeyValue inside the event of a put: the frame without its tag and length."""
    at = 1
    while event[at] & 0x80:
        at += 1
    return event[at + 1 :]
