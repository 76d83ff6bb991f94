"""Acknowledges before the log is written: the last fifth of a second of it is only in memory (RF-40).

Broken promise: an acknowledged write survives kill -9. A kill of one member makes it forget what it has acknowledged to
its leader; a kill of all members at once loses writes that clients were told of.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from time import monotonic

from chaos.broken._launch import launch
from raftkv.wal import wal
from raftkv.wal.files import write_at

LAG_S = 0.2

_held: deque[tuple[float, int, list[bytes], int]] = deque()
"""(when, descriptor of our own, parts, offset): reported as written, and even as synced."""


def write_later(descriptor: int, parts: list[bytes], offset: int) -> None:
    # The log may close its descriptor before the write is done.
    _held.append((monotonic(), os.dup(descriptor), parts, offset))
    while _held[0][0] < monotonic() - LAG_S:
        _, own, late, at = _held.popleft()
        write_at(own, late, at)
        os.close(own)


if __name__ == "__main__":
    sys.exit(launch(wal, "write_at", write_later))
