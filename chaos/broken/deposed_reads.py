"""As leader, answers linearizable reads without asking a quorum whether it still leads (RF-30, RF-36).

Broken promise: a read sees every write that was acknowledged before it. Looks right as long as there is one leader;
caught when a leader has been paused or cut off, and another one was elected meanwhile.
"""

from __future__ import annotations

import sys
from typing import Any

from chaos.broken._launch import launch
from raftkv.server.node import Node
from raftkv.server.reads import Read

_linearizable = Node.linearizable


def read_as_leader(node: Node, read: Read, context: Any) -> None:
    if node.leader_id == node.member_id:
        read(context, None)
    else:
        _linearizable(node, read, context)


if __name__ == "__main__":
    sys.exit(launch(Node, "linearizable", read_as_leader))
