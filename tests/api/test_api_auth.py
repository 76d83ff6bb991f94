"""Who calls and what they may do, as the services see to it: tokens, rights of reads, requests in somebody's name."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw
from guarded_support import BOTH, DENIED, EMPTY, INVALID, OLD, READ, WRITE, Guarded

from raftkv.api.errors import EMPTY_KEY
from raftkv.api.range_stream import NO_FILTERS
from raftkv.apply import CLIENT_KINDS, Kind, decode_as_user
from raftkv.auth import AuthFailed, Identity
from raftkv.pb import auth_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import MethodKind
from raftkv.server.authenticator import PasswordTooLong

TOO_LARGE = (Code.INVALID_ARGUMENT, "etcdserver: request is too large")
NOT_FOUND = (Code.FAILED_PRECONDITION, "etcdserver: user name not found")
RANGE_A = rpc_pb2.RangeRequest(key=b"a")
Op = rpc_pb2.RequestOp


@pytest.fixture
def guarded(fake_node: FakeNode) -> Guarded:
    return Guarded(fake_node)


# --- who calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "user"),
    [
        ({"token": "alice"}, "alice"),
        ({"token": "Bearer alice"}, "alice"),
        ({"authorization": "alice"}, "alice"),
        ({"authorization": "Bearer alice"}, "alice"),
        ({"token": "alice", "authorization": "nobody"}, "alice"),
        ({"token": "nobody", "authorization": "alice"}, None),
        ({"token": "", "authorization": "alice"}, None),
        ({"authorization": "bearer alice"}, None),
        ({"authorization": "Basic alice"}, None),
        ({"token": "nobody"}, None),
    ],
)
def test_where_the_token_is(guarded: Guarded, metadata: dict[str, str], user: str | None) -> None:
    """G-23, AU-47."""
    call = guarded.call("KV/Range", RANGE_A, **metadata)
    if user is None:
        assert call.failure == INVALID
        assert not call.replies
    else:
        assert call.identity == Identity(user, guarded.node.auth.revision)
        assert call.replies


def test_who_says_nothing_is_nobody(guarded: Guarded) -> None:
    """AU-48."""
    assert guarded.call("KV/Range", RANGE_A).failure == EMPTY
    assert guarded.tokens.asked == []


def test_while_auth_is_off_nobody_is_asked(guarded: Guarded) -> None:
    """AU-13: also of those who show a token that stands for nobody."""
    guarded.turn_off()
    for metadata in ({}, {"token": "nobody"}):
        call = guarded.call("KV/Range", RANGE_A, **metadata)
        assert call.replies
        call = guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"z"), **metadata)
        assert call.replies
    assert guarded.tokens.asked == []
    assert guarded.node.proposed[-1][0] == Kind.PUT, "in nobody's name"


@pytest.mark.parametrize(
    ("client_cert_auth", "metadata", "name", "user"),
    [
        (True, {}, "alice", "alice"),
        (True, {"token": "bob"}, "alice", "bob"),
        (True, {"grpcgateway-accept": "application/json"}, "alice", None),
        (True, {}, None, None),
        (True, {}, "", None),
        (False, {}, "alice", None),
    ],
    ids=["named", "a token counts before", "the gateway's own", "no certificate", "no name in it", "not asked for"],
)
def test_the_user_of_a_certificate(
    guarded: Guarded, client_cert_auth: bool, metadata: dict[str, str], name: str | None, user: str | None
) -> None:
    """AU-60 to AU-62, G-25."""
    guarded.node.config.client_tls.client_cert_auth = client_cert_auth
    call: Any = FakeCall(**metadata)
    call.tls_common_name = name
    guarded.routes[b"/etcdserverpb.KV/Range"].handler(call, raw(RANGE_A))
    assert (call.identity.user or None) == user
    assert call.failure == {None: EMPTY, "alice": None, "bob": DENIED}[user]


def test_a_certificate_of_nobody_we_know(guarded: Guarded) -> None:
    """AU-63."""
    guarded.node.config.client_tls.client_cert_auth = True
    for path, request, failure in (
        ("KV/Range", RANGE_A, DENIED),
        ("Auth/UserList", rpc_pb2.AuthUserListRequest(), NOT_FOUND),
    ):
        call: Any = FakeCall()
        call.tls_common_name = "mallory"
        guarded.routes[b"/etcdserverpb." + path.encode()].handler(call, raw(request))
        assert call.failure == failure


def test_a_call_waits_for_its_token_to_be_known(guarded: Guarded) -> None:
    """AU-44."""
    guarded.tokens.slow.add("alice")
    calls = [
        guarded.call("KV/Range", RANGE_A, "alice"),
        guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"b"), "alice"),
        guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"a"), "alice"),
    ]
    assert not any(call.replies or call.failure for call in calls)
    assert guarded.node.proposed == []
    guarded.tokens.go_on()
    assert [bool(call.replies) for call in calls] == [True, True, False]
    assert calls[2].failure == DENIED


# --- requests on the log ----------------------------------------------------------------------------------------------

ON_THE_LOG = {
    Kind.PUT: ("KV/Put", rpc_pb2.PutRequest(key=b"b")),
    Kind.DELETE_RANGE: ("KV/DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"b")),
    Kind.TXN: ("KV/Txn", rpc_pb2.TxnRequest(success=[Op(request_put=rpc_pb2.PutRequest(key=b"b"))])),
    Kind.COMPACT: ("KV/Compact", rpc_pb2.CompactionRequest(revision=2)),
    Kind.LEASE_GRANT: ("Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=9, TTL=60)),
    Kind.LEASE_REVOKE: ("Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=9)),
    Kind.ALARM: ("Maintenance/Alarm", rpc_pb2.AlarmRequest()),
    Kind.MEMBER_UPDATE: ("Cluster/MemberUpdate", rpc_pb2.MemberUpdateRequest(ID=9, peerURLs=["http://h:1"])),
    Kind.AUTH_ENABLE: ("Auth/AuthEnable", rpc_pb2.AuthEnableRequest()),
    Kind.AUTH_DISABLE: ("Auth/AuthDisable", rpc_pb2.AuthDisableRequest()),
    Kind.USER_ADD: ("Auth/UserAdd", rpc_pb2.AuthUserAddRequest(name="n", hashedPassword="cm9vdA==")),
    Kind.USER_DELETE: ("Auth/UserDelete", rpc_pb2.AuthUserDeleteRequest(name="bob")),
    Kind.USER_CHANGE_PASSWORD: ("Auth/UserChangePassword", rpc_pb2.AuthUserChangePasswordRequest(name="bob")),
    Kind.USER_GRANT_ROLE: ("Auth/UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest(user="bob", role="r")),
    Kind.USER_REVOKE_ROLE: ("Auth/UserRevokeRole", rpc_pb2.AuthUserRevokeRoleRequest(name="alice", role="r")),
    Kind.ROLE_ADD: ("Auth/RoleAdd", rpc_pb2.AuthRoleAddRequest(name="new")),
    Kind.ROLE_DELETE: ("Auth/RoleDelete", rpc_pb2.AuthRoleDeleteRequest(role="r")),
    Kind.ROLE_GRANT_PERMISSION: (
        "Auth/RoleGrantPermission",
        rpc_pb2.AuthRoleGrantPermissionRequest(name="r", perm=auth_pb2.Permission(key=b"k")),
    ),
    Kind.ROLE_REVOKE_PERMISSION: (
        "Auth/RoleRevokePermission",
        rpc_pb2.AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c"),
    ),
}


def test_every_kind_of_request_is_looked_at() -> None:
    assert ON_THE_LOG.keys() == CLIENT_KINDS


@pytest.mark.parametrize("kind", ON_THE_LOG, ids=lambda kind: kind.name)
def test_what_goes_on_the_log_says_whose_it_is(guarded: Guarded, kind: Kind) -> None:
    """AU-49: the user, and the authRevision at which that was established. Nothing else of the request changes."""
    path, request = ON_THE_LOG[kind]
    revision = guarded.node.auth.revision
    guarded.node.space.room_to_delete = lambda *_: True
    guarded.call(path, request, "root")
    (proposed,) = guarded.node.proposed
    assert proposed[0] == Kind.AS_USER
    identity, inner, message = decode_as_user(proposed[1])
    assert (identity, inner) == (Identity("root", revision), kind)
    assert type(request).FromString(message) == request


@pytest.mark.parametrize("kind", sorted(set(ON_THE_LOG)), ids=lambda kind: kind.name)
def test_nobody_and_a_stranger_change_nothing(guarded: Guarded, kind: Kind) -> None:
    """AU-36, AU-37, AU-48, AU-73: bob is a user and has no right; no lease has a key."""
    path, request = ON_THE_LOG[kind]
    before = guarded.node.applier.state_hash, guarded.node.store.current_revision, guarded.node.auth.revision
    assert guarded.call(path, request).failure == EMPTY
    assert guarded.call(path, request, "nobody").failure == INVALID
    assert (guarded.node.store.current_revision, guarded.node.auth.revision) == before[1:]
    call = guarded.call(path, request, "bob")
    if kind in (Kind.LEASE_GRANT, Kind.ALARM):
        assert call.replies, "for every user"
    elif kind is Kind.LEASE_REVOKE:
        assert call.failure == (Code.NOT_FOUND, "etcdserver: requested lease not found")
    else:
        assert call.failure == DENIED


@pytest.mark.parametrize(("name", "rest"), [("alice", 5 + 2 + 2), ("a" * 112, 112 + 2 + 2), ("a" * 113, 113 + 2 + 3)])
def test_the_name_of_the_user_counts_as_part_of_the_request(guarded: Guarded, name: str, rest: int) -> None:
    """LIM-01: its bytes and two in etcd's header, two for the revision, and one more when the header is a long one."""
    limit = guarded.node.config.max_request_bytes - 18
    if name != "alice":
        guarded.must(Kind.USER_ADD, rpc_pb2.AuthUserAddRequest(name=name, hashedPassword="cm9vdA=="))
        guarded.must(Kind.USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest(user=name, role="r"))
    assert guarded.node.auth.revision < 128
    smallest = len(raw(rpc_pb2.PutRequest(key=b"b", value=bytes(500)))) - 500
    fits, too_large = (rpc_pb2.PutRequest(key=b"b", value=bytes(limit - rest - smallest + each)) for each in (0, 1))
    assert len(raw(fits)) == limit - rest
    assert guarded.call("KV/Put", fits, name).replies
    assert guarded.call("KV/Put", too_large, name).failure == TOO_LARGE
    guarded.turn_off()
    assert guarded.call("KV/Put", too_large, name).replies


