"""The channel against our own server and against grpcio's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from rpc_kit import EchoService, bound_socket, run, until

from raftkv.rpc.channel import Channel, ChannelState
from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.grpcio_server import GrpcioServer
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener

UNARY = b"/test.Echo/Unary"
HOLD = b"/test.Echo/Hold"
BIDI = b"/test.Echo/Bidi"

Scenario = Callable[[Channel, EchoService], Awaitable[None]]


class Receiver:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed: list[tuple[Code, str]] = []
        self.writable = 0

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def on_writable(self) -> None:
        self.writable += 1

    def on_closed(self, code: Code, text: str) -> None:
        self.closed.append((code, text))


@pytest.fixture(params=["native", "grpcio"])
def serve(request: pytest.FixtureRequest) -> Callable[..., None]:
    def with_server(scenario: Scenario, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        async def main() -> None:
            service = EchoService()
            loop = asyncio.get_running_loop()
            if request.param == "native":
                listener = Listener(loop, service.routes, None, limits)
                sock, port = bound_socket()
                await listener.start(sock)
            else:
                server = GrpcioServer(service.routes, limits)
                port = server.add_port("127.0.0.1:0")
                await server.start()
            channel = Channel(loop, "127.0.0.1", port)
            try:
                await scenario(channel, service)
            finally:
                channel.close()
                await (listener.drain() if request.param == "native" else server.close())

        run(main)

    return with_server


def test_many_calls_on_one_connection(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        bodies = [b"%d" % n * n for n in range(300)]
        assert await asyncio.gather(*[channel.unary_future(UNARY, body, 5.0) for body in bodies]) == bodies
        assert channel.state is ChannelState.READY

    serve(scenario)


def test_callbacks_get_their_context(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        done: list[object] = []
        channel.unary(UNARY, b"x", lambda *args: done.append(args), "ctx")
        await until(lambda: bool(done))
        assert done == [("ctx", Code.OK, "", b"x")]

    serve(scenario)


@pytest.mark.parametrize("serve", ["native"], indirect=True)
def test_calls_wait_for_a_free_stream(serve: Callable[..., None]) -> None:
    # grpcio's server also counts streams that it has just ended, and refuses some of these calls.
    async def scenario(channel: Channel, service: EchoService) -> None:
        calls = [channel.unary_future(UNARY, b"%d" % n) for n in range(50)]
        assert await asyncio.gather(*calls) == [b"%d" % n for n in range(50)]

    serve(scenario, Limits(max_concurrent_streams=3))


def test_big_messages(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        body = bytes(range(256)) * 8000
        assert await channel.unary_future(UNARY, body) == body
        assert len(await channel.unary_future(b"/test.Echo/Size", b"20000000")) == 20_000_000

    serve(scenario)


def test_errors_metadata_and_deadlines(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        with pytest.raises(RpcError) as caught:
            await channel.unary_future(b"/test.Echo/Fail", "09né %41\n".encode())
        assert (caught.value.code, caught.value.text) == (Code.FAILED_PRECONDITION, "né %41\n")
        metadata = (("token", "t"), ("x-bin", b"bytes"))
        reply = await channel.unary_future(b"/test.Echo/Meta", b"token,x-bin", metadata=metadata)
        assert reply == b"['t', 'bytes']"
        with pytest.raises(RpcError) as caught:
            await channel.unary_future(HOLD, b"", 0.05)
        # Whichever side notices first; grpcio's server spells it its own way.
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert caught.value.text.lower() in ("context deadline exceeded", "deadline exceeded")
        await until(lambda: service.held[0][0].cancelled)
        with pytest.raises(RpcError) as caught:
            await channel.unary_future(b"/test.Echo/Nothing", b"")
        assert caught.value.code is Code.UNIMPLEMENTED

    serve(scenario)


def test_cancelling_tells_the_server(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        future = channel.unary_future(HOLD, b"x")
        await until(lambda: bool(service.held))
        future.cancel()
        await until(lambda: service.held[0][0].cancelled)

    serve(scenario)


def test_streams(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        receiver = Receiver()
        stream = channel.stream(BIDI, receiver)
        bodies = [b"early", b"", b"z" * 50_000, *(b"%d" % n for n in range(50))]
        for body in bodies:
            stream.send(body)
        await until(lambda: len(receiver.messages) == len(bodies))
        stream.half_close()
        await until(lambda: bool(receiver.closed))
        assert receiver.messages == bodies
        assert receiver.closed == [(Code.OK, "")]
        counted = Receiver()
        one = channel.stream(b"/test.Echo/Count", counted)
        one.send(b"3")
        one.half_close()
        await until(lambda: bool(counted.closed))
        assert counted.messages == [b"0", b"1", b"2"]

    serve(scenario)


def test_a_stream_stops_at_the_high_mark_and_goes_on(serve: Callable[..., None]) -> None:
    async def scenario(channel: Channel, service: EchoService) -> None:
        receiver = Receiver()
        stream = channel.stream(BIDI, receiver)
        sent = 1
        while stream.send(bytes(30_000)):
            sent += 1
        await until(lambda: receiver.writable > 0)
        stream.half_close()
        await until(lambda: bool(receiver.closed))
        assert receiver.closed == [(Code.OK, "")]
        assert len(receiver.messages) == sent

    serve(scenario)


def test_nobody_listens() -> None:
    async def main() -> None:
        sock, port = bound_socket()
        sock.close()
        states: list[ChannelState] = []
        channel = Channel(
            asyncio.get_running_loop(), "127.0.0.1", port, state_changed=states.append, backoff_first_s=0.02
        )
        for _ in range(2):
            with pytest.raises(RpcError) as caught:
                await channel.unary_future(UNARY, b"")
            assert caught.value.code is Code.UNAVAILABLE
            assert caught.value.text.startswith("there is no connection available")
        assert states[:2] == [ChannelState.CONNECTING, ChannelState.BACKING_OFF]
        channel.close()
        with pytest.raises(RpcError) as caught:
            await channel.unary_future(UNARY, b"")
        assert caught.value.code is Code.CANCELLED

    run(main)


def test_reconnects_after_a_loss_and_says_what_may_have_happened() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = EchoService()
        listener = Listener(loop, service.routes)
        sock, port = bound_socket()
        await listener.start(sock)
        channel = Channel(loop, "127.0.0.1", port, backoff_first_s=0.01)
        held = channel.unary_future(HOLD, b"")
        await until(lambda: bool(service.held))
        listener.close()
        with pytest.raises(RpcError) as caught:
            await held
        assert caught.value.code is Code.UNAVAILABLE
        assert "there is no" not in caught.value.text
        again = Listener(loop, service.routes)
        sock, _ = bound_socket(port)
        await again.start(sock)
        await until(lambda: channel.state is not ChannelState.BACKING_OFF)
        assert await channel.unary_future(UNARY, b"back") == b"back"
        channel.close()
        await again.drain()

    run(main)


def test_a_draining_server_answers_what_it_has_and_the_channel_moves_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = EchoService()
        listener = Listener(loop, service.routes)
        sock, port = bound_socket()
        await listener.start(sock)
        channel = Channel(loop, "127.0.0.1", port)
        held = channel.unary_future(HOLD, b"")
        await until(lambda: bool(service.held))
        drained = listener.drain()
        await until(lambda: channel.state is ChannelState.IDLE)
        assert not drained.done()
        service.held[0][0].reply(b"answered")
        assert await held == b"answered"
        await drained
        channel.close()

    run(main)


def test_closing_the_channel_cancels_its_calls() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = EchoService()
        listener = Listener(loop, service.routes)
        sock, port = bound_socket()
        await listener.start(sock)
        channel = Channel(loop, "127.0.0.1", port)
        receiver = Receiver()
        channel.stream(BIDI, receiver)
        held = channel.unary_future(HOLD, b"")
        await until(lambda: bool(service.held))
        channel.close()
        assert receiver.closed == [(Code.CANCELLED, "grpc: the client connection is closing")]
        with pytest.raises(RpcError):
            await held
        await until(lambda: listener.connections == 0)
        assert service.streams[0].closed == 1
        listener.close()

    run(main)
