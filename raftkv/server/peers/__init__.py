"""Members talking to each other: links out, the service that takes what comes in, copies of the store on the way.

Owns the connections between members and who may speak on them. Loss is normal here: sending never blocks, and whatever
cannot be sent now is dropped and reported. Knows nothing of what a message decides: that is the core's.
"""

from raftkv.server.peers.copies import Copies
from raftkv.server.peers.fetch import CopyFacts, fetch_copy
from raftkv.server.peers.link import Link
from raftkv.server.peers.links import Links
from raftkv.server.peers.protocol import (
    TEXT_NOT_LEADER,
    Identity,
    PeerCallError,
    Refused,
    RefusedAsRemoved,
    RefusedByCluster,
    RefusedWithOtherData,
)
from raftkv.server.peers.service import PeerService

__all__ = [
    "TEXT_NOT_LEADER",
    "Copies",
    "CopyFacts",
    "Identity",
    "Link",
    "Links",
    "PeerCallError",
    "PeerService",
    "Refused",
    "RefusedAsRemoved",
    "RefusedByCluster",
    "RefusedWithOtherData",
    "fetch_copy",
]
