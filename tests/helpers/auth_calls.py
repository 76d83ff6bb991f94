"""The Auth service for the black-box tests, and calls that say who makes them.

Owns requests and metadata. Knows no rule: what an answer must be is written in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from helpers.grpc_calls import Calls
from raftkv.pb import auth_pb2, rpc_pb2

TIMEOUT_S: Final = 20.0


class ChannelSaying:
    """A channel whose every call says this as well."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def __getattr__(self, arity: str) -> Callable[..., Any]:
        def make(*arguments: Any, **options: Any) -> Callable[..., Any]:
            call = getattr(self._channel, arity)(*arguments, **options)

            def send(request: Any, timeout: float | None = None, metadata: Any = ()) -> Any:
                return call(request, timeout=timeout, metadata=(*metadata, *self._metadata))

            return send

        return make


class AuthCalls:
    """The Auth service, one method a call."""

    def __init__(self, calls: Calls) -> None:
        self._auth = calls.Auth

    def _ask(self, method: str, request: Any) -> Any:
        return getattr(self._auth, method)(request, timeout=TIMEOUT_S)

    def enable(self) -> Any:
        return self._ask("AuthEnable", rpc_pb2.AuthEnableRequest())

    def disable(self) -> Any:
        return self._ask("AuthDisable", rpc_pb2.AuthDisableRequest())

    def status(self) -> Any:
        return self._ask("AuthStatus", rpc_pb2.AuthStatusRequest())

    def revision(self) -> int:
        """The authRevision."""
        return int(self.status().authRevision)

    def token(self, name: str, password: str) -> str:
        return str(self._ask("Authenticate", rpc_pb2.AuthenticateRequest(name=name, password=password)).token)

    def add_user(self, name: str, password: str = "", **fields: Any) -> Any:
        return self._ask("UserAdd", rpc_pb2.AuthUserAddRequest(name=name, password=password, **fields))

    def user(self, name: str) -> Any:
        return self._ask("UserGet", rpc_pb2.AuthUserGetRequest(name=name))

    def users(self) -> list[str]:
        return list(self._ask("UserList", rpc_pb2.AuthUserListRequest()).users)

    def delete_user(self, name: str) -> Any:
        return self._ask("UserDelete", rpc_pb2.AuthUserDeleteRequest(name=name))

    def change_password(self, name: str, password: str = "", **fields: Any) -> Any:
        request = rpc_pb2.AuthUserChangePasswordRequest(name=name, password=password, **fields)
        return self._ask("UserChangePassword", request)

    def grant_role(self, user: str, role: str) -> Any:
        return self._ask("UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role))

    def revoke_role(self, user: str, role: str) -> Any:
        return self._ask("UserRevokeRole", rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role))

    def add_role(self, name: str) -> Any:
        return self._ask("RoleAdd", rpc_pb2.AuthRoleAddRequest(name=name))

    def permissions(self, role: str) -> list[tuple[int, bytes, bytes]]:
        answer = self._ask("RoleGet", rpc_pb2.AuthRoleGetRequest(role=role))
        return [(each.permType, each.key, each.range_end) for each in answer.perm]

    def roles(self) -> list[str]:
        return list(self._ask("RoleList", rpc_pb2.AuthRoleListRequest()).roles)

    def delete_role(self, name: str) -> Any:
        return self._ask("RoleDelete", rpc_pb2.AuthRoleDeleteRequest(role=name))

    def permit(self, role: str, kind: Any, key: bytes, range_end: bytes = b"") -> Any:
        permission = auth_pb2.Permission(permType=kind, key=key, range_end=range_end)
        return self._ask("RoleGrantPermission", rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=permission))

    def forbid(self, role: str, key: bytes, range_end: bytes = b"") -> Any:
        request = rpc_pb2.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=range_end)
        return self._ask("RoleRevokePermission", request)
