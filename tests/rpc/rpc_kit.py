"""A peer made of bytes for the sans-IO tests, and small services for the tests with sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import hpack

from raftkv.rpc import frames
from raftkv.rpc.codes import Code
from raftkv.rpc.frames import END_HEADERS, END_STREAM, PREFACE
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.limits import Limits
from raftkv.rpc.server_connection import ServerConnection
from raftkv.rpc.server_context import ServerContext
from raftkv.rpc.service import Call, Routes, Service, build_routes
from raftkv.rpc.stats import Stats

Frame = tuple[int, int, int, bytes]

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test.Echo/Unary"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
HTTP_REQUEST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"x")]


def request(path: str = "/test.Echo/Unary", *extra: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(n, path.encode() if n == b":path" else v) for n, v in REQUEST] + list(extra)


def plain_block(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Literals only: the same bytes whatever the table holds."""
    out = b""
    for name, value in headers:
        assert len(name) < 127
        assert len(value) < 127
        out += bytes((0, len(name))) + name + bytes((len(value),)) + value
    return out


def message(body: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(body)) + body


def split_frames(data: bytes) -> list[Frame]:
    out = []
    while data:
        length = int.from_bytes(data[:3], "big")
        out.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        assert len(data) >= 9 + length
        data = data[9 + length :]
    return out


class EchoStream:
    """Sends back what it gets; keeps what happened to it."""

    opened: list[EchoStream]

    def __init__(self, call: Call) -> None:
        self.call = call
        self.messages: list[bytes] = []
        self.half_closed = False
        self.closed = 0
        self.writable = 0

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)
        self.call.send(message)

    def on_half_close(self) -> None:
        self.half_closed = True
        self.call.finish()

    def on_closed(self) -> None:
        self.closed += 1

    def on_writable(self) -> None:
        self.writable += 1


class EchoService:
    """Every kind of method, and every way to misbehave. Calls of `Hold` wait for the test."""

    def __init__(self) -> None:
        self.streams: list[EchoStream] = []
        self.held: list[tuple[Call, bytes]] = []
        self.seen: list[str | None] = []
        self.routes: Routes = build_routes(
            [
                Service("test.Echo")
                .unary("Unary", lambda call, message: call.reply(message))
                .unary("Hold", lambda call, message: self.held.append((call, message)))
                .unary("Fail", lambda call, message: call.fail(Code(int(message[:2])), message[2:].decode()))
                .unary("Raise", self._raise)
                .unary("Meta", self._meta)
                .unary("Size", lambda call, message: call.reply(bytes(int(message))))
                .server_stream("Count", lambda call: CountStream(call))
                .bidi("Bidi", self._open)
            ]
        )

    def _raise(self, call: Call, message: bytes) -> None:
        raise ValueError("on purpose")

    def _meta(self, call: Call, message: bytes) -> None:
        call.reply(repr([call.metadata(key) for key in message.decode().split(",")]).encode())

    def _open(self, call: Call) -> EchoStream:
        stream = EchoStream(call)
        self.streams.append(stream)
        return stream


class CountStream(EchoStream):
    """Answers a number n with n messages."""

    def on_message(self, message: bytes) -> None:
        for number in range(int(message)):
            self.call.send(b"%d" % number)
        self.call.finish()

    def on_half_close(self) -> None:
        self.half_closed = True


class Peer:
    """A client as bytes in front of a ServerConnection. Time stands still unless a test moves it."""

    def __init__(self, limits: Limits | None = None, *, start: bool = True, is_tls: bool = False) -> None:
        self.service = EchoService()
        self.stats = Stats()
        self.exchanges: list[HttpExchange] = []
        self.context = ServerContext(self.service.routes, self._on_http, limits or Limits(), self.stats, lambda: None)
        self.now = 100.0
        self.wakes = 0
        self.connection = ServerConnection(self.context, "peer:1", is_tls, None, self._wake, self.now)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        if start:
            self.send(PREFACE + frames.settings({}) + frames.SETTINGS_ACK)
            self.frames()

    def _wake(self) -> None:
        self.wakes += 1

    def _on_http(self, exchange: HttpExchange) -> None:
        self.exchanges.append(exchange)
        exchange.respond(200, (("content-type", "text/plain"),), b"page")

    def send(self, data: bytes) -> None:
        self.connection.receive_data(data, self.now)

    def frames(self) -> list[Frame]:
        return split_frames(self.connection.take_output())

    def headers(self, stream_id: int, headers: list[tuple[bytes, bytes]], flags: int = END_HEADERS) -> None:
        self.send(frames.frame(frames.HEADERS, flags, stream_id, self.encoder.encode(headers)))

    def data(self, stream_id: int, payload: bytes, end: bool = False) -> None:
        self.send(frames.frame(frames.DATA, END_STREAM if end else 0, stream_id, payload))

    def call(self, stream_id: int, body: bytes, path: str = "/test.Echo/Unary", *extra: tuple[bytes, bytes]) -> None:
        self.headers(stream_id, request(path, *extra))
        self.data(stream_id, message(body), end=True)

    def replies(self) -> dict[int, tuple[dict[bytes, bytes], bytes]]:
        """Headers and trailers together, and DATA, of each stream in what was written."""
        out: dict[int, tuple[dict[bytes, bytes], bytes]] = {}
        for kind, _, stream_id, payload in self.frames():
            fields, body = out.get(stream_id, ({}, b""))
            if kind == frames.HEADERS:
                fields.update(self.decoder.decode(payload, raw=True))
            elif kind == frames.DATA:
                body += payload
            else:
                continue
            out[stream_id] = (fields, body)
        return out

    def goaway_code(self) -> int | None:
        for kind, _, _, payload in self.frames():
            if kind == frames.GOAWAY:
                return int.from_bytes(payload[4:8], "big")
        return None

    def errors(self) -> list[tuple[int, int]]:
        """(stream, code) of each RST_STREAM, and (0, code) of a GOAWAY."""
        out = []
        for kind, _, stream_id, payload in self.frames():
            if kind == frames.RST_STREAM:
                out.append((stream_id, int.from_bytes(payload, "big")))
            elif kind == frames.GOAWAY:
                out.append((0, int.from_bytes(payload[4:8], "big")))
        return out


def bound_socket(port: int = 0) -> tuple[socket.socket, int]:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock, sock.getsockname()[1]


def run(main: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 20.0) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), timeout_s)

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something has happened; the test's own time limit ends a vain wait."""
    while not condition():
        await asyncio.sleep(0.002)
