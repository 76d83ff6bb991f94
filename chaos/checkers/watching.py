"""Watchers see every event once, in order, without a gap; all of them the same; and what they see is what was written.

Judges three sources against each other: what each watcher received over all its streams, what writers were told, and
the store's own past, read revision by revision in the end. Owns these laws; watches nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from chaos.checkers.verdict import Result, Verdict, verdict
from chaos.history import Kind, Op, Outcome


class Event(NamedTuple):
    """A change of one key. `value` None: a delete, whose version and create_revision are 0."""

    revision: int
    key: str
    value: str | None
    version: int
    create_revision: int
    previous_revision: int
    """mod_revision of what was there before; 0: nothing was."""


class Batch(NamedTuple):
    """One response on a watch stream."""

    at_s: float
    member: str
    revision: int
    """Of the header."""
    events: tuple[Event, ...]


class Watched(NamedTuple):
    """All that one watcher got, in the order in which it came, over all its streams."""

    watcher: str
    batches: Sequence[Batch]

    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]


class Past(NamedTuple):
    """What the store says of one revision in the end: key -> value of each key that has it as its mod_revision."""

    revision: int
    values: Mapping[str, str]
    absent: frozenset[str]
    """Of the keys asked about: those that did not exist at this revision."""


def check_order(workload: str, watched: Sequence[Watched]) -> Verdict:
    """Each watcher by itself: order, uniqueness, atomicity of a revision, and the chain of every key's versions."""
    faults: list[str] = []
    for each in watched:
        faults += (f"{each.watcher}: {fault}" for fault in (*_disorder(each.batches), *_gaps(each.batches)))
    events = sum(len(each.events()) for each in watched)
    return verdict(workload, "events in order, once, no gap", f"{len(watched)} watchers, {events:,} events", faults)


def _disorder(batches: Sequence[Batch]) -> list[str]:
    faults = []
    last = 0
    """Revision of the last event of the batches before."""
    for batch in batches:
        within = last
        keys: set[tuple[int, str]] = set()
        for event in batch.events:
            if event.revision <= last:
                faults.append(f"{_where(batch)}: {_line(event)} came after revision {last} had been completed")
            if event.revision < within:
                faults.append(f"{_where(batch)}: {_line(event)} came after one of revision {within}")
            if (event.revision, event.key) in keys:
                faults.append(f"{_where(batch)}: {_line(event)} came twice")
            keys.add((event.revision, event.key))
            within = max(within, event.revision)
        if batch.events and batch.revision < within:
            faults.append(f"{_where(batch)}: the header says {batch.revision}, an event is of {within}")
        last = max(last, within)
    return faults


def _gaps(batches: Sequence[Batch]) -> list[str]:
    """Every event names the one before it on its key: a missing one breaks the chain."""
    faults = []
    latest: dict[str, Event] = {}
    for batch in batches:
        for event in batch.events:
            before = latest.get(event.key)
            expected = before.revision if before is not None and before.value is not None else 0
            if event.previous_revision != expected:
                faults.append(
                    f"{_where(batch)}: {_line(event)} follows revision {event.previous_revision},"
                    f" but the last that came of this key was {_line(before) if before else 'nothing'}"
                )
            elif event.value is not None:
                version = before.version + 1 if before is not None and before.value is not None else 1
                if event.version != version:
                    faults.append(f"{_where(batch)}: {_line(event)} has version {event.version}, not {version}")
            latest[event.key] = event
    return faults


def check_agreement(workload: str, watched: Sequence[Watched], end_revision: int) -> Verdict:
    """All watchers saw the same up to the end, and all came to it."""
    law = "all watchers saw the same, to the end"
    if not end_revision:
        said = "no last event could be written, so nobody knows where the end is"
        return Verdict(workload, law, Result.UNDECIDED, "nothing", (said,))
    faults = []
    reference = _up_to(watched[0], end_revision)
    for each in watched:
        events = _up_to(each, end_revision)
        if not events or events[-1].revision != end_revision:
            got = events[-1].revision if events else 0
            faults.append(f"{each.watcher} came to revision {got}, not to the end, {end_revision}")
        elif events != reference:
            mine, other = next((a, b) for a, b in zip_longest(events, reference) if a != b)
            faults.append(
                f"{each.watcher} saw {_line(mine) if mine else 'nothing more'}"
                f" where {watched[0].watcher} saw {_line(other) if other else 'nothing more'}"
            )
    return verdict(workload, law, f"{len(reference):,} events each", faults)


