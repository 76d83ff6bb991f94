"""Requests that change who may do what: from the client's message to the auth room (contract 7.2 to 7.4).

Owns what the fields of the requests mean. None of the responses has a body.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from raftkv.apply.batch import Kind
from raftkv.auth import AuthStore, PasswordlessUser, PermissionNotGiven
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.backend import WriteTxn

AuthChange: TypeAlias = "Callable[[AuthStore, WriteTxn, bytes], None]"
"""Raises AuthError, and then nothing has changed."""


def _enable(auth: AuthStore, txn: WriteTxn, _message: bytes) -> None:
    auth.enable(txn)


def _disable(auth: AuthStore, txn: WriteTxn, _message: bytes) -> None:
    auth.disable(txn)


def _add_user(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    request = rpc_pb2.AuthUserAddRequest.FromString(message)
    no_password = request.options.no_password
    # A name that is refused is refused whatever its password is.
    password = b"" if no_password or not request.name or auth.user(request.name) else _hash(request.hashedPassword)
    auth.user_add(txn, request.name, password, no_password)


def _delete_user(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    auth.user_delete(txn, rpc_pb2.AuthUserDeleteRequest.FromString(message).name)


def _change_password(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    request = rpc_pb2.AuthUserChangePasswordRequest.FromString(message)
    user = auth.user(request.name)
    password = b"" if user is None or user.options.no_password else _hash(request.hashedPassword)
    auth.user_change_password(txn, request.name, password)


def _grant_role(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    request = rpc_pb2.AuthUserGrantRoleRequest.FromString(message)
    auth.user_grant_role(txn, request.user, request.role)


def _revoke_role(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    request = rpc_pb2.AuthUserRevokeRoleRequest.FromString(message)
    auth.user_revoke_role(txn, request.name, request.role)


def _add_role(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    auth.role_add(txn, rpc_pb2.AuthRoleAddRequest.FromString(message).name)


def _delete_role(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    auth.role_delete(txn, rpc_pb2.AuthRoleDeleteRequest.FromString(message).role)


def _grant_permission(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    request = rpc_pb2.AuthRoleGrantPermissionRequest.FromString(message)
    if not request.HasField("perm"):
        raise PermissionNotGiven
    auth.role_grant_permission(txn, request.name, request.perm)


def _revoke_permission(auth: AuthStore, txn: WriteTxn, message: bytes) -> None:
    request = rpc_pb2.AuthRoleRevokePermissionRequest.FromString(message)
    auth.role_revoke_permission(txn, request.role, request.key, request.range_end)


CHANGES: Final[dict[int, AuthChange]] = {
    Kind.AUTH_ENABLE: _enable,
    Kind.AUTH_DISABLE: _disable,
    Kind.USER_ADD: _add_user,
    Kind.USER_DELETE: _delete_user,
    Kind.USER_CHANGE_PASSWORD: _change_password,
    Kind.USER_GRANT_ROLE: _grant_role,
    Kind.USER_REVOKE_ROLE: _revoke_role,
    Kind.ROLE_ADD: _add_role,
    Kind.ROLE_DELETE: _delete_role,
    Kind.ROLE_GRANT_PERMISSION: _grant_permission,
    Kind.ROLE_REVOKE_PERMISSION: _revoke_permission,
}


_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
"""Said here, because Python's versions differ in what they let pass, and members must not."""


def _hash(encoded: str) -> bytes:
    """Of a client's making (AU-20). What is no base64 is refused with the words that etcd has for it."""
    if not _BASE64.fullmatch(encoded):
        raise PasswordlessUser
    return b64decode(encoded)
