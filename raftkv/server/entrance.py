"""A member's entrance: what it tells the cluster about itself before it serves clients (G-03, CL-02).

Proposes until it is applied. Owns the trying again, and knows the two refusals after which trying again is in vain.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raftkv.apply import Kind
from raftkv.membership import DataDirectoryChanged, MemberNotFound
from raftkv.pb import peer_pb2
from raftkv.server.errors import RequestTimedOut, Stopped
from raftkv.server.peering import forgotten, removed
from raftkv.version import CLUSTER_VERSION

if TYPE_CHECKING:
    from raftkv.server.node import Node


async def enter(node: Node) -> None:
    """Publish this member; if it leads, decide the cluster's version (F-76). Raises what ended the member instead."""
    await _apply(node, Kind.PUBLISH, _own_record(node).SerializeToString())
    while not node.applier.cluster_version:
        if node.leader_id == node.member_id:
            await _apply(node, Kind.CLUSTER_VERSION, CLUSTER_VERSION.encode("ascii"))
        else:
            await _pause(node)


def _own_record(node: Node) -> peer_pb2.MemberRecord:
    return peer_pb2.MemberRecord(
        ID=node.member_id,
        name=node.config.name,
        clientURLs=[str(url) for url in node.config.advertise_client_urls],
        data_id=node.peering.identity.data_id,
    )


async def _apply(node: Node, kind: int, message: bytes) -> None:
    """Propose until it is applied, or the node has ended."""
    while True:
        applied: asyncio.Future[Any] = node.loop.create_future()
        node.propose(kind, message, _settle, applied)
        await asyncio.wait((applied, node.stopped), return_when=asyncio.FIRST_COMPLETED)
        if node.stopped.done():
            raise node.stopped.result() or Stopped
        result = applied.result()
        if type(result) is tuple:
            return
        if isinstance(result, DataDirectoryChanged):
            node.end(forgotten(node.member_id))
        elif isinstance(result, MemberNotFound) and node.members.was_removed(node.member_id):
            node.end(removed(node.member_id))
        elif not isinstance(result, RequestTimedOut):
            await _pause(node)


async def _pause(node: Node) -> None:
    await asyncio.wait((node.stopped,), timeout=node.config.heartbeat_interval_ms / 1000)
    if node.stopped.done():
        raise node.stopped.result() or Stopped


def _settle(applied: asyncio.Future[Any], result: Any) -> None:
    if not applied.done():
        applied.set_result(result)
