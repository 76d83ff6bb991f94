"""Transactions beside a model that follows TXN-30 to TXN-54 to the letter."""

from __future__ import annotations

from typing import Any

import pytest
from apply_support import Machine, compact, delete, grant, outcome, put, raw, txn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from txn_model import Model

from raftkv.api.txn_check import check_txn, is_read_only
from raftkv.apply import ReadOnlyTxn
from raftkv.apply import read_only_txn as module
from raftkv.mvcc import MvccError
from raftkv.mvcc import scan as scan_module
from raftkv.pb import rpc_pb2

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"l" * 600])
ENDS = st.sampled_from([b"", b"", b"\x00", b"a", b"c", b"m"])
SMALL = st.integers(-1, 4)
VALUES = st.sampled_from([b"", b"1", b"2"])
UNIONS: dict[str, st.SearchStrategy[Any]] = {
    "version": SMALL,
    "create_revision": SMALL,
    "mod_revision": SMALL,
    "lease": st.integers(0, 3),
    "value": VALUES,
}


@st.composite
def compares(draw: st.DrawFn) -> rpc_pb2.Compare:
    """Mostly with the operand that belongs to the target; targets and results that do not exist as well (TXN-35)."""
    target = draw(st.integers(0, 5))
    fitting = ["version", "create_revision", "mod_revision", "value", "lease", "version"][target]
    name = draw(st.sampled_from([fitting, fitting, fitting, *UNIONS]))
    return rpc_pb2.Compare(
        key=draw(KEYS),
        range_end=draw(ENDS),
        target=target,  # type: ignore[arg-type]
        result=draw(st.integers(0, 4)),  # type: ignore[arg-type]
        **{name: draw(UNIONS[name])},
    )


RANGES = st.builds(
    lambda **fields: rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(**fields)),
    key=KEYS,
    range_end=ENDS,
    revision=st.sampled_from([0, 0, 0, -1, 1, 2, 3, 4, 5]),
    limit=st.integers(0, 2),
    count_only=st.booleans(),
)
DELETES = st.builds(
    lambda **fields: rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(**fields)),
    key=KEYS,
    range_end=ENDS,
    prev_kv=st.booleans(),
)


@st.composite
def puts(draw: st.DrawFn) -> rpc_pb2.RequestOp:
    ignore_value, ignore_lease = draw(
        st.sampled_from([(False, False)] * 4 + [(True, False), (False, True), (True, True)])
    )
    request = rpc_pb2.PutRequest(
        key=draw(KEYS),
        value=b"" if ignore_value else draw(VALUES),
        lease=0 if ignore_lease else draw(st.sampled_from([0, 0, 1, 2, 3])),
        prev_kv=draw(st.booleans()),
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
    )
    return rpc_pb2.RequestOp(request_put=request)


def transactions(depth: int) -> st.SearchStrategy[rpc_pb2.TxnRequest]:
    ops = RANGES | puts() | DELETES
    if depth:
        ops |= transactions(depth - 1).map(lambda nested: rpc_pb2.RequestOp(request_txn=nested))
    branch = st.lists(ops, max_size=3)
    return st.builds(
        lambda compare, success, failure: rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure),
        st.lists(compares(), max_size=2),
        branch,
        branch,
    )


VALID = transactions(depth=2).filter(lambda request: check_txn(request, max_ops=128) is None)


def prepare(machine: Machine) -> Model:
    """Four revisions, the first compacted; leases 1 and 2, but not 3."""
    machine.reset()
    machine.apply(grant(1), grant(2))
    model = Model(leases={1, 2})
    for key, value, lease in ((b"a", b"1", 0), (b"b", b"2", 1), (b"a", b"2", 2)):
        op = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))
        machine.apply(put(key, value, lease=lease))
        model.txn(rpc_pb2.TxnRequest(success=[op]))
    machine.apply(compact(2))
    model.compacted = 2
    return model


def attached(machine: Machine) -> dict[int, list[bytes]]:
    return {lease: machine.lessor.keys(machine.backend.read(), lease) for lease in (1, 2)}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(requests=st.lists(VALID, min_size=1, max_size=4))
def test_transactions_do_what_the_rules_say(shared_machine: Machine, requests: list[rpc_pb2.TxnRequest]) -> None:
    """Result, every header in it, the keys left behind and the leases they hang on."""
    machine, model = shared_machine, prepare(shared_machine)
    for request in requests:
        expected = model.txn(request)
        result = machine.apply(txn(request))[0]
        if isinstance(expected, type):
            assert outcome(result) is expected
        else:
            assert not isinstance(result, Exception), repr(result)
            revision, body = result
            assert (revision, rpc_pb2.TxnResponse.FromString(body)) == expected
            assert body == raw(expected[1]), "spliced by hand, but protobuf's own bytes"
        state = model.past[model.revision]
        assert machine.store.current_revision == model.revision
        assert list(machine.read(b"\x00", b"\x00").kvs) == [state[key] for key in sorted(state)]
        hanging = {lease: sorted(key for key, kv in state.items() if kv.lease == lease) for lease in (1, 2)}
        assert attached(machine) == hanging


