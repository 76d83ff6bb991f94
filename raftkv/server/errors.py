"""What a node itself can answer a request with, before or instead of a result.

    NodeError
    ├── RequestTimedOut            not applied, or no read index, within the request timeout (G-52, RF-35)
    ├── TooManyRequests            the queue of proposals is full, or applying lags behind (G-55)
    ├── LeaderChanged              a read that waited for the old leader (RF-35)
    ├── ProposalLost               Raft dropped it: a transfer of leadership is under way (G-54)
    ├── NoLeader                   asked for by `hasleader` (G-20)
    └── Stopped                    the node is stopping (G-56)

Each is a value that is handed to the waiting caller; the `api` room gives it code and text.
"""


class NodeError(Exception):
    """The node could not get the request through. Whether it will still be applied is unknown unless said otherwise."""


class RequestTimedOut(NodeError):
    pass


class TooManyRequests(NodeError):
    """Refused before it was proposed."""


class LeaderChanged(NodeError):
    pass


class ProposalLost(NodeError):
    """Surely not applied."""


class NoLeader(NodeError):
    pass


class Stopped(NodeError):
    pass
