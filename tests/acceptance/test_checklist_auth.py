"""Acceptance checklist, item 10: Auth."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from acceptance_support import Point, defragment, points, snapshot, until
from certificates import Authority, TlsServer
from contract_support import ALL, TIMEOUT_S, Client, Code, Compare, delete_op, prefix_end, put_op, range_op, refused
from helpers.cluster import Cluster
from helpers.grpc_calls import connect
from helpers.member_client import outcome
from helpers.processes import Program, Server
from helpers.waiting import wait_until

from raftkv.pb import auth_pb2, rpc_pb2

Fresh = Callable[..., tuple[Server, Client]]
NewCluster = Callable[..., Cluster]
Status = tuple[grpc.StatusCode, str]

_PASSWORD: Final = "secret"
READ, WRITE, READWRITE = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE
DENIED: Final = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
NOBODY: Final = (Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
BAD_TOKEN: Final = (Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
OLD: Final = (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
NO_ROOT_USER: Final = (Code.FAILED_PRECONDITION, "etcdserver: root user does not exist")
NO_ROOT_ROLE: Final = (Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role")
NOT_ENABLED: Final = (Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
AUTH_FAILED: Final = (Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")


class _Token(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends a token with every call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def _with_token(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("token", self._token)]
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _with_token


class Realm:
    """A member with users: root, and what a test adds. Auth is off until `enable`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        """Without a token."""
        self.root = client

    def ask(self, client: Client, method: str, **fields: Any) -> Any:
        name = method if method.startswith("Auth") else f"Auth{method}"
        return getattr(client.calls.Auth, method)(getattr(rpc_pb2, f"{name}Request")(**fields), timeout=TIMEOUT_S)

    def user(self, name: str, *permissions: tuple[auth_pb2.Permission.Type.ValueType, bytes, bytes]) -> None:
        """A user with a role of the same name that has these permissions."""
        self.ask(self.root, "UserAdd", name=name, password=_PASSWORD)
        self.ask(self.root, "RoleAdd", name=name)
        for kind, key, end in permissions:
            self.grant(name, kind, key, end)
        self.ask(self.root, "UserGrantRole", user=name, role=name)

    def grant(self, role: str, kind: auth_pb2.Permission.Type.ValueType, key: bytes, end: bytes = b"") -> None:
        permission = auth_pb2.Permission(permType=kind, key=key, range_end=end)
        self.ask(self.root, "RoleGrantPermission", name=role, perm=permission)

    def enable(self) -> None:
        self.ask(self.client, "UserAdd", name="root", password=_PASSWORD)
        self.ask(self.client, "UserGrantRole", user="root", role="root")
        self.ask(self.client, "AuthEnable")
        self.root = self.as_user("root")

    def token(self, name: str) -> str:
        token: str = self.ask(self.client, "Authenticate", name=name, password=_PASSWORD).token
        return token

    def as_user(self, name: str) -> Client:
        return self.with_token(self.token(name))

    def with_token(self, token: str) -> Client:
        return Client(grpc.intercept_channel(self.client.channel, _Token(token)))


@pytest.fixture
def realm(fresh: Fresh) -> Realm:
    return Realm(fresh()[1])


def _denied(client: Client, calls: Iterable[Callable[[Client], Any]], status: Status = DENIED) -> None:
    for call in calls:
        with refused(status):
            call(client)


# --- enabling -------------------------------------------------------------------------------------------------------


def _what_enabling_needs(realm: Realm) -> None:
    """AU-10, AU-12, AU-03, AU-40: the user root with the role root; twice is once."""
    with refused(NO_ROOT_USER):
        realm.ask(realm.client, "AuthEnable")
    realm.ask(realm.client, "UserAdd", name="root", password=_PASSWORD)
    with refused(NO_ROOT_ROLE):
        realm.ask(realm.client, "AuthEnable")
    with refused(NOT_ENABLED):
        realm.token("root")
    before = realm.ask(realm.client, "AuthStatus")
    assert (before.enabled, before.authRevision) == (False, 2)
    realm.ask(realm.client, "UserDelete", name="root")
    realm.enable()
    realm.ask(realm.root, "AuthEnable")
    status = realm.ask(realm.root, "AuthStatus")
    assert (status.enabled, status.authRevision) == (True, 5)
    for name, password in (("root", "guess"), ("stranger", _PASSWORD)):
        with refused(AUTH_FAILED):
            realm.ask(realm.client, "Authenticate", name=name, password=password)


