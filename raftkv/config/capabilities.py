"""What this version of raftkv cannot do yet, and so must refuse at start rather than ignore.

The one switch: when a capability is built, its row leaves `UNSUPPORTED`, and every setting that needs it is
served. Nothing else in the configuration changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Capability(Enum):
    """The value is how a message names it: "--cert-file needs <value>"."""

    CLIENT_TLS = "TLS on the client side"
    PEER_TLS = "TLS between members"
    CLUSTERING = "a cluster of several members"
    DISCOVERY = "cluster discovery"
    JWT = "authentication by JWT"
    TRACING = "distributed tracing"


Unsupported = Mapping[Capability, str]
"""Capability -> what the user can do instead today: one sentence, the hint of the start error."""

UNSUPPORTED: Final[Unsupported] = {
    Capability.CLIENT_TLS: "Listen on http:// where only trusted clients reach it, or end TLS in a proxy.",
    Capability.PEER_TLS: "Leave the --peer-* certificate settings out; a single member talks to no peer.",
    Capability.CLUSTERING: "Start one member whose --initial-cluster names only itself.",
    Capability.DISCOVERY: "Name the members with --initial-cluster instead.",
    Capability.JWT: "Use --auth-token=simple.",
    Capability.TRACING: "Leave --enable-distributed-tracing out; metrics and slow-request logs are served.",
}
