"""Durable checkpoints of the store, and the log that they make superfluous (design §5).

Every few seconds, or sooner when much was written: pin a snapshot on the loop, sync it in a thread, let the older pin
go. Then the WAL needs to reach back only to that checkpoint. A page that was written is synced once per checkpoint,
however often it changed; so the interval trades work on the disk for log to replay after a crash.
Owns when; how is the backend's.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from raftkv.metrics import new_histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftkv.backend import Backend, Checkpoint
    from raftkv.wal import Wal

_log = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0
"""So a restart after `kill -9` replays the writes of five seconds at most: a second or two of work."""
LOG_BYTES: Final = 64 << 20
"""... and no more log than this, one segment: with large values it fills in less than five seconds."""


class Checkpoints:
    __slots__ = (
        "_backend",
        "_checkpoint",
        "_last_s",
        "_log_floor",
        "_loop",
        "_on_failed",
        "_paused",
        "_syncing",
        "_threads",
        "_wal",
        "durable_s",
        "durations",
        "log_bytes",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: Backend,
        wal: Wal,
        log_floor: Callable[[int], int],
        on_failed: Callable[[Exception], None],
    ) -> None:
        """`log_floor(durable index)`: entries before this need not be kept; followers may want more than this
        member."""
        self._loop = loop
        self._backend = backend
        self._wal = wal
        self._log_floor = log_floor
        self._on_failed = on_failed
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._checkpoint: Checkpoint | None = None
        """The one being synced."""
        self._syncing: asyncio.Future[None] | None = None
        self._paused = False
        self._last_s = loop.time()
        self.durable_s = self._last_s
        """Loop time at which the last checkpoint that is durable was begun, or there was nothing to make durable."""
        self.durations = new_histogram("raftkv_checkpoint_duration_seconds")
        self.log_bytes = 0
        """Flushed since the last checkpoint began; the owner counts."""

    def on_tick(self, now: float) -> None:
        if self._paused or self._checkpoint is not None:
            return
        if now - self._last_s < INTERVAL_S and self.log_bytes < LOG_BYTES:
            return
        self._last_s = now
        self.log_bytes = 0
        checkpoint = self._backend.begin_checkpoint()
        if checkpoint is not None:
            self._checkpoint = checkpoint
            self._syncing = self._loop.run_in_executor(self._threads, checkpoint.sync)
            self._syncing.add_done_callback(self._on_synced)
        else:
            self.durable_s = now

    def _on_synced(self, future: asyncio.Future[None]) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        assert checkpoint is not None
        self._backend.end_checkpoint(checkpoint)
        failure = future.exception()
        if failure is not None:
            self._note_failure(checkpoint, failure)
            return
        self.durable_s = self._last_s
        self.durations.observe(self._loop.time() - self._last_s)
        self._wal.release_before(self._log_floor(self._backend.durable_index))

    def _note_failure(self, checkpoint: Checkpoint, failure: BaseException) -> None:
        if checkpoint.trusted:
            # The pages are on disk, only the file that names them is not (a full disk). The one before still holds.
            _log.warning("no checkpoint; trying again", extra={"kv": {"error": str(failure)}})
            return
        # The kernel may have dropped the pages that it could not write: what is on disk is no longer known.
        self._on_failed(failure if isinstance(failure, Exception) else RuntimeError(str(failure)))

    def pause(self) -> None:
        self._paused = True

    async def settled(self) -> None:
        while self._checkpoint is not None:
            assert self._syncing is not None
            await asyncio.wait((self._syncing,))
            await asyncio.sleep(0)  # `_on_synced` is called in the turn after the future is done

    def resume(self) -> None:
        self._paused = False

    async def stop(self) -> None:
        """Wait for the sync under way, so that the backend can be closed."""
        self.pause()
        await self.settled()
        self._threads.shutdown()
