"""Binding the listen URLs, before there is a node."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.api import serving
from raftkv.api.serving import Door, Purpose
from raftkv.config import StartError, load


@pytest.fixture
def doors() -> Iterator[list[Door]]:
    """What a test binds into this list is closed after it."""
    bound: list[Door] = []
    yield bound
    serving.close(bound)


def bind(*argv: str) -> list[Door]:
    """With a peer URL of its own: the door that a member always has, and the last."""
    return serving.bind(load([ADVERTISED, f"--listen-peer-urls={ANY}", *argv], {}))


ADVERTISED = "--advertise-client-urls=http://127.0.0.1:2379"
ANY = "http://127.0.0.1:0"


def test_the_real_port_is_known(doors: list[Door]) -> None:
    doors += bind(f"--listen-client-urls={ANY}", f"--listen-client-http-urls={ANY}", f"--listen-metrics-urls={ANY}")
    assert [door.purpose for door in doors] == [Purpose.CLIENT, Purpose.HTTP, Purpose.PROBES, Purpose.PEER]
    for door in doors:
        assert door.url.port == door.sock.getsockname()[1] != 0
        assert str(door.url) == f"http://127.0.0.1:{door.url.port}"


def test_a_port_in_use_is_named(doors: list[Door]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(StartError) as caught:
            bind(f"--listen-client-urls={ANY}", f"--listen-metrics-urls={url}")
    assert caught.value.text == f"cannot listen on {url}: Address already in use"
    assert caught.value.hint.endswith("--listen-metrics-urls")


def test_a_peer_port_in_use_is_named(doors: list[Door]) -> None:
    """And what was bound before it is free again."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as probe:
        url, client_url = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (other, probe))
        probe.close()
        with pytest.raises(StartError) as caught:
            serving.bind(load([ADVERTISED, f"--listen-peer-urls={url}", f"--listen-client-urls={client_url}"], {}))
        doors += bind(f"--listen-client-urls={client_url}")
    assert caught.value.text == f"cannot listen on {url}: Address already in use"
    assert caught.value.hint.endswith("--listen-peer-urls")


def test_localhost_is_127_0_0_1(doors: list[Door]) -> None:
    """Though a resolver may name ::1 first."""
    doors += bind("--listen-client-urls=http://localhost:0")
    assert doors[0].sock.getsockname()[0] == "127.0.0.1"


def test_a_restart_finds_its_port_free(doors: list[Door]) -> None:
    """Whether --socket-reuse-address is given or not."""
    doors += bind(f"--listen-client-urls={ANY}")
    assert doors[0].sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    assert doors[0].sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_two_processes_may_share_a_port(doors: list[Door]) -> None:
    doors += bind(f"--listen-client-urls={ANY}", "--socket-reuse-port")
    doors += bind(f"--listen-client-urls={doors[0].url}", "--socket-reuse-port")
    clients = [door.url for door in doors if door.purpose is Purpose.CLIENT]
    assert clients[0] == clients[1]


def test_unix_sockets(tmp_path: Path, doors: list[Door]) -> None:
    """H-06. The file of a process that was killed is no obstacle, one that is served is."""
    path = tmp_path / "kv.sock"
    argv = (f"--listen-client-urls={ANY}", f"--listen-client-http-urls=unix://{path}")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    doors += bind(*argv)
    doors[1].sock.listen()
    with pytest.raises(StartError, match="Address already in use"):
        bind(*argv)
    assert path.is_socket(), "the one that failed leaves the other's file alone"
    serving.close(doors)
    assert not path.exists()


def test_a_file_in_the_way_is_kept(tmp_path: Path, doors: list[Door]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(StartError, match="cannot listen on"):
        bind(f"--listen-client-urls={ANY}", f"--listen-metrics-urls=unix://{path}")
    assert path.read_text() == "mine"
