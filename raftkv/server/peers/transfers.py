"""Copies of the store to or from other members, counted for the metrics."""

from __future__ import annotations

from typing import Final

from raftkv.metrics import new_histogram

MAX_MEMBERS: Final = 64
"""Beyond, a member is counted with those who share the id 0: who asks may claim any id."""


class Transfers:
    """Of one member."""

    __slots__ = ("durations", "failed", "succeeded", "under_way")

    def __init__(self, family: str) -> None:
        self.succeeded = 0
        self.failed = 0
        self.under_way = 0
        self.durations = new_histogram(family)
        """Seconds, of those that succeeded."""


class TransferTable:
    """Member id -> its transfers."""

    __slots__ = ("_family", "members")

    def __init__(self, family: str) -> None:
        """`family`: the histogram of how long they take."""
        self._family = family
        self.members: dict[int, Transfers] = {}

    def of(self, member_id: int) -> Transfers:
        found = self.members.get(member_id)
        if found is None:
            if len(self.members) >= MAX_MEMBERS:
                member_id = 0
            found = self.members.setdefault(member_id, Transfers(self._family))
        return found
