"""Waiting for what must come true: conditions are polled under a bound, and a wait in vain says what it last saw.

Owns the clock of the black-box tests: no test decides anything by a bare sleep.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

import grpc

T = TypeVar("T")

PATIENCE_S: Final = 30.0
"""For what takes a second on a quiet machine; the machine of a test run is not quiet."""
_POLL_S: Final = 0.05


class WaitedInVainError(AssertionError):
    """What must have come true did not. The text says what, how long was waited, and the last refusal."""


def wait_until(what: str, look: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """The first answer of `look` that is true. A refused call counts as "not yet". Raises WaitedInVainError."""
    deadline = time.monotonic() + timeout_s
    seen: object = None
    while True:
        try:
            answer = look()
        except grpc.RpcError as refusal:
            seen = refusal
        else:
            if answer:
                return answer
            seen = answer
        if time.monotonic() > deadline:
            raise WaitedInVainError(f"waited {timeout_s:g} s in vain until {what}; last seen: {seen}")
        time.sleep(_POLL_S)


def stays_true(what: str, look: Callable[[], object], duration_s: float) -> None:
    """`look` must be true, whenever it is asked, for this long. Raises AssertionError at the first time it is not."""
    deadline = time.monotonic() + duration_s
    while time.monotonic() < deadline:
        assert look(), f"not for {duration_s:g} s: {what}"
        time.sleep(_POLL_S)
