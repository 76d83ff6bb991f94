"""The process that this member is (contract 11.6): memory, CPU, file descriptors, Python itself.

prometheus_client knows how to read them; names and meaning are those that every Prometheus client gives them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

_log = logging.getLogger(__name__)

SAMPLE_S: Final = 10.0
FULL: Final = 0.8
"""Part of the limit beyond which a warning is logged (M-21)."""

_registry: Final = CollectorRegistry()
for _collector in (ProcessCollector, GCCollector, PlatformCollector):
    _collector(registry=_registry)


def process_text() -> str:
    """process_* and python_*. For a thread: with ten thousand open files, counting them takes 8 ms."""
    return generate_latest(_registry).decode()


def max_virtual_memory_bytes() -> float:
    """As other clients show it: a process without a limit has 2^64 - 1 bytes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float(2**64 - 1) if soft == resource.RLIM_INFINITY else float(soft)


class Descriptors:
    """File descriptors of this process, counted now and then (M-21)."""

    __slots__ = ("_is_full", "_loop", "_next_s", "limit", "used")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.used = self.limit = 0
        self._next_s = 0.0
        self._is_full = False

    def on_tick(self, now: float) -> None:
        if now < self._next_s:
            return
        self._next_s = now + SAMPLE_S
        self._loop.run_in_executor(None, _count_open).add_done_callback(self._on_counted)

    def _on_counted(self, counting: asyncio.Future[int]) -> None:
        if counting.exception() is not None:  # no /proc, or nothing left to open it with
            return
        self.used = counting.result()
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        is_full = self.used > FULL * self.limit
        if is_full and not self._is_full:
            fields = {"used": self.used, "limit": self.limit}
            _log.warning("file descriptors are running out; raise the limit (ulimit -n)", extra={"kv": fields})
        self._is_full = is_full


def _count_open() -> int:
    """In a thread."""
    # One of them is that of the directory.
    return len(os.listdir("/proc/self/fd")) - 1
