"""What a node itself can answer a request with, before or instead of a result.

    NodeError
    ├── RequestTimedOut                not applied, or no read index, within the request timeout (G-52, RF-35)
    │   ├── TimedOutByLeaderFailure    ... and a leader was lost about when the request began
    │   └── TimedOutByConnectionLoss   ... and the link to the leader, or to a quorum, was down meanwhile
    ├── ApplyLags                      what the leader has committed was not applied there in time (L-27)
    ├── NoLeaderInTime                 a proposal waited for a leader until its time was over (G-51)
    ├── TooManyRequests                the queue of proposals is full, or applying lags behind (G-55)
    ├── LeaderChanged                  a read that waited for the old leader (RF-35)
    ├── ProposalLost                   Raft dropped it: a transfer of leadership is under way (G-54)
    ├── NoLeader                       asked for by `hasleader` (G-20), or nobody to forward to (L-24)
    ├── NotLeader                      only the leader does this (MT-40)
    ├── BadTransferee                  the leadership cannot go there (MT-41)
    ├── TransferTooSlow                ... or did not arrive there in time (MT-43)
    ├── NotPrimaryLessor               a lease was renewed on a member that lost the leadership (L-26)
    ├── Forwarded                      the leader's own answer, code and text, to what was forwarded to it
    └── Stopped                        the node is stopping (G-56)

Each is a value that is handed to the waiting caller; the `api` room gives it code and text.

    MemberEnded
    ├── Removed                        this member no longer belongs to the cluster (CL-34)
    ├── DataForgotten                  its data directory is not the one it joined with (RF-72)
    └── Diverged                       its state differs from that of the others (design §6)

These end the member; the text says what happened and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftkv.rpc.codes import Code


class NodeError(Exception):
    """The node could not get the request through. Whether it will still be applied is unknown unless said otherwise."""


class RequestTimedOut(NodeError):
    pass


class TimedOutByLeaderFailure(RequestTimedOut):
    pass


class TimedOutByConnectionLoss(RequestTimedOut):
    pass


class ApplyLags(NodeError):
    pass


class NoLeaderInTime(NodeError):
    """Surely not applied."""


class TooManyRequests(NodeError):
    """Refused before it was proposed."""


class LeaderChanged(NodeError):
    pass


class ProposalLost(NodeError):
    """Surely not applied."""


class NoLeader(NodeError):
    pass


class NotLeader(NodeError):
    pass


class BadTransferee(NodeError):
    pass


class TransferTooSlow(NodeError):
    pass


class NotPrimaryLessor(NodeError):
    pass


class Forwarded(NodeError):
    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Stopped(NodeError):
    pass


class MemberEnded(Exception):
    """Why a member that could go on must not."""


class Removed(MemberEnded):
    pass


class DataForgotten(MemberEnded):
    pass


class Diverged(MemberEnded):
    pass
