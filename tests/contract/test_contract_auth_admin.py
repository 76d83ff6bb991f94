"""Users, roles, and turning auth on and off (contract sections 7.1 to 7.4)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

import bcrypt
import pytest
from contract_auth import (
    AUTH_FAILED,
    BOTH,
    CHEAP_HASHES,
    DENIED,
    INVALID_MANAGEMENT,
    NO_PASSWORD,
    NO_ROOT_ROLE,
    NO_ROOT_USER,
    NOT_ENABLED,
    NOT_GIVEN,
    NOT_GRANTED,
    READ,
    ROLE_EMPTY,
    ROLE_EXISTS,
    ROLE_NOT_FOUND,
    ROLE_NOT_GRANTED,
    USER_EMPTY,
    USER_EXISTS,
    USER_NOT_FOUND,
    WRITE,
    Admin,
    Guarded,
    new_name,
    saying,
)
from contract_support import TIMEOUT_S, Client, Code, refused
from helpers.processes import Server

from raftkv.pb import auth_pb2, rpc_pb2

StartServer = Callable[..., Server]
Connected = Callable[[Server], Client]

BEYOND_3_5_1 = "a check that later patch releases have"


@pytest.fixture
def admin(client: Client) -> Admin:
    """Of the shared member, on which auth is never on."""
    return Admin(client)


@pytest.fixture
def empty(start_server: StartServer, connected: Connected) -> Client:
    """A member of the test's own, on which nobody is a user yet."""
    return connected(start_server(CHEAP_HASHES))


# --- without credentials, while auth is off ---------------------------------------------------------------------------


def test_users_and_roles_can_be_made_before_auth_is_on(admin: Admin) -> None:
    """AU-05, AU-20, AU-23, AU-25, AU-26, AU-30, AU-35."""
    user, roles = new_name("user"), sorted(new_name("role") for _ in range(3))
    admin.add_user(user, "p")
    assert list(admin.user(user).roles) == []
    for role in reversed(roles):
        admin.add_role(role)
        admin.grant_role(user, role)
    assert list(admin.user(user).roles) == roles
    assert set(roles) <= set(admin.roles())
    assert admin.roles() == sorted(admin.roles())
    assert user in admin.users()
    assert admin.users() == sorted(admin.users())


def test_what_cannot_be_done_with_a_user(admin: Admin) -> None:
    """AU-20 to AU-25."""
    user, role, unknown = new_name("user"), new_name("role"), new_name("unknown")
    with refused(USER_EMPTY):
        admin.add_user("", "p")
    admin.add_user(user, "p")
    with refused(USER_EXISTS):
        admin.add_user(user, "q")
    for attempt in (
        lambda: admin.user(unknown),
        lambda: admin.delete_user(unknown),
        lambda: admin.change_password(unknown, "p"),
        lambda: admin.grant_role(unknown, role),
        lambda: admin.revoke_role(unknown, role),
        lambda: admin.user(""),
    ):
        with refused(USER_NOT_FOUND):
            attempt()
    with refused(ROLE_NOT_FOUND):
        admin.grant_role(user, role)
    with refused(ROLE_NOT_GRANTED):
        admin.revoke_role(user, role)
    admin.grant_role(user, "root")  # needs no role object (AU-04, AU-23)
    assert list(admin.user(user).roles) == ["root"]
    admin.delete_user(user)
    with refused(USER_NOT_FOUND):
        admin.user(user)


def test_what_cannot_be_done_with_a_role(admin: Admin) -> None:
    """AU-30 to AU-34."""
    role, unknown = new_name("role"), new_name("unknown")
    with refused(ROLE_EMPTY):
        admin.add_role("")
    admin.add_role(role)
    with refused(ROLE_EXISTS):
        admin.add_role(role)
    for attempt in (
        lambda: admin.permissions(unknown),
        lambda: admin.delete_role(unknown),
        lambda: admin.permit(unknown, READ, b"k"),
        lambda: admin.forbid(unknown, b"k"),
        lambda: admin.permissions(""),
    ):
        with refused(ROLE_NOT_FOUND):
            attempt()
    with refused(NOT_GIVEN):
        admin.client.calls.Auth.RoleGrantPermission(
            rpc_pb2.AuthRoleGrantPermissionRequest(name=role), timeout=TIMEOUT_S
        )
    admin.permit(role, READ, b"a", b"c")
    for key, range_end in ((b"a", b""), (b"a", b"b"), (b"b", b"c"), (b"", b"c")):
        with refused(NOT_GRANTED):
            admin.forbid(role, key, range_end)
    admin.forbid(role, b"a", b"c")
    assert admin.permissions(role) == []


