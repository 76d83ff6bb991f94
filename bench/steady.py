"""A moderate load that goes on while something happens to the cluster, measured in windows on demand.

Puts are made at a fixed rate; lines say where a window begins and ends, and of which processes the times are read
over it. Knows nothing of what happens meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Final

from bench.load import LoadOptions, LoadResult, Meter, Window, close, connect, steady_heap
from bench.pacing import Pacer
from bench.workloads import UNARY, RequestMaker
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code

BEGIN: Final = "begin"
END: Final = "end"


class _Puts:
    """One put at each call of `send`, to the connections in turn. Latencies count from the sending."""

    def __init__(self, channels: list[Channel], options: LoadOptions) -> None:
        workload = UNARY[options.workload]
        self.meter: Final = Meter()
        self._channels: Final = channels
        self._path: Final = workload.path
        self._timeout_s: Final = options.deadline_s
        self._requests: Final = RequestMaker(workload, options.shape)
        self._turn = 0

    def send(self) -> None:
        self._turn = (self._turn + 1) % len(self._channels)
        channel, request = self._channels[self._turn], self._requests.next()
        channel.unary(self._path, request, self._on_done, perf_counter(), self._timeout_s)

    def _on_done(self, sent_s: float, code: Code, text: str, _response: bytes) -> None:
        if code is Code.OK:
            self.meter.histogram.record(int((perf_counter() - sent_s) * 1e6))
        else:
            self.meter.count_error(code, text)


async def drive_steady(options: LoadOptions, per_s: float, lines: AsyncIterator[str]) -> AsyncIterator[LoadResult]:
    """Load until `lines` end; a result for each "end" among them, of the time since the last "begin PID PID …".

    Raises LoadError when nobody serves, OSError when one of the processes is gone.
    """
    channels = await connect(options.host, options.port, options.connections)
    puts = _Puts(channels, options)
    pacer = Pacer(asyncio.get_running_loop(), per_s, puts.send)
    window = Window(options, puts.meter)
    try:
        pacer.start()
        with steady_heap():
            async for line in lines:
                word, *pids = line.split()
                if word == BEGIN:
                    window = Window(options._replace(clients=0, server_pids=tuple(map(int, pids))), puts.meter)
                    window.begin()
                elif word == END:
                    yield window.end()
    finally:
        pacer.stop()
        close(channels)


async def lines_of_stdin() -> AsyncIterator[str]:
    """Those with a word in them, until it is closed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode():
        if line.strip():
            yield line
