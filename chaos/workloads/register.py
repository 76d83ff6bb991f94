"""Read, write, compare-and-set and delete a few keys at a time, through all members at once.

Keys come in small groups that all clients share; after some calls the next group begins, so that no key's history
grows beyond what a judge can search.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Final

from chaos.checkers import register
from chaos.checkers.verdict import Verdict
from chaos.client import Client
from chaos.history import Kind, Op, Outcome, by_key
from chaos.workloads.base import Workload, World

GROUP_KEYS: Final = 3
GROUP_CALLS: Final = 300
# Cumulative weights of the four kinds of call.
KINDS: Final = ((Kind.READ, 0.45), (Kind.WRITE, 0.75), (Kind.CAS, 0.95), (Kind.DELETE, 1.0))


class Register(Workload):
    name: ClassVar[str] = "register"
    about: ClassVar[str] = "read, write, compare-and-set, delete on shared keys; judged by a search for an order"
    clients_per_member: ClassVar[int] = 2

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._started = 0
        """Calls begun, of all clients."""
        self._latest: dict[str, int] = {}
        """Key -> the mod_revision that some client saw last: what a compare-and-set hopes for."""

    async def turn(self, name: str, client: Client, rng: random.Random, count: int) -> bool:
        roll, place = rng.random(), rng.randrange(GROUP_KEYS)
        key = f"register/{self._started // GROUP_CALLS:04d}/{place}"
        self._started += 1
        kind = next(kind for kind, limit in KINDS if roll < limit)
        op = await self._ask(name, client, kind, key, f"{name}.{count}")
        if op.outcome is Outcome.OK:
            wrote = op.took and kind is not Kind.DELETE
            self._latest[key] = op.revision if wrote else 0 if op.took else op.seen_revision
        return op.outcome is Outcome.OK

    async def _ask(self, name: str, client: Client, kind: Kind, key: str, value: str) -> Op:
        observe = self.history.observe
        if kind is Kind.READ:
            return await observe(client.get(key), name, client.member, kind, key)
        if kind is Kind.DELETE:
            return await observe(client.delete(key), name, client.member, kind, key)
        if kind is Kind.WRITE:
            return await observe(client.put(key, value), name, client.member, kind, key, value)
        revision = self._latest.get(key, 0)
        call = client.put_if(key, value, revision)
        return await observe(call, name, client.member, kind, key, value, expected_revision=revision)

    async def finish(self, alive: Sequence[str]) -> None:
        await self.read_all(by_key(self.history.ops), alive)

    def verdicts(self, give_up_at: float) -> list[Verdict]:
        return [register.check(self.name, self.history.ops, give_up_at)]
