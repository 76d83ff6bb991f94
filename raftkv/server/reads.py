"""Linearizable reads: wait for a read index, then for applying to reach it (RF-30 to RF-36).

One round is under way at a time; all reads that arrive meanwhile share the next one (design §3). A late answer to an
old round is ignored. A lone voter that leads needs no round at all (RF-32): nobody else can have committed anything.
Knows nothing of what is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from raftkv.server.errors import NodeError

if TYPE_CHECKING:
    from raftkv.raft import RawNode, ReadState
    from raftkv.server.slow_requests import SlowRequests

Read: TypeAlias = Callable[[Any, Any], None]
"""read(context, None) when the read may be done now, or read(context, error)."""

RETRY_S: Final = 0.5
"""A round without an answer is asked for again (RF-35): the request or its answer may have been lost."""


class Reads:
    __slots__ = (
        "_asked_at",
        "_gathering",
        "_rawnode",
        "_ready_at",
        "_round",
        "_sent",
        "_slow_requests",
        "_started_at",
        "failed",
        "slow",
    )

    def __init__(self, rawnode: RawNode, first_round: int, slow_requests: SlowRequests | None = None) -> None:
        """`first_round`, 62 bits: one that this member surely never used before it was restarted. An answer to an
        earlier life's round may still be on its way, and it knows nothing of what was written since."""
        self._rawnode = rawnode
        self._slow_requests = slow_requests
        self._gathering: list[tuple[Read, Any]] = []
        """Reads for the next round. Bounded by the open requests of the clients."""
        self._sent: list[tuple[Read, Any]] = []
        """Reads of the round under way."""
        self._round = first_round
        self._started_at = 0.0
        self._asked_at = 0.0
        self._ready_at: list[tuple[int, list[tuple[Read, Any]]]] = []
        """(read index, its reads): confirmed, but not applied that far yet; ascending."""
        self.slow = 0
        """etcd_server_slow_read_indexes_total"""
        self.failed = 0
        """etcd_server_read_indexes_failed_total"""

    def add(self, read: Read, context: Any) -> None:
        """`read` is called later. The caller lets the node look for work afterwards."""
        self._gathering.append((read, context))

    def maybe_start(self, now: float) -> None:
        """Begin the next round if reads wait and none is under way."""
        if self._gathering and not self._sent:
            self._sent, self._gathering = self._gathering, []
            self._round += 1
            self._started_at = now
            self._ask(now)

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._rawnode.read_index(self._round.to_bytes(8, "big"))

    def on_read_states(self, states: list[ReadState], applied: int, now: float) -> None:
        for state in states:
            if self._sent and state.context == self._round.to_bytes(8, "big"):
                if self._slow_requests is not None:
                    self._slow_requests.note("reads", len(self._sent), now - self._started_at)
                self._ready_at.append((state.index, self._sent))
                self._sent = []
        self.on_applied(applied)
        self.maybe_start(now)

    def on_applied(self, applied: int) -> None:
        """Do the reads whose index has been reached (RF-34)."""
        while self._ready_at and self._ready_at[0][0] <= applied:
            for read, context in self._ready_at.pop(0)[1]:
                read(context, None)

    def on_leader_changed(self, error: NodeError, now: float) -> None:
        """What was asked of the last leader will not be answered (RF-35). What waits for the next round goes to the
        new."""
        if self._sent:
            self.failed += 1
            waiting, self._sent = self._sent, []
            self._fail(waiting, error)
        self.maybe_start(now)

    def on_tick(self, now: float, timeout_s: float, error: NodeError) -> None:
        """Ask again where no answer came; give up what is older than the request timeout."""
        if not self._sent:
            return
        if now - self._started_at >= timeout_s:
            self.failed += 1
            self._fail(self._sent, error)
            self._sent = []
            self.maybe_start(now)
        elif now - self._asked_at >= RETRY_S:
            self.slow += 1
            self._ask(now)

    def fail_all(self, error: NodeError) -> None:
        waiting = [*self._sent, *self._gathering]
        for _, reads in self._ready_at:
            waiting += reads
        self._sent, self._gathering, self._ready_at = [], [], []
        self._fail(waiting, error)

    @staticmethod
    def _fail(reads: list[tuple[Read, Any]], error: NodeError) -> None:
        for read, context in reads:
            read(context, error)
