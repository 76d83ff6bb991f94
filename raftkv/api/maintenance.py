"""etcdserverpb.Maintenance: status, alarms, defragmentation, leadership; the larger methods are in modules of their own
(`snapshot`, `hash`, `downgrade`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.api.downgrade import Downgrade
from raftkv.api.errors import NO_LEADER, refuse, status_of
from raftkv.api.hash import Hashes
from raftkv.api.snapshot import SnapshotStream
from raftkv.apply import Kind
from raftkv.backend import BackendError
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Service
from raftkv.server.errors import NodeError
from raftkv.version import ETCD_VERSION, STORAGE_VERSION

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call

NO_QUOTA: Final = -1
"""In Status.dbSizeQuota: what the flag says when there is to be none (AL-20)."""


class Maintenance:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node

    def service(self) -> Service:
        hashes = Hashes(self._context)
        return (
            Service("etcdserverpb.Maintenance")
            .unary("Status", self.status)
            .unary("Alarm", self.alarm)
            .unary("Defragment", self.defragment)
            .unary("Hash", hashes.hash)
            .unary("HashKV", hashes.hash_kv)
            .server_stream("Snapshot", lambda call: SnapshotStream(self._context, call))
            .unary("MoveLeader", self.move_leader)
            .unary("Downgrade", Downgrade(self._context).downgrade)
        )

    def status(self, call: Call, message: bytes) -> None:
        """Local, never forwarded (contract section 6.1)."""
        if self._context.parse(call, rpc_pb2.StatusRequest.FromString, message) is None:
            return
        node, status = self._node, self._node.raft_status()
        quota_bytes = node.config.quota_backend_bytes
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
            dbSizeQuota=NO_QUOTA if quota_bytes is None else quota_bytes,
            downgradeInfo=rpc_pb2.DowngradeInfo(),
        )
        call.reply(self._context.header_now() + response.SerializeToString())

    def _errors(self) -> list[str]:
        errors = [] if self._node.leader_id else [NO_LEADER.text]
        return errors + [_alarm_text(*alarm) for alarm in self._node.alarms.active()]

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


def _alarm_text(member_id: int, alarm: int) -> str:
    """The text form of the message, with its trailing blank: what etcd's tools show. A zero is left out."""
    member = f"memberID:{member_id} " if member_id else ""
    return f"{member}alarm:{rpc_pb2.AlarmType.Name(alarm)} "  # type: ignore[arg-type]


def _finish_move(call: Call, error: Exception | None) -> None:
    """The response has no header (G-16)."""
    if error is None:
        call.reply(b"")
    else:
        refuse(call, status_of(error))