@pytest.mark.beyond_etcd(BEYOND_3_5_1)
def test_intervals_that_hold_nothing_cannot_be_granted(admin: Admin) -> None:
    """AU-32: before it is asked whether the role exists."""
    role = new_name("role")
    admin.add_role(role)
    for key, range_end in ((b"", b""), (b"", b"a"), (b"b", b"a"), (b"a", b"a")):
        with refused(INVALID_MANAGEMENT):
            admin.permit(role, READ, key, range_end)
    assert admin.permissions(role) == []


def test_permissions_of_a_role(admin: Admin) -> None:
    """AU-32, AU-34: sorted by key; the same interval again replaces the type."""
    role = new_name("role")
    admin.add_role(role)
    for kind, key, range_end in ((WRITE, b"m", b"n"), (READ, b"z", b"\0"), (READ, b"a", b""), (BOTH, b"b", b"")):
        admin.permit(role, kind, key, range_end)
    assert admin.permissions(role) == [
        (READ, b"a", b""),
        (BOTH, b"b", b""),
        (WRITE, b"m", b"n"),
        (READ, b"z", b"\0"),
    ]
    admin.permit(role, READ, b"m", b"n")
    assert admin.permissions(role)[2] == (READ, b"m", b"n")
    admin.forbid(role, b"b")
    assert [key for _, key, _ in admin.permissions(role)] == [b"a", b"m", b"z"]


def test_a_role_that_is_deleted_is_nobodys_any_more(admin: Admin) -> None:
    """AU-31."""
    user, other, role, kept = new_name("user"), new_name("user"), new_name("role"), new_name("role")
    for each in (role, kept):
        admin.add_role(each)
    for each in (user, other):
        admin.add_user(each, "p")
        admin.grant_role(each, role)
        admin.grant_role(each, kept)
    admin.delete_role(role)
    assert [list(admin.user(each).roles) for each in (user, other)] == [[kept], [kept]]
    admin.add_role(role)
    assert list(admin.user(user).roles) == [kept]


def test_a_role_that_is_taken_away(admin: Admin) -> None:
    """AU-24, AU-23: granting twice is as granting once."""
    user, role = new_name("user"), new_name("role")
    admin.add_user(user, "p")
    admin.add_role(role)
    admin.grant_role(user, role)
    admin.grant_role(user, role)
    assert list(admin.user(user).roles) == [role]
    admin.revoke_role(user, role)
    assert list(admin.user(user).roles) == []
    with refused(ROLE_NOT_GRANTED):
        admin.revoke_role(user, role)


def test_the_revision_counts_changes_of_users_and_roles(admin: Admin) -> None:
    """AU-03, AU-06, KV-09, G-17: not refusals, nor what changes nothing. The store's revision is another."""
    user, role = new_name("user"), new_name("role")
    store_revision = admin.client.revision()
    steps = (
        (lambda: admin.add_user(user, "p"), 1),
        (lambda: admin.add_role(role), 1),
        (lambda: admin.grant_role(user, role), 1),
        (lambda: admin.grant_role(user, role), 0),
        (lambda: admin.permit(role, READ, b"a"), 1),
        (lambda: admin.permit(role, WRITE, b"a"), 1),
        (lambda: admin.forbid(role, b"a"), 1),
        (lambda: admin.change_password(user, "q"), 1),
        (lambda: admin.revoke_role(user, role), 1),
        (lambda: admin.delete_role(role), 1),
        (lambda: admin.delete_user(user), 1),
    )
    before = admin.revision()
    for change, count in steps:
        assert change().header.revision == store_revision
        assert admin.revision() == before + count
        before += count
    with refused(USER_NOT_FOUND):
        admin.delete_user(user)
    assert admin.revision() == before
    assert admin.client.revision() == store_revision


def test_headers_of_the_auth_service(admin: Admin) -> None:
    """G-10, G-17."""
    admin.client.put(b"some key")
    expected = admin.client.range(b"some key").header
    header = admin.status().header
    assert (header.cluster_id, header.member_id, header.revision) == (
        expected.cluster_id,
        expected.member_id,
        expected.revision,
    )
    assert header.raft_term > 0
    assert admin.user(_any_user(admin)).header == header


