"""What is refused before it is proposed: sizes, fields, and keys written twice (TXN-02 to TXN-27)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.api import errors
from raftkv.api.errors import Status
from raftkv.api.txn_check import _check_overlap, _Intervals, check_txn, is_read_only, is_serializable
from raftkv.pb import rpc_pb2

Op = rpc_pb2.RequestOp
Txn = rpc_pb2.TxnRequest

KEYS = [b"a", b"a\x00", b"ab", b"b", b"c", b"\xff"]
"""With direct neighbours, because an interval's end is exclusive."""
ENDS = [b"", b"\x00", b"a", b"a\x00", b"b", b"c", b"\xff"]


def put(key: bytes) -> Op:
    return Op(request_put=rpc_pb2.PutRequest(key=key))


def delete(key: bytes, range_end: bytes = b"") -> Op:
    return Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end))


def read(key: bytes = b"a", **options: bool) -> Op:
    return Op(request_range=rpc_pb2.RangeRequest(key=key, **options))


def nested(success: list[Op] | None = None, failure: list[Op] | None = None) -> Op:
    return Op(request_txn=Txn(success=success or [], failure=failure or []))


# --- intervals --------------------------------------------------------------------------------------------------------


def covers(key: bytes, range_end: bytes, candidate: bytes) -> bool:
    """An end of one zero byte is no end everywhere else (KV 2.2); this check takes it as it stands, as etcd's does."""
    return candidate == key if range_end == b"" else key <= candidate < range_end


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(ENDS)), max_size=8), st.integers(0, 8))
def test_intervals_hold_the_keys_of_all_that_were_added(added: list[tuple[bytes, bytes]], split: int) -> None:
    """Whether added one by one, or some as a set of their own."""
    intervals, others = _Intervals(), _Intervals()
    for key, range_end in added[:split]:
        intervals.add(key, range_end)
    for key, range_end in added[split:]:
        others.add(key, range_end)
    intervals.add_all(others)

    for candidate in KEYS + ENDS + [b"\xff\xff"]:
        assert (candidate in intervals) == any(covers(*each, candidate) for each in added), candidate
    ends = intervals._ends
    assert None not in ends[:-1]
    assert all(end is not None and end < start for end, start in zip(ends, intervals._starts[1:], strict=False))


# --- keys written twice -----------------------------------------------------------------------------------------------


def slow_check(txn: Txn) -> Status | None:
    """TXN-20 to TXN-27, rule by rule over lists."""
    collides = _collides(txn.success) or _collides(txn.failure)
    return errors.DUPLICATE_KEY if collides else None


def _collides(level: list[Op]) -> bool:
    puts = [op.request_put.key for op in level if op.HasField("request_put")]
    deletes = [op.request_delete_range for op in level if op.HasField("request_delete_range")]
    inner = [op.request_txn for op in level if op.HasField("request_txn")]
    if any(_collides(txn.success) or _collides(txn.failure) for txn in inner):
        return True
    if len(puts) != len(set(puts)):
        return True  # TXN-21
    if _any_deleted(puts, deletes):
        return True  # TXN-22
    for at, txn in enumerate(inner):
        nested_puts, nested_deletes = _written(txn)
        if _any_deleted(nested_puts, deletes):
            return True  # TXN-23: by an enclosing level
        for earlier in inner[:at]:
            earlier_puts, earlier_deletes = _written(earlier)
            if _any_deleted(nested_puts, earlier_deletes):
                return True  # TXN-23: by an earlier sibling
            if set(nested_puts) & set(earlier_puts):
                return True  # TXN-25
        if set(puts) & set(nested_puts) or _any_deleted(puts, nested_deletes):
            return True  # TXN-24
    return False


def _any_deleted(keys: list[bytes], deletes: list[rpc_pb2.DeleteRangeRequest]) -> bool:
    return any(covers(delete.key, delete.range_end, key) for key in keys for delete in deletes)


