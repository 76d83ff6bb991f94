"""Keys that live as long as somebody renews their lease.

A client grants a lease, puts a key under it, renews it a few times while it reads the key through another member, and
then lets it go. A key must not vanish before its time, whatever happens to the leader; and in the end all must.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from chaos.checkers import leases
from chaos.checkers.leases import Life
from chaos.checkers.verdict import Verdict
from chaos.client import CallError, Client
from chaos.history import Kind, Outcome
from chaos.workloads.base import AFTER_FAILURE_S, Workload, World, connected

RENEWALS: Final = (5, 11)
BETWEEN_S: Final = (0.3, 1.4)
GONE_WITHIN_S: Final = 30.0
"""After healing: TTL, what a new leader adds, and the pace of revoking."""


class Lease(Workload):
    name: ClassVar[str] = "lease"
    about: ClassVar[str] = "keys under leases: none gone before its time, all gone in the end"
    clients_per_member: ClassVar[int] = 2
    ttl_s: ClassVar[int] = 8
    """Longer than a leader is ever paused: see ShortLease."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._lives: list[Life] = []
        self._readers: dict[str, Client] = {}
        self._left: list[str] = []
        """Keys that are there when all should be gone."""

    async def run(self) -> None:
        self._readers = {member: Client(member, endpoint) for member, endpoint in self.world.endpoints.items()}
        try:
            await super().run()
        finally:
            for client in self._readers.values():
                await client.close()

    async def turn(self, name: str, client: Client, rng: random.Random, count: int) -> bool:
        key = f"{self.name}/{name}.{count}"
        life = Life(key, client.member)
        try:
            asked_s = self.world.clock()
            lease = await client.grant(self.ttl_s)
            life.renewals.append((asked_s, self.world.clock(), self.ttl_s))
        except CallError:
            return False
        put = await self.history.observe(
            client.put(key, "here", lease), name, client.member, Kind.WRITE, key, f"{name}.{count}"
        )
        if put.outcome is not Outcome.OK:
            return False
        life.put_s = put.returned_s
        self._lives.append(life)
        for _ in range(rng.randint(*RENEWALS)):
            reader = self._readers[rng.choice(list(self._readers))]
            await asyncio.sleep(rng.uniform(*BETWEEN_S))
            if self.world.stopping.is_set() or not await self._renew(client, lease, life):
                break
            await self._look(reader, name, life)
        # It may vanish now, but not at once.
        await asyncio.sleep(rng.uniform(*BETWEEN_S))
        await self._look(self._readers[rng.choice(list(self._readers))], name, life)
        return True

    async def _renew(self, client: Client, lease: int, life: Life) -> bool:
        asked_s = self.world.clock()
        try:
            ttl_s = await client.keep_alive(lease)
        except CallError:
            return True  # it may have been renewed or not: then nothing was promised
        life.renewals.append((asked_s, self.world.clock(), ttl_s))
        return ttl_s > 0

    async def _look(self, reader: Client, name: str, life: Life) -> None:
        op = await self.history.observe(reader.get(life.key), name, reader.member, Kind.READ, life.key)
        if op.outcome is Outcome.OK:
            life.reads.append((op.called_s, op.returned_s, op.seen is not None, reader.member))

    async def finish(self, alive: Sequence[str]) -> None:
        give_up_s = self.world.clock() + GONE_WITHIN_S
        async with connected(self.world, alive[0]) as client:
            while True:
                try:
                    self._left = [kv.key.decode() for kv in await client.list(f"{self.name}/")]
                except CallError as error:
                    self._left = [f"unknown, for the list could not be read: {error}"]
                if not self._left or self.world.clock() > give_up_s:
                    return
                await asyncio.sleep(AFTER_FAILURE_S)

    def verdicts(self, give_up_at: float) -> list[Verdict]:
        return [leases.check(self.name, self._lives, self._left)]

    def write(self, directory: Path) -> None:
        super().write(directory)
        with (directory / f"{self.name}-lives.jsonl").open("w", encoding="utf-8") as file:
            for life in self._lives:
                file.write(json.dumps(life.as_dict()) + "\n")


class ShortLease(Lease):
    """The same with leases that run out, for a leader that is paused, while others renew them through its successor.

    When it comes back it must not revoke what is no longer its to count (L-14). The real etcd does that now and then
    (seen in 3.5.1 and 3.6.14), so this one is not part of a run unless it is asked for.
    """

    name: ClassVar[str] = "short-lease"
    about: ClassVar[str] = "as lease, with a TTL shorter than a pause; real etcd fails, so only if asked for"
    by_default: ClassVar[bool] = False
    ttl_s: ClassVar[int] = 3
