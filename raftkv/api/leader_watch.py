"""Streams that asked for a leader end when there has been none for a while (G-21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raftkv.rpc.service import Call
    from raftkv.server import Node

ELECTION_TIMEOUTS: Final = 3


class LeaderWatch:
    """One stream's. `is_lost` is asked several times a second."""

    __slots__ = ("_leaderless_since", "_node", "_wanted")

    def __init__(self, node: Node, call: Call) -> None:
        self._node = node
        self._wanted = call.metadata("hasleader") == "true"
        self._leaderless_since: float | None = None

    def is_lost(self, now: float) -> bool:
        if not self._wanted:
            return False
        if self._node.leader_id:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = now
        else:
            return now - self._leaderless_since >= ELECTION_TIMEOUTS * self._node.config.election_timeout_ms / 1000
        return False
