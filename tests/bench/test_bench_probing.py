"""A killed leader, played by servers that acknowledge in one term or another."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from bench_support import answer_in_term, null_servers

from bench.load import LoadError
from bench.nullserver import NullServer
from bench.probing import ProbeOptions, ProbeResult, probe_failover
from raftkv.rpc.codes import Code

PID = 4711
Kill = Callable[[Sequence[NullServer]], None]


def _probe(kill: Kill, term: int = 2) -> tuple[ProbeResult, list[int]]:
    """Three members in term 2. `kill` is told the members when the leader is to be killed. Pids that were named."""
    named: list[int] = []

    async def run() -> ProbeResult:
        async with null_servers(3, term=2) as servers:
            options = ProbeOptions(
                tuple(("127.0.0.1", server.port) for server in servers),
                kill_pid=PID,
                term=term,
                clients=6,
                connections=2,
                seconds=0.15,
            )

            def on_kill(pid: int) -> None:
                named.append(pid)
                kill(servers)

            return await probe_failover(options, on_kill)

    return asyncio.run(run()), named


def _refusals(errors: dict[str, int]) -> list[str]:
    return [error for error in errors if error.startswith("UNAVAILABLE")]


def test_writes_flow_again_with_the_first_acknowledgement_in_a_later_term() -> None:
    def kill(servers: Sequence[NullServer]) -> None:
        # The leader is gone; followers go on acknowledging in its term, as what was on its way does, for a while.
        servers[0].close()
        asyncio.get_running_loop().call_later(0.2, answer_in_term, servers[2], 3)

    result, named = _probe(kill)
    assert named == [PID]
    assert result.killed
    assert result.gap_ms >= 200
    assert result.term == 3
    assert result.before.operations > 0
    assert not _refusals(result.before.errors), "those are of the time before the kill"
    assert _refusals(result.errors)


def test_a_leader_of_another_term_is_spared() -> None:
    result, named = _probe(lambda servers: None, term=1)
    assert named == []
    assert not result.killed


def test_writes_that_do_not_flow_again_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.probing.GIVE_UP_S", 0.2)
    with pytest.raises(LoadError, match=r"no put was acknowledged within 0\.2 s of the kill"):
        _probe(lambda servers: servers[0].close())


def test_without_writes_before_nobody_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.nullserver.NullServer._put", lambda server, call, message: call.fail(Code.UNAVAILABLE, "no leader")
    )
    with pytest.raises(LoadError, match=r"no put was acknowledged within 0\.15 s: .*no leader"):
        _probe(lambda servers: pytest.fail("killed"))
