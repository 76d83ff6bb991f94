"""Linearizable reads that wait for proof that their leader still leads (thesis §6.4).

A read notes the commit index. The leader then needs word from a quorum, sent after the read
arrived, that nobody there follows a newer leader; after that, the noted index covers everything
that was committed anywhere when the read arrived.

Rounds are numbers. Each read opens one, every heartbeat and append carries the newest, every
answer echoes it. An echo of n from a quorum confirms all rounds up to n; so a lost heartbeat costs
nothing but time, and appends under way for other reasons confirm reads as well.

Owns the two queues. Leaders only; emptied at every change of role.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .types import Index, NodeId


@dataclass(slots=True, frozen=True)
class PendingRead:
    round: int
    index: Index
    """Commit index when the read arrived: it may be served once this is applied."""
    asked_by: NodeId
    context: bytes


class ReadOnly:
    __slots__ = ("_max_pending", "held", "round", "waiting")

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self.round = 0
        """Newest round of this term. A leader of another term begins anew: its messages cannot be
        confused with ours, since those of old terms are dropped."""
        self.held: list[tuple[NodeId, bytes]] = []
        """Reads before the first commit of the term: our commit index may be behind (§6.4, step 1)."""
        self.waiting: deque[PendingRead] = deque()
        """Rounds increase. held and waiting together are bounded; a read that finds them full is
        dropped, and whoever asked asks again (RF-35)."""

    def reset(self) -> None:
        self.round = 0
        self.held = []
        self.waiting.clear()

    @property
    def full(self) -> bool:
        return len(self.held) + len(self.waiting) >= self._max_pending

    def hold(self, asked_by: NodeId, context: bytes) -> None:
        self.held.append((asked_by, context))

    def take_held(self) -> list[tuple[NodeId, bytes]]:
        held, self.held = self.held, []
        return held

    def open_round(self, index: Index, asked_by: NodeId, context: bytes) -> None:
        self.round += 1
        self.waiting.append(PendingRead(self.round, index, asked_by, context))

    def take_confirmed(self, round_: int) -> list[PendingRead]:
        """Reads whose round a quorum has echoed, oldest first."""
        confirmed = []
        while self.waiting and self.waiting[0].round <= round_:
            confirmed.append(self.waiting.popleft())
        return confirmed
