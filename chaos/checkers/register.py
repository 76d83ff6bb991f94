"""Keys as registers: every key's history must have an order in which each call sees what the calls before it left.

A state is (value, mod_revision), (None, 0) without the key. A write tells the revision at which it was done, so it also
has to come after the revision it replaces. Owns the model and the evidence; the search is `linearizability`.

Two things keep the search small, and are sound because no two writes of a run write the same value:
- a write of unknown outcome gets the revision at which somebody saw its value;
- one whose value nobody ever saw is left out: taken out of any order, it leaves one. (Nor did anybody expect it: what
  a compare-and-set expects was seen before.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final, NamedTuple

from chaos.checkers.linearizability import Interval, Order, Step, first_failure, search, until
from chaos.checkers.verdict import Result, Verdict
from chaos.history import NEVER, Kind, Op, Outcome, by_key

State = tuple[str | None, int]
NO_KEY: Final[State] = (None, 0)
SHORT: Final = 32
"""Characters of a value in evidence."""
EVIDENCE_S: Final = 10.0
"""How long to look for shorter evidence once a violation is found."""


class Action(NamedTuple):
    """What a call did, as far as it is known."""

    kind: Kind
    took: bool
    """It writes (or deletes). Otherwise it only saw."""
    value: str | None
    revision: int
    """Of the write: the key's new mod_revision. 0: of a delete, or unknown."""
    seen: State | None
    """What it says it found; None: it does not say."""
    expected_revision: int


def step(state: State, action: Action) -> State | None:
    """The register as a function; see `linearizability.Step`."""
    if action.seen is not None and action.seen != state:
        return None
    if action.kind is Kind.CAS and (state[1] == action.expected_revision) != action.took:
        return None
    if not action.took:
        return state
    if action.kind is Kind.DELETE:
        return NO_KEY
    if action.revision <= state[1]:
        return None
    return action.value, action.revision


def intervals_of(ops: Sequence[Op]) -> list[tuple[Op, Interval[Action]]]:
    """The calls on one key that can matter, with what they did."""
    revisions = {op.seen: op.seen_revision for op in ops if op.outcome is Outcome.OK and op.seen is not None}
    found = []
    for op in ops:
        if op.outcome is Outcome.OK:
            found.append((op, Interval(op.called_s, op.returned_s, _answered(op))))
        elif op.outcome is Outcome.UNKNOWN and op.kind is Kind.DELETE:
            found.append((op, Interval(op.called_s, NEVER, Action(op.kind, True, None, 0, None, 0))))
        elif op.outcome is Outcome.UNKNOWN and op.value in revisions:
            action = Action(op.kind, True, op.value, revisions[op.value], None, op.expected_revision)
            found.append((op, Interval(op.called_s, NEVER, action)))
    return found


def _answered(op: Op) -> Action:
    reports = not op.took or op.kind is Kind.DELETE
    seen = (op.seen, op.seen_revision) if reports else None
    revision = op.revision if op.took and op.kind is not Kind.DELETE else 0
    return Action(op.kind, op.took, op.value, revision, seen, op.expected_revision)


def check(workload: str, ops: Iterable[Op], give_up_at: float) -> Verdict:
    """Every key has an order. `give_up_at` is a time of time.monotonic."""
    law = "every key is linearizable"
    keys = by_key(ops)
    calls = 0
    undecided = []
    for key, history in keys.items():
        pairs = intervals_of(history)
        calls += len(pairs)
        order = search([interval for _, interval in pairs], NO_KEY, step, give_up_at)
        if order is Order.IMPOSSIBLE:
            return Verdict(workload, law, Result.FAILED, f"{len(keys)} keys", tuple(_evidence(key, pairs)))
        if order is Order.UNDECIDED:
            undecided.append(key)
    checked = f"{len(keys)} keys, {calls:,} calls"
    if undecided:
        said = f"out of time with {len(undecided)} keys left, the first {undecided[0]}"
        return Verdict(workload, law, Result.UNDECIDED, checked, (said,))
    return Verdict(workload, law, Result.PASSED, checked)


# --- evidence ---------------------------------------------------------------------------------------------------------


def _evidence(key: str, pairs: Sequence[tuple[Op, Interval[Action]]]) -> list[str]:
    give_up_at = monotonic() + EVIDENCE_S
    intervals = [interval for _, interval in pairs]
    failure = first_failure(intervals, NO_KEY, step, give_up_at)
    if failure is None:
        return [f"{key}: no order exists; no time was left to find out where it breaks"]
    culprit, _ = failure
    kept = shrink(intervals, culprit, give_up_at)
    ops = sorted((pairs[index][0] for index in kept), key=lambda op: op.called_s)
    return [
        f"{key}: these calls cannot have happened one after the other in any order (the last one proves it):",
        *table(ops, pairs[culprit][0]),
    ]


