"""Leases over members: any member grants, renews and tells; one member at a time counts the seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from helpers.cluster import ELECTION_S, Cluster, Member
from helpers.grpc_calls import Calls, connect
from helpers.member_client import DELETE, PUT, Told, WatchStream
from helpers.waiting import stays_true, wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]

_LONG_S = 3600
_LARGE_BYTES = 300_000
_SLACK_S = 15.0
"""How much longer than its TTL a lease may live on a busy machine, elections included (L-16)."""


@contextmanager
def _watching(member: Member, prefix: bytes) -> Iterator[WatchStream]:
    with WatchStream(member.client, prefix, prefix[:-1] + bytes([prefix[-1] + 1])) as stream:
        yield stream.wait_created()


def _renewed(member: Member, lease: int) -> int:
    """The TTL that a renewal through this member is answered with."""
    return member.client.keep_alive(lease).TTL


def _wait_gone(cluster: Cluster, lease: int) -> None:
    for member in cluster.serving():
        wait_until(f"{member.name} has no lease {lease:x}", lambda member=member: lease not in member.client.leases())  # type: ignore[misc]


# --- followers forward --------------------------------------------------------------------------------------


def test_a_lease_is_known_to_every_member(shared_cluster: Cluster) -> None:
    """L-05, L-20, L-21, L-24, L-30, L-31, L-32, L-34: granted by one, renewed and asked for at the others."""
    cluster = shared_cluster
    leader, (one, other) = cluster.leader(), cluster.followers()
    lease = one.client.grant(_LONG_S)
    other.client.put(b"b", lease=lease)
    leader.client.put(b"a", lease=lease)
    for member in cluster.members:
        renewed = member.client.keep_alive(lease)
        assert (renewed.ID, renewed.TTL, renewed.header.member_id) == (lease, _LONG_S, member.id)
        told = member.client.time_to_live(lease, keys=True)
        assert (told.ID, told.grantedTTL, sorted(told.keys)) == (lease, _LONG_S, [b"a", b"b"])
        assert _LONG_S - 60 < told.TTL <= _LONG_S
        assert told.header.member_id == member.id
        wait_until("it lists the lease", lambda member=member: lease in member.client.leases())  # type: ignore[misc]
        assert member.client.keep_alive(12345).TTL == 0, "an unknown lease is no error (L-21)"
        unknown = member.client.time_to_live(12345)
        assert (unknown.TTL, unknown.grantedTTL) == (-1, 0)


@contextmanager
def _large_puts(cluster: Cluster) -> Iterator[None]:
    """Keep the leader busy with what takes it long to write: news of its commits leave before it applies them."""
    stopping = threading.Event()

    def put(number: int) -> None:
        with connect(cluster.leader().endpoint) as channel:
            client = Calls(channel)
            while not stopping.is_set():
                client.KV.Put(rpc_pb2.PutRequest(key=b"large/%d" % number, value=bytes(_LARGE_BYTES)), timeout=20)

    with ThreadPoolExecutor() as pool:
        loads = [pool.submit(put, number) for number in range(4)]
        try:
            yield
        finally:
            stopping.set()
        for load in loads:
            load.result()


@pytest.mark.beyond_etcd("etcd 3.5.1 does not wait: it answers TTL 0 for a lease that its leader has yet to apply")
def test_a_lease_that_was_just_granted_is_known_to_whoever_is_asked(shared_cluster: Cluster) -> None:
    """L-27, L-24: granted by one follower and renewed at once elsewhere, while the leader has other things to apply."""
    leader, (one, other) = shared_cluster.leader(), shared_cluster.followers()
    unknown = []
    with _large_puts(shared_cluster):
        for number in range(120):
            lease = one.client.grant(_LONG_S)
            asked = other if number % 3 else leader
            if _renewed(asked, lease) != _LONG_S:
                unknown.append(f"{asked.name} does not renew {lease:x}")
            if asked.client.time_to_live(lease).grantedTTL != _LONG_S:
                unknown.append(f"{asked.name} has no time to live of {lease:x}")
    assert not unknown, f"{len(unknown)} wrong answers: {unknown[:5]}"


def test_a_revoke_through_a_follower_deletes_on_every_member(shared_cluster: Cluster) -> None:
    """L-11, L-12: all keys in one revision, in key order, on all members alike."""
    cluster = shared_cluster
    one, other = cluster.followers()
    lease = cluster.leader().client.grant(_LONG_S)
    keys = [b"leased/%d" % number for number in (3, 1, 2)]
    last = [one.client.put(key, lease=lease).header.revision for key in keys][-1]
    with _watching(cluster.leader(), b"leased/") as at_leader, _watching(one, b"leased/") as at_follower:
        assert other.client.revoke(lease).header.revision == last + 1
        for stream in (at_leader, at_follower):
            assert stream.wait_told(last + 1) == [Told(last + 1, key, DELETE) for key in sorted(keys)]
    _wait_gone(cluster, lease)
    cluster.wait_same_hash()


# --- expiry -------------------------------------------------------------------------------------------------


def test_a_lease_expires_once_and_on_all_members(shared_cluster: Cluster) -> None:
    """L-14, L-16, L-52, L-11: the leader revokes; its keys go in one revision, not earlier than the TTL."""
    cluster = shared_cluster
    ttl_s = 2
    streams = [WatchStream(member.client, b"leased/", b"leased0").wait_created() for member in cluster.members]
    try:
        granted_at = time.monotonic()
        lease = cluster.followers()[0].client.grant(ttl_s)
        last = [cluster.followers()[1].client.put(b"leased/%d" % n, lease=lease).header.revision for n in range(3)][-1]
        for stream in streams:
            told = stream.wait_told(last + 1, ttl_s + _SLACK_S)
            assert time.monotonic() - granted_at >= ttl_s, "it expired too early"
            assert told[3:] == [Told(last + 1, b"leased/%d" % number, DELETE) for number in range(3)]
    finally:
        for stream in streams:
            stream.close()
    _wait_gone(cluster, lease)
    # Three lessors know the lease; only one revoke changes the store, and none comes later.
    stays_true("nothing more is deleted", lambda: cluster.members[0].client.revision() == last + 1, ELECTION_S)
    cluster.wait_same_hash()


def test_renewals_through_a_follower_keep_a_lease_alive(shared_cluster: Cluster) -> None:
    """L-24, L-20: for longer than its TTL, then it ends when nobody renews it."""
    cluster = shared_cluster
    ttl_s = 2
    one, other = cluster.followers()
    lease = one.client.grant(ttl_s)
    put = other.client.put(b"leased/", lease=lease).header.revision
    with _watching(other, b"leased/") as stream:
        stays_true("it is renewed", lambda: _renewed(other, lease) == ttl_s, 2.5 * ttl_s)
        assert other.client.value(b"leased/") == b"v"
        renewed_at = time.monotonic()
        assert stream.wait_told(put + 1, ttl_s + _SLACK_S) == [Told(put + 1, b"leased/", DELETE)]
        assert time.monotonic() - renewed_at >= ttl_s - 0.5, "it ended before its last renewal had run out"


# --- the leader changes -------------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "moved", "all restarted"])
def test_no_lease_expires_early_because_the_leader_changes(cluster: Cluster, how: str) -> None:
    """L-50, L-53, L-52: the new leader gives every lease its TTL anew; then it expires there, once."""
    ttl_s = 4
    leader, (one, _other) = cluster.leader(), cluster.followers()
    lease = leader.client.grant(ttl_s)
    put = leader.client.put(b"k", lease=lease).header.revision
    # Most of its time passes at the old leader: an early expiry cannot hide in the tolerance.
    wait_until("little of its time is left", lambda: leader.client.time_to_live(lease).TTL <= 1, ttl_s + _SLACK_S)
    assert one.client.value(b"k") == b"v"
    changed_at = time.monotonic()
    _change_leader(cluster, leader, one, how)
    new = cluster.leader()
    told = new.client.time_to_live(lease)
    gone_s = time.monotonic() - changed_at
    assert ttl_s - 1 - gone_s <= told.TTL, f"{told.TTL} s of {ttl_s} s are left {gone_s:.1f} s after the change (L-50)"
    with WatchStream(new.client, b"k", start_revision=put) as stream:
        events = stream.wait_told(put + 1, ttl_s + _SLACK_S)
        lived_s = time.monotonic() - changed_at
    assert events == [Told(put, b"k", PUT), Told(put + 1, b"k", DELETE)]
    assert lived_s >= ttl_s, f"it lived only {lived_s:.1f} s after the leader changed"
    cluster.start()
    _wait_gone(cluster, lease)
    cluster.wait_same_hash()


def _change_leader(cluster: Cluster, leader: Member, heir: Member, how: str) -> None:
    if how == "killed":
        leader.kill9()
    elif how == "moved":
        leader.client.move_leader(heir.id)
    else:
        cluster.kill9(*cluster.members)
        cluster.start()


@pytest.mark.crash
@pytest.mark.slow
def test_a_renewal_waits_for_the_next_leader(cluster: Cluster) -> None:
    """L-24: a keepalive sent to a follower while there is no leader is answered by the new one."""
    leader, (one, other) = cluster.leader(), cluster.followers()
    lease = one.client.grant(_LONG_S)
    with ThreadPoolExecutor() as pool:
        leader.kill9()
        renewals = [pool.submit(member.client.keep_alive, lease) for member in (one, other)]
        assert [renewal.result().TTL for renewal in renewals] == [_LONG_S, _LONG_S]


@pytest.mark.crash
@pytest.mark.slow
def test_a_deposed_leader_expires_no_lease_that_others_renewed(cluster: Cluster) -> None:
    """L-52, L-26, L-50: it wakes long after what it thinks is the end of the lease, which is alive elsewhere."""
    ttl_s = 3
    old = cluster.leader()
    lease = old.client.grant(ttl_s)
    revision = old.client.put(b"k", lease=lease).header.revision
    old.pause()
    new = cluster.leader()
    stays_true("it is renewed elsewhere", lambda: _renewed(new, lease) == ttl_s, ttl_s + 2)
    old.resume()

    def alive() -> bool:
        return _renewed(new, lease) == ttl_s and new.client.value(b"k", serializable=True) == b"v"

    stays_true("it stays alive when the old leader is back", alive, ttl_s + 1)
    cluster.leader()
    assert _renewed(old, lease) == ttl_s
    assert old.client.range(b"k").kvs[0].mod_revision == revision
