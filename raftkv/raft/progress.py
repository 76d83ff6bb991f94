"""What the leader knows about one member's log, and how fast it may send to it.

    PROBE       next is a guess. One append at a time, then wait for an answer or a heartbeat's.
    REPLICATE   the logs are known to match at `match`. Stream, guess that every append arrives.
    SNAPSHOT    the entries it needs are gone. Send nothing until the snapshot is reported.

Exists on leaders only (on others it is kept, unused, so that a new leader need not build it).
"""

from __future__ import annotations

from enum import Enum

from .inflights import Inflights
from .types import Index


class ProgressState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    __slots__ = (
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "read_round",
        "recent_active",
        "sent_commit",
        "state",
        "waiting",
    )

    def __init__(self, next_index: Index, inflights: Inflights, is_learner: bool) -> None:
        self.match: Index = 0
        """Highest index known to be durable there and equal to ours. Never decreases within a term."""
        self.next: Index = next_index
        """First index to send next. Invariant: match < next."""
        self.state = ProgressState.PROBE
        self.pending_snapshot: Index = 0
        """Index of the snapshot on its way; 0 outside SNAPSHOT."""
        self.recent_active = False
        """Heard of since the last check of the quorum (RF-04)."""
        self.waiting = False
        """Silence until something comes back: in PROBE the one append has been sent, in REPLICATE
        as many as may be in flight."""
        self.inflights = inflights
        """REPLICATE only; empty otherwise."""
        self.is_learner = is_learner
        self.sent_commit: Index = 0
        """Highest commit index sent, so that a mere commit is not sent twice."""
        self.read_round = 0
        """Highest ReadIndex round echoed in this term."""

    @property
    def paused(self) -> bool:
        """No append of any kind may go out now."""
        return self.waiting or self.state is ProgressState.SNAPSHOT

    def can_commit_more(self, committed: Index) -> bool:
        """Telling it the commit index would let it commit something it was not told of yet."""
        return self.sent_commit < committed and self.sent_commit < self.next - 1

    def reset(self, next_index: Index) -> None:
        """A new term or role: forget everything learned under the old one."""
        self._enter(ProgressState.PROBE)
        self.match = 0
        self.next = next_index
        self.recent_active = False
        self.sent_commit = 0
        self.read_round = 0

    def become_probe(self) -> None:
        """After a loss, or once a snapshot has arrived (then the guess begins behind it)."""
        behind_snapshot = self.pending_snapshot + 1
        self._enter(ProgressState.PROBE)
        self.next = max(self.match + 1, behind_snapshot)
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: Index) -> None:
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, size_bytes: int) -> None:
        """An append with count entries has been given away; count may be 0."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size_bytes)
            self.waiting = self.inflights.full
        else:
            assert self.state is ProgressState.PROBE
            self.waiting = True

    def maybe_update(self, index: Index) -> bool:
        """The member acknowledged index. False: an old acknowledgement, nothing new in it."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.waiting = False
        return True

    def maybe_decrease(self, rejected: Index, hint: Index) -> bool:
        """The member refused an append behind `rejected` and suggests hint. False: an old refusal.

        Lowers `next`, never to match or below.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
            return True
        if self.next - 1 != rejected:
            return False
        self.next = max(min(rejected, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.waiting = False
        return True

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.waiting = False
        self.pending_snapshot = 0
        self.inflights.clear()
