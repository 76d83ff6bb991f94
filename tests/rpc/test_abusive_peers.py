"""Abuse through real sockets: it ends the abuser's connection, and the others are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from helpers.effort import calls_during
from rpc_kit import EchoService, Peer, bound_socket, message, plain_block, request, run, until

from raftkv.rpc import frames
from raftkv.rpc.channel import Channel
from raftkv.rpc.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener

OPENING = PREFACE + frames.settings({}) + frames.SETTINGS_ACK
HOLD = plain_block(request("/test.Echo/Hold"))
BIDI = plain_block(request("/test.Echo/Bidi"))
SIZE = plain_block(request("/test.Echo/Size"))
LIMITS = Limits(handshake_timeout_s=0.5, drain_timeout_s=0.5, max_queued_bytes=8 * 1024 * 1024)
FLOOD_CALLS = 60_000
"""Calls of functions that a flood may cost the loop before its sender is given up: some milliseconds."""

Scenario = Callable[[EchoService, Listener, int], Awaitable[None]]


def serve(scenario: Scenario, limits: Limits = LIMITS) -> None:
    async def main() -> None:
        service = EchoService()
        listener = Listener(asyncio.get_running_loop(), service.routes, None, limits)
        sock, port = bound_socket()
        await listener.start(sock)
        try:
            await scenario(service, listener, port)
        finally:
            await listener.drain()

    run(main)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, HOLD) + frames.rst_stream(2 * n + 1, 8),
    "SETTINGS": lambda n: frames.settings({}),
    "PING": lambda n: frames.ping(bytes(8), ack=False),
    "empty DATA": lambda n: frame(DATA, 0, 1) if n else frame(HEADERS, END_HEADERS, 1, HOLD),
    "CONTINUATION": lambda n: frame(CONTINUATION, 0, 1, b"\x82" * 99) if n else frame(HEADERS, 0, 1, b"\x83"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_and_others_are_served(name: str) -> None:
    async def scenario(service: EchoService, listener: Listener, port: int) -> None:
        flood = b"".join(map(FLOODS[name], range(20_000)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING + flood)
        channel = Channel(asyncio.get_running_loop(), "127.0.0.1", port)
        for _ in range(50):
            assert await channel.unary_future(b"/test.Echo/Unary", b"x", 10.0) == b"x"
        with suppress(ConnectionError):
            await reader.read(-1)  # until the server closes
        await until(lambda: listener.connections == 1)
        assert listener.stats.floods == 1
        writer.close()
        channel.close()

    serve(scenario)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_given_up_before_it_costs_much(name: str) -> None:
    """Even if it comes in one read: what comes after the limit is not looked at."""

    def cost(frames_sent: int) -> int:
        peer = Peer(limits=LIMITS)
        flood = b"".join(map(FLOODS[name], range(frames_sent)))
        calls = calls_during(lambda: peer.send(flood))
        assert peer.stats.floods == 1
        return calls

    short, long = cost(10_000), cost(40_000)
    assert long <= short * 1.01
    assert long < FLOOD_CALLS


def test_a_reader_that_never_reads_is_bounded_and_others_are_served() -> None:
    async def scenario(service: EchoService, listener: Listener, port: int) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(PREFACE + frames.settings({4: 2**31 - 1}) + frames.SETTINGS_ACK)
        writer.write(frames.window_update(0, 2**30))
        for number in range(100):
            ask = frame(HEADERS, END_HEADERS, 2 * number + 1, SIZE)
            writer.write(ask + frame(DATA, END_STREAM, 2 * number + 1, message(b"1000000")))
        await until(lambda: listener.stats.calls_refused > 0)
        channel = Channel(asyncio.get_running_loop(), "127.0.0.1", port)
        assert await channel.unary_future(b"/test.Echo/Unary", b"x", 10.0) == b"x"
        # What is queued, what the transport and the kernel hold, and no more.
        counts = listener.stats.methods[b"/test.Echo/Size"]
        assert counts.started + listener.stats.calls_refused == 100
        assert counts.started < 30
        writer.transport.abort()
        channel.close()

    serve(scenario)


def test_a_peer_that_closes_its_half_is_let_go() -> None:
    async def scenario(service: EchoService, listener: Listener, port: int) -> None:
        for sent in (b"", PREFACE[:9], OPENING, OPENING + frame(HEADERS, END_HEADERS, 1, BIDI)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            await reader.read(-1)
            writer.close()
        await until(lambda: listener.connections == 0)
        assert [stream.closed for stream in service.streams] == [1]
        assert service.streams[0].call.cancelled
        assert listener.stats.connections_closed == 4

    serve(scenario)


SILENCES = {
    "nothing": b"",
    "preface begun": PREFACE[:9],
    "preface": PREFACE,
    "SETTINGS": PREFACE + frames.settings({}),
    "HTTP head": b"GET / HTTP/1.1\r\nHo",
    "HTTP body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12345678",
}


@pytest.mark.parametrize("sent", SILENCES.values(), ids=SILENCES)
def test_a_silent_peer_is_let_go(sent: bytes) -> None:
    async def scenario(service: EchoService, listener: Listener, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        with suppress(ConnectionError):
            await reader.read(-1)
        await until(lambda: listener.connections == 0)
        assert listener.stats.handshake_timeouts == 1
        writer.close()

    serve(scenario)


def test_an_http_connection_without_a_request_is_let_go() -> None:
    async def scenario(service: EchoService, listener: Listener, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 404 ")
        await until(lambda: listener.connections == 0)
        assert listener.stats.handshake_timeouts == 0
        writer.close()

    serve(scenario, LIMITS._replace(idle_http_timeout_s=0.3))


def test_g_41_a_peer_that_falls_silent_on_a_stream_is_let_go() -> None:
    async def scenario(service: EchoService, listener: Listener, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING + frame(HEADERS, END_HEADERS, 1, BIDI))
        with suppress(ConnectionError):
            await reader.read(-1)
        await until(lambda: service.streams[0].closed == 1)
        assert listener.stats.keepalive_timeouts == 1
        writer.close()

    serve(scenario, LIMITS._replace(keepalive_interval_s=1.0, keepalive_timeout_s=0.5))
