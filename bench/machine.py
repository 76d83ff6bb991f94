"""On what it was measured: processor, memory, kernel, filesystem and its fdatasync. Linux only."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

_SYNCS: Final = 50
_SYNC_BYTES: Final = 4096
_BUSY_PER_CORE: Final = 0.3
MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


class Machine(NamedTuple):
    cores: int
    cpu_model: str
    memory_bytes: int
    kernel: str
    python: str
    filesystem: str
    sync_ms: float
    """Median of appending 4 KiB and fdatasync."""
    load_average: float
    """Of the minute before the first measurement."""

    @property
    def warnings(self) -> list[str]:
        found = []
        if self.load_average > _BUSY_PER_CORE * self.cores:
            found.append(
                f"The machine was not quiet: load average {self.load_average:.1f} on {self.cores} cores"
                " before the first measurement."
            )
        if self.filesystem in MEMORY_FILESYSTEMS:
            found.append(f"The data was on {self.filesystem}, where a sync costs nothing.")
        return found


def look(directory: Path) -> Machine:
    """This machine, with the filesystem of `directory`, to which 50 small synced writes are made."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu_model=_first_value("/proc/cpuinfo", "model name") or platform.machine(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        filesystem=_filesystem(directory),
        sync_ms=_sync_ms(directory),
        load_average=os.getloadavg()[0],
    )


def _first_value(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _filesystem(directory: Path) -> str:
    """The type of the mount with the longest path above `directory`."""
    directory = directory.resolve()
    best, found = -1, "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split(" ")
        # The later of two mounts on one path hides the earlier.
        if directory.is_relative_to(mount) and len(mount) >= best:
            best, found = len(mount), kind
    return found


def _sync_ms(directory: Path) -> float:
    times = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(_SYNCS):
            began = perf_counter()
            file.write(bytes(_SYNC_BYTES))
            os.fdatasync(file.fileno())
            times.append(perf_counter() - began)
    return statistics.median(times) * 1000
