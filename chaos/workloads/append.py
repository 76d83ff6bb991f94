"""Append unique elements to lists by compare-and-set, through all members at once.

A client reads the list, then writes it with one element more if it has not changed. An attempt whose outcome is
unknown is never repeated with the same element.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Final

from chaos.checkers import appends, register
from chaos.checkers.verdict import Verdict
from chaos.client import Client
from chaos.history import Kind, Outcome, by_key
from chaos.workloads.base import Workload, World

LIST_APPENDS: Final = 60
"""Acknowledged appends after which the next list begins: values stay small."""


class Append(Workload):
    name: ClassVar[str] = "append"
    about: ClassVar[str] = "grow lists by compare-and-set; every acknowledged element must be there in the end"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._appended = 0
        """Acknowledged, of all clients."""

    async def turn(self, name: str, client: Client, rng: random.Random, count: int) -> bool:
        key = f"append/{self._appended // LIST_APPENDS:04d}"
        observe = self.history.observe
        read = await observe(client.get(key), name, client.member, Kind.READ, key)
        if read.outcome is not Outcome.OK:
            return False
        value = appends.appended(read.seen, f"{name}.{count}")
        call = client.put_if(key, value, read.seen_revision)
        op = await observe(call, name, client.member, Kind.CAS, key, value, read.seen, read.seen_revision)
        self._appended += op.took
        return op.outcome is Outcome.OK

    async def finish(self, alive: Sequence[str]) -> None:
        await self.read_all(by_key(self.history.ops), alive)

    def verdicts(self, give_up_at: float) -> list[Verdict]:
        ops = self.history.ops
        return [appends.check(self.name, ops), register.check(self.name, ops, give_up_at)]
