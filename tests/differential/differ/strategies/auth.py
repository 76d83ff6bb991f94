"""Users, roles, permissions, tokens, and sessions in which everything else is done by somebody (contract section 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from hypothesis import strategies as st

from differ.ops import Call, KeepAlive, Op, Snapshot, WatchOpen
from differ.strategies import common
from differ.strategies.common import Draw, chance

ROOT: Final = "root"
ROOT_PASSWORD: Final = "rootpw"
PASSWORDS: Final = {"alice": "alicepw", "bob": "bobpw", "carol": ""}

# bcrypt of "alicepw", cost 4, in the base64 of AU-20.
_HASHED: Final = "JDJiJDA0JFFEQlROS09hQjByR2R3UmFFWjJMTGVvVEM3dVJYYndTRFZiR1BiRjk3dGdKVGxpUzJheW4u"

_names = st.sampled_from(("alice", "alice", "bob", "bob", "carol", "ghost", ""))
_roles = st.sampled_from(("readers", "readers", "writers", "writers", "ghosts", ""))
_granted_roles = st.sampled_from(("readers", "readers", "writers", "writers", "ghosts", "root"))
_types = st.sampled_from((0, 1, 2, 2, 0, 1, 2, 3))
_actors = st.sampled_from((ROOT,) * 6 + ("alice",) * 5 + ("bob",) * 3 + ("carol", "ghost", ""))
_managers = st.sampled_from((ROOT,) * 8 + ("alice", "bob", ""))


def _user_add(draw: Draw[Any]) -> Op:
    name = draw(_names)
    fields: dict[str, Any] = {"name": name, "password": PASSWORDS.get(name, "pw")}
    if chance(draw, 8):
        fields["options"] = {"no_password": True}
    elif chance(draw, 8):
        fields = {"name": name, "hashedPassword": _HASHED}
    return Call("Auth.UserAdd", fields)


def _change_password(draw: Draw[Any]) -> Op:
    name = draw(_names)
    password = PASSWORDS.get(name, "pw") if not chance(draw, 3) else draw(st.sampled_from(("other", "")))
    return Call("Auth.UserChangePassword", {"name": name, "password": password})


def _permission(draw: Draw[Any]) -> dict[str, Any]:
    return common.interval(draw) | {"permType": draw(_types)}


def _grant_permission(draw: Draw[Any]) -> Op:
    fields: dict[str, Any] = {"name": draw(_roles)}
    if not chance(draw, 20):
        fields["perm"] = _permission(draw)
    return Call("Auth.RoleGrantPermission", fields)


def _revoke_permission(draw: Draw[Any]) -> Op:
    return Call("Auth.RoleRevokePermission", {"role": draw(_roles), **common.interval(draw)})


_MANAGEMENT: Final = (
    _user_add,
    _user_add,
    lambda draw: Call("Auth.UserDelete", {"name": draw(_names)}),
    _change_password,
    lambda draw: Call("Auth.UserGet", {"name": draw(_names)}),
    lambda _draw: Call("Auth.UserList"),
    lambda draw: Call("Auth.UserGrantRole", {"user": draw(_names), "role": draw(_granted_roles)}),
    lambda draw: Call("Auth.UserGrantRole", {"user": draw(_names), "role": draw(_granted_roles)}),
    lambda draw: Call("Auth.UserRevokeRole", {"name": draw(_names), "role": draw(_granted_roles)}),
    lambda draw: Call("Auth.RoleAdd", {"name": draw(_roles)}),
    lambda draw: Call("Auth.RoleAdd", {"name": draw(_roles)}),
    lambda draw: Call("Auth.RoleDelete", {"role": draw(_granted_roles)}),
    lambda draw: Call("Auth.RoleGet", {"role": draw(_granted_roles)}),
    lambda _draw: Call("Auth.RoleList"),
    _grant_permission,
    _grant_permission,
    _grant_permission,
    _revoke_permission,
    lambda _draw: Call("Auth.AuthStatus"),
    # What root is, and what ends its being so.
    lambda _draw: Call("Auth.UserRevokeRole", {"name": ROOT, "role": ROOT}),
    lambda _draw: Call("Auth.UserDelete", {"name": ROOT}),
    lambda _draw: Call("Auth.UserGrantRole", {"user": ROOT, "role": "readers"}),
    lambda _draw: Call("Auth.RoleAdd", {"name": ROOT}),
    lambda _draw: Call("Auth.UserGet", {"name": ROOT}),
)
_management = st.sampled_from(_MANAGEMENT)


def manage_op(draw: Draw[Any]) -> list[Op]:
    op = draw(_management)(draw)
    return [replace(op, user=draw(_managers), member=common.member(draw))]


def login_op(draw: Draw[Any]) -> list[Op]:
    name = draw(_names)
    password = PASSWORDS.get(name, "pw") if not chance(draw, 6) else "wrong"
    return [Call("Auth.Authenticate", {"name": name, "password": password}, common.member(draw))]


def enable_op(draw: Draw[Any]) -> list[Op]:
    """Usually all that it takes; then two who may do something and are logged in."""
    ops: list[Op] = []
    if not chance(draw, 8):
        ops.append(Call("Auth.UserAdd", {"name": ROOT, "password": ROOT_PASSWORD}))
    if not chance(draw, 8):
        ops.append(Call("Auth.UserGrantRole", {"user": ROOT, "role": ROOT}))
    for name, role in (("alice", "readers"), ("bob", "writers")):
        ops += [Call("Auth.RoleAdd", {"name": role}), Call("Auth.UserAdd", {"name": name, "password": PASSWORDS[name]})]
        ops.append(Call("Auth.UserGrantRole", {"user": name, "role": role}))
        ops += [Call("Auth.RoleGrantPermission", {"name": role, "perm": _permission(draw)}) for _ in range(2)]
    ops.append(Call("Auth.AuthEnable", {}, common.member(draw)))
    ops.append(Call("Auth.Authenticate", {"name": ROOT, "password": ROOT_PASSWORD}))
    ops += [Call("Auth.Authenticate", {"name": name, "password": PASSWORDS[name]}) for name in ("alice", "bob")]
    return ops


def disable_op(draw: Draw[Any]) -> list[Op]:
    return [Call("Auth.AuthDisable", {}, common.member(draw), user=draw(_managers))]


def by_somebody(draw: Draw[Any], op: Op) -> Op:
    """The operation as one of the users would try it."""
    if isinstance(op, Call | WatchOpen | KeepAlive | Snapshot) and not op.user:
        return replace(op, user=draw(_actors))
    return op
