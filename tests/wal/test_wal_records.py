"""Frames and records as bytes: exact round trips, and no input that is trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv import wire
from raftkv.raft import Entry, EntryType, HardState
from raftkv.wal import LogPosition
from raftkv.wal import records as r

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)


@given(
    first=st.integers(1, 2**64 - 100),
    body=st.lists(st.tuples(u64, st.sampled_from(EntryType), st.binary(max_size=50)), max_size=10),
    state=st.none() | st.builds(HardState, u64, u64, u64),
    snapshot=st.none() | st.builds(LogPosition, u64, u64),
)
def test_unit_round_trip(
    first: int,
    body: list[tuple[int, EntryType, bytes]],
    state: HardState | None,
    snapshot: LogPosition | None,
) -> None:
    entries = [Entry(term, first + i, kind, data) for i, (term, kind, data) in enumerate(body)]
    decoded = list(r.decode_records(r.encode_unit(state, entries, snapshot)))
    assert decoded == [record for record in (snapshot, entries, state) if record]


@given(header=st.builds(r.SegmentHeader, u64, u64, u64, u32, u32, st.builds(HardState, u64, u64, u64), st.binary()))
def test_segment_header_round_trip(header: r.SegmentHeader) -> None:
    assert r.decode_segment_header(r.encode_segment_header(header)) == header


@given(st.binary(max_size=200))
def test_arbitrary_payload_decodes_or_is_malformed(payload: bytes) -> None:
    try:
        list(r.decode_records(payload))
    except r.MalformedRecord:
        pass


@pytest.mark.parametrize(
    "payload",
    [
        b"\x09",
        b"\x02\x00",
        b"\x03\x00",
        r.encode_unit(None, [Entry(1, 5)])[:-1],
        r.encode_unit(None, [Entry(1, 5), Entry(1, 7)]),
        b"\x01" + wire.encode_entries([]),
    ],
    ids=["unknown record", "short hard state", "short snapshot", "short entry", "gap", "no entries"],
)
def test_malformed_record(payload: bytes) -> None:
    with pytest.raises(r.MalformedRecord):
        list(r.decode_records(payload))


def test_unknown_format_version_is_named() -> None:
    header = r.SegmentHeader(0, 1, 0, 4096, 0, HardState(), b"")
    payload = r.encode_segment_header(header)
    with pytest.raises(r.MalformedRecord, match="version 2"):
        r.decode_segment_header(b"\x00\x02" + payload[2:])
    with pytest.raises(r.MalformedRecord, match="too short"):
        r.decode_segment_header(payload[:10])


def _frame(payload: bytes, *, offset: int = 0, sequence: int = 3, salt: int = 7) -> bytes:
    header, _ = r.encode_frame_header(r.Kind.BATCH, 1, sequence, offset, 0, payload, salt)
    return header + payload + bytes(r.padding(len(payload)))


@given(payload=st.binary(max_size=40))
def test_frame_is_found_only_where_and_when_it_was_written(payload: bytes) -> None:
    data = bytes(16) + _frame(payload, offset=16)
    frame = r.decode_frame(data, 16, sequence=3, salt=7)
    assert frame is not None
    assert (frame.payload, frame.end, frame.previous) == (payload, len(data), 1)
    assert r.decode_frame(data, 16, sequence=4, salt=7) is None
    assert r.decode_frame(data[8:], 8, sequence=3, salt=7) is None
    assert r.decode_frame(data[:-1], 16, sequence=3, salt=7) is None


@given(payload=st.binary(max_size=40), salt=u32, other=u32)
def test_frame_never_validates_with_another_salt(payload: bytes, salt: int, other: int) -> None:
    """Not by chance: a CRC with another start value cannot give the same result for the same bytes."""
    data = _frame(payload, salt=salt)
    assert (r.decode_frame(data, 0, sequence=3, salt=other) is not None) is (salt == other)


@given(first=u32, second=u32, secret=u32)
def test_segments_of_a_log_have_different_salts(first: int, second: int, secret: int) -> None:
    assert (r.segment_salt(secret, first) == r.segment_salt(secret, second)) is (first == second)


@given(payload=st.binary(max_size=20), position=st.integers(0, 400), mask=st.integers(1, 255))
def test_changed_byte_invalidates_the_frame(payload: bytes, position: int, mask: int) -> None:
    data = bytearray(_frame(payload))
    data[position % len(data)] ^= mask
    assert r.decode_frame(bytes(data), 0, sequence=3, salt=7) is None


def test_frames_are_found_between_garbage() -> None:
    data = b"rkvFxxxx" + _frame(b"one", offset=8)
    data += b"rkvF" * 4
    data += _frame(b"two", offset=len(data))
    assert [frame.payload for frame in r.find_frames(data, 0, sequence=3, salt=7)] == [b"one", b"two"]
