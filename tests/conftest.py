"""Fixtures for tests that need whole servers. Tests of single rooms use none of these and pay for none.

RAFTKV_TEST_SUBJECT=etcd puts the real etcd in raftkv's place: that is how the tests themselves are tested.
"""

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # grpcio is loaded only by tests that start a server
    from helpers.processes import Program, Server

pytest_plugins = ["helpers.rule_report"]


# A run in the background of a shell, or under nohup: what tests start would inherit that, and could not be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def subject_kind() -> str:
    kind = os.environ.get("RAFTKV_TEST_SUBJECT", "raftkv")
    if kind not in {"raftkv", "etcd"}:
        raise pytest.UsageError(f"RAFTKV_TEST_SUBJECT is {kind!r}; it must be raftkv or etcd")
    return kind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What raftkv does not do yet fails as expected, and fails for good once it does and the mark is still there."""
    if subject_kind() == "raftkv":
        for item in items:
            mark = item.get_closest_marker("not_yet")
            if mark is not None:
                item.add_marker(pytest.mark.xfail(strict=True, reason=f"not yet: {mark.args[0]}"))


@pytest.fixture(scope="session")
def etcd_program(tmp_path_factory: pytest.TempPathFactory) -> "Program":
    from helpers import etcd_tools

    try:
        return etcd_tools.etcd_program(tmp_path_factory.mktemp("etcd-programs"))
    except etcd_tools.ToolMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def subject_program(request: pytest.FixtureRequest) -> "Program":
    """The program under test."""
    if subject_kind() == "etcd":
        etcd: Program = request.getfixturevalue("etcd_program")
        return etcd
    from helpers.processes import RAFTKV

    return RAFTKV


@pytest.fixture
def raftkv_server(subject_program: "Program", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A serving subject of the test's own, on an empty data directory."""
    from helpers.processes import Server

    server = Server(subject_program, tmp_path_factory.mktemp("raftkv"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def etcd_server(etcd_program: "Program", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A serving real etcd of the test's own, on an empty data directory."""
    from helpers.processes import Server

    server = Server(etcd_program, tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.stop()
