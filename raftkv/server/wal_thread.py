"""The one thread that blocks in write and fdatasync, so that the event loop never does.

Owns the thread and the hand-over, nothing of what is written. At most one flush is under way; what is staged
meanwhile goes with the next one: group commit without a timer (design §3). The thread touches no state of the node:
it hands back a result, and the loop decides.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftkv.wal import FlushResult, Wal


class WalThread:
    """`kick()` on the loop; `on_flushed` or `on_failed` comes back on the loop."""

    __slots__ = ("_loop", "_on_failed", "_on_flushed", "_thread", "_wakes", "_wal", "busy")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wal: Wal,
        on_flushed: Callable[[FlushResult], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._wal = wal
        self._on_flushed = on_flushed
        self._on_failed = on_failed
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        """True: flush; False: stop. Never holds more than two, because `kick` waits for the flush before it."""
        self.busy = False
        """A flush is under way. Set on the loop by `kick`, cleared on the loop before `on_flushed`."""
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Flush everything staged so far."""
        assert not self.busy, "one flush at a time"
        self.busy = True
        self._wakes.put(True)

    def stop(self) -> None:
        """Let a flush under way finish, then end the thread. Its result is no longer reported."""
        self._wakes.put(False)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wakes.get():
                self._report(self._flushed, self._wal.flush())
                # Nobody waits for housekeeping, and it must not make the next flush wait.
                while self._wakes.empty() and self._wal.maintain():
                    pass
        except Exception as failure:  # whatever it was, the loop must hear of it: nothing more can be acknowledged
            self._report(self._failed, failure)

    def _report(self, callback: Callable[..., None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:  # the loop is closed: the node has stopped and nobody waits any more
            return

    def _flushed(self, result: FlushResult) -> None:
        self.busy = False
        self._on_flushed(result)

    def _failed(self, failure: Exception) -> None:
        self._on_failed(failure)
