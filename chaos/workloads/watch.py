"""Watchers that are moved from member to member, and writers whose every change they must see.

Each watcher begins at the first revision and resumes, after its stream broke or its time came, on another member with
the revision after the last it has completed, be it told by an event or by a progress notice.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import grpc.aio
from aetcd.rpc import kv_pb2, rpc_pb2

from chaos.checkers import watching
from chaos.checkers.verdict import Result, Verdict
from chaos.checkers.watching import Batch, Event, Past, Watched
from chaos.client import CallError, Client, after_prefix
from chaos.history import Kind, Op, Outcome
from chaos.workloads.base import AFTER_FAILURE_S, FINAL_READERS, Workload, World, connected

PREFIX: Final = "watch/"
END_KEY: Final = "watch/end"
KEYS: Final = 6
STAY_S: Final = (2.0, 9.0)
"""How long a watcher stays with a member before it moves on by itself."""
PROGRESS_EVERY_S: Final = 1.0
CATCH_UP_S: Final = 20.0
"""After healing, every watcher must have seen the last event within this time."""
# InvalidStateError: grpcio's word for writing on a stream that has broken.
_BROKEN: Final = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
_PUT_LIMIT: Final = 0.65
_TXN_LIMIT: Final = 0.85


@dataclass(slots=True)
class _Watcher:
    name: str
    batches: list[Batch] = field(default_factory=list)
    completed: int = 0
    """Highest revision of which nothing more may come."""
    moves: int = 0
    refusals: list[str] = field(default_factory=list)
    """Cancellations by the server: there is no reason for any."""


class Watch(Workload):
    name: ClassVar[str] = "watch"
    about: ClassVar[str] = "watchers that change members; every event once, in order, no gap, as written"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._watchers = [_Watcher(f"watcher-{number}") for number in range(1, len(world.endpoints) + 1)]
        self._end_revision = 0
        self._past: list[Past] = []
        self._following: list[asyncio.Task[None]] = []

    # --- writers ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._following = [asyncio.create_task(self._follow(watcher)) for watcher in self._watchers]
        await super().run()

    async def turn(self, name: str, client: Client, rng: random.Random, count: int) -> bool:
        roll = rng.random()
        first, second = (f"{PREFIX}{place}" for place in rng.sample(range(KEYS), 2))
        value = f"{name}.{count}"
        observe = self.history.observe
        if roll < _PUT_LIMIT:
            op = await observe(client.put(first, value), name, client.member, Kind.WRITE, first, value)
        elif roll < _TXN_LIMIT:
            call = client.put_all({first: value, second: value})
            op = await observe(call, name, client.member, Kind.WRITE, f"{first} {second}", value)
        else:
            op = await observe(client.delete(first), name, client.member, Kind.DELETE, first)
        return op.outcome is Outcome.OK

    # --- watchers -----------------------------------------------------------------------------------------------------

    async def _follow(self, watcher: _Watcher) -> None:
        """From member to member, until cancelled."""
        rng = self.world.rng(watcher.name)
        members = list(self.world.endpoints)
        member = members[self._watchers.index(watcher) % len(members)]
        while True:
            async with connected(self.world, member) as client:
                with suppress(TimeoutError, *_BROKEN):
                    async with asyncio.timeout(rng.uniform(*STAY_S)):
                        await self._stay(watcher, client)
            watcher.moves += 1
            member = rng.choice([each for each in members if each != member])
            await asyncio.sleep(AFTER_FAILURE_S)

    async def _stay(self, watcher: _Watcher, client: Client) -> None:
        """One stream, until it breaks or ends."""
        stream = client.watch()
        try:
            first = PREFIX.encode()
            create = rpc_pb2.WatchCreateRequest(
                key=first, range_end=after_prefix(first), start_revision=watcher.completed + 1, prev_kv=True
            )
            await stream.write(rpc_pb2.WatchRequest(create_request=create))
            asking = asyncio.create_task(_ask_progress(stream))
            try:
                async for response in stream:
                    if response.canceled:
                        watcher.refusals.append(f"{client.member}: {response.cancel_reason}")
                        return
                    self._on_response(watcher, client.member, response)
            finally:
                asking.cancel()
        finally:
            stream.cancel()

    def _on_response(self, watcher: _Watcher, member: str, response: Any) -> None:
        if response.events:
            batch = Batch(
                self.world.clock(), member, response.header.revision, tuple(_event(each) for each in response.events)
            )
            watcher.batches.append(batch)
            watcher.completed = max(watcher.completed, batch.events[-1].revision)
        elif not response.created:
            # W-72: after a progress notice nothing up to its revision may follow.
            watcher.completed = max(watcher.completed, response.header.revision)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def finish(self, alive: Sequence[str]) -> None:
        """Write a last event, wait until every watcher has it, and read the past back."""
        give_up_s = self.world.clock() + CATCH_UP_S
        member = alive[0]
        async with connected(self.world, member) as client:
            while not self._end_revision and self.world.clock() < give_up_s:
                value = f"end.{len(self.history.ops)}"
                call = client.put(END_KEY, value)
                op = await self.history.observe(call, "final", member, Kind.WRITE, END_KEY, value)
                self._end_revision = op.revision
        while self.world.clock() < give_up_s and any(w.completed < self._end_revision for w in self._watchers):
            await asyncio.sleep(0.05)
        for task in self._following:
            task.cancel()
        for ended in await asyncio.gather(*self._following, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended  # our own mistake: a watcher that stopped watching must not look like a cluster's fault
        await self._read_past(alive)

    async def _read_past(self, alive: Sequence[str]) -> None:
        """Read every revision that was acknowledged or seen, through these members in turn."""
        revisions = {op.revision for op in self.history.ops if op.took}
        deleted: dict[int, set[str]] = {}
        for watcher in self._watchers:
            for batch in watcher.batches:
                for event in batch.events:
                    revisions.add(event.revision)
                    if event.value is None:
                        deleted.setdefault(event.revision, set()).add(event.key)
        wanted = [(revision, deleted.get(revision, set())) for revision in sorted(revisions)]
        async with asyncio.TaskGroup() as readers:
            for first in range(FINAL_READERS):
                some = wanted[first::FINAL_READERS]
                readers.create_task(self._read_revisions(alive[first % len(alive)], some))

    async def _read_revisions(self, member: str, wanted: Iterable[tuple[int, set[str]]]) -> None:
        async with connected(self.world, member) as client:
            for revision, deleted in wanted:
                try:
                    changed = await client.list(PREFIX, revision, changed_since=revision)
                    absent = {key for key in deleted if not (await client.get(key, revision)).seen_revision}
                except CallError:
                    continue  # reported as "not read back", if anybody saw this revision
                values = {kv.key.decode(): kv.value.decode() for kv in changed}
                self._past.append(Past(revision, values, frozenset(absent)))

    def ops(self) -> list[Op]:
        return self.history.ops

    def verdicts(self, give_up_at: float) -> list[Verdict]:
        watched = [Watched(watcher.name, watcher.batches) for watcher in self._watchers]
        refusals = [f"{w.name} was cancelled by {text}" for w in self._watchers for text in w.refusals]
        streams = f"{sum(watcher.moves for watcher in self._watchers)} moves"
        result = Result.FAILED if refusals else Result.PASSED
        return [
            watching.check_order(self.name, watched),
            watching.check_agreement(self.name, watched, self._end_revision),
            watching.check_truth(self.name, watched, self.history.ops, self._past),
            Verdict(self.name, "no watch is cancelled by a member", result, streams, tuple(refusals)),
        ]

    def write(self, directory: Path) -> None:
        super().write(directory)
        with (directory / "watch-events.jsonl").open("w", encoding="utf-8") as file:
            for watcher in self._watchers:
                for batch in watcher.batches:
                    events = [event._asdict() for event in batch.events]
                    line = {"watcher": watcher.name, **batch._asdict(), "events": events}
                    file.write(json.dumps(line) + "\n")


async def _ask_progress(stream: Any) -> None:
    """Again and again, until cancelled or the stream has broken; whoever reads from it learns why."""
    with suppress(*_BROKEN):
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            await stream.write(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))


def _event(event: Any) -> Event:
    kv = event.kv
    deleted = event.type == kv_pb2.Event.DELETE
    return Event(
        kv.mod_revision,
        kv.key.decode(),
        None if deleted else kv.value.decode(),
        kv.version,
        kv.create_revision,
        event.prev_kv.mod_revision,
    )