def test_an_identity_that_is_too_old_writes_nothing(guarded: Guarded) -> None:
    """AU-46, AU-49: a signed token tells of the rights of another time."""
    guarded.tokens.fixed["signed"] = Identity("alice", guarded.node.auth.revision)
    assert guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"b"), "signed").replies
    guarded.change_something()
    assert guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"b"), "signed").failure == OLD
    assert guarded.call("KV/Range", RANGE_A, "signed").failure == OLD


# --- reads ------------------------------------------------------------------------------------------------------------


def _txn(*keys: bytes, **fields: Any) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(success=[Op(request_range=rpc_pb2.RangeRequest(key=key, **fields)) for key in keys])


@pytest.mark.parametrize("serializable", [False, True], ids=["linearizable", "serializable"])
@pytest.mark.parametrize(
    ("key", "range_end", "allowed"),
    [
        (b"a", b"", True),
        (b"b", b"", True),
        (b"c", b"", False),
        (b"a", b"c", True),
        (b"a", b"c\x00", False),
        (b"a", b"\x00", False),
        (b"\x00", b"\x00", False),
    ],
)
def test_a_range_needs_read_on_all_of_it(
    guarded: Guarded, key: bytes, range_end: bytes, allowed: bool, serializable: bool
) -> None:
    """AU-70, AU-71, AU-73."""
    request = rpc_pb2.RangeRequest(key=key, range_end=range_end, serializable=serializable)
    call = guarded.call("KV/Range", request, "alice")
    assert call.failure == (None if allowed else DENIED)
    assert bool(call.replies) is allowed
    assert guarded.call("KV/Range", request, "root").replies, "AU-75"
    assert guarded.call("KV/Range", request, "bob").failure == DENIED


