"""Status, alarms, hashes, defragmentation, leadership, downgrade, snapshots (contract section 6)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from differ.ops import Call, ClusterVersion, MemberId, MoveLeader, Op, Snapshot
from differ.strategies import common, kv, lease
from differ.strategies.common import Draw, chance

_look = st.sampled_from(("Maintenance.Status", "Maintenance.Status", "Maintenance.HashKV", "Maintenance.Alarm"))
_alarm_members = st.sampled_from((0, MemberId(0), MemberId(1), MemberId(9), 0x77))
_alarm_types = st.sampled_from((0, 1, 1, 1, 2, 2))
_get_types = st.sampled_from((0, 1, 2, 5))
_few = st.integers(0, 5)


def look_op(draw: Draw[Any]) -> list[Op]:
    method = draw(_look)
    fields: dict[str, Any] = {}
    if method == "Maintenance.HashKV" and chance(draw, 2):
        fields = {"revision": common.revision(draw)}
    elif method == "Maintenance.Alarm":
        fields = {"action": 0, "memberID": draw(_alarm_members), "alarm": draw(_get_types)}
    return [Call(method, fields, common.member(draw))]


_restricted = st.sampled_from(
    (kv.put_op, kv.put_op, kv.txn_op, kv.delete_op, kv.range_op, lease.grant_op, lease.revoke_op)
)


def alarm_op(draw: Draw[Any]) -> list[Op]:
    """An alarm, what may still be done under it, and its end."""
    fields = {"memberID": draw(_alarm_members), "alarm": draw(_alarm_types)}
    ops: list[Op] = [Call("Maintenance.Alarm", {"action": 1, **fields}, common.member(draw))]
    for _ in range(draw(_few)):
        ops += draw(_restricted)(draw)
    ops += look_op(draw)
    return [*ops, Call("Maintenance.Alarm", {"action": 2, **fields}, common.member(draw))]


def alarm_call_op(draw: Draw[Any]) -> list[Op]:
    """One that ends nothing, or an action that there is not."""
    action = draw(st.sampled_from((2, 2, 3)))
    fields = {"action": action, "memberID": draw(_alarm_members), "alarm": draw(_alarm_types)}
    return [Call("Maintenance.Alarm", fields, common.member(draw))]


def heavy_op(draw: Draw[Any]) -> list[Op]:
    kind = draw(st.sampled_from(("defragment", "snapshot", "hash")))
    if not chance(draw, 4):
        return look_op(draw)
    if kind == "snapshot":
        return [Snapshot(common.member(draw))]
    return [Call("Maintenance.Defragment" if kind == "defragment" else "Maintenance.Hash", {}, common.member(draw))]


def move_leader_op(draw: Draw[Any]) -> list[Op]:
    target = draw(st.sampled_from((0, 0x77, MemberId(0), MemberId(9))))
    if chance(draw, 8):
        return [MoveLeader(draw(st.integers(0, 1)))]
    return [Call("Maintenance.MoveLeader", {"targetID": target}, common.member(draw))]


_versions = st.sampled_from(
    ("", "nonsense", "3", "3.x", "4.0.0", "3.0", "2.9.9", ClusterVersion(0), ClusterVersion(1), ClusterVersion(-2))
)


def downgrade_op(draw: Draw[Any]) -> list[Op]:
    """Never one that etcd would begin: its cluster would be another one afterwards."""
    action = draw(st.sampled_from((0, 0, 1, 2, 3)))
    return [Call("Maintenance.Downgrade", {"action": action, "version": draw(_versions)}, common.member(draw))]
