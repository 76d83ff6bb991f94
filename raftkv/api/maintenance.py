"""etcdserverpb.Maintenance: status, alarms, hashes, defragmentation; snapshots are in `snapshot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.api.errors import NO_LEADER, refuse, status_of
from raftkv.api.snapshot import SnapshotStream
from raftkv.apply import Kind
from raftkv.backend import BackendError
from raftkv.mvcc import MvccError
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Service
from raftkv.server.errors import NodeError
from raftkv.version import ETCD_VERSION, STORAGE_VERSION

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.backend import ReadPin
    from raftkv.mvcc.hashkv import HashScan
    from raftkv.rpc.service import Call


class Maintenance:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node

    def service(self) -> Service:
        return (
            Service("etcdserverpb.Maintenance")
            .unary("Status", self.status)
            .unary("Alarm", self.alarm)
            .unary("Defragment", self.defragment)
            .unary("HashKV", self.hash_kv)
            .server_stream("Snapshot", lambda call: SnapshotStream(self._context, call))
            .unary("MoveLeader", self.move_leader)
        )

    def status(self, call: Call, message: bytes) -> None:
        """Local, never forwarded (contract section 6.1)."""
        if self._context.parse(call, rpc_pb2.StatusRequest.FromString, message) is None:
            return
        node, status = self._node, self._node.raft_status()
        response = rpc_pb2.StatusResponse(
            version=ETCD_VERSION,
            dbSize=node.backend.size_bytes,
            dbSizeInUse=node.backend.in_use_bytes,
            leader=node.leader_id,
            raftIndex=status.committed,
            raftTerm=node.applier.term,
            raftAppliedIndex=node.applier.index,
            errors=self._errors(),
            isLearner=node.is_learner,
            storageVersion=STORAGE_VERSION,
            dbSizeQuota=node.config.quota_backend_bytes or 0,
            downgradeInfo=rpc_pb2.DowngradeInfo(),
        )
        call.reply(self._context.header_now() + response.SerializeToString())

    def _errors(self) -> list[str]:
        errors = [] if self._node.leader_id else [NO_LEADER.text]
        # The text form of the message, with its trailing blank, is what etcd's tools show.
        return errors + [
            f"memberID:{member_id} alarm:{rpc_pb2.AlarmType.Name(alarm)} "  # type: ignore[arg-type]
            for member_id, alarm in self._node.alarms.active()
        ]

    def alarm(self, call: Call, message: bytes) -> None:
        """All three actions go through the log (AL-01)."""
        if self._context.parse(call, rpc_pb2.AlarmRequest.FromString, message) is None:
            return
        self._context.propose(call, Kind.ALARM, message)

    def defragment(self, call: Call, _message: bytes) -> None:
        """Only this member's store; the cluster goes on (MT-30). The response has no header (G-16)."""
        self._node.spawn(self._defragment(call))

    async def _defragment(self, call: Call) -> None:
        try:
            await self._node.defragment()
        except (NodeError, BackendError, OSError) as failure:
            call.fail(Code.UNKNOWN, str(failure))
        else:
            call.reply(b"")

    def move_leader(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.MoveLeaderRequest.FromString, message)
        if request is None:
            return
        self._node.leadership.move(request.targetID, self._node.now(), _finish_move, call)

    def hash_kv(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.HashKVRequest.FromString, message)
        if request is None:
            return
        try:
            pin = self._node.backend.pin()
        except BackendError as failure:
            refuse(call, status_of(failure))
            return
        header = self._context.header_now()
        try:
            scan = self._node.store.hash_scan(pin.txn, request.revision)
        except MvccError as refusal:
            pin.close()
            refuse(call, status_of(refusal))
            return
        self._node.slices.add(LongHash(call, header, scan, pin))


def _finish_move(call: Call, error: Exception | None) -> None:
    """The response has no header (G-16)."""
    if error is None:
        call.reply(b"")
    else:
        refuse(call, status_of(error))


class LongHash:
    """A hash over the whole store, computed in slices on a snapshot of its own."""

    __slots__ = ("_call", "_header", "_pin", "_scan")

    def __init__(self, call: Call, header: bytes, scan: HashScan, pin: ReadPin) -> None:
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
        self._pin.close()
        found = self._scan.result()
        response = rpc_pb2.HashKVResponse(
            hash=found.hash, compact_revision=found.compact_revision, hash_revision=found.hash_revision
        )
        self._call.reply(self._header + response.SerializeToString())
        return False
