"""Who a request is by."""

from __future__ import annotations

from typing import Final, NamedTuple


class Identity(NamedTuple):
    """A user, as far as somebody has vouched for it: a token or a certificate."""

    user: str
    """Empty for nobody."""
    auth_revision: int
    """The authRevision at which this was established: an older one than the current vouches for nothing (AU-49)."""


NO_IDENTITY: Final = Identity("", 0)
