"""Go's clientv3, the client of Kubernetes and etcdctl, against a running server: go/*.go check every answer."""

from __future__ import annotations

import go_program
import pytest
from client_program import Play, check_it_can_fail, play_restart, player
from client_table import RecordClient
from helpers.cluster import Cluster
from helpers.processes import RAFTKV, Program, Server

_ON_ONE_SERVER = {
    "kv": "puts, gets, deletions, options",
    "txn": "transactions",
    "namespace": "namespaces for keys, watches and leases",
    "watch": "watches, filters, progress, compaction",
    "lease": "leases and keep-alive",
    "mutex": "concurrency.Mutex and Session",
    "election": "concurrency.Election",
    "stm": "concurrency.STM",
    "leasing": "leasing cache",
    "mirror": "mirror",
    "maintenance": "status, hash, snapshot, defragmentation",
    "errors": "errors known by their texts",
    "kubernetes": "kubernetes.Client",
}
"""Scenario -> what of the client it uses."""
_RULES = {"errors": "ER-01: errors", "kubernetes": "K8-26: kubernetes", "watch": "W-98: watch"}


@pytest.fixture(scope="session")
def go_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("go-client")
    return [str(go_program.build(directory, tmp_path_factory.getbasetemp().parent / "go-client.lock"))]


@pytest.fixture
def play(request: pytest.FixtureRequest, record_client: RecordClient) -> Play:
    return player(request, record_client, "go_command", "Go clientv3", "clientv3", _version())


def _version() -> str:
    """As go.mod pins it."""
    (line,) = (line for line in go_program.MODULE.read_text().splitlines() if "go.etcd.io/etcd/client/v3 v" in line)
    return line.split()[1].removeprefix("v")


@pytest.mark.parametrize("scenario", [pytest.param(name, id=_RULES.get(name, name)) for name in _ON_ONE_SERVER])
def test_go_client(play: Play, client_server: Server, scenario: str) -> None:
    play(scenario, _ON_ONE_SERVER[scenario], [client_server.endpoint])


def test_go_client_lives_through_a_restart(play: Play, raftkv_server: Server) -> None:
    """W-97, L-29, L-53: the server is killed and comes back; watches go on where they were, leases are kept."""
    play_restart(play, raftkv_server, "watch-reconnect")


def test_go_client_goes_to_the_members_that_live(
    play: Play, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """RF-71, W-60, W-97, L-50: the leader of three members dies; nothing that was acknowledged is missing."""
    cluster = Cluster(subject_program, tmp_path_factory.mktemp("go-failover"))
    try:
        cluster.start()
        victim = cluster.leader()
        how = victim.kill9 if subject_program == RAFTKV else victim.terminate
        endpoints = [member.endpoint for member in cluster.members]
        play(
            "failover",
            "fail-over among three members",
            endpoints,
            kill_the_leader=how,
            start_it_again=lambda: cluster.restart(victim),
        )
    except AssertionError:
        print(cluster.logs())
        raise
    finally:
        cluster.discard()


def test_go_client_with_users_and_roles(play: Play, auth_server: Server) -> None:
    """AU-10, AU-40 to AU-44, AU-70, W-23, W-24: enabling, permissions, tokens that the client renews unasked."""
    play("auth", "users, roles, tokens", [auth_server.endpoint])


def test_a_check_that_fails_ends_the_program(go_command: list[str], client_server: Server) -> None:
    """The program itself is tried: a scenario that does not exist, and one in which nobody does what it asks for."""
    check_it_can_fail(go_command, client_server, "failover", "nobody answered")
