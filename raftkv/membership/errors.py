"""What a membership request can be refused for.

    MembershipError
    ├── MemberNotFound     no such member now (CL-30, CL-40)
    ├── MemberRemoved      the id was a member once and never will be again (CL-06)
    ├── MemberExists       the id is taken (CL-21)
    └── PeerURLExists      another member listens there (CL-21)

The `api` room turns each into the code and text that clients expect.
"""


class MembershipError(Exception):
    """A membership request that changes nothing."""


class MemberNotFound(MembershipError):
    pass


class MemberRemoved(MembershipError):
    pass


class MemberExists(MembershipError):
    pass


class PeerURLExists(MembershipError):
    pass
