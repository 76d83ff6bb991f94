"""Puts through the JSON gateway: a closed loop on each connection, HTTP/1.1 with keep-alive.

A client of this bench's own, because the usual ones cost more per request than the servers that are measured. It
understands what both gateways send, an answer with a length, and calls anything else an error. Knows nothing of gRPC
but that it tells when somebody serves.
"""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from time import perf_counter
from typing import Final, cast

from bench.load import RETRY_S, LoadError, LoadOptions, LoadResult, Meter, Window, close, connect
from bench.workloads import KeyWalk, Shape, key_of, value_of
from raftkv.rpc.codes import Code

PUT_JSON: Final = "put-json"
"""The workload's name."""
_PATH: Final = "/v3/kv/put"
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_SHOWN_BYTES: Final = 200
"""Of an answer that is no success."""


class PutMaker:
    """Whole requests, one after the other, over the key space."""

    __slots__ = ("_after", "_before", "_prefix", "_walk")

    def __init__(self, shape: Shape, host: str, port: int) -> None:
        after = b'","value":"%b"}' % _base64(value_of(shape.value_bytes))
        size = len(b'{"key":"') + len(_base64(key_of(shape.prefix, 0))) + len(after)
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: raftkv-bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        )
        self._before: Final = head.encode() + b'{"key":"'
        self._after: Final = after
        self._prefix: Final = shape.prefix
        self._walk: Final = KeyWalk(shape.key_space)

    def next(self) -> bytes:
        return self._before + _base64(key_of(self._prefix, self._walk.next())) + self._after


class _Client(asyncio.Protocol):
    """One connection and one request in flight on it."""

    __slots__ = ("_buffer", "_loop", "_meter", "_requests", "_started", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, meter: Meter, requests: PutMaker) -> None:
        self._loop = loop
        self._meter = meter
        self._requests = requests
        self._buffer = b""
        self._started = 0.0
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def put(self) -> None:
        if self._meter.running and not self._transport.is_closing():
            self._started = perf_counter()
            self._transport.write(self._requests.next())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(_HEAD_END)
        if not found:
            return
        length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0].strip()
        if not length.isdigit():
            self._meter.count_error(Code.INTERNAL, f"an answer without a length: {head[:_SHOWN_BYTES]!r}")
            self._transport.abort()
        elif len(body) >= int(length):
            received, self._buffer = len(self._buffer), b""
            self._on_answer(head.split(b" ", 2)[1], body, received)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._meter.running:
            self._meter.count_error(Code.UNAVAILABLE, f"connection lost: {exc}")

    def close(self) -> None:
        self._transport.abort()

    def _on_answer(self, status: bytes, body: bytes, received_bytes: int) -> None:
        meter = self._meter
        if not meter.running:
            return
        if status != b"200":
            meter.count_error(Code.UNKNOWN, f"HTTP {status.decode()}: {body[:_SHOWN_BYTES].decode(errors='replace')}")
            self._loop.call_later(RETRY_S, self.put)
            return
        meter.histogram.record(int((perf_counter() - self._started) * 1e6))
        meter.received_bytes += received_bytes
        self.put()


async def drive_gateway(options: LoadOptions) -> LoadResult:
    """Each of the `clients` has a connection of its own, whatever `connections` says.

    Raises LoadError when it cannot be made, OSError when a server process is gone.
    """
    loop = asyncio.get_running_loop()
    close(await connect(options.host, options.port, 1))
    meter = Meter()
    requests = PutMaker(options.shape, options.host, options.port)
    clients: list[_Client] = []
    try:
        for _ in range(options.clients):
            client = _Client(loop, meter, requests)
            clients.append(client)
            await loop.create_connection(lambda client=client: client, options.host, options.port)  # type: ignore[misc]
        for client in clients:
            client.put()
        return await Window(options._replace(connections=options.clients), meter).measure()
    except ConnectionError as error:
        raise LoadError(f"the gateway of {options.host}:{options.port} takes no connection: {error}") from error
    finally:
        meter.running = False
        for client in clients:
            client.close()


def _base64(data: bytes) -> bytes:
    return b2a_base64(data, newline=False)
