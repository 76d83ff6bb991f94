"""Cheap attacks end in ENHANCE_YOUR_CALM; clients that keep the rules are never mistaken for attackers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rpc_kit import HTTP_REQUEST, Peer, message, plain_block, request

from raftkv.rpc import frames
from raftkv.rpc.client_connection import ClientConnection
from raftkv.rpc.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PRIORITY, ErrorCode, frame
from raftkv.rpc.limits import Limits
from raftkv.rpc.server_connection import STREAM_COST_BYTES
from raftkv.rpc.stats import Stats

HOLD = plain_block(request("/test.Echo/Hold"))
SMALL = Limits(
    flood_burst=50,
    flood_per_s=10.0,
    max_header_block_bytes=4096,
    max_header_list_bytes=4096,
    max_concurrent_streams=1000,
)


def held(stream_id: int) -> bytes:
    """The beginning of a call."""
    return frame(HEADERS, END_HEADERS, stream_id, HOLD)


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
    "PING answers": lambda n: frames.ping(bytes(8), ack=True),
    "SETTINGS answers": lambda n: frames.SETTINGS_ACK,
    "CONTINUATION": lambda n: frame(CONTINUATION, 0, 1, bytes(100)) if n else frame(HEADERS, 0, 1, b"\x83"),
    "resets that we are made to send": lambda n: held(2 * n + 1) + frames.window_update(2 * n + 1, 0),
    "DATA after the end": lambda n: held(2 * n + 1) + frame(DATA, END_STREAM, 2 * n + 1, b"\0") * 2,
    "streams beyond the limit": lambda n: held(2 * n + 1),
    "a new window for many streams": lambda n: (
        b"".join(held(2 * each + 1) for each in range(1000)) if n == 0 else frames.settings({4: n})
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_the_connection(name: str) -> None:
    peer = Peer(SMALL._replace(max_concurrent_streams=5) if name == "streams beyond the limit" else SMALL)
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
    assert peer.stats.floods == 1


def test_a_header_list_over_the_limit() -> None:
    """Each field counts 32 bytes more than it has (section 6.5.2)."""
    for count, ends in ((100, False), (130, True)):
        peer = Peer(SMALL)
        peer.send(frame(HEADERS, END_HEADERS, 1, HOLD + b"\x00\x01a\x01b" * count))
        assert (peer.goaway_code() == ErrorCode.ENHANCE_YOUR_CALM) is ends
        assert peer.stats.floods == ends


def test_a_bomb_of_empty_fields() -> None:
    """One byte each, and nothing when decoded: a field in the table without name and value."""
    peer = Peer()
    parts = [b"\x40\x00\x00" + b"\xbe" * 10_000, *[b"\xbe" * 10_000] * 3]
    peer.send(frame(HEADERS, 0, 1, parts[0]))
    for part in parts[1:-1]:
        peer.send(frame(CONTINUATION, 0, 1, part))
    peer.send(frame(CONTINUATION, END_HEADERS, 1, parts[-1]))
    assert peer.goaway_code() == ErrorCode.ENHANCE_YOUR_CALM
    assert peer.stats.floods == 1


def test_windows_may_change_as_often_as_clients_change_them() -> None:
    """grpc-go doubles its window when it finds that more is under way: some ten times in a connection's life."""
    peer = Peer()
    peer.send(b"".join(held(2 * number + 1) for number in range(5000)))
    for power in range(16, 31):
        peer.send(frames.settings({4: 2**power}))
        peer.now += 1
    for _ in range(1000):
        peer.send(frames.settings({4: 2**30}))  # changes nothing
    assert not peer.connection.closing


def test_a_single_new_window_is_no_flood_however_many_streams_there_are() -> None:
    peer = Peer(SMALL._replace(max_concurrent_streams=10_000))
    for number in range(10_000):
        peer.send(held(2 * number + 1))
    peer.send(frames.settings({4: 1}))
    assert not peer.connection.closing


def test_lim_03_a_message_over_the_limit_is_refused_before_it_comes() -> None:
    peer = Peer(Limits(max_message_bytes=1000))
    peer.headers(1, request())
    peer.data(1, message(bytes(1001))[:5])
    fields, _ = peer.replies()[1]
    assert fields[b"grpc-status"] == b"8"
    assert fields[b"grpc-message"].startswith(b"grpc: received message larger than max")
    assert peer.stats.methods[b"/test.Echo/Unary"].handled[8] == 1
    assert peer.connection.partial_bytes == 0


def test_streams_beyond_the_limit_are_refused_and_others_go_on() -> None:
    """LIM-07."""
    peer = Peer(Limits(max_concurrent_streams=2))
    for stream_id in (1, 3, 5):
        peer.send(held(stream_id))
    assert peer.errors() == [(5, ErrorCode.REFUSED_STREAM)]
    assert peer.stats.calls_refused == 1
    peer.data(1, message(b"x"), end=True)
    peer.service.held[0][0].reply(b"y")
    peer.call(7, b"z")
    assert peer.replies()[7][1] == message(b"z")


def unread_calls(number: int) -> bytes:
    block = plain_block(request())
    return frame(HEADERS, END_HEADERS, number, block) + frame(DATA, END_STREAM, number, message(b""))


