"""ReadIndex, leader's and follower's side (thesis §6.4; RF-30 to RF-36). Bookkeeping: `read_only`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import sending
from .progress import Progress
from .types import NOBODY, Index, Message, MessageType, NodeId, ReadState

if TYPE_CHECKING:
    from .core import Raft


def on_read_index(raft: Raft, message: Message) -> None:
    """Leader: from a follower."""
    request(raft, message.sender, message.context)


def request(raft: Raft, asked_by: NodeId, context: bytes) -> bool:
    """Leader: a read of asked_by. False: too many are waiting, this one is dropped."""
    if raft.read_only.full:
        return False
    if not raft.committed_in_term:
        raft.read_only.hold(asked_by, context)
        return True
    _start(raft, asked_by, context)
    return True


def release_held(raft: Raft) -> None:
    """The first entry of the term is committed: now we know what had been committed before (RF-30)."""
    if raft.committed_in_term:
        for asked_by, context in raft.read_only.take_held():
            _start(raft, asked_by, context)


def _start(raft: Raft, asked_by: NodeId, context: bytes) -> None:
    index = raft.log.committed
    if raft.tracker.is_single_voter:
        _answer(raft, asked_by, index, context)  # we are the quorum (RF-32)
        return
    raft.read_only.open_round(index, asked_by, context)
    own = raft.tracker.progress.get(raft.id)
    if own is not None:
        own.read_round = raft.read_only.round
    sending.bcast_heartbeat(raft)


def on_echo(raft: Raft, progress: Progress, round_: int) -> None:
    """A member that follows us in our term has seen our round."""
    if round_ > progress.read_round and raft.is_leader:
        progress.read_round = round_
        if raft.read_only.waiting:
            answer_confirmed(raft)


def answer_confirmed(raft: Raft) -> None:
    for read in raft.read_only.take_confirmed(raft.tracker.confirmed_round()):
        _answer(raft, read.asked_by, read.index, read.context)


def _answer(raft: Raft, asked_by: NodeId, index: Index, context: bytes) -> None:
    if asked_by == raft.id:
        raft.read_states.append(ReadState(index, context))
    else:
        raft.send(Message(MessageType.READ_INDEX_RESP, asked_by, index=index, context=context))


def forward(raft: Raft, message: Message) -> None:
    """Follower or learner: the leader knows (RF-31). Without one the request is dropped (RF-35).

    So is that of a peer which takes us for the leader: the answer would come to us, not to it.
    """
    if raft.lead == NOBODY or message.sender != raft.id:
        return
    forwarded = Message(MessageType.READ_INDEX, raft.lead, context=message.context)
    raft.send(forwarded)
    forwarded.term = 0  # good for whoever leads when it arrives


def on_read_index_resp(raft: Raft, message: Message) -> None:
    """Follower: the leader's answer."""
    raft.read_states.append(ReadState(message.index, message.context))
