"""An event's bytes: what is read from a stored one, and what a watcher gets, against protobuf."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.backend.errors import SchemaError
from raftkv.mvcc.watch_events import (
    NODELETE,
    NOPUT,
    WITH_PREV,
    SharedEvent,
    is_creation,
    locate_key,
    make_batch,
)
from raftkv.pb import kv_pb2, rpc_pb2

REVISIONS = st.integers(1, 2**63 - 1)


def put_event(key: bytes, create: int, mod: int, value: bytes = b"v") -> bytes:
    kv = kv_pb2.KeyValue(key=key, create_revision=create, mod_revision=mod, version=1, value=value)
    return bytes(kv_pb2.Event(kv=kv).SerializeToString())


def delete_event(key: bytes, mod: int) -> bytes:
    kv = kv_pb2.KeyValue(key=key, mod_revision=mod)
    return bytes(kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv).SerializeToString())


def prev_frame(key: bytes, value: bytes) -> bytes:
    return bytes(rpc_pb2.RangeResponse(kvs=[kv_pb2.KeyValue(key=key, value=value)]).SerializeToString())


@given(st.binary(min_size=1, max_size=300), REVISIONS, REVISIONS)
@example(b"k" * 127, 1, 127)
@example(b"k" * 128, 128, 128)
@example(b"k" * 20_000, 1 << 62, 1 << 62)
def test_key_and_creation_are_found_in_stored_bytes(key: bytes, create: int, mod: int) -> None:
    event = put_event(key, create, mod)
    begin, end = locate_key(event)
    assert event[begin:end] == key
    assert is_creation(event, end) == (create == mod)
    event = delete_event(key, mod)
    begin, end = locate_key(event)
    assert event[begin:end] == key
    assert not is_creation(event, end)


@given(st.binary(max_size=40))
def test_damaged_event_is_a_typed_error(raw: bytes) -> None:
    try:
        begin, end = locate_key(raw)
        is_creation(raw, end)
    except SchemaError:
        return
    assert 0 <= begin <= end <= len(raw)


@pytest.mark.parametrize("cut", range(14))
def test_event_cut_short_is_a_typed_error(cut: int) -> None:
    event = put_event(b"0123456789", 300, 400)
    with pytest.raises(SchemaError):
        locate_key(event[:cut])


def test_entry_is_the_watch_response_field_w50() -> None:
    event = SharedEvent(7, put_event(b"k", 3, 7), prev_frame(b"k", b"old"))
    batch = make_batch(9, [event], 0)
    assert batch is not None
    (parsed,) = rpc_pb2.WatchResponse.FromString(batch.body).events
    assert parsed == kv_pb2.Event.FromString(event.event)
    with_prev = make_batch(9, [event], WITH_PREV)
    assert with_prev is not None
    (parsed,) = rpc_pb2.WatchResponse.FromString(with_prev.body).events
    assert (parsed.kv.mod_revision, parsed.prev_kv.value) == (7, b"old")
    assert (with_prev.header_revision, with_prev.first_revision, with_prev.last_revision) == (9, 7, 7)


def test_delete_carries_key_and_revision_only_w52() -> None:
    event = SharedEvent(7, delete_event(b"k", 7), prev_frame(b"k", b"old"))
    (parsed,) = rpc_pb2.WatchResponse.FromString(event.plain()).events
    assert parsed == kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=b"k", mod_revision=7))


def test_creation_has_no_prev_kv_and_shares_the_plain_bytes_w53() -> None:
    event = SharedEvent(7, put_event(b"k", 7, 7), None)
    assert event.with_prev() is event.plain()


def test_filters_leave_nothing_and_then_there_is_no_batch_w58() -> None:
    put = SharedEvent(7, put_event(b"k", 7, 7), None)
    delete = SharedEvent(8, delete_event(b"k", 8), None)
    assert make_batch(8, [put], NOPUT) is None
    assert make_batch(8, [delete], NODELETE) is None
    assert make_batch(8, [put, delete], NOPUT | NODELETE) is None
    only_delete = make_batch(8, [put, delete], NOPUT)
    assert only_delete is not None
    assert only_delete.entries == [delete.plain()]
    assert only_delete.first_revision == 8


def test_bytes_are_made_once_for_all_watchers() -> None:
    event = SharedEvent(7, put_event(b"k", 3, 7), prev_frame(b"k", b"old"))
    assert event.plain() is event.plain()
    assert event.with_prev() is event.with_prev()
    batch = make_batch(7, [event, event], 0)
    assert batch is not None
    assert batch.body is batch.body
