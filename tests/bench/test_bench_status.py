"""Who leads, and whether a member has caught up, from what members say."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from bench import status
from bench.load import LoadError
from bench.servers import ServerError
from bench.status import Leadership, Status, agreed_leader
from raftkv.pb import rpc_pb2
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Call, Service, build_routes

A, B, C = Status(1, 2, 5, 10), Status(2, 2, 5, 12), Status(3, 2, 5, 11)
SERVERS: Any = [SimpleNamespace(name=name) for name in "abc"]


def test_the_member_that_all_name_leads() -> None:
    assert agreed_leader(SERVERS, [A, B, C]) == Leadership(SERVERS[1], 5)


@pytest.mark.parametrize(
    "statuses",
    [
        pytest.param([A, B, None], id="one is silent"),
        pytest.param([A, B, C._replace(leader_id=3)], id="they differ"),
        pytest.param([A, B, C._replace(term=4)], id="one is behind"),
        pytest.param([each._replace(leader_id=0) for each in (A, B, C)], id="nobody leads"),
        pytest.param([each._replace(leader_id=9) for each in (A, B, C)], id="a stranger leads"),
        pytest.param([None, None, None], id="nobody answers"),
    ],
)
def test_without_agreement_nobody_leads(statuses: list[Status | None]) -> None:
    assert agreed_leader(SERVERS, statuses) is None


def test_an_election_in_between_is_another_leadership() -> None:
    later = [each._replace(term=7) for each in (A, B, C)]
    assert agreed_leader(SERVERS, later) != agreed_leader(SERVERS, [A, B, C])


# --- asked over the wire

Says = Callable[[], Status]


class _Member:
    """What bench.servers has a Server for: something with a port, that runs."""

    program = SimpleNamespace(name="etcd")
    ca_file = ""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.running = True

    def check_running(self) -> None:
        if not self.running:
            raise ServerError(f"etcd {self.name} ended")


class _Cluster:
    name = "etcd"

    def __init__(self, servers: list[_Member]) -> None:
        self.running = servers

    def check_running(self) -> None:
        for server in self.running:
            server.check_running()


@contextmanager
def _members(*says: Says) -> Iterator[list[Any]]:
    """Members that answer Status as told, served from another thread: what is tested has a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listeners = [Listener(loop, build_routes([_maintenance(say)])) for say in says]

    async def listen() -> list[int]:
        import socket

        ports = []
        for listener in listeners:
            bound = socket.create_server(("127.0.0.1", 0))
            await listener.start(bound)
            ports.append(bound.getsockname()[1])
        return ports

    async def close() -> None:
        for listener in listeners:
            listener.close()

    try:
        ports = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
        yield [_Member(f"n{number}", port) for number, port in enumerate(ports)]
        asyncio.run_coroutine_threadsafe(close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _maintenance(say: Says) -> Service:
    def answer(call: Call, _message: bytes) -> None:
        said = say()
        header = rpc_pb2.ResponseHeader(member_id=said.member_id)
        response = rpc_pb2.StatusResponse(
            header=header, leader=said.leader_id, raftTerm=said.term, raftAppliedIndex=said.applied
        )
        call.reply(response.SerializeToString())

    return Service("etcdserverpb.Maintenance").unary("Status", answer)


def test_agreement_is_waited_for() -> None:
    doubting = iter([C._replace(leader_id=0), C._replace(leader_id=0)])
    with _members(lambda: A, lambda: B, lambda: next(doubting, C)) as servers:
        cluster: Any = _Cluster(servers)
        assert status.wait_leader(cluster) == Leadership(servers[1], 5)
    assert next(doubting, None) is None


def test_no_agreement_in_time_is_an_error_that_says_what_they_said() -> None:
    with _members(lambda: A, lambda: B._replace(leader_id=0)) as servers:
        cluster: Any = _Cluster(servers)
        with pytest.raises(LoadError, match=r"do not agree on a leader after 0\.1 s: .*leader_id=0"):
            status.wait_leader(cluster, timeout_s=0.1)


def test_a_member_that_has_ended_is_not_waited_for() -> None:
    with _members(lambda: A._replace(leader_id=0)) as servers:
        servers[0].running = False
        cluster: Any = _Cluster(servers)
        with pytest.raises(ServerError):
            status.wait_leader(cluster, timeout_s=60)


def test_a_follower_has_caught_up_at_what_the_leader_had_applied_before() -> None:
    leader = iter(range(100, 10_000, 10))
    follower = iter([0, 50, 109, 130])
    with _members(lambda: B._replace(applied=next(leader)), lambda: A._replace(applied=next(follower))) as servers:
        assert 0 < status.wait_caught_up(servers[0], servers[1]) < 10
    assert next(follower, None) is None


def test_a_follower_that_never_catches_up_is_an_error() -> None:
    with _members(lambda: B, lambda: A) as servers:
        with pytest.raises(LoadError, match=r"etcd n1 has not caught up after 0\.1 s"):
            status.wait_caught_up(servers[0], servers[1], timeout_s=0.1)
        servers[1].running = False
        with pytest.raises(ServerError):
            status.wait_caught_up(servers[0], servers[1], timeout_s=60)
