"""etcdserverpb.KV: check the request, hand its bytes on, answer.

Knows the shapes of requests and replies. How a write reaches the log, and when a read may be done, is the node's
affair; what a write does, `apply`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftkv.api.errors import refuse, status_of
from raftkv.api.txn_check import (
    check_delete_range,
    check_put,
    check_range,
    check_txn,
    is_read_only,
    is_serializable,
)
from raftkv.apply import PUT_OVERHEAD_BYTES, Kind, run_read_only_txn, txn_cost
from raftkv.backend import BackendError
from raftkv.mvcc import MvccError, RangeQuery
from raftkv.pb import rpc_pb2
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.backend import ReadPin
    from raftkv.mvcc import RangeScan
    from raftkv.rpc.service import Call

_parse_put = rpc_pb2.PutRequest.FromString
_parse_range = rpc_pb2.RangeRequest.FromString


class KV:
    __slots__ = ("_context", "_node", "_store")

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node
        self._store = context.node.store

    def service(self) -> Service:
        return (
            Service("etcdserverpb.KV")
            .unary("Range", self.range)
            .unary("Put", self.put)
            .unary("DeleteRange", self.delete_range)
            .unary("Txn", self.txn)
            .unary("Compact", self.compact)
        )

    # --- writes -------------------------------------------------------------------------------------------------------

    def put(self, call: Call, message: bytes) -> None:
        try:
            request = _parse_put(message)
        except Exception as damage:
            self._context.refuse_malformed(call, damage)
            return
        key = request.key
        if not self._node.quota.allows(PUT_OVERHEAD_BYTES + len(key) + len(request.value)):
            self._context.refuse_no_space(call)
            return
        # The common put, with neither flag, has nothing else that could be wrong with it.
        if not key or request.ignore_value or request.ignore_lease:
            refused = check_put(request)
            if refused is not None:
                refuse(call, refused)
                return
        self._context.propose(call, Kind.PUT, message)

    def delete_range(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.DeleteRangeRequest.FromString, message)
        if request is None:
            return
        refused = check_delete_range(request)
        if refused is not None:
            refuse(call, refused)
        elif not self._node.space.room_to_delete(request.key, request.range_end):
            self._context.refuse_no_space(call)
        else:
            self._context.propose(call, Kind.DELETE_RANGE, message)

    def txn(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.TxnRequest.FromString, message)
        if request is None:
            return
        # Before any other validation (AL-23).
        if not self._node.quota.allows(txn_cost(request)):
            self._context.refuse_no_space(call)
            return
        refused = check_txn(request, self._node.config.max_txn_ops)
        if refused is not None:
            refuse(call, refused)
        elif not is_read_only(request):
            self._context.propose(call, Kind.TXN, message)
        elif is_serializable(request):
            self._read_txn((call, request), None)
        else:
            self._node.linearizable(self._read_txn, (call, request))

    def compact(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.CompactionRequest.FromString, message)
        if request is None:
            return
        if request.physical:
            self._context.propose(call, Kind.COMPACT, message, self._finish_physical)
        else:
            self._context.propose(call, Kind.COMPACT, message)

    def _finish_physical(self, call: Call, result: Any) -> None:
        """The reply waits until this member has deleted what the compaction made unreadable (CMP-06)."""
        if type(result) is tuple:
            self._node.compactor.when_finished(lambda: self._context.finish(call, result))
        else:
            self._context.finish(call, result)

    # --- reads --------------------------------------------------------------------------------------------------------

    def range(self, call: Call, message: bytes) -> None:
        try:
            request = _parse_range(message)
        except Exception as damage:
            self._context.refuse_malformed(call, damage)
            return
        refused = check_range(request)
        if refused is not None:
            refuse(call, refused)
        elif request.serializable:
            self._read((call, request), None)
        else:
            self._node.linearizable(self._read, (call, request))

    def _read(self, context: tuple[Call, rpc_pb2.RangeRequest], error: Exception | None) -> None:
        call, request = context
        if error is not None:
            refuse(call, status_of(error))
            return
        store, backend = self._store, self._node.backend
        header = self._context.header(store.current_revision)
        try:
            query = RangeQuery.from_request(request)
            if query.point:
                call.reply(header + store.range(backend.read(), query).body)
                return
            scan = store.scan(backend.read(), query)
        except MvccError as refusal:
            refuse(call, status_of(refusal))
            return
        if scan.step():  # most fit into one slice
            call.reply(header + scan.result().body)
            return
        try:
            pin = backend.pin()
        except BackendError as failure:
            refuse(call, status_of(failure))
            return
        scan.txn = pin.txn  # the same state: nothing was written since the first slice
        self._node.slices.add(LongRange(call, header, scan, pin))

    def _read_txn(self, context: tuple[Call, rpc_pb2.TxnRequest], error: Exception | None) -> None:
        call, request = context
        if error is not None:
            refuse(call, status_of(error))
            return
        node = self._node
        revision = self._store.current_revision
        try:
            body = run_read_only_txn(self._store, node.backend.read(), node.lessor, request)
        except MvccError as refusal:
            refuse(call, status_of(refusal))
            return
        call.reply(self._context.header(revision) + body)


class LongRange:
    """A range that is read in slices on a snapshot of its own. The header's revision is that of the snapshot (G-13)."""

    __slots__ = ("_call", "_header", "_pin", "_scan")

    def __init__(self, call: Call, header: bytes, scan: RangeScan, pin: ReadPin) -> None:
        self._call = call
        self._header = header
        self._scan = scan
        self._pin = pin

    def step(self) -> bool:
        if self._call.cancelled:  # nobody waits: let the snapshot's pages go (RNG-20)
            self._pin.close()
            return False
        if not self._scan.step():
            return True
        self._pin.close()
        self._call.reply(self._header + self._scan.result().body)
        return False
