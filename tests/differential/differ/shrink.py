"""Makes a failing script small: drops operations, then parts of their requests, as long as it fails in the same way.

Owns the search. What failing means is the caller's: live servers are behind it, so tries are counted.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from differ.ops import Call, Op, Script, WatchCreate

Fails = Callable[[Script], Awaitable[bool]]

MAX_TRIES: Final = 250
MAX_S: Final = 180.0


class _Budget:
    """Tries and time that are left."""

    def __init__(self, fails: Fails, tries: int, seconds: float) -> None:
        self._fails = fails
        self._left = tries
        self._deadline = time.monotonic() + seconds

    @property
    def is_spent(self) -> bool:
        return self._left <= 0 or time.monotonic() > self._deadline

    async def fails(self, script: Script) -> bool:
        if self.is_spent:
            return False
        self._left -= 1
        return await self._fails(script)


async def shrink(script: Script, fails: Fails, max_tries: int = MAX_TRIES, max_s: float = MAX_S) -> Script:
    """The smallest script found that still fails. `script` itself must."""
    budget = _Budget(fails, max_tries, max_s)
    script = await _drop_operations(script, budget)
    script = await _simplify_operations(script, budget)
    return await _drop_operations(script, budget)


async def _drop_operations(script: Script, budget: _Budget) -> Script:
    """Delta debugging: chunks, then halves of them, until no single operation can go."""
    size = max(1, len(script.ops) // 2)
    while script.ops:
        place, dropped = 0, False
        while place < len(script.ops):
            smaller = replace(script, ops=script.ops[:place] + script.ops[place + size :])
            if await budget.fails(smaller):
                script, dropped = smaller, True
            else:
                place += size
        if budget.is_spent or (size == 1 and not dropped):
            break
        size = max(1, size // 2)
    return script


async def _simplify_operations(script: Script, budget: _Budget) -> Script:
    for place in range(len(script.ops)):
        simpler = True
        while simpler:
            simpler = False
            for op in _simpler(script.ops[place]):
                candidate = replace(script, ops=(*script.ops[:place], op, *script.ops[place + 1 :]))
                if await budget.fails(candidate):
                    script, simpler = candidate, True
                    break
    return script


def _simpler(op: Op) -> Iterator[Op]:
    if isinstance(op, Call):
        if op.tail:
            yield replace(op, tail=b"")
        if op.member:
            yield replace(op, member=0)
    if isinstance(op, Call | WatchCreate):
        for fields in _simpler_fields(op.fields):
            yield replace(op, fields=fields)


def _simpler_fields(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One field less, or one of its parts simpler."""
    for name in fields:
        yield {other: value for other, value in fields.items() if other != name}
    for name, value in fields.items():
        for simpler in _simpler_value(value):
            yield {**fields, name: simpler}


def _simpler_value(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from _simpler_fields(value)
    elif isinstance(value, list):
        half = len(value) // 2
        if half > 1:
            yield value[:half]
            yield value[half:]
        for place in range(min(len(value), 8)):
            yield value[:place] + value[place + 1 :]
            for simpler in _simpler_value(value[place]):
                yield [*value[:place], simpler, *value[place + 1 :]]
