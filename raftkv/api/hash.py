"""Maintenance.Hash and HashKV: numbers by which members are compared (MT-20 to MT-27).

Answered from the store of this member alone, so without a leader too. Both walk the whole store: in slices between
other work, on a snapshot of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from raftkv.api.errors import refuse, status_of
from raftkv.apply.store_hash import StoreHash
from raftkv.backend import BackendError
from raftkv.mvcc import MvccError
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.backend import ReadPin
    from raftkv.histogram import Histogram
    from raftkv.mvcc import HashScan
    from raftkv.rpc.service import Call


class Hashes:
    """The methods of those names."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node

    def hash(self, call: Call, message: bytes) -> None:
        if self._context.parse(call, rpc_pb2.HashRequest.FromString, message) is not None:
            self._start(call, self._scan_all, self._node.durations.hash)

    def hash_kv(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.HashKVRequest.FromString, message)
        if request is not None:
            durations = self._node.durations.hash_kv
            self._start(call, lambda pin: self._scan_revisions(pin, request.revision), durations)

    def _start(self, call: Call, make_scan: Callable[[ReadPin], _Scan], durations: Histogram) -> None:
        try:
            pin = self._node.backend.pin()
        except BackendError as failure:
            refuse(call, status_of(failure))
            return
        header = self._context.header_now()
        try:
            scan = make_scan(pin)
        except MvccError as refusal:
            pin.close()
            refuse(call, status_of(refusal))
            return
        self._node.slices.add(LongHash(call, header, scan, pin, durations))

    def _scan_all(self, pin: ReadPin) -> _Scan:
        return _AllScan(StoreHash(pin.txn, self._node.backend.tables))

    def _scan_revisions(self, pin: ReadPin, revision: int) -> _Scan:
        return _RevisionScan(self._node.store.hash_scan(pin.txn, revision))


class _Scan(Protocol):
    def step(self) -> bool:
        """One slice; True: done."""

    def body(self) -> bytes:
        """The response without its header."""


class _AllScan:
    def __init__(self, scan: StoreHash) -> None:
        self._scan = scan
        self.step = scan.step

    def body(self) -> bytes:
        return rpc_pb2.HashResponse(hash=self._scan.result()).SerializeToString()


class _RevisionScan:
    def __init__(self, scan: HashScan) -> None:
        self._scan = scan
        self.step = scan.step

    def body(self) -> bytes:
        found = self._scan.result()
        response = rpc_pb2.HashKVResponse(
            hash=found.hash, compact_revision=found.compact_revision, hash_revision=found.hash_revision
        )
        return response.SerializeToString()


class LongHash:
    """A hash over the whole store, computed in slices on a snapshot of its own."""

    __slots__ = ("_began_s", "_call", "_durations", "_header", "_pin", "_scan")

    def __init__(self, call: Call, header: bytes, scan: _Scan, pin: ReadPin, durations: Histogram) -> None:
        self._began_s = perf_counter()
        self._durations = durations
        self._call = call
        self._header = header
        self._scan = scan
        self._pin = pin

    def step(self) -> bool:
        if self._call.cancelled:
            self._pin.close()
            return False
        if not self._scan.step():
            return True
        body = self._scan.body()
        self._pin.close()
        self._durations.observe(perf_counter() - self._began_s)
        self._call.reply(self._header + body)
        return False