def _up_to(watched: Watched, revision: int) -> list[Event]:
    return [event for event in watched.events() if event.revision <= revision]


def check_truth(workload: str, watched: Sequence[Watched], ops: Iterable[Op], past: Iterable[Past]) -> Verdict:
    """What was seen is what was acknowledged, and what the store's past holds."""
    seen: dict[tuple[int, str], Event] = {}
    for each in watched:
        for event in each.events():
            seen.setdefault((event.revision, event.key), event)
    pasts = {each.revision: each for each in past}
    writes = list(ops)
    faults = [*_unseen(writes, seen), *_invented(writes, seen), *_other_past(seen, pasts)]
    checked = f"{sum(op.took for op in writes):,} acknowledged writes, {len(pasts):,} revisions read back"
    return verdict(workload, "events are what was written", checked, faults)


def _unseen(writes: Sequence[Op], seen: Mapping[tuple[int, str], Event]) -> list[str]:
    faults = []
    for op in writes:
        if op.outcome is Outcome.OK and op.took:
            value = None if op.kind is Kind.DELETE else op.value
            for key in keys_of(op):
                event = seen.get((op.revision, key))
                if event is None or event.value != value:
                    got = _line(event) if event is not None else "nothing"
                    done = f"{_done(key, value)} at revision {op.revision}"
                    faults.append(f"{op.member} acknowledged at {op.returned_s:.3f} s: {done}; watchers saw {got}")
    return faults


def _invented(writes: Sequence[Op], seen: Mapping[tuple[int, str], Event]) -> list[str]:
    """A value comes from one write that was not refused, and at one revision."""
    faults = []
    by_value = {op.value: op for op in writes if op.value is not None}
    revisions: dict[str, int] = {}
    for event in seen.values():
        if event.value is None:
            continue
        op = by_value.get(event.value)
        if op is None or op.outcome is Outcome.FAILED or event.key not in keys_of(op):
            why = "nobody wrote it" if op is None else f"the call that wrote it was {op.outcome}: {op.error}"
            faults.append(f"{_line(event)}: {why}")
        if revisions.setdefault(event.value, event.revision) != event.revision:
            faults.append(f"{_line(event)}: also seen at revision {revisions[event.value]}; one write, done twice")
    return faults


def _other_past(seen: Mapping[tuple[int, str], Event], pasts: Mapping[int, Past]) -> list[str]:
    faults = []
    at: dict[int, dict[str, Event]] = {}
    for (revision, key), event in seen.items():
        at.setdefault(revision, {})[key] = event
    for revision, past in pasts.items():
        events = at.get(revision, {})
        puts = {key: event.value for key, event in events.items() if event.value is not None}
        if puts != dict(past.values):
            faults.append(f"revision {revision}: watchers saw {puts}, a read of it shows {dict(past.values)}")
        faults += (
            f"{_line(event)}: a read of that revision still shows the key"
            for key, event in events.items()
            if event.value is None and key not in past.absent
        )
    unread = sorted(revision for revision in at if revision not in pasts)
    if unread:
        faults.append(f"{len(unread)} revisions were seen but could not be read back, the first {unread[0]}")
    return faults


def keys_of(op: Op) -> list[str]:
    """A transaction on several keys is one op with their names joined by spaces."""
    return op.key.split(" ")


def _where(batch: Batch) -> str:
    return f"{batch.at_s:.3f} s from {batch.member}"


def _line(event: Event) -> str:
    return f"{_done(event.key, event.value)} at revision {event.revision}"


def _done(key: str, value: str | None) -> str:
    return f"{key} deleted" if value is None else f"{key} = {value}"
