"""Acceptance checklist, items 1 to 5: a fresh cluster, Range, Put, Txn, Compact."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from acceptance_support import Point, defragment, keys, pairs, points, snapshot
from contract_support import (
    ALL,
    COMPACTED,
    DELETE,
    DUPLICATE_KEY,
    EMPTY_KEY,
    FUTURE,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    TOO_MANY_OPS,
    Client,
    Code,
    delete_op,
    prefix_end,
    put_op,
    range_op,
    refused,
    txn_op,
)
from helpers.cluster import Cluster
from helpers.processes import Server
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

Fresh = Callable[..., tuple[Server, Client]]
_R = rpc_pb2.RangeRequest
_C = rpc_pb2.Compare

# --- 1: a fresh cluster ---------------------------------------------------------------------------------------------


def _the_first_put_is_revision_2(cluster: Cluster, clients: Sequence[Client]) -> None:
    """KV-01, G-10, G-14: the revisions, and each member under its own id."""
    for member, client in zip(cluster.members, clients, strict=True):
        header = client.range(*ALL).header
        assert (header.revision, header.member_id) == (1, member.id)
        assert header.raft_term == client.status().raftTerm > 0
    assert len({client.range(*ALL).header.cluster_id for client in clients}) == 1
    for revision, client in enumerate(clients, 2):
        assert client.put(b"k").header.revision == revision
    assert {client.only(b"k").version for client in clients} == {3}


def _every_header_is_the_answering_members(cluster: Cluster, clients: Sequence[Client]) -> None:
    """G-10, G-11, G-12, G-15, WS-04: on the leader and on the followers."""
    cluster_id = clients[0].status().header.cluster_id
    for number, (member, client) in enumerate(zip(cluster.members, clients, strict=True), 1):
        granted = client.grant(600, number)
        with client.keep_alive() as renewals:
            renewals.send(rpc_pb2.LeaseKeepAliveRequest(ID=number))
            renewed = renewals.next()
        answers = {
            "Put": client.put(b"k", lease=granted.ID),
            "Range": client.range(b"k"),
            "Txn": client.txn(success=[put_op(b"t%d" % number), delete_op(b"none")]),
            "DeleteRange": client.delete(b"none"),
            "LeaseGrant": granted,
            "LeaseKeepAlive": renewed,
            "LeaseTimeToLive": client.time_to_live(number),
            "LeaseRevoke": client.revoke(number),
            "Compact": client.compact(client.revision() - 1),
            "Alarm": client.alarm(),
            "Status": client.status(),
            "HashKV": client.hash_kv(),
        }
        term = client.status().raftTerm
        for name, answer in answers.items():
            header = answer.header
            assert (header.cluster_id, header.member_id, header.raft_term) == (cluster_id, member.id, term), name
            assert header.revision >= 1, name
        listed = client.members().header
        assert (listed.cluster_id, listed.member_id, listed.raft_term) == (cluster_id, member.id, term)
        assert listed.revision == 0


def _some_answers_have_no_header(_cluster: Cluster, clients: Sequence[Client]) -> None:
    """G-16."""
    for client in clients:
        assert not defragment(client).HasField("header")
        assert not any(part.HasField("header") for part in snapshot(client))


@points(_the_first_put_is_revision_2, _every_header_is_the_answering_members, _some_answers_have_no_header)
def test_item_01_a_fresh_cluster(
    new_cluster: Callable[..., Cluster], connected: Callable[[str], Client], point: Point
) -> None:
    cluster = new_cluster()
    point(cluster, [connected(member.endpoint) for member in cluster.members])


# --- 2: Range -------------------------------------------------------------------------------------------------------


def _put(client: Client, prefix: bytes, names: bytes) -> int:
    """Put a key for each letter; the revision before the first."""
    before = client.revision()
    for number, letter in enumerate(names):
        client.put(prefix + bytes([letter]), b"%d" % (9 - number))
    return before


def _sorts_of_the_first_example(client: Client, prefix: bytes) -> None:
    """RNG-T1, RNG-12, RNG-13, RNG-16."""
    _put(client, prefix, b"bacdc")
    interval = (prefix, prefix_end(prefix))
    by_creation = client.range(*interval, sort_target=_R.CREATE, limit=10)
    assert keys(by_creation, prefix) == [b"b", b"a", b"c", b"d"]
    newest = client.range(*interval, sort_target=_R.MOD, sort_order=_R.DESCEND, limit=1)
    assert (keys(newest, prefix), newest.more, newest.count) == ([b"c"], True, 4)
    last = client.range(*interval, sort_target=_R.KEY, sort_order=_R.DESCEND, limit=1)
    assert (keys(last, prefix), last.more) == ([b"d"], True)


def _filters_do_not_change_the_count(client: Client, prefix: bytes) -> None:
    """RNG-T2, RNG-07, RNG-10."""
    before = _put(client, prefix, b"abcde")
    interval = (prefix, prefix_end(prefix))
    found = client.range(*interval, min_mod_revision=before + 2, max_mod_revision=before + 4)
    assert (keys(found, prefix), found.count, found.more) == ([b"b", b"c", b"d"], 5, False)
    client.put(prefix + b"a")
    filters: tuple[tuple[dict[str, Any], list[bytes]], ...] = (
        ({"min_create_revision": before + 4}, [b"d", b"e"]),
        ({"max_create_revision": before + 2}, [b"a", b"b"]),
        ({"max_create_revision": before + 2, "min_mod_revision": before + 6}, [b"a"]),
    )
    for fields, expected in filters:
        found = client.range(*interval, **fields)
        assert (keys(found, prefix), found.count) == (expected, 5)
    cut = client.range(*interval, min_mod_revision=before + 2, limit=2)
    assert (len(cut.kvs), cut.more, cut.count) == (2, True, 5)


def _the_past_as_it_was(client: Client, prefix: bytes) -> None:
    """RNG-T3, RNG-04, RNG-05, G-13."""
    before = _put(client, prefix, b"abcde")
    client.delete(prefix + b"a")
    interval = (prefix, prefix_end(prefix))
    nothing, two, now = (client.range(*interval, revision=before + offset) for offset in (0, 2, 6))
    assert [(keys(each, prefix), each.count) for each in (nothing, two, now)] == [
        ([], 0),
        ([b"a", b"b"], 2),
        ([b"b", b"c", b"d", b"e"], 4),
    ]
    assert {each.header.revision for each in (nothing, two, now)} == {before + 6}
    for revision in (0, -1):
        assert client.range(*interval, revision=revision).count == 4
    with refused(FUTURE):
        client.range(*interval, revision=before + 7)
    client.compact(before + 3)
    assert client.range(*interval, revision=before + 3).count == 3
    with refused(COMPACTED):
        client.range(*interval, revision=before + 2)


def _limits_and_more(client: Client, prefix: bytes) -> None:
    """RNG-T4, RNG-06, RNG-12."""
    _put(client, prefix, b"abc")
    answers = {limit: client.range(prefix, prefix_end(prefix), limit=limit) for limit in (2, 3, 0, -1)}
    assert {limit: (len(each.kvs), each.more, each.count) for limit, each in answers.items()} == {
        2: (2, True, 3),
        3: (3, False, 3),
        0: (3, False, 3),
        -1: (3, False, 3),
    }


def _an_order_is_implied(client: Client, prefix: bytes) -> None:
    """RNG-14, RNG-15, RNG-17: upwards, of what the limit left; an explicit order sorts first."""
    _put(client, prefix, b"abcd")
    interval = (prefix, prefix_end(prefix))
    assert keys(client.range(*interval, sort_target=_R.VALUE), prefix) == [b"d", b"c", b"b", b"a"]
    assert keys(client.range(*interval, sort_target=_R.VALUE, limit=2), prefix) == [b"c", b"b"]
    assert keys(client.range(*interval, sort_target=_R.VALUE, sort_order=_R.ASCEND, limit=2), prefix) == [b"d", b"c"]
    client.put(prefix + b"d")
    by_version = client.range(*interval, sort_target=_R.VERSION, sort_order=_R.DESCEND, limit=1)
    assert keys(by_version, prefix) == [b"d"]


def _blanks_and_counts(client: Client, prefix: bytes) -> None:
    """RNG-08, RNG-09, RNG-11."""
    _put(client, prefix, b"abc")
    interval = (prefix, prefix_end(prefix))
    blank = client.range(*interval, keys_only=True, sort_target=_R.VALUE, sort_order=_R.ASCEND)
    assert pairs(blank, prefix) == [(b"c", b""), (b"b", b""), (b"a", b"")]
    assert all(kv.version == 1 and kv.create_revision == kv.mod_revision > 1 for kv in blank.kvs)
    counted = client.range(*interval, count_only=True, limit=1, max_mod_revision=1)
    assert (len(counted.kvs), counted.count, counted.more) == (0, 3, False)


def _what_cannot_be_asked(client: Client, prefix: bytes) -> None:
    """RNG-01, KV-20, RNG-18."""
    with refused(EMPTY_KEY):
        client.range(b"", prefix)
    nothing = client.range(prefix + b"z", prefix + b"a")
    assert (len(nothing.kvs), nothing.count, nothing.more) == (0, 0, False)


@points(
    _sorts_of_the_first_example,
    _filters_do_not_change_the_count,
    _the_past_as_it_was,
    _limits_and_more,
    _an_order_is_implied,
    _blanks_and_counts,
    _what_cannot_be_asked,
)
def test_item_02_range(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


# --- 3: Put ---------------------------------------------------------------------------------------------------------


def _the_previous_one_on_request(client: Client, prefix: bytes) -> None:
    """PUT-05, PUT-06."""
    first = client.put(prefix, b"1", prev_kv=True)
    assert not first.HasField("prev_kv")
    second = client.put(prefix, b"2", prev_kv=True)
    assert (second.prev_kv.value, second.prev_kv.mod_revision) == (b"1", first.header.revision)
    assert not client.put(prefix, b"3").HasField("prev_kv")
    assert not client.put(prefix, b"", ignore_value=True).HasField("prev_kv")
    assert client.only(prefix).version == 4


def _ignored_fields_keep_what_is_there(client: Client, prefix: bytes) -> None:
    """PUT-01, PUT-03, PUT-07."""
    lease = client.grant(600).ID
    client.put(prefix, b"kept", lease=lease)
    client.put(prefix, b"new", ignore_lease=True)
    assert (client.only(prefix).value, client.only(prefix).lease) == (b"new", lease)
    client.put(prefix, b"", ignore_value=True, ignore_lease=True)
    assert (client.only(prefix).value, client.only(prefix).lease) == (b"new", lease)
    client.put(prefix, b"", ignore_value=True)
    assert (client.only(prefix).value, client.only(prefix).lease, client.only(prefix).version) == (b"new", 0, 4)


def _leases_are_left_and_joined(client: Client, prefix: bytes) -> None:
    """PUT-04, L-41, KV-07."""
    one, other = client.grant(600).ID, client.grant(600).ID
    for name in (b"left", b"moved", b"stays"):
        client.put(prefix + name, lease=one)
    client.put(prefix + b"left")
    client.put(prefix + b"moved", lease=other)
    assert list(client.time_to_live(one, keys=True).keys) == [prefix + b"stays"]
    client.revoke(one)
    assert keys(client.range(prefix, prefix_end(prefix)), prefix) == [b"left", b"moved"]
    client.put(prefix + b"left", lease=other)
    client.revoke(other)
    assert client.range(prefix, prefix_end(prefix)).count == 0


def _refusals_use_up_no_revision(client: Client, prefix: bytes) -> None:
    """PUT-01, PUT-02, PUT-03, KV-02."""
    before = client.put(prefix + b"there").header.revision
    value_given = (Code.INVALID_ARGUMENT, "etcdserver: value is provided")
    lease_given = (Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
    for refusal, key, value, fields in (
        (EMPTY_KEY, b"", b"v", {}),
        (value_given, prefix + b"there", b"v", {"ignore_value": True}),
        (lease_given, prefix + b"there", b"v", {"ignore_lease": True, "lease": 1}),
        (LEASE_NOT_FOUND, prefix + b"there", b"v", {"lease": 4711}),
        (KEY_NOT_FOUND, prefix + b"none", b"", {"ignore_value": True}),
        (KEY_NOT_FOUND, prefix + b"none", b"v", {"ignore_lease": True}),
    ):
        with refused(refusal):
            client.put(key, value, **fields)
    assert client.put(prefix + b"there").header.revision == before + 1


@points(
    _the_previous_one_on_request,
    _ignored_fields_keep_what_is_there,
    _leases_are_left_and_joined,
    _refusals_use_up_no_revision,
)
def test_item_03_put(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


# --- 4: Txn ---------------------------------------------------------------------------------------------------------


def _puts(prefix: bytes, count: int) -> list[rpc_pb2.RequestOp]:
    return [put_op(prefix + b"%03d" % number) for number in range(count)]


def _128_operations_and_not_129(client: Client, prefix: bytes) -> None:
    """TXN-10."""
    compares = [_C(key=prefix + b"%03d" % number, target=_C.VERSION) for number in range(129)]
    made = client.txn(compares[:128], _puts(prefix, 128), _puts(prefix, 128))
    assert (made.succeeded, len(made.responses)) == (True, 128)
    with refused(TOO_MANY_OPS):
        client.txn(compares)
    with refused(TOO_MANY_OPS):
        client.txn([], _puts(prefix, 129))
    with refused(TOO_MANY_OPS):
        client.txn([], [], _puts(prefix, 129))
    assert client.revision() == made.header.revision


def _nested_ones_get_what_is_left(client: Client, prefix: bytes) -> None:
    """TXN-11."""
    client.txn(success=[txn_op([], _puts(prefix + name, 126)) for name in (b"a", b"b")])
    with refused(TOO_MANY_OPS):
        client.txn(success=[txn_op([], _puts(prefix, 128))])
    client.txn(success=[txn_op([], _puts(prefix + b"c", 127))])
    with refused(TOO_MANY_OPS):
        client.txn(success=[txn_op([], [txn_op([], _puts(prefix, 127))])])


def _doubled_keys(client: Client, prefix: bytes) -> None:
    """TXN-20 to TXN-26, TXN-01."""
    key, interval = prefix + b"k", (prefix, prefix_end(prefix))
    put, delete = put_op(key), delete_op(*interval)
    refusals: list[Sequence[rpc_pb2.RequestOp]] = [
        [put, put],  # TXN-21
        [put, delete],  # TXN-22
        [delete, put],
        [delete, txn_op([], [], [put])],  # TXN-23: deleted around it
        [txn_op([], [delete]), txn_op([], [put])],  # deleted in the one before
        [txn_op([], [put]), put],  # TXN-24
        [put, txn_op([], [delete])],
        [txn_op([], [put]), txn_op([], [], [put])],  # TXN-25
    ]
    before = client.revision()
    for operations in refusals:
        with refused(DUPLICATE_KEY):
            client.txn(success=operations)
        with refused(DUPLICATE_KEY):
            client.txn(failure=operations)
    assert client.revision() == before
    for allowed in (
        [txn_op([], [put], [put])],  # TXN-25
        [delete, delete],  # TXN-26
        [range_op(*interval), put, range_op(key)],
        [txn_op([], [delete]), delete],
    ):
        assert client.txn(success=allowed).succeeded
    assert client.txn(success=[put], failure=[put]).succeeded


def _operations_see_the_writes_before_them(client: Client, prefix: bytes) -> None:
    """TXN-40, TXN-41, TXN-46, TXN-51, TXN-52, TXN-54, KV-03."""
    client.put(prefix + b"old", b"1")
    interval = (prefix, prefix_end(prefix))
    unchanged = _C(key=prefix + b"new", target=_C.VERSION, result=_C.EQUAL, version=0)
    made = client.txn(
        success=[
            range_op(*interval),
            put_op(prefix + b"new", b"2"),
            range_op(*interval),
            delete_op(prefix + b"old"),
            delete_op(prefix + b"old"),
            range_op(*interval),
            txn_op([unchanged], [range_op(prefix + b"new")]),
        ]
    )
    before, put, between, deleted, again, after, nested = made.responses
    seen = [each.response_range.count for each in (before, between, after)]
    assert (seen, deleted.response_delete_range.deleted, again.response_delete_range.deleted) == ([1, 2, 1], 1, 0)
    assert nested.response_txn.succeeded, "compares see the state before the transaction"
    assert nested.response_txn.responses[0].response_range.count == 1, "ranges do not"
    revision = made.header.revision
    assert put.response_put.header.revision == deleted.response_delete_range.header.revision == revision
    assert before.response_range.header.revision == revision - 1
    assert client.only(prefix + b"new").mod_revision == revision == client.revision()


def _a_missing_key_compares_as_zeros(client: Client, prefix: bytes) -> None:
    """TXN-31, TXN-32."""
    for target, field in ((_C.VERSION, "version"), (_C.CREATE, "create_revision"), (_C.MOD, "mod_revision")):
        zero: dict[str, Any] = {"key": prefix, "target": target, field: 0}
        assert client.holds(_C(result=_C.EQUAL, **zero))
        assert not client.holds(_C(result=_C.GREATER, **zero))
        assert client.holds(_C(result=_C.LESS, **{**zero, field: 1}))
    assert client.holds(_C(key=prefix, target=_C.LEASE, result=_C.EQUAL, lease=0))
    for result in (_C.EQUAL, _C.NOT_EQUAL, _C.LESS, _C.GREATER):
        assert not client.holds(_C(key=prefix, target=_C.VALUE, result=result, value=b"x"))
        assert not client.holds(_C(key=prefix, target=_C.VALUE, result=result, value=b""))


def _compares_of_intervals(client: Client, prefix: bytes) -> None:
    """TXN-33, TXN-30."""
    end = prefix_end(prefix)
    every: dict[str, Any] = {"key": prefix, "range_end": end}
    assert client.holds(_C(target=_C.VERSION, result=_C.EQUAL, version=0, **every))
    assert not client.holds(_C(target=_C.VALUE, result=_C.NOT_EQUAL, value=b"x", **every))
    client.put(prefix + b"a", b"v")
    client.put(prefix + b"b", b"v")
    assert client.holds(_C(target=_C.VALUE, result=_C.EQUAL, value=b"v", **every))
    client.put(prefix + b"b", b"w")
    assert not client.holds(_C(target=_C.VALUE, result=_C.EQUAL, value=b"v", **every))
    assert not client.holds(_C(target=_C.VALUE, result=_C.NOT_EQUAL, value=b"v", **every))
    assert client.holds(_C(target=_C.VERSION, result=_C.GREATER, version=0, **every))


@points(
    _128_operations_and_not_129,
    _nested_ones_get_what_is_left,
    _doubled_keys,
    _operations_see_the_writes_before_them,
    _a_missing_key_compares_as_zeros,
    _compares_of_intervals,
)
def test_item_04_txn(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


def test_item_04_txn_is_decided_alike_on_every_member(new_cluster: Callable[..., Cluster]) -> None:
    """TXN-42, TXN-47: a put beside a range that cannot be read is refused, whoever is asked, and done by nobody."""
    cluster = new_cluster()
    cluster.leader().client.compact(cluster.leader().client.put(b"k").header.revision)
    for member in cluster.members:
        client, now = Client(member.client.channel), member.client.revision()
        for refusal, revision in ((FUTURE, now + 5), (COMPACTED, 1)):
            with refused(refusal):
                client.txn(success=[put_op(b"half done"), range_op(b"k", revision=revision)])
            with refused(refusal):
                client.txn(success=[put_op(b"half done"), txn_op([], [range_op(b"k", revision=revision)])])
    for member in cluster.members:
        assert member.client.value(b"half done") is None
    assert cluster.wait_same_hash() == 2


# --- 5: Compact -----------------------------------------------------------------------------------------------------


def _twice_is_refused(client: Client, prefix: bytes) -> None:
    """CMP-01, CMP-02, RNG-04: also at the current revision."""
    first = client.put(prefix).header.revision
    now = client.put(prefix).header.revision
    with refused(FUTURE):
        client.compact(now + 1)
    assert client.compact(now).header.revision == now
    for again in (now, first):
        with refused(COMPACTED):
            client.compact(again)
    assert client.only(prefix, revision=now).version == 2
    with refused(COMPACTED):
        client.range(prefix, revision=first)


def _a_tombstone_at_the_revision_is_told(client: Client, prefix: bytes) -> None:
    """CMP-07, W-12, W-40: a watch from there sees the delete; from before, it is cancelled."""
    client.put(prefix + b"kept", b"v")
    client.put(prefix + b"gone", b"v")
    deleted = client.delete(prefix + b"gone").header.revision
    client.compact(deleted, physical=True)
    assert keys(client.range(prefix, prefix_end(prefix)), prefix) == [b"kept"]
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=deleted)
        (event,) = stream.events(1)
        assert (event.type, event.kv.key, event.kv.mod_revision) == (DELETE, prefix + b"gone", deleted)
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=deleted - 1)
        cancelled = stream.next()
        assert (cancelled.canceled, cancelled.compact_revision) == (True, deleted)


@points(
    _twice_is_refused,
    pytest.param(_a_tombstone_at_the_revision_is_told, marks=pytest.mark.beyond_etcd("3.5.1 keeps none")),
)
def test_item_05_compact(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


_KEYS, _ROUNDS = 100, 100


def _write_history(client: Client) -> int:
    """Every key has as many versions as there are rounds; the revision after half of them."""
    middle = 0
    for number in range(_ROUNDS):
        written = client.txn(success=[put_op(b"k%03d" % key, b"%d" % number) for key in range(_KEYS)])
        middle = written.header.revision if number < _ROUNDS // 2 else middle
    return middle


def test_item_05_compact_over_a_restart(new_cluster: Callable[..., Cluster]) -> None:
    """CMP-08, CMP-04, CMP-13, KV-10: killed in the middle of deleting, a member goes on where it was."""
    cluster = new_cluster()
    leader, member = cluster.leader(), cluster.followers()[0]
    revision = _write_history(_as_client(leader))
    now = leader.client.revision()
    leader.client.calls.KV.Compact(rpc_pb2.CompactionRequest(revision=revision), timeout=20)
    wait_until("it knows of the compaction", lambda: member.client.hash_kv().compact_revision == revision)
    member.kill9()
    cluster.restart(member)
    assert member.client.revision() == now
    with refused(COMPACTED):
        member.client.range(b"k000", revision=revision - 1, serializable=True)
    for at, expected in ((revision, b"%d" % (_ROUNDS // 2 - 1)), (now, b"%d" % (_ROUNDS - 1))):
        found = member.client.range(b"k", b"l", revision=at, serializable=True)
        assert (found.count, {kv.value for kv in found.kvs}) == (_KEYS, {expected})
    with refused(COMPACTED):
        member.client.compact(revision)
    cluster.wait_same_hash()


def _as_client(member: Any) -> Client:
    return Client(member.client.channel)
