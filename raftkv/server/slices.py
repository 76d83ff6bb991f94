"""Long work on the event loop, cut in slices so that nobody starves (design §3).

A task says how to do its next slice and whether more remains; slices of all tasks take turns, one in each turn of the
loop, with the sockets served in between. Knows nothing of what the work is. The size of a slice is the task's affair:
a few milliseconds at the most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol


class Task(Protocol):
    def step(self) -> bool:
        """Do one slice; True while more remains. Raising ends the program: it is a mistake of ours."""


class Slices:
    __slots__ = ("_loop", "_scheduled", "_tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
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
        task = self._tasks.popleft()
        if task.step():
            self._tasks.append(task)
        self._schedule()
