"""The JavaScript client etcd3 (npm) against a running server: node/clients.js checks every answer."""

from __future__ import annotations

import node_program
import pytest
from client_program import Play, check_it_can_fail, play_restart, player
from client_table import RecordClient
from helpers.processes import Server

_ON_ONE_SERVER = {
    "kv": "keys, ranges, namespaces, errors by their texts",
    "transactions": "transactions and software transactions",
    "watches": "watches",
    "leases": "leases and keep-alive",
    "locks": "locks",
    "elections": "elections",
    "maintenance": "status, alarms, snapshot, defragmentation",
}
"""Scenario -> what of the client it uses."""


@pytest.fixture(scope="session")
def node_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return node_program.install(tmp_path_factory.mktemp("node-client"))


@pytest.fixture
def play(request: pytest.FixtureRequest, record_client: RecordClient) -> Play:
    version = node_program.client_version()
    return player(request, record_client, "node_command", "JavaScript etcd3", "etcd3", version)


@pytest.mark.parametrize("scenario", _ON_ONE_SERVER)
def test_node_client(play: Play, client_server: Server, scenario: str) -> None:
    play(scenario, _ON_ONE_SERVER[scenario], [client_server.endpoint])


def test_node_client_lives_through_a_restart(play: Play, raftkv_server: Server) -> None:
    """L-53: the server is killed and comes back; watches go on where they were, leases are kept."""
    play_restart(play, raftkv_server)


def test_node_client_with_users_and_roles(play: Play, auth_server: Server) -> None:
    play("users", "users, roles, tokens", [auth_server.endpoint])


def test_a_failed_check_ends_the_node_program(node_command: list[str], client_server: Server) -> None:
    """The program itself is tried: a scenario that does not exist, and one in which nobody does what it asks for."""
    check_it_can_fail(node_command, client_server)
