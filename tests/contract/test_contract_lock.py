"""The Lock service (contract section 8.1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from contract_claims import Locks, as_here, claim_keys, claim_of, claims
from contract_support import (
    EMPTY_KEY,
    LEASE_NOT_FOUND,
    TIMEOUT_S,
    TOO_LARGE,
    Client,
    Code,
    Compare,
    delete_op,
    new_prefix,
    prefix_end,
    put_op,
    range_op,
    refused,
)
from helpers.grpc_calls import connect
from helpers.processes import Server
from helpers.waiting import wait_until

from raftkv.pb import auth_pb2, lock_pb2, rpc_pb2

_EXPIRED = (Code.UNKNOWN, "mutex: session is expired")
_STOPPED = (Code.UNAVAILABLE, "etcdserver: server stopped")
_DENIED = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
_USER_EMPTY = (Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
_LIMIT_BYTES = 1_572_864


@pytest.fixture
def locks(client: Client) -> Locks:
    """Clients of a lock that this test has for itself."""
    return Locks(client, new_prefix() + b"lock")


# --- one client -------------------------------------------------------------------------------------------------------


def test_a_free_lock(client: Client, locks: Locks) -> None:
    """LK-01, LK-03, LK-08: one key of the lease, without a value, made in one revision."""
    lease = locks.lease()
    before = client.revision()
    response = locks.lock(lease)
    assert response.key == claim_of(locks.name, lease)
    assert response.header.revision == before + 1
    assert response.header.member_id == client.range(b"k").header.member_id
    (kv,) = claims(client, locks.name)
    assert (kv.key, kv.value, kv.create_revision, kv.version, kv.lease) == (response.key, b"", before + 1, 1, lease)


@pytest.mark.parametrize(("lease", "suffix"), [(0x0ABC, b"/abc"), (-26, b"/-1a"), (2**63 - 1, b"/7fffffffffffffff")])
def test_the_key_of_a_chosen_lease(client: Client, locks: Locks, lease: int, suffix: bytes) -> None:
    """LK-01: lower case, no padding."""
    client.grant(60, lease)
    try:
        assert locks.lock(lease).key == locks.name + suffix
    finally:
        client.revoke(lease)


@pytest.mark.parametrize("name", [b"", b"\x00", b"\xff\xfe", b"a/b/", bytes(range(256))], ids=repr)
def test_any_bytes_are_a_name(client: Client, name: bytes) -> None:
    """LK-01, LIM-08."""
    locks = Locks(client, name)
    lease = locks.lease()
    key = locks.lock(lease).key
    assert key == claim_of(name, lease)
    assert locks.unlock(key).header.revision == client.revision()
    client.revoke(lease)


def test_names_do_not_reach_into_each_other(client: Client, locks: Locks) -> None:
    """LK-03: only keys below `name/` count."""
    lease = locks.lease()
    for name in (locks.name, locks.name + b"0", locks.name + b"/x/y", locks.name[:-1]):
        assert Locks(client, name).lock(lease, timeout_s=5).key == claim_of(name, lease)


def test_without_a_lease(client: Client, locks: Locks) -> None:
    """LK-02."""
    key = locks.lock().key
    (kv,) = claims(client, locks.name)
    assert key == claim_of(locks.name, kv.lease)
    told = client.time_to_live(kv.lease)
    assert told.grantedTTL == 60
    assert 50 <= told.TTL <= 60
    client.revoke(kv.lease)
    assert not claims(client, locks.name)


def test_again_with_the_same_lease(client: Client, locks: Locks) -> None:
    """LK-06, LK-08."""
    lease = locks.lease()
    first = locks.lock(lease)
    client.put(b"other")
    again = locks.lock(lease)
    assert again.key == first.key
    assert again.header.revision == first.header.revision + 1
    (kv,) = claims(client, locks.name)
    assert (kv.create_revision, kv.version) == (first.header.revision, 1)


def test_unlocking(client: Client, locks: Locks) -> None:
    """LK-09."""
    key = locks.lock(locks.lease()).key
    before = client.revision()
    assert locks.unlock(key).header.revision == before + 1
    assert not claims(client, locks.name)
    assert locks.unlock(key).header.revision == before + 1
    with refused(as_here(EMPTY_KEY)):
        locks.unlock(b"")


def test_a_lease_that_is_not_there(client: Client, locks: Locks) -> None:
    """LK-10."""
    with refused(as_here(LEASE_NOT_FOUND)):
        locks.lock(987_654_321)
    assert not claims(client, locks.name)


def test_a_name_that_is_too_long(client: Client) -> None:
    """LIM-01: the limits of a put are those of a claim."""
    with refused(as_here(TOO_LARGE)):
        Locks(client, b"n" * _LIMIT_BYTES).lock()


# --- many clients -----------------------------------------------------------------------------------------------------


def test_locks_are_granted_in_the_order_of_claims(client: Client, locks: Locks) -> None:
    """LK-04, LK-08, LK-11."""
    leases = [locks.lease() for _ in range(5)]
    waiting = [locks.begin_lock(lease) for lease in leases]
    unlocked = [0]
    for number, (lease, call) in enumerate(zip(leases, waiting, strict=True)):
        response = call.result()
        assert response.key == claim_of(locks.name, lease)
        assert not any(later.done() for later in waiting[number + 1 :])
        assert response.header.revision >= unlocked[-1]
        unlocked.append(locks.unlock(response.key).header.revision)
        assert response.header.revision < unlocked[-1]


def test_one_that_leaves_the_queue_lets_nobody_in(client: Client, locks: Locks) -> None:
    """LK-04: the last waits for the middle one, which goes, and then for the first."""
    first, middle, last = (locks.lease() for _ in range(3))
    key = locks.lock(first).key
    for lease in (middle, last):
        waiting = locks.begin_lock(lease)
    client.revoke(middle)
    time.sleep(0.2)
    assert not waiting.done()
    locks.unlock(key)
    assert waiting.result().key == claim_of(locks.name, last)


def test_a_holder_whose_lease_runs_out(locks: Locks) -> None:
    """LK-04: nobody unlocks."""
    locks.lock(locks.lease(2))
    waiting = locks.begin_lock(locks.lease())
    assert not waiting.done()
    assert waiting.result()


def test_a_lease_that_ends_while_its_claim_waits(client: Client, locks: Locks) -> None:
    """LK-05."""
    key = locks.lock(locks.lease()).key
    lease = locks.lease()
    waiting = locks.begin_lock(lease)
    client.revoke(lease)
    locks.unlock(key)
    with refused(_EXPIRED):
        waiting.result()
    assert not claims(client, locks.name)


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_client_that_gives_up(locks: Locks, how: str) -> None:
    """LK-07."""
    holder, other = locks.lease(), locks.lease()
    locks.lock(holder)
    if how == "cancelled":
        locks.begin_lock(other).cancel()
    else:
        with pytest.raises(grpc.RpcError):
            locks.lock(other, timeout_s=0.5)
    locks.wait_claims(holder)


@pytest.mark.beyond_etcd("etcd takes the claim away from the second call: mutex: session is expired")
def test_a_client_that_tries_again_keeps_its_place(locks: Locks) -> None:
    """LK-06, LK-07: the end of its first call is noticed after its second has come."""
    holder, lease = locks.lease(), locks.lease()
    key = locks.lock(holder).key
    first = locks.begin_lock(lease)
    second = locks.begin_lock(lease)
    time.sleep(0.2)  # the claim is there already: nothing else tells that the second call has come
    first.cancel()
    time.sleep(0.2)
    locks.wait_claims(holder, lease)
    locks.unlock(key)
    assert second.result().key == claim_of(locks.name, lease)
    locks.wait_claims(lease)


def test_only_one_at_a_time(client: Client, locks: Locks, shared_server: Server) -> None:
    """LK-04, LK-11: a counter that is read, and later written, by whoever has the lock loses nothing."""
    counter = locks.name + b"-counter"
    client.put(counter, b"0")

    def count(_number: int) -> None:
        with connect(shared_server.endpoint) as channel:
            own = Locks(Client(channel), locks.name)
            lease = own.lease()
            for _ in range(5):
                key = own.lock(lease).key
                value = int(own.client.only(counter).value)
                # Ownership is checked with the write, as a careful client does (LK-11).
                owns = Compare(key=key, result=Compare.NOT_EQUAL, target=Compare.CREATE, create_revision=0)
                assert own.client.txn([owns], [put_op(counter, b"%d" % (value + 1))]).succeeded
                own.unlock(key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert client.only(counter).value == b"40"
    assert not claims(client, locks.name)


def test_participants_that_make_their_claims_themselves(client: Client, locks: Locks) -> None:
    """EL-09, LK-03: the keys and their order are all there is to it."""
    first, served, last = (locks.lease() for _ in range(3))
    keys = [claim_of(locks.name, lease) for lease in (first, served, last)]

    def claim(key: bytes, lease: int) -> rpc_pb2.TxnResponse:
        absent = Compare(key=key, result=Compare.EQUAL, target=Compare.CREATE, create_revision=0)
        return client.txn([absent], [put_op(key, b"", lease=lease)], [range_op(key)])

    assert claim(keys[0], first).succeeded
    waiting = locks.begin_lock(served)
    made = claim(keys[2], last)
    assert not waiting.done()
    with client.watch() as stream:
        stream.create(keys[1])
        client.delete(keys[0])
        assert waiting.result().key == keys[1]
        before = client.range(
            locks.name + b"/", prefix_end(locks.name + b"/"), max_create_revision=made.header.revision - 1
        )
        assert [kv.key for kv in before.kvs] == [keys[1]]
        locks.unlock(keys[1])
        (event,) = stream.events(1)
        assert event.kv.key == keys[1]
    assert claim_keys(client, locks.name) == [keys[2]]


def test_an_owner_that_is_deleted_with_others(client: Client, locks: Locks) -> None:
    """LK-04: several claims go in one revision."""
    leases = [locks.lease() for _ in range(4)]
    waiting = [locks.begin_lock(lease) for lease in leases]
    waiting[0].result()
    client.txn([], [delete_op(claim_of(locks.name, leases[0])), delete_op(claim_of(locks.name, leases[2]))])
    assert waiting[1].result().key == claim_of(locks.name, leases[1])
    assert not waiting[3].done()
    locks.unlock(claim_of(locks.name, leases[1]))
    assert waiting[3].result().key == claim_of(locks.name, leases[3])
    with refused(_EXPIRED):
        waiting[2].result()


@pytest.mark.beyond_etcd("etcd's own watcher may start from what is compacted by then, and the call fails")
def test_compaction_disturbs_nobody(client: Client, locks: Locks) -> None:
    """LK-04, CMP-01: who waits needs no history."""
    key = locks.lock(locks.lease()).key
    waiting = locks.begin_lock(locks.lease())
    for _ in range(3):
        client.compact(client.put(b"other").header.revision, physical=True)
    locks.unlock(key)
    client.compact(client.put(b"other").header.revision)
    assert waiting.result()


# --- the member stops -------------------------------------------------------------------------------------------------


@pytest.mark.beyond_etcd("etcd waits for such calls to end by themselves")
def test_a_member_that_stops_tells_who_waits(
    start_server: Callable[..., Server], connected: Callable[[Server], Client]
) -> None:
    """ER-03: and takes the claim back; the lock itself outlives the restart."""
    server = start_server()
    locks = Locks(connected(server), b"lock")
    holder = locks.lease()
    locks.lock(holder)
    waiting = locks.begin_lock(locks.lease())
    assert server.terminate() == 0
    with refused(_STOPPED):
        waiting.result()
    server.start()
    wait_until("it serves again", lambda: locks.client.revision())
    assert claim_keys(locks.client, locks.name) == [claim_of(locks.name, holder)]


def test_a_request_that_is_none(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        client.raw("/v3lockpb.Lock/Lock", b"\xff")
    error: Any = raised.value  # grpcio raises one class for both: the error, and the call that it ended
    assert error.code() is Code.INTERNAL
    answer = client.raw("/v3lockpb.Lock/Unlock", lock_pb2.UnlockRequest(key=b"nothing").SerializeToString())
    assert lock_pb2.UnlockResponse.FromString(answer).header.revision == client.revision()


# --- with auth on -----------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(start_server: Callable[..., Server], connected: Callable[[Server], Client]) -> Client:
    """A member with auth on: root, alice who may do everything below lock/, and bob who may do nothing."""
    client = connected(start_server())
    auth = client.calls.Auth
    auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="locks"), timeout=TIMEOUT_S)
    _grant(client, "locks", b"lock/")
    for user, role in (("root", "root"), ("alice", "locks"), ("bob", None)):
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=user, password="secret"), timeout=TIMEOUT_S)
        if role == "root":
            auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="root"), timeout=TIMEOUT_S)
        if role is not None:
            auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role), timeout=TIMEOUT_S)
    auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=TIMEOUT_S)
    return client


def _grant(client: Client, role: str, prefix: bytes, metadata: Any = ()) -> None:
    perm = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=prefix, range_end=prefix_end(prefix))
    request = rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=perm)
    client.calls.Auth.RoleGrantPermission(request, timeout=TIMEOUT_S, metadata=metadata)


def _as(client: Client, user: str) -> tuple[tuple[str, str]]:
    """Metadata of a call by this user."""
    request = rpc_pb2.AuthenticateRequest(name=user, password="secret")
    return (("token", client.calls.Auth.Authenticate(request, timeout=TIMEOUT_S).token),)


def test_a_claim_takes_the_rights_to_its_keys(guarded: Client) -> None:
    """AU-73: to read and write what is below the name; Unlock, to write the key."""
    calls = guarded.calls.Lock
    alice, bob = _as(guarded, "alice"), _as(guarded, "bob")
    with refused(as_here(_USER_EMPTY)):
        calls.Lock(lock_pb2.LockRequest(name=b"lock"), timeout=TIMEOUT_S)
    with refused(as_here(_DENIED)):
        calls.Lock(lock_pb2.LockRequest(name=b"lock"), timeout=TIMEOUT_S, metadata=bob)
    with refused(as_here(_DENIED)):
        calls.Lock(lock_pb2.LockRequest(name=b"other"), timeout=TIMEOUT_S, metadata=alice)
    key = calls.Lock(lock_pb2.LockRequest(name=b"lock"), timeout=TIMEOUT_S, metadata=alice).key
    with refused(as_here(_DENIED)):
        calls.Unlock(lock_pb2.UnlockRequest(key=key), timeout=TIMEOUT_S, metadata=bob)
    calls.Unlock(lock_pb2.UnlockRequest(key=key), timeout=TIMEOUT_S, metadata=alice)


@pytest.mark.parametrize(
    "ends",
    [
        "granted",
        pytest.param(
            "cancelled",
            marks=pytest.mark.beyond_etcd("etcd takes a claim back as nobody, which is refused, and leaves it behind"),
        ),
    ],
)
def test_rights_that_change_while_a_call_waits(guarded: Client, ends: str) -> None:
    """AU-49, AU-73, LK-07: each step is judged anew, so another auth revision is no reason to fail, or to leave a claim
    behind."""
    alice, root = _as(guarded, "alice"), _as(guarded, "root")
    lock, lease = guarded.calls.Lock, guarded.calls.Lease

    def claims_now() -> list[bytes]:
        request = rpc_pb2.RangeRequest(key=b"lock/", range_end=b"lock0")
        return [kv.key for kv in guarded.calls.KV.Range(request, timeout=TIMEOUT_S, metadata=root).kvs]

    ids = [lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60), timeout=TIMEOUT_S, metadata=alice).ID for _ in range(2)]
    held = lock.Lock(lock_pb2.LockRequest(name=b"lock", lease=ids[0]), timeout=TIMEOUT_S, metadata=alice)
    request = lock_pb2.LockRequest(name=b"lock", lease=ids[1])
    waiting = lock.Lock.future(request, timeout=TIMEOUT_S, metadata=alice)
    wait_until("the claim is made", lambda: len(claims_now()) == 2)
    _grant(guarded, "locks", b"more/", root)
    if ends == "granted":
        lock.Unlock(lock_pb2.UnlockRequest(key=held.key), timeout=TIMEOUT_S, metadata=alice)
        assert waiting.result().key == claim_of(b"lock", ids[1])
    else:
        waiting.cancel()
        wait_until("the claim is gone", lambda: claims_now() == [held.key])
