"""The same service behind our own server and behind grpcio's, called by a stock grpcio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest
from rpc_kit import EchoService, bound_socket, run, until

from raftkv.rpc.codes import Code
from raftkv.rpc.grpcio_server import GrpcioServer
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener
from raftkv.rpc.stats import Stats

Scenario = Callable[[grpc.aio.Channel, EchoService, Stats], Awaitable[None]]

LIMITS = Limits(max_message_bytes=2 * 1024 * 1024, drain_timeout_s=1.0)


@pytest.fixture(params=["native", "grpcio"])
def serve(request: pytest.FixtureRequest) -> Callable[..., None]:
    def with_server(scenario: Scenario, **options: Any) -> None:
        async def main() -> None:
            service = EchoService()
            if request.param == "native":
                listener = Listener(asyncio.get_running_loop(), service.routes, None, LIMITS)
                sock, port = bound_socket()
                await listener.start(sock)
                stats = listener.stats
            else:
                server = GrpcioServer(service.routes, LIMITS)
                port = server.add_port("127.0.0.1:0")
                await server.start()
                stats = server.stats
            channel_options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
            try:
                target = f"127.0.0.1:{port}"
                async with grpc.aio.insecure_channel(target, channel_options, **options) as channel:
                    await scenario(channel, service, stats)
            finally:
                await (listener.drain() if request.param == "native" else server.close())

        run(main)

    return with_server


async def error_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def test_unary_calls_side_by_side(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        unary = channel.unary_unary("/test.Echo/Unary")
        bodies = [b"%d" % n * n for n in range(200)]
        assert await asyncio.gather(*[unary(body) for body in bodies]) == bodies
        counts = stats.methods[b"/test.Echo/Unary"]
        assert (counts.started, counts.received, counts.sent, counts.handled[0]) == (200, 200, 200, 200)

    serve(scenario)


def test_big_messages_both_ways(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        body = bytes(range(256)) * 8000
        assert await channel.unary_unary("/test.Echo/Unary")(body) == body
        size = 20_000_000
        assert await channel.unary_unary("/test.Echo/Size")(b"%d" % size) == bytes(size)

    serve(scenario)


def test_lim_03_a_message_above_the_limit_is_refused(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        code, text = await error_of(channel.unary_unary("/test.Echo/Unary")(bytes(LIMITS.max_message_bytes + 1)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "received message larger than max" in text.lower()
        exact = bytes(LIMITS.max_message_bytes)
        assert await channel.unary_unary("/test.Echo/Unary")(exact) == exact

    serve(scenario)


@pytest.mark.parametrize("text", ["etcdserver: no leader", "", "50% of ключ\n\x01 ünïcode 鍵", "a" * 5000])
def test_errors_carry_code_and_text(serve: Callable[..., None], text: str) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        for number in (1, 3, 5, 8, 9, 14, 16):
            code, details = await error_of(channel.unary_unary("/test.Echo/Fail")(b"%02d" % number + text.encode()))
            assert code.value[0] == number
            assert details == text

    serve(scenario)


def test_er_05_unknown_service_and_method(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        for path, text in (
            ("/no.Such/Thing", "unknown service no.Such"),
            ("/test.Echo/Nothing", "unknown method Nothing for service test.Echo"),
        ):
            assert await error_of(channel.unary_unary(path)(b"")) == (grpc.StatusCode.UNIMPLEMENTED, text)

    serve(scenario)


def test_a_handler_that_raises_fails_only_its_call(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        code, _ = await error_of(channel.unary_unary("/test.Echo/Raise")(b""))
        assert code is grpc.StatusCode.INTERNAL
        assert stats.handler_errors == 1
        assert await channel.unary_unary("/test.Echo/Unary")(b"x") == b"x"

    serve(scenario)


def test_py_03_metadata(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        metadata = (("token", "abc"), ("hasleader", "true"), ("raw-bin", b"bin"), ("token", "second"))
        reply = await channel.unary_unary("/test.Echo/Meta")(b"token,hasleader,raw-bin,missing", metadata=metadata)
        assert reply == b"['abc', 'true', 'bin', None]"

    serve(scenario)


def test_who_calls_is_noted_call_by_call(serve: Callable[..., None]) -> None:
    """`Call.identity` is nobody's at first, on a connection that has served others too."""

    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        for caller in ("alice", "bob"):
            waiting = channel.unary_unary("/test.Echo/Hold")(b"x")
            await until(lambda: bool(service.held))
            call, _ = service.held.pop()
            assert call.identity is None
            call.identity = caller
            assert call.identity == caller
            call.reply(b"y")
            assert await waiting == b"y"

    serve(scenario)


def test_er_04_deadline(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        code, _ = await error_of(channel.unary_unary("/test.Echo/Hold")(b"", timeout=0.05))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: service.held[0][0].cancelled)
        assert service.held[0][0].deadline is not None
        service.held[0][0].reply(b"nobody waits for this")
        assert await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=5) == b"x"

    serve(scenario)


