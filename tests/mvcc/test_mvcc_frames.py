"""KeyValues and events made by hand are what protobuf would have made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.backend.errors import SchemaError
from raftkv.mvcc.frames import (
    delete_event,
    event_key,
    frame,
    live_change,
    number,
    parse_event,
    stored_key_value,
)
from raftkv.pb import kv_pb2
from raftkv.pb.splice import varint

revisions = st.integers(1, (1 << 63) - 1)
leases = st.integers(-(1 << 63), (1 << 63) - 1)
sizes = st.sampled_from([0, 1, 127, 128, 1990, 2005, 2006, 2007, 2008, 2009, 2010, 2047, 2048, 16383, 16384, 300_000])


@given(revisions, revisions, revisions, sizes, sizes, leases | st.just(0))
def test_a_put_frame_equals_protobuf(create: int, mod: int, version: int, key: int, value: int, lease: int) -> None:
    fields = (b"k" * max(key, 1), create, mod, version, b"v" * value, lease)
    made = frame(*fields)
    kv = kv_pb2.KeyValue(
        key=fields[0], create_revision=create, mod_revision=mod, version=version, value=fields[4], lease=lease
    )
    assert made == kv_pb2.Event(kv=kv).SerializeToString()
    assert stored_key_value(made) == kv.SerializeToString()
    assert parse_event(made) == fields


@given(sizes, revisions)
def test_a_delete_event_has_only_key_and_mod_revision(size: int, mod: int) -> None:
    """W-52."""
    key = b"k" * max(size, 1)
    event = kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=key, mod_revision=mod))
    assert delete_event(key, mod) == event.SerializeToString()
    assert event_key(delete_event(key, mod)) == key
    assert live_change(delete_event(key, mod)) == (key, -1)


@given(st.integers(0, 1 << 40) | st.sampled_from([2**n + d for n in range(6, 41) for d in (-1, 0, 1)]))
def test_numbers_are_varints(n: int) -> None:
    assert number(n) == varint(n)


def test_live_change_tells_creation_from_overwrite() -> None:
    assert live_change(frame(b"k", 5, 5, 1, b"", 0)) == (b"k", 1)
    assert live_change(frame(b"k", 5, 6, 2, b"", 0)) == (b"k", 0)


@pytest.mark.parametrize("damaged", [b"\x12\x7f\x0a", b"\xff\xff", b"\x12\x02\x0a\x05"])
def test_damaged_events_are_refused(damaged: bytes) -> None:
    for read in (parse_event, event_key, live_change):
        with pytest.raises(SchemaError):
            read(damaged)


def test_an_event_without_a_key_is_refused() -> None:
    with pytest.raises(SchemaError):
        event_key(b"\x12\x00")
