"""KV.RangeStream, of etcd 3.7: the answer of a Range in pieces, as they are read.

Every piece carries keys; header, more and count come with the last (contract section 16). No piece is kept: a client
that reads slowly gets the next one when it has taken the last, as of the same revision. So it costs neither memory nor
pages of the store, and may find that its revision has been compacted, as with etcd. What needs the whole answer before
the first key can be sent, another order or a filter, is UNIMPLEMENTED there and here: clients then use Range. Each
piece of a large answer has its own share of the budget of bytes in flight, and waits for it in the line of all.

Served although the version that is advertised (raftkv.version) is one of 3.6, which answers UNIMPLEMENTED: clients try
the call and fall back (K8-25), so whoever does not know it misses nothing and whoever does gains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.api.errors import Status, refuse, status_of
from raftkv.api.registry_counts import ROOT
from raftkv.api.txn_check import check_range
from raftkv.backend import BackendError
from raftkv.mvcc import MvccError, RangeQuery
from raftkv.mvcc.scan import SLICE_BYTES
from raftkv.pb import rpc_pb2
from raftkv.pb.splice import framed, varint
from raftkv.rpc.codes import Code
from raftkv.server.errors import TooManyRequests
from raftkv.server.list_budget import LARGE_BYTES

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.api.registry_counts import PrefixCount
    from raftkv.auth import Identity
    from raftkv.backend import ReadPin
    from raftkv.mvcc import RangePages, RangeScan
    from raftkv.rpc.service import Call
    from raftkv.server.list_budget import Share

NO_ORDERS: Final = Status(Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders")
NO_FILTERS: Final = Status(Code.UNIMPLEMENTED, "RangeStream does not support revision filters")

# Encoded field tags: RangeStreamResponse.range_response, then those of RangeResponse.
_RANGE_RESPONSE: Final = b"\x0a"
_MORE: Final = b"\x18\x01"
_COUNT: Final = b"\x20"


class RangeStream:
    """The receiver of one RangeStream call, and its task among the slices while there is something to send."""

    __slots__ = (
        "_call",
        "_closed",
        "_context",
        "_count_of_prefix",
        "_counting",
        "_header",
        "_is_anew",
        "_last",
        "_pages",
        "_pin",
        "_request",
        "_share",
        "_waits_for_client",
    )

    def __init__(self, context: ApiContext, call: Call) -> None:
        self._context = context
        self._call = call
        self._request: rpc_pb2.RangeRequest | None = None
        self._is_anew = False
        """What was read while there was no room for it has been forgotten: begin again."""
        self._share: Share | None = None
        """For the next piece; perhaps it still waits in line."""
        self._pages: RangePages | None = None
        self._header = b""
        """Its revision is the one that was current when the read began (G-13)."""
        self._last = b""
        """The kvs that are to leave with the count."""
        self._counting: RangeScan | None = None
        self._pin: ReadPin | None = None
        """While counting takes several slices: the client has no part in how long that takes."""
        self._waits_for_client = False
        self._closed = False
        self._count_of_prefix: PrefixCount | None = None

    def on_message(self, message: bytes) -> None:
        request = self._context.parse(self._call, rpc_pb2.RangeRequest.FromString, message)
        if request is None:
            return
        if request.key.startswith(ROOT):
            self._count_of_prefix = self._context.registry["RangeStream"].note(request.key, len(message))
        self._request = request
        refused = check_range_stream(request)
        if refused is not None:
            refuse(self._call, refused)
        elif request.serializable:
            self._begin(request, None)
        else:
            self._context.node.linearizable(self._begin, request)

    def _begin(self, request: rpc_pb2.RangeRequest, error: Exception | None) -> None:
        if error is not None:
            refuse(self._call, status_of(error))
            return
        auth = self._context.node.auth
        if auth.enabled:

            def check(identity: Identity) -> None:
                auth.check_read(identity, request.key, request.range_end)

            if not self._context.may_read(self._call, check, self._begin, request):
                return
        store, query = self._context.node.store, RangeQuery.from_request(request)
        self._header = self._context.header(store.current_revision)
        try:
            if query.count_only:
                query = RangeQuery(request.key, request.range_end, revision=request.revision, count_only=True)
                self._count(query)
            else:
                self._pages = store.pages(query)
        except MvccError as refusal:
            refuse(self._call, status_of(refusal))
            return
        self._go_on()

    def _go_on(self) -> None:
        if self.step():  # most fit into one slice
            self._context.node.slices.add(self)

    # --- slices -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        # The rights may have changed since the last piece (AU-49).
        if self._closed or not self._context.permits(self._call, self._context.node.auth.check_identity):
            return False
        if self._is_anew:
            assert self._request is not None, "it has begun before"
            self._is_anew = False
            self._begin(self._request, None)
            return False
        try:
            return self._send_next() if self._counting is None else self._count_on()
        except (MvccError, BackendError, TooManyRequests) as failure:
            refuse(self._call, status_of(failure))
            return False

    def _has_share(self, size_bytes: int) -> bool:
        """False: it will be this task's turn again when there is one. Raises TooManyRequests."""
        if self._share is None:
            node = self._context.node
            self._share = node.list_budget.ask(size_bytes)
            self._share.on_room = lambda: node.slices.add(self)
        return self._share.granted

    def _send_next(self) -> bool:
        assert self._pages is not None
        is_first = not self._pages.returned
        if not is_first and not self._has_share(SLICE_BYTES):
            return False
        kvs = self._pages.next(self._context.node.backend.read())
        if is_first and len(kvs) > LARGE_BYTES and not self._has_share(len(kvs)):
            self._is_anew = True
            return False
        if not self._pages.done:
            if kvs and not self._send(kvs):
                self._waits_for_client = True
            return not self._waits_for_client
        self._last = kvs
        if self._pages.is_cut:
            self._count(self._pages.rest())
            return self._count_on()
        self._finish(0)
        return False

    def _count(self, query: RangeQuery) -> None:
        self._counting = self._context.node.store.scan(self._context.node.backend.read(), query)

    def _count_on(self) -> bool:
        assert self._counting is not None
        if self._counting.step():
            self._finish(self._counting.result().total)
            return False
        if self._pin is None:
            self._pin = self._context.node.backend.pin()
            self._counting.txn = self._pin.txn  # the same state: nothing was written since the first slice
        return True

    def _finish(self, left: int) -> None:
        """`left`: keys of the interval that are not returned."""
        returned = 0 if self._pages is None else self._pages.returned
        more = _MORE if left and self._pages is not None else b""
        count = _COUNT + varint(returned + left) if returned + left else b""
        self._send(self._header + self._last + more + count)
        self._call.finish()

    def _send(self, fields: bytes) -> bool:
        """Of a RangeResponse. False: the client has enough for now."""
        piece = framed(_RANGE_RESPONSE, fields)
        if self._count_of_prefix is not None:
            self._count_of_prefix.sent_bytes += len(piece)
        share, self._share = self._share, None
        if share is None:
            return self._call.send(piece)
        share.sends(len(piece), self._call.cut_off)
        return self._call.send_counted(piece, share.release)

    # --- the client's side --------------------------------------------------------------------------------------------

    def on_half_close(self) -> None: ...

    def on_writable(self) -> None:
        if self._waits_for_client:
            self._waits_for_client = False
            self._context.node.slices.add(self)

    def on_closed(self) -> None:
        self._closed = True
        if self._share is not None:
            self._share.close()
        if self._pin is not None:
            self._pin.close()
            self._pin = None


def check_range_stream(request: rpc_pb2.RangeRequest) -> Status | None:
    """RNG-01, and what cannot be sent as it is read. A target without an order means an order too (RNG-14); etcd sorts
    every piece by itself then, which is no order."""
    refused = check_range(request)
    if refused is not None:
        return refused
    query = RangeQuery.from_request(request)
    if not query.by_key:
        return NO_ORDERS
    return NO_FILTERS if query.filters is not None else None
