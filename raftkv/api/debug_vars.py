"""GET /debug/vars: what Raft thinks of itself, in the form of etcd's page of that name (H-62).

What belongs to the Go runtime is not there, nor is the command line.
"""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv.raft import ProgressState, Role

if TYPE_CHECKING:
    from raftkv.server import Node

PATH: Final = "/debug/vars"

_JSON: Final = [("content-type", "application/json; charset=utf-8")]

_ROLES: Final = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
_PROGRESS: Final = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}


class Answerable(Protocol):
    """The request, as this page sees it."""

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


def answer(node: Node, request: Answerable) -> None:
    request.respond(200, _JSON, json.dumps(describe(node)).encode() + b"\n")


def describe(node: Node) -> dict[str, Any]:
    """The page. Ids are hex texts."""
    status = node.raft_status()
    return {
        "file_descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "raft.status": {
            "id": f"{status.id:x}",
            "term": status.term,
            "vote": f"{status.vote:x}",
            "commit": status.committed,
            "lead": f"{status.lead:x}",
            "raftState": _ROLES[status.role],
            "applied": status.applied,
            "progress": {
                f"{member_id:x}": {"match": each.match, "next": each.next, "state": _PROGRESS[each.state]}
                for member_id, each in status.progress.items()
            },
            "leadtransferee": f"{status.lead_transferee:x}",
        },
    }
