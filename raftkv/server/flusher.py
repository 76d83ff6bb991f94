"""Getting the log to disk without the event loop waiting for it.

Owns how a flush is done, nothing of what is written. At most one is under way; what is staged meanwhile goes with the
next one: group commit without a timer (design §3). There are three ways:

- the usual one: the loop writes, a copy into the page cache, and the kernel syncs in a thread of its own; its end comes
  as a readable descriptor. No Python thread takes part, so none competes with the loop for the interpreter;
- in a Python thread: what is large or ends a segment, what housekeeping there is, and everything where the kernel
  cannot do the former;
- on the loop itself, if the owner says that little else is to be done meanwhile (docs/adr/0010).

The log's two sides are never at work at once: the loop writes only while the thread has no job. Whatever fails is
reported once, and nothing more is flushed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

from raftkv.wal import UNSUPPORTED, KernelSync

if TYPE_CHECKING:
    from raftkv.wal import FlushResult, Wal

_log = logging.getLogger(__name__)

Job: TypeAlias = Callable[[], Callable[[], None]]
"""Done in the thread; what it returns is then called on the loop."""


class Flusher:
    """`kick()` on the loop; `on_flushed` or `on_failed` comes back on the loop, later."""

    __slots__ = (
        "_jobs",
        "_kernel",
        "_loop",
        "_on_failed",
        "_on_flushed",
        "_stopped",
        "_syncing",
        "_thread",
        "_thread_jobs",
        "_wal",
        "busy",
        "failed",
        "waits_for_sync",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wal: Wal,
        on_flushed: Callable[[FlushResult], None],
        on_failed: Callable[[Exception], None],
        kernel: KernelSync | None,
    ) -> None:
        """`kernel` None: what is not synced on the loop is flushed in the thread."""
        self._loop = loop
        self._wal = wal
        self._on_flushed = on_flushed
        self._on_failed = on_failed
        self._kernel = kernel
        if kernel is not None:
            loop.add_reader(kernel.fileno(), self._on_synced)
        self.busy = False
        """A flush is under way. Set by `kick`, cleared before `on_flushed`; stays set after a failure."""
        self.failed = False
        """A flush has failed. What is on disk is unknown until it is read again."""
        self.waits_for_sync = False
        """Everything is written, and the owner is to call `sync`."""
        self._stopped = False
        self._syncing: tuple[int, float] | None = None
        """(descriptor, since when) of a sync under way that is not the thread's."""
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        """For the thread; None ends it. At most two: a step of housekeeping and the flush that came meanwhile."""
        self._thread_jobs = 0
        """Jobs given to the thread and not yet reported back."""
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def kick(self, *, on_loop: bool = False) -> None:
        """Flush everything staged so far. `on_loop`: if this `waits_for_sync` then, `sync` does the rest."""
        assert not self.busy, "one flush at a time"
        self.busy = True
        if (on_loop or self._kernel is not None) and not self._thread_jobs:
            try:
                descriptor = self._wal.begin_flush()
            except Exception as failure:
                self._fail(failure)
                return
            if descriptor is not None:
                self._syncing = (descriptor, perf_counter())
                if on_loop:
                    self.waits_for_sync = True
                else:
                    self._sync(descriptor)
                return
        self._give(self._flush)

    def sync(self) -> None:
        """Sync what `kick` has written, and report. Blocks for as long as the disk takes."""
        assert self._syncing is not None
        self.waits_for_sync = False
        try:
            os.fdatasync(self._syncing[0])
        except OSError as error:
            self._end(error)
        else:
            self._end(None)

    def stop(self) -> bool:
        """Let what is under way come to its end, then end the thread. Nothing is reported any more. Blocks.

        False: a flush has failed, and nothing may be written to this log.
        """
        self._stopped = True
        sound = not self.failed
        if self._kernel is not None:
            self._loop.remove_reader(self._kernel.fileno())
            self._kernel.close()  # waits for the sync under way, whose result is then gone: see `_sync_again`
            if self._syncing is not None:
                sound = self._sync_again()
        self._jobs.put(None)
        self._thread.join()
        return sound and not self.failed

    def _sync_again(self) -> bool:
        """The end of a sync that nobody waits for any more; whether it worked. Nothing of it was acknowledged."""
        assert self._syncing is not None
        descriptor, since = self._syncing
        try:
            os.fdatasync(descriptor)
            self._wal.end_flush(perf_counter() - since, None)
        except OSError:
            return False
        return True

    # --- by the kernel ------------------------------------------------------------------------------------------------

    def _sync(self, descriptor: int) -> None:
        assert self._kernel is not None
        try:
            self._kernel.submit(descriptor)
        except OSError as error:
            self._do_without_kernel(error)

    def _on_synced(self) -> None:
        assert self._kernel is not None
        assert self._syncing is not None
        try:
            self._kernel.finish()
        except OSError as error:
            if error.errno in UNSUPPORTED:
                self._do_without_kernel(error)
            else:
                self._end(error)
            return
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        assert self._syncing is not None
        since, self._syncing = self._syncing[1], None
        try:
            result = self._wal.end_flush(perf_counter() - since, error)
        except Exception as failure:
            self._fail(failure)
            return
        self._report(result)

    def _do_without_kernel(self, why: OSError) -> None:
        """This file system, or a sandbox, does not allow it: from now on sync in the thread, beginning with this."""
        assert self._kernel is not None
        _log.info("flushing the log in a thread, for the kernel does not", extra={"kv": {"reason": str(why)}})
        self._loop.remove_reader(self._kernel.fileno())
        self._kernel.close()
        self._kernel = None
        self._give(self._sync_in_thread)

    def _sync_in_thread(self) -> Callable[[], None]:
        assert self._syncing is not None
        try:
            os.fdatasync(self._syncing[0])
        except OSError as error:
            return partial(self._end, error)
        return partial(self._end, None)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _give(self, job: Job) -> None:
        self._thread_jobs += 1
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                report = job()
            except Exception as failure:  # whatever it was, the loop must hear of it: nothing more can be acknowledged
                report = partial(self._fail, failure)
            try:
                self._loop.call_soon_threadsafe(self._take_back, report)
            except RuntimeError:  # the loop is closed: the node has stopped and nobody waits any more
                return

    def _flush(self) -> Callable[[], None]:
        return partial(self._report, self._wal.flush())

    def _maintain(self) -> Callable[[], None]:
        self._wal.maintain()
        return self.look_after

    def _take_back(self, report: Callable[[], None]) -> None:
        self._thread_jobs -= 1
        if not self._stopped:
            report()

    def _fail(self, failure: Exception) -> None:
        self.failed = True
        self._on_failed(failure)

    # --- either way ---------------------------------------------------------------------------------------------------

    def _report(self, result: FlushResult) -> None:
        self.busy = False
        self._on_flushed(result)
        self.look_after()

    def look_after(self) -> None:
        """Housekeeping, a short step at a time, while no flush is under way: one that comes waits for that step."""
        if not self.busy and not self._thread_jobs and self._wal.maintenance_due:
            self._give(self._maintain)
