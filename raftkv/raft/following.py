"""The other side of a leader's messages: APP, HEARTBEAT and SNAP as a follower takes them.

Raft paper §5.3; thesis §5.2 (snapshots). Acknowledgements leave after the save they speak of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .confchange import check
from .errors import BadConfChange, BadMessage
from .types import Index, Message, MessageType, Role

if TYPE_CHECKING:
    from .core import Raft


def follow_sender(raft: Raft, message: Message) -> None:
    """A message only the leader of this term can have sent: so it leads, and is alive."""
    if raft.role is not Role.FOLLOWER:
        raft.become_follower(raft.term, message.sender)
    raft.election_elapsed = 0
    raft.lead = message.sender


def on_append(raft: Raft, message: Message) -> None:
    _check_entries(message)
    follow_sender(raft, message)
    log = raft.log
    if message.index < log.committed:
        # Late or repeated. What is committed cannot differ, so say how far we are.
        _acknowledge(raft, message, log.committed)
        return
    last_new = log.maybe_append(message.index, message.log_term, message.entries)
    if last_new is None:
        _reject(raft, message)
        return
    log.commit_to(min(message.commit, last_new))
    _acknowledge(raft, message, last_new)


def _acknowledge(raft: Raft, message: Message, index: Index) -> None:
    raft.send_after_sync(Message(MessageType.APP_RESP, message.sender, index=index, round=message.round))


def _reject(raft: Raft, message: Message) -> None:
    """Say where the logs may match at best, so that the leader skips whole terms."""
    hint = min(message.index, raft.log.last_index)
    hint, hint_term = raft.log.find_conflict_by_term(hint, message.log_term)
    # A refusal promises nothing, so it need not wait for the disk.
    raft.send(
        Message(
            MessageType.APP_RESP,
            message.sender,
            index=message.index,
            log_term=hint_term,
            reject=True,
            hint=hint,
            round=message.round,
        )
    )


def _check_entries(message: Message) -> None:
    """Indexes without gaps, terms that never decrease, none newer than the sender's."""
    index, term = message.index, message.log_term
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term:
            raise BadMessage(f"{message.sender} sent entry {entry.index}@{entry.term} behind {index - 1}@{term}")
        term = entry.term
    if term > message.term:
        raise BadMessage(f"{message.sender} sent entries of a term newer than its own")


def on_heartbeat(raft: Raft, message: Message) -> None:
    follow_sender(raft, message)
    raft.log.commit_to(message.commit)
    raft.send(Message(MessageType.HEARTBEAT_RESP, message.sender, round=message.round))


def on_snapshot(raft: Raft, message: Message) -> None:
    if message.snapshot is None or message.snapshot.term > message.term:
        raise BadMessage(f"{message.sender} sent no snapshot, or one of a term newer than its own")
    follow_sender(raft, message)
    _restore(raft, message)
    _acknowledge(raft, message, raft.log.committed)


def _restore(raft: Raft, message: Message) -> None:
    """Take the snapshot unless the log does without. Its configuration is in force at once (RF-65)."""
    snapshot = message.snapshot
    assert snapshot is not None
    log = raft.log
    if snapshot.index <= log.committed:
        return
    try:
        check(snapshot.conf_state)
    except BadConfChange as e:
        raise BadMessage(f"{message.sender} sent a snapshot with an impossible configuration: {e}") from e
    conf = snapshot.conf_state
    if raft.id not in {*conf.voters, *conf.voters_outgoing, *conf.learners}:
        return  # not meant for a member; following it would take away our own configuration
    if log.matches(snapshot.index, snapshot.term):
        log.commit_to(snapshot.index)  # all there already; only the news that it is committed was missing
        return
    log.restore(snapshot)
    raft.tracker.switch(conf, log.last_index + 1)
