"""Subjects of the Kubernetes traces: one raftkv, the real etcd beside it, and three raftkv.

With RAFTKV_TEST_SUBJECT=etcd the real etcd stands in every place.
"""

from collections.abc import Callable, Generator, Iterator

import pytest
from helpers.cluster import Cluster
from helpers.processes import RAFTKV, Program
from kube_store import KubeStore, parse_version, serves_progress_requests
from kube_support import Subject

_RAFTKV_FLAGS = ("--watch-progress-notify-interval=200ms",)
_ETCD_FLAGS = ("--experimental-watch-progress-notify-interval=200ms",)
_subjects = pytest.StashKey[Subject]()

NewSubject = Callable[[int], Subject]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "slow: a test of real members that takes more than about ten seconds; -m 'not slow' leaves it out",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    subject = item.stash.get(_subjects, None)
    if report.failed and subject is not None:
        report.sections.append(("members", subject.cluster.logs()))
    return report


@pytest.fixture(scope="session", params=["subject", "etcd"])
def program(request: pytest.FixtureRequest, subject_program: Program) -> Program:
    """The program under test, then the real etcd: the same requests, the same checks."""
    if request.param == "subject":
        return subject_program
    if subject_program.kind == "etcd":
        pytest.skip("the real etcd is the subject already")
    etcd: Program = request.getfixturevalue("etcd_program")
    return etcd


def _start(program: Program, size: int, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    flags = _RAFTKV_FLAGS if program == RAFTKV else _ETCD_FLAGS
    cluster = Cluster(program, tmp_path_factory.mktemp("kubernetes"), size, flags)
    try:
        cluster.start()
        with KubeStore([cluster.members[0].endpoint]) as store:
            version = parse_version(store.status().version)
    except BaseException:
        cluster.discard()
        raise
    return Subject(cluster, serves_progress_requests(version))


@pytest.fixture(scope="session")
def _shared_subject(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    subject = _start(program, 1, tmp_path_factory)
    try:
        yield subject
    finally:
        subject.cluster.discard()


@pytest.fixture
def shared_subject(request: pytest.FixtureRequest, _shared_subject: Subject) -> Subject:
    """One member for many tests, each of which uses a resource of its own below /registry/."""
    request.node.stash[_subjects] = _shared_subject
    return _shared_subject


@pytest.fixture
def store(shared_subject: Subject) -> Iterator[KubeStore]:
    """An apiserver's client of the shared member."""
    with KubeStore(shared_subject.endpoints) as store:
        yield store


@pytest.fixture
def resource(request: pytest.FixtureRequest) -> bytes:
    """A prefix that belongs to this test alone, on whatever subject."""
    name: str = request.node.originalname
    return f"/registry/{name.removeprefix('test_')}/".encode()


@pytest.fixture
def subject(
    request: pytest.FixtureRequest, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    """One serving member of the test's own."""
    yield from _own(request, program, 1, tmp_path_factory)


@pytest.fixture
def own_member(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    """One serving member of the program under test only: for what takes long."""
    yield from _own(request, subject_program, 1, tmp_path_factory)


@pytest.fixture
def three_members(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    """Three serving members of the program under test."""
    yield from _own(request, subject_program, 3, tmp_path_factory)


def _own(
    request: pytest.FixtureRequest, program: Program, size: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    subject = _start(program, size, tmp_path_factory)
    request.node.stash[_subjects] = subject
    try:
        yield subject
    finally:
        subject.cluster.discard()
