"""How much work something is, counted in a way that comes out alike on every machine.

A clock would measure the neighbours of a test, too, and the garbage of the tests before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType


def calls_during(work: Callable[[], object]) -> int:
    """Calls of functions, written in Python and in C, that `work` makes in this thread."""
    calls = 0

    def count(_frame: FrameType, event: str, _what: object) -> None:
        nonlocal calls
        if event in {"call", "c_call"}:
            calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
