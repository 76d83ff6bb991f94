"""Settings that change how a member starts, or what it does on its own once it serves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, Server

from raftkv.config import StartError, load
from raftkv.membership import Member
from raftkv.pb import rpc_pb2
from raftkv.server import Node, boot


@asynccontextmanager
async def node(directory: Path, *argv: str) -> AsyncIterator[Node]:
    config = load([f"--data-dir={directory}", *argv], {})
    made = Node(asyncio.get_running_loop(), config, boot(config))
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


def test_force_new_cluster_drops_nobody(tmp_path: Path) -> None:
    """F-73 is refused as long as members cannot be dropped."""

    async def scenario() -> None:
        async with node(tmp_path, "--force-new-cluster") as member:
            txn = member.backend.begin_write()
            member.members.add(txn, Member(77, ("http://10.0.0.7:2380",)))
            member.backend.commit()
            with pytest.raises(StartError, match="would drop 1 other members"):
                await member.start()

    asyncio.run(scenario())


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
