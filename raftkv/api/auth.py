"""etcdserverpb.Auth: users, roles, logging in (contract section 7).

Changes go through the log and are checked when they are applied (AU-36, AU-37); questions are answered from this
member's store once it is known to be the newest. Passwords are hashed before anything is proposed, so that neither the
log nor another member ever sees one (AU-20).
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raftkv.api.errors import refuse, status_of
from raftkv.apply import Kind
from raftkv.auth import AuthError, Identity, RoleNotFound, UserNotFound
from raftkv.pb import rpc_pb2
from raftkv.rpc.service import Service
from raftkv.server.errors import NodeError

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call, UnaryHandler


class Auth:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._node = context.node
        self._auth = context.node.auth

    def service(self) -> Service:
        change, ask = self._change, self._ask
        return (
            Service("etcdserverpb.Auth")
            .unary("Authenticate", self.authenticate)
            .unary("AuthEnable", change(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest))
            .unary("AuthDisable", change(Kind.AUTH_DISABLE, rpc_pb2.AuthDisableRequest))
            .unary("AuthStatus", ask(rpc_pb2.AuthStatusRequest, self._status))
            .unary("UserAdd", self.user_add)
            .unary("UserGet", ask(rpc_pb2.AuthUserGetRequest, self._user))
            .unary("UserList", ask(rpc_pb2.AuthUserListRequest, self._users))
            .unary("UserDelete", change(Kind.USER_DELETE, rpc_pb2.AuthUserDeleteRequest))
            .unary("UserChangePassword", self.user_change_password)
            .unary("UserGrantRole", change(Kind.USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest))
            .unary("UserRevokeRole", change(Kind.USER_REVOKE_ROLE, rpc_pb2.AuthUserRevokeRoleRequest))
            .unary("RoleAdd", change(Kind.ROLE_ADD, rpc_pb2.AuthRoleAddRequest))
            .unary("RoleGet", ask(rpc_pb2.AuthRoleGetRequest, self._role))
            .unary("RoleList", ask(rpc_pb2.AuthRoleListRequest, self._roles))
            .unary("RoleDelete", change(Kind.ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest))
            .unary("RoleGrantPermission", change(Kind.ROLE_GRANT_PERMISSION, rpc_pb2.AuthRoleGrantPermissionRequest))
            .unary("RoleRevokePermission", change(Kind.ROLE_REVOKE_PERMISSION, rpc_pb2.AuthRoleRevokePermissionRequest))
        )

    # --- logging in ---------------------------------------------------------------------------------------------------

    def authenticate(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.AuthenticateRequest.FromString, message)
        if request is not None:
            self._node.spawn(self._authenticate(call, request))

    async def _authenticate(self, call: Call, request: rpc_pb2.AuthenticateRequest) -> None:
        try:
            revision, token = await self._node.authenticator.authenticate(request.name, request.password)
        except (AuthError, NodeError) as refusal:
            refuse(call, status_of(refusal))
        else:
            body = rpc_pb2.AuthenticateResponse(token=token).SerializeToString()
            call.reply(self._context.header(revision) + body)

    # --- changes ------------------------------------------------------------------------------------------------------

    def _change(self, kind: Kind, request_type: Any) -> UnaryHandler:
        def change(call: Call, message: bytes) -> None:
            if self._context.parse(call, request_type.FromString, message) is not None:
                self._context.propose(call, kind, message)

        return change

    def user_add(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.AuthUserAddRequest.FromString, message)
        if request is None:
            return
        if request.options.no_password:
            request.ClearField("password")
        self._propose_hashed(call, Kind.USER_ADD, request, needs_hash=not request.options.no_password)

    def user_change_password(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, rpc_pb2.AuthUserChangePasswordRequest.FromString, message)
        if request is not None:
            # Without a password the account has none any more (AU-22).
            self._propose_hashed(call, Kind.USER_CHANGE_PASSWORD, request, needs_hash=bool(request.password))

    def _propose_hashed(
        self,
        call: Call,
        kind: Kind,
        request: rpc_pb2.AuthUserAddRequest | rpc_pb2.AuthUserChangePasswordRequest,
        *,
        needs_hash: bool,
    ) -> None:
        """A hash of the client's own making is taken instead of a password, never beside one (AU-20)."""
        if needs_hash and (request.password or not request.hashedPassword):
            self._node.spawn(self._hash(call, kind, request))
        else:
            self._context.propose(call, kind, request.SerializeToString())

    async def _hash(
        self, call: Call, kind: Kind, request: rpc_pb2.AuthUserAddRequest | rpc_pb2.AuthUserChangePasswordRequest
    ) -> None:
        try:
            hashed = await self._node.authenticator.hash(request.password)
        except NodeError as refusal:
            refuse(call, status_of(refusal))
            return
        request.ClearField("password")
        request.hashedPassword = b2a_base64(hashed, newline=False).decode("ascii")
        self._context.propose(call, kind, request.SerializeToString())

    # --- questions ----------------------------------------------------------------------------------------------------

    def _ask(self, request_type: Any, answer: Callable[[Identity, Any], bytes]) -> UnaryHandler:
        """`answer(identity, request)`: the response without its header. Raises AuthError."""

        def ask(call: Call, message: bytes) -> None:
            request = self._context.parse(call, request_type.FromString, message)
            if request is not None:
                self._node.linearizable(read, (call, request))

        def read(asked: tuple[Call, Any], error: Exception | None) -> None:
            call, request = asked
            if error is not None:
                refuse(call, status_of(error))
            elif not self._auth.enabled or self._context.may_read(call, _anybody, read, asked):
                try:
                    body = answer(self._context.identity(call), request)
                except AuthError as refusal:
                    refuse(call, status_of(refusal))
                else:
                    call.reply(self._context.header_now() + body)

        return ask

    def _status(self, identity: Identity, _request: rpc_pb2.AuthStatusRequest) -> bytes:
        self._auth.check_root(identity)
        response = rpc_pb2.AuthStatusResponse(enabled=self._auth.enabled, authRevision=self._auth.revision)
        return response.SerializeToString()

    def _users(self, identity: Identity, _request: rpc_pb2.AuthUserListRequest) -> bytes:
        self._auth.check_root(identity)
        return rpc_pb2.AuthUserListResponse(users=self._auth.user_names()).SerializeToString()

    def _roles(self, identity: Identity, _request: rpc_pb2.AuthRoleListRequest) -> bytes:
        self._auth.check_root(identity)
        return rpc_pb2.AuthRoleListResponse(roles=self._auth.role_names()).SerializeToString()

    def _user(self, identity: Identity, request: rpc_pb2.AuthUserGetRequest) -> bytes:
        """Everybody may see themself (AU-25)."""
        if not identity.user or request.name != identity.user:
            self._auth.check_root(identity)
        user = self._auth.user(request.name)
        if user is None:
            raise UserNotFound
        return rpc_pb2.AuthUserGetResponse(roles=user.roles).SerializeToString()

    def _role(self, identity: Identity, request: rpc_pb2.AuthRoleGetRequest) -> bytes:
        """Everybody may see a role of their own (AU-34)."""
        user = self._auth.user(identity.user)
        if user is None or request.role not in user.roles:
            self._auth.check_root(identity)
        role = self._auth.role(request.role)
        if role is None:
            raise RoleNotFound
        return rpc_pb2.AuthRoleGetResponse(perm=role.keyPermission).SerializeToString()


def _anybody(_identity: Identity) -> None:
    """Who may know depends on the question."""
