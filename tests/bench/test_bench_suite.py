"""What the suites consist of, and what all their stages do in the same way."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from bench_support import result

from bench import comparing, stage
from bench.cases import CLUSTER_CASES, DEFAULT, QUICK, Case, Plan
from bench.catchup import CatchUp
from bench.comparing import CompareOptions
from bench.load import LoadError, LoadResult
from bench.report import Comparison, method_lines
from bench.rows import PROGRAMS, Measurement, Outcome, words_row
from bench.servers import NO_FLAGS, Cluster, Flags, Program, ServerError
from bench.stage import DOUBT_LEADER, REPEATS, Report, Stage, in_turns
from bench.status import Leadership
from bench.suite import CLUSTER, EDGES, SINGLE, SUITES, Loads, Suite


def _titles(suite: Suite | None) -> list[str]:
    return [] if suite is None else [title for part in suite.stages for title in part.titles]


def test_without_words_a_suite_is_whole() -> None:
    assert SINGLE.chosen([]) is SINGLE
    assert CLUSTER.chosen([]) is CLUSTER


@pytest.mark.parametrize(
    ("words", "titles"),
    [
        (["follower"], ["put, follower, 64 on 64", "range serializable, follower, 64 on 64"]),
        (["killed"], ["leader killed under load"]),
        (["catch-up"], ["catch-up, default settings", "catch-up, log cut short"]),
        (["killed", "512"], ["put, leader, 512 clients on 64 connections", "leader killed under load"]),
        (["nothing-like-it"], []),
    ],
)
def test_words_choose_cases_and_whole_stages(words: list[str], titles: list[str]) -> None:
    assert _titles(CLUSTER.chosen(words)) == titles


def test_titles_are_distinct_within_a_suite() -> None:
    for suite in SUITES:
        assert len(set(_titles(suite))) == len(_titles(suite))


def test_measurements_are_counted_before_they_are_made() -> None:
    assert SINGLE.measurement_count(DEFAULT) == 2 * 3 * 12
    assert CLUSTER.measurement_count(DEFAULT) == 2 * (3 * 5 + 10 + 3 + 3)
    assert CLUSTER.measurement_count(QUICK) == 2 * (5 + 1 + 1 + 1)

    assert EDGES.measurement_count(QUICK) == 2 * (2 + 2 + 1)


def test_titles_with_their_numbers_are_told_once() -> None:
    told = method_lines(Comparison(EDGES, DEFAULT, [], []))
    assert len(told) == len(set(told)) == 2
    assert "10,000 to one server" in told[1]


def test_methods_name_the_sizes_of_the_plan() -> None:
    told = " ".join(part.method(DEFAULT) for part in CLUSTER.stages)
    for words in ("Medians of 3 alternating rounds", "10 of each cluster", "100,000 puts of 256 bytes", "1,000 puts/s"):
        assert words in told
    assert "--snapshot-catchup-entries=50" in told


def test_both_programs_are_told_to_cut_the_log_short() -> None:
    *_, short = CLUSTER.stages
    assert isinstance(short, CatchUp)
    assert set(short.flags) == set(PROGRAMS)


def test_who_is_first_alternates() -> None:
    both: Any = ["etcd", "raftkv"]
    assert [list(in_turns(both, number)) for number in range(3)] == [both, both[::-1], both]


# --- one measurement, and the leader around it


class _Cluster:
    """Three members, of which the leader is who the script says next."""

    name = "raftkv"
    pids = (1, 2, 3)
    ca_file = "ca.pem"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, leaders: Sequence[tuple[int, int]]) -> None:
        """`leaders`: number and term, one for each time it is asked."""
        self.running = [SimpleNamespace(name=f"n{number}", port=9000 + number) for number in range(3)]
        self.driven: list[int] = []
        """The ports of the load."""
        self.ended = False
        self._leaders = iter(leaders)
        monkeypatch.setattr(stage, "wait_leader", lambda _cluster: self._next())
        monkeypatch.setattr(stage, "run_load", self._drive)

    def check_running(self) -> None:
        if self.ended:
            raise ServerError("raftkv n1 ended")

    def measure(self, case: Case) -> Measurement:
        cluster: Any = self
        return stage.measure(cluster, QUICK, case, 0)

    def _next(self) -> Leadership:
        number, term = next(self._leaders)
        server: Any = self.running[number]
        return Leadership(server, term)

    def _drive(
        self, _plan: Plan, _case: Case, _number: int, port: int, pids: Sequence[int], ca_file: str
    ) -> LoadResult:
        assert (tuple(pids), ca_file) == (self.pids, self.ca_file)
        self.driven.append(port)
        return result(per_s=len(self.driven))


LEADER_CASE, FOLLOWER_CASE = CLUSTER_CASES[0], CLUSTER_CASES[3]


def test_the_load_goes_to_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(monkeypatch, [(1, 5), (1, 5)])
    measured = cluster.measure(LEADER_CASE)
    assert cluster.driven == [9001]
    assert measured.doubts == ()


def test_the_load_goes_to_a_follower_if_the_case_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(monkeypatch, [(0, 5), (0, 5)])
    cluster.measure(FOLLOWER_CASE)
    assert cluster.driven == [9001]


def test_a_measurement_is_repeated_when_the_leader_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = _Cluster(monkeypatch, [(1, 5), (2, 6), (2, 6), (2, 6)])
    measured = cluster.measure(LEADER_CASE)
    assert cluster.driven == [9001, 9002]
    assert measured.result.per_s == 2
    assert measured.doubts == ()


def test_a_leader_that_keeps_changing_leaves_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = [(1, term) for term in range(2 * (1 + REPEATS))]
    cluster = _Cluster(monkeypatch, terms)
    measured = cluster.measure(LEADER_CASE)
    assert len(cluster.driven) == 1 + REPEATS
    assert measured.doubts == (DOUBT_LEADER,)


def test_a_load_that_fails_says_first_whether_a_member_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_how: object) -> LoadResult:
        raise LoadError("nobody answers")

    cluster = _Cluster(monkeypatch, [(1, 5)] * 4)
    monkeypatch.setattr(stage, "run_load", fail)
    with pytest.raises(LoadError, match="raftkv: nobody answers"):
        cluster.measure(LEADER_CASE)
    cluster.ended = True
    with pytest.raises(ServerError):
        cluster.measure(LEADER_CASE)


# --- a run of several suites


@pytest.fixture
def options(tmp_path: Path) -> CompareOptions:
    return CompareOptions(QUICK, SUITES, "python -m bench", write=tmp_path / "page.md", root=tmp_path)


class _Stage(NamedTuple):
    """A stage that measures nothing, or fails."""

    failure: Exception | None
    titles: tuple[str, ...] = ("a case",)
    flags: Flags = NO_FLAGS

    def method(self, _plan: Plan) -> str:
        return "By looking at it."

    def chosen(self, _words: Sequence[str]) -> Stage | None:
        return self

    def measurement_count(self, _plan: Plan) -> int:
        return 1

    def run(self, _plan: Plan, clusters: Sequence[Cluster], report: Report) -> Outcome:
        report("looked at")
        if self.failure is not None:
            raise self.failure
        return Outcome([words_row("a case", "members", {c.name: str(len(c.servers)) for c in clusters})], [])


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that do nothing, in place of both."""
    sleep = ("/bin/sh", "-c", "exec sleep 60", "sh")
    monkeypatch.setattr(comparing, "etcd_program", lambda _path: Program("etcd", "3.5.1", sleep, "db"))
    monkeypatch.setattr(comparing, "raftkv_program", lambda: Program("raftkv", "0.1.0", sleep, "db"))
    monkeypatch.setattr(comparing, "_measure_generator", lambda _plan, _report: result(per_s=60_000))


