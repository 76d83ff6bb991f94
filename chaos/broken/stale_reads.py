"""Every member answers linearizable reads at once from its own store (RF-30, RF-31).

Broken promise: a read sees every write that was acknowledged before it. Caught by the search for an order and by the
store's revision running back, within a second: a follower always lags a little.
"""

from __future__ import annotations

import sys
from typing import Any

from chaos.broken._launch import launch
from raftkv.server.node import Node
from raftkv.server.reads import Read


def read_at_once(_node: Node, read: Read, context: Any) -> None:
    read(context, None)


if __name__ == "__main__":
    sys.exit(launch(Node, "linearizable", read_at_once))
