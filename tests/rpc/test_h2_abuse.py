"""Cheap attacks end in ENHANCE_YOUR_CALM; clients that keep the rules are never mistaken for attackers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rpc_kit import Peer, message, plain_block, request

from raftkv.rpc import frames
from raftkv.rpc.client_connection import ClientConnection
from raftkv.rpc.frames import CONTINUATION, DATA, END_HEADERS, HEADERS, PRIORITY, ErrorCode, frame
from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats

HOLD = plain_block(request("/test.Echo/Hold"))
SMALL = Limits(flood_burst=50, flood_per_s=10.0, max_header_block_bytes=4096, max_header_list_bytes=4096)


def rapid_reset(n: int) -> bytes:
    return frame(HEADERS, END_HEADERS, 2 * n + 1, HOLD) + frames.rst_stream(2 * n + 1, 8)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": rapid_reset,
    "SETTINGS": lambda n: frames.settings({}),
    "empty DATA": lambda n: (frame(HEADERS, END_HEADERS, 1, HOLD) if n == 0 else b"") + frame(DATA, 0, 1),
    "empty CONTINUATION": lambda n: frame(CONTINUATION, 0, 1) if n else frame(HEADERS, 0, 1, b"\x83"),
    "PRIORITY": lambda n: frame(PRIORITY, 0, 9, bytes(5)),
    "unknown frames": lambda n: frame(0x77, 0, 0),
    "stream errors": lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, b"\x83"),
    "PING": lambda n: frames.ping(bytes(8), ack=False),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_the_connection(name: str) -> None:
    peer = Peer(SMALL)
    for n in range(500):
        peer.send(FLOODS[name](n))
        if peer.connection.closing:
            break
    assert peer.goaway_code() == ErrorCode.ENHANCE_YOUR_CALM
    assert peer.stats.floods == 1
    assert not peer.connection.streams


def test_resets_at_a_bearable_rate_are_no_flood() -> None:
    peer = Peer(SMALL)
    for n in range(500):
        peer.now += 0.11
        peer.send(rapid_reset(n))
    assert not peer.connection.closing


def test_hpack_bomb() -> None:
    peer = Peer(SMALL)
    peer.send(frame(HEADERS, END_HEADERS, 1, b"\x40\x01a\x7f\x81\x15" + b"x" * 2816 + b"\xbe" * 100))
    assert peer.goaway_code() == ErrorCode.ENHANCE_YOUR_CALM


def test_answers_that_are_not_read_are_bounded() -> None:
    peer = Peer(Limits(max_control_bytes=1000, keepalive_min_time_s=0.0))
    peer.connection.pause()
    for _ in range(200):
        peer.send(frames.settings({}))
    assert peer.connection.closing


def test_incomplete_messages_are_bounded_together() -> None:
    peer = Peer(Limits(max_partial_bytes=20_000))
    for stream_id in (1, 3, 5):
        peer.headers(stream_id, request())
        peer.data(stream_id, message(bytes(100_000))[:8000])
    assert peer.replies()[5][0][b"grpc-status"] == b"8"
    assert peer.connection.partial_bytes == 16_000


@pytest.mark.parametrize("sent", [b"", b"PRI * HT", frames.PREFACE, frames.PREFACE + frames.settings({}) + b"\0"])
def test_slow_loris(sent: bytes) -> None:
    peer = Peer(start=False)
    peer.send(sent)
    peer.connection.on_tick(peer.now + 9)
    assert not peer.connection.closing
    peer.connection.on_tick(peer.now + 11)
    assert peer.connection.closing


def ping(peer: Peer) -> None:
    peer.send(frames.ping(bytes(8), ack=False))


def test_g_40_pings_too_close_together_with_a_stream() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    for _ in range(3):
        ping(peer)
        peer.now += 4.9
    assert not peer.connection.closing
    ping(peer)
    goaway = peer.frames()[-1]
    assert goaway[3][4:] == (11).to_bytes(4, "big") + b"too_many_pings"


@pytest.mark.parametrize("cadence_s", [10.0, 30.0])
def test_g_42_known_clients_are_tolerated_for_hours(cadence_s: float) -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    for _ in range(1000):
        peer.now += cadence_s
        ping(peer)
    assert peer.stats.ping_strikes == 0


def test_g_40_without_a_stream_two_hours() -> None:
    peer = Peer()
    for _ in range(4):
        peer.now += 600
        ping(peer)
    assert peer.connection.closing


def test_g_40_strikes_are_forgotten_when_data_is_sent() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    for _ in range(20):
        peer.data(1, message(b"x"))
        ping(peer)
        ping(peer)
    assert not peer.connection.closing


def test_g_41_keepalive() -> None:
    peer = Peer()
    for answer in (True, False):
        peer.now += 7200
        peer.connection.on_tick(peer.now)
        (sent,) = peer.frames()
        assert sent[0] == frames.PING
        if answer:
            peer.send(frames.ping(sent[3], ack=True))
            peer.now += 1
        else:
            peer.now += 21
        peer.connection.on_tick(peer.now)
        assert peer.connection.closing is not answer
    assert peer.stats.keepalive_timeouts == 1


def test_a_client_may_ping_with_every_reply() -> None:
    """grpc-go measures the bandwidth of its connections like that: thousands of pings in a second of load."""
    peer = Peer()
    for number in range(5000):
        peer.call(1 + 2 * number, b"x")
        ping(peer)
        peer.frames()
    assert not peer.connection.closing
    assert peer.stats.ping_strikes == 0


def test_a_server_may_ping_with_every_request() -> None:
    """The same from grpc-go's servers, seen from our channel."""
    connection = ClientConnection(Limits(), Stats(), lambda: None, lambda: None, 0.0)
    connection.receive_data(frames.settings({}), 0.0)
    for number in range(5000):
        connection.receive_data(frames.ping(bytes(8), ack=False), number / 5000)
        connection.take_output()
    assert not connection.closing


def test_errors_that_are_not_read_do_not_pile_up() -> None:
    """They wait for no window, so they have the bound of control frames."""
    peer = Peer(Limits(max_control_bytes=100_000))
    peer.connection.pause()
    for number in range(5000):
        if peer.connection.closing:
            break
        peer.call(1 + 2 * number, b"x", "/test.Echo/Missing")
    assert peer.connection.closing
    assert sum(len(part) for part in peer.connection.outbox.parts) < 300_000
