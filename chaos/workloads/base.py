"""What all workloads share: the world they work in, their life, and the reads after everything was healed.

A workload owns its keys (all begin with its name), its clients and its history, and hands its records to checkers. It
knows endpoints, never processes or faults: it must not be able to tell what is being done to the cluster.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from chaos.checkers.verdict import Verdict
from chaos.client import TIMEOUT_S, Client
from chaos.history import Counts, History, Kind, Op, Outcome, write_jsonl

THINK_S: Final = (0.010, 0.050)
"""A client waits so long between two calls, so that neither it nor the cluster is what is measured."""
PATIENCE_S: Final = (0.7, 2.2)
"""A client gives a call up after so long. Each has its own patience: so during a fault calls are made at any moment, in
the last one too, when a member that was paused or cut off has not yet learned what happened without it."""
AFTER_FAILURE_S: Final = 0.15
"""... and so long after a call without an answer: a member that is down refuses in microseconds."""
FINAL_READ_S: Final = 10.0
"""How long a final read is tried again through one member; the cluster has been shown to work before."""
FINAL_READERS: Final = 8
"""Final reads under way at once."""


class World(NamedTuple):
    """Where a workload lives."""

    endpoints: Mapping[str, str]
    """Name of each member -> host:port that its clients use."""
    seed: int
    clock: Callable[[], float]
    """Seconds since the run began."""
    stopping: asyncio.Event
    """Set when clients must make no further call."""

    def rng(self, client: str) -> random.Random:
        """The dice of one client: what it asks, in which order, is decided by seed and name alone."""
        return random.Random(f"{self.seed}/{client}")


@asynccontextmanager
async def connected(world: World, member: str, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Client]:
    client = Client(member, world.endpoints[member], timeout_s)
    try:
        yield client
    finally:
        await client.close()


class Workload(ABC):
    """Made; then `run` until the world stops; then, healed, `finish`; then `verdicts`."""

    name: ClassVar[str]
    about: ClassVar[str]
    """A line for the help text."""
    by_default: ClassVar[bool] = True
    """Part of a run that does not choose its workloads."""
    clients_per_member: ClassVar[int] = 1

    def __init__(self, world: World) -> None:
        self.world: Final = world
        self.history: Final = History(self.name, world.clock)

    async def run(self) -> None:
        """All clients, until the world stops and each has had its last answer."""
        async with asyncio.TaskGroup() as clients:
            for member in self.world.endpoints:
                for number in range(self.clients_per_member):
                    clients.create_task(self._client(f"{self.name}-{member}-{number}", member))

    async def _client(self, name: str, member: str) -> None:
        rng = self.world.rng(name)
        async with connected(self.world, member, rng.uniform(*PATIENCE_S)) as client:
            count = 0
            while not self.world.stopping.is_set():
                count += 1
                answered = await self.turn(name, client, rng, count)
                await asyncio.sleep(rng.uniform(*THINK_S) if answered else AFTER_FAILURE_S)

    @abstractmethod
    async def turn(self, name: str, client: Client, rng: random.Random, count: int) -> bool:
        """One step of a client, its `count`th from 1. False: it had no answer."""

    @abstractmethod
    async def finish(self, alive: Sequence[str]) -> None:
        """After healing: read what there is in the end, through these members; there is at least one."""

    @abstractmethod
    def verdicts(self, give_up_at: float) -> list[Verdict]:
        """`give_up_at` is a time of time.monotonic."""

    def ops(self) -> list[Op]:
        """Calls whose revisions can be compared with those of other workloads."""
        return self.history.ops

    def counts(self) -> Counts:
        return self.history.counts()

    def write(self, directory: Path) -> None:
        """Put all records into files."""
        write_jsonl(directory / f"{self.name}.jsonl", self.history.ops)

    async def read_all(self, keys: Iterable[str], alive: Sequence[str]) -> None:
        """A linearizable read of each key through each of these members, into the history."""
        wanted = [(member, key) for key in keys for member in alive]
        clients = {member: Client(member, self.world.endpoints[member]) for member in alive}
        try:
            async with asyncio.TaskGroup() as readers:
                for first in range(FINAL_READERS):
                    readers.create_task(self._read_some(clients, wanted[first::FINAL_READERS]))
        finally:
            for client in clients.values():
                await client.close()

    async def _read_some(self, clients: Mapping[str, Client], wanted: Sequence[tuple[str, str]]) -> None:
        for member, key in wanted:
            give_up_s = self.world.clock() + FINAL_READ_S
            while self.world.clock() < give_up_s:
                op = await self.history.observe(clients[member].get(key), "final", member, Kind.READ, key)
                if op.outcome is Outcome.OK:
                    break
                await asyncio.sleep(AFTER_FAILURE_S)
