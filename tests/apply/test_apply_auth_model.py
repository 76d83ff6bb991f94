"""Random logs of changes to users and rights, and of requests in their names: against a model of the rules that knows
every key there is, and on two members that see the log cut differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from apply_support import Machine, Request, delete, entry, outcome, plain, put, txn
from auth_requests import (
    EVER,
    READ,
    READWRITE,
    WRITE,
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
)
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.auth import (
    ROOT,
    AuthError,
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    InvalidAuthManagement,
    PermissionDenied,
    PermissionNotGranted,
    RoleExists,
    RoleNotFound,
    RoleNotGranted,
    RootRoleNotExist,
    RootUserNotExist,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry

KEYS = [b"a", b"b", b"c", b"d"]
BEYOND = b"e"
"""Stands for all keys after them."""
NAMES = [ROOT, "u", "v"]


class Model:
    """The rules, as slow and as plain as can be."""

    def __init__(self) -> None:
        self.on = False
        self.revision = 1
        self.users: dict[str, set[str]] = {}
        self.roles: dict[str, dict[tuple[bytes, bytes], int]] = {}

    def holds(self, user: str, types: tuple[int, ...]) -> set[bytes]:
        grants = [grant for role in self.users[user] for grant in self.roles.get(role, {}).items()]
        return {key for interval, kind in grants if kind in types for key in keys_in(*interval)}

    def may(self, user: str, types: tuple[int, ...], key: bytes, range_end: bytes) -> bool:
        return ROOT in self.users[user] or keys_in(key, range_end) <= self.holds(user, types)

    def changed(self) -> None:
        self.revision += 1


def keys_in(key: bytes, range_end: bytes) -> set[bytes]:
    if not range_end:
        return {key}
    return {each for each in [*KEYS, BEYOND] if each >= key and (range_end == b"\x00" or each < range_end)}


class Step(NamedTuple):
    """A request, and what the model does with it: None for done, or the refusal."""

    request: Request
    run: Callable[[Model], type[AuthError] | None]


# --- changes ----------------------------------------------------------------------------------------------------------


def _enable(model: Model) -> type[AuthError] | None:
    if not model.on and ROOT not in model.users:
        return RootUserNotExist
    if not model.on and ROOT not in model.users[ROOT]:
        return RootRoleNotExist
    model.on = True
    return None


def _disable(model: Model) -> None:
    if model.on:
        model.on = False
        model.changed()


def _add_user(name: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if name in model.users:
            return UserExists
        model.users[name] = set()
        return model.changed()

    return Step(add_user(name), run)


def _delete_user(name: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if model.on and name == ROOT:
            return InvalidAuthManagement
        if model.users.pop(name, None) is None:
            return UserNotFound
        return model.changed()

    return Step(delete_user(name), run)


def _change_password(name: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        return model.changed() if name in model.users else UserNotFound

    return Step(change_password(name), run)


def _grant_role(user: str, role: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if user not in model.users:
            return UserNotFound
        if role != ROOT and role not in model.roles:
            return RoleNotFound
        if role in model.users[user]:
            return None
        model.users[user].add(role)
        return model.changed()

    return Step(grant_role(user, role), run)


def _revoke_role(user: str, role: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if model.on and user == role == ROOT:
            return InvalidAuthManagement
        if user not in model.users:
            return UserNotFound
        if role not in model.users[user]:
            return RoleNotGranted
        model.users[user].remove(role)
        return model.changed()

    return Step(revoke_role(user, role), run)


def _add_role(role: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if role in model.roles:
            return RoleExists
        model.roles[role] = {}
        return model.changed()

    return Step(add_role(role), run)


def _delete_role(role: str) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if model.on and role == ROOT:
            return InvalidAuthManagement
        if model.roles.pop(role, None) is None:
            return RoleNotFound
        for roles in model.users.values():
            roles.discard(role)
        return model.changed()

    return Step(delete_role(role), run)


def _allow(role: str, kind: int, key: bytes, range_end: bytes) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if not keys_in(key, range_end):
            return InvalidAuthManagement
        if role not in model.roles:
            return RoleNotFound
        model.roles[role][key, range_end] = kind
        return model.changed()

    return Step(allow(role, kind, key, range_end), run)  # type: ignore[arg-type]


def _forbid(role: str, key: bytes, range_end: bytes) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if role not in model.roles:
            return RoleNotFound
        if model.roles[role].pop((key, range_end), None) is None:
            return PermissionNotGranted
        return model.changed()

    return Step(forbid(role, key, range_end), run)


# --- requests in a name -----------------------------------------------------------------------------------------------

Need: TypeAlias = "tuple[tuple[int, ...], bytes, bytes]"
"""(types that give the right, key, range_end)."""
READS, WRITES = (READ, READWRITE), (WRITE, READWRITE)


def _unnamed(step: Step) -> Step:
    return Step(step.request, lambda model: UserEmpty if model.on else step.run(model))


def _by(user: str, step: Step) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if not model.on:
            return step.run(model)
        if not user:
            return UserEmpty
        if user not in model.users:
            return UserNotFound
        return step.run(model) if ROOT in model.users[user] else PermissionDenied

    return Step(as_user(user, step.request, 0), run)


def _keyed(user: str, revision: int, asked: tuple[Request, list[Need]]) -> Step:
    request, needs = asked

    def run(model: Model) -> type[AuthError] | None:
        if not model.on:
            return None
        if not user:
            return UserEmpty
        if revision < model.revision:
            return AuthOldRevision
        if user not in model.users or not all(model.may(user, *need) for need in needs):
            return PermissionDenied
        return None

    return Step(as_user(user, request, revision), run)


def _authenticate(user: str, revision: int) -> Step:
    def run(model: Model) -> type[AuthError] | None:
        if not model.on:
            return AuthNotEnabled
        if revision != model.revision:
            return AuthOldRevision
        return None if user in model.users else AuthFailed

    return Step(authenticate(user, revision), run)


def _put(key: bytes, prev_kv: bool) -> tuple[Request, list[Need]]:
    needs: list[Need] = [(WRITES, key, b"")]
    return put(key, prev_kv=prev_kv), needs + [(READS, key, b"")] * prev_kv


def _delete(key: bytes, range_end: bytes, prev_kv: bool) -> tuple[Request, list[Need]]:
    needs: list[Need] = [(WRITES, key, range_end)]
    return delete(key, range_end, prev_kv=prev_kv), needs + [(READS, key, range_end)] * prev_kv


def _txn(compared: tuple[bytes, bytes], read: tuple[bytes, bytes], written: bytes) -> tuple[Request, list[Need]]:
    """The put stands in the branch that an empty store does not take, nested."""
    exists = rpc_pb2.Compare(
        key=compared[0], range_end=compared[1], target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.GREATER
    )
    put_op = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=written))
    range_op = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=read[0], range_end=read[1]))
    nested = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=[put_op]))
    request = rpc_pb2.TxnRequest(compare=[exists], success=[nested], failure=[range_op])
    return txn(request), [(READS, *compared), (READS, *read), (WRITES, written, b"")]


keys = st.sampled_from(KEYS)
intervals = st.tuples(keys, st.sampled_from([b"", b"", b"\x00", *KEYS]))
asked_intervals = intervals.filter(lambda each: bool(keys_in(*each)))
users, roles = st.sampled_from(NAMES), st.sampled_from([ROOT, "r", "s"])
callers = st.sampled_from([*NAMES, ""])
revisions = st.one_of(st.just(EVER), st.integers(0, 25))

changes = st.one_of(
    st.just(Step(enable(), _enable)),
    st.just(Step(disable(), _disable)),
    st.builds(_add_user, users),
    st.builds(_delete_user, users),
    st.builds(_change_password, users),
    st.builds(_grant_role, users, roles),
    st.builds(_revoke_role, users, roles),
    st.builds(_add_role, roles),
    st.builds(_delete_role, roles),
    st.builds(lambda role, kind, each: _allow(role, kind, *each), roles, st.sampled_from([0, 1, 2]), intervals),
    st.builds(lambda role, each: _forbid(role, *each), roles, intervals),
)
asked = st.one_of(
    st.builds(_put, keys, st.booleans()),
    st.builds(lambda each, prev_kv: _delete(*each, prev_kv), asked_intervals, st.booleans()),
    st.builds(_txn, asked_intervals, asked_intervals, keys),
)
steps = st.one_of(
    st.builds(_unnamed, changes),
    st.builds(_by, callers, changes),
    st.builds(_by, st.just(ROOT), changes),
    st.builds(_keyed, callers, revisions, asked),
    st.builds(_authenticate, users, revisions),
)
BEGINNING = [_add_user(ROOT), _grant_role(ROOT, ROOT), *(_add_user(each) for each in ("u", "v"))]
BEGINNING += [step for role in ("r", "s") for step in (_add_role(role), _grant_role("u", role))]
"""Without it, few logs would get anywhere."""
logs = st.lists(st.lists(steps, min_size=1, max_size=6), max_size=8).map(
    lambda entries: [BEGINNING, [Step(enable(), _enable)], *entries]
)


def to_entries(log: Sequence[Sequence[Step]]) -> list[Entry]:
    return [entry(at, [step.request for step in steps]) for at, steps in enumerate(log, start=1)]


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    made = [Machine() for _ in range(count)]
    yield made
    for each in made:
        each.close()


def state(machine: Machine) -> tuple[bool, int, dict[str, set[str]], dict[str, dict[tuple[bytes, bytes], int]]]:
    auth = machine.auth
    users = {name: auth.user(name) for name in auth.user_names()}
    permissions = {name: auth._roles[name].keyPermission for name in auth.role_names()}
    return (
        auth.enabled,
        auth.revision,
        {name: set(user.roles) for name, user in users.items() if user is not None},
        {name: {(each.key, each.range_end): each.permType for each in held} for name, held in permissions.items()},
    )


@settings(max_examples=150, deadline=None)
@given(logs)
def test_every_verdict_is_that_of_the_rules(log: list[list[Step]]) -> None:
    """AU-03, AU-10 to AU-35, AU-37, AU-40, AU-41, AU-49, AU-51, AU-70 to AU-76; in memory and after a restart."""
    model = Model()
    with machines(1) as (machine,):
        for steps, one in zip(log, to_entries(log), strict=True):
            results = machine.applier.apply([one])[0][0].results
            verdicts = [outcome(each) if isinstance(each, Exception) else None for each in results]
            assert verdicts == [step.run(model) for step in steps]
        expected = (model.on, model.revision, model.users, model.roles)
        assert state(machine) == expected
        machine.backend.commit()
        machine.die()
        assert state(machine) == expected


@settings(max_examples=40, deadline=None)
@given(log=logs, commits=st.sets(st.integers(1, 10)), died_after=st.integers(0, 10), data=st.data())
def test_neither_batches_nor_deaths_show(
    log: list[list[Step]], commits: set[int], died_after: int, data: st.DataObject
) -> None:
    """RF-50, RF-52: results, tables and the state hash."""
    entries = to_entries(log)
    with machines(2) as (steady, mortal):
        expected, _ = steady.applier.apply(entries)
        for each in entries[:died_after]:
            mortal.applier.apply([each])
            if each.index in commits:
                mortal.backend.commit()
        mortal.die()
        survived = mortal.applier.index
        replayed, _ = mortal.applier.apply(entries[data.draw(st.integers(0, survived)) :])
        assert plain(replayed) == plain(expected[survived:])
        assert steady.content() == mortal.content()
        assert steady.applier.state_hash == mortal.applier.state_hash
        assert state(steady) == state(mortal)