def unread_heads(number: int) -> bytes:
    block = plain_block([(n, b"HEAD" if n == b":method" else v) for n, v in HTTP_REQUEST])
    return frame(HEADERS, END_HEADERS | END_STREAM, number, block)


@pytest.mark.parametrize("how", ["window", "transport"])
def test_small_replies_that_are_not_read_do_not_pile_up(how: str) -> None:
    """Five bytes each: it is their streams that cost."""
    peer = Peer(Limits(max_queued_bytes=200_000, flood_burst=100_000))
    if how == "window":
        peer.send(frames.settings({4: 0}))
    else:
        peer.connection.pause()
    for number in range(1000):
        peer.send(unread_calls(2 * number + 1))
        peer.connection.take_output()
    assert len(peer.connection.streams) < 200_000 / STREAM_COST_BYTES + 1
    assert peer.stats.calls_refused == 1000 - len(peer.connection.streams)


def test_quiet_streams_cost_nothing_while_all_that_is_sent_is_read() -> None:
    peer = Peer(Limits(max_queued_bytes=200_000))
    for number in range(1000):
        peer.send(held(2 * number + 1))
    assert peer.stats.calls_refused == 0
    assert len(peer.connection.streams) == 1000


def test_answers_without_a_body_that_are_not_read_do_not_pile_up() -> None:
    peer = Peer(Limits(max_control_bytes=10_000), is_tls=True)
    peer.connection.pause()
    for number in range(1000):
        if peer.connection.closing:
            break
        peer.send(unread_heads(2 * number + 1))
    assert peer.connection.closing
    assert peer.stats.floods == 1
    assert sum(len(part) for part in peer.connection.outbox.parts) < 20_000


def test_answers_that_are_not_read_are_bounded() -> None:
    peer = Peer(Limits(max_control_bytes=1000, keepalive_min_time_s=0.0))
    peer.connection.pause()
    for _ in range(200):
        peer.send(frames.settings({}))
    assert peer.connection.closing
    assert peer.stats.floods == 1


def test_incomplete_messages_are_bounded_together() -> None:
    peer = Peer(Limits(max_partial_bytes=20_000))
    for stream_id in (1, 3, 5):
        peer.headers(stream_id, request())
        peer.data(stream_id, message(bytes(100_000))[:8000])
    assert peer.replies()[5][0][b"grpc-status"] == b"8"
    assert peer.stats.methods[b"/test.Echo/Unary"].handled[8] == 1
    assert peer.connection.partial_bytes == 16_000


@pytest.mark.parametrize("sent", [b"", b"PRI * HT", frames.PREFACE, frames.PREFACE + frames.settings({}) + b"\0"])
def test_slow_loris(sent: bytes) -> None:
    peer = Peer(start=False)
    peer.send(sent)
    peer.connection.on_tick(peer.now + 9)
    assert not peer.connection.closing
    peer.connection.on_tick(peer.now + 11)
    assert (peer.stats.handshake_timeouts, peer.stats.goaways_sent) == (1, 1)


@pytest.mark.parametrize(
    "slow",
    [
        frame(HEADERS, END_HEADERS, 1, HOLD),
        frame(HEADERS, 0, 1, HOLD[:9]) + frame(CONTINUATION, 0, 1, HOLD[9:20]) + frame(CONTINUATION, END_HEADERS, 1),
    ],
    ids=["frame", "block"],
)
def test_slow_loris_in_a_request(slow: bytes) -> None:
    """A byte now and then does not help."""
    peer = Peer()
    for at in range(len(slow) - 1):
        peer.send(slow[at : at + 1])
        peer.now += 0.5
        peer.connection.on_tick(peer.now)
        if peer.connection.closing:
            break
    assert peer.goaway_code() == ErrorCode.ENHANCE_YOUR_CALM
    assert (peer.stats.handshake_timeouts, peer.stats.floods) == (1, 1)
    assert not peer.service.held


def test_a_peer_that_never_answers_our_settings() -> None:
    peer = Peer(start=False)
    peer.send(frames.PREFACE + frames.settings({}))
    peer.connection.on_tick(peer.now + 11)
    assert peer.goaway_code() == ErrorCode.SETTINGS_TIMEOUT
    assert peer.stats.handshake_timeouts == 1


def test_who_sends_without_a_pause_is_not_slow() -> None:
    """What is read from a busy connection ends within a frame nearly always."""
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    upload = frame(DATA, 0, 1, message(bytes(1000))) * 100
    for at in range(0, len(upload), 999):
        peer.send(upload[at : at + 999])
        peer.frames()
        peer.now += 1
        peer.connection.on_tick(peer.now)
    assert not peer.connection.closing
    assert len(peer.service.streams[0].messages) == 100


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
    assert peer.stats.ping_strikes == 3


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


@pytest.mark.parametrize("limits", [Limits(keepalive_interval_s=0), Limits(keepalive_timeout_s=0)])
def test_g_41_zero_disables_keepalive(limits: Limits) -> None:
    peer = Peer(limits)
    for _ in range(10):
        peer.now += 7200
        peer.connection.on_tick(peer.now)
    assert peer.frames() == []
    assert not peer.connection.closing


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
    assert peer.stats.floods == 1
    assert sum(len(part) for part in peer.connection.outbox.parts) < 300_000
