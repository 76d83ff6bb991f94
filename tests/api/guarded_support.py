"""A node with users on it, and who they are when they call: tokens that the test knows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from api_support import FakeCall, FakeNode, raw

from raftkv.api.auth import Auth
from raftkv.api.cluster import Cluster
from raftkv.api.context import ApiContext
from raftkv.api.kv import KV
from raftkv.api.leader_gate import with_leader_asked_for
from raftkv.api.lease import LeaseService
from raftkv.api.maintenance import Maintenance
from raftkv.api.watch import WatchService
from raftkv.apply import Kind, encode_as_user
from raftkv.auth import Identity, InvalidAuthToken
from raftkv.pb import auth_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import build_routes

EMPTY = (Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
DENIED = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
INVALID = (Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
OLD = (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")

READ, WRITE, BOTH = auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE


class Tokens:
    """Stands for the node's authenticator: a user's token is its name. Some are known only when the test says so."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self.asked: list[str] = []
        self.slow: set[str] = set()
        self.fixed: dict[str, Identity] = {}
        """Tokens that tell of an authRevision of their own, as signed ones do."""
        self.waiting: list[tuple[str, Callable[[Any, Any], None], Any]] = []

    def identify(self, token: str, found: Callable[[Any, Any], None], context: Any) -> None:
        self.asked.append(token)
        if token in self.slow:
            self.waiting.append((token, found, context))
        else:
            found(context, self._result(token))

    def _result(self, token: str) -> Identity | Exception:
        if token in self.fixed:
            return self.fixed[token]
        known = self._node.auth.user(token) is not None
        return Identity(token, self._node.auth.revision) if known else InvalidAuthToken()

    def go_on(self) -> None:
        """What was waited for has come."""
        waiting, self.waiting = self.waiting, []
        for token, found, context in waiting:
            found(context, self._result(token))


class Guarded:
    """All services behind the gates. `alice` may read [a, c) and write [b, d); `bob` has no role; auth is on."""

    def __init__(self, node: FakeNode) -> None:
        self.node: Any = node
        node.put(b"a", b"b", b"c", b"x")
        self.tokens = Tokens(node)
        self.node.authenticator = self.tokens
        self.node.config.client_tls = SimpleNamespace(client_cert_auth=False)
        self.forwarded: list[tuple[int, bytes, Any, Any]] = []
        self.node.leader_calls = SimpleNamespace(call=lambda *call: self.forwarded.append(call))
        self.node.now = lambda: 1.0
        self.node.min_lease_ttl_s = 2
        self.context = ApiContext(self.node)
        services = (
            KV(self.context).service(),
            WatchService(self.context).service(),
            LeaseService(self.context).service(),
            Cluster(self.context).service(),
            Maintenance(self.context).service(),
            Auth(self.context).service(),
        )
        self.routes = with_leader_asked_for(self.context, build_routes(services))
        self._make_users()

    def _make_users(self) -> None:
        self.must(Kind.USER_ADD, rpc_pb2.AuthUserAddRequest(name="root", hashedPassword="cm9vdA=="))
        self.must(Kind.USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
        for name in ("alice", "bob"):
            self.must(Kind.USER_ADD, rpc_pb2.AuthUserAddRequest(name=name, hashedPassword="cm9vdA=="))
        self.must(Kind.ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name="r"))
        self.grant(READ, b"a", b"c")
        self.grant(WRITE, b"b", b"d")
        self.must(Kind.USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest(user="alice", role="r"))
        self.must(Kind.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())

    def must(self, kind: int, request: Any) -> None:
        """Apply a change as root."""
        if self.node.auth.enabled:
            request = encode_as_user(Identity("root", self.node.auth.revision), kind, raw(request))
            (result,) = self.node.apply((Kind.AS_USER, request))
        else:
            (result,) = self.node.apply((kind, raw(request)))
        assert type(result) is tuple, result

    def grant(self, kind: Any, key: bytes, range_end: bytes = b"") -> None:
        permission = auth_pb2.Permission(permType=kind, key=key, range_end=range_end)
        self.must(Kind.ROLE_GRANT_PERMISSION, rpc_pb2.AuthRoleGrantPermissionRequest(name="r", perm=permission))

    def change_something(self) -> None:
        """The authRevision moves; nobody's rights do."""
        self.must(Kind.ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name=f"other{self.node.auth.revision}"))

    def turn_off(self) -> None:
        self.must(Kind.AUTH_DISABLE, rpc_pb2.AuthDisableRequest())

    def call(self, path: str, request: Any, user: str | None = None, **metadata: str) -> Any:
        """A unary call that has been served as far as it goes."""
        if user is not None:
            metadata["token"] = user
        call: Any = FakeCall(**metadata)
        self.routes[b"/etcdserverpb." + path.encode()].handler(call, raw(request))
        return call

    def open(self, path: str, user: str | None = None) -> tuple[Any, Any]:
        """A stream: (call, receiver)."""
        call: Any = FakeCall(**({} if user is None else {"token": user}))
        return call, self.routes[b"/etcdserverpb." + path.encode()].handler(call)