READ_ONLY = st.builds(
    lambda compare, success, failure: rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure),
    st.lists(compares(), max_size=2),
    st.lists(RANGES, max_size=3),
    st.lists(RANGES, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(request=READ_ONLY)
def test_a_read_only_transaction_answers_as_if_it_had_gone_through_the_log(
    shared_machine: Machine, request: rpc_pb2.TxnRequest
) -> None:
    """TXN-60: on a snapshot, without an entry."""
    machine, model = shared_machine, prepare(shared_machine)
    assert is_read_only(request)
    index = machine.applier.index
    expected = model.txn(request)
    if isinstance(expected, type):
        with pytest.raises(expected):
            begin_reading(machine, request)
    else:
        body = read_at_once(machine, request)
        assert rpc_pb2.TxnResponse.FromString(body) == expected[1]
        assert body == raw(expected[1])
    assert machine.applier.index == index


def begin_reading(machine: Machine, request: rpc_pb2.TxnRequest) -> ReadOnlyTxn:
    return ReadOnlyTxn(machine.store, machine.backend.read(), machine.lessor, request)


def read_at_once(machine: Machine, request: rpc_pb2.TxnRequest) -> bytes:
    scan = begin_reading(machine, request)
    while not scan.step():
        pass
    return b"".join(scan.pieces())


SOME_ORDER = st.fixed_dictionaries({"sort_order": st.integers(0, 2), "sort_target": st.integers(0, 4)})


@pytest.mark.parametrize(("slice_keys", "max_walks"), [(1, 8), (2, 1), (2000, 1)])
@settings(max_examples=30, deadline=None)
@given(request=READ_ONLY, orders=st.lists(SOME_ORDER, min_size=6, max_size=6))
def test_a_read_only_transaction_in_slices_is_of_one_state(
    slice_keys: int, max_walks: int, request: rpc_pb2.TxnRequest, orders: list[dict[str, Any]]
) -> None:
    """TXN-60: whatever is written, deleted and compacted between the slices."""
    machine = Machine()
    prepare(machine)
    for op, order in zip([*request.success, *request.failure], orders, strict=False):
        op.request_range.MergeFrom(rpc_pb2.RangeRequest(**order))
    try:
        wanted = read_at_once(machine, request)
    except MvccError:
        machine.close()
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "SLICE_KEYS", slice_keys)
        patch.setattr(module, "MAX_WALKS", max_walks)
        scan = begin_reading(machine, request)
        if not scan.step():
            scan.txn = machine.backend.pin().txn
            machine.apply(put(b"a", b"later"), put(b"aa", b"later"), delete(b"b"), put(b"new", b"later"))
            machine.apply(compact(machine.store.current_revision))
            while not scan.step():
                assert scan.expected_bytes >= scan.held_bytes
        assert b"".join(scan.pieces()) == wanted
        assert scan.held_bytes <= len(wanted)
    machine.close()


def test_headers_of_operations_tell_the_revision_as_it_grows(machine: Machine) -> None:
    """TXN-50 to TXN-53, spelled out: nothing changed yet, changed, and nested without a number."""
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k"))
    delete_nothing = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"none"))
    write = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
    nested = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=[read]))
    request = rpc_pb2.TxnRequest(success=[read, delete_nothing, nested, write, read, delete_nothing, nested])

    ((revision, body),) = machine.apply(txn(request))

    response = rpc_pb2.TxnResponse.FromString(body)
    assert revision == 2
    assert not response.HasField("header")
    answers = [getattr(each, str(each.WhichOneof("response"))) for each in response.responses]
    assert [each.header.revision for each in answers] == [1, 1, 0, 2, 2, 2, 0]
    assert all(each.HasField("header") for each in answers)
    inner = [answers[at].responses[0].response_range for at in (2, 6)]
    assert [(each.header.revision, each.count) for each in inner] == [(1, 0), (2, 1)]


def test_a_nested_compare_sees_the_state_before_the_transaction(machine: Machine) -> None:
    """TXN-40."""
    missing = rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VERSION, version=0)
    write = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
    nested = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(compare=[missing]))
    ((_, body),) = machine.apply(txn(rpc_pb2.TxnRequest(success=[write, nested])))
    assert rpc_pb2.TxnResponse.FromString(body).responses[1].response_txn.succeeded
