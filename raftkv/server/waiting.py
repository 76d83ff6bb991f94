"""Why a request was not done in time: the three texts of G-52 say different things to whoever runs the cluster.

Remembers when leaders were elected; asks since when other members could be reached. Decides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raftkv.raft import NOBODY
from raftkv.server.errors import (
    NodeError,
    NoLeaderInTime,
    RequestTimedOut,
    TimedOutByConnectionLoss,
    TimedOutByLeaderFailure,
)

if TYPE_CHECKING:
    from collections.abc import Collection

ConnectedSince = Callable[[int], "float | None"]
"""Loop time since when a member could be reached without a break; None when it cannot be reached."""


class Waiting:
    def __init__(
        self,
        own_id: int,
        election_timeout_s: float,
        connected_since: ConnectedSince,
        voters: Callable[[], Collection[int]],
    ) -> None:
        self._own_id = own_id
        self._election_timeout_s = election_timeout_s
        self._connected_since = connected_since
        self._voters = voters
        self.leader_id = NOBODY
        self._elected_s = float("-inf")
        self._lost_s = float("-inf")
        """When the last leader known was lost; while none was known ever, nobody has accepted anything."""

    def on_leader(self, leader_id: int, now: float) -> None:
        if leader_id not in (NOBODY, self.leader_id):
            self._elected_s = now
        if leader_id == NOBODY != self.leader_id:
            self._lost_s = now
        self.leader_id = leader_id

    def proposal_error(self, started_s: float, *, proposed: bool) -> NodeError:
        """Of a proposal that waited since then; `proposed`: it was given to Raft. One that came while a leader was
        known counts as accepted: that it was held back because the leader could not be reached is our own affair."""
        if not proposed and self.leader_id == NOBODY and started_s >= self._lost_s:
            return NoLeaderInTime()
        if self._elected_s - 2 * self._election_timeout_s < started_s < self._elected_s:
            return TimedOutByLeaderFailure()
        if self.leader_id not in (NOBODY, self._own_id):
            connected = self._is_connected_since(self.leader_id, started_s)
        else:
            connected = self.leader_id == NOBODY or self._quorum_since(started_s)
        return RequestTimedOut() if connected else TimedOutByConnectionLoss()

    def _is_connected_since(self, member_id: int, started_s: float) -> bool:
        since = self._connected_since(member_id)
        return since is not None and since <= started_s

    def _quorum_since(self, started_s: float) -> bool:
        voters = self._voters()
        connected = sum(each == self._own_id or self._is_connected_since(each, started_s) for each in voters)
        return connected > len(voters) // 2

    def connected_for(self, seconds: float, now: float) -> set[int]:
        """The voters, this one included, that could be reached all that time (CL-24)."""
        return {
            each for each in self._voters() if each == self._own_id or self._is_connected_since(each, now - seconds)
        }
