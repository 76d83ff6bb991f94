"""When leases run out, as the leader counts it.

Owns deadlines, in seconds of a monotonic clock that the caller reads (RF-74); this module reads none. Nothing
in here is replicated: a new leader starts its own count (L-50), and a member that is not leader has none
(L-52). Knows no tables. That a lease has run out is only a reason to propose its revoke (L-14).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final

REVOKE_RATE: Final = 1000
"""Leases that may run out within one second after a change of leader; later ones are put off (L-51)."""
REVOKE_RETRY_S: Final = 7.0
"""A lease reported as expired is reported again after this time, should it still be there: its revoke was
lost (L-15).
"""
_STALE_SLACK: Final = 64
"""Dead heap entries that are not worth a rebuild."""


class Lease:
    """One lease. What is stored (L-55), and the leader's deadline."""

    __slots__ = ("expires_at_s", "id", "remaining_s", "ttl_s")

    def __init__(self, lease_id: int, ttl_s: int, remaining_s: int = 0) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        """Granted TTL."""
        self.remaining_s = remaining_s
        """What a checkpoint left of it for the next leader to start from; 0 = all of it (L-54)."""
        self.expires_at_s = math.inf
        """Deadline on the leader's clock. inf: nobody counts, or not yet."""


class DeadlineHeap:
    """Leases by the time at which each must be looked at again.

    Every lease has exactly one live entry. Putting a lease off does not touch the heap: the entry is found to
    be early when its time comes, and moves then, so a renewal costs O(1) however often it happens. A dropped
    lease leaves a dead entry behind; the heap is rebuilt before the dead outnumber the living, so they cost
    O(1) each as well.
    """

    __slots__ = ("_entries", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Lease]] = []
        """(time, serial, lease); the serial orders equal times by arrival, and tells a live entry from a dead
        one."""
        self._entries: dict[int, int] = {}
        """lease id -> serial of its live entry."""
        self._serial = 0

    def push(self, time_s: float, lease: Lease) -> None:
        """Enter a lease, or replace its entry."""
        self._serial += 1
        self._entries[lease.id] = self._serial
        heappush(self._heap, (time_s, self._serial, lease))
        self._drop_dead()

    def discard(self, lease: Lease) -> None:
        if self._entries.pop(lease.id, None) is not None:
            self._drop_dead()

    def first(self) -> tuple[float, Lease] | None:
        """The earliest live entry, which stays."""
        heap, entries = self._heap, self._entries
        while heap:
            time_s, serial, lease = heap[0]
            if entries.get(lease.id) == serial:
                return time_s, lease
            heappop(heap)
        return None

    def _drop_dead(self) -> None:
        if len(self._heap) > 2 * len(self._entries) + _STALE_SLACK:
            self._heap = [entry for entry in self._heap if self._entries.get(entry[2].id) == entry[1]]
            heapify(self._heap)


class ExpiryClock:
    """Deadlines of all leases, for one term of leadership. Made when a member becomes leader, dropped when it
    no longer is."""

    __slots__ = ("_checkpoint_interval_s", "_checkpoints", "_deadlines", "_fresh")

    def __init__(self, leases: Iterable[Lease], now_s: float, extend_s: float, checkpoint_interval_s: float) -> None:
        """Give every lease a new deadline: its remaining or whole TTL, and `extend_s` (one election timeout)
        for the time in which nobody could renew it (L-50)."""
        self._deadlines = DeadlineHeap()
        self._checkpoints = DeadlineHeap()
        self._checkpoint_interval_s = checkpoint_interval_s
        self._fresh: dict[int, Lease] = {}
        """Granted since the clock was last read. Bounded by what is applied between two readings."""
        by_deadline = sorted(leases, key=lambda lease: (lease.remaining_s or lease.ttl_s, lease.id))
        deadlines = [now_s + (lease.remaining_s or lease.ttl_s) + extend_s for lease in by_deadline]
        for lease, deadline_s in zip(by_deadline, _spread(deadlines), strict=True):
            self._start(lease, now_s, deadline_s)

    def add(self, lease: Lease) -> None:
        """A lease was granted. Applying reads no clock, so its time starts with the next call that brings
        one: a lease may live a little longer than its TTL, never shorter (L-16)."""
        self._fresh[lease.id] = lease

    def drop(self, lease: Lease) -> None:
        """A lease was revoked."""
        self._fresh.pop(lease.id, None)
        self._deadlines.discard(lease)
        self._checkpoints.discard(lease)

    def start_fresh(self, now_s: float) -> None:
        """Start the time of leases granted since the last call."""
        for lease in self._fresh.values():
            self._start(lease, now_s, now_s + lease.ttl_s)
        self._fresh.clear()

    def renew(self, lease: Lease, now_s: float) -> bool:
        """Deadline = now + granted TTL (L-20). False when it has run out already (L-25)."""
        if lease.expires_at_s <= now_s:
            return False
        deadline_s = now_s + lease.ttl_s
        if deadline_s < lease.expires_at_s:
            # The first renewal under a new leader takes back what `extend_s` and the spreading had added; an
            # entry left in its later place would have the lease expire too late.
            self._deadlines.push(deadline_s, lease)
        lease.expires_at_s = deadline_s
        return True

    def expired(self, now_s: float, limit: int) -> list[int]:
        """Ids of leases that have run out, longest first. Each comes again after REVOKE_RETRY_S, until it is
        dropped."""
        due: list[int] = []
        while len(due) < limit:
            lease = self._due(now_s)
            if lease is None:
                break
            self._deadlines.push(now_s + REVOKE_RETRY_S, lease)
            due.append(lease.id)
        return due

    def next_look_s(self) -> float | None:
        """When `expired` can next have something to say; None without leases."""
        while (first := self._deadlines.first()) is not None:
            time_s, lease = first
            if lease.expires_at_s <= time_s:
                return time_s
            self._deadlines.push(lease.expires_at_s, lease)
        return None

    def due_checkpoints(self, now_s: float, limit: int) -> list[tuple[int, int]]:
        """(id, remaining_s) of long leases that ran for a checkpoint interval since the last time (L-54)."""
        due: list[tuple[int, int]] = []
        while len(due) < limit:
            first = self._checkpoints.first()
            if first is None or first[0] > now_s:
                break
            lease = first[1]
            self._checkpoints.push(now_s + self._checkpoint_interval_s, lease)
            remaining_s = math.ceil(lease.expires_at_s - now_s)
            if 0 < remaining_s < lease.ttl_s:
                due.append((lease.id, remaining_s))
        return due

    def _start(self, lease: Lease, now_s: float, deadline_s: float) -> None:
        lease.expires_at_s = deadline_s
        self._deadlines.push(deadline_s, lease)
        if lease.ttl_s > self._checkpoint_interval_s:
            self._checkpoints.push(now_s + self._checkpoint_interval_s, lease)

    def _due(self, now_s: float) -> Lease | None:
        """The lease to look at first, if it has run out; entries that a renewal left too early move on the
        way."""
        look_s = self.next_look_s()
        if look_s is None or look_s > now_s:
            return None
        first = self._deadlines.first()
        assert first is not None
        return first[1]


def _spread(deadlines_s: list[float]) -> list[float]:
    """Ascending deadlines, put off so that any second holds REVOKE_RATE of them at most (L-51). None gets
    earlier, and none moves without need."""
    spread: list[float] = []
    for at, deadline_s in enumerate(deadlines_s):
        if at >= REVOKE_RATE:
            deadline_s = max(deadline_s, spread[at - REVOKE_RATE] + 1.0)
        spread.append(deadline_s)
    return spread