def _any_user(admin: Admin) -> str:
    name = new_name("user")
    admin.add_user(name, "p")
    return name


def test_nobody_logs_in_while_auth_is_off(admin: Admin) -> None:
    """AU-40, AU-11, AU-12: and turning it off again is no change."""
    user = _any_user(admin)
    for password in ("p", "wrong"):
        with refused(NOT_ENABLED):
            admin.token(user, password)
    before = admin.revision()
    admin.disable()
    assert (admin.status().enabled, admin.revision()) == (False, before)


@pytest.mark.beyond_etcd("later patch releases look at tokens only while auth is on")
def test_identities_are_ignored_while_auth_is_off(client: Client, prefix: bytes) -> None:
    """AU-13."""
    for metadata in (("token", "of nobody.5"), ("authorization", "Bearer x")):
        other = saying(client, metadata)
        other.put(prefix)
        assert other.only(prefix).key == prefix
        assert not Admin(other).status().enabled
        with other.watch() as stream:
            assert not stream.create(prefix).canceled


# --- on and off -------------------------------------------------------------------------------------------------------


def test_turning_auth_on_and_off(empty: Client) -> None:
    """AU-10, AU-11, AU-12, AU-03: it takes a root who can turn it off again."""
    admin = Admin(empty)
    assert (admin.status().enabled, admin.revision()) == (False, 1)
    with refused(NO_ROOT_USER):
        admin.enable()
    admin.add_user("root", "secret")
    with refused(NO_ROOT_ROLE):
        admin.enable()
    admin.grant_role("root", "root")
    before = admin.revision()
    admin.enable()
    for attempt in (admin.status, admin.enable, admin.disable, lambda: empty.put(b"k")):
        with refused(USER_EMPTY):
            attempt()
    root = Admin(saying(empty, ("token", admin.token("root", "secret"))))
    assert (root.status().enabled, root.revision()) == (True, before)
    root.enable()
    assert root.revision() == before
    root.disable()
    assert (admin.status().enabled, admin.revision()) == (False, before + 1)
    empty.put(b"k")


@pytest.mark.beyond_etcd("3.5.1 refuses any token that it does not know, also while auth is off")
def test_turning_auth_off_forgets_all_tokens(empty: Client) -> None:
    """AU-11."""
    guarded = Guarded(empty)
    user = guarded.new_user((BOTH, b"a", b"b"))
    user.put(b"a")
    guarded.admin.disable()
    user.put(b"z")
    Admin(empty).enable()
    for client in (user, guarded.root):
        with refused((Code.UNAUTHENTICATED, "etcdserver: invalid auth token")):
            client.put(b"a")


# --- while auth is on -------------------------------------------------------------------------------------------------


def test_who_may_see_and_change_users_and_roles(guarded: Guarded) -> None:
    """AU-12, AU-25, AU-26, AU-34 to AU-37: root; and everybody themself and their own roles."""
    name, other = guarded.add_user((READ, b"a", b"")), guarded.add_user()
    mine = Admin(guarded.login(name))
    assert list(mine.user(name).roles) == [name]
    assert mine.permissions(name) == [(READ, b"a", b"")]
    attempts = (
        lambda admin: admin.user(other),
        lambda admin: admin.user("no such user"),
        lambda admin: admin.permissions(other),
        lambda admin: admin.permissions("root"),
        lambda admin: admin.users(),
        lambda admin: admin.roles(),
        lambda admin: admin.status(),
        lambda admin: admin.enable(),
        lambda admin: admin.disable(),
        lambda admin: admin.add_user("new", "p"),
        lambda admin: admin.add_user(name, "p"),
        lambda admin: admin.delete_user(other),
        lambda admin: admin.change_password(name, "p"),
        lambda admin: admin.grant_role(name, other),
        lambda admin: admin.grant_role(name, "root"),
        lambda admin: admin.revoke_role(name, name),
        lambda admin: admin.add_role("new"),
        lambda admin: admin.delete_role(other),
        lambda admin: admin.permit(name, BOTH, b"\0", b"\0"),
        lambda admin: admin.forbid(name, b"a"),
    )
    before = guarded.admin.revision()
    for attempt in attempts:
        with refused(DENIED):
            attempt(mine)
        with refused(USER_EMPTY):
            attempt(Admin(guarded.nobody))
    assert guarded.admin.revision() == before


