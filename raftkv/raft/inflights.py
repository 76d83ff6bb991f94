"""Appends to one follower that are on the way and not yet acknowledged."""

from __future__ import annotations

from collections import deque

from .types import Index


class Inflights:
    """Bounded by count and by bytes. Full: the sender waits for an acknowledgement.

    A message is refused only when a bound is already reached, so the bytes may exceed their bound
    by one message; otherwise a message larger than the bound could never be sent.
    """

    __slots__ = ("_max_bytes", "_max_count", "_queue", "size_bytes")

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._queue: deque[tuple[Index, int]] = deque()
        """(last index, bytes) per message, oldest first; indexes increase."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        return len(self._queue) >= self._max_count or self.size_bytes >= self._max_bytes

    def add(self, last: Index, size_bytes: int) -> None:
        assert not self.full, "more in flight than allowed"
        self._queue.append((last, size_bytes))
        self.size_bytes += size_bytes

    def free_to(self, index: Index) -> None:
        """Everything up to index has arrived."""
        queue = self._queue
        while queue and queue[0][0] <= index:
            self.size_bytes -= queue.popleft()[1]

    def clear(self) -> None:
        self._queue.clear()
        self.size_bytes = 0
