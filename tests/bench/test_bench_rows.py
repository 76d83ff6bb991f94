"""From measurements to rows with a verdict: medians decide, and what is in doubt says so."""

import pytest
from bench_support import result

from bench import catchup, failover, rows
from bench.cases import CLUSTER_CASES, SINGLE_CASES, Case, Target
from bench.catchup import Absence
from bench.load import LoadResult
from bench.probing import ProbeResult
from bench.procfs import Memory
from bench.rows import Measurement, Row
from bench.stage import DOUBT_LEADER

PUTS = SINGLE_CASES[1]


def _rows(case: Case, etcd: list[LoadResult], raftkv: list[LoadResult], **changes: tuple[str, ...]) -> list[Row]:
    measurements = [
        Measurement(case.title, program, number, measured)._replace(**changes)
        for program, ours in (("etcd", etcd), ("raftkv", raftkv))
        for number, measured in enumerate(ours)
    ]
    return rows.rows_of(case, measurements)


@pytest.mark.parametrize(
    ("rates", "ratio", "met"),
    [([1400, 1600, 9000], 1.6, True), ([1499, 1499, 1600], 1.499, False)],
)
def test_the_median_of_the_rounds_decides(rates: list[float], ratio: float, met: bool) -> None:
    row = _rows(PUTS, [result(per_s=1000)] * 3, [result(per_s=rate) for rate in rates])[0]
    assert row.ratio == pytest.approx(ratio)
    assert row.met is met
    assert row.raftkv_spread == pytest.approx((max(rates) - min(rates)) / 2 / sorted(rates)[1])
    assert not row.doubtful


def test_a_target_is_not_met_by_failing_calls() -> None:
    row = _rows(PUTS, [result(per_s=1000)], [result(per_s=9000, errors={"UNKNOWN: x": 1})])[0]
    assert row.met is False
    assert row.doubtful
    assert row.notes == ("raftkv: 1 x UNKNOWN: x",)


def test_failing_calls_to_etcd_are_doubts_only() -> None:
    row = _rows(PUTS, [result(per_s=1000, errors={"UNKNOWN: x": 1})], [result(per_s=9000)])[0]
    assert row.met is True
    assert row.doubtful


def test_a_row_that_others_disturbed_says_so() -> None:
    row = _rows(PUTS, [result(other_cpu=0.6)], [result(per_s=9000, other_cpu=0.6)])[0]
    assert row.met
    assert row.notes == tuple(f"{name}: other programs took up to 0.6 cores" for name in ("etcd", "raftkv"))


def test_a_row_during_which_the_leader_changed_says_so() -> None:
    row = _rows(PUTS, [result()], [result(per_s=9000)], doubts=(DOUBT_LEADER,))[0]
    assert row.doubtful
    assert row.notes == (f"etcd: {DOUBT_LEADER}", f"raftkv: {DOUBT_LEADER}")


def test_a_generator_at_its_limit_says_so() -> None:
    row = _rows(PUTS, [result()], [result(generator_cpu=0.95)])[0]
    assert row.notes == ("raftkv: generator-bound",)


@pytest.mark.parametrize(
    ("per_s", "p99_ms", "verdicts"), [(2000, 3.0, [True, True]), (1999, 3.0, [False, True]), (2000, 3.1, [True, False])]
)
def test_puts_on_three_members_are_promised_twice_as_fast_and_no_slower_at_p99(
    per_s: float, p99_ms: float, verdicts: list[bool]
) -> None:
    for case in CLUSTER_CASES[:2]:
        made = _rows(case, [result(per_s=1000, p99_ms=3.0)], [result(per_s=per_s, p99_ms=p99_ms)])
        assert [row.met for row in made if row.target] == verdicts


def test_reads_on_three_members_are_promised_faster_through_the_leader_only() -> None:
    for case in CLUSTER_CASES[2:]:
        made = _rows(case, [result(per_s=1000)], [result(per_s=1300)])
        assert [row.met for row in made if row.target] == ([True] if case.through == "leader" else [])


def test_targets_are_inclusive() -> None:
    assert Target(1.1, at_most=True).met(1.1, 0)
    assert Target(1.5, at_most=False).met(1.5, 0)
    assert not Target(1.1, at_most=True).met(1.11, 0)


def test_a_target_of_its_own_does_not_look_at_etcd() -> None:
    target = Target(1500, at_most=True, own="{:,.0f} ms")
    assert str(target) == "raftkv ≤ 1,500 ms"
    assert target.met(9.0, 1500)
    assert not target.met(0.1, 1501)


