"""The leader's clock for leases: who became primary, what has run out, how fast it is revoked, and what the next leader
is told of the time that is left.

Expiry is a revoke through the log, like a client's (L-14); a member never drops a lease on its own clock. Owns the pace
(L-15, L-54); the deadlines are the lessor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from raftkv.apply import Kind
from raftkv.pb import peer_pb2

if TYPE_CHECKING:
    from raftkv.lease import Lessor
    from raftkv.server.proposals import Finish

SCAN_INTERVAL_S: Final = 0.5
MAX_IN_FLIGHT: Final = 500
"""Revokes proposed and not yet applied; also the most that one scan adds, so at most 1000 leases a second (L-51). etcd
has 16 on the way because each is a log entry of its own; here they share one."""


class LeaseKeeper:
    __slots__ = (
        "_checkpoints",
        "_extend_s",
        "_in_flight",
        "_last_scan_s",
        "_last_tick_s",
        "_late_s",
        "_lessor",
        "_propose",
        "_term",
        "expired",
        "primary",
    )

    def __init__(
        self,
        lessor: Lessor,
        propose: Callable[[int, bytes, Finish, Any], None],
        term: Callable[[], int],
        election_timeout_s: float,
        late_s: float,
        *,
        checkpoints: bool = False,
    ) -> None:
        """`term`: the one that this member leads in. `late_s`: ticks further apart show that it was suspended.
        `checkpoints`: the feature gate LeaseCheckpoint."""
        self._checkpoints = checkpoints
        self._lessor = lessor
        self._propose = propose
        self._term = term
        self._extend_s = election_timeout_s
        self._late_s = late_s
        self._last_tick_s = 0.0
        self._last_scan_s = 0.0
        self._in_flight = 0
        self.primary = False
        """This member leads and has applied the first entry of its term, so it knows every lease (L-50)."""
        self.expired = 0
        """etcd_debugging_server_lease_expired_total"""

    def promote(self, now: float) -> None:
        self.primary = True
        self._last_tick_s = now
        self._lessor.promote(now, self._extend_s)

    def demote(self) -> None:
        self.primary = False
        self._lessor.demote()

    def on_tick(self, now: float) -> None:
        late, self._last_tick_s = now - self._last_tick_s > self._late_s, now
        if late:
            # Renewals that came meanwhile are in the sockets yet: hear them first.
            self._last_scan_s = now
        if not self.primary or now - self._last_scan_s < SCAN_INTERVAL_S:
            return
        self._last_scan_s = now
        room = MAX_IN_FLIGHT - self._in_flight
        for lease_id in self._lessor.expired(now, room) if room else ():
            self._in_flight += 1
            # With the term: whoever leads when this is appended may know better (see apply).
            message = peer_pb2.LeaseExpiry(ID=lease_id, term=self._term()).SerializeToString()
            self._propose(Kind.LEASE_EXPIRE, message, self._on_revoked, None)
        if self._checkpoints:
            due = self._lessor.due_checkpoints(now)
            if due:
                self._checkpoint(due)

    def renew(self, lease_id: int, now: float) -> int:
        """See `Lessor.renew`. The next leader must not begin with what was left before it (L-54)."""
        ttl_s = self._lessor.renew(lease_id, now)
        if self._lessor.has_checkpoint(lease_id):
            self._checkpoint([(lease_id, 0)])
        return ttl_s

    def _checkpoint(self, leases: Iterable[tuple[int, int]]) -> None:
        """(lease id, seconds left). One that is lost is made up for by the next, or by a full TTL."""
        message = peer_pb2.LeaseCheckpoints(term=self._term())
        for lease_id, remaining_s in leases:
            message.leases.add(ID=lease_id, remaining_s=remaining_s)
        self._propose(Kind.LEASE_CHECKPOINT, message.SerializeToString(), _forget_result, None)

    def _on_revoked(self, _context: None, result: Any) -> None:
        self._in_flight -= 1
        if type(result) is tuple:
            self.expired += 1


def _forget_result(_context: None, _result: Any) -> None:
    """Nobody waits for a checkpoint."""
