"""The bytes of large replies that may be in memory at a time, and whose turn it is to make one (docs/limits.md).

A reply has a share of the budget from before it is read until its last byte is with the kernel, or given up. How large
it will be is an estimate while it is read: the share grows with it and is set right at its end. Whoever finds no room
waits in one line; beyond MAX_WAITING nobody is let in. The oldest share may always grow, so that one reply gets done
whatever its size, and all others with it: what is in flight never exceeds the limit by more than that reply.

Knows nothing of replies, streams or clocks: it is told sizes and the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.server.errors import TooManyRequests

LARGE_BYTES: Final = 64 << 10
"""A reply up to this size has no share and never waits."""
MAX_WAITING: Final = 1000
"""Replies in the line. Beyond: TooManyRequests, so RESOURCE_EXHAUSTED."""
STALLED_S: Final = 10.0
MIN_PROGRESS_BYTES: Final = 640 << 10
"""A client that takes less in STALLED_S, while others wait for the room that it keeps, is given up."""
LOOK_S: Final = 1.0
"""Between two looks at who makes progress."""


def _do_nothing() -> None: ...


class Share:
    """Of one reply. `close` it, or `release` all that `sends` has named: it does no harm to do both."""

    __slots__ = ("_budget", "cut_off", "granted", "held_bytes", "mark_bytes", "marked_s", "on_room", "wanted_bytes")

    def __init__(self, budget: ListBudget, size_bytes: int) -> None:
        self._budget = budget
        self.held_bytes = size_bytes
        """What it counts. While it waits in line, what it asks for."""
        self.granted = False
        self.wanted_bytes = 0
        """What it is to grow by, and waits for."""
        self.on_room: Callable[[], None] = _do_nothing
        """Called when what was waited for is granted. Comes in the middle of sending: it may only note that there is
        something to do."""
        self.cut_off: Callable[[], None] | None = None
        """Gives up the client that is being sent to. None: the reply is still being made."""
        self.marked_s = float("-inf")
        """When MIN_PROGRESS_BYTES had last gone, and what was held then."""
        self.mark_bytes = 0

    def grow_to(self, size_bytes: int) -> bool:
        """Hold at least so much, while the reply is being made. False: `on_room` says when there is room for it."""
        assert self.granted, "what waits in line has nothing to grow with"
        assert self.held_bytes, "nobody would find it when there is room"
        return size_bytes <= self.held_bytes or self._budget.grow(self, size_bytes - self.held_bytes)

    def sends(self, size_bytes: int, cut_off: Callable[[], None]) -> None:
        """The reply is made, and this large. From now on it only shrinks."""
        self._budget.settle(self, size_bytes)
        self.cut_off = cut_off
        self.on_room = _do_nothing

    def release(self, size_bytes: int) -> None:
        """So much of it has left for the kernel, or never will. More than is held counts as all of it."""
        self._budget.give_back(self, size_bytes)

    def close(self) -> None:
        """It is over, or nobody waits for it any more."""
        self._budget.give_back(self, self.held_bytes)
        self.on_room = _do_nothing  # whoever it would have told need not be kept


class ListBudget:
    """`limit_bytes` 0: nobody waits, and what is in flight is only counted."""

    __slots__ = ("_growing", "_looked_s", "_shares", "_waiting", "cut_off", "in_flight_bytes", "limit_bytes", "refused")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.in_flight_bytes = 0
        self.refused = 0
        """Replies that found the line full."""
        self.cut_off = 0
        """Replies given up because their client did not take them."""
        self._shares: dict[Share, None] = {}
        """Granted ones that hold something, the oldest first. Bounded by the limit, and by open calls."""
        self._waiting: dict[Share, None] = {}
        """In the order in which they came. At most MAX_WAITING."""
        self._growing = 0
        """How many of `_shares` want to grow."""
        self._looked_s = float("-inf")

    @property
    def waiting(self) -> int:
        """Replies that wait for room, to begin or to go on."""
        return len(self._waiting) + self._growing

    def ask(self, size_bytes: int) -> Share:
        """A share for a reply that may become this large. Raises TooManyRequests.

        Unless it is `granted` at once, its `on_room` will be called.
        """
        share = Share(self, size_bytes)
        if not self.waiting and self._has_room(size_bytes):
            self._grant(share)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting[share] = None
        else:
            self.refused += 1
            raise TooManyRequests
        return share

    def count(self, size_bytes: int) -> Share:
        """A share for what is in memory already, and goes first."""
        share = Share(self, size_bytes)
        self._grant(share)
        return share

    def on_tick(self, now_s: float) -> None:
        """Give up clients that keep others waiting. To be called about once a second, or more often."""
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        for share in list(self._shares):
            if share.cut_off is None:
                continue
            if share.mark_bytes - share.held_bytes >= MIN_PROGRESS_BYTES or share.marked_s < 0:
                share.marked_s, share.mark_bytes = now_s, share.held_bytes
            elif self.waiting and now_s - share.marked_s >= STALLED_S:
                self.cut_off += 1
                share.cut_off()
                share.marked_s, share.mark_bytes = now_s, share.held_bytes

    # --- what shares call

    def grow(self, share: Share, more_bytes: int) -> bool:
        if self._may_grow(share, more_bytes):
            self._hold(share, share.held_bytes + more_bytes)
            return True
        self._growing += not share.wanted_bytes
        share.wanted_bytes = more_bytes
        return False

    def settle(self, share: Share, size_bytes: int) -> None:
        less_bytes = share.held_bytes - size_bytes
        self._hold(share, size_bytes)
        if less_bytes > 0:
            self._admit()

    def give_back(self, share: Share, size_bytes: int) -> None:
        if not share.granted:
            self._waiting.pop(share, None)
            share.held_bytes = 0
        else:
            self._hold(share, max(share.held_bytes - size_bytes, 0))
            if share.wanted_bytes and not share.held_bytes:
                share.wanted_bytes = 0
                self._growing -= 1
        self._admit()

    # --- within

    def _has_room(self, size_bytes: int) -> bool:
        return not self.limit_bytes or not self._shares or self.in_flight_bytes + size_bytes <= self.limit_bytes

    def _may_grow(self, share: Share, more_bytes: int) -> bool:
        return self._has_room(more_bytes) or next(iter(self._shares)) is share

    def _grant(self, share: Share) -> None:
        share.granted = True
        size_bytes, share.held_bytes = share.held_bytes, 0
        self._hold(share, size_bytes)

    def _hold(self, share: Share, size_bytes: int) -> None:
        if size_bytes and not share.held_bytes:
            self._shares[share] = None
        elif share.held_bytes and not size_bytes:
            del self._shares[share]
        self.in_flight_bytes += size_bytes - share.held_bytes
        share.held_bytes = size_bytes

    def _admit(self) -> None:
        """There may be room: first for those who have begun, the oldest first, then for the head of the line."""
        if self._growing:
            for share in self._shares:
                if not share.wanted_bytes:
                    continue
                if not self._may_grow(share, share.wanted_bytes):
                    return
                self._hold(share, share.held_bytes + share.wanted_bytes)
                share.wanted_bytes = 0
                self._growing -= 1
                share.on_room()
        while self._waiting:
            share = next(iter(self._waiting))
            if not self._has_room(share.held_bytes):
                return
            del self._waiting[share]
            self._grant(share)
            share.on_room()
