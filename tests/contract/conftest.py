"""Members under contract: one per worker and RPC server for most tests, fresh ones where history matters."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from contract_auth import CHEAP_HASHES, Guarded
from contract_gateway import Gateway, Lines
from contract_support import Client, new_prefix
from helpers.grpc_calls import connect
from helpers.processes import Program, Server

_ETCD = os.environ.get("RAFTKV_TEST_SUBJECT") == "etcd"
_RPC_SERVERS = ("etcd",) if _ETCD else ("native", "grpcio")

StartServer = Callable[..., Server]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "beyond_etcd(reason): a rule that the real etcd of the calibration run (3.5.1) does not have",
    )
    config.addinivalue_line("markers", "native_only(reason): what the RPC server on grpcio does not do")


@pytest.fixture(autouse=True)
def _skip_what_etcd_lacks(request: pytest.FixtureRequest, subject_program: Program) -> None:
    marker = request.node.get_closest_marker("beyond_etcd")
    if marker is not None and subject_program.kind == "etcd":
        pytest.skip(marker.args[0])


@pytest.fixture(scope="session", params=_RPC_SERVERS)
def shared_server(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Served by each of the two RPC servers in turn; the answers must not differ."""
    if subject_program.kind == "etcd":
        flags = ["--experimental-watch-progress-notify-interval=200ms"]
    else:
        flags = ["--watch-progress-notify-interval=200ms", f"--rpc-server={request.param}"]
    server = Server(subject_program, tmp_path_factory.mktemp("contract"), flags)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def shared_client(shared_server: Server) -> Iterator[Client]:
    with connect(shared_server.endpoint) as channel:
        yield Client(channel)


@pytest.fixture
def client(shared_client: Client) -> Client:
    """A client of the shared member. Nobody else writes to it while the test runs."""
    return shared_client


@pytest.fixture
def prefix() -> bytes:
    """Keys below it belong to this test alone."""
    return new_prefix()


@pytest.fixture(params=_RPC_SERVERS)
def start_server(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """`start_server("--flag=x")`: a serving member of the test's own, served by each of the RPC servers in turn."""
    marker = request.node.get_closest_marker("native_only")
    if marker is not None and request.param == "grpcio":
        pytest.skip(marker.args[0])
    own = [] if request.param == "etcd" else [f"--rpc-server={request.param}"]
    with ExitStack() as stack:

        def start(*flags: str) -> Server:
            server = Server(subject_program, tmp_path_factory.mktemp("contract"), [*own, *flags])
            stack.callback(server.stop)
            return server.start()

        yield start


@pytest.fixture
def connected() -> Iterator[Callable[[Server], Client]]:
    """`connected(server)`: a client, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda server: Client(stack.enter_context(connect(server.endpoint)))


@pytest.fixture
def fresh(start_server: StartServer, connected: Callable[[Server], Client]) -> Client:
    """A client of an empty member."""
    return connected(start_server())


@pytest.fixture(scope="session")
def guarded_server(
    shared_server: Server, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The same on which auth is on; passwords are cheap to check."""
    kind = next((flag for flag in shared_server.command() if flag.startswith("--rpc-server=")), None)
    flags = [CHEAP_HASHES, *([kind] if kind else [])]
    server = Server(subject_program, tmp_path_factory.mktemp("guarded"), flags)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def guarded(guarded_server: Server) -> Iterator[Guarded]:
    """Its users. A test adds its own and leaves the others alone."""
    with connect(guarded_server.endpoint) as channel:
        yield Guarded(Client(channel))


@pytest.fixture(scope="session")
def gateway_server(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A member that serves HTTP beside gRPC, which the one on grpcio does not."""
    made = Server(subject_program, tmp_path_factory.mktemp("gateway"), [CHEAP_HASHES])
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="session")
def gateway(gateway_server: Server) -> Gateway:
    return Gateway(gateway_server)


@pytest.fixture
def opened() -> Iterator[Callable[[Lines], Lines]]:
    """`opened(gateway.stream(...))`: closed when the test ends."""
    with ExitStack() as stack:

        def keep(lines: Lines) -> Lines:
            stack.callback(lines.close)
            return lines

        yield keep


@pytest.fixture
def key() -> bytes:
    """A key, and what lies below it, of this test alone."""
    return new_prefix() + b"k"
