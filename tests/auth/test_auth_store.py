"""Users, roles and permissions, rule by rule: what changes them, what is refused, and what a restart finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from auth_support import READ, READWRITE, WRITE, Disk, listed, permission

from raftkv.auth import (
    ROOT,
    AuthError,
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    InvalidAuthManagement,
    PermissionNotGranted,
    RoleEmpty,
    RoleExists,
    RoleNotFound,
    RoleNotGranted,
    RootRoleNotExist,
    RootUserNotExist,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from raftkv.backend import SchemaError
from raftkv.backend.schema import Meta, short_key
from raftkv.pb import auth_pb2

LONG = "é" * 5000
"""A name that is no table key."""


def refused(disk: Disk, expected: type[AuthError], change: Callable[..., None], *arguments: Any) -> None:
    """Exactly so, and nothing has changed, neither on disk nor in memory."""
    auth = disk.auth
    before = disk.content(), auth.revision, auth.enabled, auth.user_names(), auth.role_names()
    with pytest.raises(AuthError) as refusal:
        disk.change(change, *arguments)
    assert type(refusal.value) is expected
    assert (disk.content(), auth.revision, auth.enabled, auth.user_names(), auth.role_names()) == before


# --- on and off -------------------------------------------------------------------------------------------------------


def test_a_new_store_is_off_at_revision_1_au03(disk: Disk) -> None:
    assert (disk.auth.enabled, disk.auth.revision, disk.auth.user_names(), disk.auth.role_names()) == (False, 1, [], [])


def test_it_takes_root_with_its_role_to_enable_au10(disk: Disk) -> None:
    refused(disk, RootUserNotExist, disk.auth.enable)
    disk.add_user(ROOT)
    refused(disk, RootRoleNotExist, disk.auth.enable)
    disk.change(disk.auth.user_grant_role, ROOT, ROOT)
    disk.change(disk.auth.enable)
    assert disk.auth.enabled
    assert disk.load().enabled


def test_another_administrator_is_not_enough_to_enable_au04(disk: Disk) -> None:
    disk.add_user("admin", ROOT)
    refused(disk, RootUserNotExist, disk.auth.enable)


def test_enabling_twice_changes_nothing_and_counts_nothing_au03_au10(disk: Disk) -> None:
    disk.enable()
    before = disk.content()
    disk.change(disk.auth.enable)
    assert (disk.auth.enabled, disk.auth.revision) == (True, 3)  # the user, and its role
    assert disk.content() == before


def test_disabling_clears_tokens_and_counts_au03_au11(disk: Disk) -> None:
    disk.enable()
    token = disk.auth.authenticated(ROOT, disk.auth.revision, "nonce", 9)
    revision = disk.auth.revision
    disk.change(disk.auth.disable)
    assert (disk.auth.enabled, disk.auth.revision) == (False, revision + 1)
    assert disk.auth.tokens.resolve(token, 0.0) is None
    assert (disk.load().enabled, disk.auth.revision) == (False, revision + 1)


def test_disabling_what_is_off_is_fine_and_counts_nothing_au11(disk: Disk) -> None:
    disk.change(disk.auth.disable)
    assert (disk.auth.enabled, disk.auth.revision) == (False, 1)


def test_each_change_counts_one_au03(disk: Disk) -> None:
    auth = disk.auth
    changes: list[tuple[Any, ...]] = [
        (auth.user_add, "u", b"hash", False),
        (auth.role_add, "r"),
        (auth.user_grant_role, "u", "r"),
        (auth.role_grant_permission, "r", permission(READ, b"a")),
        (auth.role_grant_permission, "r", permission(READ, b"a")),
        (auth.role_revoke_permission, "r", b"a", b""),
        (auth.user_change_password, "u", b"other"),
        (auth.user_revoke_role, "u", "r"),
        (auth.role_delete, "r"),
        (auth.user_delete, "u"),
    ]
    for expected, change in enumerate(changes, start=2):
        disk.change(*change)
        assert auth.revision == expected
    assert disk.load().revision == 11


# --- users ------------------------------------------------------------------------------------------------------------


def test_adding_a_user_au20(disk: Disk) -> None:
    refused(disk, UserEmpty, disk.auth.user_add, "", b"hash", False)
    disk.add_user("alice", password=b"\x00\xff")
    refused(disk, UserExists, disk.auth.user_add, "alice", b"hash", False)
    user = disk.load().user("alice")
    assert user is not None
    assert (user.name, user.password, list(user.roles), user.options.no_password) == (b"alice", b"\x00\xff", [], False)


def test_a_user_without_a_password_has_none_whatever_is_given_au20_au22(disk: Disk) -> None:
    disk.add_user("cert", password=b"hash", no_password=True)
    disk.change(disk.auth.user_change_password, "cert", b"hash")
    user = disk.auth.user("cert")
    assert user is not None
    assert (user.password, user.options.no_password) == (b"", True)


def test_deleting_a_user_au21(disk: Disk) -> None:
    refused(disk, UserNotFound, disk.auth.user_delete, "alice")
    disk.enable()
    disk.add_user("alice")
    token = disk.auth.authenticated("alice", disk.auth.revision, "nonce", 9)
    refused(disk, InvalidAuthManagement, disk.auth.user_delete, ROOT)
    disk.change(disk.auth.user_delete, "alice")
    assert disk.auth.user("alice") is None
    assert disk.auth.tokens.resolve(token, 0.0) is None
    disk.change(disk.auth.disable)
    disk.change(disk.auth.user_delete, ROOT)
    assert disk.load().user_names() == []


def test_changing_a_password_au22(disk: Disk) -> None:
    refused(disk, UserNotFound, disk.auth.user_change_password, "alice", b"hash")
    disk.add_role("r")
    disk.add_user("alice", "r")
    disk.change(disk.auth.user_change_password, "alice", b"")
    user = disk.load().user("alice")
    assert user is not None
    assert (user.password, list(user.roles)) == (b"", ["r"])


def test_a_change_of_password_invalidates_the_users_tokens_and_no_others_au22(disk: Disk) -> None:
    disk.enable()
    disk.add_user("alice")
    alice, root = (disk.auth.authenticated(user, disk.auth.revision, user, 9) for user in ("alice", ROOT))
    disk.change(disk.auth.user_change_password, "alice", b"new")
    assert (disk.auth.tokens.resolve(alice, 0.0), disk.auth.tokens.resolve(root, 0.0)) == (None, ROOT)


def test_granting_a_role_au23(disk: Disk) -> None:
    refused(disk, UserNotFound, disk.auth.user_grant_role, "alice", "r")
    disk.add_user("alice")
    refused(disk, RoleNotFound, disk.auth.user_grant_role, "alice", "r")
    disk.add_role("r")
    disk.add_role("a")
    for role in ("r", ROOT, "a"):
        disk.change(disk.auth.user_grant_role, "alice", role)
    revision = disk.auth.revision
    disk.change(disk.auth.user_grant_role, "alice", "r")
    assert disk.auth.revision == revision
    user = disk.load().user("alice")
    assert user is not None
    assert list(user.roles) == ["a", "r", ROOT]


def test_revoking_a_role_au24(disk: Disk) -> None:
    refused(disk, UserNotFound, disk.auth.user_revoke_role, "alice", "r")
    disk.enable()
    disk.add_user("alice", ROOT)
    refused(disk, InvalidAuthManagement, disk.auth.user_revoke_role, ROOT, ROOT)
    refused(disk, RoleNotGranted, disk.auth.user_revoke_role, "alice", "r")
    disk.change(disk.auth.user_revoke_role, "alice", ROOT)
    assert not disk.load().has_root_role("alice")
    disk.change(disk.auth.disable)
    disk.change(disk.auth.user_revoke_role, ROOT, ROOT)
    assert not disk.auth.has_root_role(ROOT)


def test_names_are_sorted_as_their_bytes_are_au26_au35(disk: Disk) -> None:
    names = ["b", "a", LONG, "\U0001f600", "\uffff", "A"]
    for name in names:
        disk.add_user(name)
        disk.add_role(name)
    expected = sorted(names, key=str.encode)
    assert disk.auth.user_names() == disk.auth.role_names() == expected
    assert disk.load().user_names() == disk.auth.role_names() == expected


def test_long_names_that_begin_alike_are_different(disk: Disk) -> None:
    disk.add_user(LONG)
    disk.add_user(LONG + "x")
    disk.change(disk.auth.user_delete, LONG)
    assert disk.load().user_names() == [LONG + "x"]


# --- roles ------------------------------------------------------------------------------------------------------------


def test_adding_a_role_au30(disk: Disk) -> None:
    refused(disk, RoleEmpty, disk.auth.role_add, "")
    disk.add_role("r")
    refused(disk, RoleExists, disk.auth.role_add, "r")
    assert listed(disk.load().role("r")) == []


def test_deleting_a_role_takes_it_from_all_users_au31(disk: Disk) -> None:
    refused(disk, RoleNotFound, disk.auth.role_delete, "r")
    disk.add_role("r")
    disk.add_role("s")
    disk.add_user("alice", "r", "s")
    disk.add_user("bob", "r")
    disk.change(disk.auth.role_delete, "r")
    auth = disk.load()
    users = [auth.user("alice"), auth.user("bob")]
    assert [list(user.roles) for user in users if user is not None] == [["s"], []]
    assert [user.password for user in users if user is not None] == [b"hash", b"hash"]
    assert auth.role_names() == ["s"]


def test_the_role_root_can_go_only_while_auth_is_off_au31(disk: Disk) -> None:
    disk.add_role(ROOT)
    disk.enable()
    refused(disk, InvalidAuthManagement, disk.auth.role_delete, ROOT)
    disk.change(disk.auth.disable)
    disk.change(disk.auth.role_delete, ROOT)
    assert not disk.load().has_root_role(ROOT)
    refused(disk, RoleNotFound, disk.auth.role_delete, ROOT)


def test_a_permission_needs_a_role_and_an_interval_with_keys_au32(disk: Disk) -> None:
    grant = disk.auth.role_grant_permission
    refused(disk, RoleNotFound, grant, "r", permission(READ, b"a"))
    refused(disk, InvalidAuthManagement, grant, "r", permission(READ, b""))  # etcd looks at the interval first
    disk.add_role("r")
    for key, range_end in ((b"", b""), (b"", b"b"), (b"b", b"b"), (b"b", b"a"), (b"", b"\x00")):
        refused(disk, InvalidAuthManagement, grant, "r", permission(READ, key, range_end))
    for key, range_end in ((b"\x00", b"\x00"), (b"b", b"\x00"), (b"a", b"a\x00")):
        disk.change(grant, "r", permission(READ, key, range_end))


def test_permissions_are_sorted_and_replaced_by_interval_au32(disk: Disk) -> None:
    granted = [(b"b", b"z"), (b"a", b""), (b"b", b""), (b"c", b"\x00"), (b"b", b"c")]
    disk.add_role("r", *(permission(READ, *interval) for interval in granted))
    disk.change(disk.auth.role_grant_permission, "r", permission(WRITE, b"b", b""))
    disk.change(disk.auth.role_grant_permission, "r", permission(READWRITE, b"b", b"c"))
    expected = [
        (READ, b"a", b""),
        (READ, b"b", b"z"),
        (WRITE, b"b", b""),
        (READWRITE, b"b", b"c"),
        (READ, b"c", b"\x00"),
    ]
    assert listed(disk.auth.role("r")) == expected
    assert listed(disk.load().role("r")) == expected


def test_revoking_needs_exactly_the_interval_au33(disk: Disk) -> None:
    revoke = disk.auth.role_revoke_permission
    refused(disk, RoleNotFound, revoke, "r", b"a", b"")
    disk.add_role("r", permission(READ, b"a", b"c"), permission(WRITE, b"a"))
    for key, range_end in ((b"a", b"b"), (b"b", b"c"), (b"b", b"")):
        refused(disk, PermissionNotGranted, revoke, "r", key, range_end)
    disk.change(revoke, "r", b"a", b"c")
    assert listed(disk.load().role("r")) == [(WRITE, b"a", b"")]


def test_the_role_root_shows_all_where_it_is_stored_au34(disk: Disk) -> None:
    assert disk.auth.role(ROOT) is None
    disk.add_role(ROOT, permission(READ, b"a"))
    assert listed(disk.auth.role(ROOT)) == [(READWRITE, b"", b"\x00")]


# --- logging in -------------------------------------------------------------------------------------------------------


def test_a_login_gives_a_token_named_by_the_entry_au43(disk: Disk) -> None:
    disk.enable()
    assert disk.auth.authenticated(ROOT, disk.auth.revision, "abc", 17) == "abc.17"
    assert disk.auth.tokens.resolve("abc.17", 0.0) == ROOT


def test_without_a_nonce_there_is_no_token_to_keep(disk: Disk) -> None:
    disk.enable()
    assert disk.auth.authenticated(ROOT, disk.auth.revision, "", 17) == ""
    assert len(disk.auth.tokens) == 0


def test_nobody_logs_in_while_auth_is_off_au40(disk: Disk) -> None:
    disk.add_user("alice")
    with pytest.raises(AuthNotEnabled):
        disk.auth.authenticated("alice", disk.auth.revision, "abc", 17)


def test_a_password_that_was_right_before_a_change_does_not_count_au41(disk: Disk) -> None:
    disk.enable()
    checked_at = disk.auth.revision
    disk.add_user("alice")
    with pytest.raises(AuthOldRevision):
        disk.auth.authenticated(ROOT, checked_at, "abc", 17)
    assert len(disk.auth.tokens) == 0


def test_who_has_no_password_cannot_log_in_au40(disk: Disk) -> None:
    disk.enable()
    disk.add_user("cert", no_password=True)
    for user in ("cert", "nobody"):
        with pytest.raises(AuthFailed):
            disk.auth.authenticated(user, disk.auth.revision, "abc", 17)


# --- what a restart and a snapshot find -------------------------------------------------------------------------------


def test_loading_the_same_again_keeps_tokens_and_what_is_new_drops_them(disk: Disk) -> None:
    disk.enable()
    token = disk.auth.authenticated(ROOT, disk.auth.revision, "abc", 17)
    disk.load_into(disk.auth)
    assert disk.auth.tokens.resolve(token, 0.0) == ROOT
    disk.write("meta", Meta.AUTH_REVISION, (99).to_bytes(8, "big"))
    disk.load_into(disk.auth)
    assert (disk.auth.revision, disk.auth.tokens.resolve(token, 0.0)) == (99, None)


def test_nothing_stays_of_what_was_before_a_load(disk: Disk) -> None:
    disk.enable()
    disk.add_role("r")
    with disk.env.begin(write=True) as txn:
        for table in (disk.tables.auth_users, disk.tables.auth_roles, disk.tables.meta):
            for key, _ in list(txn.cursor(table)):
                txn.delete(key, db=table)
    disk.load_into(disk.auth)
    assert (disk.auth.enabled, disk.auth.revision, disk.auth.user_names(), disk.auth.role_names()) == (False, 1, [], [])


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("auth_users", b"alice", b"\xff"),
        ("auth_roles", b"r", b"\xff"),
        ("auth_users", b"bob", auth_pb2.User(name=b"alice").SerializeToString()),
        ("auth_users", b"alice", auth_pb2.User(name=b"").SerializeToString()),
        ("auth_roles", b"\xff", auth_pb2.Role(name=b"\xff").SerializeToString()),
        ("auth_users", short_key(LONG.encode()), auth_pb2.User(name=(LONG + "x").encode()).SerializeToString()),
        ("meta", Meta.AUTH_ENABLED, b"\x00"),
        ("meta", Meta.AUTH_REVISION, bytes(8)),
        ("meta", Meta.AUTH_REVISION, b"\x01"),
    ],
)
def test_damage_is_found(disk: Disk, table: str, key: bytes, value: bytes) -> None:
    disk.write(table, key, value)
    with pytest.raises(SchemaError):
        disk.load()


def test_room_is_made_for_each_record_before_it_is_written(disk: Disk) -> None:
    sizes: list[int] = []
    disk.auth.before_write = sizes.append
    disk.add_role("r", permission(READ, b"a" * 1000))
    disk.add_user("alice", "r")
    disk.add_user("bob", "r")
    sizes.clear()
    disk.change(disk.auth.role_delete, "r")
    assert len(sizes) == 2
    disk.add_role("s", permission(READ, b"a" * 1000))
    sizes.clear()
    disk.change(disk.auth.role_grant_permission, "s", permission(READ, b"b"))
    assert sizes[0] > 1000
