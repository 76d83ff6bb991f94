"""Committed entries: applied, those who wait for them answered, and everybody told who follows the state.

Owns the order of these steps for each batch of entries. What an entry does is `apply`'s, who is waiting `proposals`'.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from raftkv.apply import COPIES_OF_VALUE
from raftkv.server.peering import removed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raftkv.apply import Applied
    from raftkv.mvcc.watch import RevisionEvents
    from raftkv.raft import Entry, RawNode
    from raftkv.server.node import Node
    from raftkv.server.proposals import Proposals
    from raftkv.server.reads import Reads
    from raftkv.server.ready_loop import ReadyLoop

_log = logging.getLogger(__name__)

REMOVED_LINGER_S: Final = 1.0
"""CL-34: a removed member goes on this long, so that the answer can go out."""


class Applying:
    """`apply` for every batch of entries that the core hands out."""

    def __init__(self, node: Node, rawnode: RawNode, ready_loop: ReadyLoop, proposals: Proposals, reads: Reads) -> None:
        self._node = node
        self._rawnode = rawnode
        self._ready_loop = ready_loop
        self._proposals = proposals
        self._reads = reads
        self.leave: Callable[[], None] = lambda: None
        """What has been answered leaves the process now. For whoever has the sockets to set."""

    def apply(self, entries: Sequence[Entry]) -> None:
        """Raises what the disk raises."""
        started_s = time.perf_counter()
        foreseen = self._answer_first(entries) if self._ready_loop.batch_sizes.single else None
        applied, events = self._apply(entries)
        if foreseen is not None:
            assert [foreseen] == applied, "what was acknowledged is what was done"
        else:
            self._answer(applied)
        self._node.hub.publish(events)
        self._tell(self._node.applier.index)
        took_s = time.perf_counter() - started_s
        self._node.durations.apply.observe(took_s)
        if took_s > self._node.config.warning_apply_duration_s:
            self._node.counters.slow_applies += 1
            _warn_slow(entries, took_s)

    def _answer_first(self, entries: Sequence[Entry]) -> Applied | None:
        """What is committed, and of which the result is certain, need not be in the store to be acknowledged. Not with
        many clients: those who are answered first come back first, and batches fall apart."""
        foreseen = self._node.applier.foresee(entries[0], self._node.member_id) if len(entries) == 1 else None
        if foreseen is not None:
            self._answer((foreseen,))
            self.leave()  # in this callback: nobody may read the store before it has what was acknowledged
        return foreseen

    def _apply(self, entries: Sequence[Entry]) -> tuple[list[Applied], Sequence[RevisionEvents]]:
        node = self._node
        node.space.before_apply(entries)
        value_bytes, pages = node.applier.growth(entries)
        node.backend.reserve_batch(value_bytes, pages)
        node.counters.applied_bytes += value_bytes // COPIES_OF_VALUE
        applied, events = node.applier.apply(entries)
        for each in applied:
            if each.change is not None:
                self._rawnode.apply_conf_change(each.change)
                self._on_members_changed()
        if node.backend.commit_due:
            node.backend.commit()
        node.quota.update()
        node.space.after_apply()
        return applied, events

    def _answer(self, applied: Sequence[Applied]) -> None:
        for proposer, number, results, _ in applied:
            self._proposals.complete(proposer, number, results)
            if proposer != self._node.member_id:
                self._ready_loop.tell_commit_now()

    def _tell(self, index: int) -> None:
        node = self._node
        self._reads.on_applied(index)
        node.leader_calls.on_applied(index)
        node.authenticator.on_applied(index)
        if node.reconfiguration.waits:  # later: the core has yet to hear that this batch is applied
            node.loop.call_soon(node.reconfiguration.go_on, node.loop.time())
        self._rawnode.attest(index, node.applier.state_hash)
        node.peering.divergence.on_applied()
        if self._rawnode.is_leader and not node.lease_keeper.primary and node.applier.term == self._rawnode.term:
            node.lease_keeper.promote(node.loop.time())
        node.compactor.wake()

    def _on_members_changed(self) -> None:
        node = self._node
        self._ready_loop.tell_commit_now()
        node.trim_log()  # a member that joins must not be sent the log's first entry: see ReplicaLog.trim
        node.peering.update_links()
        if node.members.was_removed(node.member_id):
            node.loop.call_later(REMOVED_LINGER_S, node.end, removed(node.member_id))


def _warn_slow(entries: Sequence[Entry], took_s: float) -> None:
    """The whole event loop waited for this batch, and so did every client."""
    fields = {
        "took_ms": round(took_s * 1000, 3),
        "entries": len(entries),
        "size_bytes": sum(len(entry.data) for entry in entries),
        "last_index": entries[-1].index,
    }
    _log.warning("applying a batch took too long", extra={"kv": fields})