def test_whoever_has_the_role_root_is_root(guarded: Guarded) -> None:
    """AU-04, AU-75."""
    name = guarded.add_user()
    client = guarded.login(name)
    with refused(DENIED):
        Admin(client).users()
    guarded.admin.grant_role(name, "root")
    assert name in Admin(client).users()
    client.put(b"anything")
    client.compact(client.revision())
    guarded.admin.revoke_role(name, "root")
    with refused(DENIED):
        client.put(b"anything")


def test_root_cannot_lock_everybody_out(guarded: Guarded) -> None:
    """AU-21, AU-24, AU-31."""
    for attempt in (
        lambda: guarded.admin.delete_user("root"),
        lambda: guarded.admin.revoke_role("root", "root"),
        lambda: guarded.admin.delete_role("root"),
    ):
        with refused(INVALID_MANAGEMENT):
            attempt()
    assert list(guarded.admin.user("root").roles) == ["root"]


@pytest.mark.beyond_etcd("3.5.1 shows no permission of it")
def test_the_role_root_as_it_is_shown(start_server: StartServer, connected: Connected) -> None:
    """AU-34: only where there is one to be shown (AU-04)."""
    admin = Admin(connected(start_server(CHEAP_HASHES)))
    with refused(ROLE_NOT_FOUND):
        admin.permissions("root")
    admin.add_role("root")
    assert admin.permissions("root") == [(BOTH, b"", b"\0")]
    assert admin.roles() == ["root"]


def test_passwords(guarded: Guarded) -> None:
    """AU-20, AU-22, AU-40."""
    name = new_name("user")
    guarded.admin.add_user(name, "one")
    guarded.login(name, "one")
    guarded.admin.change_password(name, "two")
    guarded.login(name, "two")
    for password in ("one", "", "two "):
        with refused(AUTH_FAILED):
            guarded.login(name, password)
    guarded.admin.change_password(name, "")
    for password in ("two", ""):
        with refused(AUTH_FAILED):
            guarded.login(name, password)
    guarded.admin.change_password(name, "three")
    guarded.login(name, "three")
    with refused(AUTH_FAILED):
        guarded.login(new_name("nobody"), "three")


def test_an_empty_password_is_a_password(guarded: Guarded) -> None:
    """AU-20."""
    name = new_name("user")
    guarded.admin.add_user(name, "")
    guarded.login(name, "")
    with refused(AUTH_FAILED):
        guarded.login(name, "x")


def test_a_user_without_a_password(guarded: Guarded) -> None:
    """AU-20, AU-40: only a certificate tells who that is."""
    name = new_name("user")
    guarded.admin.add_user(name, options=auth_pb2.UserAddOptions(no_password=True))
    for password in ("", "x"):
        with refused(NO_PASSWORD):
            guarded.login(name, password)
    guarded.admin.change_password(name, "x")
    with refused(NO_PASSWORD):
        guarded.login(name, "x")


@pytest.mark.beyond_etcd("3.5.1 takes longer passwords and looks at 72 bytes of them")
def test_a_password_that_is_too_long(guarded: Guarded) -> None:
    """AU-20."""
    name = new_name("user")
    too_long = (Code.UNKNOWN, "bcrypt: password length exceeds 72 bytes")
    with refused(too_long):
        guarded.admin.add_user(name, "x" * 73)
    guarded.admin.add_user(name, "x" * 72)
    guarded.login(name, "x" * 72)
    with refused(too_long):
        guarded.admin.change_password(name, "ü" * 37)
    guarded.login(name, "x" * 72)


@pytest.mark.beyond_etcd("etcd has hashes of its own making when it adds a user, and 3.5.1 always")
def test_a_hash_instead_of_a_password(guarded: Guarded) -> None:
    """AU-20: whoever sets up users need not know their passwords."""
    name = new_name("user")
    hashed = b64encode(bcrypt.hashpw(b"theirs", bcrypt.gensalt(4))).decode()
    guarded.admin.add_user(name, hashedPassword=hashed)
    guarded.login(name, "theirs")
    with refused(AUTH_FAILED):
        guarded.login(name, "")
    guarded.admin.change_password(name, hashedPassword=b64encode(bcrypt.hashpw(b"new", bcrypt.gensalt(4))).decode())
    guarded.login(name, "new")
