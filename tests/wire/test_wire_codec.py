"""Round trips, damage and frozen bytes of every value on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import (
    ENTRY_HEADER_SIZE_BYTES,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from raftkv.wire import (
    WireError,
    decode_conf_state,
    decode_entries,
    decode_hard_state,
    decode_message,
    decode_snapshot,
    encode_conf_state,
    encode_entries,
    encode_hard_state,
    encode_message,
    encode_snapshot,
    entries_parts,
    message_parts,
)

U64 = st.integers(0, (1 << 64) - 1)
IDS = st.frozensets(st.integers(1, (1 << 64) - 1), max_size=5).map(lambda ids: tuple(sorted(ids)))
CONFS = st.builds(ConfState, IDS, IDS, IDS, IDS, st.booleans())
SNAPSHOTS = st.builds(Snapshot, U64, U64, CONFS, st.binary(max_size=40))
HARD_STATES = st.builds(HardState, U64, U64, U64)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Entries of one log: no gaps, terms that never decrease."""
    index = draw(st.integers(1, 1 << 40))
    terms = sorted(draw(st.lists(st.integers(1, 1 << 40), max_size=6)))
    return [
        Entry(term, index + k, draw(st.sampled_from(EntryType)), draw(st.binary(max_size=40)))
        for k, term in enumerate(terms)
    ]


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(MessageType))
    entries = draw(logs())
    numbers = [draw(U64) for _ in range(6)]
    return Message(
        kind,
        *numbers[:5],
        entries=entries or (),
        commit=numbers[5],
        reject=draw(st.booleans()),
        hint=draw(U64),
        round=draw(U64),
        transfer=draw(st.booleans()),
        context=draw(st.binary(max_size=20)),
        snapshot=draw(st.none() | SNAPSHOTS),
        state_index=draw(U64),
        state_hash=draw(U64),
    )


CODECS: list[Any] = [
    pytest.param(HARD_STATES, encode_hard_state, decode_hard_state, id="hard state"),
    pytest.param(logs(), encode_entries, decode_entries, id="entries"),
    pytest.param(CONFS, encode_conf_state, decode_conf_state, id="configuration"),
    pytest.param(SNAPSHOTS, encode_snapshot, decode_snapshot, id="snapshot"),
    pytest.param(messages(), encode_message, decode_message, id="message"),
]


@pytest.mark.parametrize(("values", "encode", "decode"), CODECS)
@given(data=st.data())
def test_what_was_encoded_comes_back(values: Any, encode: Any, decode: Any, data: st.DataObject) -> None:
    value = data.draw(values)
    assert decode(encode(value)) == value


@pytest.mark.parametrize(("values", "encode", "decode"), CODECS)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_mean_something_else(
    values: Any, encode: Any, decode: Any, data: st.DataObject
) -> None:
    """Never another exception, and never two byte strings for one value: what is accepted encodes back."""
    good = encode(data.draw(values))
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] ^= data.draw(st.integers(1, 255))
    cut = bytes(bad[: data.draw(st.integers(0, len(bad)))])
    for damaged in (bytes(bad), cut, good + b"\0", good[:position]):
        try:
            value = decode(damaged)
        except WireError:
            continue
        assert encode(value) == damaged


@pytest.mark.parametrize(("values", "encode", "decode"), CODECS)
@given(data=st.data())
def test_any_bytes_at_all(values: Any, encode: Any, decode: Any, data: st.DataObject) -> None:
    noise = data.draw(st.binary(max_size=200))
    for attempt in (noise, b"\x01" + noise):
        try:
            value = decode(attempt)
        except WireError:
            continue
        assert encode(value) == attempt


@pytest.mark.parametrize(("values", "encode", "decode"), CODECS)
def test_other_versions_are_named(values: Any, encode: Any, decode: Any) -> None:
    value = {
        encode_hard_state: HardState(),
        encode_entries: [],
        encode_conf_state: ConfState(),
        encode_snapshot: Snapshot(1, 1, ConfState()),
        encode_message: Message(MessageType.APP, 1),
    }[encode]
    with pytest.raises(WireError, match="format 2"):
        decode(b"\x02" + encode(value)[1:])


def test_a_huge_count_costs_nothing() -> None:
    with pytest.raises(WireError):
        decode_entries(b"\x01\xff\xff\xff\xff" + bytes(100))


@pytest.mark.parametrize("positions", [[(1, 5), (1, 7)], [(2, 5), (1, 6)], [(0, 1)]])
def test_entries_of_no_log_are_refused(positions: list[tuple[int, int]]) -> None:
    data = encode_entries([Entry(term, index) for term, index in positions])
    with pytest.raises(WireError):
        decode_entries(data)


def test_a_proposal_has_no_positions_yet() -> None:
    proposal = Message(MessageType.PROP, 1, 2, entries=[Entry(0, 0, data=b"a"), Entry(0, 0, data=b"b")])
    assert decode_message(encode_message(proposal)) == proposal


def test_data_is_spliced_not_copied() -> None:
    payload = bytes(1 << 16)
    entry = Entry(1, 1, data=payload)
    assert any(part is payload for part in entries_parts([entry]))
    assert any(part is payload for part in message_parts(Message(MessageType.APP, 1, entries=[entry])))


def test_an_entry_costs_what_the_core_counts() -> None:
    one, two = (len(encode_entries([Entry(1, 1 + k) for k in range(n)])) for n in (1, 2))
    assert two - one == ENTRY_HEADER_SIZE_BYTES


def test_frozen_bytes() -> None:
    """What is on disks and in older members must stay readable: a new layout needs a new version."""
    assert encode_hard_state(HardState(2, 3, 4)).hex() == ("01000000000000000200000000000000030000000000000004")
    assert encode_entries([Entry(2, 3, EntryType.CONF_CHANGE, b"ab")]).hex() == (
        "01000000010000000000000002000000000000000301000000026162"
    )
    assert encode_conf_state(ConfState((7,), auto_leave=True)).hex() == ("010100010000000000000000000000000007")
