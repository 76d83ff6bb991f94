"""The state machines of one member on a small store, without a log: entries are made and applied by hand."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.message import Message

from raftkv.apply import Alarms, Applied, Applier, Kind, encode_batch
from raftkv.backend import Backend
from raftkv.backend.schema import Tables
from raftkv.lease import Lessor
from raftkv.membership import Member, Members
from raftkv.mvcc import RangeQuery, Store
from raftkv.mvcc.check import check
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry

MEMBER_ID = 7
TERM = 3

Request: TypeAlias = tuple[int, bytes]
"""(kind, message), as a batch carries it."""


class Machine:
    """An Applier and all that it works on. Its one member has MEMBER_ID."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="raftkv-apply-"))
        self._open()
        self.members.add(self.backend.begin_write(), Member(MEMBER_ID, ("http://127.0.0.1:2380",)))
        self.backend.commit()

    def _open(self) -> None:
        self.backend = Backend.open(self.directory, map_size_bytes=64 << 20, reserve_step_bytes=64 << 10)
        tables = self.backend.tables
        self.store = Store(tables, block_entries=2)
        self.lessor, self.members, self.alarms = Lessor(tables), Members(tables), Alarms(tables)
        self.applier = Applier(self.backend, self.store, self.lessor, self.members, self.alarms)
        self.applier.load()

    def apply(self, *requests: Request) -> list[Any]:
        """Results of one entry with these requests."""
        applied, _ = self.applier.apply([self.entry(*requests)])
        return applied[0].results

    def entry(self, *requests: Request) -> Entry:
        """What would be applied next."""
        return entry(self.applier.index + 1, requests)

    def read(self, key: bytes, range_end: bytes = b"", **options: Any) -> rpc_pb2.RangeResponse:
        query = RangeQuery.from_request(rpc_pb2.RangeRequest(key=key, range_end=range_end, **options))
        return rpc_pb2.RangeResponse.FromString(self.store.range(self.backend.read(), query).body)

    def content(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """All tables, committed; without the block counters, whose borders may lie where they like."""
        self.backend.commit()
        assert check(self.backend.read(), self.store) == []
        txn = self.backend.read()
        names = [name for name in Tables._fields if name != "blocks"]
        return {name: list(txn.cursor(getattr(self.backend.tables, name))) for name in names}

    def hash(self) -> tuple[int, int, int]:
        """HashKV of the newest revision: (hash, compact revision, hash revision)."""
        scan = self.store.hash_scan(self.backend.read(), 0)
        while not scan.step():
            pass
        return scan.result()[:3]

    def reset(self) -> None:
        """Back to the last commit: what is not committed is lost."""
        self.backend.abort()
        self.applier.load()

    def die(self) -> None:
        """The process is killed and started again: what was not committed is lost, what was is not."""
        self._drop()
        self._open()

    def close(self) -> None:
        self._drop()
        shutil.rmtree(self.directory)

    def _drop(self) -> None:
        self.backend.abort()
        self.backend._env.close()
        os.close(self.backend._fd)
        self.backend._lock.release()


def entry(index: int, requests: Sequence[Request]) -> Entry:
    return Entry(TERM, index, data=encode_batch(MEMBER_ID, index, requests))


def put(key: bytes, value: bytes = b"v", **options: Any) -> Request:
    return Kind.PUT, raw(rpc_pb2.PutRequest(key=key, value=value, **options))


def delete(key: bytes, range_end: bytes = b"", **options: Any) -> Request:
    return Kind.DELETE_RANGE, raw(rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **options))


def txn(request: rpc_pb2.TxnRequest) -> Request:
    return Kind.TXN, raw(request)


def compact(revision: int) -> Request:
    return Kind.COMPACT, raw(rpc_pb2.CompactionRequest(revision=revision))


def grant(lease_id: int, ttl_s: int = 60) -> Request:
    return Kind.LEASE_GRANT, raw(rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl_s))


def revoke(lease_id: int) -> Request:
    return Kind.LEASE_REVOKE, raw(rpc_pb2.LeaseRevokeRequest(ID=lease_id))


def alarm(action: int, alarm_type: int, member_id: int = MEMBER_ID) -> Request:
    request = rpc_pb2.AlarmRequest(action=action, alarm=alarm_type, memberID=member_id)  # type: ignore[arg-type]
    return Kind.ALARM, raw(request)


def raise_alarm(alarm_type: int, member_id: int = MEMBER_ID) -> Request:
    return alarm(rpc_pb2.AlarmRequest.ACTIVATE, alarm_type, member_id)


def disarm(alarm_type: int, member_id: int = MEMBER_ID) -> Request:
    return alarm(rpc_pb2.AlarmRequest.DEACTIVATE, alarm_type, member_id)


def raw(message: Message) -> bytes:
    return message.SerializeToString()


def plain(applied: Sequence[Applied]) -> list[tuple[int, int, list[Any]]]:
    """Results that compare: a refusal is its type."""
    return [(each.proposer, each.number, [outcome(result) for result in each.results]) for each in applied]


def outcome(result: Any) -> Any:
    return type(result) if isinstance(result, Exception) else result
