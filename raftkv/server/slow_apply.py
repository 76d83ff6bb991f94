"""Tells when applying a batch took long: the whole event loop waited for it, and so did every client.

Stands between the ready loop and the node and times what passes, once per batch. Changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftkv.raft import Entry, ReadState, SoftState
    from raftkv.server.ready_loop import Owner
    from raftkv.wal import FlushResult

_log = logging.getLogger(__name__)


class SlowApply:
    """An `Owner` of the ready loop in front of the real one."""

    __slots__ = ("_clock", "_limit_s", "_owner")

    def __init__(self, owner: Owner, limit_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` must run within a turn of the loop; the loop's own stands still on uvloop."""
        self._owner = owner
        self._limit_s = limit_s
        self._clock = clock

    def on_committed(self, entries: Sequence[Entry]) -> None:
        started_s = self._clock()
        self._owner.on_committed(entries)
        took_s = self._clock() - started_s
        if took_s > self._limit_s:
            fields = {
                "took_ms": round(took_s * 1000, 1),
                "limit_ms": round(self._limit_s * 1000, 1),
                "entries": len(entries),
                "size_bytes": sum(len(entry.data) for entry in entries),
                "last_index": entries[-1].index,
            }
            _log.warning("applying a batch took too long", extra={"kv": fields})

    def on_soft_state(self, soft_state: SoftState) -> None:
        self._owner.on_soft_state(soft_state)

    def on_read_states(self, states: list[ReadState]) -> None:
        self._owner.on_read_states(states)

    def on_proposal_dropped(self, number: int) -> None:
        self._owner.on_proposal_dropped(number)

    def on_flushed(self, result: FlushResult) -> None:
        self._owner.on_flushed(result)

    def on_fatal(self, failure: Exception) -> None:
        self._owner.on_fatal(failure)
