"""The lessor against a few dicts, with time turned by hand, restarts, aborted batches and changes of
leader."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftkv.backend.schema import Tables
from raftkv.lease import LeaseExists, LeaseExpired, LeaseNotFound, Lessor
from raftkv.lease.expiry import REVOKE_RETRY_S

IDS = st.sampled_from([1, 2, 3, -1, -(2**63), 2**63 - 1])
LONG = b"p" * 600
KEYS = [b"a", b"b\x00", b"\xff", b"p" * 480, b"p" * 481, b"p" * 496, LONG + b"1", LONG + b"2"]
EXTEND_S = 1


class LessorBesideModel(RuleBasedStateMachine):
    """Keys hang on the lease of their last put; a lease expires on the leader alone, never before its TTL."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.env = lmdb.open(str(self.directory), max_dbs=2, map_size=1 << 24, sync=False)
        leases, lease_keys = self.env.open_db(b"leases"), self.env.open_db(b"lease_keys")
        fields = dict.fromkeys(Tables._fields, leases) | {"lease_keys": lease_keys}
        self.tables = Tables(**fields)
        self.lessor = Lessor(self.tables)
        self.ttls: dict[int, int] = {}
        self.remaining: dict[int, int] = {}
        """What checkpoints left; absent = all."""
        self.attached: dict[bytes, int] = {}
        self.now = 1000.0
        self.primary = False
        self.deadlines: dict[int, float] = {}
        """On the leader; a lease that is not in here starts to count with the next call that brings the
        time."""
        self.reported: dict[int, float] = {}

    def teardown(self) -> None:
        self.env.close()
        shutil.rmtree(self.directory)

    # --- log entries ----------------------------------------------------------------------------------------

    @rule(lease_id=IDS, ttl_s=st.integers(-1, 20))
    def grant(self, lease_id: int, ttl_s: int) -> None:
        with self.env.begin(write=True) as txn:
            if lease_id in self.ttls:
                with pytest.raises(LeaseExists):
                    self.lessor.grant(txn, lease_id, ttl_s)
            else:
                self.ttls[lease_id] = self.lessor.grant(txn, lease_id, ttl_s)
                assert self.ttls[lease_id] == max(ttl_s, 1)

    @rule(lease_id=IDS)
    def revoke(self, lease_id: int) -> None:
        """L-10, L-11. The store then deletes the keys and reports these moves too."""
        with self.env.begin(write=True) as txn:
            if lease_id not in self.ttls:
                with pytest.raises(LeaseNotFound):
                    self.lessor.revoke(txn, lease_id)
                return
            keys = self.lessor.revoke(txn, lease_id)
            self.lessor.move(txn, [(key, lease_id, 0) for key in keys])
        assert keys == self.keys_of(lease_id)
        for key in keys:
            del self.attached[key]
        for per_lease in (self.ttls, self.remaining, self.deadlines, self.reported):
            per_lease.pop(lease_id, None)

    @rule(key=st.sampled_from(KEYS), lease_id=st.one_of(st.just(0), IDS))
    def put_or_delete(self, key: bytes, lease_id: int) -> None:
        """L-40, L-41; a put under no lease and a delete look the same from here (PUT-04, DEL-04)."""
        if lease_id and lease_id not in self.ttls:
            return
        with self.env.begin(write=True) as txn:
            self.lessor.move(txn, [(key, self.attached.pop(key, 0), lease_id)])
        if lease_id:
            self.attached[key] = lease_id

    @rule(lease_id=IDS, remaining_s=st.integers(-1, 25))
    def checkpoint(self, lease_id: int, remaining_s: int) -> None:
        """L-54: less than nothing and more than the TTL are the whole TTL."""
        with self.env.begin(write=True) as txn:
            if lease_id not in self.ttls:
                with pytest.raises(LeaseNotFound):
                    self.lessor.checkpoint(txn, lease_id, remaining_s)
                return
            self.lessor.checkpoint(txn, lease_id, remaining_s)
        self.remaining.pop(lease_id, None)
        if 0 < remaining_s < self.ttls[lease_id]:
            self.remaining[lease_id] = remaining_s
        assert self.lessor.has_checkpoint(lease_id) == (lease_id in self.remaining)

    @rule()
    def restart(self) -> None:
        """L-42, L-53: what was applied is there; who was leader must become it again."""
        self.lessor = Lessor(self.tables)
        self.load()

    @rule(lease_id=IDS)
    def batch_is_aborted(self, lease_id: int) -> None:
        """Loading again forgets what the aborted transaction did."""
        txn = self.env.begin(write=True)
        if lease_id in self.ttls:
            self.lessor.revoke(txn, lease_id)
        else:
            self.lessor.grant(txn, lease_id, 5)
        txn.abort()
        self.load()

    def load(self) -> None:
        with self.env.begin() as txn:
            self.lessor.load(txn)
        self.primary = False
        self.deadlines.clear()
        self.reported.clear()

    # --- leadership and time --------------------------------------------------------------------------------

    @rule()
    def promote(self) -> None:
        """L-50, L-53."""
        self.lessor.promote(self.now, EXTEND_S)
        self.primary = True
        self.reported.clear()
        self.deadlines = {
            lease_id: self.now + self.remaining.get(lease_id, ttl_s) + EXTEND_S for lease_id, ttl_s in self.ttls.items()
        }

    @rule()
    def demote(self) -> None:
        self.lessor.demote()
        self.primary = False
        self.deadlines.clear()
        self.reported.clear()

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def start_fresh(self) -> None:
        for lease_id, ttl_s in self.ttls.items():
            self.deadlines.setdefault(lease_id, self.now + ttl_s)

    @precondition(lambda self: self.primary)
    @rule(lease_id=IDS)
    def renew(self, lease_id: int) -> None:
        """L-20, L-21, L-25."""
        self.start_fresh()
        if lease_id not in self.ttls:
            with pytest.raises(LeaseNotFound):
                self.lessor.renew(lease_id, self.now)
        elif self.deadlines[lease_id] <= self.now:
            with pytest.raises(LeaseExpired):
                self.lessor.renew(lease_id, self.now)
        else:
            assert self.lessor.renew(lease_id, self.now) == self.ttls[lease_id]
            self.deadlines[lease_id] = self.now + self.ttls[lease_id]

    @precondition(lambda self: self.primary)
    @rule(lease_id=IDS)
    def time_to_live(self, lease_id: int) -> None:
        """L-30, L-31."""
        self.start_fresh()
        if lease_id in self.ttls:
            left = self.lessor.remaining_s(lease_id, self.now)
            assert left == int(self.deadlines[lease_id] - self.now)
        else:
            with pytest.raises(LeaseNotFound):
                self.lessor.remaining_s(lease_id, self.now)

    def due(self) -> dict[int, float]:
        """lease id -> since when its revoke should be proposed (again)."""
        return {
            lease_id: max(deadline, self.reported.get(lease_id, 0.0) + REVOKE_RETRY_S)
            if lease_id in self.reported
            else deadline
            for lease_id, deadline in self.deadlines.items()
        }

    @rule(limit=st.integers(1, 4))
    def scan(self, limit: int) -> None:
        """L-15, L-16, L-52."""
        found = self.lessor.expired(self.now, limit)
        if not self.primary:
            assert found == []
            return
        self.start_fresh()
        due = {lease_id: since for lease_id, since in self.due().items() if since <= self.now}
        assert set(found) <= set(due)
        assert len(found) == len(set(found)) == min(limit, len(due))
        late = sorted(due.values())[: len(found)]
        assert sorted(due[lease_id] for lease_id in found) == late, "those that wait longest come first"
        for lease_id in found:
            self.reported[lease_id] = self.now

    @rule()
    def next_deadline(self) -> None:
        found = self.lessor.next_deadline_s(self.now)
        if self.primary:
            self.start_fresh()
        expected = min(self.due().values(), default=None) if self.primary else None
        assert found == expected

    # --- what must hold -------------------------------------------------------------------------------------

    def keys_of(self, lease_id: int) -> list[bytes]:
        return sorted(key for key, owner in self.attached.items() if owner == lease_id)

    @invariant()
    def same_leases_and_keys(self) -> None:
        assert len(self.lessor) == len(self.ttls)
        if self.primary:
            self.start_fresh()  # as listing does
        assert sorted(self.lessor.ids(self.now)) == sorted(self.ttls)
        with self.env.begin() as txn:
            for lease_id, ttl_s in self.ttls.items():
                assert lease_id in self.lessor
                assert self.lessor.ttl_s(lease_id) == ttl_s
                assert self.lessor.keys(txn, lease_id) == self.keys_of(lease_id)
            assert txn.stat(self.tables.lease_keys)["entries"] == len(self.attached), "a key on no lease, or two"

    @invariant()
    def leadership_is_known(self) -> None:
        assert self.lessor.is_primary == self.primary


TestLessorBesideModel = LessorBesideModel.TestCase
TestLessorBesideModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
