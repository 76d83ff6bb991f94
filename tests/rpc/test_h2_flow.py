"""Flow control in both directions (RFC 9113 section 6.9) and the order in which streams are served."""

from __future__ import annotations

import struct

from rpc_kit import Peer, message, request

from raftkv.rpc import frames
from raftkv.rpc.frames import DATA, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE
from raftkv.rpc.limits import Limits


def body_of(peer: Peer, stream_id: int) -> bytes:
    return b"".join(p for kind, _, sid, p in peer.frames() if kind == DATA and sid == stream_id)


def test_a_reply_larger_than_the_windows_waits_for_them() -> None:
    peer = Peer()
    peer.call(1, b"100000", "/test.Echo/Size")
    got = body_of(peer, 1)
    assert len(got) == 65535
    peer.send(frames.window_update(1, 100_000))
    assert peer.frames() == []
    peer.send(frames.window_update(0, 100_000))
    last = peer.frames()
    got += b"".join(payload for kind, _, _, payload in last if kind == DATA)
    assert got == message(bytes(100_000))
    assert last[-1][:3] == (HEADERS, 5, 1)
    assert peer.connection.outbox.queued_bytes == 0


def test_6_9_2_a_smaller_initial_window_makes_windows_negative() -> None:
    peer = Peer()
    peer.call(1, b"100000", "/test.Echo/Size")
    assert len(body_of(peer, 1)) == 65535
    peer.send(frames.settings({4: 1000}) + frames.window_update(0, 2**20))
    peer.send(frames.window_update(1, 64535))
    assert body_of(peer, 1) == b""
    peer.send(frames.window_update(1, 7))
    assert len(body_of(peer, 1)) == 7
    peer.send(frames.settings({4: 2**20}))
    assert len(body_of(peer, 1)) == 100_005 - 65535 - 7


def test_a_huge_reply_does_not_starve_small_ones() -> None:
    peer = Peer()
    peer.send(frames.settings({4: 2**30}) + frames.window_update(0, 2**30))
    peer.call(1, b"5000000", "/test.Echo/Size")
    peer.call(3, b"40000", "/test.Echo/Size")
    peer.call(5, b"small")
    ended = [sid for kind, flags, sid, _ in peer.frames() if kind == HEADERS and flags & END_STREAM]
    assert ended == [5, 3]
    while peer.connection.outbox.awake:
        peer.frames()
    assert not peer.connection.streams


def test_5_1_a_reset_stream_frees_its_queue() -> None:
    peer = Peer()
    peer.call(1, b"1000000", "/test.Echo/Size")
    peer.frames()
    peer.send(frames.rst_stream(1, 8))
    assert peer.connection.outbox.queued_bytes == 0
    peer.send(frames.window_update(0, 2**20))
    assert peer.frames() == []


def test_a_paused_transport_holds_replies_back() -> None:
    peer = Peer()
    peer.connection.pause()
    peer.call(1, b"x")
    assert peer.frames() == []
    peer.connection.resume()
    assert peer.replies()[1][1] == message(b"x")


def test_new_streams_are_refused_while_too_much_is_queued() -> None:
    peer = Peer(Limits(max_queued_bytes=100_000))
    peer.call(1, b"1000000", "/test.Echo/Size")
    peer.frames()
    peer.call(3, b"x")
    assert peer.frames()[-1][0] == RST_STREAM
    assert peer.stats.calls_refused == 1


def test_receive_windows_are_refilled_in_batches() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    peer.frames()
    chunk = message(bytes(10_000))
    updates: list[tuple[int, int]] = []
    for _ in range(200):
        peer.data(1, chunk)
        peer.send(frames.window_update(0, len(chunk)) + frames.window_update(1, len(chunk)))
        updates += [(sid, struct.unpack(">I", p)[0]) for k, _, sid, p in peer.frames() if k == WINDOW_UPDATE]
    assert {sid for sid, _ in updates} == {0, 1}
    assert len(updates) <= 8
    assert not peer.connection.closing


def test_6_9_1_windows_may_not_be_exceeded() -> None:
    peer = Peer(Limits(recv_window_bytes=20_000))
    peer.headers(1, request("/test.Echo/Hold"))
    peer.connection.streams[1].recv_window = 5
    peer.data(1, b"123456")
    assert peer.errors() == [(1, frames.ErrorCode.FLOW_CONTROL_ERROR)]
    peer.connection._recv_window = 5
    peer.data(1, b"123456")
    assert peer.goaway_code() == frames.ErrorCode.FLOW_CONTROL_ERROR
