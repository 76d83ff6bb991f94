"""Revisions, keys and intervals; Put and DeleteRange (contract sections 2.1, 2.2, 2.4, 2.5)."""

from collections.abc import Callable
from typing import Any

import pytest
from contract_support import (
    ALL,
    EMPTY_KEY,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    Client,
    Code,
    delete_op,
    prefix_end,
    put_op,
    range_op,
    refused,
    txn_op,
)

from raftkv.pb import rpc_pb2


def test_an_empty_store_is_at_revision_1(fresh: Client) -> None:
    """KV-01."""
    assert fresh.revision() == 1
    assert fresh.put(b"a").header.revision == 2


def test_one_revision_for_a_whole_transaction(client: Client, prefix: bytes) -> None:
    """KV-02, KV-03, TXN-54."""
    before = client.revision()
    client.txn(success=[put_op(prefix + b"%d" % number) for number in range(5)])
    assert client.revision() == before + 1
    kvs = client.range(prefix, prefix_end(prefix)).kvs
    assert [kv.mod_revision for kv in kvs] == [before + 1] * 5


def test_a_change_of_nothing_makes_no_revision(client: Client, prefix: bytes) -> None:
    """KV-02, DEL-02, TXN-63."""
    before = client.revision()
    deleted = client.delete(prefix)
    assert (deleted.deleted, deleted.header.revision) == (0, before)
    assert client.txn(success=[delete_op(prefix)]).header.revision == before
    assert client.txn(success=[txn_op()]).header.revision == before
    assert client.revision() == before


def test_lifetimes(client: Client, prefix: bytes) -> None:
    """KV-04, KV-05, KV-06."""
    first = client.put(prefix, b"same").header.revision
    second = client.put(prefix, b"same").header.revision
    kv = client.only(prefix)
    assert (kv.create_revision, kv.mod_revision, kv.version) == (first, second, 2)
    client.delete(prefix)
    third = client.put(prefix).header.revision
    kv = client.only(prefix)
    assert (kv.create_revision, kv.mod_revision, kv.version) == (third, third, 1)
    assert third == first + 3


def test_keys_sort_as_unsigned_bytes(client: Client, prefix: bytes) -> None:
    """KV-08."""
    tails = [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x01",
        b"a",
        b"a\x00",
        b"ab",
        b"b",
        b"\x7f",
        b"\x80",
        b"\xfe",
        b"\xff",
    ]
    for tail in reversed(tails):
        client.put(prefix + tail)
    assert [kv.key for kv in client.range(prefix, prefix_end(prefix)).kvs] == [prefix + tail for tail in sorted(tails)]


def test_what_is_not_a_key_changes_no_revision(client: Client) -> None:
    """KV-09, L-07."""
    before = client.revision()
    lease = client.grant(60).ID
    assert client.revoke(lease).header.revision == before
    assert client.alarm().header.revision == before


@pytest.mark.parametrize("size", [1, 255, 500, 511, 512, 513, 1000, 4096, 100_000])
def test_keys_of_any_length(client: Client, prefix: bytes, size: int) -> None:
    """LIM-08: no limit for keys but the request's."""
    stem = prefix + b"k" * size
    for tail in (b"b", b"", b"a"):
        client.put(stem + tail, tail)
    found = client.range(stem, prefix_end(stem)).kvs
    assert [(kv.key, kv.value) for kv in found] == [(stem + tail, tail) for tail in (b"", b"a", b"b")]
    assert client.only(stem + b"a").value == b"a"
    assert client.delete(stem, stem + b"b", prev_kv=True).deleted == 2
    assert [kv.key for kv in client.range(stem, prefix_end(stem)).kvs] == [stem + b"b"]


# --- intervals ----------------------------------------------------------------------------------------------

_KEYS = (b"a", b"b", b"c", b"c\x00", b"d")


