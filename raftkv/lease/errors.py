"""What a lease request can be refused for.

    LeaseError
    ├── LeaseNotFound       no such lease (L-10); also when renewing (L-21)
    ├── LeaseExists         the id is in use (L-02)
    ├── LeaseTTLTooLarge    more than MAX_TTL_S (L-03)
    ├── LeaseExpired        run out but not revoked yet: wait for the revoke, then answer TTL 0 (L-25)
    └── NotPrimaryLessor    only the leader knows when leases run out (L-26, L-32)

The first three come out of applying and are the same on every member; the last two never enter the log.
"""


class LeaseError(Exception):
    """A lease request that changes nothing."""


class LeaseNotFound(LeaseError):
    pass


class LeaseExists(LeaseError):
    pass


class LeaseTTLTooLarge(LeaseError):
    pass


class LeaseExpired(LeaseError):
    pass


class NotPrimaryLessor(LeaseError):
    pass