@pytest.mark.parametrize("serializable", [False, True], ids=["linearizable", "serializable"])
def test_a_transaction_that_only_reads_needs_read_on_all_that_it_names(guarded: Guarded, serializable: bool) -> None:
    """AU-73: compares and both branches, whichever runs."""
    fields = {"serializable": serializable}
    allowed = _txn(b"a", b"b", **fields)
    allowed.compare.add(key=b"a", version=1)
    assert guarded.call("KV/Txn", allowed, "alice").replies
    compares = _txn(b"a", **fields)
    compares.compare.add(key=b"x", version=1)
    other_branch = rpc_pb2.TxnRequest(failure=_txn(b"x", **fields).success)
    for request in (_txn(b"a", b"x", **fields), compares, other_branch):
        call = guarded.call("KV/Txn", request, "alice")
        assert call.failure == DENIED
        assert not call.replies
    assert guarded.call("KV/Txn", allowed).failure == EMPTY
    assert guarded.node.proposed == []


class Rounds:
    """Reads that are confirmed when the test says so."""

    def __init__(self, guarded: Guarded) -> None:
        self._waiting: list[Any] = []
        guarded.node.linearizable = lambda read, context: self._waiting.append((read, context))

    def confirm(self) -> None:
        waiting, self._waiting = self._waiting, []
        for read, context in waiting:
            read(context, None)


READS = {
    "range": ("KV/Range", RANGE_A),
    "txn": ("KV/Txn", _txn(b"a")),
    "members": ("Cluster/MemberList", rpc_pb2.MemberListRequest(linearizable=True)),
    "own user": ("Auth/UserGet", rpc_pb2.AuthUserGetRequest(name="alice")),
}


