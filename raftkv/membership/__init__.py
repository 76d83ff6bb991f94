"""Who belongs to the cluster: ids, member records, and which ids are gone for ever.

A deterministic state machine over the `members` and `members_removed` tables. Knows nothing of Raft's own
configuration, of sockets or of the other state machines; `apply` keeps it and the ConfState in step (CL-53).
"""

from raftkv.membership.errors import (
    MemberExists,
    MemberNotFound,
    MemberRemoved,
    MembershipError,
    PeerURLExists,
)
from raftkv.membership.ids import cluster_id, member_id
from raftkv.membership.members import Member, Members

__all__ = [
    "Member",
    "MemberExists",
    "MemberNotFound",
    "MemberRemoved",
    "Members",
    "MembershipError",
    "PeerURLExists",
    "cluster_id",
    "member_id",
]
