"""Percentiles read off the buckets are those of the sorted list."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import COARSE_BUCKETS, FINE_BUCKETS, Histogram


@given(
    durations_us=st.lists(st.integers(0, FINE_BUCKETS - 1), min_size=1, max_size=50),
    percent=st.integers(1, 100),
)
def test_below_100_ms_percentiles_are_exact(durations_us: list[int], percent: int) -> None:
    histogram = Histogram()
    for duration_us in durations_us:
        histogram.record(duration_us)

    nearest = sorted(durations_us)[ceil(len(durations_us) * percent / 100) - 1]
    assert histogram.percentile_ms(percent) == pytest.approx(nearest / 1000)
    assert histogram.count == len(durations_us)
    assert histogram.max_us == max(durations_us)
    assert histogram.mean_ms == pytest.approx(sum(durations_us) / len(durations_us) / 1000)


@pytest.mark.parametrize(
    ("duration_us", "shown_ms"),
    [(99_999, 99.999), (100_000, 100), (1_234_567, 1234), (10**12, COARSE_BUCKETS - 1)],
)
def test_longer_durations_keep_their_milliseconds(duration_us: int, shown_ms: float) -> None:
    histogram = Histogram()
    histogram.record(duration_us)
    assert histogram.percentile_ms(99) == pytest.approx(shown_ms)
    assert histogram.max_us == duration_us


def test_an_empty_histogram_says_zero() -> None:
    assert Histogram().percentile_ms(50) == 0
    assert Histogram().mean_ms == 0
