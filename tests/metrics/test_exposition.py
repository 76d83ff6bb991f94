"""The text format: what prometheus_client's parser reads is what was counted."""

import pytest
from helpers.effort import calls_during
from prometheus_client.parser import text_string_to_metric_families
from scrape_support import Page

from raftkv.histogram import Histogram
from raftkv.metrics import Exposition
from raftkv.metrics.exposition import MAX_PREFIXES, Reader, go_number
from raftkv.metrics.family import Family, counter, exponential, gauge, histogram
from raftkv.rpc.codes import Code


def page_of(family: Family, read: Reader) -> Page:
    return Page(200, "", "".join(Exposition([family], {family.name: read}).pieces()))


def test_a_counter_has_the_name_that_it_was_given() -> None:
    """PY-20: no suffix is added, and no series tells when it was made."""
    page = page_of(counter("etcd_server_health_success", "Answers."), lambda: 3)
    assert page.text == (
        "# HELP etcd_server_health_success Answers.\n"
        "# TYPE etcd_server_health_success counter\n"
        "etcd_server_health_success 3\n"
    )


def test_a_gauge_may_end_in_total() -> None:
    """PY-21."""
    page = page_of(gauge("etcd_mvcc_keys_total", "Keys."), lambda: -1)
    assert (page.types, page.value("etcd_mvcc_keys_total")) == ({"etcd_mvcc_keys_total": "gauge"}, -1)


def test_a_family_with_labels_and_no_series_is_not_there() -> None:
    """M-03."""
    assert page_of(counter("x_total", "X.", ("To",)), lambda: ()).text == ""


def test_label_values_may_be_anything() -> None:
    """They come from clients."""
    values = ['a"b', "back\\slash", "two\nlines", "ümläut", ""]
    page = page_of(counter("x_total", "X.", ("who",)), lambda: [((value,), 1) for value in values])
    assert {dict(labels)["who"] for labels in page.samples["x_total"]} == set(values)


def test_buckets_add_up() -> None:
    counted = Histogram(exponential(0.001, 2, 3))
    for value in (0.0005, 0.001, 0.003, 0.004, 1.0):
        counted.observe(value)
    family = histogram("x_seconds", "X.", counted.bounds, ("To",))  # type: ignore[arg-type]
    lines = page_of(family, lambda: [(("7",), counted)]).text.splitlines()[2:]
    assert lines == [
        'x_seconds_bucket{To="7",le="0.001"} 2',
        'x_seconds_bucket{To="7",le="0.002"} 2',
        'x_seconds_bucket{To="7",le="0.004"} 4',
        'x_seconds_bucket{To="7",le="+Inf"} 5',
        'x_seconds_sum{To="7"} 1.0085',
        'x_seconds_count{To="7"} 5',
    ]


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (0.0001, "0.0001"),
        (8.192, "8.192"),
        (1, "1"),
        (100, "100"),
        (524288, "524288"),
        (1048576, "1.048576e+06"),
        (1000000, "1e+06"),
        (16777216.5, "1.67772165e+07"),
        (0.00001, "1e-05"),
        (float("inf"), "+Inf"),
    ],
)
def test_bounds_are_written_as_go_does(bound: float, text: str) -> None:
    """PY-22. A dashboard may ask for le="1.048576e+06"."""
    assert go_number(bound) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1e300, 1e300), (float("inf"), float("inf")), (2**63, 2.0**63), (0.1, 0.1)]
)
def test_values_come_through(value: float, text: float) -> None:
    assert page_of(gauge("x", "X."), lambda: value).value("x") == text


def test_every_family_has_a_reader_and_every_reader_a_family() -> None:
    family = gauge("x", "X.")
    with pytest.raises(KeyError):
        Exposition([family], {})
    with pytest.raises(AssertionError, match="y"):
        Exposition([family], {"x": lambda: 1, "y": lambda: 1})


def test_what_is_remembered_of_lines_is_bounded() -> None:
    """Members come and go, and clients make up versions."""
    names = iter(range(3 * MAX_PREFIXES))
    family = gauge("x", "X.", ("who",))
    exposition = Exposition([family], {"x": lambda: [((str(next(names)),), 1) for _ in range(MAX_PREFIXES // 4)]})
    for _ in range(12):
        assert sum(piece.count("\n") for piece in exposition.pieces()) == MAX_PREFIXES // 4 + 2
        assert len(exposition._writers[0]._prefixes) <= MAX_PREFIXES + MAX_PREFIXES // 4


def test_the_largest_family_is_written_well_within_a_slice() -> None:
    """One family is written whole, and the event loop waits for it: a millisecond or two."""
    labels = [(code.name, f"Method{at}", "etcdserverpb.KV", "unary") for at in range(60) for code in Code]
    family = counter("grpc_server_handled_total", "Calls.", ("grpc_code", "grpc_method", "grpc_service", "grpc_type"))
    exposition = Exposition([family], {family.name: lambda: [(each, 12345) for each in labels]})
    [text] = exposition.pieces()
    assert len(next(iter(text_string_to_metric_families(text))).samples) == len(labels)
    assert calls_during(lambda: list(exposition.pieces())) < 7 * len(labels)
