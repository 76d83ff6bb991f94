"""gRPC's interoperability tests: Go's own client of them, and the same cases with grpcio, against both servers.

Three kinds of cases are left out, because no handler here can do what they ask a server for, and no service of etcd
does: to answer with metadata (custom_metadata; what a client sends is in test_py_03_metadata), to compress an answer
(server_compressed_*), or to know whether a message came compressed (the probe of client_compressed_*). So are those
about credentials of a cloud and load reports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import interop_service
import pytest
from helpers import go_build
from rpc_kit import bound_socket, run
from tls_kit import Authority, authority_in, credentials_of, settings

from raftkv.rpc.grpcio_server import GrpcioServer
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener
from raftkv.rpc.tls import Tls, server_tls

_SOURCES: Final = Path(__file__).parent / "interop"
_PACKAGE: Final = "google.golang.org/grpc/interop/client"
_CASE_LIMIT_S: Final = 60
LIMITS: Final = Limits(max_message_bytes=2 << 20, drain_timeout_s=1.0)

REQUEST_SIZES: Final = (27182, 8, 1828, 45904)
REPLY_SIZES: Final = (31415, 9, 2653, 58979)
SPECIAL_TEXT: Final = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

_GO_CASES: Final = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "pick_first_unary",
    "rpc_soak",
    "channel_soak",
)


class Transport:
    """Plain text (no authority) or TLS."""

    def __init__(self, authority: Authority | None = None, tls: Tls | None = None) -> None:
        self.authority = authority
        self.tls = tls

    def go_flags(self, port: int) -> list[str]:
        flags = ["--server_host=127.0.0.1", f"--server_port={port}"]
        if self.authority is not None:
            flags += ["--use_tls", "--use_test_ca", f"--ca_file={self.authority.ca}"]
        return flags

    def channel(self, port: int) -> grpc.aio.Channel:
        if self.authority is None:
            return grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials_of(self.authority))


@pytest.fixture(params=["plain", "tls"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    if request.param == "plain":
        return Transport()
    authority, pair = authority_in(tmp_path)
    return Transport(authority, server_tls(settings(authority, pair, wants_client_cert=False)))


@asynccontextmanager
async def _listening(kind: str, tls: Tls | None) -> AsyncIterator[int]:
    if kind == "native":
        listener = Listener(asyncio.get_running_loop(), interop_service.routes(), None, LIMITS)
        sock, port = bound_socket()
        await listener.start(sock, tls)
        try:
            yield port
        finally:
            await listener.drain()
        assert listener.stats.handler_errors == 0
    else:
        server = GrpcioServer(interop_service.routes(), LIMITS)
        port = server.add_port("127.0.0.1:0", tls)
        await server.start()
        try:
            yield port
        finally:
            await server.close()
        assert server.stats.handler_errors == 0


@pytest.fixture(params=["native", "grpcio"])
def serve(request: pytest.FixtureRequest, transport: Transport) -> Callable[[Callable[[int], Awaitable[None]]], None]:
    """`serve(scenario)`: the scenario gets the port of a serving server."""

    def with_server(scenario: Callable[[int], Awaitable[None]]) -> None:
        async def main() -> None:
            async with _listening(request.param, transport.tls) as port:
                await scenario(port)

        run(main, _CASE_LIMIT_S + 5)

    return with_server


# --- Go's client ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("interop") / "client"
    lock = tmp_path_factory.getbasetemp().parent / "interop.lock"
    return go_build.build("Go's interoperability client", _SOURCES, _PACKAGE, program, lock)


async def _run_go(program: Path, *flags: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(program, *flags, stderr=asyncio.subprocess.PIPE)
    try:
        _, said = await asyncio.wait_for(process.communicate(), _CASE_LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


@pytest.mark.parametrize("case", _GO_CASES)
def test_go(go_client: Path, transport: Transport, serve: Callable[..., None], case: str) -> None:
    async def scenario(port: int) -> None:
        code, said = await _run_go(go_client, f"--test_case={case}", *transport.go_flags(port))
        assert code == 0, said

    serve(scenario)


def test_a_case_that_fails_ends_gos_client(go_client: Path, serve: Callable[..., None], transport: Transport) -> None:
    """It asks for metadata that nobody sends."""

    async def scenario(port: int) -> None:
        code, said = await _run_go(go_client, "--test_case=custom_metadata", *transport.go_flags(port))
        assert code != 0
        assert "Expected exactly one header from server" in said

    serve(scenario)


# --- the same with grpcio ---------------------------------------------------------------------------------------------


class Stub:
    """The methods of the service as grpcio calls them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.messages = interop_service.messages()
        self.empty = self._made(channel.unary_unary, "EmptyCall", "Empty", "Empty")
        self.unary = self._made(channel.unary_unary, "UnaryCall", "SimpleRequest", "SimpleResponse")
        names = ("StreamingOutputCallRequest", "StreamingOutputCallResponse")
        self.output = self._made(channel.unary_stream, "StreamingOutputCall", *names)
        self.both = self._made(channel.stream_stream, "FullDuplexCall", *names)
        names = ("StreamingInputCallRequest", "StreamingInputCallResponse")
        self.input = self._made(channel.stream_unary, "StreamingInputCall", *names)

    def _made(self, call: Any, method: str, request: str, reply: str) -> Any:
        path = f"/{interop_service.SERVICE}/{method}"
        return call(path, self.messages[request].SerializeToString, self.messages[reply].FromString)

    def payload(self, size_bytes: int) -> Any:
        return self.messages["Payload"](body=bytes(size_bytes))

    def status(self, text: str) -> Any:
        return self.messages["EchoStatus"](code=2, message=text)

    def simple(self, **fields: Any) -> Any:
        return self.messages["SimpleRequest"](**fields)

    def inputs(self) -> list[Any]:
        return [self.messages["StreamingInputCallRequest"](payload=self.payload(size)) for size in REQUEST_SIZES]

    def asked(self, *sizes: int, **fields: Any) -> Any:
        parameters = [self.messages["ResponseParameters"](size=size) for size in sizes]
        return self.messages["StreamingOutputCallRequest"](response_parameters=parameters, **fields)


