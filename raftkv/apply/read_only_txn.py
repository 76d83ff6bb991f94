"""A transaction of plain ranges (TXN-60), read in slices on one snapshot, without an entry of the log.

Owns its compares, its ranges and its reply. Knows neither the log nor the client; the caller has validated the request
and adds the top header.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from raftkv.apply.txn import OP_RANGE, RESPONSES, SUCCEEDED, Snapshot, check, choose, op_header
from raftkv.mvcc import RangeQuery
from raftkv.mvcc.scan import SLICE_BYTES
from raftkv.pb.splice import varint

if TYPE_CHECKING:
    from raftkv.backend import ReadTxn
    from raftkv.lease import Lessor
    from raftkv.mvcc import RangeScan, Store
    from raftkv.pb import rpc_pb2

MAX_WALKS: Final = 8
"""Ranges of more than a key that one slice reads, however little they hold."""


class ReadOnlyTxn:
    """Like a RangeScan: `step()` until it is True, then `pieces()`. All of it is of the state at which it was made.

    Raises CompactedError or FutureRevisionError when it is made. The compares are decided then, in one go."""

    __slots__ = ("_at", "_done_bytes", "_header", "_pieces", "_replies", "_scans", "_store", "_succeeded")

    def __init__(self, store: Store, txn: ReadTxn, lessor: Lessor, request: rpc_pb2.TxnRequest) -> None:
        view = Snapshot(store, txn)
        choice = choose(view, request)
        check(view, store, lessor, choice)
        self._store = store
        self._succeeded = choice.succeeded
        self._header = op_header(store.current_revision)
        # All at once: what a scan plans holds for the state of this moment.
        self._scans: list[RangeScan] = [
            store.scan(txn, RangeQuery.from_request(message)) for _, message in choice.steps
        ]
        self._at = 0
        """Which of them is being read."""
        self._pieces: Iterator[bytes] | None = None
        """What it has found, once it is done."""
        self._replies: list[list[bytes]] = [[] for _ in self._scans]
        """The pieces of a RangeResponse each, behind its header."""
        self._done_bytes = 0
        """The bytes of those that are read."""

    @property
    def txn(self) -> ReadTxn:
        """May be exchanged between steps for another transaction on the same snapshot."""
        return self._scans[self._at].txn

    @txn.setter
    def txn(self, txn: ReadTxn) -> None:
        for scan in self._scans[self._at :]:
            scan.txn = txn

    @property
    def is_done(self) -> bool:
        return self._at == len(self._scans)

    @property
    def is_joined(self) -> bool:
        """Its pieces are there already."""
        return True

    @property
    def held_bytes(self) -> int:
        """What is found so far takes in memory."""
        return self._done_bytes + (0 if self.is_done else self._scans[self._at].held_bytes)

    @property
    def expected_bytes(self) -> int:
        """What it may come to hold, as far as its ranges have been begun."""
        return self._done_bytes + (0 if self.is_done else self._scans[self._at].expected_bytes)

    def step(self) -> bool:
        """Does one slice of work. True: it is done, `pieces` may be called."""
        walks, most_bytes = 0, self.held_bytes + SLICE_BYTES
        while not self.is_done:
            scan = self._scans[self._at]
            if walks == MAX_WALKS or self.held_bytes > most_bytes or not self._read_on(scan):
                return False
            walks += not scan.query.point
        return True

    def _read_on(self, scan: RangeScan) -> bool:
        """True: this range is read, and the next one's turn."""
        if self._pieces is None:
            if not scan.step():
                return False
            self._pieces = scan.pieces()
        for piece in self._pieces:
            self._replies[self._at].append(piece)
            if not scan.is_joined:
                return False
        self._done_bytes += sum(map(len, self._replies[self._at]))
        self._pieces = None
        self._at += 1
        return True

    def pieces(self) -> Iterator[bytes]:
        """The TxnResponse body without its header."""
        assert self.is_done
        if len(self._scans) > 1:
            self._store.transactions += 1
        if self._succeeded:
            yield SUCCEEDED
        for pieces in self._replies:
            size_bytes = len(self._header) + sum(map(len, pieces))
            reply = OP_RANGE + varint(size_bytes)
            yield RESPONSES + varint(len(reply) + size_bytes) + reply + self._header
            yield from pieces