def test_a_ratio_to_nothing_is_none_and_meets_nothing() -> None:
    row = rows.values_row("t", ("n", "{}"), {"etcd": [0.0], "raftkv": [1.0]}, Target(1.0, at_most=False))
    assert (row.ratio, row.met) == (None, False)


def test_memory_compares_raftkvs_own_with_etcds_resident() -> None:
    memories = {"etcd": Memory(100_000_000, 90_000_000, 0, 0), "raftkv": Memory(800_000_000, 25_000_000, 0, 0)}
    row = rows.memory_row("memory", memories, Target(0.25, at_most=True))
    assert (row.etcd, row.raftkv, row.met, row.doubtful) == ("100.0 MB", "25.0 MB", True, False)
    assert row.notes == ("etcd anonymous 90.0 MB", "raftkv resident 800.0 MB")
    assert rows.memory_row("memory", memories).met is None


# --- failover


def _kills(*gaps_ms: float, before: LoadResult | None = None) -> list[ProbeResult]:
    return [ProbeResult(True, gap_ms, 3, before or result(), {}) for gap_ms in gaps_ms]


@pytest.mark.parametrize(("gaps_ms", "met"), [((900, 1500, 9000), True), ((900, 1501, 1502), False)])
def test_the_median_of_the_kills_is_held_to_one_and_a_half_election_timeouts(
    gaps_ms: tuple[float, ...], met: bool
) -> None:
    median, slowest, load = failover.rows_of({"etcd": _kills(1000, 1200, 1400), "raftkv": _kills(*gaps_ms)})
    assert (median.etcd, median.target, median.met) == ("1,200 ms", "raftkv ≤ 1,500 ms", met)
    assert slowest.raftkv == f"{max(gaps_ms):,.0f} ms"
    assert (slowest.met, load.met) == (None, None)
    assert median.notes == ("etcd 1,000, 1,200, 1,400 ms", f"raftkv {', '.join(f'{gap:,.0f}' for gap in gaps_ms)} ms")
    assert not median.doubtful


def test_a_load_that_others_disturbed_makes_the_failover_doubtful() -> None:
    disturbed = _kills(1000, before=result(other_cpu=1.0))
    median = failover.rows_of({"etcd": _kills(1000), "raftkv": disturbed})[0]
    assert median.doubtful
    assert median.notes[-1] == "raftkv: other programs took up to 1.0 cores"


# --- catch-up


def _absence(baseline_ms: float, during_ms: float, **changes: bool) -> Absence:
    absence = Absence(result(p99_ms=baseline_ms), result(p99_ms=during_ms), 2.5, by_snapshot=False)
    return absence._replace(**changes)


def _catch_up_rows(etcd: list[Absence], raftkv: list[Absence]) -> dict[str, Row]:
    absences = {"etcd": etcd, "raftkv": raftkv}
    made = catchup.rows_of("catch-up", absences, catchup.measurements_of("catch-up", absences))
    return {row.metric: row for row in made}


@pytest.mark.parametrize(("during_ms", "met"), [([5.0, 8.0, 90.0], True), ([5.0, 8.1, 8.2], False)])
def test_p99_may_rise_to_twice_its_own_baseline(during_ms: list[float], met: bool) -> None:
    made = _catch_up_rows([_absence(1, 9)] * 3, [_absence(4, during) for during in during_ms])
    rise = made["back / away"]
    assert (rise.etcd, rise.target, rise.met) == ("9.00 x", "raftkv ≤ 2 x", met)
    assert made["p99, follower away"].raftkv == "4 ms"
    assert made["caught up after"].raftkv == "2.50 s"


def test_by_which_way_followers_caught_up_is_told() -> None:
    by_both = [_absence(1, 1), _absence(1, 1, by_snapshot=True)]
    row = _catch_up_rows([_absence(1, 1)], by_both)["caught up by"]
    assert (row.etcd, row.raftkv) == ("log", "log or snapshot")


def test_a_window_of_few_puts_is_in_doubt() -> None:
    short = _absence(4, 4)._replace(during=result(operations=catchup.FEW_PUTS - 1))
    row = _catch_up_rows([_absence(1, 1)], [short])["back / away"]
    assert row.doubtful
    assert row.notes == (f"raftkv: only {catchup.FEW_PUTS - 1} puts until it had caught up",)


def test_an_absence_during_which_the_leader_changed_is_in_doubt() -> None:
    row = _catch_up_rows([_absence(1, 1, leader_changed=True)], [_absence(1, 1)])["back / away"]
    assert set(row.notes) == {f"etcd: {DOUBT_LEADER}"}
