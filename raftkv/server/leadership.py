"""Handing over the leadership: because somebody asks (MoveLeader), or because the leader stops (RF-23).

Owns waiting for the new leader. The transfer itself is the core's; it is abandoned after an election timeout (RF-21).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from raftkv.raft import NOBODY
from raftkv.server.errors import BadTransferee, NodeError, NotLeader, Stopped, TransferTooSlow

if TYPE_CHECKING:
    from raftkv.raft import RawNode

POLL_S: Final = 0.02

Moved: TypeAlias = Callable[[Any, "NodeError | None"], None]
"""moved(context, None) when the target leads, or moved(context, error)."""


class Leadership:
    def __init__(
        self,
        rawnode: RawNode,
        connected_since: Callable[[int], float | None],
        schedule: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self._rawnode = rawnode
        self._connected_since = connected_since
        self._schedule = schedule
        self._timeout_s = timeout_s
        self._moves: list[tuple[float, int, Moved, Any]] = []
        """(until when, target, whom to tell); bounded by the open requests."""

    def move(self, target: int, now: float, moved: Moved, context: Any) -> None:
        status = self._rawnode.status()
        if not self._rawnode.is_leader:
            moved(context, NotLeader())  # MT-40
        elif target == status.id:
            moved(context, None)  # MT-42
        elif target == NOBODY or target not in status.conf_state.voters:
            moved(context, BadTransferee())  # MT-41
        else:
            self._rawnode.transfer_leader(target)
            self._schedule()
            self._moves.append((now + self._timeout_s, target, moved, context))

    def on_leader(self, leader_id: int) -> None:
        arrived = [each for each in self._moves if each[1] == leader_id]
        self._moves = [each for each in self._moves if each[1] != leader_id]
        for _, _, moved, context in arrived:
            moved(context, None)

    def on_tick(self, now: float) -> None:
        late = [each for each in self._moves if now >= each[0]]
        if late:
            self._moves = [each for each in self._moves if now < each[0]]
            for _, _, moved, context in late:
                moved(context, TransferTooSlow())

    def fail_all(self) -> None:
        moves, self._moves = self._moves, []
        for _, _, moved, context in moves:
            moved(context, Stopped())

    async def hand_over(self, election_timeout_s: float) -> None:
        """Before stopping: give the leadership to the voter that has been connected the longest, if this member has it.

        Waits as long as the core tries.
        """
        status = self._rawnode.status()
        others = [each for each in status.conf_state.voters if each != status.id]
        since = {each: since_s for each in others if (since_s := self._connected_since(each)) is not None}
        if not self._rawnode.is_leader or not since:
            return
        target = min(since, key=lambda each: (since[each], each))
        self._rawnode.transfer_leader(target)
        self._schedule()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + election_timeout_s
        while self._rawnode.is_leader and loop.time() < until_s:
            await asyncio.sleep(POLL_S)
