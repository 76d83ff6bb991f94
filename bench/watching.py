"""Watch fan-out: many watchers of one prefix, one writer, and how long each event took to each watcher.

The writer stamps each value with the time at which it sent the put; the watchers, in the same process, read
it back. Owns that stamp and the count of events that must arrive.
"""

from __future__ import annotations

import asyncio
import struct
from time import perf_counter, perf_counter_ns
from typing import Final

from bench.load import RETRY_S, LoadError, LoadOptions, LoadResult, Meter, Window, close, connect
from bench.workloads import PUT_PATH, WATCH_PATH, KeyWalk, key_of, prefix_end, value_of
from raftkv.pb import rpc_pb2
from raftkv.rpc.channel import Channel
from raftkv.rpc.client_call import StreamCall
from raftkv.rpc.codes import Code

CREATE_TIMEOUT_S: Final = 15.0
DRAIN_TIMEOUT_S: Final = 10.0
"""How long after the last put its events may take until they count as missing."""
DRAIN_POLL_S: Final = 0.02

MARK: Final = b"\xf1stamped"
"""Before each stamp; found in a response without parsing it. 0xf1 is no byte of a key or a filler."""
_STAMP: Final = struct.Struct(">Q")
MIN_VALUE_BYTES: Final = len(MARK) + _STAMP.size


class _Watchers:
    """One stream and the watchers on it."""

    __slots__ = ("_call", "_created", "_fanout", "_left")

    def __init__(self, fanout: _Fanout, channel: Channel, count: int) -> None:
        self._fanout = fanout
        self._left = count
        self._created: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call: StreamCall = channel.stream(WATCH_PATH, self)
        request = rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(key=fanout.prefix, range_end=prefix_end(fanout.prefix))
        ).SerializeToString()
        for _ in range(count):
            self._call.send(request)

    @property
    def created(self) -> asyncio.Future[None]:
        """Done when the server has confirmed every watcher. Raises LoadError."""
        return self._created

    def on_message(self, message: bytes) -> None:
        now_ns = perf_counter_ns()
        stamped = message.split(MARK)
        if len(stamped) == 1:
            self._on_confirmation(message)
            return
        fanout = self._fanout
        fanout.delivered += len(stamped) - 1
        meter = fanout.meter
        if meter.running:
            meter.received_bytes += len(message)
            record = meter.histogram.record
            for piece in stamped[1:]:
                record((now_ns - _STAMP.unpack_from(piece)[0]) // 1000)

    def on_writable(self) -> None:
        """Only creations are sent; they fit below any mark."""

    def on_closed(self, code: Code, text: str) -> None:
        if not self._created.done():
            self._created.set_exception(LoadError(f"the watch stream ended: {code.name}: {text}"))
        elif self._fanout.meter.running:
            self._fanout.meter.count_error(code, text)

    def _on_confirmation(self, message: bytes) -> None:
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.canceled:
            self.on_closed(Code.CANCELLED, response.cancel_reason)
        elif response.created:
            self._left -= 1
            if not self._left:
                self._created.set_result(None)


class _Fanout:
    """The writer, and what writer and watchers count together."""

    def __init__(self, options: LoadOptions, writer: Channel) -> None:
        self.prefix: Final = options.prefix.encode()
        self.meter: Final = Meter()
        self.delivered = 0
        """Events that came to any watcher, since the start."""
        self.written = 0
        """Puts acknowledged since the start."""
        self.unknown = 0
        """Puts that failed: their events may come or not."""
        self.writing = False
        self._channel = writer
        self._timeout_s = options.deadline_s
        self._walk = KeyWalk(options.key_space)
        self._filler = value_of(max(options.value_bytes - MIN_VALUE_BYTES, 0))
        self._loop = asyncio.get_running_loop()

    def write(self) -> None:
        """Put, and again when it is answered, until the meter stops."""
        self.writing = self.meter.running
        if self.writing:
            stamp = _STAMP.pack(perf_counter_ns())
            put = rpc_pb2.PutRequest(key=key_of(self.prefix, self._walk.next()), value=MARK + stamp + self._filler)
            message = put.SerializeToString()
            self._channel.unary(PUT_PATH, message, self._on_written, None, self._timeout_s)

    def _on_written(self, _ctx: object, code: Code, text: str, _response: bytes) -> None:
        if code is Code.OK:
            self.written += 1
            self.write()
        else:
            self.unknown += 1
            self.meter.count_error(code, text)
            self._loop.call_later(RETRY_S, self.write)


async def drive_watch(options: LoadOptions) -> LoadResult:
    """`clients` watchers on `streams` streams over `connections`; the writer has a connection of its own."""
    # The writer's connection is the last: its answers never wait behind events.
    *channels, writer = await connect(options.host, options.port, options.connections + 1)
    try:
        fanout = _Fanout(options, writer)
        await _create_watchers(fanout, channels, options)
        fanout.write()
        result = await Window(options, fanout.meter).measure()
        missing = await _drain(fanout, options.clients)
        if missing:
            result.errors[f"events missing {DRAIN_TIMEOUT_S:g} s after the last put"] = missing
        return result
    finally:
        close([*channels, writer])


async def _create_watchers(fanout: _Fanout, channels: list[Channel], options: LoadOptions) -> None:
    streams = min(options.streams, options.clients)
    created = []
    for number in range(streams):
        count = options.clients // streams + (number < options.clients % streams)
        created.append(_Watchers(fanout, channels[number % len(channels)], count).created)
    try:
        async with asyncio.timeout(CREATE_TIMEOUT_S):
            await asyncio.gather(*created)
    except TimeoutError:
        raise LoadError(f"the watchers were not confirmed within {CREATE_TIMEOUT_S:g} s") from None


async def _drain(fanout: _Fanout, watchers: int) -> int:
    """Wait until every watcher has every event. The number that never came; negative: came twice."""
    give_up_s = perf_counter() + DRAIN_TIMEOUT_S
    while perf_counter() < give_up_s:
        if not fanout.writing and fanout.delivered >= fanout.written * watchers:
            break
        await asyncio.sleep(DRAIN_POLL_S)
    if fanout.unknown:
        return 0
    return fanout.written * watchers - fanout.delivered
