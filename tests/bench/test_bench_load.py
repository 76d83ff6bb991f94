"""The generator against a null server in the same event loop: every workload counts what it did."""

import asyncio
import os

import pytest

from bench import load
from bench.driving import ABOUT, WATCH, drive
from bench.load import LoadError, LoadOptions, LoadResult, Meter
from bench.nullserver import NullServer
from raftkv.rpc.codes import Code


def _drive(workload: str, **changes: float) -> LoadResult:
    async def run() -> LoadResult:
        server = NullServer(asyncio.get_running_loop())
        await server.start()
        options = LoadOptions(
            "127.0.0.1",
            server.port,
            workload,
            connections=2,
            clients=6,
            streams=4,
            seconds=0.1,
            warmup_s=0.02,
            key_space=300,
            server_pids=(os.getpid(),),
        )
        try:
            return await drive(options._replace(**changes))
        finally:
            server.close()

    return asyncio.run(run())


@pytest.mark.parametrize("workload", ABOUT)
def test_every_workload_measures(workload: str) -> None:
    result = _drive(workload)
    assert result.errors == {}
    assert result.operations > 0
    assert result.per_s == pytest.approx(result.operations / result.seconds)
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms
    assert result.server_cpu is not None
    assert result.server_anon_bytes


def test_one_second_with_deadlines() -> None:
    result = _drive("put", seconds=1.0, deadline_s=5.0, clients=16)
    assert result.errors == {}
    assert result.operations > 100


def test_an_event_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.watching.DRAIN_TIMEOUT_S", 0.2)
    monkeypatch.setattr("bench.nullserver._NullWatch.send", lambda watch, response: None)
    result = _drive(WATCH)
    assert list(result.errors) == ["events missing 0.2 s after the last put"]


def test_failed_calls_are_counted_by_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.nullserver.NullServer._put",
        lambda server, call, message: call.fail(Code.UNAVAILABLE, "etcdserver: leader changed"),
    )
    result = _drive("put")
    assert result.operations == 0
    assert list(result.errors) == ["UNAVAILABLE: etcdserver: leader changed"]


def test_kinds_of_errors_are_bounded() -> None:
    meter = Meter()
    for number in range(100):
        meter.count_error(Code.UNKNOWN, str(number))
    assert len(meter.errors) == load.MAX_ERROR_KINDS + 1
    assert meter.errors[load.OTHER_ERRORS] == 100 - load.MAX_ERROR_KINDS


def test_nobody_there_is_said(unused_tcp_port: int) -> None:
    with pytest.raises(LoadError, match=r"does not serve after 0\.3 s: UNAVAILABLE"):
        asyncio.run(load.connect("127.0.0.1", unused_tcp_port, 1, timeout_s=0.3))


@pytest.fixture
def unused_tcp_port() -> int:
    """Bound by nobody a moment ago, and below the ports that outgoing connections take."""
    from helpers.processes import free_port

    return free_port()
