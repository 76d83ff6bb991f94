"""The Java client jetcd against a running server: java/Clients.java checks every answer."""

from __future__ import annotations

import java_program
import pytest
from client_program import Play, check_it_can_fail, play_restart, player
from client_table import RecordClient
from helpers.processes import Server

_ON_ONE_SERVER = {
    "kv": "keys, ranges, compaction, errors by their texts",
    "transactions": "transactions",
    "watches": "watches",
    "leases": "leases and keep-alive",
    "locks": "the Lock service",
    "elections": "the Election service",
    "maintenance": "status, alarms, hash, snapshot, defragmentation",
}
"""Scenario -> what of the client it uses."""
_RULES = {"locks": "LK-01, LK-04, LK-06: locks", "elections": "EL-01, EL-04 to EL-07: elections"}


@pytest.fixture(scope="session")
def java_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("java-client")
    return java_program.build(directory, tmp_path_factory.getbasetemp().parent / "java-client.lock")


@pytest.fixture
def play(request: pytest.FixtureRequest, record_client: RecordClient) -> Play:
    version = java_program.client_version()
    return player(request, record_client, "java_command", "Java jetcd", "jetcd", version)


@pytest.mark.parametrize("scenario", [pytest.param(name, id=_RULES.get(name, name)) for name in _ON_ONE_SERVER])
def test_java_client(play: Play, client_server: Server, scenario: str) -> None:
    play(scenario, _ON_ONE_SERVER[scenario], [client_server.endpoint])


def test_java_client_lives_through_a_restart(play: Play, raftkv_server: Server) -> None:
    """L-53: the server is killed and comes back; watches go on where they were, leases are kept."""
    play_restart(play, raftkv_server)


def test_java_client_with_users_and_roles(play: Play, auth_server: Server) -> None:
    play("users", "users, roles, tokens", [auth_server.endpoint])


def test_a_failed_check_ends_the_java_program(java_command: list[str], client_server: Server) -> None:
    """The program itself is tried: a scenario that does not exist, and one in which nobody does what it asks for."""
    check_it_can_fail(java_command, client_server)
