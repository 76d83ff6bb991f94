"""etcdserverpb.KV: check the request, hand its bytes on, answer.

Knows the shapes of requests and replies. How a write reaches the log, and when a read may be done, is the node's
affair; what a write does, `apply`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raftkv.api.errors import refuse, status_of
from raftkv.api.long_read import go_on
from raftkv.api.range_stream import RangeStream
from raftkv.api.registry_counts import ROOT
from raftkv.api.txn_check import (
    check_delete_range,
    check_put,
    check_range,
    check_txn,
    is_read_only,
    is_serializable,
)
from raftkv.apply import PUT_OVERHEAD_BYTES, Kind, ReadOnlyTxn, txn_cost
from raftkv.apply.access import Caller
from raftkv.apply.access import check_range as check_range_access
from raftkv.apply.access import check_txn as check_txn_access
from raftkv.mvcc import MvccError, RangeQuery
from raftkv.pb import rpc_pb2
from raftkv.rpc.service import Service
from raftkv.server.list_budget import LARGE_BYTES

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.api.long_read import AskedRange, AskedTxn
    from raftkv.api.registry_counts import PrefixCount
    from raftkv.auth import Identity
    from raftkv.rpc.service import Call
    from raftkv.server.list_budget import Share

_parse_put = rpc_pb2.PutRequest.FromString
_parse_range = rpc_pb2.RangeRequest.FromString


class KV:
    __slots__ = ("_auth", "_context", "_deletions", "_node", "_puts", "_ranges", "_store", "_txns")

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node
        self._auth = context.node.auth
        self._store = context.node.store
        counts = context.registry
        self._puts, self._deletions, self._txns = counts["Put"], counts["DeleteRange"], counts["Txn"]
        self._ranges = counts["Range"]

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
        if key.startswith(ROOT):
            self._puts.note(key, len(message))
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
        if request.key.startswith(ROOT):
            self._deletions.note(request.key, len(message))
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
        # An API server's transactions are about the one key that they compare.
        if request.compare and request.compare[0].key.startswith(ROOT):
            self._txns.note(request.compare[0].key, len(message))
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
            self._read_txn((call, request, None, None), None)
        else:
            self._node.linearizable(self._read_txn, (call, request, None, None))

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
        key = request.key
        count = self._ranges.note(key, len(message)) if key.startswith(ROOT) else None
        refused = check_range(request)
        if refused is not None:
            refuse(call, refused)
        elif request.serializable:
            self._read((call, request, count, None), None)
        else:
            self._node.linearizable(self._read, (call, request, count, None))

    def _read(self, asked: AskedRange, error: Exception | None) -> None:
        call, request, count, share = asked
        if error is not None:
            refuse(call, status_of(error))
            return
        if self._auth.enabled and not self._may_read(self._read, asked, check_range_access):
            return
        store, backend = self._store, self._node.backend
        header = self._context.header(store.current_revision)
        try:
            query = RangeQuery.from_request(request)
            if query.point:
                _answer(call, header + store.range(backend.read(), query).body, count)
                return
            scan = store.scan(backend.read(), query)
        except MvccError as refusal:
            refuse(call, status_of(refusal))
            return
        if scan.step() and scan.held_bytes <= LARGE_BYTES:  # as most are
            _answer(call, header + scan.result().body, count, share)
            return
        go_on(self._context, asked, header, scan, self._read)

    def _may_read(self, read: Callable[[Any, Any], None], asked: Any, check: Any) -> bool:
        """`asked`: call and request, and what else `read` wants. `check`: of `apply.access`."""
        call, request = asked[:2]

        def permitted(identity: Identity) -> None:
            node = self._node
            check(Caller(identity, self._auth, node.lessor, node.backend.read()), request)

        return self._context.may_read(call, permitted, read, asked)

    def _read_txn(self, asked: AskedTxn, error: Exception | None) -> None:
        call, request, _, share = asked
        if error is not None:
            refuse(call, status_of(error))
            return
        if self._auth.enabled and not self._may_read(self._read_txn, asked, check_txn_access):
            return
        node = self._node
        header = self._context.header(self._store.current_revision)
        try:
            scan = ReadOnlyTxn(self._store, node.backend.read(), node.lessor, request)
        except MvccError as refusal:
            refuse(call, status_of(refusal))
            return
        if scan.step() and scan.held_bytes <= LARGE_BYTES:
            _answer(call, header + b"".join(scan.pieces()), share=share)
            return
        go_on(self._context, asked, header, scan, self._read_txn)


def _answer(call: Call, body: bytes, count: PrefixCount | None = None, share: Share | None = None) -> None:
    call.reply(body)
    if count is not None:
        count.sent_bytes += len(body)
    if share is not None:
        share.close()
