"""Long work on the event loop, cut in slices so that nobody starves (design §3).

A task says how to do its next slice and whether more remains; slices of all tasks take turns, one in each turn of the
loop, with the sockets served in between. What is urgent goes first: a turn in which it has work to do has no slice,
but for every MAX_GIVEN + 1st in a row. Knows nothing of what the work is. The size of a slice is the task's affair: a
few milliseconds at the most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

MAX_GIVEN: Final = 4
"""Turns in a row that slices give to urgent work: it slows them down, and never stops them."""


class Task(Protocol):
    def step(self) -> bool:
        """Do one slice; True while more remains. Raising ends the member: what a client may cause is caught inside."""


class Slices:
    __slots__ = ("_given", "_has_urgent_work", "_loop", "_on_failed", "_scheduled", "_tasks")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_failed: Callable[[Exception], None],
        has_urgent_work: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._on_failed = on_failed
        self._has_urgent_work = has_urgent_work
        """Asked in every turn: whether there is some in this turn of the loop."""
        self._given = 0
        """How many turns in a row were given to it."""
        self._tasks: deque[Task] = deque()
        """Round robin. Bounded by those who add: at most one per open request, and the node's own few."""
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        self._tasks.append(task)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._tasks:
            self._scheduled = True
            # call_soon alone would come back before the sockets are polled on some loops; a zero timer does not.
            self._loop.call_later(0, self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._tasks:
            return
        if self._given < MAX_GIVEN and self._has_urgent_work():
            self._given += 1
            self._schedule()
            return
        self._given = 0
        task = self._tasks.popleft()
        try:
            more = task.step()
        except Exception as failure:
            self._on_failed(failure)
            return
        if more:
            self._tasks.append(task)
        self._schedule()

    def stop(self) -> None:
        """Forget all tasks: the node ends, and those they work for have been told."""
        self._tasks.clear()
