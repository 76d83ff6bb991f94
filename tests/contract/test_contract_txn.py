"""Transactions: limits, keys written twice, compares, what operations see (contract section 2.6)."""

from collections.abc import Sequence
from typing import Final

import pytest
from contract_support import (
    COMPACTED,
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

from raftkv.pb import rpc_pb2

_Compare = rpc_pb2.Compare
_Ops = Sequence[rpc_pb2.RequestOp]

# --- structure and limits -----------------------------------------------------------------------------------


def test_the_compares_choose_the_branch(client: Client, prefix: bytes) -> None:
    """TXN-01."""
    exists = _Compare(key=prefix, target=_Compare.VERSION, result=_Compare.GREATER, version=0)
    missing = _Compare(key=prefix, target=_Compare.CREATE, create_revision=0)
    made = client.txn([missing], [put_op(prefix, b"1"), range_op(prefix)], [range_op(prefix)])
    assert (made.succeeded, [each.WhichOneof("response") for each in made.responses]) == (
        True,
        ["response_put", "response_range"],
    )
    again = client.txn([missing], [put_op(prefix, b"2")], [range_op(prefix)])
    assert (again.succeeded, again.responses[0].response_range.kvs[0].value) == (False, b"1")
    assert not client.txn([exists, missing]).succeeded
    assert client.txn([exists, exists]).succeeded
    empty = client.txn()
    assert (empty.succeeded, len(empty.responses)) == (True, 0)


def test_an_operation_with_nothing_in_it(client: Client, prefix: bytes) -> None:
    """TXN-02."""
    for op in (rpc_pb2.RequestOp(), txn_op([], [rpc_pb2.RequestOp()])):
        with refused(KEY_NOT_FOUND):
            client.txn(success=[put_op(prefix), op])
    assert client.range(prefix).count == 0


def _puts(prefix: bytes, count: int) -> list[rpc_pb2.RequestOp]:
    return [put_op(prefix + b"%03d" % number) for number in range(count)]


def _compares(prefix: bytes, count: int) -> list[_Compare]:
    return [_Compare(key=prefix + b"%03d" % number, target=_Compare.VERSION) for number in range(count)]


def test_128_of_each_are_fine(client: Client, prefix: bytes) -> None:
    """TXN-10."""
    answer = client.txn(_compares(prefix, 128), _puts(prefix, 128), _puts(prefix, 128))
    assert (answer.succeeded, len(answer.responses)) == (True, 128)
    assert client.range(prefix, prefix_end(prefix)).count == 128


@pytest.mark.parametrize("place", ["compare", "success", "failure"])
def test_129_are_too_many(client: Client, prefix: bytes, place: str) -> None:
    """TXN-10."""
    lists = {
        "compare": {"compare": _compares(prefix, 129)},
        "success": {"success": _puts(prefix, 129)},
        "failure": {"failure": [range_op(prefix)] * 129},
    }
    with refused(TOO_MANY_OPS):
        client.txn(**lists[place])  # type: ignore[arg-type]
    assert client.range(prefix, prefix_end(prefix)).count == 0


@pytest.mark.parametrize(
    ("outer", "nested", "fits"),
    [
        pytest.param(0, 127, True, id="one nested leaves 127"),
        pytest.param(0, 128, False, id="128 in one nested"),
        pytest.param(100, 27, True, id="101 leave 27"),
        pytest.param(100, 28, False, id="101 leave no 28"),
        pytest.param(127, 0, True, id="128 leave an empty one"),
        pytest.param(127, 1, False, id="128 leave nothing"),
    ],
)
def test_nested_transactions_get_what_is_left(
    client: Client, prefix: bytes, outer: int, nested: int, fits: bool
) -> None:
    """TXN-11."""
    ops = [*_puts(prefix + b"o", outer), txn_op([], _puts(prefix + b"n", nested))]
    if fits:
        assert client.txn(success=ops).succeeded
    else:
        with refused(TOO_MANY_OPS):
            client.txn(success=ops)


def test_siblings_do_not_add_up(client: Client, prefix: bytes) -> None:
    """TXN-11: three nested transactions of 125 puts each."""
    ops = [txn_op([], _puts(prefix + name, 125)) for name in (b"a", b"b", b"c")]
    client.txn(success=ops)
    assert client.range(prefix, prefix_end(prefix)).count == 375
    with refused(TOO_MANY_OPS):
        client.txn(success=[txn_op([], [txn_op([], _puts(prefix, 127))])])


def test_deep_nesting(client: Client, prefix: bytes) -> None:
    """TXN-11: 40 levels, each taking one from the budget."""
    op = put_op(prefix)
    for _ in range(40):
        op = txn_op([], [op])
    answer = client.txn(success=[op])
    for _ in range(40):
        answer = answer.responses[0].response_txn
    assert answer.responses[0].response_put.header.revision == client.only(prefix).mod_revision


# --- the same key written twice -----------------------------------------------------------------------------

_K, _L = b"k", b"l"
_ALL_K = (b"a", b"z")


@pytest.mark.parametrize(
    ("ops", "fits"),
    [
        pytest.param([put_op(_K), put_op(_K)], False, id="TXN-21: two puts"),
        pytest.param([put_op(_K), put_op(_L)], True, id="two keys"),
        pytest.param([put_op(_K), delete_op(_K)], False, id="TXN-22: put, delete"),
        pytest.param([delete_op(_K), put_op(_K)], False, id="TXN-22: delete, put"),
        pytest.param([delete_op(*_ALL_K), put_op(_K)], False, id="TXN-22: interval"),
        pytest.param([put_op(_K), delete_op(b"k\x00", b"z")], True, id="TXN-22: beside the interval"),
        pytest.param([put_op(_K), delete_op(b"a", _K)], True, id="TXN-22: its end is exclusive"),
        pytest.param(
            [delete_op(_L), put_op(_K), delete_op(b"a", b"\x00")],
            True,
            id="TXN-22: open end",
        ),
        pytest.param([delete_op(b"z", b"a"), put_op(_K)], True, id="TXN-22: an empty interval"),
        pytest.param([delete_op(*_ALL_K), txn_op([], [put_op(_K)])], False, id="TXN-23: outer delete"),
        pytest.param([txn_op([], [put_op(_K)]), delete_op(*_ALL_K)], False, id="TXN-23: later outer delete"),
        pytest.param([delete_op(_K), txn_op([], [], [put_op(_K)])], False, id="TXN-23: failure branch"),
        pytest.param([delete_op(_K), txn_op([], [txn_op([], [put_op(_K)])])], False, id="TXN-23: two levels"),
        pytest.param(
            [txn_op([], [delete_op(_K)]), txn_op([], [put_op(_K)])],
            False,
            id="TXN-23: delete of an earlier sibling",
        ),
        pytest.param(
            [txn_op([], [put_op(_K)]), txn_op([], [delete_op(_K)])],
            True,
            id="TXN-23: delete of a later sibling",
        ),
        pytest.param([txn_op([], [put_op(_K)]), put_op(_K)], False, id="TXN-24: put in a nested txn"),
        pytest.param([put_op(_K), txn_op([], [delete_op(_K)])], False, id="TXN-24: delete in a nested txn"),
        pytest.param([put_op(_K), txn_op([], [], [delete_op(*_ALL_K)])], False, id="TXN-24: in its failure branch"),
        pytest.param([txn_op([], [put_op(_K)], [put_op(_K)])], True, id="TXN-25: exclusive branches"),
        pytest.param(
            [txn_op([], [put_op(_K)]), txn_op([], [], [put_op(_K)])],
            False,
            id="TXN-25: two nested transactions",
        ),
        pytest.param(
            [txn_op([], [put_op(_K)], [delete_op(_K)])],
            True,
            id="TXN-25: put and delete in exclusive branches",
        ),
        pytest.param([delete_op(_K), delete_op(_K), delete_op(*_ALL_K)], True, id="TXN-26: deletes overlap"),
        pytest.param([delete_op(_K), txn_op([], [delete_op(_K)])], True, id="TXN-26: nested deletes overlap"),
        pytest.param([range_op(_K), put_op(_K), range_op(*_ALL_K)], True, id="TXN-26: ranges never conflict"),
    ],
)
def test_keys_written_twice(client: Client, prefix: bytes, ops: _Ops, fits: bool) -> None:
    """TXN-20 to TXN-26, in either branch."""
    ops = [_below(prefix, op) for op in ops]
    for branches in ({"success": ops}, {"failure": ops}):
        if fits:
            client.txn(**branches)  # type: ignore[arg-type]
        else:
            with refused(DUPLICATE_KEY):
                client.txn(**branches)  # type: ignore[arg-type]


def _below(prefix: bytes, op: rpc_pb2.RequestOp) -> rpc_pb2.RequestOp:
    """The operation on keys below the prefix. An open end stays open."""
    moved = rpc_pb2.RequestOp()
    moved.CopyFrom(op)
    if moved.HasField("request_txn"):
        nested = moved.request_txn
        for branch in (nested.success, nested.failure):
            changed = [_below(prefix, each) for each in branch]
            del branch[:]
            branch.extend(changed)
        return moved
    message = getattr(moved, moved.WhichOneof("request") or "")
    message.key = prefix + message.key
    if not moved.HasField("request_put") and message.range_end not in (b"", b"\x00"):
        message.range_end = prefix + message.range_end
    return moved


def test_all_keys_from_one_on_can_be_written_anew(client: Client, prefix: bytes) -> None:
    """TXN-22 does not see a delete without an end: it goes first, or last."""
    client.put(prefix + b"old")
    anew = client.txn(success=[delete_op(prefix, b"\x00"), put_op(prefix + b"new")])
    assert anew.responses[0].response_delete_range.deleted >= 1  # other tests' keys too
    assert [kv.key for kv in client.range(prefix, prefix_end(prefix)).kvs] == [prefix + b"new"]
    client.txn(success=[put_op(prefix + b"newer"), delete_op(prefix, b"\x00")])
    assert client.range(prefix, prefix_end(prefix)).count == 0


@pytest.mark.beyond_etcd("3.5.1 ends with a panic")
@pytest.mark.parametrize("kept", ["ignore_value", "ignore_lease"])
def test_what_was_deleted_before_cannot_be_kept(client: Client, prefix: bytes, kept: str) -> None:
    """PUT-03, TXN-42: and nothing at all happens."""
    before = client.put(prefix + b"k", b"v").header.revision
    keep = put_op(prefix + b"k", b"" if kept == "ignore_value" else b"v", **{kept: True})
    for ops in (
        [delete_op(prefix, b"\x00"), keep],
        [txn_op([], [delete_op(prefix, b"\x00")]), txn_op([], [keep])],
    ):
        with refused(KEY_NOT_FOUND):
            client.txn(success=ops)
    assert client.revision() == before
    assert client.txn(success=[keep, delete_op(prefix, b"\x00")]).header.revision == before + 1


def test_branches_are_checked_apart(client: Client, prefix: bytes) -> None:
    """TXN-20: the same key in both branches is no duplicate."""
    client.txn(success=[put_op(prefix)], failure=[put_op(prefix), delete_op(prefix + b"x")])


def test_fields_are_checked_before_overlap(client: Client, prefix: bytes) -> None:
    """TXN-27."""
    twice = [put_op(prefix), put_op(prefix)]
    with refused(EMPTY_KEY):
        client.txn(success=twice, failure=[range_op(b"")])
    with refused(TOO_MANY_OPS):
        client.txn(success=twice, failure=[range_op(prefix)] * 129)


# --- compares -----------------------------------------------------------------------------------------------

_RESULTS: Final[dict[int, tuple[bool, bool, bool]]] = {
    _Compare.EQUAL: (False, True, False),
    _Compare.GREATER: (False, False, True),
    _Compare.LESS: (True, False, False),
    _Compare.NOT_EQUAL: (True, False, True),
}
"""Result -> does it hold when the key's field is less than, equal to, greater than what is given?"""


@pytest.mark.parametrize("result", _RESULTS, ids=_Compare.CompareResult.Name)
@pytest.mark.parametrize("field", ["version", "create_revision", "mod_revision", "lease"])
def test_numbers_compare(client: Client, prefix: bytes, field: str, result: int) -> None:
    """TXN-30, TXN-34: signed 64-bit."""
    lease = client.grant(60).ID
    client.put(prefix, b"1")
    client.put(prefix, b"2", lease=lease)
    held = getattr(client.only(prefix), field)
    target = {"create_revision": "CREATE", "mod_revision": "MOD"}.get(field, field.upper())
    for given, holds in zip((held + 1, held, held - 1), _RESULTS[result], strict=True):
        compare = _Compare(key=prefix, target=target, result=result, **{field: given})  # type: ignore[arg-type]
        assert client.holds(compare) is holds
    negative = _Compare(key=prefix, target=target, result=result, **{field: -1})  # type: ignore[arg-type]
    assert client.holds(negative) is _RESULTS[result][2]
    client.revoke(lease)


@pytest.mark.parametrize("result", _RESULTS, ids=_Compare.CompareResult.Name)
def test_values_compare_as_bytes(client: Client, prefix: bytes, result: int) -> None:
    """TXN-34."""
    client.put(prefix, b"\x80")
    for given, holds in zip((b"\x80\x00", b"\x80", b"\x7f\xff"), _RESULTS[result], strict=True):
        compare = _Compare(key=prefix, target=_Compare.VALUE, result=result, value=given)  # type: ignore[arg-type]
        assert client.holds(compare) is holds


@pytest.mark.parametrize("result", _RESULTS, ids=_Compare.CompareResult.Name)
@pytest.mark.parametrize("range_end", [b"", b"\xff"], ids=["key", "TXN-33: empty interval"])
def test_a_missing_key(client: Client, prefix: bytes, result: int, range_end: bytes) -> None:
    """TXN-31, TXN-32: zero for all numbers; no operator holds for its value."""
    end = prefix + range_end if range_end else b""
    for target in ("VERSION", "CREATE", "MOD", "LEASE"):
        compare = _Compare(key=prefix, range_end=end, target=target, result=result)  # type: ignore[arg-type]
        assert client.holds(compare) is _RESULTS[result][1]
    for value in (b"", b"x"):
        compare = _Compare(
            key=prefix,
            range_end=end,
            target=_Compare.VALUE,
            result=result,  # type: ignore[arg-type]
            value=value,
        )
        assert not client.holds(compare)


def test_a_range_compares_every_key(client: Client, prefix: bytes) -> None:
    """TXN-33."""
    for tail, value in ((b"a", b"same"), (b"b", b"same"), (b"c", b"other")):
        client.put(prefix + tail, value)

    def same(end: bytes) -> bool:
        return client.holds(_Compare(key=prefix, range_end=prefix + end, target=_Compare.VALUE, value=b"same"))

    assert [same(b"b"), same(b"c"), same(b"d")] == [True, True, False]
    everything = _Compare(key=prefix, range_end=b"\x00", target=_Compare.VERSION, result=_Compare.GREATER)
    assert client.holds(everything)


def test_an_operand_of_another_field_counts_as_zero(client: Client, prefix: bytes) -> None:
    """TXN-35."""
    client.put(prefix, b"")
    assert client.holds(_Compare(key=prefix, target=_Compare.LEASE, version=7))
    assert client.holds(_Compare(key=prefix, target=_Compare.VALUE, version=7))
    assert not client.holds(_Compare(key=prefix, target=_Compare.VERSION, value=b"1"))


# --- what operations see ------------------------------------------------------------------------------------


def test_ranges_see_earlier_writes(client: Client, prefix: bytes) -> None:
    """TXN-41, TXN-46, TXN-50, TXN-51."""
    client.put(prefix + b"a", b"old")
    before = client.revision()
    answer = client.txn(
        success=[
            range_op(prefix, prefix_end(prefix)),
            delete_op(prefix + b"x"),
            put_op(prefix + b"b", b"new"),
            range_op(prefix, prefix_end(prefix)),
            range_op(prefix, prefix_end(prefix), revision=before),
            delete_op(prefix + b"a", prev_kv=True),
            delete_op(prefix + b"a"),
            range_op(prefix, prefix_end(prefix), limit=1),
        ]
    )
    steps = answer.responses
    seen = {step: [kv.value for kv in steps[step].response_range.kvs] for step in (0, 3, 4, 7)}
    assert seen == {0: [b"old"], 3: [b"old", b"new"], 4: [b"old"], 7: [b"new"]}
    assert [kv.value for kv in steps[5].response_delete_range.prev_kvs] == [b"old"]
    assert [steps[step].response_delete_range.deleted for step in (1, 5, 6)] == [0, 1, 0]
    assert answer.header.revision == before + 1
    assert [_header(step).revision - before for step in steps] == [0, 0, 1, 1, 1, 1, 1, 1]
    kv = steps[3].response_range.kvs[1]
    assert (kv.create_revision, kv.mod_revision, kv.version) == (before + 1, before + 1, 1)


def _header(step: rpc_pb2.ResponseOp) -> rpc_pb2.ResponseHeader:
    response = getattr(step, step.WhichOneof("response") or "")
    assert response.HasField("header")  # TXN-52
    header = response.header
    assert isinstance(header, rpc_pb2.ResponseHeader)
    return header


def test_headers_of_operations_carry_the_revision_alone(client: Client, prefix: bytes) -> None:
    """TXN-51, TXN-52, TXN-53."""
    ops = [put_op(prefix), delete_op(prefix + b"x"), range_op(prefix), txn_op([], [put_op(prefix + b"n")])]
    answer = client.txn(success=ops)
    headers = [_header(step) for step in answer.responses]
    assert {(header.cluster_id, header.member_id, header.raft_term) for header in headers} == {(0, 0, 0)}
    revision = answer.header.revision
    assert [header.revision for header in headers] == [revision, revision, revision, 0]
    (nested,) = answer.responses[3].response_txn.responses
    assert _header(nested).revision == revision


def test_nested_compares_look_at_the_state_before(client: Client, prefix: bytes) -> None:
    """TXN-40."""
    missing = _Compare(key=prefix, target=_Compare.VERSION, version=0)
    answer = client.txn(
        [missing], [put_op(prefix, b"1"), txn_op([missing], [range_op(prefix)], [put_op(prefix + b"wrong")])]
    )
    nested = answer.responses[1].response_txn
    assert nested.succeeded
    assert [kv.value for kv in nested.responses[0].response_range.kvs] == [b"1"]
    again = client.txn([], [txn_op([missing], [], [txn_op([missing], [], [put_op(prefix, b"2")])])])
    inner = again.responses[0].response_txn
    assert (inner.succeeded, inner.responses[0].response_txn.succeeded) == (False, False)
    assert client.only(prefix).value == b"2"


def test_previous_values_inside(client: Client, prefix: bytes) -> None:
    """TXN-54, PUT-05."""
    client.put(prefix, b"1")
    answer = client.txn(success=[put_op(prefix, b"2", prev_kv=True), put_op(prefix + b"n", prev_kv=True)])
    assert answer.responses[0].response_put.prev_kv.value == b"1"
    assert not answer.responses[1].response_put.HasField("prev_kv")


# --- what aborts the whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("lease", LEASE_NOT_FOUND),
        ("ignore_value", KEY_NOT_FOUND),
        ("ignore_lease", KEY_NOT_FOUND),
        ("future", FUTURE),
        ("next", FUTURE),
        ("compacted", COMPACTED),
    ],
)
def test_checks_on_the_chosen_path(
    client: Client, prefix: bytes, kind: str, status: tuple[Code, str], nested: bool
) -> None:
    """TXN-42, TXN-43, TXN-44: nothing happens, unless the operation is on the branch that is not taken."""
    client.put(prefix + b"k")
    before = client.put(prefix + b"k").header.revision
    client.compact(before)
    bad = {
        "lease": put_op(prefix + b"b", lease=4711),
        "ignore_value": put_op(prefix + b"b", b"", ignore_value=True),
        "ignore_lease": put_op(prefix + b"b", ignore_lease=True),
        "future": range_op(prefix, revision=before + 2),
        "next": range_op(prefix, revision=before + 1),
        "compacted": range_op(prefix, revision=before - 1),
    }[kind]
    op = txn_op([], [bad]) if nested else bad
    with refused(status):
        client.txn(success=[put_op(prefix + b"a"), op])
    assert client.revision() == before
    assert client.range(prefix + b"a").count == 0
    untaken = [txn_op([], [], [bad])] if nested else []
    answer = client.txn(success=[put_op(prefix + b"a"), *untaken], failure=[op])
    assert (answer.succeeded, answer.header.revision) == (True, before + 1)


