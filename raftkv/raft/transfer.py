"""Leadership transfer (thesis §3.10; RF-20 to RF-22).

The leader stops taking proposals, brings the target up to date, then tells it to campaign at once.
If nothing has come of it after an election timeout, the leader goes on as if nothing had been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import sending
from .types import NOBODY, Message, MessageType, NodeId

if TYPE_CHECKING:
    from .core import Raft


def on_transfer(raft: Raft, message: Message) -> None:
    """Leader: message.index names the target."""
    start(raft, message.index)


def start(raft: Raft, target: NodeId) -> None:
    """Ignored when target cannot lead or is on its way to; a new target replaces the old one (RF-22)."""
    tracker = raft.tracker
    if target == raft.id or target not in tracker.voters or target == raft.lead_transferee:
        return
    raft.lead_transferee = target
    raft.election_elapsed = 0  # the transfer has one election timeout from now (RF-21)
    progress = tracker.progress[target]
    if progress.match == raft.log.last_index:
        raft.send(Message(MessageType.TIMEOUT_NOW, target))
    else:
        sending.send_append(raft, target)


def abort(raft: Raft) -> None:
    raft.lead_transferee = NOBODY


def forward(raft: Raft, message: Message) -> None:
    """Follower: only the leader can do it."""
    if raft.lead != NOBODY:
        raft.send(Message(MessageType.TRANSFER_LEADER, raft.lead, index=message.index))
