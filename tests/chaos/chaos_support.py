"""Short ways to write histories down."""

from __future__ import annotations

import itertools
from dataclasses import replace

from chaos.history import NEVER, Kind, Op, Outcome

_numbers = itertools.count()


def _op(kind: Kind, key: str, called: float, returned: float, member: str) -> Op:
    op = Op(next(_numbers), "test", "c1", member, kind, key, called)
    op.returned_s, op.outcome = returned, Outcome.OK
    return op


def read(
    called: float, returned: float, seen: str | None, at: int, store: int, key: str = "k", member: str = "m1"
) -> Op:
    """A read that saw this value with this mod_revision, the store being at revision `store`."""
    op = _op(Kind.READ, key, called, returned, member)
    op.seen, op.seen_revision, op.revision = seen, at, store
    return op


def write(called: float, returned: float, value: str, revision: int, key: str = "k", member: str = "m1") -> Op:
    op = _op(Kind.WRITE, key, called, returned, member)
    op.value, op.revision, op.took = value, revision, True
    return op


def cas(
    called: float,
    returned: float,
    value: str,
    expected_revision: int,
    revision: int,
    key: str = "k",
    member: str = "m1",
) -> Op:
    """A compare-and-set that took."""
    op = _op(Kind.CAS, key, called, returned, member)
    op.value, op.expected_revision, op.revision, op.took = value, expected_revision, revision, True
    return op


def missed(cas: Op, seen: str | None, at: int, store: int) -> Op:
    """The same compare-and-set, which found something else."""
    return replace(cas, took=False, seen=seen, seen_revision=at, revision=store)


def delete(called: float, returned: float, seen: str | None, at: int, revision: int, key: str = "k") -> Op:
    op = _op(Kind.DELETE, key, called, returned, "m1")
    op.seen, op.seen_revision, op.revision, op.took = seen, at, revision, seen is not None
    return op


def unknown(op: Op) -> Op:
    """The same call without an answer."""
    return replace(
        op, outcome=Outcome.UNKNOWN, returned_s=NEVER, took=False, seen=None, seen_revision=0, revision=0, error="gone"
    )


def failed(op: Op) -> Op:
    """The same call, refused."""
    return replace(op, outcome=Outcome.FAILED, took=False, seen=None, seen_revision=0, revision=0, error="refused")