@pytest.mark.parametrize("path_and_request", READS.values(), ids=READS)
def test_a_read_is_judged_when_it_is_done(guarded: Guarded, path_and_request: Any) -> None:
    """AU-49, AU-76: what changes while the read index is waited for counts, and the token is asked for again."""
    path, request = path_and_request
    rounds = Rounds(guarded)
    calls = [guarded.call(path, request, "alice") for _ in range(2)]
    guarded.change_something()
    rounds.confirm()
    assert all(call.replies for call in calls), "nothing that concerns alice has changed"
    call = guarded.call(path, request, "alice")
    guarded.must(Kind.USER_DELETE, rpc_pb2.AuthUserDeleteRequest(name="alice"))
    rounds.confirm()
    assert call.failure == INVALID
    signed = Identity("root", guarded.node.auth.revision)
    guarded.tokens.fixed["signed"] = signed
    call = guarded.call(path, request, "signed")
    guarded.change_something()
    rounds.confirm()
    # A signed token does not become newer by asking again; administrators are judged by the rights of now (AU-37).
    assert call.failure == (NOT_FOUND if path == "Auth/UserGet" else OLD)


def test_auth_that_was_turned_on_meanwhile_counts(guarded: Guarded) -> None:
    """AU-49: a follower may hear of it only by the read index."""
    guarded.turn_off()
    rounds = Rounds(guarded)
    known, unknown = guarded.call("KV/Range", RANGE_A, "alice"), guarded.call("KV/Range", RANGE_A)
    guarded.must(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    rounds.confirm()
    assert known.replies
    assert unknown.failure == EMPTY


def test_a_long_range_is_refused_when_rights_change_while_it_is_read(guarded: Guarded) -> None:
    """AU-49."""
    guarded.turn_off()
    guarded.node.put(*(b"b/%05d" % number for number in range(20_000)))
    guarded.must(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    request = rpc_pb2.RangeRequest(key=b"b", range_end=b"c")
    quiet, disturbed = guarded.call("KV/Range", request, "alice"), guarded.call("KV/Range", request, "alice")
    tasks, guarded.node.tasks = guarded.node.tasks, []
    assert len(tasks) == 2, "both take more than one slice"
    while tasks[0].step():
        pass
    assert len(rpc_pb2.RangeResponse.FromString(quiet.replies[0]).kvs) == 20_001
    guarded.change_something()
    while tasks[1].step():
        pass
    assert disturbed.failure == OLD
    assert not disturbed.replies


def test_a_range_in_pieces_needs_what_a_range_needs(guarded: Guarded) -> None:
    """AU-73."""
    for user, request, failure in (
        ("alice", RANGE_A, None),
        ("alice", rpc_pb2.RangeRequest(key=b"a", range_end=b"d"), DENIED),
        (None, RANGE_A, EMPTY),
        ("nobody", RANGE_A, INVALID),
        # What is wrong with the request by itself comes first, as with Range.
        ("nobody", rpc_pb2.RangeRequest(), EMPTY_KEY),
        ("nobody", rpc_pb2.RangeRequest(key=b"a", range_end=b"c", min_mod_revision=1), NO_FILTERS),
    ):
        call, stream = guarded.open("KV/RangeStream", user)
        call.finish = lambda: None
        stream.on_message(raw(request))
        stream.on_half_close()
        assert call.failure == failure
        assert bool(call.sent) is (failure is None)


# --- watches ----------------------------------------------------------------------------------------------------------


def _create(**fields: Any) -> bytes:
    return raw(rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(**fields)))


def _watched(call: Any) -> list[tuple[int, bool, str]]:
    responses = [rpc_pb2.WatchResponse.FromString(each) for each in call.sent]
    return [(each.watch_id, each.created, each.cancel_reason) for each in responses]


REASONS = {
    None: "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
    "nobody": "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
    "bob": "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
    "old": "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
}


@pytest.mark.parametrize("user", REASONS, ids=str)
def test_a_watch_that_is_not_allowed_says_why(guarded: Guarded, user: str | None) -> None:
    """W-23, W-24: the Go client compares the whole text. The stream stays open."""
    guarded.tokens.fixed["old"] = Identity("alice", guarded.node.auth.revision - 1)
    call, stream = guarded.open("Watch/Watch", user)
    stream.on_message(_create(key=b"a"))
    stream.on_message(_create(key=b"a", watch_id=4))
    assert _watched(call) == [(-1, True, REASONS[user])] * 2
    assert call.failure is None


def test_a_watch_needs_read_on_its_interval_once(guarded: Guarded) -> None:
    """W-23, W-25, W-03: a right that is lost later does not end it; the next one is judged anew."""
    call, stream = guarded.open("Watch/Watch", "alice")
    for fields, allowed in (
        ({"key": b"a", "range_end": b"c"}, True),
        ({"key": b"a", "range_end": b"d"}, False),
        ({"key": b"b", "range_end": b"\x00"}, False),
        ({"key": b""}, False),
    ):
        stream.on_message(_create(**fields))
        assert _watched(call)[-1] == ((0, True, "") if allowed else (-1, True, REASONS["bob"]))
    guarded.must(Kind.ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest(role="r"))
    guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"a"), "root")
    assert rpc_pb2.WatchResponse.FromString(call.sent[-1]).events[0].kv.key == b"a"
    stream.on_message(_create(key=b"a"))
    assert _watched(call)[-1] == (-1, True, REASONS["bob"])


