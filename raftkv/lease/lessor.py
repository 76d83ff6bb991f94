"""The lessor: which leases there are, which keys hang on them, and on the leader, when they run out.

Two halves that must not be mixed up. Granting, revoking, attaching and checkpointing are applied log entries:
the same on every member, durable with the batch's transaction, blind to time. Renewing and expiring happen on
the leader alone, in memory, with the time handed in as seconds of a monotonic clock (`now_s`). The second
half never changes the first: a lease that has run out is revoked by a log entry like any other (L-14).

Knows nothing of revisions, values, permissions or Raft. If a transaction handed in is aborted, `load` again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from raftkv.backend.handles import ReadTxn, WriteTxn
from raftkv.backend.schema import (
    Tables,
    pack_lease,
    pack_lease_id,
    pack_lease_key,
    unpack_lease,
    unpack_lease_id,
    unpack_lease_key,
)
from raftkv.lease.errors import (
    LeaseExists,
    LeaseExpired,
    LeaseNotFound,
    LeaseTTLTooLarge,
    NotPrimaryLessor,
)
from raftkv.lease.expiry import ExpiryClock, Lease
from raftkv.lease.ttl import MAX_TTL_S

if TYPE_CHECKING:
    from raftkv.histogram import Histogram

EXPIRED_LIMIT: Final = 500
"""Leases that one scan reports at most (L-15)."""
CHECKPOINT_INTERVAL_S: Final = 300.0
CHECKPOINT_LIMIT: Final = 1000
"""How often, and how many in one log entry (L-54)."""


class Lessor:
    """See the module. Counters are plain integers for the metrics of contract 11.4."""

    def __init__(self, tables: Tables, *, checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S) -> None:
        self._tables = tables
        self._checkpoint_interval_s = checkpoint_interval_s
        self._leases: dict[int, Lease] = {}
        self._clock: ExpiryClock | None = None
        """Set on the leader only."""
        self.granted = 0
        self.granted_ttls: Histogram | None = None
        """Given by whoever measures: seconds."""
        self.revoked = 0
        self.renewed = 0

    def load(self, txn: ReadTxn) -> None:
        """Read all leases from disk: at start, and after a snapshot was installed. Ends a leadership.
        Attached keys stay on disk, so this costs by the number of leases, not of keys (L-42). Raises
        SchemaError."""
        self._clock = None
        self._leases = {}
        with txn.cursor(self._tables.leases) as cursor:
            for key, value in cursor.iternext():
                lease_id = unpack_lease_id(key)
                self._leases[lease_id] = Lease(lease_id, *unpack_lease(value))

    def rebind(self, tables: Tables) -> None:
        """The environment was reopened (Defragment, snapshot): its old handles are dead."""
        self._tables = tables

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease_id: int) -> bool:
        return lease_id in self._leases

    # --- applied on every member ----------------------------------------------------------------------------

    def grant(self, txn: WriteTxn, lease_id: int, ttl_s: int) -> int:
        """Make a lease; the TTL granted. The proposer has chosen the id (L-01) and raised the TTL
        (`granted_ttl_s`).

        Raises LeaseNotFound for id 0, as etcd does, LeaseTTLTooLarge (L-03), LeaseExists (L-02), in this
        order.
        """
        if lease_id == 0:
            raise LeaseNotFound("a lease cannot have id 0")
        if ttl_s > MAX_TTL_S:
            raise LeaseTTLTooLarge(f"a TTL of {ttl_s} s, at most {MAX_TTL_S} s")
        if lease_id in self._leases:
            raise LeaseExists(f"lease {lease_id:x} exists")
        lease = Lease(lease_id, max(ttl_s, 1))
        txn.put(pack_lease_id(lease_id), pack_lease(lease.ttl_s, 0), db=self._tables.leases)
        self._leases[lease_id] = lease
        self.granted += 1
        if self.granted_ttls is not None:
            self.granted_ttls.observe(lease.ttl_s)
        if self._clock is not None:
            self._clock.add(lease)
        return lease.ttl_s

    def revoke(self, txn: WriteTxn, lease_id: int) -> list[bytes]:
        """End a lease; the keys to delete in the same transaction, sorted (L-11). The `detach` calls that
        come from deleting them find nothing and do nothing. Raises LeaseNotFound (L-10)."""
        lease = self._lease(lease_id)
        entries = list(self._entries(txn, lease_id))
        for key, _ in entries:
            txn.delete(key, db=self._tables.lease_keys)
        txn.delete(pack_lease_id(lease_id), db=self._tables.leases)
        del self._leases[lease_id]
        self.revoked += 1
        if self._clock is not None:
            self._clock.drop(lease)
        return sorted(user_key for _, user_key in entries)

    def attach(self, txn: WriteTxn, user_key: bytes, lease_id: int) -> None:
        """Hang a key on a lease, which apply has made sure exists before the put (PUT-02)."""
        assert lease_id in self._leases, "a key is put under a lease that is not there"
        key, value = pack_lease_key(lease_id, user_key)
        txn.put(key, value, db=self._tables.lease_keys)

    def detach(self, txn: WriteTxn, user_key: bytes, lease_id: int) -> None:
        """Take a key off a lease; none of it happens when the lease is revoked in this transaction (L-41)."""
        if lease_id in self._leases:
            txn.delete(pack_lease_key(lease_id, user_key)[0], db=self._tables.lease_keys)

    def move(self, txn: WriteTxn, moves: Iterable[tuple[bytes, int, int]]) -> None:
        """Follow what the store did: (user key, old lease, new lease) for each change, in order; 0 = none. A
        key hangs on one lease at most, that of its last put (L-40, L-41, DEL-04)."""
        for user_key, old_id, new_id in moves:
            if old_id == new_id:
                continue
            if old_id:
                self.detach(txn, user_key, old_id)
            if new_id:
                self.attach(txn, user_key, new_id)

    def checkpoint(self, txn: WriteTxn, lease_id: int, remaining_s: int) -> None:
        """Store what is left of a lease for the next leader to start from; 0 = all of it (L-54, L-55).

        Raises LeaseNotFound. More than the TTL counts as all of it, as less than nothing does.
        """
        lease = self._lease(lease_id)
        lease.remaining_s = remaining_s if 0 < remaining_s < lease.ttl_s else 0
        txn.put(pack_lease_id(lease_id), pack_lease(lease.ttl_s, lease.remaining_s), db=self._tables.leases)

    # --- answered by any member -----------------------------------------------------------------------------

    def keys(self, txn: ReadTxn, lease_id: int) -> list[bytes]:
        """Attached keys, sorted (L-31). Raises LeaseNotFound."""
        self._lease(lease_id)
        return sorted(user_key for _, user_key in self._entries(txn, lease_id))

    def ttl_s(self, lease_id: int) -> int:
        """Granted TTL. Raises LeaseNotFound."""
        return self._lease(lease_id).ttl_s

    def ids(self, now_s: float) -> list[int]:
        """All leases: on the leader those that run out first come first, those that tie and elsewhere all as they were
        granted (L-34)."""
        if self._clock is not None:
            self._started_clock(now_s)
        return [lease.id for lease in sorted(self._leases.values(), key=lambda lease: lease.expires_at_s)]

    # --- the leader's clock ---------------------------------------------------------------------------------

    @property
    def is_primary(self) -> bool:
        return self._clock is not None

    def promote(self, now_s: float, extend_s: float) -> None:
        """This member leads, and has applied the first entry of its term: start counting (L-50, L-51, L-53).
        `extend_s` is one election timeout."""
        self._clock = ExpiryClock(self._leases.values(), now_s, extend_s, self._checkpoint_interval_s)

    def demote(self) -> None:
        """This member does not lead any more: nothing expires here (L-52)."""
        self._clock = None
        for lease in self._leases.values():
            lease.expires_at_s = math.inf

    def renew(self, lease_id: int, now_s: float) -> int:
        """Start the TTL anew; the TTL (L-20). If `has_checkpoint`, the caller proposes a checkpoint of 0
        first.

        Raises NotPrimaryLessor (L-26), LeaseNotFound (answer TTL 0, L-21), LeaseExpired (L-25).
        """
        clock = self._started_clock(now_s)
        lease = self._lease(lease_id)
        if not clock.renew(lease, now_s):
            raise LeaseExpired(f"lease {lease_id:x} has run out and waits for its revoke")
        self.renewed += 1
        return lease.ttl_s

    def has_checkpoint(self, lease_id: int) -> bool:
        """Whether a new leader would start this lease with less than its TTL. Raises LeaseNotFound."""
        return self._lease(lease_id).remaining_s > 0

    def remaining_s(self, lease_id: int, now_s: float) -> int:
        """Whole seconds left, cut towards zero; negative for one that waits for its revoke (L-31).

        Raises NotPrimaryLessor (L-32), LeaseNotFound (answer TTL -1, L-30).
        """
        self._started_clock(now_s)
        return int(self._lease(lease_id).expires_at_s - now_s)

    def expired(self, now_s: float, limit: int = EXPIRED_LIMIT) -> list[int]:
        """Leases to propose the revoke of; the same ones again after 7 s, should they still be there (L-15).
        Empty where nobody counts (L-52)."""
        if self._clock is None:
            return []
        return self._started_clock(now_s).expired(now_s, limit)

    def next_deadline_s(self, now_s: float) -> float | None:
        """When `expired` next has something to report, in the caller's time; None = not before another grant
        or promotion."""
        if self._clock is None:
            return None
        return self._started_clock(now_s).next_look_s()

    def due_checkpoints(self, now_s: float, limit: int = CHECKPOINT_LIMIT) -> list[tuple[int, int]]:
        """(lease id, remaining_s) to propose as checkpoints, for leases that outlive the interval (L-54).
        Empty where nobody counts."""
        if self._clock is None:
            return []
        return self._started_clock(now_s).due_checkpoints(now_s, limit)

    def _started_clock(self, now_s: float) -> ExpiryClock:
        clock = self._clock
        if clock is None:
            raise NotPrimaryLessor("this member does not lead")
        clock.start_fresh(now_s)
        return clock

    def _lease(self, lease_id: int) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise LeaseNotFound(f"no lease {lease_id:x}")
        return lease

    def _entries(self, txn: ReadTxn, lease_id: int) -> Iterator[tuple[bytes, bytes]]:
        """(table key, user key) of every key attached."""
        prefix = pack_lease_id(lease_id)
        with txn.cursor(self._tables.lease_keys) as cursor:
            if not cursor.set_range(prefix):
                return
            for key, value in cursor.iternext():
                if not key.startswith(prefix):
                    return
                yield key, unpack_lease_key(key, value)[1]