@pytest.mark.usefixtures("sleepers")
def test_each_suite_has_clusters_of_its_size(options: CompareOptions, capsys: pytest.CaptureFixture[str]) -> None:
    suites = tuple(suite._replace(stages=(_Stage(None),)) for suite in SUITES)
    comparing.run(options._replace(suites=suites))
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("a case")] == [
        ["a", "case", "members", "1", "1"],
        ["a", "case", "members", "3", "3"],
        ["a", "case", "members", "1", "1"],
    ]


@pytest.mark.usefixtures("sleepers")
def test_only_a_secure_stage_has_servers_started_again_with_a_certificate(
    options: CompareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    secured: list[str] = []
    monkeypatch.setattr(Cluster, "secure", lambda cluster: secured.append(cluster.name))
    monkeypatch.setattr("bench.suite.wait_idle", lambda _cluster: None)
    plain, secure = Loads(()), Loads((), is_secure=True)
    comparing.run(options._replace(suites=(EDGES._replace(stages=(plain, secure, plain)),), write=None))
    assert secured == ["etcd", "raftkv"]


@pytest.mark.usefixtures("sleepers")
@pytest.mark.parametrize("failure", [LoadError("nobody answers"), ServerError("raftkv n1 ended")])
def test_a_suite_that_fails_does_not_take_the_results_before_it(options: CompareOptions, failure: Exception) -> None:
    suites = (SINGLE._replace(stages=(_Stage(None),)), CLUSTER._replace(stages=(_Stage(failure),)))
    with pytest.raises(type(failure), match=str(failure)):
        comparing.run(options._replace(suites=suites))
    assert options.write is not None
    page = options.write.read_text()
    assert "## One member" in page
    assert "| a case | members | 1 | 1 |" in page
    assert "## Three members" not in page


@pytest.mark.usefixtures("sleepers")
def test_nothing_is_left_of_a_run(options: CompareOptions, tmp_path: Path) -> None:
    comparing.run(options._replace(suites=(SINGLE._replace(stages=(_Stage(None),)),), write=None))
    assert list(tmp_path.iterdir()) == []