def _disabling_opens_everything(realm: Realm) -> None:
    """AU-11, AU-13: tokens are not looked at any more, and are forgotten."""
    realm.enable()
    old = realm.root
    _denied(realm.client, [lambda client: client.put(b"k")], NOBODY)
    realm.ask(realm.root, "AuthDisable")
    realm.client.put(b"k")
    realm.with_token("nonsense").put(b"k")
    realm.ask(realm.client, "AuthEnable")
    _denied(old, [lambda client: client.put(b"k")], BAD_TOKEN)


# --- the permission table -------------------------------------------------------------------------------------------


def _compare(key: bytes, end: bytes = b"") -> Compare:
    return Compare(key=key, range_end=end, target=Compare.VERSION, result=Compare.GREATER, version=0)


def _keys_need_their_kind(realm: Realm) -> None:
    """AU-01, AU-72, AU-73, AU-74, AU-75, RNG-21, PUT-08, DEL-06, TXN-64."""
    realm.enable()
    realm.user("reader", (READ, b"a", b"c"))
    realm.user("writer", (WRITE, b"a", b"c"))
    realm.user("both", (READWRITE, b"a", b"c"))
    realm.root.put(b"a")
    reads: list[Callable[[Client], Any]] = [
        lambda client: client.range(b"a"),
        lambda client: client.range(b"a", b"c", count_only=True),
        lambda client: client.txn([_compare(b"a")], [range_op(b"b")], [range_op(b"a")]),
    ]
    writes: list[Callable[[Client], Any]] = [
        lambda client: client.put(b"b"),
        lambda client: client.delete(b"b", b"c"),
        lambda client: client.txn(success=[put_op(b"b"), delete_op(b"a", b"b")]),
    ]
    needs_both: list[Callable[[Client], Any]] = [
        lambda client: client.put(b"b", prev_kv=True),
        lambda client: client.delete(b"b", prev_kv=True),
        lambda client: client.txn([_compare(b"a")], [put_op(b"b")]),
        lambda client: client.txn(success=[range_op(b"a")], failure=[put_op(b"b")]),
    ]
    outside: list[Callable[[Client], Any]] = [
        lambda client: client.range(b"c"),
        lambda client: client.range(b"a", b"d"),
        lambda client: client.put(b"c"),
        lambda client: client.delete(b"b", b"\0"),
        lambda client: client.txn([_compare(b"c")]),
        lambda client: client.txn(success=[put_op(b"b")], failure=[delete_op(b"c")]),
    ]
    allowed = {"reader": reads, "writer": writes, "both": [*reads, *writes, *needs_both]}
    everything = [*reads, *writes, *needs_both, *outside]
    for name, calls in allowed.items():
        client = realm.as_user(name)
        for call in calls:
            call(client)
        before = realm.root.revision()
        _denied(client, [call for call in everything if call not in calls])
        assert realm.root.revision() == before
    for call in everything:
        call(realm.root)
    _denied(realm.client, everything, NOBODY)


