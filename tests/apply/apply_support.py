"""The state machines of one member on a small store, without a log: entries are made and applied by hand."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.message import Message

from raftkv.apply import Alarms, Applied, Applier, Kind, encode_batch, encode_member_change
from raftkv.auth import AuthStore
from raftkv.backend import Backend
from raftkv.backend.received import Expected, ReceivedStore
from raftkv.backend.schema import Meta, Tables, pack_u64
from raftkv.lease import Lessor
from raftkv.membership import Member, Members
from raftkv.mvcc import RangeQuery, Store
from raftkv.mvcc.check import check
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import ConfChange, ConfChangeTransition, ConfState, Entry, EntryType, encode_conf_change
from raftkv.wire import decode_conf_state, encode_conf_state

MEMBER_ID = 7
CLUSTER_ID = 77
TERM = 3

Change = peer_pb2.MemberChange

Request: TypeAlias = tuple[int, bytes]
"""(kind, message), as a batch carries it."""


class Machine:
    """An Applier and all that it works on. Its one member has MEMBER_ID and votes."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="raftkv-apply-"))
        self._open()
        txn = self.backend.begin_write()
        self.members.add(txn, Member(MEMBER_ID, ("http://127.0.0.1:2380",)))
        meta = {
            Meta.CONF_STATE: encode_conf_state(ConfState(voters=(MEMBER_ID,))),
            Meta.CLUSTER_ID: pack_u64(CLUSTER_ID),
            Meta.MEMBER_ID: pack_u64(MEMBER_ID),
        }
        for key, value in meta.items():
            txn.put(key, value, db=self.backend.tables.meta)
        self.backend.commit()
        self.applier.load()

    def _open(self) -> None:
        self.backend = Backend.open(self.directory, map_size_bytes=64 << 20, reserve_step_bytes=64 << 10)
        tables = self.backend.tables
        self.store = Store(tables, block_entries=2)
        self.lessor, self.members, self.alarms = Lessor(tables), Members(tables), Alarms(tables)
        self.auth = AuthStore(tables)
        self.applier = Applier(self.backend, self.store, self.lessor, self.members, self.alarms, self.auth)
        self.applier.load()

    def apply(self, *requests: Request) -> list[Any]:
        """Results of one entry with these requests. If they were certain before, they are what was foreseen."""
        next_entry = self.entry(*requests)
        foreseen = self.applier.foresee(next_entry, MEMBER_ID)
        applied, _ = self.applier.apply([next_entry])
        assert foreseen is None or [foreseen] == applied
        return applied[0].results

    def entry(self, *requests: Request) -> Entry:
        """What would be applied next."""
        return entry(self.applier.index + 1, requests)

    def change(self, operation: Change.Operation.ValueType, member_id: int, *peer_urls: str, **options: Any) -> Applied:
        """Apply a membership change."""
        next_entry = change_entry(self.applier.index + 1, operation, member_id, *peer_urls, **options)
        return self.applier.apply([next_entry])[0][0]

    def leave_joint(self) -> Applied:
        return self.applier.apply([leave_entry(self.applier.index + 1)])[0][0]

    def stored_conf_state(self) -> ConfState:
        return decode_conf_state(self.stored(Meta.CONF_STATE))

    def stored(self, key: bytes) -> bytes:
        value = self.backend.read().get(key, db=self.backend.tables.meta)
        assert value is not None
        return value

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

    def install_copy_of(self, other: Machine) -> None:
        """A snapshot comes and takes the place of the store while the process goes on (RF-45)."""
        copy = other.backend.begin_copy()
        received = ReceivedStore(self.directory, copy.size_bytes)
        while received.received_bytes < copy.size_bytes:
            received.write(received.received_bytes, copy.read(received.received_bytes, 1 << 20))
        conf_state = other.stored(Meta.CONF_STATE)
        received.finish(Expected(copy.consistent_index, copy.term, CLUSTER_ID, conf_state, MEMBER_ID))
        copy.close()
        self.backend.install(received)
        for each in (self.store, self.lessor, self.members, self.alarms, self.auth):
            each.rebind(self.backend.tables)
        self.applier.load()

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


def change_entry(
    index: int,
    operation: Change.Operation.ValueType,
    member_id: int,
    *peer_urls: str,
    transition: ConfChangeTransition = ConfChangeTransition.AUTO,
) -> Entry:
    change = encode_member_change(MEMBER_ID, index, operation, member_id, peer_urls)
    return conf_entry(index, change._replace(transition=transition))


def leave_entry(index: int) -> Entry:
    """What the core proposes when a joint configuration may be left."""
    return conf_entry(index, ConfChange())


def conf_entry(index: int, change: ConfChange) -> Entry:
    return Entry(TERM, index, EntryType.CONF_CHANGE, encode_conf_change(change))


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


def update_member(member_id: int, *peer_urls: str) -> Request:
    return Kind.MEMBER_UPDATE, raw(rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls))


def publish(member_id: int, name: str, *client_urls: str, data_id: int = 0) -> Request:
    record = peer_pb2.MemberRecord(ID=member_id, name=name, clientURLs=client_urls, data_id=data_id)
    return Kind.PUBLISH, raw(record)


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
