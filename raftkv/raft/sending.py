"""What a leader sends: appends, heartbeats, snapshots.

Raft paper §5.3; thesis §10.2.2 (pipelining). Decides what goes to whom and when nothing may. What
comes back is read in `acknowledgements`; how the other side takes it stands in `following`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import Compacted, SnapshotUnavailable
from .progress import Progress
from .types import ENTRY_HEADER_SIZE_BYTES, Entry, Message, MessageType, NodeId

if TYPE_CHECKING:
    from .core import Raft


def bcast_append(raft: Raft) -> None:
    """To every peer that may get something now; also tells the commit index."""
    for peer in raft.tracker.peers:
        send_append(raft, peer)


def bcast_heartbeat(raft: Raft) -> None:
    for peer in raft.tracker.peers:
        _send_heartbeat(raft, peer, raft.tracker.progress[peer])


def _send_heartbeat(raft: Raft, to: NodeId, progress: Progress) -> None:
    # Never more than the follower is known to have: whatever else stands in its log at those
    # indexes may be of another leader.
    commit = min(progress.match, raft.log.committed)
    raft.send(
        Message(
            MessageType.HEARTBEAT,
            to,
            commit=commit,
            round=raft.read_only.round,
            state_index=raft.state_index,
            state_hash=raft.state_hash,
        )
    )
    progress.sent_commit = max(progress.sent_commit, commit)


def send_append(raft: Raft, to: NodeId, if_empty: bool = True) -> bool:
    """Send what comes next for `to`, or the snapshot if that is gone. False: nothing could be sent.

    if_empty: an append without entries is worth sending: it probes, or carries a commit index.
    """
    progress = raft.tracker.progress[to]
    if progress.paused:
        return False
    log = raft.log
    prev = progress.next - 1
    entries: list[Entry] = []
    try:
        prev_term = log.term(prev)
        if progress.next <= log.last_index and not progress.inflights.full:
            entries = log.entries(progress.next, raft.config.max_size_per_msg)
    except Compacted:
        return _send_snapshot(raft, to, progress)
    if not entries and not if_empty:
        return False
    raft.send(
        Message(
            MessageType.APP,
            to,
            index=prev,
            log_term=prev_term,
            entries=entries,
            commit=log.committed,
            round=raft.read_only.round,
            state_index=raft.state_index,
            state_hash=raft.state_hash,
        )
    )
    size = 0
    for entry in entries:
        size += len(entry.data) + ENTRY_HEADER_SIZE_BYTES
    progress.sent_entries(len(entries), size)
    progress.sent_commit = log.committed
    return True


def _send_snapshot(raft: Raft, to: NodeId, progress: Progress) -> bool:
    if not progress.recent_active:
        return False  # it does not answer; a snapshot would only load the network
    try:
        snapshot = raft.log.snapshot()
    except SnapshotUnavailable:
        return False  # the next heartbeat's answer brings us here again
    assert snapshot.index, "entries are gone, but no snapshot replaces them"
    conf = snapshot.conf_state
    if to not in {*conf.voters, *conf.voters_outgoing, *conf.learners}:
        return False  # older than its membership: it would refuse it. A newer one must be made first
    progress.become_snapshot(snapshot.index)
    raft.send(Message(MessageType.SNAP, to, snapshot=snapshot))
    return True
