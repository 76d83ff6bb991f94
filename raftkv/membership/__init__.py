"""Who belongs to the cluster: ids, member records, and which ids are gone for ever.

A deterministic state machine over the `members` and `members_removed` tables. Knows nothing of Raft's own
configuration, of sockets or of the other state machines; `apply` keeps it and the ConfState in step (CL-53).
What is asked before a change is proposed, and may depend on who asks, is apart in `checks`.
"""

from raftkv.membership.checks import STEADY_S, Links, check_add, check_promote, check_remove
from raftkv.membership.errors import (
    DataDirectoryChanged,
    ImpossibleChange,
    LearnerNotReady,
    MemberExists,
    MemberNotFound,
    MemberNotLearner,
    MemberRemoved,
    MembershipError,
    NotEnoughStarted,
    PeerURLExists,
    TooManyLearners,
    UnhealthyCluster,
)
from raftkv.membership.ids import added_member_id, cluster_id, member_id
from raftkv.membership.members import Member, Members

__all__ = [
    "STEADY_S",
    "DataDirectoryChanged",
    "ImpossibleChange",
    "LearnerNotReady",
    "Links",
    "Member",
    "MemberExists",
    "MemberNotFound",
    "MemberNotLearner",
    "MemberRemoved",
    "Members",
    "MembershipError",
    "NotEnoughStarted",
    "PeerURLExists",
    "TooManyLearners",
    "UnhealthyCluster",
    "added_member_id",
    "check_add",
    "check_promote",
    "check_remove",
    "cluster_id",
    "member_id",
]
