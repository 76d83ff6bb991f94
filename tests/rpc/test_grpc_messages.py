"""gRPC's rules without a connection: framing, gzip, timeouts, status text."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpc_kit import Peer, message, request

from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.grpc import MessageReader, format_timeout, parse_timeout, percent_decode, percent_encode


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 20))
def test_messages_in_any_chunks(bodies: list[bytes], step: int) -> None:
    data = b"".join(map(message, bodies))
    reader = MessageReader(1000, gzip=False)
    got = [body for at in range(0, len(data), step) for body in reader.feed(data[at : at + step])]
    assert got == bodies
    assert reader.buffered_bytes == 0


def test_gzip_is_inflated_within_the_limit() -> None:
    body = bytes(1000)
    assert MessageReader(1000, gzip=True).feed(message(gzip.compress(body), 1)) == [body]
    with pytest.raises(RpcError) as caught:
        MessageReader(999, gzip=True).feed(message(gzip.compress(body), 1))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("data", "accepts_gzip"),
    [(message(b"x", 1), False), (message(b"x", 2), True), (message(b"x", 1), True)],
)
def test_bad_messages(data: bytes, accepts_gzip: bool) -> None:
    with pytest.raises(RpcError) as caught:
        MessageReader(1000, accepts_gzip).feed(data)
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"99999999n", 0.099999999)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"123456789S", b"1.5S"])
def test_malformed_timeouts(value: bytes) -> None:
    with pytest.raises(RpcError):
        parse_timeout(value)
    peer = Peer()
    peer.call(1, b"x", "/test.Echo/Unary", (b"grpc-timeout", value))
    assert peer.replies()[1][0][b"grpc-status"] == b"13"


@given(st.floats(0, 1e9))
def test_a_sent_timeout_is_never_shorter(timeout_s: float) -> None:
    value = format_timeout(timeout_s)
    assert len(value) <= 9
    assert parse_timeout(value) >= min(timeout_s, 99999999 * 3600) * (1 - 1e-12)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_status_text_survives(text: str) -> None:
    encoded = percent_encode(text)
    assert encoded.isascii()
    assert all(0x20 <= octet <= 0x7E for octet in encoded)
    assert percent_decode(encoded) == text


def test_unknown_encoding_names_those_we_speak() -> None:
    peer = Peer()
    peer.call(1, b"x", "/test.Echo/Unary", (b"grpc-encoding", b"snappy"))
    fields = peer.replies()[1][0]
    assert fields[b"grpc-status"] == b"12"
    assert fields[b"grpc-accept-encoding"] == b"identity,gzip"


def test_content_type_other_than_grpc_is_415_in_plain_text() -> None:
    peer = Peer()
    headers = [(n, b"application/json" if n == b"content-type" else v) for n, v in request()]
    peer.headers(1, headers)
    peer.data(1, b"{}", end=True)
    assert peer.replies()[1][0][b":status"] == b"415"


def test_h_03_http_over_tls_reaches_the_pages() -> None:
    peer = Peer(is_tls=True)
    headers = [(n, v) for n, v in request("/health") if n != b"content-type"]
    peer.headers(1, headers)
    peer.data(1, b"{}", end=True)
    fields, body = peer.replies()[1]
    assert (fields[b":status"], body) == (b"200", b"page")
    exchange = peer.exchanges[0]
    assert (exchange.method, exchange.target, exchange.body) == ("POST", "/health", b"{}")
    assert exchange.header("host") == "localhost"


def test_deadline_expires_within_a_tick() -> None:
    peer = Peer()
    peer.call(1, b"x", "/test.Echo/Hold", (b"grpc-timeout", b"50m"))
    peer.context.deadlines.sweep(peer.now + 0.049)
    assert peer.frames() == []
    peer.context.deadlines.sweep(peer.now + 0.061)
    fields = peer.replies()[1][0]
    assert (fields[b"grpc-status"], fields[b"grpc-message"]) == (b"4", b"context deadline exceeded")
    call = peer.service.held[0][0]
    assert call.cancelled
    call.reply(b"late")
    assert peer.frames() == []


def test_metadata_that_is_not_utf8_can_be_told() -> None:
    peer = Peer()
    peer.call(1, b"client-api-version", "/test.Echo/Hold", (b"client-api-version", b"\xff3.6"))
    assert peer.service.held[0][0].metadata("client-api-version") == "\udcff3.6"
