"""Leases (contract section 4)."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from contract_support import DELETE, LEASE_NOT_FOUND, Client, Code, Stream, prefix_end, put_op, refused
from helpers.processes import Server

from raftkv.pb import rpc_pb2

_EXISTS = (Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
_TOO_LARGE = (Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
_MAX_TTL_S = 9_000_000_000


def _renew(stream: Stream, lease_id: int) -> rpc_pb2.LeaseKeepAliveResponse:
    stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
    answer = stream.next()
    assert isinstance(answer, rpc_pb2.LeaseKeepAliveResponse)
    assert lease_id == answer.ID
    return answer


# --- granting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        pytest.param(0, 2, id="L-04: zero"),
        pytest.param(-5, 2, id="L-04: negative"),
        pytest.param(1, 2, id="L-04: below the minimum"),
        pytest.param(2, 2, id="L-04: the minimum"),
        pytest.param(3, 3, id="L-05"),
        pytest.param(_MAX_TTL_S, _MAX_TTL_S, id="L-03: the most there is"),
    ],
)
def test_the_granted_ttl(client: Client, asked: int, granted: int) -> None:
    """L-03 to L-05, L-07."""
    before = client.revision()
    lease = client.grant(asked)
    assert (lease.TTL, lease.error, lease.header.revision) == (granted, "", before)
    assert client.time_to_live(lease.ID).grantedTTL == granted
    client.revoke(lease.ID)


@pytest.mark.parametrize("ttl", [_MAX_TTL_S + 1, 2**63 - 1])
def test_a_ttl_that_is_too_large(client: Client, ttl: int) -> None:
    """L-03."""
    with refused(_TOO_LARGE):
        client.grant(ttl, 815)
    assert 815 not in client.leases()


@pytest.mark.parametrize("lease_id", [1, 0x7FFF_FFFF_FFFF_FFFF, -1, -(2**63)])
def test_a_chosen_id(client: Client, prefix: bytes, lease_id: int) -> None:
    """L-01, L-02: used as given, negative too, while nobody has it."""
    assert lease_id == client.grant(60, lease_id).ID
    with refused(_EXISTS):
        client.grant(60, lease_id)
    assert lease_id in client.leases()
    client.put(prefix, lease=lease_id)
    assert client.only(prefix).lease == lease_id
    assert list(client.time_to_live(lease_id, keys=True).keys) == [prefix]
    with client.keep_alive() as stream:
        assert _renew(stream, lease_id).TTL == 60
    client.revoke(lease_id)
    assert client.range(prefix).count == 0
    assert lease_id == client.grant(60, lease_id).ID
    client.revoke(lease_id)


def test_ids_that_the_server_picks(client: Client) -> None:
    """L-01."""
    ids = {client.grant(60).ID for _ in range(20)}
    assert len(ids) == 20
    assert min(ids) > 0
    assert ids <= set(client.leases())
    for lease_id in ids:
        client.revoke(lease_id)
    assert not ids & set(client.leases())


def test_leases_are_listed_by_the_time_they_have_left(client: Client) -> None:
    """L-34."""
    ids = {ttl: client.grant(ttl).ID for ttl in (300, 100, 400, 200)}
    listed = [lease_id for lease_id in client.leases() if lease_id in ids.values()]
    assert listed == [ids[ttl] for ttl in (100, 200, 300, 400)]
    for lease_id in ids.values():
        client.revoke(lease_id)


# --- revoking -----------------------------------------------------------------------------------------------


def test_revoke_deletes_in_one_sorted_revision(client: Client, prefix: bytes) -> None:
    """L-10 to L-12, KV-09."""
    lease = client.grant(60).ID
    tails = [b"b", b"", b"a" * 700, b"a", b"\xff"]
    for tail in tails:
        client.put(prefix + tail, lease=lease)
    before = client.revision()
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        assert client.revoke(lease).header.revision == before + 1
        answer = stream.next()
    assert [event.kv.key for event in answer.events] == [prefix + tail for tail in sorted(tails)]
    assert {(event.type, event.kv.mod_revision) for event in answer.events} == {(DELETE, before + 1)}
    with refused(LEASE_NOT_FOUND):
        client.revoke(lease)
    with refused(LEASE_NOT_FOUND):
        client.put(prefix, lease=lease)
    assert client.revoke(client.grant(60).ID).header.revision == before + 1


def test_thousands_of_keys_on_one_lease(client: Client, prefix: bytes) -> None:
    """L-11, L-40, W-55: 3,000 keys go in one revision and one response."""
    lease = client.grant(600).ID
    keys = [prefix + b"%04d" % number for number in range(3000)]
    for start in range(0, 3000, 100):
        client.txn(success=[put_op(key, lease=lease) for key in reversed(keys[start : start + 100])])
    assert sorted(client.time_to_live(lease, keys=True).keys) == keys
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        revision = client.revoke(lease).header.revision
        answer = stream.next()
    assert [event.kv.key for event in answer.events] == keys
    assert {event.kv.mod_revision for event in answer.events} == {revision}
    assert client.range(prefix, prefix_end(prefix), count_only=True).count == 0
    assert client.range(prefix, prefix_end(prefix), count_only=True, revision=revision - 1).count == 3000


# --- attachment ---------------------------------------------------------------------------------------------


def test_a_key_belongs_to_the_lease_of_its_last_put(client: Client, prefix: bytes) -> None:
    """L-40, L-41, PUT-04."""
    first, second = client.grant(60).ID, client.grant(60).ID

    def attached() -> list[list[bytes]]:
        return [sorted(client.time_to_live(each, keys=True).keys) for each in (first, second)]

    moved, loose, stays = prefix + b"moved", prefix + b"loose", prefix + b"stays"
    for key in (moved, loose, stays):
        client.put(key, lease=first)
    client.put(moved, lease=second)
    client.put(loose)
    assert attached() == [[stays], [moved]]
    client.txn(success=[put_op(moved, lease=first), put_op(loose, lease=second)])
    assert attached() == [sorted([stays, moved]), [loose]]
    client.delete(stays)
    client.put(moved, lease=second)
    client.revoke(first)
    assert client.range(prefix, prefix_end(prefix)).count == 2
    client.revoke(second)
    assert client.range(prefix, prefix_end(prefix)).count == 0


# --- asking -------------------------------------------------------------------------------------------------


def test_time_to_live(client: Client, prefix: bytes) -> None:
    """L-30, L-31."""
    lease = client.grant(100).ID
    client.put(prefix + b"b", lease=lease)
    client.put(prefix + b"a", lease=lease)
    answer = client.time_to_live(lease)
    assert (answer.ID, answer.grantedTTL, list(answer.keys)) == (lease, 100, [])
    assert 90 <= answer.TTL <= 100
    assert sorted(client.time_to_live(lease, keys=True).keys) == [prefix + b"a", prefix + b"b"]
    client.revoke(lease)
    gone = client.time_to_live(lease, keys=True)
    assert (gone.ID, gone.TTL, gone.grantedTTL, list(gone.keys)) == (lease, -1, 0, [])


def test_keep_alive_answers_in_order(client: Client) -> None:
    """L-20, L-21, L-23: unknown and revoked leases have a TTL of 0, and the stream goes on."""
    lease, revoked = client.grant(60).ID, client.grant(60).ID
    client.revoke(revoked)
    with client.keep_alive() as stream:
        asked = [lease, 987_654_321, lease, revoked, 0, lease]
        for lease_id in asked:
            stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
        answers = [stream.next() for _ in asked]
        assert [answer.ID for answer in answers] == asked
        assert [answer.TTL for answer in answers] == [60, 0, 60, 0, 0, 60]
        assert {answer.header.revision for answer in answers} == {client.revision()}
        stream.half_close()
        with pytest.raises(StopIteration):
            stream.next()
    client.revoke(lease)


# --- time ---------------------------------------------------------------------------------------------------


def test_keep_alive_keeps_alive(client: Client, prefix: bytes) -> None:
    """L-14, L-20, L-21: of two leases the one that is renewed outlives the other."""
    kept, lost = client.grant(3).ID, client.grant(2).ID
    client.put(prefix + b"kept", lease=kept)
    client.put(prefix + b"lost", lease=lost)
    with client.watch() as watch, client.keep_alive() as stream:
        watch.create(prefix, prefix_end(prefix))
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert _renew(stream, kept).TTL == 3
            time.sleep(0.25)
        (event,) = watch.events(1)
        assert event.kv.key == prefix + b"lost"
        assert _renew(stream, lost).TTL == 0
        assert _renew(stream, kept).TTL == 3
    assert client.only(prefix + b"kept").lease == kept
    client.revoke(kept)


@pytest.mark.parametrize(
    "other_id",
    [3, pytest.param(-3, marks=pytest.mark.beyond_etcd("etcd forgets negative ids when it restarts"))],
)
def test_a_restart_gives_the_full_time_again(
    start_server: Callable[..., Server], connected: Callable[[Server], Client], other_id: int
) -> None:
    """L-42, L-50, L-53: leases and what is attached to them survive."""
    server = start_server()
    client = connected(server)
    lease, other = client.grant(100, 77).ID, client.grant(60, other_id).ID
    client.put(b"a", lease=lease)
    client.put(b"b", lease=other)
    client.put(b"b", lease=lease)
    client.put(b"c", lease=lease)
    client.delete(b"c")
    _wait(lambda: client.time_to_live(lease).TTL < 99)
    server.kill9()
    server.start()
    client = connected(server)
    answer = client.time_to_live(lease, keys=True)
    assert (answer.grantedTTL, sorted(answer.keys)) == (100, [b"a", b"b"])
    assert answer.TTL >= 99
    assert sorted(client.leases()) == sorted([other_id, 77])
    client.revoke(lease)
    assert client.range(b"a", b"z").count == 0
    client.revoke(other)


def _wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
