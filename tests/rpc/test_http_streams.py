"""Answers without a known end, over HTTP/1.1, HTTP/2 and WebSockets (H-27, H-28): chunks, room, and who has gone."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_kit import HTTP_REQUEST, Peer
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

from raftkv.rpc import frames
from raftkv.rpc.http1 import Http1Connection
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.limits import Limits
from raftkv.rpc.server_context import ServerContext
from raftkv.rpc.stats import Stats

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
KEY = base64.b64encode(bytes(16))
UPGRADE = (
    b"GET /socket HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: " + KEY + b"\r\n\r\n"
)
LIMITS = Limits(stream_high_bytes=1000, max_http_body_bytes=500)


class Browser:
    """A client as bytes in front of an Http1Connection. The test answers the exchanges."""

    def __init__(self, on_http: Callable[[HttpExchange], None] | None = None) -> None:
        self.exchanges: list[HttpExchange] = []
        self.stats = Stats()
        self.texts: list[str] = []
        self.happened: list[str] = []
        context = ServerContext({}, on_http or self.exchanges.append, LIMITS, self.stats, lambda: None)
        self.connection = Http1Connection(context, "peer:1", False, None, lambda: None, 0.0)

    def send(self, data: bytes) -> None:
        self.connection.receive_data(data, 0.0)

    def ask(self, data: bytes = GET) -> HttpExchange:
        self.send(data)
        exchange = self.exchanges[-1]
        exchange.on_closed = lambda: self.happened.append("closed")
        exchange.on_writable = lambda: self.happened.append("writable")
        return exchange

    def take(self) -> bytes:
        return self.connection.take_output()

    def open_socket(self) -> tuple[HttpExchange, Connection]:
        exchange = self.ask(UPGRADE)
        assert exchange.wants_socket
        exchange.open_socket(None, self.texts.append)
        self.take()
        return exchange, Connection(ConnectionType.CLIENT)

    def events(self, client: Connection) -> list[Event]:
        client.receive_data(self.take())
        return list(client.events())


def answers(data: bytes, count: int = 1) -> Iterator[tuple[int, dict[bytes, bytes], bytes]]:
    """As h11 reads them."""
    client = h11.Connection(h11.CLIENT)
    for number in range(count):
        client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        if number == 0:
            client.receive_data(data)
        response = client.next_event()
        assert isinstance(response, h11.Response)
        body = b""
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        yield response.status_code, dict(response.headers), body
        if number + 1 < count:
            client.start_next_cycle()


# --- HTTP/1.1 -----------------------------------------------------------------------------------------------------


def test_parts_leave_as_they_come_and_the_connection_goes_on() -> None:
    browser = Browser()
    exchange = browser.ask()
    assert browser.take() == b""
    exchange.start(202, [("x-a", "b")])
    assert exchange.send(b"one")
    out = browser.take()
    assert b"one" in out
    assert exchange.send(b"two")
    exchange.finish()
    exchange.send(b"too late")
    exchange.finish()
    exchange.respond(500)
    out += browser.take()
    browser.ask().respond(200, (), b"next")
    out += browser.take()
    [first, second] = answers(out, 2)
    assert first[0] == 202
    assert first[1][b"transfer-encoding"] == b"chunked"
    assert first[1][b"x-a"] == b"b"
    assert first[2] == b"onetwo"
    assert second[2] == b"next"
    assert browser.happened == []


def test_an_old_client_reads_until_the_end_of_the_connection() -> None:
    browser = Browser()
    exchange = browser.ask(b"GET / HTTP/1.0\r\n\r\n")
    exchange.start(200)
    exchange.send(b"one")
    exchange.finish()
    out = browser.take()
    assert out.endswith(b"\r\n\r\none")
    assert b"chunked" not in out
    assert browser.connection.finished


def test_a_draining_server_says_that_the_connection_ends() -> None:
    browser = Browser()
    exchange = browser.ask()
    browser.connection.drain(0.0)
    assert not browser.connection.finished
    exchange.start(200)
    exchange.finish()
    assert b"connection: close" in browser.take().lower()
    assert browser.connection.finished


def test_a_client_that_does_not_read_is_told_of_once() -> None:
    """What is queued for it is the high mark and the part that passed it."""
    browser = Browser()
    exchange = browser.ask()
    browser.connection.pause()
    exchange.start(200)
    sent = 0
    while exchange.send(bytes(300)):
        sent += 300
    assert sent < LIMITS.stream_high_bytes
    assert browser.take() == b""
    assert browser.happened == []
    browser.connection.resume()
    assert len(browser.take()) < LIMITS.stream_high_bytes + 600
    assert browser.happened == ["writable"]
    assert exchange.send(b"x")
    browser.take()
    assert browser.happened == ["writable"]


def test_what_is_sent_when_there_is_room_leaves_later() -> None:
    browser = Browser()
    exchange = browser.ask()
    exchange.on_writable = lambda: exchange.send(b"more") and None
    exchange.start(200)
    assert not exchange.send(bytes(2000))
    assert b"more" not in browser.take()
    assert b"more" in browser.take()


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_is_told_of_once(begun: bool) -> None:
    browser = Browser()
    exchange = browser.ask()
    if begun:
        exchange.start(200)
        exchange.send(b"x")
    browser.connection.connection_lost()
    browser.connection.connection_lost()
    assert exchange.cancelled
    assert browser.happened == ["closed"]
    exchange.send(b"x")
    exchange.finish()
    exchange.respond(200)


def test_a_client_that_goes_after_the_answer_is_not_told_of() -> None:
    browser = Browser()
    browser.ask().respond(200)
    exchange = browser.ask()
    exchange.start(200)
    exchange.finish()
    browser.connection.connection_lost()
    assert browser.happened == []


def test_a_handler_that_raises_in_the_middle_ends_the_connection() -> None:
    def on_http(exchange: HttpExchange) -> None:
        exchange.start(200)
        raise ValueError("on purpose")

    browser = Browser(on_http)
    browser.send(GET)
    browser.take()
    assert browser.connection.finished
    assert browser.stats.handler_errors == 1


def test_what_a_handler_left_to_be_called_raises_nothing_out_of_the_connection() -> None:
    browser = Browser()
    exchange = browser.ask()
    exchange.start(200)
    exchange.on_writable = exchange.on_closed = lambda: 1 / 0 and None
    exchange.send(bytes(2000))
    browser.take()
    browser.connection.connection_lost()
    assert browser.stats.handler_errors == 2


def test_requests_behind_a_stream_have_a_limit() -> None:
    browser = Browser()
    browser.ask().start(200)
    for _ in range(300):
        browser.send(bytes(1024))
    assert browser.connection.finished
    assert len(browser.exchanges) == 1


# --- HTTP/2 -------------------------------------------------------------------------------------------------------


class SecurePeer(Peer):
    """Its exchanges wait for the test."""

    def __init__(self) -> None:
        super().__init__(LIMITS, is_tls=True)

    def _on_http(self, exchange: HttpExchange) -> None:
        self.exchanges.append(exchange)

    def ask(self) -> HttpExchange:
        self.headers(1, HTTP_REQUEST, frames.END_HEADERS | frames.END_STREAM)
        return self.exchanges[-1]


def test_parts_over_http2() -> None:
    """H-03, H-27."""
    peer = SecurePeer()
    exchange = peer.ask()
    exchange.start(202, [("x-a", "b")])
    exchange.send(b"one")
    fields, body = peer.replies()[1]
    assert (fields[b":status"], fields[b"x-a"], body) == (b"202", b"b", b"one")
    exchange.send(b"two")
    exchange.finish()
    last = [frame for frame in peer.frames() if frame[2] == 1][-1]
    assert last[0] == frames.DATA
    assert last[1] & frames.END_STREAM
    assert not peer.connection.streams


def test_a_client_with_a_closed_window() -> None:
    peer = SecurePeer()
    exchange = peer.ask()
    happened: list[str] = []
    exchange.on_writable = lambda: happened.append("writable")
    exchange.start(200)
    sent = 0
    while exchange.send(bytes(100)):
        sent += 100
        peer.frames()
    # The window of the client, then what may be queued.
    assert 65_000 < sent < 65_535 + LIMITS.stream_high_bytes + 100
    assert happened == []
    peer.send(frames.window_update(0, 100_000) + frames.window_update(1, 100_000))
    peer.frames()
    assert happened == ["writable"]


def test_a_stream_that_the_client_resets() -> None:
    peer = SecurePeer()
    exchange = peer.ask()
    happened: list[str] = []
    exchange.on_closed = lambda: happened.append("closed")
    exchange.start(200)
    peer.send(frames.rst_stream(1, frames.ErrorCode.CANCEL))
    exchange.send(b"x")
    exchange.finish()
    assert happened == ["closed"]
    assert peer.connection.outbox.queued_bytes == 0


# --- WebSockets ---------------------------------------------------------------------------------------------------


def test_a_socket_opens() -> None:
    browser = Browser()
    exchange = browser.ask(UPGRADE)
    exchange.open_socket("bearer", browser.texts.append)
    head = browser.take().decode().lower()
    assert head.startswith("http/1.1 101 ")
    assert f"sec-websocket-accept: {generate_accept_token(KEY).decode().lower()}\r\n" in head
    assert "sec-websocket-protocol: bearer\r\n" in head


def test_texts_go_both_ways() -> None:
    browser = Browser()
    exchange, client = browser.open_socket()
    browser.send(client.send(TextMessage(data="\u00e9")))
    browser.send(client.send(TextMessage(data="in ", message_finished=False)))
    browser.send(client.send(TextMessage(data="two")) + client.send(BytesMessage(data=b"bytes")))
    assert browser.texts == ["\u00e9", "in two", "bytes"]
    exchange.send("\u00e9 back".encode())
    [event] = browser.events(client)
    assert isinstance(event, TextMessage)
    assert event.data == "\u00e9 back"
    exchange.finish()
    [event] = browser.events(client)
    assert isinstance(event, CloseConnection)
    assert event.code == CloseReason.NORMAL_CLOSURE
    assert browser.connection.finished


def test_a_text_right_behind_the_request() -> None:
    texts: list[str] = []
    browser = Browser(lambda exchange: exchange.open_socket(None, texts.append))
    browser.send(UPGRADE + Connection(ConnectionType.CLIENT).send(TextMessage(data="early")))
    assert texts == ["early"]


def test_pings_are_answered_to_those_who_read() -> None:
    browser = Browser()
    _, client = browser.open_socket()
    ping = client.send(Ping(payload=b"1"))
    browser.send(ping)
    [event] = browser.events(client)
    assert isinstance(event, Pong)
    browser.connection.pause()
    for _ in range(1000):
        browser.send(ping)
    browser.connection.resume()
    assert browser.take() == b""


def test_a_client_that_says_goodbye() -> None:
    browser = Browser()
    exchange, client = browser.open_socket()
    browser.send(client.send(CloseConnection(code=1000)))
    browser.events(client)
    assert browser.connection.finished
    browser.connection.connection_lost()
    assert exchange.cancelled
    assert browser.happened == ["closed"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (Connection(ConnectionType.CLIENT).send(TextMessage(data="x" * 501)), CloseReason.MESSAGE_TOO_BIG),
        (b"\xff\xff\xff\xff", CloseReason.PROTOCOL_ERROR),
        (b"\x81\x01x", CloseReason.PROTOCOL_ERROR),
    ],
    ids=["too long", "no frame", "not masked"],
)
def test_frames_that_end_a_socket(data: bytes, reason: CloseReason) -> None:
    browser = Browser()
    _, client = browser.open_socket()
    browser.send(data)
    closing = [event for event in browser.events(client) if isinstance(event, CloseConnection)]
    assert [event.code for event in closing] == [reason]
    assert browser.connection.finished
    assert browser.texts == []


def test_a_text_in_pieces_has_the_same_limit() -> None:
    browser = Browser()
    _, client = browser.open_socket()
    for _ in range(6):
        browser.send(client.send(TextMessage(data="x" * 100, message_finished=False)))
    [event] = browser.events(client)
    assert isinstance(event, CloseConnection)
    assert browser.connection.finished


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"version: 13", b"version: 8"), (b"GET ", b"POST "), (b"HTTP/1.1", b"HTTP/1.0"), (b": websocket", b": h2c")],
)
def test_not_every_upgrade_is_a_socket(old: bytes, new: bytes) -> None:
    browser = Browser()
    exchange = browser.ask(UPGRADE.replace(old, new))
    assert not exchange.wants_socket
    exchange.respond(200, (), b"plain")
    assert browser.take().endswith(b"plain")


# --- whatever comes -----------------------------------------------------------------------------------------------

_PIECES = st.one_of(
    st.sampled_from(
        [GET, UPGRADE, b"POST /v3/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n", b"{}\n", b"\r\n\r\n"]
    ),
    st.sampled_from(
        [b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"]
    ),
    st.sampled_from([b"\x81\x83\x00\x00\x00\x00abc", b"\x89\x80\x00\x00\x00\x00", b"\x88\x80\x00\x00\x00\x00"]),
    st.binary(max_size=60),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=12).map(b"".join), st.lists(st.integers(1, 500), max_size=6))
def test_whatever_comes_nothing_is_raised(data: bytes, cuts: list[int]) -> None:
    """H-28."""

    def on_http(exchange: HttpExchange) -> None:
        if exchange.wants_socket:
            exchange.open_socket(None, lambda text: exchange.send(text.encode("utf-8", "replace")) and None)
        else:
            exchange.start(200)
            exchange.send(exchange.body)
            exchange.finish()

    browser = Browser(on_http)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(edges):
        browser.send(data[start:end])
        browser.take()
    browser.connection.on_tick(1000.0)
    browser.connection.connection_lost()
    assert browser.stats.handler_errors == 0