def test_requests_of_a_stream_keep_their_order_while_a_token_is_waited_for(guarded: Guarded) -> None:
    """AU-44, W-98: also when the second of them has to wait again."""
    guarded.tokens.slow.add("alice")
    call, stream = guarded.open("Watch/Watch", "alice")
    stream.on_message(_create(key=b"a"))
    stream.on_message(_create(key=b"x"))
    stream.on_message(raw(rpc_pb2.WatchRequest(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=0))))
    stream.on_message(_create(key=b"b"))
    assert call.sent == []
    guarded.tokens.go_on()
    assert _watched(call) == [(0, True, "")]
    guarded.tokens.go_on()
    assert _watched(call) == [(0, True, ""), (-1, True, REASONS["bob"]), (0, False, "")]
    guarded.tokens.go_on()
    assert _watched(call)[3:] == [(1, True, "")]


def test_a_stream_that_ends_while_a_token_is_waited_for_leaves_no_watcher(guarded: Guarded) -> None:
    guarded.tokens.slow.add("alice")
    call, stream = guarded.open("Watch/Watch", "alice")
    stream.on_message(_create(key=b"a"))
    stream.on_closed()
    guarded.tokens.go_on()
    guarded.call("KV/Put", rpc_pb2.PutRequest(key=b"a"), "root")
    assert call.sent == []


def test_what_was_held_back_makes_no_watcher_once_the_stream_is_over(guarded: Guarded) -> None:
    """One that nobody could cancel any more."""
    guarded.tokens.slow.add("alice")
    call, stream = guarded.open("Watch/Watch", "alice")
    call.fail = lambda *_: stream.on_closed()
    stream.on_message(_create(key=b"x"))
    stream.on_message(b"no request")
    stream.on_message(_create(key=b"a"))
    guarded.tokens.slow.clear()
    guarded.tokens.go_on()
    assert [reason for *_, reason in _watched(call)] == [REASONS["bob"]]
    assert guarded.node.hub.statistics().watchers == 0


def test_a_stream_does_not_hold_back_without_end(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.api.watch.MAX_HELD", 3)
    guarded.tokens.slow.add("alice")
    call, stream = guarded.open("Watch/Watch", "alice")
    for _ in range(4):
        stream.on_message(_create(key=b"a"))
    assert call.failure is None
    stream.on_message(_create(key=b"a"))
    assert call.failure == (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def leases(guarded: Guarded) -> Guarded:
    """Lease 1 has no key, 2 has b (alice: both), 3 has c (alice: write), 4 has a (alice: read), 5 has b and x."""
    for lease_id, keys in ((1, ()), (2, (b"b",)), (3, (b"c",)), (4, (b"a",)), (5, (b"b/", b"x"))):
        guarded.must(Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=60))
        for key in keys:
            guarded.must(Kind.PUT, rpc_pb2.PutRequest(key=key, lease=lease_id))
    return guarded


@pytest.mark.parametrize(
    ("user", "lease_id", "failure"),
    [
        ("alice", 1, None),
        ("alice", 2, None),
        ("alice", 3, None),
        ("alice", 4, DENIED),
        ("alice", 5, DENIED),
        ("alice", 99, None),
        ("bob", 1, None),
        ("bob", 2, DENIED),
        ("root", 5, None),
        ("nobody", 1, INVALID),
        (None, 1, EMPTY),
        (None, 99, EMPTY),
    ],
)
def test_a_lease_is_kept_alive_by_who_may_write_its_keys(
    leases: Guarded, user: str | None, lease_id: int, failure: Any
) -> None:
    """L-28, AU-73: looked at before the leader is asked, which would not know who calls."""
    call, stream = leases.open("Lease/LeaseKeepAlive", user)
    stream.on_message(raw(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)))
    assert call.failure == failure
    assert len(leases.forwarded) == (failure is None)


def test_each_renewal_is_judged_anew(leases: Guarded) -> None:
    """AU-76, L-28."""
    call, stream = leases.open("Lease/LeaseKeepAlive", "alice")
    renewed = raw(rpc_pb2.LeaseKeepAliveResponse(ID=2, TTL=60))
    for _ in range(2):
        stream.on_message(raw(rpc_pb2.LeaseKeepAliveRequest(ID=2)))
        _, _, answer, context = leases.forwarded.pop()
        answer(context, renewed)
    assert len(call.sent) == 2
    leases.must(Kind.ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest(role="r"))
    stream.on_message(raw(rpc_pb2.LeaseKeepAliveRequest(ID=2)))
    assert call.failure == DENIED
    assert leases.forwarded == []


