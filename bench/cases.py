"""What is measured: the plan's sizes, the metrics, the targets, and the cases of load.

Knows nothing of how a case is measured or shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from bench.driving import PUT_JSON, WATCH
from bench.load import LoadResult


class Plan(NamedTuple):
    """How long and how often. Rounds alternate between the programs; results are their medians."""

    rounds: int
    seconds: float
    warmup_s: float
    read_keys: int
    """Keys under the prefix that ranges and lists read."""
    kills: int
    """Of the leader of each cluster."""
    absences: int
    """Of a follower of each cluster, with each setting."""
    missed_puts: int
    """Made while the follower is away."""
    steady_per_s: float
    """Puts while it comes back, and before."""
    settle_s: float
    """From the last missed put to the baseline, and from the last idle connection to a look at the memory: what they
    have left to be done is not part of it."""
    baseline_s: float
    idle_connections: int


QUICK: Final = Plan(
    rounds=1,
    seconds=0.8,
    warmup_s=0.2,
    read_keys=5_000,
    kills=1,
    absences=1,
    missed_puts=10_000,
    steady_per_s=500,
    settle_s=0.5,
    baseline_s=1.0,
    idle_connections=500,
)
DEFAULT: Final = Plan(
    rounds=3,
    seconds=2.0,
    warmup_s=0.5,
    read_keys=50_000,
    kills=10,
    absences=3,
    missed_puts=100_000,
    steady_per_s=1_000,
    settle_s=3.0,
    baseline_s=5.0,
    idle_connections=10_000,
)


class Metric(NamedTuple):
    """One number of a measurement and how it is written."""

    name: str
    read: Callable[[LoadResult], float]
    form: str


RATE: Final = Metric("per second", lambda result: result.per_s, "{:,.0f}/s")
COST: Final = Metric("server CPU", lambda result: result.server_cpu_us or 0.0, "{:,.1f} µs")
"""Per operation, of all members together. Other programs on the machine change it least."""
P50: Final = Metric("p50", lambda result: result.p50_ms, "{:.3g} ms")
P99: Final = Metric("p99", lambda result: result.p99_ms, "{:.3g} ms")


class Target(NamedTuple):
    """What raftkv's value divided by etcd's must reach."""

    limit: float
    at_most: bool
    own: str = ""
    """A format: then raftkv's own value must reach the limit, whatever etcd's is."""

    def met(self, ratio: float | None, value: float) -> bool:
        """`value`: raftkv's. Without a ratio (etcd's value is 0) no target for it is met."""
        reached = value if self.own else ratio
        if reached is None:
            return False
        return reached <= self.limit if self.at_most else reached >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"raftkv {sign} {self.own.format(self.limit)}" if self.own else f"{sign} {self.limit:g}"


Metrics = tuple[tuple[Metric, Target | None], ...]


class Case(NamedTuple):
    title: str
    workload: str
    connections: int
    clients: int
    metrics: Metrics = ((RATE, None), (P99, None), (COST, None))
    prefix: str = "put/"
    """`{round}` in it is replaced, for keys that must be new in every round."""
    key_space: int | None = 100_000
    """None: the plan's read_keys."""
    deadline_s: float | None = None
    through: Literal["leader", "follower"] = "leader"
    """Which member is driven."""


_FASTER: Final = Target(1.5, at_most=False)
_AS_PROMPT: Final = Target(1.1, at_most=True)
_PUT_METRICS: Final[Metrics] = ((RATE, _FASTER), (P50, None), (P99, None), (COST, None))

SINGLE_CASES: Final = (
    Case("put, 1 client", "put", 1, 1, ((P50, _AS_PROMPT), (P99, None))),
    Case("put, 64 clients on 64 connections", "put", 64, 64, _PUT_METRICS),
    Case("put, 64 clients on 8 connections", "put", 8, 64, _PUT_METRICS),
    Case("put, 512 clients on 64 connections", "put", 64, 512, _PUT_METRICS),
    Case("put with deadlines, 64 on 64", "put", 64, 64, deadline_s=5.0),
    Case("txn (create), 64 on 64", "txn", 64, 64, prefix="txn{round}/", key_space=10_000_000),
    Case("range, 64 on 64", "range", 64, 64, prefix="read/", key_space=None),
    Case("range, 512 on 64", "range", 64, 512, prefix="read/", key_space=None),
    Case("range serializable, 512 on 64", "range-serializable", 64, 512, prefix="read/", key_space=None),
    Case("list, page of 500, 8 on 8", "list-page", 8, 8, prefix="read/", key_space=None),
    Case("list, all keys, 1 client", "list-all", 1, 1, ((RATE, None), (P50, None)), "read/", None),
    Case("watch, 1 writer, 100 watchers", WATCH, 4, 100, ((RATE, None), (P50, None), (P99, None)), "watch/"),
)

_TWICE_AS_FAST: Final = Target(2.0, at_most=False)
_NO_SLOWER: Final = Target(1.0, at_most=True)
_READS_FASTER: Final = Target(1.3, at_most=False)
_CLUSTER_PUT_METRICS: Final[Metrics] = ((RATE, _TWICE_AS_FAST), (P50, None), (P99, _NO_SLOWER), (COST, None))
_CLUSTER_RANGE_METRICS: Final[Metrics] = ((RATE, _READS_FASTER), (P99, None), (COST, None))

CLUSTER_CASES: Final = (
    Case("put, leader, 64 clients on 64 connections", "put", 64, 64, _CLUSTER_PUT_METRICS),
    Case("put, leader, 512 clients on 64 connections", "put", 64, 512, _CLUSTER_PUT_METRICS),
    Case("range, leader, 64 on 64", "range", 64, 64, _CLUSTER_RANGE_METRICS, "read/", None),
    Case("put, follower, 64 on 64", "put", 64, 64, through="follower"),
    Case(
        "range serializable, follower, 64 on 64",
        "range-serializable",
        *(64, 64),
        prefix="read/",
        key_space=None,
        through="follower",
    ),
)

_SECURE_PUT_METRICS: Final[Metrics] = ((RATE, Target(1.3, at_most=False)), (P50, None), (P99, None), (COST, None))
_GATEWAY_PUT_METRICS: Final[Metrics] = ((RATE, Target(1.0, at_most=False)), (P50, None), (P99, None), (COST, None))

SECURE_CASES: Final = (
    Case("put over TLS, 64 clients on 64 connections", "put", 64, 64, _SECURE_PUT_METRICS),
    Case("range over TLS, 64 on 64", "range", 64, 64, prefix="read/", key_space=None),
)
GATEWAY_CASES: Final = (
    Case("put through the gateway, 1 client", PUT_JSON, 1, 1, _GATEWAY_PUT_METRICS),
    Case("put through the gateway, 64 clients on 64 connections", PUT_JSON, 64, 64, _GATEWAY_PUT_METRICS),
)
