"""Who may do what: the order in which a check looks (AU-37, AU-51), and that it looks at what is true now (AU-76)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from auth_support import EVER, READ, READWRITE, WRITE, Disk, allows, by, permission

from raftkv.auth import (
    NO_IDENTITY,
    ROOT,
    AuthError,
    AuthOldRevision,
    AuthStore,
    Identity,
    PermissionDenied,
    UserEmpty,
    UserNotFound,
)

Check = Callable[[AuthStore, Identity], None]

READ_A: Check = lambda auth, identity: auth.check_read(identity, b"a")  # noqa: E731
WRITE_A: Check = lambda auth, identity: auth.check_write(identity, b"a")  # noqa: E731
CHECKS: list[Check] = [READ_A, WRITE_A, AuthStore.check_identity, AuthStore.check_authenticated, AuthStore.check_root]


@pytest.fixture
def auth(disk: Disk) -> AuthStore:
    """On; alice may read `a`, bob is another administrator, carol may nothing."""
    disk.add_role("reads-a", permission(READ, b"a"))
    disk.add_user("alice", "reads-a")
    disk.add_user("bob", ROOT)
    disk.add_user("carol")
    disk.enable()
    return disk.auth


def verdict(check: Check, auth: AuthStore, identity: Identity) -> type[AuthError] | None:
    try:
        check(auth, identity)
    except AuthError as refusal:
        return type(refusal)
    return None


@pytest.mark.parametrize("check", CHECKS)
def test_with_auth_off_everybody_may_do_everything_au13(disk: Disk, auth: AuthStore, check: Check) -> None:
    disk.change(auth.disable)
    for identity in (NO_IDENTITY, Identity("nobody", 0), Identity("carol", 1)):
        assert verdict(check, auth, identity) is None


@pytest.mark.parametrize("check", CHECKS)
def test_nobody_is_told_so_first_au37_au48_au51(auth: AuthStore, check: Check) -> None:
    assert verdict(check, auth, NO_IDENTITY) is UserEmpty
    assert verdict(check, auth, Identity("", EVER)) is UserEmpty


@pytest.mark.parametrize("check", [each for each in CHECKS if each is not AuthStore.check_root])
@pytest.mark.parametrize("user", ["nobody", "carol", "alice", ROOT])
def test_an_old_identity_comes_before_who_it_is_au49_au51(auth: AuthStore, check: Check, user: str) -> None:
    assert verdict(check, auth, Identity(user, auth.revision - 1)) is AuthOldRevision
    assert verdict(check, auth, Identity(user, auth.revision)) is not AuthOldRevision


def test_an_administrator_is_one_by_the_rights_of_now_au37(disk: Disk, auth: AuthStore) -> None:
    old = Identity("bob", 1)
    assert verdict(AuthStore.check_root, auth, old) is None
    disk.change(auth.user_revoke_role, "bob", ROOT)
    assert verdict(AuthStore.check_root, auth, old) is PermissionDenied


def test_who_does_not_exist_may_nothing_au37_au51_au63(auth: AuthStore) -> None:
    verdicts = [verdict(check, auth, by("nobody")) for check in CHECKS]
    assert verdicts == [PermissionDenied, PermissionDenied, None, PermissionDenied, UserNotFound]


def test_what_each_may_au72_au74_au75(auth: AuthStore) -> None:
    def passes(user: str) -> list[bool]:
        return [verdict(check, auth, by(user)) is None for check in CHECKS]

    assert passes("alice") == [True, False, True, True, False]
    assert passes("carol") == [False, False, True, True, False]
    assert passes("bob") == passes(ROOT) == [True] * 5


def test_root_may_do_all_au04_au75(auth: AuthStore) -> None:
    for user in (ROOT, "bob"):
        auth.check_read(by(user), b"\x00", b"\x00")
        auth.check_write(by(user), b"\x00", b"\x00")
        assert auth.has_root_role(user)
    assert not auth.has_root_role("alice")
    assert not auth.has_root_role("nobody")


def test_write_is_not_read_and_readwrite_is_both_au72(disk: Disk, auth: AuthStore) -> None:
    disk.add_role("r", permission(READ, b"r"), permission(WRITE, b"w"), permission(READWRITE, b"x"))
    disk.change(auth.user_grant_role, "carol", "r")
    reads = [allows(auth.check_read, by("carol"), key) for key in (b"r", b"w", b"x")]
    writes = [allows(auth.check_write, by("carol"), key) for key in (b"r", b"w", b"x")]
    assert (reads, writes) == ([True, False, True], [False, True, True])


def test_a_permission_of_a_type_that_does_not_exist_gives_nothing(disk: Disk, auth: AuthStore) -> None:
    disk.add_role("r", permission(7, b"a"))  # type: ignore[arg-type]
    disk.change(auth.user_grant_role, "carol", "r")
    assert not allows(auth.check_read, by("carol"), b"a")
    assert not allows(auth.check_write, by("carol"), b"a")


def test_intervals_of_several_roles_join_au70(disk: Disk, auth: AuthStore) -> None:
    disk.add_role("low", permission(READ, b"a", b"b"))
    disk.add_role("high", permission(READ, b"b", b"c"))
    disk.change(auth.user_grant_role, "carol", "low")
    assert not allows(auth.check_read, by("carol"), b"a", b"c")
    disk.change(auth.user_grant_role, "carol", "high")
    assert allows(auth.check_read, by("carol"), b"a", b"c")


def test_a_change_holds_for_the_next_check_au76(disk: Disk, auth: AuthStore) -> None:
    def may() -> bool:
        return allows(auth.check_read, by("carol"), b"k")

    assert not may()
    disk.add_role("k")
    disk.change(auth.user_grant_role, "carol", "k")
    assert not may()
    disk.change(auth.role_grant_permission, "k", permission(READ, b"k"))
    assert may()
    disk.change(auth.role_grant_permission, "k", permission(WRITE, b"k"))
    assert not may()
    disk.change(auth.role_grant_permission, "k", permission(READWRITE, b"k"))
    assert may()
    disk.change(auth.role_revoke_permission, "k", b"k", b"")
    assert not may()
    disk.change(auth.role_grant_permission, "k", permission(READ, b"k"))
    disk.change(auth.user_revoke_role, "carol", "k")
    assert not may()
    disk.change(auth.user_grant_role, "carol", "k")
    assert may()
    disk.change(auth.role_delete, "k")
    assert not may()
    disk.add_role("k", permission(READ, b"k"))
    assert not may()  # a new role of that name is not the one that the user had


def test_a_user_made_again_has_none_of_the_old_rights_au21(disk: Disk, auth: AuthStore) -> None:
    assert allows(auth.check_read, by("alice"), b"a")
    disk.change(auth.user_delete, "alice")
    disk.add_user("alice")
    assert not allows(auth.check_read, by("alice"), b"a")


def test_rights_are_those_on_disk_after_a_load(disk: Disk, auth: AuthStore) -> None:
    assert allows(auth.check_read, by("alice"), b"a")
    with disk.env.begin(write=True) as txn:
        txn.delete(b"reads-a", db=disk.tables.auth_roles)
    disk.load_into(auth)
    assert not allows(auth.check_read, by("alice"), b"a")
