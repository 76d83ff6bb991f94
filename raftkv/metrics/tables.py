"""All families together, by name."""

from __future__ import annotations

from typing import Final

from raftkv.histogram import Histogram
from raftkv.metrics.etcd_families import ETCD_FAMILIES, GRPC_EXTENSIVE
from raftkv.metrics.family import Family
from raftkv.metrics.own_families import OWN_FAMILIES, PROCESS_FAMILIES

EXTENSIVE: Final = frozenset(family.name for family in GRPC_EXTENSIVE)
"""Shown with --metrics=extensive only."""
ALL_FAMILIES: Final[tuple[Family, ...]] = (*ETCD_FAMILIES, *GRPC_EXTENSIVE, *OWN_FAMILIES, *PROCESS_FAMILIES)
BY_NAME: Final = {family.name: family for family in ALL_FAMILIES}


def bounds(name: str) -> tuple[float, ...]:
    """The buckets of a histogram."""
    return BY_NAME[name].bounds


def new_histogram(name: str) -> Histogram:
    """An empty one with the buckets that the family of this name has."""
    return Histogram(BY_NAME[name].bounds)
