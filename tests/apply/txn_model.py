"""What a transaction does, told once more: TXN-30 to TXN-54 over plain dicts, slow and to the letter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raftkv.lease import LeaseNotFound
from raftkv.mvcc import CompactedError, FutureRevisionError, KeyNotFoundError
from raftkv.pb import kv_pb2, rpc_pb2

Compare = rpc_pb2.Compare
KeyValue = kv_pb2.KeyValue
State = dict[bytes, KeyValue]


@dataclass
class Model:
    revision: int = 1
    compacted: int = -1
    leases: set[int] = field(default_factory=set)
    past: dict[int, State] = field(default_factory=lambda: {1: {}})
    """Main revision -> all live keys then."""

    def txn(self, request: rpc_pb2.TxnRequest) -> tuple[int, rpc_pb2.TxnResponse] | type[Exception]:
        """(revision for the top header, response without it); or what it is refused with, and nothing has changed."""
        before = self.past[self.revision]
        plan = _plan(before, request)
        refusal = self._refusal(before, plan)
        if refusal is not None:
            return refusal
        run = _Run(self, dict(before))
        response = run.txn(plan)
        if run.changed:
            self.revision += 1
            self.past[self.revision] = run.now
        return self.revision, response

    def _refusal(self, before: State, plan: _Plan) -> type[Exception] | None:
        """TXN-42 to TXN-44. TXN-43: the plan has nothing of a branch that is not taken."""
        left = set(before)
        for name, op in plan.path():
            if name == "request_delete_range":
                left -= {kv.key for kv in within(before, op.key, op.range_end)}
            elif name == "request_put":
                if (op.ignore_value or op.ignore_lease) and op.key not in left:
                    return KeyNotFoundError
                if op.lease != 0 and op.lease not in self.leases:
                    return LeaseNotFound
            else:
                if op.revision > self.revision:
                    return FutureRevisionError
                if 0 < op.revision < self.compacted:
                    return CompactedError
        return None


@dataclass
class _Plan:
    """The branches that the compares have chosen."""

    succeeded: bool
    ops: list[tuple[str, Any]]

    def path(self) -> Iterator[tuple[str, Any]]:
        for name, op in self.ops:
            if name == "request_txn":
                yield from op.path()
            else:
                yield name, op


def _plan(before: State, request: rpc_pb2.TxnRequest) -> _Plan:
    """TXN-40: everything is compared with the state before the transaction."""
    succeeded = True
    for compare in request.compare:
        if not _is_true(before, compare):
            succeeded = False
    ops = []
    for op in request.success if succeeded else request.failure:
        name = str(op.WhichOneof("request"))
        ops.append((name, _plan(before, op.request_txn) if name == "request_txn" else getattr(op, name)))
    return _Plan(succeeded, ops)


def _is_true(before: State, compare: rpc_pb2.Compare) -> bool:
    found = within(before, compare.key, compare.range_end)
    if not found:
        if compare.target == Compare.VALUE:
            return False  # TXN-32
        return _compares(compare, KeyValue())  # TXN-31, TXN-33
    return all(_compares(compare, kv) for kv in found)


def _compares(compare: rpc_pb2.Compare, kv: KeyValue) -> bool:
    """TXN-30, TXN-34, TXN-35."""
    left: Any
    right: Any
    if compare.target == Compare.VERSION:
        left, right = kv.version, compare.version
    elif compare.target == Compare.CREATE:
        left, right = kv.create_revision, compare.create_revision
    elif compare.target == Compare.MOD:
        left, right = kv.mod_revision, compare.mod_revision
    elif compare.target == Compare.LEASE:
        left, right = kv.lease, compare.lease
    elif compare.target == Compare.VALUE:
        left, right = kv.value, compare.value
    else:
        left = right = 0
    if compare.result == Compare.EQUAL:
        return bool(left == right)
    if compare.result == Compare.GREATER:
        return bool(left > right)
    if compare.result == Compare.LESS:
        return bool(left < right)
    if compare.result == Compare.NOT_EQUAL:
        return bool(left != right)
    return True


def within(state: State, key: bytes, range_end: bytes) -> list[KeyValue]:
    """The live keys of an interval (KV 2.2), in key order."""
    if range_end == b"":
        return [state[key]] if key in state else []
    return [state[each] for each in sorted(state) if each >= key and (range_end == b"\x00" or each < range_end)]


class _Run:
    """The third step. `now` is the state inside the transaction."""

    def __init__(self, model: Model, now: State) -> None:
        self._model = model
        self.now = now
        self.changed = False

    @property
    def _revision(self) -> int:
        """TXN-51."""
        return self._model.revision + 1 if self.changed else self._model.revision

    def txn(self, plan: _Plan) -> rpc_pb2.TxnResponse:
        response = rpc_pb2.TxnResponse(succeeded=plan.succeeded)
        for name, op in plan.ops:
            answer = response.responses.add()
            if name == "request_put":
                answer.response_put.CopyFrom(self._put(op))
            elif name == "request_delete_range":
                answer.response_delete_range.CopyFrom(self._delete(op))
            elif name == "request_range":
                answer.response_range.CopyFrom(self._range(op))
            else:
                answer.response_txn.CopyFrom(self.txn(op))
                answer.response_txn.header.SetInParent()  # there, and empty (TXN-53)
        return response

    def _put(self, put: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        old = self.now.get(put.key)
        self.changed = True
        main = self._revision
        self.now[put.key] = KeyValue(
            key=put.key,
            create_revision=old.create_revision if old else main,
            mod_revision=main,
            version=old.version + 1 if old else 1,
            value=old.value if old and put.ignore_value else put.value,
            lease=old.lease if old and put.ignore_lease else put.lease,
        )
        response = rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(revision=main))
        if put.prev_kv and old:
            response.prev_kv.CopyFrom(old)
        return response

    def _delete(self, delete: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        gone = within(self.now, delete.key, delete.range_end)
        for kv in gone:
            del self.now[kv.key]
            self.changed = True
        response = rpc_pb2.DeleteRangeResponse(deleted=len(gone))
        response.header.revision = self._revision
        if delete.prev_kv:
            response.prev_kvs.extend(gone)
        return response

    def _range(self, query: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        """TXN-41; of a Range's options those that the model of the store leaves to transactions."""
        state = self._model.past[query.revision] if query.revision > 0 else self.now
        found = within(state, query.key, query.range_end)
        response = rpc_pb2.RangeResponse(count=len(found))
        response.header.revision = self._revision
        if not query.count_only:
            response.more = 0 < query.limit < len(found)
            response.kvs.extend(found[: query.limit] if query.limit > 0 else found)
        return response
