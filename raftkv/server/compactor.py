"""The physical half of a compaction: deletes in the background what has become unreadable (CMP-05, CMP-06, CMP-08).

Works in slices between apply batches, each slice a part of the open transaction; interrupted by a crash, it goes on
after the restart. What is deleted, and the position, are the store's affair.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from raftkv.backend import NoSpaceError
from raftkv.metrics import new_histogram

if TYPE_CHECKING:
    from raftkv.backend import Backend
    from raftkv.mvcc import Store

_log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
PAGES_PER_EVENT: Final = 3
"""Tables that one superseded revision is deleted from; each may copy a page."""


class Compactor:
    __slots__ = (
        "_backend",
        "_loop",
        "_on_failed",
        "_parked",
        "_pause_s",
        "_paused",
        "_slice_events",
        "_started_s",
        "_store",
        "_waiting",
        "_working",
        "last_s",
        "slices_ms",
        "totals_ms",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: Backend,
        store: Store,
        slice_events: int,
        pause_s: float,
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._backend = backend
        self._store = store
        self._slice_events = slice_events
        self._pause_s = pause_s
        self._on_failed = on_failed
        self._working = False
        self._paused = False
        self._parked = False
        """Paused with a slice to do."""
        self._waiting: list[Callable[[], None]] = []
        """Called when nothing is left to delete. Bounded by the open Compact requests."""
        self._started_s = 0.0
        self.last_s = 0
        """Unix time at which the last one began; 0: none yet."""
        self.slices_ms = new_histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds")
        self.totals_ms = new_histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds")

    def wake(self) -> None:
        """After an apply batch, and after the start: is there something to delete?"""
        if self._store.compaction.pending and not self._working:
            self._working = True
            self._started_s = time.perf_counter()
            self.last_s = int(time.time())
            self._loop.call_soon(self._step)

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call back once nothing is left to delete; at once if that is so now."""
        self.wake()
        if self._working:
            self._waiting.append(callback)
        else:
            callback()

    def pause(self) -> None:
        self._paused = True

    async def settled(self) -> None:
        """A slice is never left half done."""

    def resume(self) -> None:
        self._paused = False
        if self._parked:
            self._parked = False
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self._paused:
            self._parked = True
            return
        began_s = time.perf_counter()
        try:
            done = self._delete_slice()
        except NoSpaceError as failure:
            # Deleting needs a few new pages. Nothing is lost by waiting until the disk has them.
            _log.warning("compaction waits for disk space", extra={"kv": {"error": str(failure)}})
            self._loop.call_later(RETRY_S, self._step)
            return
        except Exception as failure:
            self._on_failed(failure)
            return
        now_s = time.perf_counter()
        self.slices_ms.observe((now_s - began_s) * 1000)
        if not done:
            self._loop.call_later(self._pause_s, self._step)
            return
        self.totals_ms.observe((now_s - self._started_s) * 1000)
        self._working = False
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def _delete_slice(self) -> bool:
        self._backend.reserve_batch(0, PAGES_PER_EVENT * self._slice_events)
        try:
            done = self._store.compaction.step(self._backend.begin_write(), self._slice_events)
        except Exception as failure:
            self._backend.poison(failure)
            raise
        if self._backend.commit_due or (done and self._waiting):
            self._backend.commit()  # who waits is told that the deletion is committed (CMP-06)
        return done
