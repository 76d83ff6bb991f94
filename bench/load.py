"""The load generator: closed-loop clients on one event loop, and what they measured.

Each client has one call in flight and makes the next from within the answer's callback. Owns the measured
window: warm-up, begin, end. Knows nothing of which server it drives; `server_pids` lets it read those
processes' times and memory over exactly the window.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final, NamedTuple

from bench import procfs
from bench.histogram import Histogram
from bench.workloads import (
    RANGE_PATH,
    TXN_PATH,
    RequestMaker,
    Shape,
    Workload,
    prefix_end,
    preload_requests,
)
from raftkv.pb import rpc_pb2
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.tls import Tls, TlsFilesError, TlsSettings, client_tls

CONNECT_TIMEOUT_S: Final = 15.0
RETRY_S: Final = 0.05
"""A client whose call failed waits this long, so that a failing server is not also flooded."""
MAX_ERROR_KINDS: Final = 16
"""Different texts remembered. Further ones count as OTHER_ERRORS."""
OTHER_ERRORS: Final = "other errors"
PRELOAD_CALLS: Final = 8
"""Preloading transactions in flight."""
PRELOAD_TIMEOUT_S: Final = 60.0
GENERATOR_BOUND: Final = 0.9
"""Share of one core from which the generator, not the server, may be what was measured."""


class LoadError(Exception):
    """The measurement could not be made: nobody answered, or preparing failed."""


class LoadOptions(NamedTuple):
    host: str
    port: int
    workload: str
    connections: int = 1
    clients: int = 1
    """Calls in flight, spread evenly over the connections. For `watch`: the watchers."""
    streams: int = 10
    """Of `watch`: the streams that the watchers share."""
    seconds: float = 5.0
    warmup_s: float = 1.0
    value_bytes: int = 256
    key_space: int = 10_000
    prefix: str = "bench/"
    page_keys: int = 500
    deadline_s: float | None = None
    preload: bool = True
    """Put the whole key space first, if the workload reads."""
    server_pids: tuple[int, ...] = ()
    """Of all members, if the work of a put is theirs together."""
    ca_file: str = ""
    """Whose certificates are trusted, of servers that speak TLS. Empty: plain text."""

    @property
    def shape(self) -> Shape:
        return Shape(self.prefix.encode(), self.value_bytes, self.key_space, self.page_keys)


class LoadResult(NamedTuple):
    """Rates are per second of the measured window; of `watch`, an operation is a delivered event."""

    workload: str
    connections: int
    clients: int
    """0 in an open loop, where calls are made by the clock."""
    seconds: float
    operations: int
    per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    received_mb_per_s: float
    errors: dict[str, int]
    generator_cpu: float
    """Cores. See GENERATOR_BOUND."""
    generator_cpu_us: float
    """Per operation."""
    server_cpu: float | None
    """Cores. The sum of all `server_pids`, and None without any, in this and the next fields."""
    server_cpu_us: float | None
    """Per operation."""
    other_cpu: float | None
    """Cores that neither generator nor server used, but somebody did."""
    server_rss_bytes: int | None
    server_anon_bytes: int | None
    server_file_bytes: int | None

    @property
    def generator_bound(self) -> bool:
        return self.generator_cpu >= GENERATOR_BOUND


class Meter:
    """What all clients write to. Swapping the histogram begins the measured window."""

    __slots__ = ("errors", "histogram", "received_bytes", "running")

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.errors: dict[str, int] = {}
        self.received_bytes = 0
        self.running = True

    def begin(self) -> None:
        self.histogram = Histogram()
        self.errors = {}
        self.received_bytes = 0

    def count_error(self, code: Code, text: str) -> None:
        name = f"{code.name}: {text}"
        if name not in self.errors and len(self.errors) >= MAX_ERROR_KINDS:
            name = OTHER_ERRORS
        self.errors[name] = self.errors.get(name, 0) + 1


class _Client:
    """One closed loop. The requests, and with them the order of keys, are shared by all clients."""

    __slots__ = ("_channel", "_loop", "_meter", "_path", "_requests", "_started", "_timeout_s")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: Channel,
        meter: Meter,
        requests: RequestMaker,
        path: bytes,
        timeout_s: float | None,
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._meter = meter
        self._requests = requests
        self._path = path
        self._timeout_s = timeout_s
        self._started = 0.0

    def call(self) -> None:
        if self._meter.running:
            self._started = perf_counter()
            self._channel.unary(self._path, self._requests.next(), self._on_done, None, self._timeout_s)

    def _on_done(self, _ctx: object, code: Code, text: str, response: bytes) -> None:
        now = perf_counter()
        meter = self._meter
        if not meter.running:
            return
        if code is not Code.OK:
            meter.count_error(code, text)
            self._loop.call_later(RETRY_S, self.call)
            return
        meter.histogram.record(int((now - self._started) * 1e6))
        meter.received_bytes += len(response)
        self._started = now
        self._channel.unary(self._path, self._requests.next(), self._on_done, None, self._timeout_s)


async def connect(
    host: str, port: int, count: int, timeout_s: float = CONNECT_TIMEOUT_S, *, tls: Tls | None = None
) -> list[Channel]:
    """Channels whose server answers a linearizable read, so has a leader. Raises LoadError."""
    loop = asyncio.get_running_loop()
    channels = [Channel(loop, host, port, tls=tls, user_agent="raftkv-bench") for _ in range(count)]
    refusals = [""]
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(_wait_serving(channel, refusals) for channel in channels))
    except TimeoutError:
        close(channels)
        raise LoadError(f"{host}:{port} does not serve after {timeout_s:g} s: {refusals[-1]}") from None
    except RpcError as error:
        close(channels)
        raise LoadError(f"{host}:{port} does not serve etcd v3: {error}") from None
    return channels


def trust(ca_file: str) -> Tls:
    """TLS with servers whose certificate is in this file, or signed by one that is. Raises LoadError."""
    try:
        return client_tls(TlsSettings(ca_file=ca_file))
    except TlsFilesError as failure:
        raise LoadError(str(failure)) from failure


async def _wait_serving(channel: Channel, refusals: list[str]) -> None:
    """Try until it answers. The latest reason why it did not takes the place of the last in `refusals`."""
    request = rpc_pb2.RangeRequest(key=b"\0").SerializeToString()
    while True:
        try:
            await channel.unary_future(RANGE_PATH, request, timeout_s=5.0)
            return
        except RpcError as error:
            if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                raise
            refusals[-1] = str(error)
        await asyncio.sleep(RETRY_S)


def close(channels: list[Channel]) -> None:
    for channel in channels:
        channel.close()


async def preload(channel: Channel, shape: Shape) -> None:
    """Put every key of the key space, unless as many keys exist already. Raises LoadError."""
    calling = asyncio.Semaphore(PRELOAD_CALLS)

    async def put(request: bytes) -> None:
        async with calling:
            await channel.unary_future(TXN_PATH, request, timeout_s=PRELOAD_TIMEOUT_S)

    counting = rpc_pb2.RangeRequest(key=shape.prefix, range_end=prefix_end(shape.prefix), count_only=True)
    try:
        counted = await channel.unary_future(RANGE_PATH, counting.SerializeToString(), PRELOAD_TIMEOUT_S)
        if rpc_pb2.RangeResponse.FromString(counted).count < shape.key_space:
            await asyncio.gather(*map(put, preload_requests(shape)))
    except RpcError as error:
        raise LoadError(f"putting the keys to be read failed: {error}") from None


class Window:
    """The measured time: reads clocks at its begin and end, and turns a meter into a result."""

    def __init__(self, options: LoadOptions, meter: Meter) -> None:
        self._options = options
        self._meter = meter
        self._began_s = 0.0
        self._generator_s = 0.0
        self._server_s = 0.0
        self._machine_s = 0.0

    async def measure(self) -> LoadResult:
        """Warm up, measure, and stop the clients."""
        options = self._options
        try:
            with steady_heap():
                await asyncio.sleep(options.warmup_s)
                self.begin()
                await asyncio.sleep(options.seconds)
                return self.end()
        finally:
            self._meter.running = False

    def begin(self) -> None:
        """Forget what was measured before. May follow an `end`, for the next window of the same load."""
        self._meter.begin()
        self._server_s = self._read_server_s()
        self._machine_s = procfs.machine_cpu_s()
        self._generator_s = time.process_time()
        self._began_s = perf_counter()

    def end(self) -> LoadResult:
        """What was measured since `begin`. Raises OSError when a server process is gone."""
        elapsed_s = perf_counter() - self._began_s
        generator_s = time.process_time() - self._generator_s
        server_s = self._read_server_s() - self._server_s
        other_s = procfs.machine_cpu_s() - self._machine_s - generator_s - server_s
        options, meter = self._options, self._meter
        histogram = meter.histogram
        with_server = bool(options.server_pids)
        memories = [procfs.memory(pid) for pid in options.server_pids]
        return LoadResult(
            workload=options.workload,
            connections=options.connections,
            clients=options.clients,
            seconds=elapsed_s,
            operations=histogram.count,
            per_s=histogram.count / elapsed_s,
            mean_ms=histogram.mean_ms,
            p50_ms=histogram.percentile_ms(50),
            p90_ms=histogram.percentile_ms(90),
            p99_ms=histogram.percentile_ms(99),
            max_ms=histogram.max_us / 1000,
            received_mb_per_s=meter.received_bytes / elapsed_s / 1e6,
            errors=dict(meter.errors),
            generator_cpu=generator_s / elapsed_s,
            generator_cpu_us=generator_s * 1e6 / max(histogram.count, 1),
            server_cpu=server_s / elapsed_s if with_server else None,
            server_cpu_us=server_s * 1e6 / max(histogram.count, 1) if with_server else None,
            other_cpu=max(other_s, 0.0) / elapsed_s if with_server else None,
            server_rss_bytes=sum(memory.rss_bytes for memory in memories) if with_server else None,
            server_anon_bytes=sum(memory.anon_bytes for memory in memories) if with_server else None,
            server_file_bytes=sum(memory.file_bytes for memory in memories) if with_server else None,
        )

    def _read_server_s(self) -> float:
        return sum(map(procfs.cpu_s, self._options.server_pids))


@contextmanager
def steady_heap() -> Iterator[None]:
    """What exists now lives until the end: meanwhile the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def drive_unary(options: LoadOptions, workload: Workload) -> LoadResult:
    """Run one measurement. Raises LoadError when it cannot be made, OSError when a server process is gone."""
    loop = asyncio.get_running_loop()
    tls = trust(options.ca_file) if options.ca_file else None
    channels = await connect(options.host, options.port, options.connections, tls=tls)
    try:
        if workload.reads and options.preload:
            await preload(channels[0], options.shape)
        meter = Meter()
        requests = RequestMaker(workload, options.shape)
        for number in range(options.clients):
            channel = channels[number % len(channels)]
            _Client(loop, channel, meter, requests, workload.path, options.deadline_s).call()
        return await Window(options, meter).measure()
    finally:
        close(channels)
