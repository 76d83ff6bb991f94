"""What clients do while the cluster suffers, one file each; `WORKLOADS` names them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chaos.workloads.append import Append
from chaos.workloads.base import Workload, World
from chaos.workloads.lease import Lease, ShortLease
from chaos.workloads.register import Register
from chaos.workloads.watch import Watch

__all__ = ["DEFAULT", "WORKLOADS", "Workload", "World"]

WORKLOADS: Final[Mapping[str, type[Workload]]] = {
    each.name: each for each in (Register, Append, Watch, Lease, ShortLease)
}
DEFAULT: Final = tuple(name for name, each in WORKLOADS.items() if each.by_default)
