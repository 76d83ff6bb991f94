"""HTTP/1.1 on the same port as gRPC (H-01, H-02)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from rpc_kit import EchoService, bound_socket, run, until

from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pages:
    def __init__(self) -> None:
        self.held: list[HttpExchange] = []

    def __call__(self, exchange: HttpExchange) -> None:
        if exchange.target == "/hold":
            self.held.append(exchange)
        elif exchange.target == "/raise":
            raise ValueError("on purpose")
        else:
            exchange.respond(200, (("x-target", exchange.target),), exchange.body or b"ok")


def serve(scenario: Callable[[Streams, Pages, Listener], Awaitable[None]]) -> None:
    async def main() -> None:
        pages = Pages()
        limits = Limits(max_http_body_bytes=1000, drain_timeout_s=0.5)
        listener = Listener(asyncio.get_running_loop(), EchoService().routes, pages, limits)
        sock, port = bound_socket()
        await listener.start(sock)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await scenario((reader, writer), pages, listener)
        finally:
            writer.close()
            await listener.drain()

    run(main)


async def answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> tuple[int, bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    size = int(lengths[0].split(b":")[1])
    return status, head, b"" if head_only else await reader.readexactly(size)


def test_keep_alive_and_bodies() -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        for body in (b"one", b"two"):
            writer.write(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n" + body)
            assert (await answer(reader))[::2] == (200, body)

    serve(scenario)


def test_pipelined_answers_keep_their_order() -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        for target in (b"/hold", b"/b", b"/hold", b"/d"):
            writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        for number in (1, 2):
            await until(lambda number=number: len(pages.held) == number)
            pages.held[-1].respond(200, (), b"held")
            assert (await answer(reader))[2] == b"held"
            assert b"x-target" in (await answer(reader))[1]

    serve(scenario)


def test_head_has_no_body() -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader, head_only=True))[0] == 200
        assert (await answer(reader))[2] == b"ok"

    serve(scenario)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + bytes(1001), 413),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 600_000 + b"\r\n\r\n", 431),
        (b"GET /raise HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ],
)
def test_errors(request_bytes: bytes, status: int) -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        writer.write(request_bytes)
        assert (await answer(reader))[0] == status

    serve(scenario)


def test_a_client_that_waits_for_leave_gets_it() -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"one")
        assert (await answer(reader))[::2] == (200, b"one")

    serve(scenario)


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"])
def test_a_client_that_wants_no_more_is_told_that_nothing_follows(head: bytes) -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        writer.write(head + b"\r\n")
        status, found, _ = await answer(reader)
        assert status == 200
        assert b"\r\nconnection: close\r\n" in found.lower()
        assert await reader.read() == b""

    serve(scenario)


def test_a_client_that_offers_another_protocol_is_served_in_this_one() -> None:
    """As Java's does with its first request."""

    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        offer = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"
        for body in (b"one", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"):
            size = b"Content-Length: %d\r\n" % len(body)
            writer.write(b"POST /p HTTP/1.1\r\nHost: x\r\n" + offer + size + b"\r\n" + body)
            assert (await answer(reader))[::2] == (200, body)
        writer.write(b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"x-target: /last" in (await answer(reader))[1]

    serve(scenario)


def test_what_is_neither_http_gets_no_answer() -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        reader, writer = streams
        writer.write(b"INVALID CONNECTION PREFACE\r\n\r\n")
        assert await reader.read() == b""

    serve(scenario)


def test_a_client_that_left_is_marked() -> None:
    async def scenario(streams: Streams, pages: Pages, listener: Listener) -> None:
        _, writer = streams
        writer.write(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(pages.held))
        writer.close()
        await until(lambda: pages.held[0].cancelled)
        pages.held[0].respond(200)

    serve(scenario)