def shrink(intervals: Sequence[Interval[Action]], culprit: int, give_up_at: float) -> list[int]:
    """Indexes of few calls, with the culprit, that already have no order.

    Only what cannot make a good history bad is left out: calls that wrote nothing, and writes whose effect nobody who
    is still there saw or counted on.
    """
    kept, model = _simplest(dict(until(intervals, intervals[culprit].returned)), culprit, give_up_at)
    before = 0
    while before != len(kept):
        before = len(kept)
        # First who only saw, then writers from the newest: each that goes may have been the last to need another.
        for index in sorted(kept, key=lambda each: (kept[each].action.took, -kept[each].called)):
            if index == culprit or not _removable(index, kept, model):
                continue
            trial = {each: interval for each, interval in kept.items() if each != index}
            if search(list(trial.values()), NO_KEY, model, give_up_at) is Order.IMPOSSIBLE:
                kept = trial
    return sorted(kept)


def _simplest(
    kept: dict[int, Interval[Action]], culprit: int, give_up_at: float
) -> tuple[dict[int, Interval[Action]], Step[State, Action]]:
    """The calls and the model that ask for least and still have no order: the less is asked, the more can be left out.

    Whoever fitted somewhere before fits there still, so what has no order now had none before.
    """
    relaxed = {index: each if index == culprit else _relaxed(each) for index, each in kept.items()}
    for calls, model in ((relaxed, step_of_values), (relaxed, step)):
        if search(list(calls.values()), NO_KEY, model, give_up_at) is Order.IMPOSSIBLE:
            return calls, model
    return kept, step


def _relaxed(interval: Interval[Action]) -> Interval[Action]:
    """A writer that does not care what it replaced."""
    action = interval.action
    if not action.took:
        return interval
    kind = Kind.DELETE if action.kind is Kind.DELETE else Kind.WRITE
    return interval._replace(action=action._replace(kind=kind, seen=None))


def step_of_values(state: State, action: Action) -> State | None:
    """`step` without the order of revisions."""
    return step((state[0], min(state[1], action.revision - 1)) if _writes(action) else state, action)


def _writes(action: Action) -> bool:
    return action.took and action.kind is Kind.WRITE


def _removable(index: int, kept: dict[int, Interval[Action]], model: Step[State, Action]) -> bool:
    """Whether the history without this call has an order if the one with it has."""
    action = kept[index].action
    if not action.took:
        return True
    if action.kind is Kind.DELETE and model is step:
        return False  # what comes after it may have a lower revision than what it removed
    left = 0 if action.kind is Kind.DELETE else action.revision
    return not any(
        (other.action.seen is not None and other.action.seen[1] == left)
        or (other.action.kind is Kind.CAS and other.action.expected_revision == left)
        for other in kept.values()
    )


def table(ops: Sequence[Op], culprit: Op) -> list[str]:
    """The calls as aligned lines, the culprit marked."""
    rows = [("   member", "client", "from", "to", "call", "answer")]
    for op in sorted(ops, key=lambda each: (each is culprit, each.called_s)):
        mark = "=> " if op is culprit else "   "
        until_s = "never" if op.returned_s == NEVER else f"{op.returned_s:.3f}"
        rows.append((mark + op.member, op.client, f"{op.called_s:.3f}", until_s, asked(op), answered(op)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def asked(op: Op) -> str:
    if op.kind is Kind.WRITE:
        return f"write {short(op.value)}"
    if op.kind is Kind.CAS:
        return f"write {short(op.value)} if at revision {op.expected_revision}"
    return str(op.kind)


def short(value: str | None) -> str:
    """A value that fits into a line: of a long one, the end, where lists differ."""
    text = str(value)
    return text if len(text) <= SHORT else f"...{text[-SHORT:]}"


def answered(op: Op) -> str:
    if op.outcome is not Outcome.OK:
        return f"{op.outcome}: {op.error}"
    if op.took:
        gone = f", removed {short(op.seen)} (revision {op.seen_revision})" if op.kind is Kind.DELETE else ""
        return f"done at revision {op.revision}{gone}"
    found = "no such key" if op.seen is None else f"{short(op.seen)} (revision {op.seen_revision})"
    return f"found {found}, store at {op.revision}"