def _time_to_live(leases: Guarded, user: str | None, keys: bool, told: tuple[bytes, ...]) -> Any:
    call = leases.call("Lease/LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=2, keys=keys), user)
    for _, _, answer, context in leases.forwarded:
        answer(context, raw(rpc_pb2.LeaseTimeToLiveResponse(ID=2, TTL=9, keys=told)))
    return call


def test_the_keys_of_a_lease_are_told_to_who_may_read_them(leases: Guarded) -> None:
    """L-33, AU-73: all that the leader names, which may be more than this member knows of."""
    assert _time_to_live(leases, "alice", True, (b"a", b"b")).replies
    for user, keys, told, failure in (
        ("alice", True, (b"a", b"c"), DENIED),
        ("bob", True, (b"a",), DENIED),
        (None, True, (), EMPTY),
        (None, False, (), EMPTY),
        ("nobody", False, (), INVALID),
    ):
        leases.forwarded.clear()
        call = _time_to_live(leases, user, keys, told)
        assert call.failure == failure
        assert not call.replies
        assert bool(leases.forwarded) is (failure == DENIED)
    leases.forwarded.clear()
    assert _time_to_live(leases, "bob", False, ()).replies, "how long it lives is for every user"


def test_rights_that_change_while_the_leader_is_asked(leases: Guarded) -> None:
    """L-33."""
    for keys, failure in ((True, OLD), (False, None)):
        leases.forwarded.clear()
        call = leases.call("Lease/LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=2, keys=keys), "alice")
        leases.change_something()
        ((_, _, answer, context),) = leases.forwarded
        answer(context, raw(rpc_pb2.LeaseTimeToLiveResponse(ID=2, TTL=9)))
        assert call.failure == failure


def test_leases_are_listed_to_who_may_read_all_their_keys(leases: Guarded) -> None:
    """L-34, AU-73."""
    request = rpc_pb2.LeaseLeasesRequest()
    assert leases.call("Lease/LeaseLeases", request).failure == EMPTY
    for user in ("alice", "bob"):
        assert leases.call("Lease/LeaseLeases", request, user).failure == DENIED
    (answer,) = leases.call("Lease/LeaseLeases", request, "root").replies
    assert len(rpc_pb2.LeaseLeasesResponse.FromString(answer).leases) == 5
    for lease_id in (3, 5):
        leases.must(Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))
    assert leases.call("Lease/LeaseLeases", request, "alice").replies


# --- administration ---------------------------------------------------------------------------------------------------

FOR_ROOT = {
    "Cluster/MemberAdd": rpc_pb2.MemberAddRequest(peerURLs=["http://h:1"]),
    "Cluster/MemberRemove": rpc_pb2.MemberRemoveRequest(ID=9),
    "Cluster/MemberUpdate": rpc_pb2.MemberUpdateRequest(ID=9, peerURLs=["http://h:1"]),
    "Cluster/MemberPromote": rpc_pb2.MemberPromoteRequest(ID=9),
    "KV/Compact": rpc_pb2.CompactionRequest(revision=2),
    "Maintenance/Defragment": rpc_pb2.DefragmentRequest(),
    "Maintenance/Hash": rpc_pb2.HashRequest(),
    "Maintenance/HashKV": rpc_pb2.HashKVRequest(),
    "Maintenance/MoveLeader": rpc_pb2.MoveLeaderRequest(targetID=9),
    "Maintenance/Downgrade": rpc_pb2.DowngradeRequest(version="3.5"),
    "Auth/AuthStatus": rpc_pb2.AuthStatusRequest(),
    "Auth/UserList": rpc_pb2.AuthUserListRequest(),
    "Auth/RoleList": rpc_pb2.AuthRoleListRequest(),
    "Auth/UserGet": rpc_pb2.AuthUserGetRequest(name="alice"),
    "Auth/RoleGet": rpc_pb2.AuthRoleGetRequest(role="r"),
    "Auth/UserAdd": rpc_pb2.AuthUserAddRequest(name="n", password="p"),
    "Auth/UserChangePassword": rpc_pb2.AuthUserChangePasswordRequest(name="bob", password="p"),
}
FOR_USERS = {
    "Cluster/MemberList": rpc_pb2.MemberListRequest(),
    "Maintenance/Status": rpc_pb2.StatusRequest(),
    "Lease/LeaseTimeToLive": rpc_pb2.LeaseTimeToLiveRequest(ID=1),
}


@pytest.mark.parametrize("path", FOR_ROOT)
def test_what_only_root_may_do(guarded: Guarded, path: str) -> None:
    """Contract section 6.8, AU-36, AU-37, CMP-10: nobody else gets as far as doing anything."""
    spawned: list[Any] = []
    guarded.node.spawn = spawned.append
    assert guarded.call(path, FOR_ROOT[path]).failure == EMPTY
    assert guarded.call(path, FOR_ROOT[path], "bob").failure == DENIED
    assert guarded.call(path, FOR_ROOT[path], "nobody").failure == INVALID
    guarded.tokens.fixed["gone"] = Identity("gone", guarded.node.auth.revision)
    assert guarded.call(path, FOR_ROOT[path], "gone").failure == NOT_FOUND
    assert (spawned, guarded.node.tasks, guarded.forwarded) == ([], [], [])


@pytest.mark.parametrize("path", FOR_USERS)
def test_what_every_user_may_do(guarded: Guarded, path: str) -> None:
    """Contract section 6.8, CL-12, MT-02."""
    assert guarded.call(path, FOR_USERS[path]).failure == EMPTY
    assert guarded.call(path, FOR_USERS[path], "nobody").failure == INVALID
    guarded.tokens.fixed["gone"] = Identity("gone", guarded.node.auth.revision)
    assert guarded.call(path, FOR_USERS[path], "gone").failure == DENIED


def test_members_are_listed_for_a_user(guarded: Guarded) -> None:
    assert guarded.call("Cluster/MemberList", rpc_pb2.MemberListRequest(), "bob").replies


def test_a_snapshot_is_for_root(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract section 6.8: nothing of the store is touched before it is known who asks."""
    copies: list[int] = []
    monkeypatch.setattr(guarded.node, "backend", SimpleNamespace(begin_copy=lambda: copies.append(1)))
    for user, failure in ((None, EMPTY), ("bob", DENIED), ("nobody", INVALID)):
        call, stream = guarded.open("Maintenance/Snapshot", user)
        stream.on_message(b"")
        stream.on_half_close()
        stream.on_closed()
        assert call.failure == failure
    assert copies == []


def test_a_stream_is_judged_when_its_request_comes(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract section 6.8, AU-13: auth may have been turned on, or off, since it was opened."""
    copied: list[Any] = []
    monkeypatch.setattr("raftkv.api.snapshot.SnapshotStream.on_message", lambda *_: copied.append(1))
    for user, failure in ((None, EMPTY), ("bob", DENIED), ("nobody", INVALID)):
        guarded.turn_off()
        call, stream = guarded.open("Maintenance/Snapshot", user)
        guarded.must(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
        stream.on_message(b"")
        assert call.failure == failure
    assert copied == []
    for user in (None, "bob", "nobody"):
        call, stream = guarded.open("Maintenance/Snapshot", user)
        guarded.turn_off()
        stream.on_message(b"")
        assert call.failure is None
        guarded.must(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    assert copied == [1, 1, 1]


def test_every_method_that_is_not_open_to_all_refuses_a_token_of_nobody(guarded: Guarded) -> None:
    """AU-47: a method that is added is behind the gate without being named there."""
    unary = {path: method for path, method in guarded.routes.items() if method.kind is MethodKind.UNARY}
    for path, method in unary.items():
        call: Any = FakeCall(token="nobody")
        if not path.endswith(b"/Authenticate"):
            method.handler(call, b"no message, in which nothing can be found wrong")
            assert call.failure == INVALID, path


# --- the Auth service -------------------------------------------------------------------------------------------------


def _answer(call: Any, kind: Any) -> Any:
    (reply,) = call.replies
    return kind.FromString(reply)


def test_questions_about_users_and_roles(guarded: Guarded) -> None:
    """AU-12, AU-25, AU-26, AU-34, AU-35, G-17: the header has the revision of the store."""
    revision = guarded.node.store.current_revision
    status = _answer(guarded.call("Auth/AuthStatus", rpc_pb2.AuthStatusRequest(), "root"), rpc_pb2.AuthStatusResponse)
    assert (status.enabled, status.authRevision) == (True, guarded.node.auth.revision)
    assert (status.header.revision, status.header.member_id) == (revision, 7)
    users = _answer(guarded.call("Auth/UserList", rpc_pb2.AuthUserListRequest(), "root"), rpc_pb2.AuthUserListResponse)
    assert users.users == ["alice", "bob", "root"]
    roles = _answer(guarded.call("Auth/RoleList", rpc_pb2.AuthRoleListRequest(), "root"), rpc_pb2.AuthRoleListResponse)
    assert roles.roles == ["r"]
    for who in ("root", "alice"):
        call = guarded.call("Auth/UserGet", rpc_pb2.AuthUserGetRequest(name="alice"), who)
        assert _answer(call, rpc_pb2.AuthUserGetResponse).roles == ["r"]
        call = guarded.call("Auth/RoleGet", rpc_pb2.AuthRoleGetRequest(role="r"), who)
        permissions = [
            (each.permType, each.key, each.range_end) for each in _answer(call, rpc_pb2.AuthRoleGetResponse).perm
        ]
        assert permissions == [(READ, b"a", b"c"), (WRITE, b"b", b"d")]
    call = guarded.call("Auth/UserGet", rpc_pb2.AuthUserGetRequest(name="zoe"), "root")
    assert call.failure == NOT_FOUND
    call = guarded.call("Auth/RoleGet", rpc_pb2.AuthRoleGetRequest(role="zoe"), "root")
    assert call.failure == (Code.FAILED_PRECONDITION, "etcdserver: role name not found")
    for who, path, request in (
        ("alice", "Auth/UserGet", rpc_pb2.AuthUserGetRequest(name="bob")),
        ("alice", "Auth/UserGet", rpc_pb2.AuthUserGetRequest(name="zoe")),
        ("bob", "Auth/RoleGet", rpc_pb2.AuthRoleGetRequest(role="r")),
        ("alice", "Auth/RoleGet", rpc_pb2.AuthRoleGetRequest(role="root")),
    ):
        assert guarded.call(path, request, who).failure == DENIED
    guarded.turn_off()
    call = guarded.call("Auth/AuthStatus", rpc_pb2.AuthStatusRequest())
    assert not _answer(call, rpc_pb2.AuthStatusResponse).enabled


class Hashes:
    """Stands for the threads."""

    def __init__(self) -> None:
        self.hashed: list[str] = []
        self.failure: Exception | None = None

    async def hash(self, password: str) -> bytes:
        self.hashed.append(password)
        if self.failure is not None:
            raise self.failure
        return b"hash of it"

    async def authenticate(self, name: str, password: str) -> tuple[int, str]:
        if password != "right":
            raise AuthFailed
        return 5, f"token of {name}"


@pytest.fixture
def hashes(guarded: Guarded) -> Hashes:
    """Auth is off, so that nobody needs a token."""
    guarded.turn_off()
    hashes = Hashes()
    guarded.node.authenticator = hashes
    guarded.node.spawn = _run_now
    return hashes


def _run_now(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


UserAdd, ChangePassword = rpc_pb2.AuthUserAddRequest, rpc_pb2.AuthUserChangePasswordRequest
NO_PASSWORD = auth_pb2.UserAddOptions(no_password=True)
OWN_HASH = "b3duIGhhc2g="


@pytest.mark.parametrize(
    ("request_", "hashed", "kept"),
    [
        (UserAdd(name="n", password="secret"), ["secret"], b"hash of it"),
        (UserAdd(name="n", password="secret", hashedPassword=OWN_HASH), ["secret"], b"hash of it"),
        (UserAdd(name="n"), [""], b"hash of it"),
        (UserAdd(name="n", hashedPassword=OWN_HASH), [], b"own hash"),
        (UserAdd(name="n", password="secret", options=NO_PASSWORD), [], b""),
        (ChangePassword(name="bob", password="secret"), ["secret"], b"hash of it"),
        (ChangePassword(name="bob", password="secret", hashedPassword=OWN_HASH), ["secret"], b"hash of it"),
        (ChangePassword(name="bob", hashedPassword=OWN_HASH), [], b"own hash"),
        (ChangePassword(name="bob"), [], b""),
    ],
)
def test_no_password_goes_on_the_log(
    guarded: Guarded, hashes: Hashes, request_: Any, hashed: list[str], kept: bytes
) -> None:
    """AU-20, AU-22: its hash does, or one of the client's own making."""
    path = "Auth/UserAdd" if isinstance(request_, UserAdd) else "Auth/UserChangePassword"
    assert guarded.call(path, request_).replies
    ((_, message),) = guarded.node.proposed
    assert b"secret" not in message
    proposed = type(request_).FromString(message)
    assert proposed.password == ""
    assert b64decode(proposed.hashedPassword) == kept
    assert hashes.hashed == hashed
    assert guarded.node.auth.user(request_.name).password == kept


def test_a_password_that_cannot_be_hashed_is_refused(guarded: Guarded, hashes: Hashes) -> None:
    """AU-20."""
    hashes.failure = PasswordTooLong()
    call = guarded.call("Auth/UserAdd", UserAdd(name="n", password="x" * 73))
    assert call.failure == (Code.UNKNOWN, "bcrypt: password length exceeds 72 bytes")
    assert guarded.node.proposed == []


def test_logging_in(guarded: Guarded, hashes: Hashes) -> None:
    """AU-40, AU-42, G-17; also with a token that stands for nobody any more, as clients that ask for another do."""
    guarded.must(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    request = rpc_pb2.AuthenticateRequest(name="alice", password="right")
    for metadata in ({}, {"token": "nobody"}):
        answer = _answer(guarded.call("Auth/Authenticate", request, **metadata), rpc_pb2.AuthenticateResponse)
        assert (answer.token, answer.header.revision) == ("token of alice", 5)
    request.password = "wrong"
    call = guarded.call("Auth/Authenticate", request)
    assert call.failure == (
        Code.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
    )


def test_rights_of_both_kinds_are_one_permission(guarded: Guarded) -> None:
    """AU-72, AU-76: a change holds for the next call."""
    put = rpc_pb2.PutRequest(key=b"y", prev_kv=True)
    assert guarded.call("KV/Put", put, "alice").failure == DENIED
    guarded.grant(WRITE, b"y")
    assert guarded.call("KV/Put", put, "alice").failure == DENIED
    put.prev_kv = False
    assert guarded.call("KV/Put", put, "alice").replies
    guarded.grant(BOTH, b"y")
    put.prev_kv = True
    assert guarded.call("KV/Put", put, "alice").replies
