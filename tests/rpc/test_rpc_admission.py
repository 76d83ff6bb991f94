"""A method may refuse a call for its metadata, before its handler sees anything of it; by both servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from rpc_kit import Peer, bound_socket, run

from raftkv.rpc.codes import Code
from raftkv.rpc.grpcio_server import GrpcioServer
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Call, Routes, Service, StreamReceiver, build_routes

LIMITS = Limits(drain_timeout_s=1.0)


class Doorman:
    """Lets in who has a ticket; counts how often it is asked, and what gets through."""

    def __init__(self) -> None:
        self.asked = 0
        self.let_in: list[str] = []

    def routes(self) -> Routes:
        service = Service("test.Hall").unary("Enter", self._enter).server_stream("Stay", self._stay)
        return {path: each._replace(admit=self._admit) for path, each in build_routes((service,)).items()}

    def _admit(self, metadata: Callable[[str], str | None]) -> tuple[Code, str] | None:
        self.asked += 1
        return None if metadata("ticket") == "yes" else (Code.PERMISSION_DENIED, "no ticket")

    def _enter(self, call: Call, message: bytes) -> None:
        self.let_in.append(call.method.path)
        call.reply(message)

    def _stay(self, call: Call) -> StreamReceiver:
        self.let_in.append(call.method.path)
        return _Echo(call)


class _Echo:
    def __init__(self, call: Call) -> None:
        self._call = call

    def on_message(self, message: bytes) -> None:
        self._call.send(message)
        self._call.finish()

    def on_half_close(self) -> None: ...

    def on_closed(self) -> None: ...

    def on_writable(self) -> None: ...


@pytest.mark.parametrize("kind", ["native", "grpcio"])
def test_only_who_is_admitted_reaches_a_handler(kind: str) -> None:
    doorman = Doorman()

    async def main() -> None:
        server: Listener | GrpcioServer
        if kind == "native":
            server = Listener(asyncio.get_running_loop(), doorman.routes(), None, LIMITS)
            sock, port = bound_socket()
            await server.start(sock)
        else:
            server = GrpcioServer(doorman.routes(), LIMITS)
            port = server.add_port("127.0.0.1:0")
            await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await scenario(channel)
        finally:
            await server.drain()

    async def scenario(channel: grpc.aio.Channel) -> None:
        enter, stay = channel.unary_unary("/test.Hall/Enter"), channel.unary_stream("/test.Hall/Stay")
        ticket = (("ticket", "yes"),)

        async def stayed(answers: AsyncIterator[bytes]) -> list[bytes]:
            return [each async for each in answers]

        for _ in range(3):
            assert await enter(b"hello", metadata=ticket) == b"hello"
            assert await stayed(stay(b"hello", metadata=ticket)) == [b"hello"]
            for refused in (enter(b"hello"), stayed(stay(b"hello", metadata=(("ticket", "no"),)))):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await refused
                assert (caught.value.code(), caught.value.details()) == (
                    grpc.StatusCode.PERMISSION_DENIED,
                    "no ticket",
                )

    run(main)
    assert doorman.let_in == ["/test.Hall/Enter", "/test.Hall/Stay"] * 3


def test_one_who_comes_again_with_the_same_head_is_not_asked_again() -> None:
    """The hot path pays nothing: the answer is part of what a head means."""
    peer, doorman = Peer(), Doorman()
    peer.context.routes = doorman.routes()  # type: ignore[misc]  # before the first call
    for number in range(5):
        peer.call(4 * number + 1, b"x", "/test.Hall/Enter", (b"ticket", b"yes"))
        peer.call(4 * number + 3, b"x", "/test.Hall/Enter", (b"grpc-timeout", b"%dm" % (number + 500)))
    assert doorman.asked == 2
    assert doorman.let_in == ["/test.Hall/Enter"] * 5
