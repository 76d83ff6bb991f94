"""Settings that change how a member starts, or what it does on its own once it serves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, Server

from raftkv.api.errors import status_of
from raftkv.apply import Kind
from raftkv.backend import Meta
from raftkv.config import load
from raftkv.membership import Member
from raftkv.pb import rpc_pb2
from raftkv.raft import ConfState
from raftkv.server import Node, boot
from raftkv.wire import encode_conf_state


@asynccontextmanager
async def node(directory: Path, *argv: str) -> AsyncIterator[Node]:
    config = load([f"--data-dir={directory}", *argv], {})
    made = Node(asyncio.get_running_loop(), config, boot(config), status_of)
    try:
        yield made
    finally:
        await made.stop()


def ticks_to_lead(directory: Path, *argv: str) -> int:
    async def scenario() -> int:
        ticks: list[float] = []
        async with node(directory, *argv) as member:
            member.on_tick(ticks.append)
            await member.start()
            assert member.leader_id == member.member_id
            return len(ticks)

    return asyncio.run(scenario())


def test_a_lone_member_leads_at_once(tmp_path: Path) -> None:
    """RF-09: with a first tick after 10 s, an election timeout would take a minute."""
    assert ticks_to_lead(tmp_path, "--heartbeat-interval=10000", "--election-timeout=50000") == 0


def test_without_tick_advance_it_waits_for_the_timeout(tmp_path: Path) -> None:
    flags = ("--heartbeat-interval=5", "--election-timeout=50", "--initial-election-tick-advance=false")
    assert ticks_to_lead(tmp_path, *flags) >= 10


def test_force_new_cluster_of_a_lone_member_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> int:
        async with node(tmp_path, "--force-new-cluster") as member:
            await member.start()
            return member.member_id

    assert asyncio.run(scenario()) == asyncio.run(scenario())


def test_force_new_cluster_drops_the_other_members(tmp_path: Path) -> None:
    """F-73: it leads alone at once, and takes writes; what it holds stays."""

    async def given_others() -> None:
        async with node(tmp_path) as member:
            await member.start()
            assert (await apply(member, Kind.PUT, rpc_pb2.PutRequest(key=b"k", value=b"v")))[0] == 2
            txn = member.backend.begin_write()
            for number in (77, 78):
                member.members.add(txn, Member(number, (f"http://10.0.0.7:{number}",)))
            voters = ConfState(voters=tuple(each.id for each in member.members))
            txn.put(Meta.CONF_STATE, encode_conf_state(voters), db=member.backend.tables.meta)
            member.backend.commit()

    async def alone() -> None:
        async with node(tmp_path, "--force-new-cluster") as member:
            await asyncio.wait_for(member.start(), 20)
            assert [each.id for each in member.members] == [member.member_id]
            assert member.members.removed == [77, 78]
            assert member.leader_id == member.member_id
            assert (await apply(member, Kind.PUT, rpc_pb2.PutRequest(key=b"k", value=b"w")))[0] == 3

    asyncio.run(given_others())
    asyncio.run(alone())


async def apply(member: Node, kind: Kind, request: Any) -> Any:
    """What applying gave."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    member.propose(kind, request.SerializeToString(), asyncio.Future.set_result, result)
    return await asyncio.wait_for(result, 20)


def test_history_is_compacted_automatically(tmp_path: Path) -> None:
    """CMP-12, end to end: what is older than the period becomes unreadable."""
    server = Server(RAFTKV, tmp_path, ("--auto-compaction-retention=500ms",))
    try:
        server.start()
        with connect(server.endpoint) as channel:
            kv = Calls(channel).KV
            first = kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20).header.revision
            deadline = time.monotonic() + 30
            while readable(kv, first) and time.monotonic() < deadline:
                kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20)
                time.sleep(0.05)
            assert not readable(kv, first)
            assert kv.Range(rpc_pb2.RangeRequest(key=b"k"), timeout=20).count == 1
        assert "compacted automatically" in server.log_text()
    finally:
        server.stop()


def readable(kv: Any, revision: int) -> bool:
    try:
        kv.Range(rpc_pb2.RangeRequest(key=b"k", revision=revision), timeout=20)
    except grpc.RpcError as refusal:
        if refusal.code() is not grpc.StatusCode.OUT_OF_RANGE:
            raise
        return False
    return True
