"""Defragment: rewrite the store without its free pages, while reads go on (MT-30, MT-31).

Writers are paused, not refused: what is proposed meanwhile gathers in its bounded queue and is applied afterwards. Owns
the order: pause, wait for the checkpoint under way, copy in a thread, swap on the loop, hand out the new table handles,
resume. A crash at any point leaves the old store or the new one (the backend's affair).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.metrics import new_histogram
from raftkv.server.errors import NodeError

if TYPE_CHECKING:
    from raftkv.backend import Backend, Tables

_log = logging.getLogger(__name__)

WAIT_FOR_READERS_S: Final = 5.0
"""How long the swap waits for long reads to end, with writers paused, before it gives up."""
RETRY_S: Final = 0.02


class Pausable(Protocol):
    """Something that commits to the store or holds one of its snapshots."""

    def pause(self) -> None: ...

    async def settled(self) -> None:
        """Returns when nothing of it is under way."""

    def resume(self) -> None: ...


class Rebindable(Protocol):
    def rebind(self, tables: Tables) -> None:
        """The environment was reopened; the old handles are dead."""


class DefragmentRefused(NodeError):
    """One is under way already, or readers held on to the old store."""


class Defragmenter:
    def __init__(
        self,
        backend: Backend,
        pausables: Sequence[Pausable],
        rebindables: Sequence[Rebindable],
        on_failed: Callable[[Exception], None],
        exchange: asyncio.Lock,
    ) -> None:
        """`exchange`: held by whoever replaces the open store; two at once would end each other's pause."""
        self._backend = backend
        self._exchange = exchange
        self._on_failed = on_failed
        self._pausables = pausables
        self._rebindables = rebindables
        self._running = False
        self.durations = new_histogram("etcd_disk_backend_defrag_duration_seconds")

    @property
    def running(self) -> bool:
        return self._running

    async def run(self) -> None:
        """Raises DefragmentRefused, NoSpaceError, BackendError or OSError; the store is then as it was."""
        if self._running:
            raise DefragmentRefused("a defragmentation is under way")
        if self._exchange.locked():
            raise DefragmentRefused("the store is being replaced by another member's; it needs no defragmentation")
        self._running = True
        started_s = perf_counter()
        await self._exchange.acquire()
        before_bytes = self._backend.size_bytes
        for each in self._pausables:
            each.pause()
        try:
            for each in self._pausables:
                await each.settled()
            await self._copy_and_swap()
        finally:
            self._running = False
            for each in self._pausables:
                each.resume()
            self._exchange.release()
        self.durations.observe(perf_counter() - started_s)
        _log.info(
            "defragmented",
            extra={"kv": {"size_bytes_before": before_bytes, "size_bytes": self._backend.size_bytes}},
        )

    async def settled(self) -> None:
        """Returns when none is under way: its thread reads the store."""
        while self._running:
            await asyncio.sleep(RETRY_S)

    async def _copy_and_swap(self) -> None:
        job = self._backend.begin_defragment()
        try:
            await asyncio.get_running_loop().run_in_executor(None, job.run)
            await self._readers_gone()
        except BaseException:
            self._backend.abandon_defragment(job)
            raise
        try:
            self._backend.finish_defragment(job)
        except Exception as failure:
            self._on_failed(
                failure
            )  # the old store is closed and the new one is not open; the next start finishes this
            raise
        for each in self._rebindables:
            each.rebind(self._backend.tables)

    async def _readers_gone(self) -> None:
        """Every snapshot of the old store must have been let go of."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + WAIT_FOR_READERS_S
        while self._backend.pin_count:
            if loop.time() >= give_up:
                raise DefragmentRefused("long reads hold on to the store; try again when they are done")
            await asyncio.sleep(RETRY_S)
