"""The state at the end of a script: keys, hash, leases, members, alarms, users and roles, compared piece by piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from differ.client import OK
from differ.ops import Call, Fields, GrantedLease, Rev

if TYPE_CHECKING:
    from differ.runner import Runner

_SAME_HASHES: Final = 6
"""etcd's hash is final when it was the same so many times."""
_HASH_POLL_S: Final = 0.05


async def compare_state(runner: Runner, user: str) -> None:
    """Everything that a client can read, from every member."""
    for member in range(runner.sides[0].size):
        await _see(runner, user, "KV.Range", {"key": b"\0", "range_end": b"\0", "serializable": True}, member)
        await _see(runner, user, "Maintenance.Status", {}, member)
        if not runner.hash_tainted:
            # Asked for by its number: 0 may mean an older one to etcd (MT-20).
            fields = {"revision": Rev("now", 0)}
            await await_hash(runner, Call("Maintenance.HashKV", fields, member, user))
            await _see(runner, user, "Maintenance.HashKV", fields, member)
        leases = await _see(runner, user, "Lease.LeaseLeases", {}, member)
        for lease in sorted(each.ID for each in leases.leases) if leases is not None else ():
            chosen = runner.sides[0].leases.get(lease)
            ref = lease if chosen is None else GrantedLease(chosen)
            await _see(runner, user, "Lease.LeaseTimeToLive", {"ID": ref, "keys": True}, member)
        await _see(runner, user, "Cluster.MemberList", {}, member)
        if runner.has("Auth.UserList"):
            await _compare_auth(runner, user, member)


async def await_hash(runner: Runner, op: Call) -> None:
    """Wait until both answer this HashKV alike, for a while: etcd's hash moves while it compacts (MT-21)."""
    await runner.catch_up()
    seen: list[int] = []
    while len(seen) < _SAME_HASHES or len(set(seen[-_SAME_HASHES:])) > 1:
        answers = await runner.ask_fields(op.method, op.fields, op.member, op.user)
        if any(answer.code != OK for answer in answers) or len({answer.message.hash for answer in answers}) == 1:
            return
        seen.append(answers[0].message.hash)
        await asyncio.sleep(_HASH_POLL_S)


async def _compare_auth(runner: Runner, user: str, member: int) -> None:
    await _see(runner, user, "Auth.AuthStatus", {}, member)
    users = await _see(runner, user, "Auth.UserList", {}, member)
    for name in users.users if users is not None else ():
        await _see(runner, user, "Auth.UserGet", {"name": name}, member)
    roles = await _see(runner, user, "Auth.RoleList", {}, member)
    for name in roles.roles if roles is not None else ():
        await _see(runner, user, "Auth.RoleGet", {"role": name}, member)


async def _see(runner: Runner, user: str, method: str, fields: Fields, member: int) -> Any:
    """etcd's answer, None if both refused."""
    runner.op = Call(method, fields, member, user)
    etcd, _raftkv = await runner.call(runner.op, "final state")
    return etcd.message
