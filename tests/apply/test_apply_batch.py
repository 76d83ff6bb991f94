"""The packing of many requests in one log entry."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.apply import ITEM_BYTES, Kind, MalformedEntry, decode_batch, encode_batch
from raftkv.apply.batch import HEAD_BYTES, count_requests

U64 = st.integers(0, 2**64 - 1)
REQUESTS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8)

TWO_PUTS = encode_batch(7, 9, [(Kind.PUT, b"first"), (Kind.PUT, b"")])


@given(proposer=U64, number=U64, requests=REQUESTS)
def test_what_is_packed_comes_out_again(proposer: int, number: int, requests: list[tuple[int, bytes]]) -> None:
    data = encode_batch(proposer, number, requests)
    assert decode_batch(data) == (proposer, number, requests)
    assert count_requests(data) == len(requests)
    assert len(data) == HEAD_BYTES + sum(ITEM_BYTES + len(message) for _, message in requests)


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: TWO_PUTS[:HEAD_BYTES] + tail))
@example(b"")
def test_bytes_are_one_batch_or_refused(data: bytes) -> None:
    """There is one encoding: what is accepted packs into the same bytes again."""
    try:
        batch = decode_batch(data)
    except MalformedEntry:
        return
    assert encode_batch(*batch) == data


@given(st.data())
def test_a_changed_byte_is_refused_or_changes_a_field(data: st.DataObject) -> None:
    """Nothing in the layout is ignored."""
    at = data.draw(st.integers(0, len(TWO_PUTS) - 1))
    changed = bytearray(TWO_PUTS)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        assert decode_batch(bytes(changed)) != decode_batch(TWO_PUTS)
    except MalformedEntry:
        pass


@pytest.mark.parametrize("length", range(len(TWO_PUTS)))
def test_every_beginning_of_a_batch_is_refused(length: int) -> None:
    with pytest.raises(MalformedEntry):
        decode_batch(TWO_PUTS[:length])


def test_bytes_after_the_last_request_are_refused() -> None:
    with pytest.raises(MalformedEntry, match="whose requests take"):
        decode_batch(TWO_PUTS + b"\x00")


def test_another_format_asks_for_an_upgrade() -> None:
    with pytest.raises(MalformedEntry, match="format 2; this raftkv reads format 1: upgrade it"):
        decode_batch(b"\x02" + TWO_PUTS[1:])


def test_a_count_that_no_entry_can_hold_is_refused() -> None:
    with pytest.raises(MalformedEntry):
        decode_batch(TWO_PUTS[: HEAD_BYTES - 4] + b"\xff" * 4 + TWO_PUTS[HEAD_BYTES:])


@pytest.mark.parametrize("data", [b"", TWO_PUTS[: HEAD_BYTES - 1]])
def test_an_entry_without_a_head_has_no_requests_to_reserve_for(data: bytes) -> None:
    assert count_requests(data) == 0


def test_a_kind_of_a_newer_version_is_kept_for_the_applier_to_refuse() -> None:
    assert decode_batch(encode_batch(1, 1, [(200, b"x")])).requests == [(200, b"x")]


def test_the_numbers_of_kinds_are_those_on_disk() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "PUT": 1,
        "DELETE_RANGE": 2,
        "TXN": 3,
        "COMPACT": 4,
        "LEASE_GRANT": 5,
        "LEASE_REVOKE": 6,
        "ALARM": 7,
        "PUBLISH": 8,
        "CLUSTER_VERSION": 9,
        "MEMBER_UPDATE": 10,
        "LEASE_EXPIRE": 11,
        "LEASE_CHECKPOINT": 25,
        "AS_USER": 12,
        "AUTH_ENABLE": 13,
        "AUTH_DISABLE": 14,
        "AUTHENTICATE": 15,
        "USER_ADD": 16,
        "USER_DELETE": 17,
        "USER_CHANGE_PASSWORD": 18,
        "USER_GRANT_ROLE": 19,
        "USER_REVOKE_ROLE": 20,
        "ROLE_ADD": 21,
        "ROLE_DELETE": 22,
        "ROLE_GRANT_PERMISSION": 23,
        "ROLE_REVOKE_PERMISSION": 24,
    }
