"""The leader's clock for leases: who became primary, what has run out, and how fast it is revoked.

Expiry is a revoke through the log, like a client's (L-14); a member never drops a lease on its own clock. Owns the pace
(L-15); the deadlines are the lessor's.
"""

from __future__ import annotations

from collections.abc import Callable
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
    ) -> None:
        """`term`: the one that this member leads in. `late_s`: ticks further apart show that it was suspended."""
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

    def _on_revoked(self, _context: None, result: Any) -> None:
        self._in_flight -= 1
        if type(result) is tuple:
            self.expired += 1
