"""The real Toxiproxy between two plain sockets: data is cut in the direction that was asked for, and in no other."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chaos import toxiproxy_server
from chaos.cluster import free_ports
from chaos.errors import CannotRunError
from chaos.links import CUT, Links, Toxic
from chaos.names import link_address, own_address

WAIT_S = 2.0
NOTHING_S = 0.3
"""So long nothing comes where nothing must."""


@pytest.fixture(scope="module")
def toxiproxy() -> Path:
    built = toxiproxy_server.default_directory() / "server"
    if shutil.which("toxiproxy-server") is None and not os.access(built, os.X_OK):
        pytest.skip("the Toxiproxy server is not here; `make chaos` gets it")
    return toxiproxy_server.find(print)


class Pair:
    """Two "members" with a listener each, joined by links."""

    def __init__(self, program: Path, directory: Path) -> None:
        *ports, api_port = free_ports(3)
        self.ports = dict(enumerate(ports, start=1))
        self.listeners = {
            number: socket.create_server((own_address(number), port)) for number, port in self.ports.items()
        }
        self.links = Links(program, directory / "toxiproxy.log", api_port, seed=1)
        self.links.start(self.ports)

    def close(self) -> None:
        self.links.stop()
        for listener in self.listeners.values():
            listener.close()

    def connect(self, dialler: int, listener: int) -> dict[int, socket.socket]:
        """A connection through the proxy: member -> its end of it."""
        near = socket.create_connection((link_address(dialler, listener), self.ports[listener]), WAIT_S)
        self.listeners[listener].settimeout(WAIT_S)
        far, _ = self.listeners[listener].accept()
        return {dialler: near, listener: far}


@pytest.fixture
def pair(toxiproxy: Path, tmp_path: Path) -> Iterator[Pair]:
    found = Pair(toxiproxy, tmp_path)
    yield found
    found.close()


def arrives(ends: dict[int, socket.socket], sender: int, receiver: int, wait_s: float) -> bool:
    ends[sender].sendall(b"hello")
    ends[receiver].settimeout(wait_s)
    try:
        return ends[receiver].recv(100).startswith(b"hello")
    except TimeoutError:
        return False


@pytest.mark.parametrize("dialler", [1, 2])
def test_one_direction_is_cut_whoever_dialled(pair: Pair, dialler: int) -> None:
    ends = pair.connect(dialler, 3 - dialler)
    assert arrives(ends, 1, 2, WAIT_S)
    pair.links.put("cut", CUT, [(1, 2)])
    assert arrives(ends, 2, 1, WAIT_S)
    assert not arrives(ends, 1, 2, NOTHING_S)
    fresh = pair.connect(dialler, 3 - dialler)
    assert arrives(fresh, 2, 1, WAIT_S)
    assert not arrives(fresh, 1, 2, NOTHING_S)


def test_healing_ends_the_connections_that_lost_data_and_lets_new_ones_work(pair: Pair) -> None:
    ends = pair.connect(1, 2)
    pair.links.put("cut", CUT, [(1, 2), (2, 1)])
    assert not arrives(ends, 1, 2, NOTHING_S)
    pair.links.heal()
    ends[2].settimeout(WAIT_S)
    assert ends[2].recv(100) == b"", "a stream with a hole in it must not go on"
    fresh = pair.connect(1, 2)
    assert arrives(fresh, 1, 2, WAIT_S)
    assert arrives(fresh, 2, 1, WAIT_S)


def test_two_faults_on_one_link_are_lifted_one_by_one(pair: Pair) -> None:
    pair.links.put("slow", Toxic("latency", {"latency": 20, "jitter": 0}), [(1, 2)])
    pair.links.put("cut", CUT, [(1, 2)])
    pair.links.lift("slow")
    assert not arrives(pair.connect(1, 2), 1, 2, NOTHING_S)
    pair.links.lift("cut")
    assert arrives(pair.connect(1, 2), 1, 2, WAIT_S)


def test_a_toxic_that_toxiproxy_does_not_know_stops_the_run(pair: Pair) -> None:
    with pytest.raises(CannotRunError, match="earthquake"):
        pair.links.put("x", Toxic("earthquake", {}), [(1, 2)])


def test_a_server_that_went_away_stops_the_run(pair: Pair) -> None:
    pair.links.stop()
    with pytest.raises(CannotRunError):
        pair.links.put("x", CUT, [(1, 2)])


def test_a_port_that_is_taken_stops_the_run(toxiproxy: Path, tmp_path: Path) -> None:
    *ports, api_port = free_ports(3)
    links = Links(toxiproxy, tmp_path / "log", api_port, seed=1)
    with closing(socket.create_server((link_address(1, 2), ports[1]))):
        try:
            with pytest.raises(CannotRunError, match="m1-m2"):
                links.start(dict(enumerate(ports, start=1)))
        finally:
            links.stop()