def test_py_04_cancelling_frees_the_call_at_once(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        held = channel.unary_unary("/test.Echo/Hold")(b"")
        stream = channel.stream_stream("/test.Echo/Bidi")()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        await until(lambda: bool(service.held))
        held.cancel()
        stream.cancel()
        await until(lambda: service.held[0][0].cancelled and service.streams[0].closed == 1)

    serve(scenario)


def test_bidi_stream(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        bodies = [b"a", b"", b"c" * 100_000, *(b"%d" % n for n in range(100))]

        async def send() -> AsyncIterator[bytes]:
            for body in bodies:
                yield body

        assert [body async for body in channel.stream_stream("/test.Echo/Bidi")(send())] == bodies
        assert service.streams[0].half_closed
        await until(lambda: service.streams[0].closed == 1)

    serve(scenario)


def test_server_stream(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        replies = [body async for body in channel.unary_stream("/test.Echo/Count")(b"500")]
        assert replies == [b"%d" % n for n in range(500)]

    serve(scenario)


def test_a_stream_ended_by_us_carries_its_status(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        from raftkv.rpc.codes import Code

        stream = channel.stream_stream("/test.Echo/Bidi")()
        await stream.write(b"x")
        await stream.read()
        service.streams[0].call.send(b"last words")
        service.streams[0].call.fail(Code.UNAVAILABLE, "etcdserver: no leader")
        assert service.streams[0].closed == 1
        assert await stream.read() == b"last words"
        assert await error_of(stream.read()) == (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")

    serve(scenario)


def test_gzip_requests_are_understood(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        body = b"compress me " * 10_000
        assert await channel.unary_unary("/test.Echo/Unary")(body) == body

    serve(scenario, compression=grpc.Compression.Gzip)


def test_py_05_a_slow_reader_is_bounded_and_told_when_there_is_room(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        stream = channel.stream_stream("/test.Echo/Bidi")()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        ours = service.streams[0]
        body = bytes(10_000)
        sent = 0
        # One turn of the loop: nothing can leave meanwhile.
        while ours.call.send(body):
            sent += 1
        sent += 1
        assert ours.call.queued_bytes <= LIMITS.stream_high_bytes + len(body) + 5
        for _ in range(sent):
            assert await stream.read() == body
        await until(lambda: ours.writable == 1)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    serve(scenario)


def test_connection_loss_closes_streams_once() -> None:
    async def main() -> None:
        service = EchoService()
        listener = Listener(asyncio.get_running_loop(), service.routes, None, LIMITS)
        sock, port = bound_socket()
        await listener.start(sock)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream("/test.Echo/Bidi")()
            await stream.write(b"x")
            await stream.read()
            listener.close()
            await until(lambda: service.streams[0].closed == 1)
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert service.streams[0].call.cancelled
        assert listener.stats.connections_closed == 1

    run(main)


def test_connections_beyond_the_limit_are_closed() -> None:
    async def main() -> None:
        listener = Listener(asyncio.get_running_loop(), EchoService().routes, None, Limits(max_connections=1))
        sock, port = bound_socket()
        await listener.start(sock)
        _, first = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: listener.connections == 1)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        assert listener.stats.connections_refused == 1
        for writer in (first, second):
            writer.close()
        await until(lambda: listener.connections == 0)
        listener.close()

    run(main)


def test_a_unary_call_that_waits_hears_of_its_end(serve: Callable[..., None]) -> None:
    """Cancelled, out of time, refused or ended before anybody asked: once each; answered: not at all."""

    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        hold = channel.unary_unary("/test.Echo/Hold")
        ended: list[str] = []

        async def held(name: str, timeout_s: float | None = None) -> tuple[Any, Any]:
            seen = len(service.held)
            call = hold(b"", timeout=timeout_s)
            await until(lambda: len(service.held) > seen)
            server_call, _ = service.held[-1]
            server_call.when_closed(lambda: ended.append(name))
            return call, server_call

        cancelled, server_call = await held("cancelled")
        cancelled.cancel()
        await until(lambda: "cancelled" in ended)
        server_call.when_closed(lambda: ended.append("at once"))
        late, _ = await held("late", 0.1)
        assert (await error_of(late))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: "late" in ended)
        refused, server_call = await held("refused")
        server_call.fail(Code.NOT_FOUND, "no")
        assert await error_of(refused) == (grpc.StatusCode.NOT_FOUND, "no")
        answered, server_call = await held("answered")
        server_call.reply(b"yes")
        assert await answered == b"yes"
        large, server_call = await held("large")
        server_call.reply(bytes(3_000_000))
        assert len(await large) == 3_000_000
        assert ended == ["cancelled", "at once", "late", "refused"]

    serve(scenario)


def test_er_04_deadline_of_a_stream(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        stream = channel.stream_stream("/test.Echo/Bidi")(timeout=0.3)
        await stream.write(b"x")
        assert await stream.read() == b"x"
        assert (await error_of(stream.read()))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: service.streams[0].closed == 1)

    serve(scenario)


def test_er_05_an_unknown_method_is_counted_for_streams_too(serve: Callable[..., None]) -> None:
    async def scenario(channel: grpc.aio.Channel, service: EchoService, stats: Stats) -> None:
        stream = channel.stream_stream("/test.Echo/Nothing")()
        assert (await error_of(stream.read()))[0] is grpc.StatusCode.UNIMPLEMENTED
        assert stats.calls_rejected == 1

    serve(scenario)
