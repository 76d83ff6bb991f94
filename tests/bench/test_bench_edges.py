"""The gateway's generator, idle connections, and the certificate of a run."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench import idling
from bench.certificate import make
from bench.gateway import PUT_JSON, PutMaker, drive_gateway
from bench.idle import Costs, rows_of
from bench.idling import Room, room_for
from bench.load import LoadError, LoadOptions, LoadResult
from bench.nullserver import NullServer
from bench.procfs import Memory
from bench.workloads import Shape
from raftkv.rpc.http1_requests import RequestReader
from raftkv.rpc.http_exchange import HttpExchange


def test_the_puts_of_the_gateway() -> None:
    requests = PutMaker(Shape(b"put/", 5, 10, 0), "127.0.0.1", 2379)
    reader = RequestReader(10_000)
    keys = []
    for _ in range(10):
        reader.receive(requests.next())
        request = reader.next()
        assert request is not None
        assert (request.method, request.target) == ("POST", "/v3/kv/put")
        put = {name: base64.b64decode(value) for name, value in json.loads(request.body).items()}
        assert len(put["value"]) == 5
        keys.append(put["key"])
    assert sorted(keys) == [b"put/%012d" % number for number in range(10)]


def _drive(answer: str, monkeypatch: pytest.MonkeyPatch) -> LoadResult:
    def answer_http(_server: NullServer, exchange: HttpExchange) -> None:
        if answer == "refuse":
            exchange.respond(429, (), b"not now")
        else:
            exchange.start(200)
            exchange.send(b"{}")
            exchange.finish()

    async def run() -> LoadResult:
        server = NullServer(asyncio.get_running_loop())
        await server.start()
        try:
            options = LoadOptions("127.0.0.1", server.port, PUT_JSON, clients=2, seconds=0.2, warmup_s=0.01)
            return await drive_gateway(options)
        finally:
            server.close()

    monkeypatch.setattr(NullServer, "_answer_http", answer_http)
    return asyncio.run(run())


def test_a_gateway_that_refuses_is_told_of_and_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _drive("refuse", monkeypatch)
    assert found.operations == 0
    [(text, count)] = found.errors.items()
    assert "HTTP 429: not now" in text
    assert 2 <= count < 20


def test_an_answer_that_is_not_understood_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the warm-up: the connection is given up, so that nothing is measured."""
    found = _drive("chunks", monkeypatch)
    assert found.operations == 0


# --- idle connections


@pytest.mark.parametrize(
    ("files", "ports", "room"),
    [
        (20_000, 28_000, Room(10_000)),
        (4_256, 28_000, Room(4_000, "not 10,000: a process may have 4,256 files open (ulimit -Hn)")),
        (20_000, 5_000, Room(3_000, "not 10,000: there are 5,000 ports for outgoing connections")),
        (100, 28_000, Room(0, "not 10,000: a process may have 100 files open (ulimit -Hn)")),
    ],
)
def test_how_many_connections_are_possible(files: int, ports: int, room: Room) -> None:
    assert room_for(10_000, files, ports) == room


def test_ports_are_counted() -> None:
    assert 1_000 < idling.port_count() < 65_536


def test_connections_that_nobody_takes_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idling, "OPEN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(NullServer, "_reply", lambda _server, call, _message: call.reply(b""))
    monkeypatch.setattr("bench.nullserver._NullWatch.on_message", lambda _watch, _message: None)

    async def lines() -> AsyncIterator[str]:
        return
        yield

    async def run() -> None:
        server = NullServer(asyncio.get_running_loop())
        await server.start()
        try:
            async for _ in idling.idle("127.0.0.1", server.port, 3, "idle/", lines()):
                pytest.fail("not one was confirmed")
        finally:
            server.close()

    with pytest.raises(LoadError, match="3 connections were not open after"):
        asyncio.run(run())


def test_what_idle_connections_cost() -> None:
    """etcd's memory is what is resident, raftkv's what is anonymous."""
    costs = {
        "etcd": Costs(Memory(20_000_000, 1, 0, 0), Memory(820_000_000, 2, 0, 0), 5.0),
        "raftkv": Costs(Memory(1, 30_000_000, 0, 0), Memory(2, 110_000_000, 0, 0), 3.0),
    }
    whole, each, opened = rows_of(costs, 10_000, "not 20,000: too few ports")
    assert (whole.title, whole.etcd, whole.raftkv) == ("10,000 idle connections", "820.0 MB", "110.0 MB")
    assert (whole.target, whole.met) == ("≤ 1", True)
    assert whole.notes[-1] == "not 20,000: too few ports"
    assert (each.etcd, each.raftkv, each.ratio) == ("80.0 kB", "8.0 kB", pytest.approx(0.1))
    assert (opened.etcd, opened.raftkv) == ("5.0 s", "3.0 s")


# --- TLS


def test_a_certificate_is_trusted_and_its_key_is_nobody_elses(tmp_path: Path) -> None:
    files = make(tmp_path, "127.0.0.1")
    assert files.key.stat().st_mode & 0o077 == 0
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=files.cert)
    server.load_cert_chain(files.cert, files.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ours.version() == "TLSv1.3"
