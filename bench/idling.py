"""Connections that do nothing: each has one watch stream with one watcher, of a key that nobody writes.

Owns opening them, and the files and ports that they need on this side. Knows nothing of what they cost the server.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from bench.load import LoadError, close, connect
from bench.workloads import WATCH_PATH, key_of
from raftkv.pb import rpc_pb2
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code
from raftkv.rpc.limits import Limits

OPENING: Final = 256
"""Connections that are being made at the same time. Both servers accept more at once."""
OPEN_TIMEOUT_S: Final = 120.0
SPARE_FILES: Final = 256
"""What a server or this process needs beside the connections."""
SPARE_PORTS: Final = 2000
"""Of outgoing connections that are in use, or were lately."""
_PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SILENT: Final = Limits(keepalive_interval_s=0.0)


class Room(NamedTuple):
    """How many connections are possible, and why not as many as were wanted."""

    connections: int
    why_fewer: str = ""


def raise_file_limit() -> int:
    """As many open files as this user may have, from here on and for what is started. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def room_for(wanted: int, files: int, ports: int) -> Room:
    """`files`: that one process may have open; `ports`: for outgoing connections to one address."""
    by_files, by_ports = files - SPARE_FILES, ports - SPARE_PORTS
    if min(by_files, by_ports) >= wanted:
        return Room(wanted)
    if by_files <= by_ports:
        return Room(max(by_files, 0), f"not {wanted:,}: a process may have {files:,} files open (ulimit -Hn)")
    return Room(max(by_ports, 0), f"not {wanted:,}: there are {ports:,} ports for outgoing connections")


def port_count() -> int:
    first, last = map(int, _PORT_RANGE.read_text().split())
    return last - first + 1


class _Watch:
    """One stream and its only watcher."""

    __slots__ = ("_ended", "_opened")

    def __init__(self, channel: Channel, key: bytes, ended: list[str]) -> None:
        self._ended = ended
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=key))
        channel.stream(WATCH_PATH, self).send(request.SerializeToString())

    @property
    def opened(self) -> asyncio.Future[None]:
        """Done when the server has confirmed the watcher. Raises LoadError."""
        return self._opened

    def on_message(self, message: bytes) -> None:
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.canceled:
            self.on_closed(Code.CANCELLED, response.cancel_reason)
        elif not self._opened.done():
            self._opened.set_result(None)

    def on_writable(self) -> None:
        """One request is sent; it fits below any mark."""

    def on_closed(self, code: Code, text: str) -> None:
        if not self._opened.done():
            self._opened.set_exception(LoadError(f"a watch stream ended: {code.name}: {text}"))
        else:
            self._ended.append(f"{code.name}: {text}")


class Idling(NamedTuple):
    """What is said when all connections are there, and again when they are to end."""

    connections: int
    seconds: float
    """That opening them took."""
    lost: int = 0
    """Of them, since then."""


async def idle(host: str, port: int, count: int, prefix: str, lines: AsyncIterator[str]) -> AsyncIterator[Idling]:
    """Open `count` connections and hold them until `lines` end. Raises LoadError."""
    close(await connect(host, port, 1))
    loop = asyncio.get_running_loop()
    turns = asyncio.Semaphore(OPENING)
    channels: list[Channel] = []
    ended: list[str] = []

    async def open_one(number: int) -> None:
        async with turns:
            channel = Channel(loop, host, port, user_agent="raftkv-bench", limits=_SILENT)
            channels.append(channel)
            await _Watch(channel, key_of(prefix.encode(), number), ended).opened

    began_s = perf_counter()
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await asyncio.gather(*map(open_one, range(count)))
        idling = Idling(count, perf_counter() - began_s)
        yield idling
        async for _ in lines:
            pass
        yield idling._replace(lost=len(ended))
    except TimeoutError:
        raise LoadError(f"{count:,} connections were not open after {OPEN_TIMEOUT_S:g} s") from None
    finally:
        close(channels)
