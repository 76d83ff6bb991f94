"""What a judge says.

`undecided` is not a pass: a judge that ran out of time has not found the history good.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Result(StrEnum):
    PASSED = "passed"
    FAILED = "FAILED"
    UNDECIDED = "UNDECIDED"


class Verdict(NamedTuple):
    """One law, and whether the run kept it."""

    workload: str
    law: str
    result: Result
    checked: str
    """How much was looked at: a law that looked at nothing has not been kept."""
    evidence: tuple[str, ...] = ()
    """Lines for people; of a failure, the shortest that prove it."""


def verdict(workload: str, law: str, checked: str, faults: list[str], limit: int = 6) -> Verdict:
    """Failed if there are faults; the first `limit` of them are the evidence."""
    evidence = faults[:limit]
    if len(faults) > limit:
        evidence.append(f"... and {len(faults) - limit} more")
    return Verdict(workload, law, Result.FAILED if faults else Result.PASSED, checked, tuple(evidence))
