"""Reads whose answer is large: done in slices, with a share of the budget of bytes in flight (docs/limits.md).

Owns what becomes of a Range, or of a Txn of ranges, after its first slice: waiting for a share, the snapshot, the
slices, and the answer in pieces. Knows nothing of the request but how to begin it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from raftkv.api.errors import Status, refuse, status_of
from raftkv.backend import BackendError
from raftkv.rpc.codes import Code
from raftkv.server.errors import TooManyRequests
from raftkv.server.list_budget import LARGE_BYTES

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.api.registry_counts import PrefixCount
    from raftkv.backend import ReadPin, ReadTxn
    from raftkv.pb import rpc_pb2
    from raftkv.rpc.service import Call
    from raftkv.server.list_budget import Share

MAX_REPLY_BYTES: Final = 2**31 - 1
"""LIM-04."""


AskedRange: TypeAlias = "tuple[Call, rpc_pb2.RangeRequest, PrefixCount | None, Share | None]"
AskedTxn: TypeAlias = "tuple[Call, rpc_pb2.TxnRequest, PrefixCount | None, Share | None]"
"""A read on its way; the share is of the budget, if it had to wait for one."""

Asked = TypeVar("Asked", AskedRange, AskedTxn)


class Scan(Protocol):
    """What is read in slices: a RangeScan or a ReadOnlyTxn."""

    txn: ReadTxn

    @property
    def is_done(self) -> bool: ...

    @property
    def is_joined(self) -> bool: ...

    @property
    def held_bytes(self) -> int: ...

    @property
    def expected_bytes(self) -> int: ...

    def step(self) -> bool: ...

    def pieces(self) -> Iterator[bytes]: ...


class _Anew:
    """What was read while there was no room is forgotten; when there is, it begins again."""

    __slots__ = ("_asked", "_read")

    def __init__(self, read: Callable[[Asked, None], None], asked: Asked) -> None:
        self._read: Callable[[Any, None], None] = read
        self._asked: AskedRange | AskedTxn = asked

    def step(self) -> bool:
        if not self._asked[0].cancelled:
            self._read(self._asked, None)
        return False


def go_on(context: ApiContext, asked: Asked, header: bytes, scan: Scan, read: Callable[[Asked, None], None]) -> None:
    """The first slice of `scan` has shown that the answer is, or may become, a large one.

    `read(asked, None)`: what to begin anew with if there is no room for it now. A read that is done later than asked
    for is as linearizable.
    """
    call, request, count, share = asked
    node = context.node
    if share is None:
        try:
            budget, expected_bytes = node.list_budget, scan.expected_bytes
            # What is long only because it counts many keys does not wait.
            share = budget.ask(expected_bytes) if expected_bytes > LARGE_BYTES else budget.count(expected_bytes or 1)
        except TooManyRequests as refusal:
            refuse(call, status_of(refusal))
            return
        if not share.granted:
            call.when_closed(share.close)
            again = _Anew(read, (call, request, count, share))
            share.on_room = lambda: node.slices.add(again)
            return
    long_read = LongRead(context, call, count, share, header, scan)
    if long_read.begin():
        node.slices.add(long_read)


class LongRead:
    """A read with a share, done on a snapshot of its own. The header's revision is that of the snapshot (G-13)."""

    __slots__ = ("_call", "_context", "_count", "_parts", "_pieces", "_pin", "_scan", "_share", "_started_s")

    def __init__(
        self,
        context: ApiContext,
        call: Call,
        count: PrefixCount | None,
        share: Share,
        header: bytes,
        scan: Scan,
    ) -> None:
        self._context = context
        self._call = call
        self._count = count
        self._share = share
        self._scan = scan
        self._pin: ReadPin | None = None
        self._parts: list[bytes] = [header]
        self._pieces: Iterator[bytes] | None = None
        """Of the answer, once all is found."""
        self._started_s = context.node.now()

    def begin(self) -> bool:
        """Right behind the scan's first slice. True: there is more to do, in slices."""
        self._call.when_closed(self._close)
        self._share.on_room = lambda: self._context.node.slices.add(self)
        if self._scan.is_done:
            return self._finish_reading()
        try:
            self._pin = self._context.node.backend.pin()
        except BackendError as failure:
            refuse(self._call, status_of(failure))
            return False
        self._scan.txn = self._pin.txn  # the same state: nothing was written since the first slice
        return True

    def step(self) -> bool:
        if self._call.cancelled:  # nobody waits: let the snapshot's pages go (RNG-20)
            self._close()
            return False
        if self._pieces is not None:
            return self._assemble(self._pieces)
        expected_bytes = self._scan.expected_bytes
        if expected_bytes > LARGE_BYTES and not self._share.grow_to(expected_bytes):
            return False  # `on_room` comes back
        if self._scan.held_bytes > MAX_REPLY_BYTES:
            text = f"grpc: trying to send message larger than max ({self._scan.held_bytes} vs. {MAX_REPLY_BYTES})"
            refuse(self._call, Status(Code.RESOURCE_EXHAUSTED, text))
            return False
        return not self._scan.step() or self._finish_reading()

    def _finish_reading(self) -> bool:
        self._let_go()
        node = self._context.node
        node.slow_requests.note("reads", 1, node.now() - self._started_s)
        # The rights may have changed while it was read (AU-49).
        if not self._context.permits(self._call, node.auth.check_identity):
            return False
        self._pieces = self._scan.pieces()
        return not self._scan.is_joined or self._assemble(self._pieces)

    def _assemble(self, pieces: Iterator[bytes]) -> bool:
        """A piece a slice; those that are there already at once."""
        for piece in pieces:
            self._parts.append(piece)
            if not self._scan.is_joined:
                return True
        self._answer()
        return False

    def _answer(self) -> None:
        call, count = self._call, self._count
        size_bytes = sum(map(len, self._parts))
        if count is not None:
            count.sent_bytes += size_bytes
        self._share.sends(size_bytes, call.cut_off)
        call.reply_in_parts(self._parts, self._share.release)

    def _close(self) -> None:
        """The call has ended without an answer."""
        self._let_go()
        self._share.close()

    def _let_go(self) -> None:
        if self._pin is not None:
            self._pin.close()
            self._pin = None
