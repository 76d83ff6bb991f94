"""The shell around the core: one event loop, the Ready loop, timers, waiting requests, bootstrap.

The only floor below `api` that knows asyncio's tasks; everything it calls runs to completion.
"""

from raftkv.server.bootstrap import Booted, boot
from raftkv.server.joining import Founding, find_founding
from raftkv.server.node import Node

__all__ = ["Booted", "Founding", "Node", "boot", "find_founding"]
