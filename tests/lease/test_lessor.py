"""The lessor, rule by rule. The model that plays them together is test_lessor_model.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.backend.errors import SchemaError
from raftkv.backend.schema import Tables
from raftkv.lease import (
    MAX_TTL_S,
    LeaseExists,
    LeaseExpired,
    LeaseNotFound,
    LeaseTTLTooLarge,
    Lessor,
    NotPrimaryLessor,
    expiry,
    granted_ttl_s,
    min_ttl_s,
)


class Disk:
    """The two tables of the lessor, and one write transaction that commits when asked."""

    def __init__(self, directory: Path) -> None:
        self.env = lmdb.open(str(directory), max_dbs=2, map_size=1 << 26, sync=False)
        leases, lease_keys = self.env.open_db(b"leases"), self.env.open_db(b"lease_keys")
        self.tables = Tables(**dict.fromkeys(Tables._fields, leases) | {"lease_keys": lease_keys})
        self.txn = self.env.begin(write=True)

    def commit(self) -> None:
        self.txn.commit()
        self.txn = self.env.begin(write=True)

    def close(self) -> None:
        self.txn.abort()
        self.env.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def lessor(disk: Disk) -> Lessor:
    return Lessor(disk.tables)


# --- grant --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("election_ticks", "heartbeat_ms", "expected_s"),
    [(10, 100, 2), (10, 1000, 15), (3, 100, 1), (11, 100, 2), (5, 10, 1), (50, 100, 8)],
)
def test_minimum_is_one_and_a_half_election_timeouts_l04(
    election_ticks: int, heartbeat_ms: int, expected_s: int
) -> None:
    assert min_ttl_s(election_ticks, heartbeat_ms) == expected_s


def test_ttl_is_raised_silently_l04() -> None:
    assert [granted_ttl_s(ttl_s, 2) for ttl_s in (-5, 0, 1, 2, 3, MAX_TTL_S)] == [2, 2, 2, 2, 3, MAX_TTL_S]


def test_grant_refusals_change_nothing_l02_l03(disk: Disk, lessor: Lessor) -> None:
    assert lessor.grant(disk.txn, 7, MAX_TTL_S) == MAX_TTL_S
    with pytest.raises(LeaseExists):
        lessor.grant(disk.txn, 7, 10)
    with pytest.raises(LeaseTTLTooLarge):
        lessor.grant(disk.txn, 8, MAX_TTL_S + 1)
    with pytest.raises(LeaseNotFound):
        lessor.grant(disk.txn, 0, 10)
    assert (lessor.ids(0.0), lessor.ttl_s(7), lessor.granted) == ([7], MAX_TTL_S, 1)


# --- keys ---------------------------------------------------------------------------------------------------


def test_revoke_gives_the_keys_sorted_whatever_their_length_l11(disk: Disk, lessor: Lessor) -> None:
    keys = [
        b"b",
        b"k" * 5000,
        b"k" * 480,
        b"k" * 481,
        b"a",
        b"k" * 464 + b"\xff" * 40,
        b"k" * 464 + b"\x00" * 40,
    ]
    lessor.grant(disk.txn, 7, 10)
    lessor.grant(disk.txn, 8, 10)
    for key in keys:
        lessor.attach(disk.txn, key, 7)
    lessor.attach(disk.txn, b"other", 8)
    assert lessor.keys(disk.txn, 7) == sorted(keys)
    assert lessor.revoke(disk.txn, 7) == sorted(keys)
    assert 7 not in lessor
    assert lessor.keys(disk.txn, 8) == [b"other"]
    with pytest.raises(LeaseNotFound):
        lessor.revoke(disk.txn, 7)


def test_revoke_spares_keys_put_again_under_another_lease_l41(disk: Disk, lessor: Lessor) -> None:
    lessor.grant(disk.txn, 7, 10)
    lessor.grant(disk.txn, 8, 10)
    lessor.move(disk.txn, [(b"k", 0, 7), (b"free", 0, 7), (b"k", 7, 8), (b"free", 7, 0), (b"k", 8, 8)])
    assert lessor.revoke(disk.txn, 7) == []
    assert lessor.revoke(disk.txn, 8) == [b"k"]


def test_negative_and_positive_ids_do_not_share_keys(disk: Disk, lessor: Lessor) -> None:
    for lease_id in (-1, 1, 2**63 - 1, -(2**63)):
        lessor.grant(disk.txn, lease_id, 10)
        lessor.attach(disk.txn, b"%d" % lease_id, lease_id)
    for lease_id in (-1, 1, 2**63 - 1, -(2**63)):
        assert lessor.keys(disk.txn, lease_id) == [b"%d" % lease_id]


def test_unknown_lease_is_not_found_everywhere(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    for call in (
        lambda: lessor.keys(disk.txn, 5),
        lambda: lessor.ttl_s(5),
        lambda: lessor.renew(5, 0.0),
        lambda: lessor.remaining_s(5, 0.0),
        lambda: lessor.checkpoint(disk.txn, 5, 1),
        lambda: lessor.has_checkpoint(5),
    ):
        with pytest.raises(LeaseNotFound):
            call()


def test_damaged_tables_are_a_typed_error(disk: Disk, lessor: Lessor) -> None:
    disk.txn.put(b"short", b"", db=disk.tables.leases)
    with pytest.raises(SchemaError):
        lessor.load(disk.txn)


def test_restart_keeps_leases_keys_and_checkpoints_l42_l55(disk: Disk, lessor: Lessor) -> None:
    lessor.grant(disk.txn, 7, 100)
    lessor.attach(disk.txn, b"k", 7)
    lessor.checkpoint(disk.txn, 7, 40)
    disk.commit()
    again = Lessor(disk.tables)
    again.load(disk.txn)
    assert (again.ttl_s(7), again.has_checkpoint(7), again.keys(disk.txn, 7)) == (100, True, [b"k"])
    again.promote(0.0, 1.0)
    assert again.remaining_s(7, 0.0) == 41


# --- the leader's clock -------------------------------------------------------------------------------------


def test_only_the_leader_counts_l26_l52(disk: Disk, lessor: Lessor) -> None:
    lessor.grant(disk.txn, 7, 5)
    assert lessor.expired(1e9) == []
    assert lessor.next_deadline_s(1e9) is None
    assert lessor.due_checkpoints(1e9) == []
    with pytest.raises(NotPrimaryLessor):
        lessor.renew(7, 0.0)
    with pytest.raises(NotPrimaryLessor):
        lessor.remaining_s(7, 0.0)


def test_change_of_leader_expires_nothing_l50(disk: Disk, lessor: Lessor) -> None:
    lessor.grant(disk.txn, 7, 5)
    lessor.promote(100.0, 1.0)
    assert lessor.next_deadline_s(100.0) == 106.0
    assert lessor.expired(105.9) == []
    lessor.demote()
    assert lessor.expired(1e9) == []
    lessor.promote(1e9, 1.0)
    assert lessor.expired(1e9 + 5.9) == []
    assert lessor.expired(1e9 + 6.0) == [7]


def test_renewal_takes_back_the_extension_of_a_new_leader_l20_l50(disk: Disk, lessor: Lessor) -> None:
    lessor.grant(disk.txn, 7, 5)
    lessor.promote(0.0, 100.0)
    assert lessor.renew(7, 1.0) == 5
    assert lessor.next_deadline_s(1.0) == 6.0
    assert lessor.expired(6.0) == [7]


def test_lost_revoke_is_proposed_again_after_seven_seconds_l15(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 7, 5)
    assert lessor.expired(0.0) == []
    assert lessor.expired(5.0) == [7]
    assert lessor.expired(11.9) == []
    assert lessor.expired(12.0) == [7]
    lessor.revoke(disk.txn, 7)
    assert lessor.expired(100.0) == []
    assert lessor.next_deadline_s(100.0) is None


def test_one_scan_reports_a_bounded_number_l15(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    for lease_id in range(1, 703):
        lessor.grant(disk.txn, lease_id, 5)
    assert lessor.next_deadline_s(0.0) == 5.0
    assert lessor.expired(5.0) == list(range(1, 501))
    assert lessor.expired(5.0) == list(range(501, 703))


def test_expired_lease_cannot_be_renewed_and_shows_a_negative_ttl_l25_l31(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 7, 5)
    assert lessor.remaining_s(7, 0.0) == 5
    assert lessor.remaining_s(7, 4.5) == 0
    with pytest.raises(LeaseExpired):
        lessor.renew(7, 5.0)
    assert lessor.remaining_s(7, 6.5) == -1


def test_lease_revoked_before_its_time_began_never_expires(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 7, 5)
    lessor.revoke(disk.txn, 7)
    assert lessor.expired(1.0) == lessor.expired(100.0) == []
    assert lessor.next_deadline_s(100.0) is None


def test_reused_id_is_a_lease_of_its_own(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 7, 5)
    assert lessor.next_deadline_s(0.0) == 5.0
    lessor.revoke(disk.txn, 7)
    lessor.grant(disk.txn, 7, 50)
    assert lessor.expired(0.0) == lessor.expired(49.0) == []
    assert lessor.expired(50.0) == [7]


def test_leases_are_listed_by_remaining_time_on_the_leader_l34(disk: Disk, lessor: Lessor) -> None:
    for lease_id, ttl_s in ((1, 30), (2, 10), (3, 20)):
        lessor.grant(disk.txn, lease_id, ttl_s)
    assert lessor.ids(0.0) == [1, 2, 3]
    lessor.promote(0.0, 1.0)
    assert lessor.ids(0.0) == [2, 3, 1]
    lessor.renew(2, 10.5)
    assert lessor.ids(10.5) == [2, 3, 1]
    lessor.renew(2, 10.9)
    lessor.renew(3, 0.95)
    assert lessor.ids(10.9) == [2, 3, 1]
    lessor.grant(disk.txn, 4, 5)
    assert lessor.ids(11.0) == [4, 2, 3, 1], "a lease counts from the first look at the clock, which this is"
    lessor.demote()
    assert lessor.ids(12.0) == [1, 2, 3, 4]


def test_renewing_touches_no_heap(disk: Disk, lessor: Lessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """O(1): a lease that is renewed a hundred times has one entry, which moves when its old time comes."""
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 7, 10)
    assert lessor.next_deadline_s(0.0) == 10.0
    pushes: list[float] = []
    monkeypatch.setattr(expiry, "heappush", lambda heap, entry: pushes.append(entry[0]) or heap.append(entry))
    for tenth in range(100):
        assert lessor.renew(7, tenth / 10) == 10
    assert pushes == []
    assert lessor.expired(10.0) == []
    assert pushes == [19.9]
    assert lessor.renewed == 100


def test_dead_entries_do_not_pile_up(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    for lease_id in range(1, 2000):
        lessor.grant(disk.txn, lease_id, 10**9)
        assert lessor.expired(0.0) == []
        lessor.revoke(disk.txn, lease_id)
    assert lessor._clock is not None
    assert len(lessor._clock._deadlines._heap) < 200
    assert len(lessor._clock._checkpoints._heap) < 200


@given(st.lists(st.integers(1, 6), max_size=60), st.integers(1, 5))
def test_no_second_has_more_expiries_than_can_be_revoked_l51(ttls: list[int], rate: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expiry, "REVOKE_RATE", rate)
        leases = [expiry.Lease(number, ttl_s) for number, ttl_s in enumerate(ttls, start=1)]
        expiry.ExpiryClock(leases, 100.0, 1.0, 300.0)
        deadlines = sorted(lease.expires_at_s for lease in leases)
    for early, late in zip(deadlines, deadlines[rate:], strict=False):
        assert late - early >= 1.0
    for lease in leases:
        assert lease.expires_at_s >= 101.0 + lease.ttl_s, "put off, never brought forward"
    if len(ttls) <= rate:
        assert all(lease.expires_at_s == 101.0 + lease.ttl_s for lease in leases)
    by_ttl = sorted(leases, key=lambda lease: (lease.ttl_s, lease.id))
    assert all(one.expires_at_s <= other.expires_at_s for one, other in pairwise(by_ttl))


# --- checkpoints --------------------------------------------------------------------------------------------


def test_long_leases_are_checkpointed_every_interval_l54(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 1, 300)
    lessor.grant(disk.txn, 2, 1000)
    lessor.grant(disk.txn, 3, 2000)
    assert lessor.due_checkpoints(0.0) == []
    assert lessor.due_checkpoints(299.9) == []
    assert lessor.due_checkpoints(300.0, limit=1) == [(2, 700)]
    assert lessor.due_checkpoints(300.5) == [(3, 1700)]
    assert lessor.due_checkpoints(300.5) == []
    lessor.renew(2, 599.5)
    assert lessor.due_checkpoints(601.0) == [(2, 999), (3, 1399)]


def test_new_leader_starts_from_the_checkpoint_and_a_renewal_asks_to_reset_it_l54(disk: Disk, lessor: Lessor) -> None:
    lessor.grant(disk.txn, 2, 1000)
    lessor.checkpoint(disk.txn, 2, 700)
    lessor.promote(0.0, 1.0)
    assert lessor.remaining_s(2, 0.0) == 701
    assert lessor.has_checkpoint(2)
    lessor.checkpoint(disk.txn, 2, 0)
    assert not lessor.has_checkpoint(2)
    assert lessor.renew(2, 1.0) == 1000
    assert lessor.remaining_s(2, 1.0) == 1000


def test_revoked_lease_is_not_checkpointed(disk: Disk, lessor: Lessor) -> None:
    lessor.promote(0.0, 1.0)
    lessor.grant(disk.txn, 2, 1000)
    assert lessor.due_checkpoints(0.0) == []
    lessor.revoke(disk.txn, 2)
    assert lessor.due_checkpoints(400.0) == []
