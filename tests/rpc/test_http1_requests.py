"""What is an HTTP/1.1 request, and what is refused because two servers could read it in two ways (RFC 9112)."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.rpc.http1_requests import MAX_HEAD_BYTES, PIECE_BYTES, Request, RequestError, RequestReader

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
MAX_BODY_BYTES = 100_000


def post(body: bytes, headers: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(body), body)


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (body, trailers)


def read_all(*parts: bytes) -> list[Request]:
    """Raises RequestError."""
    reader = RequestReader(MAX_BODY_BYTES)
    found = []
    for part in parts:
        reader.receive(part)
        while (request := reader.next()) is not None:
            found.append(request)
    return found


def refusal_of(data: bytes) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        read_all(data)
    return caught.value.status, str(caught.value)


def test_what_a_request_says() -> None:
    [request] = read_all(
        b"POST /v3/kv/put?a=b HTTP/1.1\r\nHOST: here\r\nX-A:  one \t\r\nX-a: \xe9\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert (request.method, request.target, request.body) == ("POST", "/v3/kv/put?a=b", b"{}")
    assert request.headers == [("host", "here"), ("x-a", "one"), ("x-a", "\xe9"), ("content-length", "2")]
    assert request.is_http11
    assert request.keeps_alive
    assert not request.wants_socket


@given(st.lists(st.integers(1, 40), max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    data = GET + post(b"one") + chunked(b"two", b"three") + GET
    parts = []
    for size in cuts:
        parts.append(data[:size])
        data = data[size:]
    assert [request.body for request in read_all(*parts, data)] == [b"", b"one", b"twothree", b""]


def test_a_body_of_many_pieces() -> None:
    body = bytes(range(256)) * 300
    assert [each.body for each in read_all(post(body) + GET)] == [body, b""]


def test_requests_are_not_parsed_far_ahead() -> None:
    reader = RequestReader(MAX_BODY_BYTES)
    reader.receive(GET * (10 * PIECE_BYTES // len(GET)))
    assert reader.next() is not None
    assert len(reader._whole) * len(GET) < PIECE_BYTES
    assert len(reader._unread) > 8 * PIECE_BYTES


@pytest.mark.parametrize(
    ("data", "keeps_alive"),
    [
        (GET, True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive, Close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_who_may_send_another_one(data: bytes, keeps_alive: bool) -> None:
    [request] = read_all(data)
    assert request.keeps_alive == keeps_alive


@pytest.mark.parametrize(
    ("data", "status", "word"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "one Host header"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, "one Host header"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "header token"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", 400, "whitespace"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, "header value"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400, "LF"),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400, "CRLF"),
        (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "url"),
        (b"GET / HTTP/1.7\r\nHost: x\r\n\r\n", 400, "version"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "HTTP/1.1"),
        (b"GET /\r\nHost: x\r\n\r\n", 400, "HTTP/1.1"),
        (b"PRI *\r\n\r\n", 400, "HTTP/1.1"),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501, "method"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501, "proxy"),
        (post(b"abc", b"Content-Length: 3\r\n"), 400, "Content-Length"),
        (post(b"abc", b"Content-Length: 4\r\n"), 400, "Content-Length"),
        (post(b"abc", b"Transfer-Encoding: chunked\r\n"), 400, "Transfer-Encoding"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "chunked"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "chunked"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, "chunked"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "Transfer-Encoding",
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP/1.0"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400, "chunk"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400, "chunk size"),
        (post(bytes(MAX_BODY_BYTES + 1)), 413, "too large"),
        (chunked(bytes(MAX_BODY_BYTES), b"x"), 413, "too large"),
        (GET[:-2] + b"X: " + bytes(b"a" * (MAX_HEAD_BYTES + PIECE_BYTES)), 431, "too large"),
        (b"GET /" + b"a" * (MAX_HEAD_BYTES + PIECE_BYTES), 431, "too large"),
        (GET[:-2] + b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + PIECE_BYTES), 431, "too large"),
        (chunked(trailers=b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + PIECE_BYTES)), 431, "too large"),
    ],
)
def test_what_is_refused(data: bytes, status: int, word: str) -> None:
    refused, text = refusal_of(data)
    assert refused == status, text
    assert word.lower() in text.lower()


def test_what_comes_before_a_mistake_is_served() -> None:
    reader = RequestReader(MAX_BODY_BYTES)
    reader.receive(GET + GET + b"\0")
    assert reader.next() is not None
    assert reader.next() is not None
    for _ in range(2):
        with pytest.raises(RequestError):
            reader.next()


def test_trailers_are_no_headers() -> None:
    """Else a client behind a proxy that checks headers could add one."""
    [request] = read_all(chunked(b"a", trailers=b"Authorization: token\r\n"))
    assert "authorization" not in dict(request.headers)


def test_many_small_chunks_are_no_long_head() -> None:
    [request] = read_all(chunked(*[b"a"] * MAX_HEAD_BYTES))
    assert len(request.body) == MAX_HEAD_BYTES


# --- 100 Continue


def test_a_client_that_waits_is_noticed_once() -> None:
    reader = RequestReader(MAX_BODY_BYTES)
    reader.receive(post(b"", b"Expect: 100-Continue\r\n").replace(b"Length: 0", b"Length: 1"))
    assert reader.next() is None
    assert reader.has_head
    assert reader.take_expectation()
    assert not reader.take_expectation()
    reader.receive(b"a")
    assert reader.next() is not None
    assert not reader.has_begun


def test_a_client_that_does_not_wait() -> None:
    reader = RequestReader(MAX_BODY_BYTES)
    reader.receive(post(b"abc", b"Expect: 100-continue\r\n")[:-1])
    assert reader.next() is None
    assert not reader.take_expectation()


# --- offers of another protocol

SOCKET = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
)


def test_a_socket_and_what_follows() -> None:
    reader = RequestReader(MAX_BODY_BYTES)
    reader.receive(GET + SOCKET + b"\r\nframes")
    first, second = reader.next(), reader.next()
    assert first is not None
    assert second is not None
    assert (first.wants_socket, second.wants_socket) == (False, True)
    assert reader.take_rest() == b"frames"


def test_a_socket_that_is_not_given() -> None:
    assert [each.wants_socket for each in read_all(SOCKET + b"\r\n" + GET)] == [True, False]


@pytest.mark.parametrize(
    "offer", [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n", SOCKET[25:]]
)
@pytest.mark.parametrize("size", [0, 3, 3 * PIECE_BYTES])
def test_an_offer_with_a_body_is_declined_and_the_body_is_no_request(offer: bytes, size: int) -> None:
    """What follows the head is a body, also when it looks like a request."""
    body = (GET * PIECE_BYTES)[:size]
    requests = read_all(post(body, offer) + GET)
    assert [(each.method, each.body, each.wants_socket) for each in requests] == [
        ("POST", body, False),
        ("GET", b"", False),
    ]


def test_a_declined_offer_in_chunks() -> None:
    data = chunked(b"one", b"two").replace(b"Host: x\r\n", b"Host: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n")
    assert [each.body for each in read_all(data + GET)] == [b"onetwo", b""]


def test_a_declined_offer_does_not_wait_for_ever() -> None:
    reader = RequestReader(MAX_BODY_BYTES)
    head = post(b"", b"Upgrade: h2c\r\nConnection: upgrade\r\nExpect: 100-continue\r\n")
    reader.receive(head.replace(b"Length: 0", b"Length: 1"))
    assert reader.next() is None
    assert reader.has_head
    assert reader.take_expectation()


# --- whatever comes


@given(st.lists(st.one_of(st.binary(max_size=50), st.sampled_from([GET, SOCKET, post(b"abc"), chunked(b"a")]))))
def test_nothing_but_a_refusal_is_raised(parts: list[bytes]) -> None:
    refusal = None
    try:
        read_all(*parts)
    except RequestError as error:
        refusal = error
    assert refusal is None or refusal.status in (400, 413, 431, 501)


def test_a_reader_that_was_closed_goes_at_once() -> None:
    class Reader(RequestReader):
        __slots__ = ("__weakref__",)

    reader = Reader(MAX_BODY_BYTES)
    reader.receive(GET)
    reader.next()
    gone = weakref.ref(reader)
    gc.disable()
    try:
        reader.close()
        del reader
        assert gone() is None
    finally:
        gc.enable()
