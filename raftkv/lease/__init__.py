"""Leases: granted and revoked by the log, counted down by the leader.

A state machine over the `leases` and `lease_keys` tables. Knows nothing of the other state machines: `apply`
tells it which keys moved, and deletes the keys of a revoked lease.
"""

from raftkv.lease.errors import (
    LeaseError,
    LeaseExists,
    LeaseExpired,
    LeaseNotFound,
    LeaseTTLTooLarge,
    NotPrimaryLessor,
)
from raftkv.lease.lessor import Lessor
from raftkv.lease.ttl import MAX_TTL_S, granted_ttl_s, min_ttl_s

__all__ = [
    "MAX_TTL_S",
    "LeaseError",
    "LeaseExists",
    "LeaseExpired",
    "LeaseNotFound",
    "LeaseTTLTooLarge",
    "Lessor",
    "NotPrimaryLessor",
    "granted_ttl_s",
    "min_ttl_s",
]