def _administration_needs_root(realm: Realm) -> None:
    """AU-36, AU-37, AU-73, CMP-10, MT-14, MT-26, MT-33, MT-45, MT-57, CL-50, AL-14."""
    realm.enable()
    realm.user("all", (READWRITE, *ALL))
    user, own = realm.as_user("all"), realm.root.status().header.member_id
    cluster, maintenance = user.calls.Cluster, user.calls.Maintenance
    url = ["http://127.0.0.1:1"]
    _denied(
        user,
        [
            lambda client: client.compact(1),
            defragment,
            snapshot,
            lambda client: client.hash_kv(),
            lambda _client: maintenance.Hash(rpc_pb2.HashRequest(), timeout=TIMEOUT_S),
            lambda _client: maintenance.MoveLeader(rpc_pb2.MoveLeaderRequest(targetID=own), timeout=TIMEOUT_S),
            lambda _client: maintenance.Downgrade(rpc_pb2.DowngradeRequest(version="3.5"), timeout=TIMEOUT_S),
            lambda client: client.alarm(rpc_pb2.AlarmRequest.ACTIVATE, own, rpc_pb2.NOSPACE),
            lambda client: client.alarm(rpc_pb2.AlarmRequest.DEACTIVATE, own, rpc_pb2.NOSPACE),
            lambda _client: cluster.MemberAdd(rpc_pb2.MemberAddRequest(peerURLs=url), timeout=TIMEOUT_S),
            lambda _client: cluster.MemberRemove(rpc_pb2.MemberRemoveRequest(ID=1), timeout=TIMEOUT_S),
            lambda _client: cluster.MemberUpdate(rpc_pb2.MemberUpdateRequest(ID=1, peerURLs=url), timeout=TIMEOUT_S),
            lambda _client: cluster.MemberPromote(rpc_pb2.MemberPromoteRequest(ID=1), timeout=TIMEOUT_S),
            *(
                lambda client, method=method, fields=fields: realm.ask(client, method, **fields)
                for method, fields in _ADMINISTRATION
            ),
        ],
    )
    realm.ask(user, "UserGet", name="all")  # AU-25
    realm.ask(user, "RoleGet", role="all")  # AU-34
    assert user.alarms() == []
    realm.root.compact(realm.root.revision())


_ADMINISTRATION: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("AuthEnable", {}),
    ("AuthDisable", {}),
    ("UserAdd", {"name": "new", "password": "p"}),
    ("UserDelete", {"name": "all"}),
    ("UserChangePassword", {"name": "all", "password": "p"}),
    ("UserGrantRole", {"user": "all", "role": "root"}),
    ("UserRevokeRole", {"name": "all", "role": "all"}),
    ("UserGet", {"name": "root"}),
    ("UserList", {}),
    ("RoleAdd", {"name": "new"}),
    ("RoleDelete", {"role": "all"}),
    ("RoleGrantPermission", {"name": "all", "perm": auth_pb2.Permission(key=b"k")}),
    ("RoleRevokePermission", {"role": "all", "key": b"k"}),
    ("RoleGet", {"role": "root"}),
    ("RoleList", {}),
)


def _leases_need_their_keys(realm: Realm) -> None:
    """AU-73, L-08, L-13, L-28, L-33, L-34, PUT-08: rights on what is attached; AU-77: running out needs none."""
    realm.enable()
    realm.user("some", (READWRITE, b"a", b"b"))
    realm.user("reader", (READ, *ALL))
    user, reader, lease = realm.as_user("some"), realm.as_user("reader"), realm.root.grant(600).ID
    user.put(b"a", lease=lease)
    assert list(user.time_to_live(lease, keys=True).keys) == [b"a"]
    realm.root.put(b"b", lease=lease)
    _denied(
        user,
        [
            lambda client: client.time_to_live(lease, keys=True),
            lambda client: client.revoke(lease),
            lambda client: client.put(b"a", lease=lease),
            lambda client: _renew(client, lease),
            lambda client: client.leases(),
        ],
    )
    assert user.time_to_live(lease).grantedTTL == 600
    assert sorted(reader.time_to_live(lease, keys=True).keys) == [b"a", b"b"]
    assert reader.leases() == [lease]
    _denied(reader, [lambda client: client.revoke(lease), lambda client: _renew(client, lease)])
    own = user.grant(2).ID
    user.put(b"a", lease=own)
    _denied(
        realm.client,
        [lambda client: client.grant(60), lambda client: client.revoke(own), lambda client: _renew(client, own)],
        NOBODY,
    )
    wait_until("the lease is over", lambda: user.range(b"a").count == 0)
    realm.root.revoke(lease)


