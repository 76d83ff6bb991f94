"""What a metric family is: one row of the tables of all that a member shows.

The tables (contract section 11, and raftkv's own) drive the exposition, the buckets of the histograms, and
docs/metrics.md: a family that is in none of them does not exist.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """The value is the word in the exposition."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(NamedTuple):
    name: str
    """As it is exposed, whole: whether a counter ends in `_total` is etcd's choice (PY-20, PY-21)."""
    kind: Kind
    help: str
    """One line for the exposition; no backslash and no line break."""
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram, without +Inf."""
    differs: str = ""
    """Where the figure is not quite what etcd counts under this name, for docs/metrics.md; empty: it is."""


class Absent(NamedTuple):
    """A family of etcd that is not shown, for there is nothing true to show."""

    name: str
    why: str


def counter(name: str, text: str, labels: tuple[str, ...] = (), differs: str = "") -> Family:
    return Family(name, Kind.COUNTER, text, labels, (), differs)


def gauge(name: str, text: str, labels: tuple[str, ...] = (), differs: str = "") -> Family:
    return Family(name, Kind.GAUGE, text, labels, (), differs)


def histogram(
    name: str, text: str, bounds: tuple[float, ...], labels: tuple[str, ...] = (), differs: str = ""
) -> Family:
    return Family(name, Kind.HISTOGRAM, text, labels, bounds, differs)


def exponential(start: float, factor: float, count: int) -> tuple[float, ...]:
    """`count` bounds, each `factor` times the one before."""
    return tuple(start * factor**power for power in range(count))
