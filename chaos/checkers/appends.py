"""Lists that only grow: what was acknowledged is there in the end, once, and everything ever read is a beginning of it.

A list is a value, its elements joined by commas. An append is a CAS from a list to the same list with one more.
Stronger than a register in one thing: a single final read tells the fate of every append before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from chaos.checkers.register import answered
from chaos.checkers.verdict import Result, Verdict, verdict
from chaos.history import Kind, Op, Outcome, by_key


def elements(value: str | None) -> list[str]:
    return value.split(",") if value else []


def appended(value: str | None, element: str) -> str:
    """The list with one more."""
    return f"{value},{element}" if value else element


def check(workload: str, ops: Iterable[Op]) -> Verdict:
    law = "every acknowledged append is there, once"
    keys = by_key(ops)
    faults: list[str] = []
    unread = []
    acknowledged = 0
    for key, history in keys.items():
        final = _final_read(history)
        if final is None:
            unread.append(key)
            continue
        acknowledged += sum(op.took for op in history)
        faults += (f"{key}: {fault}" for fault in _faults_of(history, final))
    checked = f"{len(keys)} lists, {acknowledged:,} acknowledged appends"
    if unread and not faults:
        said = f"{len(unread)} lists could not be read in the end, the first {unread[0]}"
        return Verdict(workload, law, Result.UNDECIDED, checked, (said,))
    return verdict(workload, law, checked, faults)


def _final_read(history: Sequence[Op]) -> Op | None:
    """The last answered read, if it began after every other call that wrote had been answered or given up."""
    last_append = max((op.called_s for op in history if op.kind is Kind.CAS), default=0.0)
    for op in reversed(history):
        if op.kind is Kind.READ and op.outcome is Outcome.OK and op.called_s > last_append:
            return op
    return None


def _faults_of(history: Sequence[Op], final: Op) -> list[str]:
    return [*_fates(history, final), *_other_beginnings(history, final)]


def _fates(history: Sequence[Op], final: Op) -> list[str]:
    """What became of each append: there once if it was acknowledged, not there if it was refused."""
    there = elements(final.seen)
    faults = [f"{element} is there {count} times" for element, count in Counter(there).items() if count > 1]
    known = set(there)
    for op in history:
        if op.kind is Kind.CAS:
            element = elements(op.value)[-1]
            if op.took and element not in known:
                faults.append(
                    f"lost: {element}, acknowledged to {op.client} by {op.member} at {op.returned_s:.3f} s as revision"
                    f" {op.revision}; {final.member} at {final.returned_s:.3f} s has {_tail(there)}"
                )
            if not op.took and op.outcome is not Outcome.UNKNOWN and element in known:
                faults.append(f"invented: {element}, though the answer of {op.member} was: {answered(op)}")
    return faults


def _other_beginnings(history: Sequence[Op], final: Op) -> list[str]:
    """Lists that were shown and that the final one does not begin with."""
    there = elements(final.seen)
    faults = []
    for op in history:
        seen = elements(op.seen)
        # A call that overlaps the final read may have been answered after it, and show more.
        overlaps = op.returned_s > final.called_s and seen[: len(there)] == there
        if op.outcome is Outcome.OK and not overlaps and seen != there[: len(seen)]:
            faults.append(
                f"{op.member} at {op.returned_s:.3f} s showed {_tail(seen)},"
                f" which is no beginning of the final {_tail(there)}"
            )
    return faults


def _tail(there: Sequence[str]) -> str:
    """The end of a list, short enough for a line."""
    return f"{len(there)} elements that end in ...{','.join(there[-4:])}" if there else "an empty list"
