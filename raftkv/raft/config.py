"""Settings of one node's core. Owns their meaning, bounds and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .errors import BadConfig
from .types import NOBODY, UNLIMITED, Index, NodeId


class Rng(Protocol):
    """The only chance in the core: spreads election timeouts (Raft paper §5.2)."""

    def randrange(self, lo: int, hi: int, /) -> int:
        """A number in [lo, hi)."""
        ...


@dataclass(slots=True, kw_only=True)
class Config:
    """Raises BadConfig from `validate`, which RawNode calls."""

    id: NodeId
    election_ticks: int = 10
    """Least silence, in ticks, before a follower campaigns; the timeout is drawn from [n, 2n)."""
    heartbeat_ticks: int = 1
    applied: Index = 0
    """Highest index the state machine has durably applied: nothing up to here is handed out again."""
    max_size_per_msg: int = 1 << 20
    """Bytes of entries in one append. At least one entry always fits."""
    max_inflight_msgs: int = 256
    """Appends to one follower on the way without an acknowledgement."""
    max_inflight_bytes: int = 64 << 20
    """Bytes of entries in them. Full: the follower gets no new entries until it acknowledges some."""
    max_uncommitted_bytes: int = UNLIMITED
    """Data of entries not yet committed. Full: proposals are dropped (a single one always fits)."""
    max_committed_size_per_ready: int = 8 << 20
    """Bytes of committed entries handed out and not yet applied. Full: the rest waits."""
    max_pending_reads: int = 4096
    """Unanswered ReadIndex requests on the leader. Full: a request is dropped; its sender retries."""
    pre_vote: bool = True
    check_quorum: bool = True
    """Leaders that lost their quorum step down (RF-04), and followers defend a live leader (RF-03)."""
    disable_proposal_forwarding: bool = False
    """A follower refuses proposals instead of sending them to the leader."""

    def validate(self) -> None:
        if self.id == NOBODY:
            raise BadConfig("id 0 stands for nobody")
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise BadConfig("heartbeat_ticks must be positive and less than election_ticks")
        if self.max_inflight_bytes < self.max_size_per_msg:
            raise BadConfig("max_inflight_bytes must allow for one full message")
        bounds = (
            self.max_inflight_msgs,
            self.max_size_per_msg,
            self.max_uncommitted_bytes,
            self.max_committed_size_per_ready,
            self.max_pending_reads,
        )
        if min(bounds) <= 0:
            raise BadConfig("limits must be positive")