def _renew(client: Client, lease: int) -> Any:
    with client.keep_alive() as stream:
        stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        return stream.next()


def _intervals_join(realm: Realm) -> None:
    """AU-70, AU-71, AU-32: grants that touch are one, over all roles; gaps and open ends are not covered."""
    realm.enable()
    realm.user("joined", (READ, b"a", b"c"), (READ, b"c", b"e"), (READ, b"f", b""), (WRITE, b"x", b"\0"))
    realm.ask(realm.root, "RoleAdd", name="more")
    realm.grant("more", READ, b"d", b"ee")
    realm.ask(realm.root, "UserGrantRole", user="joined", role="more")
    client = realm.as_user("joined")
    for key, end in ((b"a", b"e"), (b"b", b"ee"), (b"a", b""), (b"ed", b""), (b"f", b""), (b"f", b"f\0")):
        client.range(key, end)
    for key, end in ((b"a", b"f"), (b"ee", b""), (b"f", b"g"), (b"a", b"\0"), ALL, (b"x", b"")):
        _denied(client, [lambda client, key=key, end=end: client.range(key, end)])  # type: ignore[misc]
    client.delete(b"x", b"\0")
    client.delete(b"xx", b"\0")
    client.put(b"\xff\xff")
    _denied(client, [lambda client: client.delete(b"w", b"\0"), lambda client: client.put(b"w")])


def _changes_hold_at_once(realm: Realm) -> None:
    """AU-76, AU-31, AU-33, AU-21, W-25: for the next request; an established watch goes on."""
    realm.enable()
    realm.user("user", (READWRITE, b"k", b""))
    client = realm.as_user("user")
    client.put(b"k")
    with client.watch() as stream:
        stream.create(b"k")
        realm.ask(realm.root, "RoleRevokePermission", role="user", key=b"k")
        _denied(client, [lambda client: client.put(b"k"), lambda client: client.range(b"k")])
        revision = realm.root.put(b"k").header.revision
        assert [event.kv.mod_revision for event in stream.events(1)] == [revision]
    realm.grant("user", READ, b"k")
    client.range(b"k")
    realm.ask(realm.root, "RoleDelete", role="user")
    _denied(realm.as_user("user"), [lambda client: client.range(b"k")])
    realm.ask(realm.root, "UserDelete", name="user")
    _denied(client, [lambda client: client.range(b"k")], BAD_TOKEN)


