"""Requests about users and rights, and requests in somebody's name, as the log has them."""

from __future__ import annotations

from base64 import b64encode

from apply_support import Machine, Request, raw

from raftkv.apply import Kind, encode_as_user
from raftkv.auth import ROOT, Identity
from raftkv.pb import auth_pb2, peer_pb2, rpc_pb2

READ, WRITE, READWRITE = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE
EVER = 1 << 60
"""An authRevision that does not get old."""
HASH = b"$2b$04$hash"


def as_user(user: str, request: Request, revision: int = EVER) -> Request:
    return Kind.AS_USER, encode_as_user(Identity(user, revision), *request)


def enable() -> Request:
    return Kind.AUTH_ENABLE, raw(rpc_pb2.AuthEnableRequest())


def disable() -> Request:
    return Kind.AUTH_DISABLE, raw(rpc_pb2.AuthDisableRequest())


def authenticate(name: str, revision: int, nonce: str = "nonce") -> Request:
    return Kind.AUTHENTICATE, raw(peer_pb2.Authentication(name=name, auth_revision=revision, nonce=nonce))


def add_user(name: str, *, hashed: str = b64encode(HASH).decode(), no_password: bool = False) -> Request:
    options = auth_pb2.UserAddOptions(no_password=no_password)
    return Kind.USER_ADD, raw(rpc_pb2.AuthUserAddRequest(name=name, hashedPassword=hashed, options=options))


def delete_user(name: str) -> Request:
    return Kind.USER_DELETE, raw(rpc_pb2.AuthUserDeleteRequest(name=name))


def change_password(name: str, hashed: str = b64encode(HASH).decode()) -> Request:
    return Kind.USER_CHANGE_PASSWORD, raw(rpc_pb2.AuthUserChangePasswordRequest(name=name, hashedPassword=hashed))


def grant_role(user: str, role: str) -> Request:
    return Kind.USER_GRANT_ROLE, raw(rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role))


def revoke_role(user: str, role: str) -> Request:
    return Kind.USER_REVOKE_ROLE, raw(rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role))


def add_role(name: str) -> Request:
    return Kind.ROLE_ADD, raw(rpc_pb2.AuthRoleAddRequest(name=name))


def delete_role(name: str) -> Request:
    return Kind.ROLE_DELETE, raw(rpc_pb2.AuthRoleDeleteRequest(role=name))


def allow(role: str, kind: auth_pb2.Permission.Type.ValueType, key: bytes, range_end: bytes = b"") -> Request:
    perm = auth_pb2.Permission(permType=kind, key=key, range_end=range_end)
    return Kind.ROLE_GRANT_PERMISSION, raw(rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=perm))


def forbid(role: str, key: bytes, range_end: bytes = b"") -> Request:
    request = rpc_pb2.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=range_end)
    return Kind.ROLE_REVOKE_PERMISSION, raw(request)


def turn_on(machine: Machine) -> None:
    """Users: root; another administrator, admin; alice, who may read r/ and write w/ and do both in x/; and bob, who
    may nothing."""
    requests = [
        add_user(ROOT),
        grant_role(ROOT, ROOT),
        add_user("admin"),
        grant_role("admin", ROOT),
        add_role("alices"),
        allow("alices", READ, b"r/", b"r0"),
        allow("alices", WRITE, b"w/", b"w0"),
        allow("alices", READWRITE, b"x/", b"x0"),
        add_user("alice"),
        grant_role("alice", "alices"),
        add_user("bob"),
        enable(),
    ]
    results = machine.apply(*requests)
    assert not [each for each in results if isinstance(each, Exception)]
