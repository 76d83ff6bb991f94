"""The pace of expiry: what has run out is revoked through the log, by the leader, in bounded numbers (L-14, L-15)."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.apply import Kind
from raftkv.lease import LeaseExpired
from raftkv.pb import peer_pb2
from raftkv.server.errors import RequestTimedOut
from raftkv.server.lease_keeper import MAX_IN_FLIGHT, SCAN_INTERVAL_S, LeaseKeeper

EXTEND_S = 1.5
LATE_S = 5.0


class Lessor:
    """Reports each of `out` once."""

    def __init__(self) -> None:
        self.out: list[int] = []
        self.due: list[tuple[int, int]] = []
        self.left_s: dict[int, int] = {}
        self.calls: list[tuple[Any, ...]] = []

    def promote(self, now: float, extend_s: float) -> None:
        self.calls.append(("promote", now, extend_s))

    def demote(self) -> None:
        self.calls.append(("demote",))

    def expired(self, now: float, limit: int) -> list[int]:
        self.calls.append(("expired", now, limit))
        found, self.out = self.out[:limit], self.out[limit:]
        return found

    def due_checkpoints(self, _now: float) -> list[tuple[int, int]]:
        due, self.due = self.due, []
        return due

    def renew(self, lease_id: int, _now: float) -> int:
        if lease_id not in self.left_s:
            raise LeaseExpired
        return 600

    def has_checkpoint(self, lease_id: int) -> bool:
        return self.left_s[lease_id] > 0


class Leader:
    def __init__(self, *, checkpoints: bool = False) -> None:
        self.lessor = Lessor()
        self.checkpoints: list[list[tuple[int, int]]] = []
        self.proposed: list[int] = []
        self.waiting: list[tuple[Any, Any]] = []
        self.term = 3
        lessor: Any = self.lessor
        self.keeper = LeaseKeeper(lessor, self._propose, lambda: self.term, EXTEND_S, LATE_S, checkpoints=checkpoints)

    def _propose(self, kind: int, message: bytes, finish: Any, context: Any) -> None:
        if kind == Kind.LEASE_CHECKPOINT:
            told = peer_pb2.LeaseCheckpoints.FromString(message)
            assert told.term == self.term
            self.checkpoints.append([(lease.ID, lease.remaining_s) for lease in told.leases])
            return
        assert kind == Kind.LEASE_EXPIRE
        expiry = peer_pb2.LeaseExpiry.FromString(message)
        assert expiry.term == self.term
        self.proposed.append(expiry.ID)
        self.waiting.append((finish, context))

    def answer(self, count: int, result: Any) -> None:
        for _ in range(count):
            finish, context = self.waiting.pop(0)
            finish(context, result)


@pytest.fixture
def leader() -> Leader:
    leader = Leader()
    leader.keeper.promote(100.0)
    return leader


def test_leases_live_an_election_timeout_longer_under_a_new_leader(leader: Leader) -> None:
    """L-51."""
    assert leader.keeper.primary
    assert leader.lessor.calls == [("promote", 100.0, EXTEND_S)]


def test_only_the_primary_revokes(leader: Leader) -> None:
    """L-52."""
    leader.lessor.out = [1]
    leader.keeper.demote()
    leader.keeper.on_tick(200.0)
    assert (leader.proposed, leader.keeper.primary) == ([], False)
    leader.keeper.promote(201.0)
    leader.keeper.on_tick(201.0)
    assert leader.proposed == [1]


def test_scans_keep_their_distance(leader: Leader) -> None:
    for now in (100.0, 100.1, 100.0 + SCAN_INTERVAL_S, 100.2 + SCAN_INTERVAL_S):
        leader.keeper.on_tick(now)
    scans = [call[1] for call in leader.lessor.calls if call[0] == "expired"]
    assert scans == [100.0, 100.0 + SCAN_INTERVAL_S]


def test_no_more_are_on_the_way_than_the_limit(leader: Leader) -> None:
    """L-15: answers, good or bad, make room."""
    leader.lessor.out = list(range(1, MAX_IN_FLIGHT + 10))
    leader.keeper.on_tick(100.0)
    leader.keeper.on_tick(101.0)
    assert leader.proposed == list(range(1, MAX_IN_FLIGHT + 1))
    leader.answer(3, (7, b""))
    leader.answer(2, RequestTimedOut())
    leader.keeper.on_tick(102.0)
    assert leader.proposed[MAX_IN_FLIGHT:] == list(range(MAX_IN_FLIGHT + 1, MAX_IN_FLIGHT + 6))


def test_only_leases_that_were_revoked_are_counted(leader: Leader) -> None:
    leader.lessor.out = [1, 2, 3]
    leader.keeper.on_tick(100.0)
    leader.answer(2, (7, b""))
    leader.answer(1, RequestTimedOut())
    assert leader.keeper.expired == 2


def test_a_leader_that_was_suspended_hears_the_renewals_first(leader: Leader) -> None:
    """L-14: they came while it was not running, and wait in its sockets."""
    leader.lessor.out = [1]
    leader.keeper.on_tick(100.0 + LATE_S + 0.1)
    assert leader.proposed == []
    leader.keeper.on_tick(100.0 + LATE_S + 0.1 + SCAN_INTERVAL_S)
    assert leader.proposed == [1]


# --- checkpoints (L-54) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [True, False], ids=["gate on", "gate off"])
def test_what_is_left_is_told_in_one_request(on: bool) -> None:
    leader = Leader(checkpoints=on)
    leader.keeper.promote(100.0)
    leader.lessor.due = [(7, 250), (8, 260)]
    leader.keeper.on_tick(101.0)
    leader.keeper.on_tick(102.0)
    assert leader.checkpoints == ([[(7, 250), (8, 260)]] if on else [])


def test_a_renewal_takes_the_checkpoint_back(leader: Leader) -> None:
    """Also with the gate off: it may have been on under the last leader."""
    leader.lessor.left_s = {7: 250, 8: 0}
    assert leader.keeper.renew(7, 100.0) == 600
    assert leader.keeper.renew(8, 100.0) == 600
    assert leader.checkpoints == [[(7, 0)]]


def test_what_has_run_out_is_not_renewed(leader: Leader) -> None:
    with pytest.raises(LeaseExpired):
        leader.keeper.renew(7, 100.0)
    assert leader.checkpoints == []
