"""Members for the acceptance checklist: one alone, three together, and fresh ones for what needs no past."""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.cluster import Cluster
from helpers.grpc_calls import connect
from helpers.processes import Program, Server

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))  # contract_support: the same client, the same words

from contract_support import Client, new_prefix

NewCluster = Callable[..., Cluster]
NewClient = Callable[[str], Client]
_clusters = pytest.StashKey[list[Cluster]]()


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "slow: a test of real members that takes more than about ten seconds; -m 'not slow' leaves it out",
        "beyond_etcd(reason): a rule that the real etcd of the calibration run (3.5.1) does not have",
    ):
        config.addinivalue_line("markers", line)


@pytest.fixture(autouse=True)
def _skip_what_etcd_lacks(request: pytest.FixtureRequest, subject_program: Program) -> None:
    marker = request.node.get_closest_marker("beyond_etcd")
    if marker is not None and subject_program.kind == "etcd":
        pytest.skip(marker.args[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for cluster in item.stash.get(_clusters, []):
            report.sections.append((f"members in {cluster.directory}", cluster.logs()))
    return report


@pytest.fixture
def connected() -> Iterator[NewClient]:
    """`connected(endpoint)`: a client, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda endpoint: Client(stack.enter_context(connect(endpoint)))


@pytest.fixture
def fresh(
    subject_program: Program, tmp_path_factory: pytest.TempPathFactory, connected: NewClient
) -> Iterator[Callable[..., tuple[Server, Client]]]:
    """`fresh("--flag=x")`: an empty member of the test's own and its client."""
    with ExitStack() as stack:

        def start(*flags: str) -> tuple[Server, Client]:
            server = Server(subject_program, tmp_path_factory.mktemp("acceptance"), flags)
            stack.callback(server.stop)
            server.start()
            return server, connected(server.endpoint)

        yield start


@pytest.fixture
def new_cluster(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewCluster]:
    """`new_cluster(size, "--flag=x")`: serving members of the test's own."""
    with ExitStack() as stack:

        def make(size: int = 3, *flags: str) -> Cluster:
            cluster = Cluster(subject_program, tmp_path_factory.mktemp("acceptance"), size, flags)
            request.node.stash.setdefault(_clusters, []).append(cluster)
            stack.callback(cluster.discard)
            return cluster.start()

        yield make


@pytest.fixture(scope="session")
def _shared(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """A client of a lone member, and one of a follower among three."""
    with ExitStack() as stack:
        lone, three = (
            Cluster(subject_program, tmp_path_factory.mktemp("acceptance"), size, _progress_flag(subject_program))
            for size in (1, 3)
        )
        for cluster in (lone, three):
            stack.callback(cluster.discard)
            cluster.start()
        places = {"alone": lone.members[0], "follower of three": three.followers()[0]}
        yield {place: Client(stack.enter_context(connect(member.endpoint))) for place, member in places.items()}


def _progress_flag(program: Program) -> list[str]:
    old = "experimental-" if program.kind == "etcd" else ""
    return [f"--{old}watch-progress-notify-interval=200ms"]


@pytest.fixture(params=["alone", "follower of three"])
def client(request: pytest.FixtureRequest, _shared: dict[str, Client]) -> Client:
    """A client of a member that others have written to. Nobody else writes while the test runs."""
    place: str = request.param
    return _shared[place]


@pytest.fixture
def prefix() -> bytes:
    """Keys below it belong to this test alone."""
    return new_prefix()
