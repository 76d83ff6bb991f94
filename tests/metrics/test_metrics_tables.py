"""The tables are etcd's list, and docs/metrics.md is the tables."""

from pathlib import Path

import pytest
from scrape_support import listed

from raftkv.metrics import ALL_FAMILIES, BY_NAME
from raftkv.metrics.docs import render
from raftkv.metrics.etcd_families import ABSENT, ETCD_FAMILIES, GRPC_EXTENSIVE
from raftkv.metrics.own_families import OWN_FAMILIES

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
FROM_CLIENT_LIBRARY = {
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
NOT_LISTED = {
    "etcd_debugging_mvcc_range_total",  # gone in 3.6
    "process_network_receive_bytes_total",  # not in the contract
    "process_network_transmit_bytes_total",
}


@pytest.mark.parametrize("name", [name for name, row in listed().items() if not row.absent])
def test_a_metric_of_etcd(name: str) -> None:
    """M-01: name, type, labels and buckets."""
    if name in FROM_CLIENT_LIBRARY:
        assert name not in BY_NAME, "it would be there twice"
        return
    row, family = listed()[name], BY_NAME[name]
    assert (family.kind.value, family.labels, family.bounds) == (row.kind, row.labels, row.bounds)


def test_nothing_else_is_called_as_if_it_were_etcds() -> None:
    """M-01, M-04."""
    shown = {name for name, row in listed().items() if not row.absent} - FROM_CLIENT_LIBRARY
    own = {family.name for family in OWN_FAMILIES}
    assert {family.name for family in ALL_FAMILIES} == shown | own
    assert all(name.startswith("raftkv_") for name in own)


def test_what_is_missing_is_said() -> None:
    """No figure is made up, and none is left out in silence."""
    absent = {name for name, row in listed().items() if row.absent}
    assert {each.name for each in ABSENT} == absent | NOT_LISTED
    assert not {each.name for each in ABSENT} & set(BY_NAME)


def test_names_are_used_once_and_texts_fit_into_a_line() -> None:
    assert len(BY_NAME) == len(ALL_FAMILIES)
    for family in ALL_FAMILIES:
        assert family.help.endswith(".")
        assert not {"\n", "\\"} & set(family.help)


def test_the_page_of_the_documentation_is_current() -> None:
    assert DOCS.read_text() == render(), "run: make docs"
    for family in (*ETCD_FAMILIES, *GRPC_EXTENSIVE, *OWN_FAMILIES):
        assert f"| `{family.name}` |" in DOCS.read_text()
