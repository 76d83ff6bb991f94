"""Every layout comes back as it went in, and refuses what cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.backend import schema
from raftkv.backend.errors import SchemaError

I64_MAX = (1 << 63) - 1
U64_MAX = (1 << 64) - 1
user_keys = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([479, 480, 481, 495, 496, 497, 511, 512, 5000]).flatmap(
        lambda size: st.binary(min_size=1, max_size=4).map(lambda tail: b"k" * (size - len(tail)) + tail)
    ),
)
lease_ids = st.integers(-I64_MAX - 1, I64_MAX).filter(bool)


@given(st.integers(0, I64_MAX), st.integers(0, (1 << 32) - 1))
def test_revision_round_trip(main: int, sub: int) -> None:
    assert schema.unpack_revision(schema.pack_revision(main, sub)) == (main, sub)


@given(
    st.tuples(st.integers(0, I64_MAX), st.integers(0, 9)),
    st.tuples(st.integers(0, I64_MAX), st.integers(0, 9)),
)
def test_revisions_sort_by_number(a: tuple[int, int], b: tuple[int, int]) -> None:
    assert (a < b) == (schema.pack_revision(*a) < schema.pack_revision(*b))


@given(st.integers(1, I64_MAX), st.integers(0, 9), st.integers(1, I64_MAX), lease_ids | st.just(0), st.binary())
def test_current_round_trip(mod: int, sub: int, version: int, lease: int, tail: bytes) -> None:
    frame = bytes([schema.FRAME_TAG]) + tail
    raw = schema.pack_current(mod, sub, mod, version, lease, frame)
    assert schema.unpack_current(raw) == (mod, sub, mod, version, lease, frame)
    assert raw[schema.CURRENT_HEADER_BYTES :] == frame


def test_current_tombstone_has_no_frame() -> None:
    assert schema.unpack_current(schema.pack_current(7, 1, 0, 0, 0, b"")) == (7, 1, 0, 0, 0, b"")


@given(user_keys)
def test_short_key_fits_and_is_cut_only_when_long(key: bytes) -> None:
    short = schema.short_key(key)
    assert schema.is_cut(short) == (len(key) > schema.KEY_CHUNK)
    assert len(short) <= schema.MAX_TABLE_KEY_BYTES - schema.LEASE_ID.size
    if not schema.is_cut(short):
        assert short == key


@given(user_keys, user_keys)
def test_short_keys_of_different_keys_differ(a: bytes, b: bytes) -> None:
    assert (a == b) == (schema.short_key(a) == schema.short_key(b))


@given(lease_ids, user_keys)
def test_lease_key_round_trip(lease_id: int, key: bytes) -> None:
    raw, value = schema.pack_lease_key(lease_id, key)
    assert len(raw) <= schema.MAX_TABLE_KEY_BYTES
    assert schema.unpack_lease_key(raw, value) == (lease_id, key)


@given(st.integers(1, U64_MAX), st.binary(min_size=1, max_size=480))
def test_node_key_round_trip(node_id: int, chunk: bytes) -> None:
    assert schema.unpack_node_key(schema.pack_node_key(node_id, chunk)) == (node_id, chunk, False)
    full = chunk.ljust(schema.KEY_CHUNK, b"\xff")
    assert schema.unpack_node_key(schema.pack_node_key(node_id, full, longer=True)) == (node_id, full, True)


def test_longer_keys_sort_directly_after_their_chunk() -> None:
    chunk = b"a" * schema.KEY_CHUNK
    plain, branch = schema.pack_node_key(1, chunk), schema.pack_node_key(1, chunk, longer=True)
    following = schema.pack_node_key(1, chunk[:-1] + b"b")
    assert plain < branch < following
    assert len(branch) <= schema.MAX_TABLE_KEY_BYTES


@given(lease_ids, st.integers(1, I64_MAX), st.integers(0, 1 << 40), st.integers(0, U64_MAX), st.integers(1, 9))
def test_leases_and_alarms_round_trip(lease_id: int, ttl: int, remaining: int, member: int, alarm: int) -> None:
    remaining = min(ttl, remaining)
    assert schema.unpack_lease_id(schema.pack_lease_id(lease_id)) == lease_id
    assert schema.unpack_lease(schema.pack_lease(ttl, remaining)) == (ttl, remaining)
    assert schema.unpack_alarm(schema.pack_alarm(member, alarm)) == (member, alarm)


@given(st.integers(1, U64_MAX), st.integers(1, U64_MAX))
def test_consistent_index_round_trip(index: int, term: int) -> None:
    """RF-50: index and term travel together."""
    assert schema.unpack_consistent_index(schema.pack_consistent_index(index, term)) == (index, term)
    assert schema.unpack_u64(schema.pack_u64(index)) == index


NONSENSE: list[Callable[[], object]] = [
    lambda: schema.pack_u64(-1),
    lambda: schema.pack_u64(1 << 64),
    lambda: schema.unpack_u64(b"1234567"),
    lambda: schema.pack_revision(1 << 63, 0),
    lambda: schema.pack_revision(1, 1 << 32),
    lambda: schema.unpack_revision(b"\xff" * 12),
    lambda: schema.unpack_revision(b""),
    lambda: schema.pack_consistent_index(5, 0),
    lambda: schema.unpack_consistent_index(b"\x00" * 15),
    lambda: schema.unpack_consistent_index(bytes(8) + b"\x00" * 7 + b"\x01"),
    lambda: schema.pack_current(0, 0, 0, 0, 0, b""),
    lambda: schema.pack_current(5, 0, 6, 1, 0, b"\x12\x00"),  # created after it was modified
    lambda: schema.pack_current(5, 0, 5, 0, 0, b"\x12\x00"),  # a live key has a version
    lambda: schema.pack_current(5, 0, 5, 1, 0, b"\x0a\x00"),  # not a KeyValue in field 2
    lambda: schema.pack_current(5, 0, 5, 1, 0, b""),  # half a tombstone
    lambda: schema.unpack_current(b"\x00" * 35),
    lambda: schema.unpack_current(b"\x00" * 40),
    lambda: schema.short_key(b""),
    lambda: schema.pack_node_key(0, b"a"),
    lambda: schema.pack_node_key(1, b""),
    lambda: schema.pack_node_key(1, b"a" * 481),
    lambda: schema.pack_node_key(1, b"a", longer=True),
    lambda: schema.unpack_node_key(b"12345678"),
    lambda: schema.unpack_node_key(b"12345678" + b"a" * 481),
    lambda: schema.unpack_node_key(bytes(8) + b"a"),
    lambda: schema.pack_lease_id(0),
    lambda: schema.pack_lease_id(1 << 63),
    lambda: schema.unpack_lease_id(bytes(8)),
    lambda: schema.unpack_lease_id(b"1"),
    lambda: schema.pack_lease(0, 0),
    lambda: schema.pack_lease(5, 6),
    lambda: schema.unpack_lease(bytes(16)),
    lambda: schema.unpack_lease(bytes(15)),
    lambda: schema.unpack_lease_key(b"12345678", b""),
    lambda: schema.unpack_lease_key(b"12345678key", b"value"),
    lambda: schema.unpack_lease_key(b"12345678" + b"x" * schema.CUT_KEY_BYTES, b"y" * 500),
    lambda: schema.pack_alarm(1, 0),
    lambda: schema.unpack_alarm(b"12345678"),
    lambda: schema.unpack_alarm(bytes(12)),
]


@pytest.mark.parametrize("call", NONSENSE)
def test_nonsense_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(SchemaError):
        call()