@pytest.mark.parametrize(
    ("start", "end", "inside"),
    [
        pytest.param(b"b", b"", [b"b"], id="no end: the single key"),
        pytest.param(b"x", b"", [], id="RNG-18: a key that is not there"),
        pytest.param(b"b", b"d", [b"b", b"c", b"c\x00"], id="half open"),
        pytest.param(b"c", b"c\x00", [b"c"], id="up to the next key"),
        pytest.param(b"b", b"b", [], id="empty: equal ends"),
        pytest.param(b"d", b"a", [], id="empty: reversed"),
        pytest.param(b"c\x00", b"c", [], id="empty: end is a prefix of the start"),
    ],
)
def test_intervals(client: Client, prefix: bytes, start: bytes, end: bytes, inside: list[bytes]) -> None:
    """Section 2.2; DEL-01, TXN-33: reading, deleting and comparing take the same keys."""
    for key in _KEYS:
        client.put(prefix + key)
    wanted = [prefix + key for key in inside]
    range_end = prefix + end if end else b""
    answer = client.range(prefix + start, range_end)
    assert ([kv.key for kv in answer.kvs], answer.count, answer.more) == (wanted, len(wanted), False)
    compare = rpc_pb2.Compare(key=prefix + start, range_end=range_end, target=rpc_pb2.Compare.VERSION, version=1)
    assert client.holds(compare) is bool(wanted)
    deleted = client.delete(prefix + start, range_end, prev_kv=True)
    assert [kv.key for kv in deleted.prev_kvs] == wanted


def test_open_ended_intervals(client: Client) -> None:
    """Section 2.2: a single zero byte as end means no end."""
    high = [b"\xff\xfe", b"\xff\xff", b"\xff\xff\x00", b"\xff\xff\xff"]
    for key in high:
        client.put(key)
    assert [kv.key for kv in client.range(b"\xff\xff", b"\x00").kvs] == high[1:]
    everything = client.range(*ALL)
    assert [kv.key for kv in everything.kvs][-4:] == high
    assert everything.count == len(everything.kvs) > 4
    assert client.range(b"\x00").count == 0
    assert client.delete(b"\xff\xff", b"\x00").deleted == 3
    client.delete(high[0])


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.range(b""), id="Range"),
        pytest.param(lambda client: client.range(b"", b"\x00"), id="Range with an end"),
        pytest.param(lambda client: client.put(b""), id="Put"),
        pytest.param(lambda client: client.delete(b""), id="DeleteRange"),
        pytest.param(lambda client: client.txn([rpc_pb2.Compare()]), id="compare"),
        pytest.param(lambda client: client.txn(success=[range_op(b"")]), id="range in a txn"),
        pytest.param(lambda client: client.txn(failure=[put_op(b"")]), id="TXN-03: put in the other branch"),
        pytest.param(lambda client: client.txn(success=[txn_op([], [delete_op(b"")])]), id="delete in a nested txn"),
        pytest.param(
            lambda client: client.txn(success=[txn_op([rpc_pb2.Compare()])]),
            id="TXN-36: compare in a nested txn",
        ),
    ],
)
def test_an_empty_key_is_refused(client: Client, call: Callable[[Client], Any]) -> None:
    """KV-20."""
    before = client.revision()
    with refused(EMPTY_KEY):
        call(client)
    assert client.revision() == before


_VALUE_PROVIDED = (Code.INVALID_ARGUMENT, "etcdserver: value is provided")
_LEASE_PROVIDED = (Code.INVALID_ARGUMENT, "etcdserver: lease is provided")


@pytest.mark.parametrize("in_txn", [False, True], ids=["Put", "put in a txn"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({"value": b"v", "ignore_value": True}, _VALUE_PROVIDED, id="PUT-01: value"),
        pytest.param({"lease": 1, "ignore_lease": True}, _LEASE_PROVIDED, id="PUT-01: lease"),
        pytest.param({"value": b"", "ignore_value": True}, KEY_NOT_FOUND, id="PUT-03: no value to keep"),
        pytest.param({"ignore_lease": True}, KEY_NOT_FOUND, id="PUT-03: no lease to keep"),
        pytest.param({"lease": 4711}, LEASE_NOT_FOUND, id="PUT-02: unknown lease"),
    ],
)
def test_refused_puts(
    client: Client, prefix: bytes, fields: dict[str, Any], status: tuple[Code, str], in_txn: bool
) -> None:
    before = client.revision()
    with refused(status):
        if in_txn:
            client.txn(success=[put_op(prefix, **fields)])
        else:
            client.put(prefix, **fields)
    assert client.revision() == before
    assert client.range(prefix).count == 0


