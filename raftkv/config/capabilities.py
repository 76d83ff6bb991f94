"""What this version of raftkv cannot do yet, and so must refuse or at least mention at start, never ignore.

The one switch: when a capability is built, its row leaves `UNSUPPORTED`, and every setting that needs it is
served. Nothing else in the configuration changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Capability(Enum):
    """The value is how a message names it: "--cert-file needs <value>"."""

    DISCOVERY_V2 = "discovery by etcd's v2 protocol"
    GATEWAY = "the JSON gateway"
    TRACING = "distributed tracing"


Unsupported = Mapping[Capability, str]
"""Capability -> what the user can do instead today: one sentence, the hint of the start error."""

UNSUPPORTED: Final[Unsupported] = {
    Capability.DISCOVERY_V2: "Use --discovery-endpoints and --discovery-token, or --discovery-srv, instead.",
    Capability.TRACING: "Leave --enable-distributed-tracing out; applying that takes long is logged.",
}
