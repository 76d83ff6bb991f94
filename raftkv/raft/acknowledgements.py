"""What a leader makes of answers: who has how much, and what that commits.

Raft paper §5.3 and §5.4.2; thesis §10.2.1 (the leader's own disk is one of the answers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import reads, sending
from .errors import BadMessage
from .progress import Progress, ProgressState
from .types import Message, MessageType

if TYPE_CHECKING:
    from .core import Raft

APPENDS_PER_ACK: Final = 2
"""Full appends that follow an acknowledgement. More than one, so that what is in flight grows to what the network
holds; not all that fits, because to send it is the leader's time: 16 MiB at once hold up everybody else for 14 ms."""


def maybe_commit(raft: Raft) -> bool:
    """Raise the commit index to what a quorum has, if that is of our term (Raft paper §5.4.2)."""
    log = raft.log
    index = raft.tracker.committed()
    if index <= log.committed or log.term(index) != raft.term:
        return False
    log.commit_to(index)
    return True


def after_acknowledgement(raft: Raft) -> bool:
    """Somebody, perhaps we ourselves, has more than before. True if that commits something."""
    if not maybe_commit(raft):
        return False
    if raft.read_only.held:
        reads.release_held(raft)
    raft.commit_news = True
    return True


def tell_commit(raft: Raft) -> None:
    """Just before the messages leave: whoever was not told the commit index by an append or a
    heartbeat that leaves anyway gets an append for it. Under load the next batch carries it."""
    raft.commit_news = False
    committed = raft.log.committed
    for peer in raft.tracker.peers:
        if raft.tracker.progress[peer].can_commit_more(committed):
            sending.send_append(raft, peer)


def on_append_resp(raft: Raft, message: Message) -> None:
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        return  # removed meanwhile
    progress.recent_active = True
    if message.reject:
        _on_append_rejected(raft, message, progress)
    else:
        _on_append_accepted(raft, message, progress)
    reads.on_echo(raft, progress, message.round)


def _on_append_rejected(raft: Raft, message: Message, progress: Progress) -> None:
    next_probe = message.hint
    if message.log_term:
        # What the follower has at `hint` is of log_term. Skip whatever of ours is newer than that.
        next_probe, _ = raft.log.find_conflict_by_term(message.hint, message.log_term)
    if progress.maybe_decrease(message.index, next_probe):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        sending.send_append(raft, message.sender)


def _on_append_accepted(raft: Raft, message: Message, progress: Progress) -> None:
    if message.index > raft.log.last_index:
        raise BadMessage(f"{message.sender} acknowledges {message.index}, which was never sent")
    moved = progress.maybe_update(message.index)
    if not moved and not (progress.match == message.index and progress.state is ProgressState.PROBE):
        return
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_to(message.index)
    elif progress.match + 1 >= raft.log.first_index:
        # Snapshot or not, the log reaches it again.
        progress.become_probe()
        progress.become_replicate()
    if not after_acknowledgement(raft) and progress.can_commit_more(raft.log.committed):
        sending.send_append(raft, message.sender)
    for _ in range(APPENDS_PER_ACK):
        if not sending.send_append(raft, message.sender, if_empty=False):
            break
    if message.sender == raft.lead_transferee and progress.match == raft.log.last_index:
        raft.send(Message(MessageType.TIMEOUT_NOW, message.sender))


def on_heartbeat_resp(raft: Raft, message: Message) -> None:
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    progress.waiting = False
    if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
        # Perhaps it only has not answered yet. Perhaps the end of our stream was lost, and an append
        # without entries makes it say so.
        sending.send_append(raft, message.sender)
    reads.on_echo(raft, progress, message.round)
