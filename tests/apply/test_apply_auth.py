"""Requests in somebody's name, on the log: what each kind needs (AU-73), and what a refusal leaves (AU-74)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from apply_support import (
    MEMBER_ID,
    Machine,
    Request,
    alarm,
    compact,
    delete,
    disarm,
    grant,
    outcome,
    publish,
    put,
    raise_alarm,
    raw,
    revoke,
    txn,
    update_member,
)
from auth_requests import (
    EVER,
    HASH,
    READ,
    add_role,
    add_user,
    allow,
    as_user,
    authenticate,
    change_password,
    delete_role,
    delete_user,
    disable,
    enable,
    forbid,
    grant_role,
    revoke_role,
    turn_on,
)

from raftkv.apply import AUTH_CHANGES, CLIENT_KINDS, CORRUPT, NOSPACE, CorruptAlarm, Kind, MalformedEntry, NoSpaceAlarm
from raftkv.auth import (
    ROOT,
    AuthError,
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    InvalidAuthManagement,
    PasswordlessUser,
    PermissionDenied,
    PermissionNotGiven,
    RoleNotFound,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from raftkv.lease import LeaseNotFound
from raftkv.pb import peer_pb2, rpc_pb2

Op = rpc_pb2.RequestOp
GET = rpc_pb2.AlarmRequest.GET
LONG = "ü" * 40_000
"""A name of more bytes than two bytes can count."""


@pytest.fixture
def guarded(machine: Machine) -> Machine:
    """With auth on; lease 1 has a key that alice may write, lease 2 has another beside it, lease 3 has none."""
    keys = {b"r/1": 0, b"w/1": 1, b"w/2": 2, b"x/1": 0, b"other": 2}
    machine.apply(grant(1), grant(2), grant(3), *(put(key, b"old", lease=lease) for key, lease in keys.items()))
    turn_on(machine)
    machine.backend.commit()
    return machine


def result(machine: Machine, request: Request) -> Any:
    """Of the only request of an entry; a refusal is its type."""
    return outcome(machine.apply(request)[0])


def range_op(key: bytes, range_end: bytes = b"") -> Op:
    return Op(request_range=rpc_pb2.RangeRequest(key=key, range_end=range_end))


def put_op(key: bytes, **options: Any) -> Op:
    return Op(request_put=rpc_pb2.PutRequest(key=key, value=b"new", **options))


def delete_op(key: bytes, range_end: bytes = b"", **options: Any) -> Op:
    return Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **options))


def txn_op(**fields: Any) -> Op:
    return Op(request_txn=rpc_pb2.TxnRequest(**fields))


def compare(key: bytes, range_end: bytes = b"") -> rpc_pb2.Compare:
    """True of every key that is there."""
    return rpc_pb2.Compare(key=key, range_end=range_end, target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.GREATER)


def txn_of(**fields: Any) -> Request:
    return txn(rpc_pb2.TxnRequest(**fields))


# --- what each kind needs ---------------------------------------------------------------------------------------------

ALICE_MAY = [
    ("put", put(b"w/new")),
    ("put with prev_kv", put(b"x/1", prev_kv=True)),
    ("put on a lease of keys that may be written", put(b"w/new", lease=1)),
    ("put on a lease without keys", put(b"w/new", lease=3)),
    ("delete", delete(b"w/1")),
    ("delete an interval", delete(b"w/", b"w0")),
    ("delete with prev_kv", delete(b"x/", b"x0", prev_kv=True)),
    ("txn that compares and reads", txn_of(compare=[compare(b"r/", b"r0")], success=[range_op(b"r/1")])),
    ("txn that writes", txn_of(success=[put_op(b"w/1")], failure=[delete_op(b"w/", b"w0")])),
    ("nested txn", txn_of(success=[txn_op(compare=[compare(b"x/1")], failure=[put_op(b"x/1", prev_kv=True)])])),
    ("empty txn", txn_of()),
    ("lease grant", grant(9)),
    ("lease revoke", revoke(1)),
    ("revoke of a lease without keys", revoke(3)),
    ("list of alarms", alarm(GET, NOSPACE)),
]
ALICE_MAY_NOT = [
    ("put", put(b"r/1")),
    ("put without a right at all", put(b"other")),
    ("put with prev_kv", put(b"w/1", prev_kv=True)),
    ("put on a lease with another's key", put(b"w/new", lease=2)),
    ("delete", delete(b"r/1")),
    ("delete an interval", delete(b"w/", b"w0\x00")),
    ("delete to the end", delete(b"w/", b"\x00")),
    ("delete with prev_kv", delete(b"w/", b"w0", prev_kv=True)),
    ("txn that compares", txn_of(compare=[compare(b"w/1")])),
    ("txn that compares an interval", txn_of(compare=[compare(b"r/1"), compare(b"r/", b"s")])),
    ("txn that reads", txn_of(success=[put_op(b"w/1"), range_op(b"w/1")])),
    ("txn that reads an interval", txn_of(success=[put_op(b"w/1"), range_op(b"r/", b"\x00")])),
    ("txn that puts", txn_of(success=[put_op(b"w/1"), put_op(b"r/1")])),
    ("txn that puts with prev_kv", txn_of(success=[put_op(b"x/1"), put_op(b"w/1", prev_kv=True)])),
    ("txn that puts on a lease", txn_of(success=[put_op(b"w/1", lease=2)])),
    ("txn that deletes", txn_of(success=[put_op(b"w/1"), delete_op(b"r/1")])),
    ("txn that deletes with prev_kv", txn_of(success=[put_op(b"x/1"), delete_op(b"w/1", prev_kv=True)])),
    ("branch not taken", txn_of(success=[put_op(b"w/1")], failure=[range_op(b"other")])),
    ("nested compare", txn_of(success=[put_op(b"w/1"), txn_op(compare=[compare(b"other")])])),
    ("nested branch taken", txn_of(success=[put_op(b"w/1"), txn_op(success=[range_op(b"other")])])),
    ("nested branch not taken", txn_of(success=[put_op(b"w/1"), txn_op(failure=[delete_op(b"other")])])),
    ("nested twice", txn_of(success=[put_op(b"w/1"), txn_op(success=[txn_op(success=[put_op(b"other")])])])),
    ("lease revoke", revoke(2)),
    ("compaction", compact(1)),
    ("alarm", raise_alarm(NOSPACE)),
    ("disarming", disarm(NOSPACE)),
    ("unknown alarm action", alarm(7, NOSPACE)),
    ("member update", update_member(MEMBER_ID, "http://elsewhere:2380")),
    ("enable", enable()),
    ("disable", disable()),
    ("user add", add_user("new")),
    ("user delete", delete_user("bob")),
    ("change of another's password", change_password("bob")),
    ("change of the own password", change_password("alice")),
    ("role grant", grant_role("alice", ROOT)),
    ("role revoke", revoke_role("alice", "alices")),
    ("role add", add_role("new")),
    ("role delete", delete_role("alices")),
    ("permission grant", allow("alices", READ, b"other")),
    ("permission revoke", forbid("alices", b"r/", b"r0")),
]
CHANGES_OF_AUTH = [each for each in ALICE_MAY_NOT if each[1][0] in AUTH_CHANGES]


def kinds_of(*lists: list[tuple[str, Request]]) -> set[int]:
    return {request[0] for requests in lists for _, request in requests}


def test_each_kind_that_a_user_can_ask_for_is_tried() -> None:
    assert kinds_of(ALICE_MAY, ALICE_MAY_NOT) == CLIENT_KINDS
    assert kinds_of(CHANGES_OF_AUTH) == AUTH_CHANGES


@pytest.mark.parametrize("request_", [each[1] for each in ALICE_MAY], ids=[each[0] for each in ALICE_MAY])
def test_allowed_by_rights_au73(guarded: Machine, request_: Request) -> None:
    """It does what it would do without auth."""
    given = result(guarded, as_user("alice", request_))
    guarded.reset()
    guarded.auth.enabled = False
    guarded.applier._choose_handlers()
    assert given == result(guarded, request_)
    assert isinstance(given, tuple)


@pytest.mark.parametrize("request_", [each[1] for each in ALICE_MAY_NOT], ids=[each[0] for each in ALICE_MAY_NOT])
def test_denied_and_nothing_applied_au73_au74(guarded: Machine, request_: Request) -> None:
    before = guarded.content()
    assert result(guarded, as_user("alice", request_)) is PermissionDenied
    after = guarded.content()
    assert {name for name in after if after[name] != before[name]} == {"meta"}  # the index, and the hash
    assert guarded.auth.user_names() == ["admin", "alice", "bob", ROOT]
    assert guarded.members.get(MEMBER_ID) is not None
    assert guarded.alarms.active() == []


@pytest.mark.parametrize("user", [ROOT, "admin"])
@pytest.mark.parametrize(
    "request_",
    [each[1] for each in (*ALICE_MAY, *ALICE_MAY_NOT)],
    ids=[each[0] for each in (*ALICE_MAY, *ALICE_MAY_NOT)],
)
def test_administrators_may_all_of_it_au04_au75(guarded: Machine, user: str, request_: Request) -> None:
    given = result(guarded, as_user(user, request_))
    assert not (isinstance(given, type) and issubclass(given, AuthError))


NEED_NO_KEY = {"empty txn", "lease grant", "revoke of a lease without keys", "list of alarms"}


@pytest.mark.parametrize(("name", "request_"), ALICE_MAY, ids=[each[0] for each in ALICE_MAY])
def test_who_has_no_role_may_only_what_needs_none(guarded: Machine, name: str, request_: Request) -> None:
    allowed = isinstance(result(guarded, as_user("bob", request_)), tuple)
    assert allowed == (name in NEED_NO_KEY)


@pytest.mark.parametrize(
    ("name", "request_"), [*ALICE_MAY, *ALICE_MAY_NOT], ids=[each[0] for each in (*ALICE_MAY, *ALICE_MAY_NOT)]
)
def test_nobody_in_particular_is_told_so_au37_au48(guarded: Machine, name: str, request_: Request) -> None:
    given = result(guarded, as_user("", request_))
    if name == "empty txn":  # as with etcd: it touches no key
        assert isinstance(given, tuple)
    else:
        assert given is UserEmpty


def test_a_lease_that_is_not_there_is_found_by_the_request_itself(guarded: Machine) -> None:
    assert result(guarded, as_user("alice", put(b"w/1", lease=77))) is LeaseNotFound
    assert result(guarded, as_user("alice", revoke(77))) is LeaseNotFound
    assert result(guarded, as_user("alice", put(b"r/1", lease=77))) is PermissionDenied


# --- who it is --------------------------------------------------------------------------------------------------------


def test_an_identity_from_before_a_change_is_refused_au49(guarded: Machine) -> None:
    revision = guarded.auth.revision
    assert isinstance(result(guarded, as_user("alice", put(b"w/1"), revision)), tuple)
    guarded.apply(as_user(ROOT, add_role("unrelated")))
    writing_txn = txn_of(success=[put_op(b"w/1")])
    for request in (put(b"w/1"), put(b"other"), delete(b"w/1"), writing_txn, grant(9), revoke(1), revoke(3)):
        assert result(guarded, as_user("alice", request, revision)) is AuthOldRevision
    assert result(guarded, as_user(ROOT, put(b"w/1"), revision)) is AuthOldRevision
    assert isinstance(result(guarded, as_user("alice", put(b"w/1"), revision + 1)), tuple)


def test_a_right_taken_away_in_the_same_entry_is_gone_au49_au76(guarded: Machine) -> None:
    revision = guarded.auth.revision
    results = guarded.apply(
        as_user("alice", put(b"w/1", b"1"), revision),
        as_user(ROOT, revoke_role("alice", "alices"), revision),
        as_user("alice", put(b"w/1", b"2"), revision),
        as_user("alice", put(b"w/1", b"3"), revision + 1),
    )
    assert [outcome(each) for each in results[2:]] == [AuthOldRevision, PermissionDenied]
    assert guarded.read(b"w/1").kvs[0].value == b"1"


def test_who_is_no_user_au37_au51(guarded: Machine) -> None:
    assert result(guarded, as_user("nobody", put(b"w/1"))) is PermissionDenied
    assert result(guarded, as_user("nobody", grant(9))) is PermissionDenied
    assert result(guarded, as_user("nobody", add_role("new"))) is UserNotFound


def test_a_name_may_be_long(guarded: Machine) -> None:
    for request in (add_user(LONG), add_role(LONG), grant_role(LONG, LONG), allow(LONG, READ, b"l")):
        assert isinstance(result(guarded, as_user(ROOT, request)), tuple)
    compares = txn_of(compare=[compare(b"l")])
    assert isinstance(result(guarded, as_user(LONG, compares)), tuple)
    assert result(guarded, as_user(LONG + "x", compares)) is PermissionDenied


# --- requests in nobody's name ----------------------------------------------------------------------------------------

FOR_USERS_ONLY = [
    each for each in (*ALICE_MAY, *ALICE_MAY_NOT) if each[1][0] not in (Kind.COMPACT, Kind.ALARM, Kind.MEMBER_UPDATE)
]


@pytest.mark.parametrize("request_", [each[1] for each in FOR_USERS_ONLY], ids=[each[0] for each in FOR_USERS_ONLY])
def test_what_was_proposed_before_auth_was_on_is_refused(guarded: Machine, request_: Request) -> None:
    assert result(guarded, request_) is UserEmpty


def test_members_need_no_rights_au77(guarded: Machine) -> None:
    expiry = Kind.LEASE_EXPIRE, raw(peer_pb2.LeaseExpiry(ID=2, term=3))
    requests = [
        publish(MEMBER_ID, "one", "http://127.0.0.1:2379"),
        (Kind.CLUSTER_VERSION, b"3.6.0"),
        raise_alarm(NOSPACE),
        disarm(NOSPACE),
        compact(2),
        update_member(MEMBER_ID, "http://elsewhere:2380"),
        expiry,
    ]
    assert all(isinstance(each, tuple) for each in guarded.apply(*requests))
    assert guarded.read(b"other").count == 0


def test_with_auth_off_the_name_does_not_matter_au13(machine: Machine) -> None:
    for user, revision in (("", 0), ("nobody", 0), (LONG, EVER)):
        machine.apply(as_user(user, put(b"k", user[:5].encode()), revision))
        assert machine.read(b"k").kvs[0].value == user[:5].encode()
    assert isinstance(result(machine, as_user("nobody", add_user("alice"))), tuple)


def test_what_is_on_holds_for_the_next_request_of_the_same_entry_au10_au11(machine: Machine) -> None:
    machine.apply(add_user(ROOT), grant_role(ROOT, ROOT))
    results = machine.apply(put(b"k"), enable(), put(b"k"), as_user(ROOT, disable()), put(b"k"))
    assert [isinstance(each, tuple) for each in results] == [True, True, False, True, True]
    assert outcome(results[2]) is UserEmpty


def test_once_on_it_takes_root_to_enable_again_au10(guarded: Machine) -> None:
    assert result(guarded, enable()) is UserEmpty
    assert result(guarded, as_user("alice", enable())) is PermissionDenied
    revision = guarded.auth.revision
    assert isinstance(result(guarded, as_user(ROOT, enable())), tuple)
    assert guarded.auth.revision == revision


# --- alarms -----------------------------------------------------------------------------------------------------------


def test_alarms_come_before_rights(guarded: Machine) -> None:
    guarded.apply(raise_alarm(NOSPACE))
    assert result(guarded, as_user("alice", put(b"other"))) is NoSpaceAlarm
    assert result(guarded, as_user("alice", put(b"w/1"))) is NoSpaceAlarm
    assert result(guarded, as_user("alice", txn_of(success=[put_op(b"w/1")]))) is NoSpaceAlarm
    assert result(guarded, put(b"w/1")) is NoSpaceAlarm
    assert result(guarded, as_user("alice", delete(b"other"))) is PermissionDenied
    assert result(guarded, delete(b"other")) is UserEmpty
    guarded.apply(raise_alarm(CORRUPT))
    assert result(guarded, as_user("alice", delete(b"other"))) is CorruptAlarm
    assert result(guarded, as_user("alice", delete(b"w/1"))) is CorruptAlarm
    assert result(guarded, compact(1)) is CorruptAlarm
    for request in (add_user("new"), grant_role("new", "alices"), disable()):
        assert isinstance(result(guarded, as_user(ROOT, request)), tuple)
    assert result(guarded, put(b"w/1")) is CorruptAlarm
    assert result(guarded, as_user("", put(b"w/1"))) is CorruptAlarm


# --- requests about users and rights ----------------------------------------------------------------------------------


def test_changes_of_auth_use_no_revision_and_have_no_body_au06(machine: Machine) -> None:
    machine.apply(put(b"k"))
    turn_on(machine)
    requests = [change_password("bob"), forbid("alices", b"r/", b"r0"), delete_role("alices"), delete_user("bob")]
    results = machine.apply(*(as_user(ROOT, each) for each in requests), as_user(ROOT, disable()), delete(b"none"))
    assert results == [(2, b"")] * 6


@pytest.mark.parametrize(
    ("hashed", "stored"), [("", b""), ("aGFzaA==", b"hash"), ("aGFz", b"has"), ("++//", b"\xfb\xef\xff")]
)
def test_a_hash_is_given_in_base64_au20_au22(machine: Machine, hashed: str, stored: bytes) -> None:
    machine.apply(add_user("alice", hashed=hashed), add_user("bob"), change_password("bob", hashed))
    users = [machine.auth.user(name) for name in ("alice", "bob")]
    assert [user.password for user in users if user is not None] == [stored, stored]


@pytest.mark.parametrize("hashed", ["a", "aGFzaA", "aGFz=", "aGFz====", "=aGF", "aG z", "aGFzaA==aGFz", "äGFz", "-_-_"])
def test_what_is_no_base64_is_refused(machine: Machine, hashed: str) -> None:
    assert result(machine, add_user("alice", hashed=hashed)) is PasswordlessUser
    assert result(machine, add_user("", hashed=hashed)) is UserEmpty
    assert result(machine, change_password("alice", hashed)) is UserNotFound
    machine.apply(add_user("alice"), add_user("cert", hashed=hashed, no_password=True))
    revision = machine.auth.revision
    assert result(machine, add_user("alice", hashed=hashed)) is UserExists
    assert result(machine, change_password("alice", hashed)) is PasswordlessUser
    assert machine.auth.revision == revision
    user, cert = machine.auth.user("alice"), machine.auth.user("cert")
    assert user is not None
    assert cert is not None
    assert (user.password, cert.password) == (HASH, b"")
    assert isinstance(result(machine, change_password("cert", hashed)), tuple)


def test_a_grant_of_nothing_au32(machine: Machine) -> None:
    request = Kind.ROLE_GRANT_PERMISSION, raw(rpc_pb2.AuthRoleGrantPermissionRequest(name="r"))
    assert result(machine, request) is PermissionNotGiven
    assert result(machine, allow("r", READ, b"a")) is RoleNotFound
    assert result(machine, allow("r", READ, b"")) is InvalidAuthManagement


def test_a_login_gives_the_same_token_on_every_member_au43(guarded: Machine) -> None:
    index = guarded.applier.index + 1
    revision, body = result(guarded, authenticate("alice", guarded.auth.revision, "Nonce"))
    response = rpc_pb2.AuthenticateResponse.FromString(body)
    assert (response.token, response.HasField("header")) == (f"Nonce.{index}", False)
    assert revision == guarded.store.current_revision
    assert guarded.auth.tokens.resolve(f"Nonce.{index}", 0.0) == "alice"


def test_a_login_without_a_nonce_only_confirms(guarded: Machine) -> None:
    assert result(guarded, authenticate("alice", guarded.auth.revision, "")) == (guarded.store.current_revision, b"")
    assert len(guarded.auth.tokens) == 0


def test_logins_refused_au40_au41(machine: Machine) -> None:
    assert result(machine, authenticate("alice", 1)) is AuthNotEnabled
    turn_on(machine)
    revision = machine.auth.revision
    assert result(machine, authenticate("nobody", revision)) is AuthFailed
    assert result(machine, authenticate("alice", revision - 1)) is AuthOldRevision
    assert len(machine.auth.tokens) == 0


# --- what no raftkv proposes ------------------------------------------------------------------------------------------

_NOT_A_USERS = sorted(set(Kind) - CLIENT_KINDS)
_GOOD = as_user("alice", put(b"w/1"))[1]


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize(
    "message",
    [
        b"",
        _GOOD[:12],
        _GOOD[:15],
        _GOOD.replace(b"alice", b"al\xffce"),
        _GOOD[:8] + b"\xc8" + _GOOD[9:],
        *(_GOOD[:8] + bytes([kind]) + _GOOD[9:] for kind in _NOT_A_USERS),
    ],
)
def test_a_malformed_name_stops_the_member(machine: Machine, message: bytes, on: bool) -> None:
    if on:
        turn_on(machine)
    with pytest.raises(MalformedEntry):
        machine.apply((Kind.AS_USER, message))


@pytest.mark.parametrize("kind", _NOT_A_USERS)
def test_nothing_else_can_be_asked_in_a_name(kind: int) -> None:
    with pytest.raises(AssertionError):
        as_user("alice", (kind, b""))


# --- restart, snapshot ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [Machine.die, Machine.reset])
def test_all_of_it_is_there_after_a_restart_au02(guarded: Machine, again: Callable[[Machine], None]) -> None:
    revision = guarded.auth.revision
    again(guarded)
    assert (guarded.auth.enabled, guarded.auth.revision) == (True, revision)
    assert result(guarded, put(b"w/1")) is UserEmpty
    assert isinstance(result(guarded, as_user("alice", put(b"w/1"))), tuple)
    assert result(guarded, as_user("alice", put(b"r/1"))) is PermissionDenied


def test_a_snapshot_brings_users_and_rights_au02(guarded: Machine) -> None:
    other = Machine()
    try:
        other.apply(add_user("bob"), add_user("carol"))
        other.install_copy_of(guarded)
        assert other.auth.user_names() == ["admin", "alice", "bob", ROOT]
        assert result(other, put(b"w/1")) is UserEmpty
        assert isinstance(result(other, as_user("alice", put(b"w/1"))), tuple)
        assert result(other, as_user("alice", put(b"r/1"))) is PermissionDenied
    finally:
        other.close()


def test_a_big_role_makes_room_before_it_is_written(machine: Machine) -> None:
    """A small request writes the whole of it anew."""
    machine.apply(add_role("r"), allow("r", READ, b"k" * 400_000))
    room = machine.backend._room
    before = room._open_pages
    machine.apply(allow("r", READ, b"small"))
    assert (room._open_pages - before) * 4096 > 2 * 400_000


def test_with_auth_off_members_agree_whoever_it_was_au13() -> None:
    """The state hash is of what was done."""
    one, other = Machine(), Machine()
    try:
        one.apply(as_user("alice", put(b"k")))
        other.apply(as_user("carol", put(b"k")))
        assert one.content() == other.content()
        assert one.applier.state_hash == other.applier.state_hash
    finally:
        one.close()
        other.close()
