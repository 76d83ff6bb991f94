"""The Election service (contract section 8.2)."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
import pytest
from contract_claims import Locks, as_here, claim_keys, claim_of, claims
from contract_support import EMPTY_KEY, LEASE_NOT_FOUND, Client, Code, delete_op, new_prefix, put_op, refused
from helpers.processes import Server

from raftkv.pb import election_pb2

_NOT_LEADER = (Code.UNKNOWN, "election: not leader")
_NO_LEADER = (Code.UNKNOWN, "election: no leader")
_NO_KEY = (Code.UNKNOWN, '"leader" field must be provided')
_STOPPED = (Code.UNAVAILABLE, "etcdserver: server stopped")

Leader = election_pb2.LeaderKey


@pytest.fixture
def election(client: Client) -> Locks:
    """Candidates of an election that this test has for itself."""
    return Locks(client, new_prefix() + b"election")


# --- campaigning ------------------------------------------------------------------------------------------------------


def test_winning_at_once(client: Client, election: Locks) -> None:
    """EL-01."""
    lease = election.lease()
    before = client.revision()
    response = election.campaign(lease, b"me")
    key = claim_of(election.name, lease)
    assert response.leader == Leader(name=election.name, key=key, rev=before + 1, lease=lease)
    assert response.header.revision == before + 1
    (kv,) = claims(client, election.name)
    assert (kv.key, kv.value, kv.create_revision, kv.lease) == (key, b"me", before + 1, lease)


def test_winning_without_a_lease(client: Client, election: Locks) -> None:
    """EL-02."""
    leader = election.campaign(0).leader
    assert leader.key == claim_of(election.name, leader.lease)
    assert client.time_to_live(leader.lease, keys=True).grantedTTL == 60
    client.revoke(leader.lease)
    assert not claims(client, election.name)


def test_winning_after_others(client: Client, election: Locks) -> None:
    """EL-01, LK-04: in the order of claims; the header is that of the claim."""
    leases = [election.lease() for _ in range(4)]
    waiting = [election.begin_campaign(lease) for lease in leases]
    revisions = [kv.create_revision for kv in claims(client, election.name)]
    for number, lease in enumerate(leases):
        response = waiting[number].result()
        assert (response.leader.lease, response.leader.rev) == (lease, revisions[number])
        assert response.header.revision == revisions[number]
        assert not any(later.done() for later in waiting[number + 1 :])
        election.resign(response.leader)


def test_campaigning_again_as_leader(client: Client, election: Locks) -> None:
    """EL-03: another value is put, the same one is not."""
    lease = election.lease()
    first = election.campaign(lease, b"one")
    assert election.campaign(lease, b"one") == first
    again = election.campaign(lease, b"two")
    assert again.leader == first.leader
    (kv,) = claims(client, election.name)
    assert (kv.value, kv.version, kv.lease) == (b"two", 2, lease)


def test_campaigning_again_while_waiting(client: Client, election: Locks) -> None:
    """EL-03: both calls keep the place of the first."""
    leader = election.campaign(election.lease()).leader
    lease = election.lease()
    first = election.begin_campaign(lease, b"one")
    third = election.begin_campaign(election.lease())
    second = election.begin_campaign(lease, b"two")
    election.resign(leader)
    assert first.result().leader == second.result().leader
    assert not third.done()
    assert election.leader().kv.value == b"two"


def test_a_lease_that_is_not_there(client: Client, election: Locks) -> None:
    """EL-01, LK-10."""
    with refused(as_here(LEASE_NOT_FOUND)):
        election.campaign(987_654_321)
    assert not claims(client, election.name)


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_candidate_that_gives_up(election: Locks, how: str) -> None:
    """EL-08."""
    leader, other = election.lease(), election.lease()
    election.campaign(leader)
    if how == "cancelled":
        election.begin_campaign(other).cancel()
    else:
        with pytest.raises(grpc.RpcError):
            election.campaign(other, timeout_s=0.5)
    election.wait_claims(leader)


@pytest.mark.beyond_etcd("etcd calls a candidate the leader whose key has gone with its lease")
def test_a_candidate_whose_lease_ends(client: Client, election: Locks) -> None:
    """EL-01, LK-05."""
    leader = election.campaign(election.lease()).leader
    lease = election.lease()
    waiting = election.begin_campaign(lease)
    client.revoke(lease)
    election.resign(leader)
    with refused(_NOT_LEADER):
        waiting.result()


def test_locks_and_elections_of_one_name_compete(election: Locks) -> None:
    """EL-09: their claims are the same keys."""
    key = election.lock(election.lease()).key
    campaign = election.begin_campaign(election.lease())
    lock = election.begin_lock(election.lease())
    assert not campaign.done()
    election.unlock(key)
    leader = campaign.result().leader
    assert not lock.done()
    election.resign(leader)
    assert lock.result()


# --- proclaiming, asking, resigning -----------------------------------------------------------------------------------


def test_proclaiming(client: Client, election: Locks) -> None:
    """EL-04."""
    leader = election.campaign(election.lease(), b"one").leader
    revision = election.proclaim(leader, b"two").header.revision
    kv = client.only(leader.key)
    assert (kv.value, kv.mod_revision, kv.create_revision, kv.lease) == (b"two", revision, leader.rev, leader.lease)
    # The name is not looked at: the key says it all.
    assert election.proclaim(Leader(name=b"other", key=leader.key, rev=leader.rev, lease=leader.lease), b"three")
    assert client.only(leader.key).value == b"three"


def test_proclaiming_what_is_refused(client: Client, election: Locks) -> None:
    """EL-04."""
    leader = election.campaign(election.lease(), b"one").leader
    before = client.revision()
    for wrong, status in (
        (None, _NO_KEY),
        (Leader(), as_here(EMPTY_KEY)),
        (Leader(key=leader.key, rev=leader.rev - 1, lease=leader.lease), _NOT_LEADER),
        (Leader(key=leader.key + b"0", rev=leader.rev, lease=leader.lease), _NOT_LEADER),
        (Leader(key=leader.key, rev=leader.rev, lease=987_654_321), as_here(LEASE_NOT_FOUND)),
    ):
        with refused(status):
            election.proclaim(wrong, b"two")
    assert client.revision() == before
    election.resign(leader)
    with refused(_NOT_LEADER):
        election.proclaim(leader, b"two")


def test_proclaiming_without_a_lease(client: Client, election: Locks) -> None:
    """EL-04, EL-02: the value is put with a lease of a minute."""
    leader = election.campaign(election.lease(), b"one").leader
    election.proclaim(Leader(key=leader.key, rev=leader.rev), b"two")
    kv = client.only(leader.key)
    assert kv.value == b"two"
    assert kv.lease not in (0, leader.lease)
    assert client.time_to_live(kv.lease).grantedTTL == 60


def test_who_leads(client: Client, election: Locks) -> None:
    """EL-05: the oldest, whatever its key."""
    with refused(_NO_LEADER):
        election.leader()
    client.put(election.name + b"/z", b"oldest")
    client.put(election.name + b"/a", b"younger")
    response = election.leader()
    assert response.kv == client.only(election.name + b"/z")
    assert response.header.revision == client.revision()
    client.delete(election.name + b"/z")
    assert election.leader().kv.value == b"younger"


def test_resigning(client: Client, election: Locks) -> None:
    """EL-07."""
    leader = election.campaign(election.lease()).leader
    before = client.revision()
    assert election.resign(leader).header.revision == before + 1
    assert election.resign(leader).header.revision == before + 1
    assert not claims(client, election.name)
    again = election.campaign(leader.lease).leader
    assert election.resign(leader), "of an earlier leadership: nothing happens"
    assert claim_keys(client, election.name) == [again.key]
    with refused(_NO_KEY):
        election.resign(None)
    with refused(as_here(EMPTY_KEY)):
        election.resign(Leader())


# --- observing --------------------------------------------------------------------------------------------------------


def test_observing_from_before_the_first_leader(client: Client, election: Locks) -> None:
    """EL-06: nothing while there is none, then every value and every leader, with the revisions of both."""
    first, second = election.lease(), election.lease()
    with election.observe() as observed:
        time.sleep(0.2)
        assert observed.is_quiet()
        leader = election.campaign(first, b"one").leader
        told = observed.next()
        assert told.kv == client.only(leader.key)
        assert told.header.revision == leader.rev
        waiting = election.begin_campaign(second, b"silent until it leads")
        proclaimed = election.proclaim(leader, b"two").header.revision
        told = observed.next()
        assert (told.kv.value, told.kv.mod_revision, told.header.revision) == (b"two", proclaimed, proclaimed)
        resigned = election.resign(leader).header.revision
        told = observed.next()
        assert told.kv.key == waiting.result().leader.key
        assert told.header.revision >= resigned
        client.revoke(second)
        time.sleep(0.2)
        assert observed.is_quiet()
        again = election.campaign(first, b"three").leader
        assert observed.values(1) == [(again.key, b"three")]


def test_observing_begins_with_who_leads(client: Client, election: Locks) -> None:
    """EL-06."""
    leader = election.campaign(election.lease(), b"one").leader
    election.proclaim(leader, b"two")
    before = client.put(b"other").header.revision
    with election.observe() as observed, election.observe() as another:
        for each in (observed, another):
            told = each.next()
            assert (told.kv.value, told.header.revision) == (b"two", before)


def test_no_value_is_left_out(client: Client, election: Locks) -> None:
    """EL-06: however fast they change."""
    key = election.name + b"/k"
    with election.observe() as observed:
        client.put(key, b"first")
        assert observed.values(1) == [(key, b"first")]
        for number in range(200):
            client.put(key, b"%d" % number)
        assert observed.values(200) == [(key, b"%d" % number) for number in range(200)]


def test_a_leader_that_is_replaced_in_one_revision(client: Client, election: Locks) -> None:
    """EL-06: the old key goes and a new one comes in one transaction."""
    old, new = election.name + b"/old", election.name + b"/new"
    client.put(old, b"old")
    with election.observe() as observed:
        assert observed.values(1) == [(old, b"old")]
        client.txn([], [delete_op(old), put_op(new, b"new")])
        assert observed.values(1) == [(new, b"new")]
        client.put(new, b"newer")
        assert observed.values(1) == [(new, b"newer")]


def test_compaction_disturbs_no_observer(client: Client, election: Locks) -> None:
    """EL-06, CMP-01."""
    leader = election.campaign(election.lease(), b"one").leader
    with election.observe() as observed:
        observed.next()
        time.sleep(0.3)  # etcd's watcher is not yet in step, and would be cancelled
        for number in range(3):
            client.compact(election.proclaim(leader, b"%d" % number).header.revision, physical=True)
            assert observed.values(1) == [(leader.key, b"%d" % number)]


@pytest.mark.beyond_etcd("etcd's end of such a stream depends on what ends first: election: observe closed early")
def test_a_member_that_stops_ends_its_observers(
    start_server: Callable[..., Server], connected: Callable[[Server], Client]
) -> None:
    """ER-03."""
    server = start_server()
    election = Locks(connected(server), b"election")
    election.campaign(election.lease())
    with election.observe() as observed, Locks(election.client, b"other").observe() as quiet:
        observed.next()
        time.sleep(0.2)
        assert server.terminate() == 0
        assert observed.end() == quiet.end() == _STOPPED
