"""Each way in which a client of the HTTP pages can overdo it has a counter of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.api.figures import _PORT_COUNTERS
from raftkv.rpc.http1 import MAX_PIPELINED_BYTES, Http1Connection
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats

LIMITS = Limits(max_http_body_bytes=1000)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n"
COUNTERS = ("http_bodies_refused", "http_pipelining_closes", "http_idle_closes", "handshake_timeouts")


class Client:
    def __init__(self) -> None:
        self.stats = Stats()
        self.held: list[HttpExchange] = []
        context: Any = SimpleNamespace(limits=LIMITS, stats=self.stats, http_handler=self.held.append)
        self.connection = Http1Connection(context, "peer", False, None, lambda: None, 100.0)

    def counted(self) -> dict[str, int]:
        """The counters that moved."""
        return {name: getattr(self.stats, name) for name in COUNTERS if getattr(self.stats, name)}


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_body_that_is_too_large(client: Client) -> None:
    client.connection.receive_data(POST + bytes(1001), 100.0)
    assert client.connection.take_output().startswith(b"HTTP/1.1 413 ")
    assert client.counted() == {"http_bodies_refused": 1}


def test_more_behind_a_request_than_is_kept(client: Client) -> None:
    client.connection.receive_data(GET, 100.0)
    client.connection.receive_data(bytes(MAX_PIPELINED_BYTES), 100.0)
    assert client.counted() == {}
    client.connection.receive_data(b"x", 100.0)
    assert client.connection.closing
    assert client.counted() == {"http_pipelining_closes": 1}


def test_no_further_request(client: Client) -> None:
    client.connection.receive_data(GET, 100.0)
    client.connection.on_tick(500.0)
    assert not client.connection.closing, "its answer is still owed"
    client.held[0].respond(200)
    client.connection.on_tick(500.0 + LIMITS.idle_http_timeout_s)
    assert not client.connection.closing
    client.connection.on_tick(500.1 + LIMITS.idle_http_timeout_s)
    assert client.connection.closing
    assert client.counted() == {"http_idle_closes": 1}


def test_a_request_that_does_not_end_is_another_matter(client: Client) -> None:
    client.connection.receive_data(GET[:-2], 100.0)
    client.connection.on_tick(100.1 + LIMITS.handshake_timeout_s)
    assert client.connection.closing
    assert client.counted() == {"handshake_timeouts": 1}


def test_all_of_them_are_shown() -> None:
    assert set(COUNTERS) <= set(_PORT_COUNTERS.values())