@pytest.mark.beyond_etcd("3.5 checks all puts before all ranges")
def test_the_first_that_fails_is_the_reason(client: Client, prefix: bytes) -> None:
    """TXN-42, in the order of the whole tree."""
    future, no_lease = range_op(prefix, revision=1 << 62), put_op(prefix, lease=4711)
    with refused(FUTURE):
        client.txn(success=[future, txn_op([], [no_lease])])
    with refused(LEASE_NOT_FOUND):
        client.txn(success=[txn_op([], [no_lease]), future])


def test_the_key_comes_before_the_lease(client: Client, prefix: bytes) -> None:
    """TXN-42; in a put of its own it is the other way round (PUT-02, PUT-03)."""
    with refused(KEY_NOT_FOUND):
        client.txn(success=[put_op(prefix, b"", lease=4711, ignore_value=True)])
    with refused(LEASE_NOT_FOUND):
        client.put(prefix, b"", lease=4711, ignore_value=True)


# --- read-only ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializable", [False, True])
def test_read_only(client: Client, prefix: bytes, serializable: bool) -> None:
    """TXN-60, TXN-61, TXN-51."""
    first = client.put(prefix, b"1").header.revision
    before = client.put(prefix, b"2").header.revision
    index = client.status().raftIndex
    now = range_op(prefix, serializable=serializable)
    past = range_op(prefix, serializable=serializable, revision=first)
    answer = client.txn([_Compare(key=prefix, target=_Compare.VERSION, version=2)], [now, past], [now])
    assert (answer.succeeded, answer.header.revision) == (True, before)
    assert [step.response_range.kvs[0].value for step in answer.responses] == [b"2", b"1"]
    assert [_header(step).revision for step in answer.responses] == [before, before]
    assert client.status().raftIndex == index
    with refused(FUTURE):
        client.txn(success=[range_op(prefix, serializable=serializable, revision=before + 1)])


def test_a_write_transaction_that_changes_nothing(client: Client, prefix: bytes) -> None:
    """TXN-60, TXN-63: it goes through the log; a nested one that only reads does, too."""
    before = client.revision()
    for op in (delete_op(prefix), txn_op([], [range_op(prefix)])):
        index = client.status().raftIndex
        assert client.txn(success=[op]).header.revision == before
        assert client.status().raftIndex == index + 1
