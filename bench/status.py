"""Who leads and how far each member is, as Maintenance.Status tells it.

Owns waiting for a leader and for a member that catches up. Knows nothing of load or of processes beyond
whether they run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Final, NamedTuple

from bench.load import LoadError, close, trust
from bench.servers import HOST, Cluster, Server
from raftkv.pb import rpc_pb2
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import RpcError

STATUS_PATH: Final = b"/etcdserverpb.Maintenance/Status"
CALL_TIMEOUT_S: Final = 1.0
PROGRESS_TIMEOUT_S: Final = 0.2
"""A member that catches up is asked before it serves. An answer that took longer than this is too old to compare."""
POLL_S: Final = 0.02
RECONNECT_S: Final = 0.05
LEADER_TIMEOUT_S: Final = 30.0
CATCH_UP_TIMEOUT_S: Final = 120.0


class Status(NamedTuple):
    """What one member says. `leader_id` is 0 while it knows of none."""

    member_id: int
    leader_id: int
    term: int
    applied: int
    """Raft index. etcd has one for each put, raftkv one for each batch: compare only within a cluster."""


class Leadership(NamedTuple):
    """Equal to another: the same leader without an election in between."""

    server: Server
    term: int


def agreed_leader(servers: Sequence[Server], statuses: Sequence[Status | None]) -> Leadership | None:
    """The leader, if every one of `servers` answered and all name the same one, of them, in the same term."""
    views = {(status.leader_id, status.term) for status in statuses if status is not None}
    if None in statuses or len(views) != 1:
        return None
    leader_id, term = views.pop()
    for server, status in zip(servers, statuses, strict=True):
        if status is not None and status.member_id == leader_id:
            return Leadership(server, term)
    return None


def wait_leader(cluster: Cluster, timeout_s: float = LEADER_TIMEOUT_S) -> Leadership:
    """Until the running members agree on one of them. Raises LoadError, and ServerError when one has ended."""
    servers = cluster.running
    leadership, statuses = asyncio.run(_wait_leader(servers, timeout_s))
    if leadership is None:
        cluster.check_running()
        raise LoadError(f"{cluster.name}: the members do not agree on a leader after {timeout_s:g} s: {statuses}")
    return leadership


def wait_caught_up(leader: Server, follower: Server, timeout_s: float = CATCH_UP_TIMEOUT_S) -> float:
    """Until the follower has applied what the leader had a moment before. Seconds that took, from the call.

    Raises LoadError, and ServerError when the follower has ended.
    """
    took_s = asyncio.run(_wait_caught_up(leader, follower, timeout_s))
    if took_s is None:
        follower.check_running()
        raise LoadError(f"{follower.program.name} {follower.name} has not caught up after {timeout_s:g} s")
    return took_s


async def _wait_leader(servers: Sequence[Server], timeout_s: float) -> tuple[Leadership | None, list[Status | None]]:
    channels = [_connect(server) for server in servers]
    give_up_s = perf_counter() + timeout_s
    try:
        while True:
            statuses = await asyncio.gather(*map(ask, channels))
            leadership = agreed_leader(servers, statuses)
            ended = not all(server.running for server in servers)
            if leadership is not None or ended or perf_counter() > give_up_s:
                return leadership, statuses
            await asyncio.sleep(POLL_S)
    finally:
        close(channels)


async def _wait_caught_up(leader: Server, follower: Server, timeout_s: float) -> float | None:
    channels = [_connect(leader), _connect(follower)]
    began_s = perf_counter()
    try:
        while perf_counter() < began_s + timeout_s:
            # One after the other: the follower is held to what the leader had already applied before.
            wanted = await ask(channels[0], PROGRESS_TIMEOUT_S)
            reached = await ask(channels[1], PROGRESS_TIMEOUT_S)
            if wanted is not None and reached is not None and reached.applied >= wanted.applied:
                return perf_counter() - began_s
            if not follower.running:
                return None
            await asyncio.sleep(POLL_S)
        return None
    finally:
        close(channels)


def _connect(server: Server) -> Channel:
    loop = asyncio.get_running_loop()
    tls = trust(server.ca_file) if server.ca_file else None
    # A member that is just starting refuses at first; how soon it is asked again is part of what is measured.
    return Channel(
        loop,
        HOST,
        server.port,
        tls=tls,
        user_agent="raftkv-bench",
        backoff_first_s=RECONNECT_S,
        backoff_max_s=RECONNECT_S,
    )


async def ask(channel: Channel, timeout_s: float = CALL_TIMEOUT_S) -> Status | None:
    """None without an answer in time."""
    try:
        answer = await channel.unary_future(STATUS_PATH, b"", timeout_s)
    except RpcError:
        return None
    status = rpc_pb2.StatusResponse.FromString(answer)
    return Status(status.header.member_id, status.leader, status.raftTerm, status.raftAppliedIndex)
