"""What the kernel says of a process, and of all: processor time and memory. Linux only.

Knows nothing of who the process is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


class Memory(NamedTuple):
    """Bytes. `file_bytes` is page cache that the process has mapped: the kernel takes it back at need."""

    rss_bytes: int
    anon_bytes: int
    file_bytes: int
    peak_rss_bytes: int


def cpu_s(pid: int) -> float:
    """User and system time of all threads since the start. Raises OSError when there is no such process."""
    # The name, in brackets, may itself hold spaces and brackets: count fields from the last one.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    utime, stime = fields[11], fields[12]
    return (int(utime) + int(stime)) / _TICKS_PER_S


def machine_cpu_s() -> float:
    """Busy time of all cores since the start, everybody's, and what a hypervisor took away."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def memory(pid: int) -> Memory:
    """Raises OSError when there is no such process."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon", "RssFile", "VmHWM"):
            found[name] = int(value.split()[0]) * _KIB
    return Memory(found.get("VmRSS", 0), found.get("RssAnon", 0), found.get("RssFile", 0), found.get("VmHWM", 0))


def total_memory(pids: Iterable[int]) -> Memory:
    """Of all together. Raises OSError when one of them is gone."""
    return Memory(*map(sum, zip(*map(memory, pids), strict=True)))