def _why_a_watch_is_refused(realm: Realm) -> None:
    """W-23, W-24: the text is what the Go client looks for."""
    realm.enable()
    realm.user("user", (READ, b"k", b"l"))
    for client, key, reason in (
        (realm.as_user("user"), b"a", "rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
        (realm.client, b"k", "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (realm.with_token("x.1"), b"k", "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
    ):
        with client.watch() as stream:
            stream.ask(key)
            answer = stream.next()
            assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
            assert answer.cancel_reason == reason
    with realm.as_user("user").watch() as stream:
        assert not stream.create(b"k", prefix_end(b"k")).canceled


@points(
    _what_enabling_needs,
    _disabling_opens_everything,
    _keys_need_their_kind,
    _administration_needs_root,
    _leases_need_their_keys,
    _intervals_join,
    _changes_hold_at_once,
    _why_a_watch_is_refused,
)
def test_item_10_auth(realm: Realm, point: Point) -> None:
    point(realm)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_item_10_auth_simple_tokens_do_not_outlive_a_restart(fresh: Fresh) -> None:
    """AU-43, AU-47, AU-02: users do; whoever signs in again goes on."""
    server, client = fresh()
    realm = Realm(client)
    realm.enable()
    realm.user("user", (READWRITE, b"k", b""))
    token = realm.token("user")
    letters, _, index = token.partition(".")
    assert (len(letters), letters.isalpha(), index.isdecimal()) == (16, True, True)
    realm.with_token(token).put(b"k")
    server.terminate()
    server.start()
    wait_until("it serves", lambda: outcome(lambda: client.put(b"k")) == NOBODY)
    _denied(realm.with_token(token), [lambda client: client.put(b"k")], BAD_TOKEN)
    assert realm.as_user("user").put(b"k", prev_kv=True).prev_kv.version == 1


@pytest.mark.beyond_etcd("another member of etcd may refuse a token that was just given")
def test_item_10_auth_simple_tokens_hold_on_every_member(new_cluster: NewCluster) -> None:
    """AU-42, AU-43, AU-44, G-23: also under the other names of its metadata, and at once."""
    cluster = new_cluster()
    clients = [Client(connect(member.endpoint)) for member in cluster.members]
    try:
        realm = Realm(clients[0])
        realm.enable()
        for number in range(10):
            token = realm.token("root")
            for client in clients:
                Realm(client).with_token(token).put(b"%d" % number)
        request = rpc_pb2.PutRequest(key=b"k")
        for metadata in (("authorization", token), ("authorization", f"Bearer {token}"), ("token", f"Bearer {token}")):
            clients[1].calls.KV.Put(request, timeout=TIMEOUT_S, metadata=[metadata])
    finally:
        for client in clients:
            client.channel.close()


@pytest.fixture
def jwt_flag(tmp_path: Path) -> str:
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef" * 2)
    return f"--auth-token=jwt,priv-key={secret},sign-method=HS256,ttl=10m"


@pytest.mark.beyond_etcd("3.5.1 sends another code for what is old")
def test_item_10_auth_a_jwt_is_old_after_a_change(fresh: Fresh, jwt_flag: str) -> None:
    """AU-45, AU-46, AU-49, W-23: refused, and a new one goes on; a restart does not matter."""
    server, client = fresh(jwt_flag)
    realm = Realm(client)
    realm.enable()
    realm.user("user", (READWRITE, b"k", b""))
    realm.root = realm.as_user("root")
    token = realm.token("user")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["username"], claims["revision"]) == ("user", realm.ask(realm.root, "AuthStatus").authRevision)
    user = realm.with_token(token)
    user.put(b"k")
    server.kill9()
    server.start()
    wait_until("it serves", lambda: outcome(lambda: client.put(b"k")) == NOBODY)
    user.put(b"k")
    realm.ask(realm.root, "RoleAdd", name="other")
    _denied(user, [lambda client: client.put(b"k"), lambda client: client.range(b"k")], OLD)
    with user.watch() as stream:
        stream.ask(b"k")
        reason = "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
        assert stream.next().cancel_reason == reason
    realm.as_user("user").put(b"k")
    _denied(realm.with_token(token[:-2]), [lambda client: client.put(b"k")], BAD_TOKEN)


@until("CLIENT_TLS")
def test_item_10_auth_by_certificate(subject_program: Program, tmp_path: Path) -> None:
    """AU-60, AU-61, AU-63, TLS-03: its name is the user's; a token goes first; a name that is no user may nothing."""
    authority = Authority(tmp_path)
    own = authority.issue("127.0.0.1")
    flags = [f"--cert-file={own.certificate}", f"--key-file={own.key}", "--client-cert-auth"]
    server = TlsServer(subject_program, tmp_path / "member", [*flags, f"--trusted-ca-file={authority.certificate}"])
    channels = {
        name: authority.channel(server.endpoint, authority.issue(name)) for name in ("root", "user", "stranger")
    }
    try:
        server.spawn()
        anybody = Realm(Client(channels["stranger"]))
        wait_until("it serves", anybody.client.status)
        anybody.user("user", (READWRITE, b"k", b""))
        anybody.enable()
        user, stranger = Client(channels["user"]), Client(channels["stranger"])
        user.put(b"k")
        _denied(user, [lambda client: client.put(b"other")])
        _denied(stranger, [lambda client: client.put(b"k")])
        Client(channels["root"]).put(b"other")
        anybody.root.put(b"other")  # the stranger's connection, with a token of root
    finally:
        for channel in channels.values():
            channel.close()
        server.stop()