def _written(txn: Txn) -> tuple[list[bytes], list[rpc_pb2.DeleteRangeRequest]]:
    """All that is put and deleted in either branch, however deep."""
    puts: list[bytes] = []
    deletes: list[rpc_pb2.DeleteRangeRequest] = []
    for op in [*txn.success, *txn.failure]:
        if op.HasField("request_put"):
            puts.append(op.request_put.key)
        elif op.HasField("request_delete_range"):
            deletes.append(op.request_delete_range)
        elif op.HasField("request_txn"):
            inner_puts, inner_deletes = _written(op.request_txn)
            puts += inner_puts
            deletes += inner_deletes
    return puts, deletes


def txns(depth: int) -> st.SearchStrategy[Txn]:
    leaves = st.builds(put, st.sampled_from(KEYS)) | st.builds(delete, st.sampled_from(KEYS), st.sampled_from(ENDS))
    ops = leaves | st.just(read())
    if depth:
        ops |= txns(depth - 1).map(lambda txn: Op(request_txn=txn))
    branch = st.lists(ops, max_size=3)
    return st.builds(lambda success, failure: Txn(success=success, failure=failure), branch, branch)


@settings(max_examples=400, deadline=None)
@given(txns(depth=2))
def test_overlap_is_decided_as_the_rules_say(txn: Txn) -> None:
    """TXN-20 to TXN-27."""
    assert _check_overlap(txn) == slow_check(txn)


FINE, TWICE = None, errors.DUPLICATE_KEY


@pytest.mark.parametrize(
    ("ops", "verdict"),
    [
        pytest.param([put(b"a"), put(b"a")], TWICE, id="21 put twice"),
        pytest.param([delete(b"a", b"b"), put(b"a")], TWICE, id="22 delete, then put"),
        pytest.param([put(b"a"), delete(b"a", b"b")], TWICE, id="22 put, then delete"),
        pytest.param([put(b"b"), delete(b"a", b"b")], FINE, id="22 the end is not deleted"),
        pytest.param([put(b"c"), delete(b"b", b"\x00")], FINE, id="22 without an end"),
        pytest.param([put(b"b"), delete(b"b", b"a")], FINE, id="22 an empty interval"),
        pytest.param([delete(b"a"), nested([], [put(b"a")])], TWICE, id="23 enclosing delete"),
        pytest.param([nested([put(b"a")]), delete(b"a")], TWICE, id="23 enclosing delete that comes later"),
        pytest.param([delete(b"a"), nested([nested([put(b"a")])])], TWICE, id="23 two levels up"),
        pytest.param([nested([delete(b"a")]), nested([put(b"a")])], TWICE, id="23 earlier sibling"),
        pytest.param([nested([put(b"a")]), nested([delete(b"a")])], FINE, id="23 later sibling"),
        pytest.param([put(b"a"), nested([], [put(b"a")])], TWICE, id="24 put below"),
        pytest.param([nested([delete(b"a")]), put(b"a")], TWICE, id="24 deleted below"),
        pytest.param([nested([put(b"a")], [put(b"a")])], FINE, id="25 branches exclude each other"),
        pytest.param([nested([put(b"a")], [delete(b"a")])], FINE, id="25 put or delete"),
        pytest.param([nested([put(b"a")]), nested([], [put(b"a")])], TWICE, id="25 two nested transactions"),
        pytest.param([delete(b"a"), delete(b"a"), delete(b"a", b"c")], FINE, id="26 deletes overlap"),
        pytest.param([read(b"a"), put(b"a"), read(b"a")], FINE, id="26 ranges never conflict"),
    ],
)
def test_overlap_rule_by_rule(ops: list[Op], verdict: Status | None) -> None:
    for txn in (Txn(success=ops), Txn(failure=ops)):
        assert check_txn(txn, 128) == slow_check(txn) == verdict


# --- sizes and fields -------------------------------------------------------------------------------------------------

_COMPARE = rpc_pb2.Compare(key=b"k")


