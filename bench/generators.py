"""The generators as processes of their own: how they are called, and their results taken back.

A generator in the suite's own process would be held up by it. Knows nothing of who leads or of rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from bench.cases import Case, Plan
from bench.idling import Idling
from bench.load import LoadError, LoadResult
from bench.probing import ProbeResult
from bench.servers import HOST, REPOSITORY
from bench.steady import BEGIN, END

MEASUREMENT_LIMIT_S: Final = 180.0
"""For one measurement with its preloading. Beyond, the suite ends: something hangs."""
STEADY_CONNECTIONS: Final = 16
END_TIMEOUT_S: Final = 10.0
_BENCH: Final = (sys.executable, "-m", "bench")


def run_load(plan: Plan, case: Case, number: int, port: int, pids: Sequence[int] = (), ca_file: str = "") -> LoadResult:
    """One measurement of round `number`; over TLS with `ca_file`. Raises LoadError."""
    words = [
        f"--endpoint={HOST}:{port}",
        f"--workload={case.workload}",
        f"--connections={case.connections}",
        f"--clients={case.clients}",
        f"--seconds={plan.seconds}",
        f"--warmup-s={plan.warmup_s}",
        f"--prefix={case.prefix.format(round=number)}",
        f"--key-space={plan.read_keys if case.key_space is None else case.key_space}",
        *(f"--server-pid={pid}" for pid in pids),
    ]
    if case.deadline_s is not None:
        words.append(f"--deadline-s={case.deadline_s}")
    if ca_file:
        words.append(f"--ca-file={ca_file}")
    return LoadResult(**json.loads(_run(case.title, "load", words)))


def run_failover(
    title: str, ports: Sequence[int], pids: Sequence[int], leader: tuple[int, int], seconds: float
) -> ProbeResult:
    """Kill the leader after `seconds` of load. `leader`: its pid and its term. Raises LoadError."""
    leader_pid, term = leader
    words = [
        *(f"--endpoint={HOST}:{port}" for port in ports),
        *(f"--server-pid={pid}" for pid in pids),
        f"--kill-pid={leader_pid}",
        f"--term={term}",
        f"--seconds={seconds}",
    ]
    said = json.loads(_run(title, "failover", words))
    return ProbeResult(**{**said, "before": LoadResult(**said["before"])})


def _run(title: str, command: str, words: Sequence[str]) -> str:
    """What it prints: JSON."""
    try:
        done = subprocess.run(
            [*_BENCH, command, "--output=json", *words],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=MEASUREMENT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"{title}: no result within {MEASUREMENT_LIMIT_S:g} s") from None
    if not done.stdout:
        raise LoadError(f"{title}: {done.stderr.strip()}")
    return done.stdout


class _Living:
    """A generator that goes on until its input ends."""

    _process: subprocess.Popen[str]

    def _begin(self, command: str, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*_BENCH, command, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            start_new_session=True,
        )

    def _end(self) -> str:
        """What it said last."""
        try:
            # The end of its input ends it.
            said, _ = self._process.communicate(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        return said


class SteadyLoad(_Living):
    """Puts at a fixed rate for the length of a `with`, measured in windows on demand."""

    def __init__(self, port: int, per_s: float, prefix: str, key_space: int) -> None:
        self._words: Final = (
            *(f"--endpoint={HOST}:{port}", f"--per-s={per_s:g}", f"--connections={STEADY_CONNECTIONS}"),
            *(f"--prefix={prefix}", f"--key-space={key_space}"),
        )

    def __enter__(self) -> SteadyLoad:
        """Returns once puts are under way. Raises LoadError when they cannot be."""
        self._begin("steady", self._words)
        try:
            self.begin()
            self.end()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_failure: object) -> None:
        self._end()

    def begin(self, pids: Sequence[int] = ()) -> None:
        """Begin a window, over which also the times of these processes are read. Raises LoadError: see `end`."""
        self._say(" ".join([BEGIN, *map(str, pids)]))

    def end(self) -> LoadResult:
        """What was measured since `begin`. Raises LoadError when the generator has ended."""
        self._say(END)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return LoadResult(**json.loads(line))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _fail(self) -> NoReturn:
        assert self._process.stderr is not None
        raise LoadError(f"the steady load has ended: {self._process.stderr.read().strip()}") from None


class IdleConnections(_Living):
    """Connections that wait, for the length of a `with`."""

    def __init__(self, port: int, count: int) -> None:
        self._words: Final = (f"--endpoint={HOST}:{port}", f"--connections={count}")
        self.opened_s = 0.0

    def __enter__(self) -> IdleConnections:
        """Returns once all are there. Raises LoadError when they cannot be."""
        self._begin("idle", self._words)
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                _, said = self._process.communicate(timeout=END_TIMEOUT_S)
                raise LoadError(f"idle connections: {said.strip()}")
        except BaseException:
            self._end()
            raise
        self.opened_s = Idling(**json.loads(line)).seconds
        return self

    def __exit__(self, kind: type[BaseException] | None, *_failure: object) -> None:
        """Raises LoadError when some were lost meanwhile: then it was not seen what they cost."""
        lines = self._end().splitlines()
        if kind is not None:
            return
        lost = Idling(**json.loads(lines[-1])).lost if lines else None
        if lost != 0:
            raise LoadError(f"idle connections: {'their process ended' if lost is None else f'{lost} were lost'}")
