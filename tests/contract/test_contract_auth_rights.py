"""What a user may do: keys, transactions, leases, watches, administration (contract sections 6.8 and 7.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from contract_auth import (
    BOTH,
    DENIED,
    INVALID_TOKEN,
    READ,
    USER_EMPTY,
    WRITE,
    Admin,
    Guarded,
    saying,
)
from contract_support import (
    DUPLICATE_KEY,
    EMPTY_KEY,
    LEASE_NOT_FOUND,
    TIMEOUT_S,
    Client,
    Code,
    Compare,
    delete_op,
    prefix_end,
    put_op,
    range_op,
    refused,
    txn_op,
)

from raftkv.pb import election_pb2, lock_pb2, rpc_pb2

BAD_URLS = (Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
VALUE_PROVIDED = (Code.INVALID_ARGUMENT, "etcdserver: value is provided")
LATER = "a check that later patch releases have"


def _refused_for(attempt: Callable[[], Any], status: tuple[grpc.StatusCode, str] | None) -> None:
    """Refused with this, or done."""
    if status is None:
        attempt()
        return
    with refused(status):
        attempt()


# --- intervals --------------------------------------------------------------------------------------------------------

GRANTS = ((READ, b"b", b"d"), (READ, b"d", b"f"), (READ, b"e", b"h"), (READ, b"k", b""), (READ, b"m", b"o"))


@pytest.mark.parametrize(
    ("key", "range_end", "allowed"),
    [
        (b"b", b"", True),
        (b"a", b"", False),
        (b"d", b"", True),
        (b"h", b"", False),
        (b"b", b"d", True),
        (b"c", b"e", True),  # adjacent
        (b"b", b"h", True),  # adjacent and overlapping
        (b"b", b"h\0", False),
        (b"a", b"c", False),
        (b"g", b"l", False),  # a gap
        (b"k", b"", True),
        (b"k", b"k\0", True),
        (b"k", b"k\1", False),
        (b"m", b"\0", False),
        (b"", b"\0", False),
    ],
)
def test_an_interval_is_allowed_when_grants_cover_all_of_it(
    guarded: Guarded, prefix: bytes, key: bytes, range_end: bytes, allowed: bool
) -> None:
    """AU-70, AU-71."""
    user = guarded.new_user(*((kind, prefix + first, end and prefix + end) for kind, first, end in GRANTS))
    end = range_end if range_end in (b"", b"\0") else prefix + range_end
    for serializable in (False, True):
        _refused_for(
            lambda serializable=serializable: user.range(prefix + key, end, serializable=serializable),  # type: ignore[misc]
            None if allowed else DENIED,
        )


def test_an_open_grant(guarded: Guarded, prefix: bytes) -> None:
    """AU-71: up to the last key there can be."""
    start = b"\xff" + prefix
    user = guarded.new_user((BOTH, start, b"\0"))
    for key, range_end in ((start, b"\0"), (start + b"x", b"\0"), (b"\xff\xff", b""), (start, b"\xff\xff\xff")):
        user.range(key, range_end)
        user.delete(key, range_end)
    for key, range_end in ((b"\xff", b"\0"), (b"\xff", b""), (b"\0", b"\0")):
        with refused(DENIED):
            user.range(key, range_end)


@pytest.mark.parametrize("kind", [READ, WRITE, BOTH], ids=["READ", "WRITE", "READWRITE"])
def test_kinds_of_permissions(guarded: Guarded, prefix: bytes, kind: int) -> None:
    """AU-72, AU-73, AU-74."""
    guarded.root.put(prefix)
    user = guarded.new_user((kind, prefix, b""))
    may_read, may_write = kind in (READ, BOTH), kind in (WRITE, BOTH)
    both = may_read and may_write
    for attempt, allowed in (
        (lambda: user.range(prefix), may_read),
        (lambda: user.put(prefix), may_write),
        (lambda: user.put(prefix, prev_kv=True), both),
        (lambda: user.delete(prefix, prev_kv=True), both),
        (lambda: user.delete(prefix), may_write),
    ):
        before = guarded.root.revision()
        _refused_for(attempt, None if allowed else DENIED)
        if not allowed:
            assert guarded.root.revision() == before


def test_rights_of_several_roles_join(guarded: Guarded, prefix: bytes) -> None:
    """AU-70, AU-76: each change holds for the next request."""
    name = guarded.add_user((READ, prefix + b"a", prefix + b"c"))
    user = guarded.login(name)
    with refused(DENIED):
        user.range(prefix + b"a", prefix + b"e")
    other = guarded.add_user((READ, prefix + b"c", prefix + b"e"))
    guarded.admin.grant_role(name, other)
    user.range(prefix + b"a", prefix + b"e")
    guarded.admin.forbid(other, prefix + b"c", prefix + b"e")
    with refused(DENIED):
        user.range(prefix + b"a", prefix + b"e")
    user.range(prefix + b"a", prefix + b"c")
    guarded.admin.delete_role(name)
    with refused(DENIED):
        user.range(prefix + b"a")


# --- transactions -----------------------------------------------------------------------------------------------------


Txn = tuple[list[rpc_pb2.Compare], list[rpc_pb2.RequestOp], list[rpc_pb2.RequestOp]]


def _check_denied(guarded: Guarded, user: Client, txns: tuple[Txn, ...]) -> None:
    before = guarded.root.revision()
    for txn in txns:
        with refused(DENIED):
            user.txn(*txn)
        with refused(USER_EMPTY):
            guarded.nobody.txn(*txn)
    assert guarded.root.revision() == before


def test_a_transaction_needs_all_that_it_names(guarded: Guarded, prefix: bytes) -> None:
    """AU-73, AU-74: compares, and both branches, whichever runs. Nothing of a denied one is done."""
    mine, read_only, foreign = prefix + b"mine", prefix + b"read", prefix + b"foreign"
    user = guarded.new_user((BOTH, mine, b""), (READ, read_only, b""))
    here = Compare(key=mine, target=Compare.VERSION, version=0)
    there = Compare(key=foreign, target=Compare.VERSION, version=0)
    wide = Compare(key=mine, range_end=prefix_end(prefix), target=Compare.VERSION, version=0)
    user.txn([here], [put_op(mine), range_op(read_only)], [delete_op(mine, prev_kv=True), range_op(mine)])
    denied: tuple[Txn, ...] = (
        ([there], [], [range_op(mine)]),
        ([wide], [range_op(mine)], []),
        ([here], [put_op(mine), put_op(foreign)], []),
        ([here], [], [put_op(mine), put_op(foreign)]),
        ([here], [put_op(mine)], [range_op(foreign)]),
        ([here], [put_op(mine), put_op(read_only)], []),
        ([here], [range_op(mine), delete_op(mine, prefix_end(prefix))], []),
        ([], [range_op(foreign)], []),
        ([], [range_op(mine)], [range_op(foreign, serializable=True)]),
    )
    _check_denied(guarded, user, denied)


@pytest.mark.beyond_etcd("3.5.1 does not look into transactions within a transaction")
def test_a_transaction_within_a_transaction(guarded: Guarded, prefix: bytes) -> None:
    """AU-73: to any depth."""
    mine, foreign = prefix + b"mine", prefix + b"foreign"
    user = guarded.new_user((BOTH, mine, b""))
    there = Compare(key=foreign, target=Compare.VERSION, version=0)
    user.txn([], [txn_op([], [put_op(mine)], [])], [])
    denied: tuple[Txn, ...] = (
        ([], [put_op(mine), txn_op([], [], [put_op(foreign)])], []),
        ([], [put_op(mine), txn_op([there], [], [])], []),
        ([], [txn_op([], [txn_op([], [range_op(foreign)], [])], [])], []),
    )
    _check_denied(guarded, user, denied)


# --- leases -----------------------------------------------------------------------------------------------------------


def _renewed(client: Client, lease: int) -> int:
    """The TTL that it was answered with."""
    with client.keep_alive() as stream:
        stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        return int(stream.next().TTL)


@pytest.fixture
def leases(guarded: Guarded, prefix: bytes) -> tuple[Client, int, int, int]:
    """A user, and leases: without keys, with a key of the user's, with a key of somebody else's as well."""
    user = guarded.new_user((BOTH, prefix + b"a", prefix + b"c"))
    empty, mine, mixed = (guarded.root.grant(1000).ID for _ in range(3))
    guarded.root.put(prefix + b"a", lease=mine)
    guarded.root.put(prefix + b"b", lease=mixed)
    guarded.root.put(prefix + b"z", lease=mixed)
    return user, empty, mine, mixed


def test_a_key_is_put_on_a_lease_by_who_may_write_its_other_keys(
    guarded: Guarded, leases: tuple[Client, int, int, int], prefix: bytes
) -> None:
    """AU-73: it would be deleted with them."""
    user, empty, mine, mixed = leases
    user.put(prefix + b"a1", lease=empty)
    user.put(prefix + b"a2", lease=mine)
    with refused(DENIED):
        user.put(prefix + b"a3", lease=mixed)
    with refused(LEASE_NOT_FOUND):
        user.put(prefix + b"a3", lease=12345)
    guarded.root.put(prefix + b"a3", lease=mixed)


@pytest.mark.beyond_etcd("3.5.1 does not look at leases of puts in a transaction")
def test_a_transaction_puts_a_key_on_a_lease(leases: tuple[Client, int, int, int], prefix: bytes) -> None:
    """AU-73."""
    user, _, mine, mixed = leases
    user.txn([], [put_op(prefix + b"a3", lease=mine)], [])
    with refused(DENIED):
        user.txn([], [put_op(prefix + b"a3", lease=mixed)], [])


def test_a_lease_is_revoked_by_who_may_write_its_keys(
    guarded: Guarded, leases: tuple[Client, int, int, int], prefix: bytes
) -> None:
    """L-13."""
    user, empty, mine, mixed = leases
    user.revoke(empty)
    user.revoke(mine)
    with refused(DENIED):
        user.revoke(mixed)
    with refused(LEASE_NOT_FOUND):
        user.revoke(12345)
    assert [kv.key for kv in guarded.root.range(prefix, prefix_end(prefix)).kvs] == [prefix + b"b", prefix + b"z"]
    guarded.root.revoke(mixed)
    assert not guarded.root.range(prefix, prefix_end(prefix)).kvs


@pytest.mark.beyond_etcd(LATER)
def test_a_lease_is_kept_alive_by_who_may_write_its_keys(
    guarded: Guarded, leases: tuple[Client, int, int, int]
) -> None:
    """L-28: who may not gets no answer but the end of the stream."""
    user, empty, mine, mixed = leases
    assert [_renewed(user, each) for each in (empty, mine, 12345)] == [1000, 1000, 0]
    with refused(DENIED):
        _renewed(user, mixed)
    with refused(USER_EMPTY):
        _renewed(guarded.nobody, empty)
    with refused(INVALID_TOKEN):
        _renewed(saying(guarded.nobody, ("token", "x.1")), empty)
    assert _renewed(guarded.root, mixed) == 1000


@pytest.mark.beyond_etcd(LATER)
def test_what_is_told_of_leases(guarded: Guarded, leases: tuple[Client, int, int, int], prefix: bytes) -> None:
    """L-08, L-33, L-34."""
    user, empty, mine, mixed = leases
    assert user.time_to_live(mine, keys=True).keys == [prefix + b"a"]
    assert user.time_to_live(mixed).grantedTTL == 1000
    assert user.time_to_live(12345, keys=True).TTL == -1
    with refused(DENIED):
        user.time_to_live(mixed, keys=True)
    with refused(DENIED):
        user.leases()
    assert {empty, mine, mixed} <= set(guarded.root.leases())
    user.revoke(user.grant(100).ID)
    for attempt in (
        lambda: guarded.nobody.grant(100),
        lambda: guarded.nobody.revoke(empty),
        lambda: guarded.nobody.time_to_live(empty),
        lambda: guarded.nobody.time_to_live(empty, keys=True),
        lambda: guarded.nobody.leases(),
    ):
        with refused(USER_EMPTY):
            attempt()


def test_a_lease_that_runs_out_asks_nobody(guarded: Guarded, prefix: bytes) -> None:
    """AU-77, L-14."""
    user = guarded.new_user((BOTH, prefix, b""))
    user.put(prefix, lease=user.grant(1).ID)
    with user.watch() as stream:
        stream.create(prefix)
        (event,) = stream.events(1)
    assert event.kv.key == prefix
    assert not user.range(prefix).kvs


# --- watches ----------------------------------------------------------------------------------------------------------

REASON = "rpc error: code = {} desc = {}"
DENIED_REASON = REASON.format("PermissionDenied", DENIED[1])


def test_a_watch_sees_what_its_user_may_read(guarded: Guarded, prefix: bytes) -> None:
    """W-23: and one that is refused leaves the stream open."""
    user = guarded.new_user((READ, prefix + b"a", prefix + b"c"))
    with user.watch() as stream:
        for key, range_end in (
            (prefix + b"a", prefix + b"d"),
            (prefix + b"c", b""),
            (b"", b""),
        ):
            stream.ask(key, range_end)
            answer = stream.next()
            assert (answer.created, answer.canceled, answer.cancel_reason) == (True, True, DENIED_REASON)
            assert answer.header.revision == guarded.root.revision()
        created = stream.create(prefix + b"a", prefix + b"c")
        assert not created.canceled
        guarded.root.put(prefix + b"b")
        (event,) = stream.events(1)
        assert event.kv.key == prefix + b"b"


@pytest.mark.beyond_etcd("3.5.1 takes it for a watch of the first key alone, and then sends all")
def test_an_open_watch_needs_an_open_grant(guarded: Guarded, prefix: bytes) -> None:
    """W-23, AU-71."""
    user = guarded.new_user((READ, prefix + b"a", prefix + b"c"))
    with user.watch() as stream:
        stream.ask(prefix + b"a", b"\0")
        assert stream.next().cancel_reason == DENIED_REASON


def test_a_right_that_is_lost_does_not_end_a_watch(guarded: Guarded, prefix: bytes) -> None:
    """W-25."""
    name = guarded.add_user((READ, prefix, b""))
    with guarded.login(name).watch() as stream:
        stream.create(prefix)
        guarded.admin.delete_role(name)
        guarded.root.put(prefix)
        assert stream.events(1)[0].kv.key == prefix


@pytest.mark.beyond_etcd("3.5.1 refuses in the name of the watch with id 0, and ends that one")
def test_a_watch_that_is_refused_ends_no_other(guarded: Guarded, prefix: bytes) -> None:
    """W-23, W-25."""
    user = guarded.new_user((READ, prefix, b""))
    with user.watch() as stream:
        stream.create(prefix)
        stream.ask(prefix + b"x")
        assert stream.next().cancel_reason == DENIED_REASON
        guarded.root.put(prefix)
        assert stream.events(1)[0].kv.key == prefix


@pytest.mark.beyond_etcd("3.5.1 says permission denied for all of them, with watch id 0")
def test_why_a_watch_is_refused(guarded: Guarded, prefix: bytes) -> None:
    """W-23, W-24: the Go client compares the whole text."""
    user = guarded.new_user()
    for client, code, text in (
        (guarded.nobody, "InvalidArgument", USER_EMPTY[1]),
        (saying(guarded.nobody, ("token", "of nobody.1")), "Unauthenticated", INVALID_TOKEN[1]),
        (user, "PermissionDenied", DENIED[1]),
    ):
        with client.watch() as stream:
            stream.ask(prefix)
            answer = stream.next()
            assert (answer.watch_id, answer.created, answer.canceled) == (-1, True, True)
            assert answer.cancel_reason == REASON.format(code, text)


# --- administration ---------------------------------------------------------------------------------------------------


def _snapshot(client: Client) -> None:
    for _ in client.calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=TIMEOUT_S):
        pass


def _ask(method: str, request: Any) -> Callable[[Client], Any]:
    service, _, name = method.partition(".")
    return lambda client: getattr(getattr(client.calls, service), name)(request, timeout=TIMEOUT_S)


FOR_ROOT = {
    "Snapshot": (_snapshot, None),
    "Defragment": (_ask("Maintenance.Defragment", rpc_pb2.DefragmentRequest()), None),
    "Hash": (_ask("Maintenance.Hash", rpc_pb2.HashRequest()), None),
    "HashKV": (_ask("Maintenance.HashKV", rpc_pb2.HashKVRequest()), None),
    "Compact": (lambda client: client.compact(client.revision()), None),
    "Alarm ACTIVATE": (lambda client: client.alarm(action=rpc_pb2.AlarmRequest.ACTIVATE), None),
    "Alarm DEACTIVATE": (lambda client: client.alarm(rpc_pb2.AlarmRequest.DEACTIVATE, 1, 1), None),
    "MoveLeader": (
        _ask("Maintenance.MoveLeader", rpc_pb2.MoveLeaderRequest(targetID=9)),
        (Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee"),
    ),
    "Downgrade": (
        _ask("Maintenance.Downgrade", rpc_pb2.DowngradeRequest(version="x")),
        (Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"),
    ),
    "MemberRemove": (
        _ask("Cluster.MemberRemove", rpc_pb2.MemberRemoveRequest(ID=9)),
        (Code.NOT_FOUND, "etcdserver: member not found"),
    ),
    "MemberUpdate": (
        _ask("Cluster.MemberUpdate", rpc_pb2.MemberUpdateRequest(ID=9, peerURLs=["http://127.0.0.1:1"])),
        (Code.NOT_FOUND, "etcdserver: member not found"),
    ),
    "MemberPromote": (
        _ask("Cluster.MemberPromote", rpc_pb2.MemberPromoteRequest(ID=9)),
        (Code.NOT_FOUND, "etcdserver: member not found"),
    ),
}
"""What it is asked with, and what root is answered; None: it is done."""


@pytest.mark.beyond_etcd(LATER)
@pytest.mark.parametrize("method", FOR_ROOT)
def test_what_only_root_may_do(guarded: Guarded, method: str) -> None:
    """Contract section 6.8, CMP-10, AL-14."""
    ask, answer = FOR_ROOT[method]
    user = guarded.new_user((BOTH, b"\0", b"\0"))
    with refused(DENIED):
        ask(user)
    if method != "Compact":  # which begins by asking for the revision
        with refused(USER_EMPTY):
            ask(guarded.nobody)
        with refused(INVALID_TOKEN):
            ask(saying(guarded.nobody, ("token", "of nobody.1")))
    _refused_for(lambda: ask(guarded.root), answer)


@pytest.mark.beyond_etcd(LATER)
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.status(), id="Status"),
        pytest.param(lambda client: client.alarm(), id="Alarm GET"),
        pytest.param(lambda client: client.members(linearizable=False), id="MemberList"),
        pytest.param(lambda client: client.members(), id="MemberList, linearizable"),
    ],
)
def test_what_every_user_may_do(guarded: Guarded, ask: Callable[[Client], Any]) -> None:
    """Contract section 6.8, CL-12, MT-02, AL-14."""
    ask(guarded.new_user())
    with refused(USER_EMPTY):
        ask(guarded.nobody)
    with refused(INVALID_TOKEN):
        ask(saying(guarded.nobody, ("token", "of nobody.1")))


@pytest.mark.beyond_etcd("3.5.1 asks for root before it looks at URLs")
@pytest.mark.parametrize(
    ("ask", "status"),
    [
        pytest.param(lambda client: client.range(b""), EMPTY_KEY, id="Range"),
        pytest.param(lambda client: client.put(b"k", b"v", ignore_value=True), VALUE_PROVIDED, id="Put"),
        pytest.param(lambda client: client.delete(b""), EMPTY_KEY, id="DeleteRange"),
        pytest.param(lambda client: client.txn(success=[put_op(b"k"), put_op(b"k")]), DUPLICATE_KEY, id="Txn"),
        pytest.param(_ask("Lock.Unlock", lock_pb2.UnlockRequest()), EMPTY_KEY, id="Unlock"),
        pytest.param(
            _ask("Cluster.MemberAdd", rpc_pb2.MemberAddRequest(peerURLs=["nonsense"])), BAD_URLS, id="MemberAdd"
        ),
        pytest.param(
            _ask("Cluster.MemberUpdate", rpc_pb2.MemberUpdateRequest(ID=9, peerURLs=[""])), BAD_URLS, id="MemberUpdate"
        ),
    ],
)
def test_what_a_request_says_comes_before_whose_it_is(
    guarded: Guarded, ask: Callable[[Client], Any], status: tuple[Code, str]
) -> None:
    """LIM-02, KV-20, TXN-20, CL-20."""
    for client in (guarded.nobody, guarded.new_user(), saying(guarded.nobody, ("token", "of nobody.1"))):
        with refused(status):
            ask(client)


@pytest.mark.parametrize("method", ["Proclaim", "Resign"])
def test_an_election_needs_a_leader_key_of_whomever(guarded: Guarded, method: str) -> None:
    """EL-04, EL-07."""
    request = election_pb2.ProclaimRequest() if method == "Proclaim" else election_pb2.ResignRequest()
    for client in (guarded.nobody, saying(guarded.nobody, ("token", "of nobody.1"))):
        with refused((Code.UNKNOWN, '"leader" field must be provided')):
            getattr(client.calls.Election, method)(request, timeout=TIMEOUT_S)


def test_health_asks_nobody(guarded: Guarded) -> None:
    """H-45: not even for a token that stands for somebody."""
    for client in (guarded.nobody, saying(guarded.nobody, ("token", "of nobody.1"))):
        assert client.raw("/grpc.health.v1.Health/Check") == b"\x08\x01"


def test_locks_and_elections_need_rights_on_their_keys(guarded: Guarded, prefix: bytes) -> None:
    """AU-73."""
    user = guarded.new_user((BOTH, prefix, prefix_end(prefix)))
    other = guarded.new_user((READ, prefix, prefix_end(prefix)))
    lease = user.grant(100).ID
    lock = lock_pb2.LockRequest(name=prefix + b"lock", lease=lease)
    campaign = election_pb2.CampaignRequest(name=prefix + b"seat", lease=lease, value=b"v")
    held = user.calls.Lock.Lock(lock, timeout=TIMEOUT_S)
    user.calls.Lock.Unlock(lock_pb2.UnlockRequest(key=held.key), timeout=TIMEOUT_S)
    user.calls.Election.Campaign(campaign, timeout=TIMEOUT_S)
    assert (
        other.calls.Election.Leader(election_pb2.LeaderRequest(name=prefix + b"seat"), timeout=TIMEOUT_S).kv.value
        == b"v"
    )
    for client, text in ((other, DENIED[1]), (guarded.nobody, USER_EMPTY[1])):
        for call, request in (
            (client.calls.Lock.Lock, lock),
            (client.calls.Election.Campaign, campaign),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call(request, timeout=TIMEOUT_S)
            error: Any = raised.value
            assert error.details() == text


def test_the_watch_of_an_administrator_sees_all(guarded: Guarded, prefix: bytes) -> None:
    """AU-75."""
    user = guarded.new_user((WRITE, prefix, b""))
    with guarded.root.watch() as stream:
        assert not stream.create(b"\0", b"\0").canceled
        user.put(prefix)
        assert stream.events(1)[0].kv.key == prefix


def test_a_user_that_is_deleted_can_do_nothing(guarded: Guarded, prefix: bytes) -> None:
    """AU-21, AU-47."""
    name = guarded.add_user((BOTH, prefix, b""))
    user = guarded.login(name)
    user.put(prefix)
    guarded.admin.delete_user(name)
    for attempt in (lambda: user.put(prefix), lambda: user.range(prefix), lambda: Admin(user).user(name)):
        with refused(INVALID_TOKEN):
            attempt()
    guarded.admin.add_user(name, "pass")
    with refused(INVALID_TOKEN):
        user.put(prefix)
