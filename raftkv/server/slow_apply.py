"""Tells when applying a batch took long: the whole event loop waited for it, and so did every client.

Stands between the ready loop and the node and times what passes, once per batch; changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftkv.raft import Entry, ReadState, SoftState
    from raftkv.server.ready_loop import Owner
    from raftkv.wal import FlushResult

_log = logging.getLogger(__name__)


class SlowApply:
    """An Owner of the ready loop in front of another."""

    __slots__ = (
        "_clock",
        "_limit_s",
        "_on_committed",
        "on_fatal",
        "on_flushed",
        "on_proposal_dropped",
        "on_read_states",
        "on_soft_state",
    )