async def _refused(call: Awaitable[object], code: grpc.StatusCode, text: str | None = None) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code
    assert text is None or caught.value.details() == text


async def empty_unary(stub: Stub) -> None:
    assert await stub.empty(stub.messages["Empty"]()) == stub.messages["Empty"]()


async def large_unary(stub: Stub) -> None:
    reply = await stub.unary(stub.simple(response_size=314159, payload=stub.payload(271828)))
    assert reply.payload.body == bytes(314159)


async def client_compressed_unary(stub: Stub) -> None:
    """Compressed and plain requests on one connection; of the limit of a message counts what it is when inflated."""
    request = stub.simple(response_size=314159, payload=stub.payload(271828))
    for compression in (grpc.Compression.Gzip, grpc.Compression.NoCompression, grpc.Compression.Gzip):
        assert len((await stub.unary(request, compression=compression)).payload.body) == 314159
    large = stub.simple(payload=stub.payload(LIMITS.max_message_bytes))
    await _refused(stub.unary(large, compression=grpc.Compression.Gzip), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def client_streaming(stub: Stub) -> None:
    assert (await stub.input(iter(stub.inputs()))).aggregated_payload_size == sum(REQUEST_SIZES)


async def client_compressed_streaming(stub: Stub) -> None:
    reply = await stub.input(iter(stub.inputs()), compression=grpc.Compression.Gzip)
    assert reply.aggregated_payload_size == sum(REQUEST_SIZES)


async def server_streaming(stub: Stub) -> None:
    sizes = [len(reply.payload.body) async for reply in stub.output(stub.asked(*REPLY_SIZES))]
    assert sizes == list(REPLY_SIZES)


async def ping_pong(stub: Stub) -> None:
    stream = stub.both()
    for request, reply in zip(REQUEST_SIZES, REPLY_SIZES, strict=True):
        await stream.write(stub.asked(reply, payload=stub.payload(request)))
        assert len((await stream.read()).payload.body) == reply
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def empty_stream(stub: Stub) -> None:
    stream = stub.both()
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def cancel_after_begin(stub: Stub) -> None:
    stream = stub.input(metadata=(("token", "abc"),))
    await asyncio.sleep(0.05)
    assert stream.cancel()
    assert await stream.code() is grpc.StatusCode.CANCELLED


async def cancel_after_first_response(stub: Stub) -> None:
    stream = stub.both()
    await stream.write(stub.asked(31415, payload=stub.payload(27182)))
    assert len((await stream.read()).payload.body) == 31415
    assert stream.cancel()
    assert await stream.code() is grpc.StatusCode.CANCELLED


async def timeout_on_sleeping_server(stub: Stub) -> None:
    began_s = time.monotonic()
    stream = stub.both(timeout=0.2)
    await stream.write(stub.asked(payload=stub.payload(27182)))
    await _refused(stream.read(), grpc.StatusCode.DEADLINE_EXCEEDED)
    assert time.monotonic() - began_s > 0.15


async def status_code_and_message(stub: Stub) -> None:
    for text in ("test status message", SPECIAL_TEXT):
        await _refused(stub.unary(stub.simple(response_status=stub.status(text))), grpc.StatusCode.UNKNOWN, text)
        stream = stub.both()
        await stream.write(stub.asked(response_status=stub.status(text)))
        await _refused(stream.read(), grpc.StatusCode.UNKNOWN, text)


async def unimplemented(stub: Stub) -> None:
    for service in (interop_service.SERVICE, "grpc.testing.UnimplementedService"):
        path = f"/{service}/UnimplementedCall"
        await _refused(stub.channel.unary_unary(path)(b""), grpc.StatusCode.UNIMPLEMENTED)
        await _refused(stub.channel.stream_stream(path)().read(), grpc.StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize(
    "case",
    [
        empty_unary,
        large_unary,
        client_compressed_unary,
        client_streaming,
        client_compressed_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        cancel_after_begin,
        cancel_after_first_response,
        timeout_on_sleeping_server,
        status_code_and_message,
        unimplemented,
    ],
    ids=lambda case: case.__name__,
)
def test_grpcio(serve: Callable[..., None], transport: Transport, case: Callable[[Stub], Awaitable[None]]) -> None:
    async def scenario(port: int) -> None:
        async with transport.channel(port) as channel:
            await case(Stub(channel))

    serve(scenario)
