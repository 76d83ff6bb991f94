"""RFC 9113, section by section: what the server answers to each broken rule, and to each rule kept."""

from __future__ import annotations

import pytest
from rpc_kit import HTTP_REQUEST, Peer, message, plain_block, request

from raftkv.rpc import frames
from raftkv.rpc.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)
from raftkv.rpc.limits import Limits

BLOCK = plain_block(request())
OPEN = frame(HEADERS, END_HEADERS, 1, plain_block(request("/test.Echo/Bidi")))
HALF = frame(HEADERS, END_HEADERS | END_STREAM, 1, plain_block(request("/test.Echo/Hold")))
HOLD = frame(HEADERS, END_HEADERS, 1, plain_block(request("/test.Echo/Hold"))) + frame(
    DATA, END_STREAM, 1, message(b"x")
)
DONE = frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, message(b"x"))

CONNECTION_ERRORS = {
    "3.4 first frame is not SETTINGS": (b"", frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "4.2 frame too large": (None, frame(DATA, 0, 1, bytes(16385)), ErrorCode.FRAME_SIZE_ERROR),
    "4.3 undecodable block": (None, frame(HEADERS, END_HEADERS, 1, b"\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "4.3 block interrupted": (
        None,
        frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "4.3 block interrupted by another stream": (
        None,
        frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, END_HEADERS, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "4.3 block interrupted by an unknown frame": (
        None,
        frame(HEADERS, 0, 1, BLOCK) + frame(0x42, 0, 0, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "5.1 idle: DATA": (None, frame(DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "5.1 idle: RST_STREAM": (None, frames.rst_stream(1, 0), ErrorCode.PROTOCOL_ERROR),
    "5.1 idle: WINDOW_UPDATE": (None, frames.window_update(1, 5), ErrorCode.PROTOCOL_ERROR),
    "5.1 closed: HEADERS": (None, DONE + DONE, ErrorCode.STREAM_CLOSED),
    "5.1.1 even stream": (None, frame(HEADERS, END_HEADERS, 2, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "5.1.1 id passed over": (
        None,
        frame(HEADERS, END_HEADERS, 9, BLOCK) + frame(HEADERS, END_HEADERS, 5, BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "6.1 DATA on stream 0": (None, frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "6.1 padding too long": (OPEN, frame(DATA, PADDED, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "6.1 no pad length": (OPEN, frame(DATA, PADDED, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
    "6.2 HEADERS on stream 0": (None, frame(HEADERS, END_HEADERS, 0, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "6.2 padding too long": (
        None,
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + BLOCK[:20]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "6.2 no room for priority": (
        None,
        frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 1, b"\0"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "6.3 PRIORITY on stream 0": (None, frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "6.3 PRIORITY of four bytes": (None, frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "6.4 RST_STREAM on stream 0": (None, frames.rst_stream(0, 0), ErrorCode.PROTOCOL_ERROR),
    "6.4 RST_STREAM of three bytes": (OPEN, frame(RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "6.5 SETTINGS on a stream": (None, frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "6.5 ACK with payload": (None, frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "6.5 SETTINGS of five bytes": (None, frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "6.5.2 ENABLE_PUSH of 2": (None, frames.settings({2: 2}), ErrorCode.PROTOCOL_ERROR),
    "6.5.2 window too large": (None, frames.settings({4: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "6.5.2 frame size too small": (None, frames.settings({5: 16383}), ErrorCode.PROTOCOL_ERROR),
    "6.5.2 frame size too large": (None, frames.settings({5: 2**24}), ErrorCode.PROTOCOL_ERROR),
    "6.6 PUSH_PROMISE": (OPEN, frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "6.7 PING on a stream": (OPEN, frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "6.7 PING of seven bytes": (None, frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "6.8 GOAWAY on a stream": (OPEN, frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "6.8 GOAWAY too short": (None, frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of zero": (None, frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "6.9 WINDOW_UPDATE of three bytes": (
        None,
        frame(WINDOW_UPDATE, 0, 0, bytes(3)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "6.9.1 connection window overflow": (
        None,
        frames.window_update(0, 2**31 - 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "6.9.2 SETTINGS overflows a stream window": (
        OPEN,
        frames.window_update(1, 2**31 - 1 - 65535) + frames.settings({4: 65536}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "6.10 CONTINUATION alone": (None, frame(CONTINUATION, END_HEADERS, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "5.3.1 PRIORITY on itself": (
        None,
        frame(PRIORITY, 0, 1, (1).to_bytes(4, "big") + b"\0"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "5.3.1 HEADERS on itself": (
        None,
        frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 1, (1).to_bytes(4, "big") + b"\0" + BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("rule", CONNECTION_ERRORS)
def test_connection_error(rule: str) -> None:
    before, offence, code = CONNECTION_ERRORS[rule]
    peer = Peer(start=before != b"")
    peer.send(PREFACE if before == b"" else before or b"")
    peer.frames()
    peer.send(offence)
    assert peer.goaway_code() == code
    assert peer.stats.protocol_errors == 1
    assert peer.connection.finished
    peer.send(DONE)
    assert peer.frames() == []


STREAM_ERRORS = {
    "5.1 half-closed: DATA": (HOLD, frame(DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "5.1 half-closed: HEADERS": (HOLD, frame(HEADERS, END_HEADERS, 1, BLOCK), ErrorCode.STREAM_CLOSED),
    "5.1 closed: DATA": (DONE, frame(DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "6.9 WINDOW_UPDATE of zero": (OPEN, frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "6.9.1 stream window overflow": (OPEN, frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "8.1 HEADERS again without END_STREAM": (
        OPEN,
        frame(HEADERS, END_HEADERS, 1, plain_block([(b"a", b"b")])),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "8.1 pseudo-field in trailers": (
        OPEN,
        frame(HEADERS, END_HEADERS | END_STREAM, 1, plain_block([(b":method", b"POST")])),
        ErrorCode.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("rule", STREAM_ERRORS)
def test_stream_error(rule: str) -> None:
    before, offence, code = STREAM_ERRORS[rule]
    peer = Peer()
    peer.send(before)
    peer.frames()
    peer.send(offence)
    assert peer.errors() == [(1, code)]
    peer.send(offence)
    assert not peer.connection.closing
    peer.call(3, b"still alive")
    assert peer.replies()[3][1] == message(b"still alive")


MALFORMED = {
    "8.2.1 upper case": [*HTTP_REQUEST, (b"Upper", b"x")],
    "8.2.1 space in a name": [*HTTP_REQUEST, (b"a b", b"x")],
    "8.2.1 line feed in a value": [*HTTP_REQUEST, (b"a", b"x\ny")],
    "8.2.1 blank before a value": [*HTTP_REQUEST, (b"a", b" x")],
    "8.2.2 connection": [*HTTP_REQUEST, (b"connection", b"close")],
    "8.2.2 te": [*HTTP_REQUEST, (b"te", b"gzip")],
    "8.3 pseudo-field after a field": [*HTTP_REQUEST[:2], (b"a", b"b"), *HTTP_REQUEST[2:]],
    "8.3 unknown pseudo-field": [*HTTP_REQUEST, (b":x", b"y")],
    "8.3 response pseudo-field": [*HTTP_REQUEST, (b":status", b"200")],
    "8.3.1 no method": HTTP_REQUEST[1:],
    "8.3.1 no scheme": [HTTP_REQUEST[0], *HTTP_REQUEST[2:]],
    "8.3.1 no path": [*HTTP_REQUEST[:2], HTTP_REQUEST[3]],
    "8.3.1 empty path": [*HTTP_REQUEST[:2], (b":path", b"")],
    "8.3.1 method twice": [HTTP_REQUEST[0], *HTTP_REQUEST],
    "8.1.1 content-length not a number": [*HTTP_REQUEST, (b"content-length", b"-1")],
    "8.1.1 content-length twice": [*HTTP_REQUEST, (b"content-length", b"1"), (b"content-length", b"2")],
    "8.3 timeout before a pseudo-field": [*HTTP_REQUEST[:2], (b"grpc-timeout", b"1S"), *HTTP_REQUEST[2:]],
}


@pytest.mark.parametrize("rule", MALFORMED)
def test_malformed_request_is_a_stream_error(rule: str) -> None:
    peer = Peer()
    peer.headers(1, MALFORMED[rule], END_HEADERS | END_STREAM)
    assert peer.errors() == [(1, ErrorCode.PROTOCOL_ERROR)]
    peer.call(3, b"ok")
    assert peer.replies()[3][0][b"grpc-status"] == b"0"


@pytest.mark.parametrize("length", [b"5", b"7"])
@pytest.mark.parametrize("headers", [HTTP_REQUEST, request(), request("/test.Echo/Bidi")])
def test_8_1_1_content_length_must_match_the_data(headers: list[tuple[bytes, bytes]], length: bytes) -> None:
    peer = Peer()
    peer.headers(1, [*headers, (b"content-length", length)])
    peer.data(1, message(b"x"), end=True)
    assert (1, ErrorCode.PROTOCOL_ERROR) in peer.errors()


def test_8_1_1_matching_content_length_is_served() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Unary", (b"content-length", b"6")))
    peer.data(1, message(b"x"), end=True)
    assert peer.replies()[1][1] == message(b"x")


def test_5_1_2_too_many_streams_are_refused() -> None:
    peer = Peer(Limits(max_concurrent_streams=2))
    for stream_id in (1, 3, 5):
        peer.call(stream_id, b"x", "/test.Echo/Hold")
    assert peer.errors() == [(5, ErrorCode.REFUSED_STREAM)]
    peer.service.held[0][0].reply(b"y")
    peer.call(7, b"x", "/test.Echo/Hold")
    assert len(peer.service.held) == 3


def test_4_1_unknown_frames_and_6_3_priorities_are_ignored() -> None:
    peer = Peer()
    peer.send(frame(0x16, 0xFF, 7, b"whatever") + frame(PRIORITY, 0, 7, bytes(5)))
    peer.call(1, b"x")
    assert peer.replies()[1][1] == message(b"x")


def test_6_1_and_6_2_padding_and_priority_fields_are_stripped() -> None:
    peer = Peer()
    head = b"\x03" + (5).to_bytes(4, "big") + b"\x10" + BLOCK + bytes(3)
    peer.send(frame(HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 1, head))
    peer.send(frame(DATA, END_STREAM | PADDED, 1, b"\x04" + message(b"padded") + bytes(4)))
    assert peer.replies()[1][1] == message(b"padded")


def test_6_10_a_block_may_come_in_many_frames() -> None:
    peer = Peer()
    cut = [BLOCK[i : i + 10] for i in range(0, len(BLOCK), 10)]
    peer.send(frame(HEADERS, 0, 1, cut[0]))
    for part in cut[1:]:
        peer.send(frame(CONTINUATION, 0, 1, part))
    peer.send(frame(CONTINUATION, END_HEADERS, 1, b""))
    peer.data(1, message(b"x"), end=True)
    assert peer.replies()[1][1] == message(b"x")


def test_6_5_3_settings_and_6_7_ping_are_acknowledged() -> None:
    peer = Peer()
    peer.send(frames.settings({0x99: 1}) + frames.ping(b"12345678", ack=False))
    assert peer.frames() == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


def test_8_1_trailers_may_end_a_request() -> None:
    peer = Peer()
    peer.headers(1, request())
    peer.data(1, message(b"x"))
    assert peer.frames() == []
    peer.headers(1, [(b"a", b"b")], END_HEADERS | END_STREAM)
    assert peer.replies()[1][1] == message(b"x")


def test_8_1_an_early_answer_asks_the_client_to_stop() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Nothing"))
    written = peer.frames()
    assert written[-1] == (RST_STREAM, 0, 1, bytes(4))
    peer.data(1, message(b"late"), end=True)
    assert peer.frames() == []


@pytest.mark.parametrize("position", range(len(PREFACE)))
def test_3_4_wrong_preface(position: int) -> None:
    peer = Peer(start=False)
    wrong = bytearray(PREFACE)
    wrong[position] ^= 1
    peer.send(bytes(wrong))
    assert peer.goaway_code() == ErrorCode.PROTOCOL_ERROR


def test_6_8_drain_lets_calls_end() -> None:
    peer = Peer()
    peer.call(1, b"x", "/test.Echo/Hold")
    peer.connection.drain(peer.now)
    first = peer.frames()
    assert [kind for kind, *_ in first] == [GOAWAY, PING]
    assert first[0][3][:4] == (2**31 - 1).to_bytes(4, "big")
    peer.call(3, b"was on its way")
    assert peer.replies()[3][1] == message(b"was on its way")
    peer.send(frames.ping(first[1][3], ack=True))
    assert peer.frames()[0][3][:4] == (3).to_bytes(4, "big")
    peer.call(5, b"too late")
    assert peer.frames() == []
    assert not peer.connection.finished
    peer.service.held[0][0].reply(b"done")
    assert peer.replies()[1][1] == message(b"done")
    assert peer.connection.finished


def test_6_8_a_leaving_client_still_gets_its_answers() -> None:
    peer = Peer()
    peer.call(1, b"x", "/test.Echo/Hold")
    peer.send(frames.goaway(0, 0))
    assert not peer.connection.finished
    peer.service.held[0][0].reply(b"y")
    assert peer.replies()[1][1] == message(b"y")
    assert peer.connection.finished


def test_half_closed_without_a_message_is_an_error_of_the_call() -> None:
    peer = Peer()
    peer.send(HALF)
    assert peer.replies()[1][0][b"grpc-status"] == b"13"
