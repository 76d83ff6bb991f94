"""Both sides of the border between the suite and its generators: what one says the other understands."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_support import result
from helpers.waiting import wait_until

from bench import cli, generators
from bench.cases import CLUSTER_CASES, QUICK, SECURE_CASES, SINGLE_CASES
from bench.generators import IdleConnections, SteadyLoad
from bench.load import LoadError, LoadOptions
from bench.probing import ProbeResult
from bench.servers import NullProcess


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command lines of generators, parsed as the generator would; each answers with the JSON set in `says`."""
    called: list[Any] = []

    def run(_title: str, command: str, words: list[str]) -> str:
        called.append(cli.build_parser().parse_args([command, *words]))
        if command == "load":
            return json.dumps(result()._asdict())
        probed = ProbeResult(True, 1.5, 3, result(), {"UNAVAILABLE: x": 2})
        return json.dumps({**probed._asdict(), "before": result()._asdict()})

    monkeypatch.setattr(generators, "_run", run)
    return called


def test_a_case_of_load(called: list[Any]) -> None:
    case = SINGLE_CASES[5]
    assert generators.run_load(QUICK, case, 2, 2379, [11, 12, 13]) == result()
    assert cli.load_options(called[0]) == LoadOptions(
        "127.0.0.1",
        2379,
        "txn",
        connections=64,
        clients=64,
        seconds=QUICK.seconds,
        warmup_s=QUICK.warmup_s,
        key_space=10_000_000,
        prefix="txn2/",
        server_pids=(11, 12, 13),
    )


def test_a_case_over_tls(called: list[Any]) -> None:
    generators.run_load(QUICK, SECURE_CASES[0], 0, 2379, (), "ca.pem")
    assert cli.load_options(called[0]).ca_file == "ca.pem"


def test_a_case_that_reads_the_plans_keys_and_one_with_a_deadline(called: list[Any]) -> None:
    generators.run_load(QUICK, CLUSTER_CASES[2], 0, 2379)
    generators.run_load(QUICK, SINGLE_CASES[4], 0, 2379)
    reading, patient = map(cli.load_options, called)
    assert (reading.workload, reading.key_space, reading.server_pids) == ("range", QUICK.read_keys, ())
    assert (patient.workload, patient.deadline_s) == ("put", 5.0)


def test_a_failover(called: list[Any]) -> None:
    got = generators.run_failover("t", [1, 2, 3], [11, 12, 13], (12, 7), 0.5)
    assert got == ProbeResult(True, 1.5, 3, result(), {"UNAVAILABLE: x": 2})
    (asked,) = called
    assert asked.endpoint == [("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)]
    assert (asked.server_pid, asked.kill_pid, asked.term, asked.seconds) == ([11, 12, 13], 12, 7, 0.5)


def test_a_generator_that_fails_says_why() -> None:
    with pytest.raises(LoadError, match=r"(?s)t: .*the following arguments are required: --endpoint"):
        generators._run("t", "load", [])


def test_a_steady_load_is_measured_in_windows_and_ends_with_its_block() -> None:
    with NullProcess() as null:
        with SteadyLoad(null.port, 200, "put/", 100) as load:
            load.begin()
            assert load.end().errors == {}
            process = load._process
            assert process.poll() is None
        assert process.returncode == 0


def test_a_steady_load_that_cannot_begin_says_why() -> None:
    with pytest.raises(LoadError, match=r"(?s)the steady load has ended: .*--per-s"), SteadyLoad(1, 0, "put/", 100):
        pytest.fail("begun")


def test_idle_connections_are_there_and_end_with_their_block() -> None:
    with NullProcess() as null:
        with IdleConnections(null.port, 20) as connections:
            assert connections.opened_s > 0
            assert _established(null.port) == 20
            process = connections._process
        assert process.returncode == 0


def test_connections_that_are_lost_are_told_of() -> None:
    with NullProcess() as null:
        connections = IdleConnections(null.port, 20).__enter__()
        null._process.kill()
        null._process.wait()
        wait_until("the connections are gone", lambda: _established(null.port) == 0)
        with pytest.raises(LoadError, match="20 were lost"):
            connections.__exit__(None)


def test_idle_connections_that_cannot_be_made_say_why() -> None:
    with pytest.raises(LoadError, match=r"(?s)idle connections: .*--connections"), IdleConnections(1, 0):
        pytest.fail("begun")


def _established(port: int) -> int:
    """Connections of clients to this port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)
