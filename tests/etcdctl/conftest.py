"""Pairs of servers to compare, and the comparison as a fixture."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from helpers.comparison import Compare, Pair, Party, compare, make_level
from helpers.ctl_steps import Scenario
from helpers.etcd_tools import ToolMissingError, etcdctl
from helpers.grpc_calls import Calls, connect
from helpers.processes import Program, Server


@contextmanager
def running_pair(
    subject: Program, etcd: Program, directories: pytest.TempPathFactory, flags: tuple[str, ...] = ()
) -> Iterator[Pair]:
    with ExitStack() as stack:
        servers = []
        for name, program in (("subject", subject), ("etcd", etcd)):
            server = Server(program, directories.mktemp(name), flags)
            stack.callback(server.stop)
            server.spawn()
            servers.append(server)
        parties = []
        for server in servers:
            server.wait_serving()
            channel = stack.enter_context(connect(server.endpoint))
            parties.append(Party(server, Calls(channel)))
        yield Pair(*parties)


@pytest.fixture(scope="session")
def shared_pair(
    subject_program: Program, etcd_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two servers for all scenarios that need no history of their own."""
    with running_pair(subject_program, etcd_program, tmp_path_factory) as pair:
        yield pair


@pytest.fixture
def compare_with_etcd(
    request: pytest.FixtureRequest,
    subject_program: Program,
    etcd_program: Program,
    tmp_path_factory: pytest.TempPathFactory,
) -> Compare:
    def run(tool_version: str, scenario: Scenario) -> None:
        directory = tmp_path_factory.mktemp("scenario")
        try:
            tool = etcdctl(tool_version, directory)
        except ToolMissingError as error:
            pytest.skip(str(error))
        if scenario.fresh or scenario.flags:
            with running_pair(subject_program, etcd_program, tmp_path_factory, scenario.flags) as pair:
                compare(pair, tool, scenario, directory)
            return
        pair = request.getfixturevalue("shared_pair")
        make_level(pair)
        compare(pair, tool, scenario, directory)

    return run
