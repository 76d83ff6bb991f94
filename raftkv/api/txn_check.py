"""Is this transaction one that may be proposed? Size, fields, and keys written twice (TXN-02 to TXN-27).

Pure functions of the request. Order as in TXN-27: the whole tree's counts and fields first, then the overlap of the
success branch, then of the failure branch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from raftkv.api import errors
from raftkv.api.errors import Status
from raftkv.pb import rpc_pb2

_Range = rpc_pb2.RangeRequest


def check_range(request: rpc_pb2.RangeRequest) -> Status | None:
    """RNG-01."""
    if not request.key:
        return errors.EMPTY_KEY
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        return errors.INVALID_SORT_OPTION
    return None


_SORT_ORDERS: Final = frozenset(_Range.SortOrder.values())
_SORT_TARGETS: Final = frozenset(_Range.SortTarget.values())


def check_put(request: rpc_pb2.PutRequest) -> Status | None:
    """PUT-01."""
    if not request.key:
        return errors.EMPTY_KEY
    if request.ignore_value and request.value:
        return errors.VALUE_PROVIDED
    if request.ignore_lease and request.lease:
        return errors.LEASE_PROVIDED
    return None


def check_delete_range(request: rpc_pb2.DeleteRangeRequest) -> Status | None:
    return None if request.key else errors.EMPTY_KEY


def check_txn(txn: rpc_pb2.TxnRequest, max_ops: int) -> Status | None:
    """Everything that can be refused without looking at the store."""
    return _check_tree(txn, max_ops) or _check_overlap(txn)


def is_read_only(txn: rpc_pb2.TxnRequest) -> bool:
    """TXN-60: nothing but plain ranges in both branches."""
    return all(op.HasField("request_range") for branch in (txn.success, txn.failure) for op in branch)


def is_serializable(txn: rpc_pb2.TxnRequest) -> bool:
    """TXN-61; a transaction without operations is read linearizably, against the quirk TXN-62."""
    ranges = [op.request_range for branch in (txn.success, txn.failure) for op in branch]
    return bool(ranges) and all(each.serializable for each in ranges)


def _check_tree(txn: rpc_pb2.TxnRequest, max_ops: int) -> Status | None:
    count = max(len(txn.compare), len(txn.success), len(txn.failure))
    if count > max_ops:
        return errors.TOO_MANY_OPS
    for compare in txn.compare:
        if not compare.key:
            return errors.EMPTY_KEY
    for branch in (txn.success, txn.failure):
        for op in branch:
            refused = _check_op(op, max_ops - count)
            if refused is not None:
                return refused
    return None


def _check_op(op: rpc_pb2.RequestOp, ops_left: int) -> Status | None:
    """`ops_left` is the budget of a nested transaction (TXN-11)."""
    field = op.WhichOneof("request")
    if field is None:
        return errors.KEY_NOT_FOUND
    if field == "request_txn":
        return _check_tree(op.request_txn, ops_left)
    return _CHECKS[field](getattr(op, field))


_CHECKS: Final[dict[str, Callable[[Any], Status | None]]] = {
    "request_range": check_range,
    "request_put": check_put,
    "request_delete_range": check_delete_range,
}


# --- the same key written twice ---------------------------------------------------------------------------------------


class _Intervals:
    """A set of keys made of intervals, merged and sorted, so that a hostile transaction costs n log n, not n²."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        """Exclusive end of the interval with the same position in `_starts`. Disjoint, ascending."""

    def add(self, key: bytes, range_end: bytes) -> None:
        """An empty interval adds nothing. Nor does one without an end, range_end `\\0`: etcd's overlap check takes that
        for a key, which none is below, so that all keys from one on can be deleted and written anew in one go."""
        end = range_end or key + b"\x00"
        if end <= key:
            return
        first = bisect_right(self._starts, key)
        if first and self._ends[first - 1] >= key:
            first -= 1
            key = self._starts[first]
        last = first
        while last < len(self._starts) and self._starts[last] <= end:
            end = max(end, self._ends[last])
            last += 1
        self._starts[first:last], self._ends[first:last] = [key], [end]

    def add_all(self, other: _Intervals) -> None:
        for start, end in zip(other._starts, other._ends, strict=True):
            self.add(start, end)

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key)
        return bool(at) and key < self._ends[at - 1]


def _check_overlap(txn: rpc_pb2.TxnRequest) -> Status | None:
    for branch in (txn.success, txn.failure):
        if _written(branch) is None:
            return errors.DUPLICATE_KEY
    return None


def _written(branch: Sequence[rpc_pb2.RequestOp]) -> tuple[set[bytes], _Intervals] | None:
    """Keys put and intervals deleted when this branch runs, or None when two of them collide."""
    deletes = _Intervals()
    for op in branch:
        if op.HasField("request_delete_range"):
            deletes.add(op.request_delete_range.key, op.request_delete_range.range_end)
    puts: set[bytes] = set()
    for op in branch:
        if op.HasField("request_txn"):
            nested = _written_by_nested(op.request_txn)
            # A nested put must miss the deletes of this level and of earlier siblings (TXN-23), and every put of an
            # earlier sibling (TXN-25).
            if nested is None or any(key in deletes for key in nested[0]) or not puts.isdisjoint(nested[0]):
                return None
            puts |= nested[0]
            deletes.add_all(nested[1])
    for op in branch:
        if op.HasField("request_put"):
            key = op.request_put.key
            if key in puts or key in deletes:
                return None
            puts.add(key)
    return puts, deletes


def _written_by_nested(txn: rpc_pb2.TxnRequest) -> tuple[set[bytes], _Intervals] | None:
    """Both branches of a nested transaction together; they exclude each other, so they may collide (TXN-25)."""
    success, failure = _written(txn.success), _written(txn.failure)
    if success is None or failure is None:
        return None
    success[1].add_all(failure[1])
    return success[0] | failure[0], success[1]
