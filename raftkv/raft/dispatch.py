"""Who handles what: the state machine of the protocol as a table.

A kind of message missing from a role is ignored there, as if the network had lost it: it is late,
or meant for a role this node no longer has. Vote requests are answered alike in every role and are
taken care of in `Raft.step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from . import acknowledgements, elections, following, proposals, reads, transfer
from .types import MessageType, Role

if TYPE_CHECKING:
    from .core import Handler

_FROM_LEADER: Final[Mapping[MessageType, Handler]] = {
    MessageType.APP: following.on_append,
    MessageType.HEARTBEAT: following.on_heartbeat,
    MessageType.SNAP: following.on_snapshot,
}
"""A candidate of the same term turns follower in the handler. A leader has no such handler: of its
own term there is no other leader (Election Safety), and to a newer term it has already yielded."""

HANDLERS: Final[Mapping[Role, Mapping[MessageType, Handler]]] = {
    Role.FOLLOWER: {
        **_FROM_LEADER,
        MessageType.PROP: proposals.forward,
        MessageType.READ_INDEX: reads.forward,
        MessageType.READ_INDEX_RESP: reads.on_read_index_resp,
        MessageType.TRANSFER_LEADER: transfer.forward,
        MessageType.TIMEOUT_NOW: elections.on_timeout_now,
        MessageType.VOTE_RESP: elections.learn_commit,
        MessageType.PRE_VOTE_RESP: elections.learn_commit,
    },
    Role.PRE_CANDIDATE: {
        **_FROM_LEADER,
        MessageType.PROP: proposals.refuse,
        MessageType.PRE_VOTE_RESP: elections.on_vote_resp,
    },
    Role.CANDIDATE: {
        **_FROM_LEADER,
        MessageType.PROP: proposals.refuse,
        MessageType.VOTE_RESP: elections.on_vote_resp,
    },
    Role.LEADER: {
        MessageType.PROP: proposals.on_propose,
        MessageType.APP_RESP: acknowledgements.on_append_resp,
        MessageType.HEARTBEAT_RESP: acknowledgements.on_heartbeat_resp,
        MessageType.READ_INDEX: reads.on_read_index,
        MessageType.TRANSFER_LEADER: transfer.on_transfer,
    },
}
