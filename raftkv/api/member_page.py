"""GET /raftkv/member: this member as it sees itself and the others, in JSON, for people and `raftkv cluster status`.

Everything is this member's own knowledge at this moment; nothing is asked of anybody. Ids are hex texts, as etcdctl
prints them: as numbers they would not survive JavaScript or jq.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv.pb import rpc_pb2
from raftkv.version import RAFTKV_VERSION

if TYPE_CHECKING:
    from raftkv.raft import PeerStatus
    from raftkv.server import Node
    from raftkv.server.peers import Link

PATH: Final = "/raftkv/member"

_JSON: Final = [("content-type", "application/json")]


class Answerable(Protocol):
    """The request, as this page sees it."""

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


def answer(node: Node, request: Answerable) -> None:
    request.respond(200, _JSON, json.dumps(describe(node), separators=(",", ":")).encode())


def describe(node: Node) -> dict[str, Any]:
    """The page. Sizes in bytes, times in seconds; null: not known, or there is none."""
    status = node.raft_status()
    return {
        "name": node.config.name,
        "id": _hex(node.member_id),
        "cluster_id": _hex(node.cluster_id),
        "version": RAFTKV_VERSION,
        "role": status.role.value,
        "is_learner": node.is_learner,
        "term": status.term,
        "vote": _hex(status.vote),
        "leader": _hex(status.lead),
        "commit_index": status.committed,
        "applied_index": node.applier.index,
        "last_index": status.last_index,
        "revision": node.store.current_revision,
        "db": {
            "size_bytes": node.backend.size_bytes,
            "in_use_bytes": node.backend.in_use_bytes,
            "quota_bytes": node.config.quota_backend_bytes,
        },
        "alarms": [
            {"member": _hex(member_id), "alarm": rpc_pb2.AlarmType.Name(alarm)}  # type: ignore[arg-type]
            for member_id, alarm in node.alarms.active()
        ],
        "peers": [_peer(node, link, status.progress.get(link.peer_id)) for link in node.peering.links],
    }


def _peer(node: Node, link: Link, progress: PeerStatus | None) -> dict[str, Any]:
    member = node.members.get(link.peer_id)
    return {
        "id": _hex(link.peer_id),
        "name": member.name if member is not None else "",
        "url": link.url,
        "version": link.version,
        "connected_for_s": None if link.up_since_s is None else round(node.now() - link.up_since_s, 3),
        # Of a connection that is gone they would look like news.
        "rtt_s": round(link.rtt_s, 6) if link.up and link.rtt_s is not None else None,
        "mean_rtt_s": round(link.mean_rtt_s, 6) if link.up and link.rtt_s is not None else None,
        "disconnects": link.disconnects,
        "lost_messages": link.lost,
        "sent_bytes": link.sent_bytes,
        "progress": None if progress is None else _progress(progress),
    }


def _progress(progress: PeerStatus) -> dict[str, Any]:
    """What only a leader knows of the others."""
    return {
        "state": progress.state.value,
        "match_index": progress.match,
        "next_index": progress.next,
        "is_learner": progress.is_learner,
        "is_active": progress.recent_active,
        "inflight_messages": progress.inflight_msgs,
        "inflight_bytes": progress.inflight_bytes,
    }


def _hex(member_id: int) -> str | None:
    """As etcdctl prints ids; None for nobody."""
    return f"{member_id:x}" if member_id else None
