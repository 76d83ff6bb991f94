"""The store's revision as one clock for all keys: it never runs back, and never tells two writes the same time.

A call that begins after another has ended carries a revision at least as high, and a higher one if it wrote. This
finds stale reads and lost writes across keys, where the search for an order looks at one key at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from chaos.checkers.register import answered, asked
from chaos.checkers.verdict import Verdict, verdict
from chaos.history import Op, Outcome


def check(workload: str, ops: Iterable[Op]) -> Verdict:
    answers = [op for op in ops if op.outcome is Outcome.OK]
    faults = [*_runs_back(answers), *_told_twice(answers)]
    return verdict(workload, "the store's revision never runs back", f"{len(answers):,} calls", faults)


def _runs_back(answers: list[Op]) -> list[str]:
    faults = []
    highest: Op | None = None
    """Of the calls that had ended before the present one began."""
    ended: list[tuple[float, int, Op]] = []
    for count, op in enumerate(sorted(answers, key=lambda each: each.called_s)):
        while ended and ended[0][0] < op.called_s:
            candidate = heapq.heappop(ended)[2]
            if highest is None or candidate.revision > highest.revision:
                highest = candidate
        heapq.heappush(ended, (op.returned_s, count, op))
        if highest is not None and op.revision < highest.revision + op.took:
            faults.append(f"{_line(op)}, after {_line(highest)}")
    return faults


def _told_twice(answers: list[Op]) -> list[str]:
    faults = []
    writers: dict[int, Op] = {}
    for op in answers:
        if op.took:
            first = writers.setdefault(op.revision, op)
            if first is not op:
                faults.append(f"one revision for two writes: {_line(first)}, and {_line(op)}")
    return faults


def _line(op: Op) -> str:
    return f"{op.member} {op.called_s:.3f}..{op.returned_s:.3f} s {asked(op)} {op.key}: {answered(op)}"
