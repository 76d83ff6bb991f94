"""A leader is killed under load: how long until a put is acknowledged again.

Two kinds of clients put at all members. Those of the load wait for answers, as clients do. Probes are sent by the
clock: whatever a member does with a put while it knows of no leader, a fresh one comes a few milliseconds later, so
the instant when writes flow again is not blurred by anybody's timeout. Owns the kill and the clock. Knows nothing of
processes beyond the pid.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, NamedTuple

from bench.load import RETRY_S, LoadError, LoadOptions, LoadResult, Meter, Window, close, connect, steady_heap
from bench.pacing import Pacer
from bench.workloads import PUT_PATH, UNARY, RequestMaker
from raftkv.pb import rpc_pb2
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code

PROBE_INTERVAL_S: Final = 0.005
"""Between two probes of one member."""
PROBE_DEADLINE_S: Final = 0.5
LOAD_DEADLINE_S: Final = 1.0
"""Longer than a put takes under load; shorter than the seven seconds after which etcd itself gives up."""
GIVE_UP_S: Final = 20.0


class ProbeOptions(NamedTuple):
    endpoints: tuple[tuple[str, int], ...]
    kill_pid: int
    """Of the leader."""
    term: int
    """In which it leads. In another one when the time has come, nobody is killed."""
    clients: int = 64
    """Of the load, spread over the members."""
    connections: int = 8
    """To each member."""
    seconds: float = 1.0
    """Of load before the kill."""
    key_space: int = 100_000
    prefix: str = "put/"
    server_pids: tuple[int, ...] = ()
    """Of all members: their times are read over the load before the kill."""

    @property
    def load(self) -> LoadOptions:
        host, port = self.endpoints[0]
        return LoadOptions(
            host,
            port,
            "put",
            connections=self.connections * len(self.endpoints),
            clients=self.clients,
            key_space=self.key_space,
            prefix=self.prefix,
            server_pids=self.server_pids,
        )


class ProbeResult(NamedTuple):
    killed: bool
    """False: the leader had changed before the kill; the other fields mean nothing."""
    gap_ms: float
    """From the kill to the first acknowledgement by a later leader."""
    term: int
    """Of that leader."""
    before: LoadResult
    """What load there was."""
    errors: dict[str, int]
    """Calls that failed from the kill to that acknowledgement."""


class _Watcher:
    """Sees every answer, and in which term it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.meter: Final = Meter()
        self.term = 0
        """The highest so far."""
        self._loop: Final = loop
        self._above: tuple[int, asyncio.Future[float]] | None = None

    def wait_above(self, term: int) -> asyncio.Future[float]:
        """Done at the first put that is acknowledged in a later term; the time is perf_counter's.

        An acknowledgement by the killed leader itself may still be on its way; one in a later term is a new leader's.
        """
        future: asyncio.Future[float] = self._loop.create_future()
        self._above = (term, future)
        return future

    def on_answer(self, sent_s: float, code: Code, text: str, response: bytes) -> None:
        if code is not Code.OK:
            self.meter.count_error(code, text)
            return
        self.meter.histogram.record(int((perf_counter() - sent_s) * 1e6))
        term = rpc_pb2.PutResponse.FromString(response).header.raft_term
        self.term = max(self.term, term)
        if self._above is not None and term > self._above[0] and not self._above[1].done():
            self._above[1].set_result(perf_counter())


class _Client:
    """A closed loop, through one member."""

    def __init__(self, channel: Channel, watcher: _Watcher, requests: RequestMaker) -> None:
        self._channel: Final = channel
        self._watcher: Final = watcher
        self._requests: Final = requests
        self._loop: Final = asyncio.get_running_loop()

    def call(self) -> None:
        if self._watcher.meter.running:
            self._channel.unary(PUT_PATH, self._requests.next(), self._on_done, perf_counter(), LOAD_DEADLINE_S)

    def _on_done(self, sent_s: float, code: Code, text: str, response: bytes) -> None:
        self._watcher.on_answer(sent_s, code, text, response)
        if code is Code.OK:
            self.call()
        else:
            self._loop.call_later(RETRY_S, self.call)


class _Probes:
    """What a pacer sends through one member; nothing follows from an answer."""

    def __init__(self, channel: Channel, watcher: _Watcher, requests: RequestMaker) -> None:
        self._channel: Final = channel
        self._watcher: Final = watcher
        self._requests: Final = requests

    def send(self) -> None:
        self._channel.unary(PUT_PATH, self._requests.next(), self._watcher.on_answer, perf_counter(), PROBE_DEADLINE_S)


def sigkill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def probe_failover(options: ProbeOptions, kill: Callable[[int], None] = sigkill) -> ProbeResult:
    """Load, kill, and wait. Raises LoadError when puts do not flow before or not again, OSError without the process."""
    watcher = _Watcher(asyncio.get_running_loop())
    requests = RequestMaker(UNARY["put"], options.load.shape)
    window = Window(options.load, watcher.meter)
    channels: list[list[Channel]] = []
    pacers: list[Pacer] = []
    try:
        for host, port in options.endpoints:
            channels.append(await connect(host, port, options.connections))
        pacers = _start(options, channels, watcher, requests)
        with steady_heap():
            window.begin()
            await asyncio.sleep(options.seconds)
            before = window.end()
            return await _kill_and_wait(options, before, watcher, kill)
    finally:
        watcher.meter.running = False
        for pacer in pacers:
            pacer.stop()
        close(list(itertools.chain.from_iterable(channels)))


def _start(
    options: ProbeOptions, channels: Sequence[Sequence[Channel]], watcher: _Watcher, requests: RequestMaker
) -> list[Pacer]:
    for number in range(options.clients):
        member = channels[number % len(channels)]
        _Client(member[number // len(channels) % len(member)], watcher, requests).call()
    pacers = []
    for member in channels:
        pacer = Pacer(asyncio.get_running_loop(), 1 / PROBE_INTERVAL_S, _Probes(member[0], watcher, requests).send)
        pacer.start()
        pacers.append(pacer)
    return pacers


async def _kill_and_wait(
    options: ProbeOptions, before: LoadResult, watcher: _Watcher, kill: Callable[[int], None]
) -> ProbeResult:
    if not before.operations:
        raise LoadError(f"no put was acknowledged within {options.seconds:g} s: {before.errors}")
    if watcher.term != options.term:
        return ProbeResult(False, 0.0, watcher.term, before, {})
    watcher.meter.begin()
    flowing = watcher.wait_above(options.term)
    killed_s = perf_counter()
    kill(options.kill_pid)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            flowing_s = await flowing
    except TimeoutError:
        errors = watcher.meter.errors
        raise LoadError(f"no put was acknowledged within {GIVE_UP_S:g} s of the kill: {errors}") from None
    return ProbeResult(True, (flowing_s - killed_s) * 1000, watcher.term, before, watcher.meter.errors)
