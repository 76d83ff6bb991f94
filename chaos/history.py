"""What clients did and what came of it: the histories that the checkers judge.

A call has one of three outcomes. `ok`: answered. `failed`: it surely had no effect. `unknown`: it may have taken effect
at any time since it was made, or may still; such a call ends at infinity. Owns the record; judges nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from chaos.client import Answer, CallError, RefusedError

NEVER: Final = math.inf


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What a call does to its key."""

    READ = "read"
    WRITE = "write"
    CAS = "cas"
    """Write if the key has the expected revision, else read: one transaction."""
    DELETE = "delete"


@dataclass(slots=True)
class Op:
    """One call of one client on one key. Times in seconds since the run began."""

    number: int
    workload: str
    client: str
    member: str
    kind: Kind
    key: str
    called_s: float
    value: str | None = None
    """What it writes. No two calls of a run write the same."""
    expected: str | None = None
    expected_revision: int = 0
    """CAS: what the client believed the key to have. 0: no such key."""
    returned_s: float = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    took: bool = False
    """Once ok: the write was done. False for a read, and for a CAS that found something else."""
    seen: str | None = None
    seen_revision: int = 0
    """What a read, or a CAS that found something else, saw: the value and its mod_revision; 0: no such key.
    Of a delete: what it removed."""
    revision: int = 0
    """The store's revision in the response header; of what was done here, if it was."""
    error: str = ""


class Counts(NamedTuple):
    ok: int
    failed: int
    unknown: int


class History:
    """All calls of one workload, in the order in which they were made."""

    def __init__(self, workload: str, clock: Callable[[], float]) -> None:
        self.workload: Final = workload
        self.ops: list[Op] = []
        self.clock: Final = clock

    async def observe(
        self,
        call: Awaitable[Answer],
        client: str,
        member: str,
        kind: Kind,
        key: str,
        value: str | None = None,
        expected: str | None = None,
        expected_revision: int = 0,
    ) -> Op:
        """Make the call and record it, whatever comes of it. Raises nothing of CallError."""
        op = Op(
            len(self.ops),
            self.workload,
            client,
            member,
            kind,
            key,
            self.clock(),
            value,
            expected,
            expected_revision,
        )
        self.ops.append(op)
        try:
            answer = await call
        except CallError as error:
            op.error = str(error)
            if isinstance(error, RefusedError) or kind is Kind.READ:
                op.outcome, op.returned_s = Outcome.FAILED, self.clock()
            return op
        op.outcome, op.returned_s = Outcome.OK, self.clock()
        op.took = answer.took
        op.seen, op.seen_revision, op.revision = answer.seen, answer.seen_revision, answer.revision
        return op

    def counts(self) -> Counts:
        found = Counter(op.outcome for op in self.ops)
        return Counts(found[Outcome.OK], found[Outcome.FAILED], found[Outcome.UNKNOWN])


def by_key(ops: Iterable[Op]) -> dict[str, list[Op]]:
    """The ops of each key, in order; keys in the order in which they were first used."""
    keys: dict[str, list[Op]] = {}
    for op in ops:
        keys.setdefault(op.key, []).append(op)
    return keys


def write_jsonl(path: Path, ops: Iterable[Op]) -> None:
    """One op a line. `returned_s` of an unknown call is null."""
    with path.open("w", encoding="utf-8") as file:
        for op in ops:
            fields = asdict(op)
            if op.returned_s == NEVER:
                fields["returned_s"] = None
            file.write(json.dumps(fields) + "\n")
