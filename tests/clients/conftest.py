"""Servers for the client tests, and the entries of the table of clients."""

from collections.abc import Callable, Iterator

import pytest
from client_table import RecordClient
from helpers.grpc_calls import Calls, connect
from helpers.processes import Program, Server

from raftkv.pb import auth_pb2, rpc_pb2

_TIMEOUT_S = 10


@pytest.fixture(scope="session")
def client_server(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all client tests: their keys do not overlap."""
    server = Server(subject_program, tmp_path_factory.mktemp("clients"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server_with_users(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Authentication is on. root has the password rootpw; alice, alicepw, may read and write below app/."""
    server = Server(subject_program, tmp_path_factory.mktemp("client-users"))
    try:
        server.start()
        with connect(server.endpoint) as channel:
            _make_users(Calls(channel))
        yield server
    finally:
        server.stop()


@pytest.fixture
def auth_server(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the test's own, without users yet; its simple tokens run out after a second."""
    server = Server(subject_program, tmp_path_factory.mktemp("client-auth"), ["--auth-token-ttl=1"])
    try:
        yield server.start()
    finally:
        server.stop()


def _make_users(calls: Calls) -> None:
    auth = calls.Auth
    permission = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"app/", range_end=b"app0")
    auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="apps"), timeout=_TIMEOUT_S)
    grant = rpc_pb2.AuthRoleGrantPermissionRequest(name="apps", perm=permission)
    auth.RoleGrantPermission(grant, timeout=_TIMEOUT_S)
    for user, role in (("root", "root"), ("alice", "apps")):
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=user, password=f"{user}pw"), timeout=_TIMEOUT_S)
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role), timeout=_TIMEOUT_S)
    auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=_TIMEOUT_S)


@pytest.fixture
def record_client(record_property: Callable[[str, object], None]) -> RecordClient:
    """`record_client(name, version, what)`: notes for the table of clients what this test tries."""
    return RecordClient(record_property)
