"""raftkv.histogram: which bucket a value falls into."""

from raftkv.histogram import Histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0.0, 1.0, 1.5, 2.0, 4.0, 4.1, 100.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.count == 7
    assert histogram.total == 112.6


def test_several_as_one() -> None:
    parts = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    parts[0].observe(0.5)
    parts[1].observe(0.5)
    parts[1].observe(9.0)
    whole = Histogram.of_all(parts)
    assert (whole.bounds, whole.counts, whole.total) == ((1.0, 2.0), [2, 0, 1], 10.0)
    assert parts[0].counts == [1, 0, 0], "the parts stay as they are"
