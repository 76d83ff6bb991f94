"""etcdserverpb.KV: check the request, hand its bytes on, answer.

Knows the shapes of requests and replies. How a write reaches the log, and when a read may be done, is the node's
affair; what a write does, `apply`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raftkv.api.errors import refuse, status_of
from raftkv.api.range_stream import RangeStream
from raftkv.api.txn_check import (
    check_delete_range,
    check_put,
    check_range,
    check_txn,
    is_read_only,
    is_serializable,
)
from raftkv.apply import PUT_OVERHEAD_BYTES, Kind, run_read_only_txn, txn_cost
from raftkv.apply.access import Caller
from raftkv.apply.access import check_range as check_range_access
from raftkv.apply.access import check_txn as check_txn_access
from raftkv.backend import BackendError
from raftkv.mvcc import MvccError, RangeQuery
from raftkv.pb import rpc_pb2
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.auth import Identity
    from raftkv.backend import ReadPin
    from raftkv.mvcc import RangeScan
    from raftkv.rpc.service import Call

_parse_put = rpc_pb2.PutRequest.FromString
_parse_range = rpc_pb2.RangeRequest.FromString


class KV:
    __slots__ = ("_auth", "_context", "_node", "_store")

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node
        self._auth = context.node.auth
        self._store = context.node.store

    def service(self) -> Service:
        return (
            Service("etcdserverpb.KV")
            .unary("Range", self.range)
            .server_stream("RangeStream", lambda call: RangeStream(self._context, call))
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
        if self._auth.enabled and not self._may_read(self._read, context, check_range_access):
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
        self._node.slices.add(LongRange(self._context, call, header, scan, pin))

    def _may_read(self, read: Callable[[Any, Any], None], asked: tuple[Call, Any], check: Any) -> bool:
        """`check`: of `apply.access`."""
        call, request = asked

        def permitted(identity: Identity) -> None:
            node = self._node
            check(Caller(identity, self._auth, node.lessor, node.backend.read()), request)

        return self._context.may_read(call, permitted, read, asked)

    def _read_txn(self, context: tuple[Call, rpc_pb2.TxnRequest], error: Exception | None) -> None:
        call, request = context
        if error is not None:
            refuse(call, status_of(error))
            return
        if self._auth.enabled and not self._may_read(self._read_txn, context, check_txn_access):
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

    __slots__ = ("_call", "_context", "_header", "_pin", "_scan", "_started_s")

    def __init__(self, context: ApiContext, call: Call, header: bytes, scan: RangeScan, pin: ReadPin) -> None:
        self._context = context
        self._call = call
        self._header = header
        self._scan = scan
        self._pin = pin
        self._started_s = context.node.now()

    def step(self) -> bool:
        if self._call.cancelled:  # nobody waits: let the snapshot's pages go (RNG-20)
            self._pin.close()
            return False
        if not self._scan.step():
            return True
        self._pin.close()
        node = self._context.node
        node.slow_requests.note("reads", 1, node.now() - self._started_s)
        # The rights may have changed while it was read (AU-49).
        if self._context.permits(self._call, node.auth.check_identity):
            self._call.reply(self._header + self._scan.result().body)
        return False
