"""Clients that list at the same time and throw away what they get: many, with large answers, in little memory.

A client of its own: one that keeps a message until it is whole would need the memory that is to be measured. Speaks as
much of HTTP/2 as one call on one connection takes. Knows nothing of who serves.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from time import perf_counter
from typing import Final, NamedTuple, cast

import hpack

from bench.workloads import RANGE_PATH, UNARY, Shape
from raftkv.rpc.codes import Code

WINDOW_BYTES: Final = (1 << 31) - 1
"""So that the socket alone holds the server up, and no window must be opened again."""
MAX_FRAME_BYTES: Final = 1 << 16
RECEIVE_BYTES: Final = 1 << 18
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEAD: Final = struct.Struct(">IBI")


class ListingResult(NamedTuple):
    seconds: float
    """From the first request to the last answer's end."""
    received_bytes: int
    """Of all answers."""
    longest_s: float
    ends: dict[str, int]
    """How the calls ended, by status."""


def list_request(shape: Shape) -> bytes:
    return UNARY["list-all"].encode(shape)


async def list_at_once(host: str, port: int, request: bytes, clients: int, timeout_s: float) -> ListingResult:
    """Each client on a connection of its own, all at once; those that have no end after `timeout_s` are given up.

    Raises OSError when one cannot connect.
    """
    loop = asyncio.get_running_loop()
    listers = [_Lister(loop, request) for _ in range(clients)]
    for lister in listers:
        await loop.create_connection(lambda lister=lister: lister, host, port)  # type: ignore[misc]
    began = perf_counter()
    for lister in listers:
        lister.begin()
    await asyncio.wait([lister.ended for lister in listers], timeout=timeout_s)
    for lister in listers:
        lister.close()
    ends = Counter(lister.ended.result() if lister.ended.done() else "unfinished" for lister in listers)
    return ListingResult(
        seconds=perf_counter() - began,
        received_bytes=sum(lister.received_bytes for lister in listers),
        longest_s=max(lister.ended_s for lister in listers) - began if ends["unfinished"] < clients else timeout_s,
        ends=dict(ends),
    )


class _Lister(asyncio.BufferedProtocol):
    """One call. `ended`: with the name of its status, or how else it ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, request: bytes) -> None:
        self.ended: asyncio.Future[str] = loop.create_future()
        self.ended_s = 0.0
        self.received_bytes = 0
        self._request = request
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._decoder = hpack.Decoder()
        self._buffer = bytearray(RECEIVE_BYTES)
        self._rest = b""
        """The beginning of a frame that is no DATA."""
        self._skip = 0
        """Bytes of DATA that are still to come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", 4, WINDOW_BYTES, 5, MAX_FRAME_BYTES)
        window = struct.pack(">I", WINDOW_BYTES - 65535)
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, window)
        )

    def begin(self) -> None:
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", RANGE_PATH),
            (b":authority", b"bench"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        block = hpack.Encoder().encode(fields)
        message = struct.pack(">BI", 0, len(self._request)) + self._request
        self._transport.write(_frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, message))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        at = min(self._skip, nbytes)
        self._skip -= at
        if at == nbytes:
            return
        data = self._rest + self._buffer[at:nbytes]
        at = 0
        while len(data) - at >= 9:
            word, flags, _ = _HEAD.unpack_from(data, at)
            size, kind = word >> 8, word & 0xFF
            if kind == _DATA:
                self.received_bytes += size
                there = min(size, len(data) - at - 9)
                self._skip = size - there
                at += 9 + there
                continue
            if len(data) - at - 9 < size:
                break
            self._on_frame(kind, flags, bytes(data[at + 9 : at + 9 + size]))
            at += 9 + size
        self._rest = bytes(data[at:])

    def _on_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS:
            fields = dict(self._decoder.decode(payload, raw=True))
            if flags & _END_STREAM:
                self._end(Code(int(fields[b"grpc-status"])).name)
        elif kind == _RST_STREAM:
            self._end("reset")
        elif kind == _GOAWAY:
            self._end("GOAWAY")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("connection lost")

    def _end(self, how: str) -> None:
        if not self.ended.done():
            self.ended_s = perf_counter()
            self.ended.set_result(how)

    def close(self) -> None:
        self._transport.abort()


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload
