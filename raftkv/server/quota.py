"""How much more may be written: the quota, and whether the disk has blocks for it (AL-20 to AL-28, design §5).

Answers one question per request with one comparison. Decides nothing for the cluster: an alarm, once applied, does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.backend import NoSpaceError

if TYPE_CHECKING:
    from raftkv.backend import Backend

AHEAD_BYTES: Final = 64 << 20
"""Blocks kept reserved behind the last used page. More than all requests that can be on their way to `apply` when the
disk fills up: those are already promised, and must find room."""


class Quota:
    __slots__ = ("_backend", "_limit_bytes", "_wal_is_full", "disk_is_full", "headroom_bytes")

    def __init__(self, backend: Backend, limit_bytes: int | None) -> None:
        """`limit_bytes` None: no quota."""
        self._backend = backend
        self._limit_bytes = limit_bytes
        self._wal_is_full = False
        self.disk_is_full = False
        """The last try to reserve blocks failed. Tried again by `retry`."""
        self.headroom_bytes = 0
        """What a request may cost and surely be within the quota."""
        self.update()

    def allows(self, cost_bytes: int) -> bool:
        """AL-22: a request that adds nothing is always within the quota."""
        return cost_bytes < self.headroom_bytes or not cost_bytes or self._allows_measured(cost_bytes)

    def _allows_measured(self, cost_bytes: int) -> bool:
        """What is open was only reckoned, and too high: commit it, and look how large the file has really become."""
        if not self._backend.open_bytes:
            return False
        self._backend.commit()
        self.update()
        return cost_bytes < self.headroom_bytes

    def update(self) -> None:
        """After every commit."""
        if not self.disk_is_full:
            self._reserve()
        if self.disk_is_full or self._wal_is_full:
            self.headroom_bytes = 0
        elif self._limit_bytes is None:
            self.headroom_bytes = 1 << 62
        else:
            self.headroom_bytes = max(0, self._limit_bytes - self._backend.size_bytes - self._backend.open_bytes)

    def retry(self, *, wal_is_full: bool) -> None:
        """Now and then: has somebody made room? Freed space lifts the refusal here; the alarm stays (AL-27)."""
        self._wal_is_full = wal_is_full
        if self.disk_is_full:
            self._reserve()
        self.update()

    def _reserve(self) -> None:
        try:
            self._backend.reserve(AHEAD_BYTES)
            self.disk_is_full = False
        except NoSpaceError:
            self.disk_is_full = True