def test_the_order_of_reasons_to_refuse_a_put(client: Client, prefix: bytes) -> None:
    """PUT-02 before PUT-03 in a put of its own; the other way round in a transaction (TXN-42)."""
    fields: dict[str, Any] = {"value": b"", "ignore_value": True, "lease": 4711}
    with refused(LEASE_NOT_FOUND):
        client.put(prefix, **fields)
    with refused(KEY_NOT_FOUND):
        client.txn(success=[put_op(prefix, **fields)])


# --- Put ----------------------------------------------------------------------------------------------------


def test_put_answers_with_its_revision(client: Client, prefix: bytes) -> None:
    """PUT-06, G-14."""
    revision = client.put(prefix, b"").header.revision
    kv = client.only(prefix)
    assert (kv.mod_revision, kv.value, client.revision()) == (revision, b"", revision)


def test_previous_value(client: Client, prefix: bytes) -> None:
    """PUT-05."""
    first = client.put(prefix, b"1", prev_kv=True)
    assert not first.HasField("prev_kv")
    second = client.put(prefix, b"2", prev_kv=True)
    assert (second.prev_kv.value, second.prev_kv.mod_revision) == (b"1", first.header.revision)
    assert second.prev_kv.version == 1
    assert not client.put(prefix, b"", ignore_value=True).HasField("prev_kv")
    client.delete(prefix)
    assert not client.put(prefix, prev_kv=True).HasField("prev_kv")


def test_keep_the_value_keep_the_lease(client: Client, prefix: bytes) -> None:
    """PUT-03, PUT-04, PUT-07, KV-07."""
    lease, other = client.grant(60).ID, client.grant(60).ID
    client.put(prefix, b"1", lease=lease)
    client.put(prefix, b"", ignore_value=True, ignore_lease=True)
    assert (client.only(prefix).value, client.only(prefix).lease, client.only(prefix).version) == (
        b"1",
        lease,
        2,
    )
    client.put(prefix, b"2", ignore_lease=True)
    assert (client.only(prefix).value, client.only(prefix).lease) == (b"2", lease)
    client.put(prefix, b"", ignore_value=True, lease=other)
    assert (client.only(prefix).value, client.only(prefix).lease) == (b"2", other)
    client.revoke(lease)
    client.put(prefix, b"", ignore_value=True)
    assert (client.only(prefix).value, client.only(prefix).lease) == (b"2", 0)
    client.revoke(other)
    assert client.only(prefix).value == b"2"


# --- DeleteRange --------------------------------------------------------------------------------------------


def test_delete_takes_one_revision_and_lists_in_key_order(client: Client, prefix: bytes) -> None:
    """DEL-01, DEL-03, G-14."""
    for tail in (b"c", b"a", b"b"):
        client.put(prefix + tail, tail)
    before = client.revision()
    gone = client.delete(prefix, prefix_end(prefix), prev_kv=True)
    assert (gone.deleted, gone.header.revision) == (3, before + 1)
    assert [(kv.key, kv.value) for kv in gone.prev_kvs] == [(prefix + tail, tail) for tail in (b"a", b"b", b"c")]
    assert client.delete(prefix, prefix_end(prefix)).header.revision == before + 1


def test_delete_without_prev_kv_lists_nothing(client: Client, prefix: bytes) -> None:
    """DEL-03."""
    client.put(prefix)
    gone = client.delete(prefix)
    assert (gone.deleted, len(gone.prev_kvs)) == (1, 0)


def test_delete_detaches_but_keeps_the_lease(client: Client, prefix: bytes) -> None:
    """DEL-04, L-41."""
    lease = client.grant(60).ID
    client.put(prefix, lease=lease)
    client.delete(prefix)
    assert list(client.time_to_live(lease, keys=True).keys) == []
    client.put(prefix)
    client.revoke(lease)
    assert client.range(prefix).count == 1
