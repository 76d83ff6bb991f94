"""Clusters of real members for the tests of this folder; a failed test shows the ends of all their logs."""

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest
from helpers.cluster import Cluster
from helpers.processes import Program

NewCluster = Callable[..., Cluster]
_clusters = pytest.StashKey[list[Cluster]]()
_failed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "slow: a test of real members that takes more than about ten seconds; -m 'not slow' leaves it out",
        "beyond_etcd(reason): a rule that the real etcd of the calibration run (3.5.1) does not have",
    ):
        config.addinivalue_line("markers", line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
        for cluster in item.stash.get(_clusters, []):
            report.sections.append((f"members in {cluster.directory}", cluster.logs()))
    return report


@pytest.fixture(autouse=True)
def _skip_what_etcd_lacks(request: pytest.FixtureRequest, subject_program: Program) -> None:
    marker = request.node.get_closest_marker("beyond_etcd")
    if marker is not None and subject_program.kind == "etcd":
        pytest.skip(marker.args[0])


@pytest.fixture
def new_cluster(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewCluster]:
    """`new_cluster(size, "--flag=x")`: members of the test's own, not started; `program=`: not of the subject."""
    with ExitStack() as stack:

        def make(size: int = 3, *flags: str, program: Program = subject_program) -> Cluster:
            cluster = Cluster(program, tmp_path_factory.mktemp("cluster"), size, flags)
            request.node.stash.setdefault(_clusters, []).append(cluster)
            stack.callback(_clean_up, request.node, cluster)
            return cluster

        yield make


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    """Three serving members of the test's own."""
    return new_cluster().start()


class _Shared:
    """The cluster that tests use one after the other, until one of them leaves it in another state."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None

    def end(self) -> None:
        if self.cluster is not None:
            self.cluster.end()
            shutil.rmtree(self.cluster.directory)
            self.cluster = None


@pytest.fixture(scope="session")
def _shared() -> Iterator[_Shared]:
    holder = _Shared()
    try:
        yield holder
    finally:
        holder.end()


@pytest.fixture
def shared_cluster(
    request: pytest.FixtureRequest,
    _shared: _Shared,
    subject_program: Program,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Three serving members that earlier tests have written to, and that this one leaves as three serving members.

    A start costs as much as many a test; keys and leases of one test must not disturb the next.
    """
    if _shared.cluster is None:
        _shared.cluster = Cluster(subject_program, tmp_path_factory.mktemp("cluster"))
        _shared.cluster.start()
    request.node.stash.setdefault(_clusters, []).append(_shared.cluster)
    yield _shared.cluster
    if request.node.stash.get(_failed, False) or len(_shared.cluster.serving()) != 3:
        _shared.end()


def _clean_up(item: pytest.Item, cluster: Cluster) -> None:
    cluster.end()
    if not item.stash.get(_failed, False):
        shutil.rmtree(cluster.directory)