@pytest.mark.parametrize("part", ["compare", "success", "failure"])
def test_each_list_may_have_as_many_as_the_limit(part: str) -> None:
    """TXN-10."""
    item = _COMPARE if part == "compare" else read()
    assert check_txn(Txn(**{part: [item] * 4}), max_ops=4) is None
    assert check_txn(Txn(**{part: [item] * 5}), max_ops=4) == errors.TOO_MANY_OPS


def test_a_nested_transaction_has_what_its_parent_leaves() -> None:
    """TXN-11: the limit less the parent's own longest list; siblings do not add up."""

    def within(levels: list[int]) -> Op:
        rest = levels[1:]
        return nested([read()] * (levels[0] - bool(rest)) + ([within(rest)] if rest else []))

    assert check_txn(Txn(success=[within([3])]), max_ops=4) is None
    assert check_txn(Txn(success=[within([4])]), max_ops=4) == errors.TOO_MANY_OPS
    assert check_txn(Txn(success=[within([2]), within([2])]), max_ops=4) is None
    assert check_txn(Txn(success=[within([1, 2])]), max_ops=4) is None
    assert check_txn(Txn(success=[within([1, 3])]), max_ops=4) == errors.TOO_MANY_OPS
    assert check_txn(Txn(success=[within([2])], compare=[_COMPARE] * 3), max_ops=4) == errors.TOO_MANY_OPS


BAD_OPS = [
    (Op(), errors.KEY_NOT_FOUND),
    (put(b""), errors.EMPTY_KEY),
    (delete(b""), errors.EMPTY_KEY),
    (read(b""), errors.EMPTY_KEY),
    (Op(request_put=rpc_pb2.PutRequest(key=b"k", value=b"v", ignore_value=True)), errors.VALUE_PROVIDED),
    (Op(request_put=rpc_pb2.PutRequest(key=b"k", lease=1, ignore_lease=True)), errors.LEASE_PROVIDED),
    (Op(request_range=rpc_pb2.RangeRequest(key=b"k", sort_order=3)), errors.INVALID_SORT_OPTION),  # type: ignore[arg-type]
    (Op(request_range=rpc_pb2.RangeRequest(key=b"k", sort_target=5)), errors.INVALID_SORT_OPTION),  # type: ignore[arg-type]
    (Op(request_txn=Txn(compare=[rpc_pb2.Compare()])), errors.EMPTY_KEY),
]


@pytest.mark.parametrize(("op", "refusal"), BAD_OPS)
def test_every_operation_of_both_branches_is_checked_however_deep(op: Op, refusal: Status) -> None:
    """TXN-02, TXN-03; before overlaps (TXN-27)."""
    for branch in (Txn(success=[op]), Txn(failure=[op]), Txn(success=[nested([], [op])])):
        assert check_txn(branch, 128) == refusal
    assert check_txn(Txn(success=[put(b"a"), put(b"a")], failure=[op]), 128) == refusal


def test_a_compare_needs_a_key() -> None:
    """TXN-36."""
    assert check_txn(Txn(compare=[rpc_pb2.Compare()]), 128) == errors.EMPTY_KEY


# --- read-only --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("txn", "read_only"),
    [
        (Txn(), True),
        (Txn(success=[read()], failure=[read()]), True),
        (Txn(success=[read()], failure=[put(b"a")]), False),
        (Txn(success=[delete(b"a")]), False),
        (Txn(success=[nested([read()])]), False),
    ],
)
def test_read_only_is_plain_ranges_in_both_branches(txn: Txn, read_only: bool) -> None:
    """TXN-60: a nested transaction goes through the log even if it only reads."""
    assert is_read_only(txn) is read_only


def test_serializable_only_if_every_range_is_and_there_is_one() -> None:
    """TXN-61, TXN-62."""
    local, agreed = read(serializable=True), read()
    assert is_serializable(Txn(success=[local], failure=[local]))
    assert not is_serializable(Txn(success=[local], failure=[agreed]))
    assert not is_serializable(Txn())
