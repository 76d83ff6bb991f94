"""Proposals: into the leader's log, on to the leader, or refused.

A proposal that is not refused may still be lost (its leader may be deposed); one that is refused,
with ProposalDropped, is in nobody's log and never will be (G-54).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import sending
from .confdata import decode_conf_change
from .errors import BadConfChange, BadMessage, ProposalDropped
from .types import NOBODY, Entry, EntryType, Message, MessageType

if TYPE_CHECKING:
    from .core import Raft


def on_propose(raft: Raft, message: Message) -> None:
    """Leader. A follower has nothing to forward when nothing is proposed."""
    if not message.entries:
        raise BadMessage(f"{message.sender} forwarded a proposal without entries")
    propose(raft, message.entries)


def propose(raft: Raft, entries: Sequence[Entry]) -> None:
    """Leader: number entries, append them, send them. Raises ProposalDropped; then none was appended."""
    _check_admission(raft)
    size = 0
    has_change = False
    for entry in entries:
        size += len(entry.data)
        has_change |= entry.type is EntryType.CONF_CHANGE
    _check_room(raft, size)
    if has_change:
        entries = _admit_conf_changes(raft, entries)
    term, index = raft.term, raft.log.last_index
    numbered = []
    size = 0  # anew: a change that was not admitted has lost its data, and only what is appended is ever freed
    for entry in entries:
        index += 1
        size += len(entry.data)
        numbered.append(Entry(term, index, entry.type, entry.data))
    _append(raft, numbered, size)


def propose_data(raft: Raft, payloads: Sequence[bytes]) -> None:
    """Leader: the same for normal entries of our own clients; the path of every write."""
    _check_admission(raft)
    size = 0
    term, index = raft.term, raft.log.last_index
    numbered = []
    for data in payloads:
        index += 1
        size += len(data)
        numbered.append(Entry(term, index, EntryType.NORMAL, data))
    _check_room(raft, size)
    _append(raft, numbered, size)


def _check_admission(raft: Raft) -> None:
    if raft.lead_transferee:
        raise ProposalDropped("leadership transfer in progress")
    if raft.id not in raft.tracker.progress:
        raise ProposalDropped("this leader has been removed from the cluster")


def _check_room(raft: Raft, size_bytes: int) -> None:
    """A single proposal always fits: else it could never be made. Empty ones always fit: the way out
    of a joint configuration must not be held up by load."""
    waiting = raft.uncommitted_bytes
    if size_bytes and waiting and waiting + size_bytes > raft.config.max_uncommitted_bytes:
        raise ProposalDropped("too many uncommitted proposals")


def _append(raft: Raft, entries: list[Entry], size_bytes: int) -> None:
    """They count for the quorum once on our disk; the peers' disks may work at the same time."""
    raft.uncommitted_bytes += size_bytes
    raft.log.append(entries)
    sending.bcast_append(raft)


def _admit_conf_changes(raft: Raft, entries: Sequence[Entry]) -> list[Entry]:
    """RF-60: a membership change that must not enter the log now becomes an empty normal entry."""
    admitted = []
    for k, entry in enumerate(entries):
        if entry.type is EntryType.CONF_CHANGE:
            if _may_change_now(raft, entry.data):
                raft.pending_conf_index = raft.log.last_index + 1 + k
            else:
                entry = Entry(0, 0)
        admitted.append(entry)
    return admitted


def _may_change_now(raft: Raft, data: bytes) -> bool:
    """One at a time, and out of a joint configuration before anything else (thesis §4.1, §4.3)."""
    try:
        change = decode_conf_change(data)
    except BadConfChange as e:
        raise ProposalDropped(f"not a configuration change: {e}") from e
    if raft.pending_conf_index > raft.log.applied:
        return False
    return change.leaves_joint == bool(raft.tracker.conf.voters_outgoing)


def refuse(raft: Raft, message: Message) -> None:
    """Candidates: there is no leader to give it to."""
    raise ProposalDropped("no leader")


def forward(raft: Raft, message: Message) -> None:
    """Followers: on to the leader, which answers nothing; the entry shows up in the log or does not."""
    if raft.lead == NOBODY:
        raise ProposalDropped("no leader")
    if raft.config.disable_proposal_forwarding:
        raise ProposalDropped("not the leader, and forwarding is switched off")
    forwarded = Message(MessageType.PROP, raft.lead, entries=message.entries)
    raft.send(forwarded)
    forwarded.term = 0  # good for whoever leads when it arrives
