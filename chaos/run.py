"""One run from start to verdicts: members up, links up, clients at work, the plan carried out, healed, judged.

Owns the order of these and that nothing it started outlives it. Prints nothing but through `say`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from chaos import aftermath, names, plan, toxiproxy_server
from chaos.aftermath import Aftermath
from chaos.checkers import revisions
from chaos.checkers.verdict import Result, Verdict, verdict
from chaos.cluster import Cluster, free_ports
from chaos.errors import CannotRunError
from chaos.history import Counts
from chaos.links import Links
from chaos.nemesis import Injected, Nemesis
from chaos.programs import Program
from chaos.workloads import WORKLOADS, Workload, World

START_WITHIN_S: Final = 40.0
CALM_S: Final = 1.0
"""Clients work on for so long after healing, so that histories do not end with the last fault."""
LAST_CALLS_S: Final = 15.0
"""Beyond every time-out of a client: a workload that has not ended by then never will."""
JUDGE_WITHIN_S: Final = 60.0
"""For all histories together; what is not decided by then is undecided."""
WATCH_OVER_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    program: Program
    seed: int
    seconds: float
    members: int
    faults: tuple[str, ...]
    """Groups, as in `plan.ABOUT`."""
    workloads: tuple[str, ...]
    directory: Path
    """Empty; data, logs and histories go there."""


@dataclass(slots=True)
class Report:
    """All that a run has to say."""

    subject: str
    version: str
    seed: int
    seconds: float
    members: int
    took_s: float = 0.0
    timeline: list[Injected] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.verdicts) and all(each.result is Result.PASSED for each in self.verdicts)


Say = Callable[[str], None]


async def run(options: Options, say: Say) -> Report:
    """Raises CannotRunError when no run can be made here."""
    namespace = names.permitted(options.directory)
    toxiproxy = await asyncio.to_thread(toxiproxy_server.find, say)
    steps = plan.draw(options.seed, options.seconds, options.faults)
    cluster = Cluster(options.members, options.directory)
    links = Links(toxiproxy, options.directory / "toxiproxy.log", free_ports(1)[0], options.seed)
    try:
        await asyncio.to_thread(links.start, {member.number: member.peer_port for member in cluster.members})
        cluster.start(options.program, namespace, f"chaos-{options.seed}")
        return await _Run(options, cluster, links, say).go(steps)
    finally:
        # In a thread it could be cut short by a second Ctrl-C, and leave processes behind.
        cluster.stop()
        links.stop()


class _Run:
    """The part of a run in which the members exist."""

    def __init__(self, options: Options, cluster: Cluster, links: Links, say: Say) -> None:
        self._options = options
        self._cluster = cluster
        self._say = say
        self._began = monotonic()
        self._stopping = asyncio.Event()
        self._endpoints: Mapping[str, str] = {member.name: member.endpoint for member in cluster.members}
        world = World(self._endpoints, options.seed, self._clock, self._stopping)
        self._workloads: list[Workload] = [WORKLOADS[name](world) for name in options.workloads]
        self._nemesis = Nemesis(cluster, links, self._clock, self._say_timed)
        self._report = Report(
            options.program.subject, options.program.version, options.seed, options.seconds, options.members
        )

    def _clock(self) -> float:
        return monotonic() - self._began

    def _say_timed(self, text: str) -> None:
        self._say(f"{self._clock():6.1f} s  {text}")

    async def go(self, steps: Sequence[plan.Step]) -> Report:
        watching_over = asyncio.create_task(self._watch_over())
        try:
            await self._wait_serving()
            self._began = monotonic()
            self._say_timed(f"{len(self._endpoints)} members serve; {len(steps)} faults to come")
            await self._finish(await self._suffer(steps))
        finally:
            watching_over.cancel()
            await self._nemesis.close()
        self._cluster.look_after()
        self._report.timeline = self._nemesis.timeline
        self._report.counts = {each.name: each.counts() for each in self._workloads}
        for each in self._workloads:
            each.write(self._options.directory)
        self._report.verdicts += [self._lives_verdict(), *await asyncio.to_thread(self._judge)]
        self._report.took_s = self._clock()
        return self._report

    async def _watch_over(self) -> None:
        while True:
            self._cluster.look_after()
            await asyncio.sleep(WATCH_OVER_S)

    async def _wait_serving(self) -> None:
        """Until every member answers and all know one leader. Raises CannotRunError."""
        give_up = monotonic() + START_WITHIN_S
        while monotonic() < give_up and not self._cluster.ends:
            statuses = await self._nemesis.statuses()
            leaders = {status.leader_id for status in statuses.values()}
            if len(statuses) == len(self._endpoints) and len(leaders) == 1 and 0 not in leaders:
                return
            await asyncio.sleep(WATCH_OVER_S)
        tails = self._cluster.ends or [f"{member.name}:\n{member.log_tail()}" for member in self._cluster.members]
        raise CannotRunError(
            f"the members of {self._options.program.subject} did not become a cluster within {START_WITHIN_S:g} s"
            f" (before any fault). Their logs are in {self._options.directory}\n" + "\n".join(tails)
        )

    async def _suffer(self, steps: Sequence[plan.Step]) -> Aftermath:
        """Clients and nemesis at work, then healing; who came back."""
        clients = asyncio.gather(*(each.run() for each in self._workloads))
        nemesis = asyncio.create_task(self._nemesis.run(steps))
        try:
            await self._either(nemesis, clients)
            await self._either(asyncio.create_task(asyncio.sleep(self._options.seconds - self._clock())), clients)
            self._say_timed("healing everything")
            await self._nemesis.heal()
            after = await aftermath.writes_again(self._endpoints)
            await self._either(asyncio.create_task(asyncio.sleep(CALM_S)), clients)
            self._stopping.set()
            async with asyncio.timeout(LAST_CALLS_S):
                await clients
        finally:
            clients.cancel()
            nemesis.cancel()
            await asyncio.gather(nemesis, clients, return_exceptions=True)
        return after

    async def _either(self, task: asyncio.Task[None], clients: asyncio.Future[list[None]]) -> None:
        """Wait for the task; clients that end before they are told to have failed, and that must not go unseen."""
        await asyncio.wait((task, clients), return_when=asyncio.FIRST_COMPLETED)
        if clients.done():
            task.cancel()
            clients.result()
        await task

    async def _finish(self, after: Aftermath) -> None:
        """What only a healed cluster can show; without one, histories are judged as they are."""
        self._report.verdicts.append(after.verdict)
        if not after.alive:
            self._say_timed("no member takes writes again: no final reads")
            return
        self._say_timed(f"writes again ({after.verdict.checked}); final reads")
        await asyncio.gather(*(each.finish(after.alive) for each in self._workloads))
        self._report.verdicts.append(await aftermath.same_hashes({name: self._endpoints[name] for name in after.alive}))

    def _lives_verdict(self) -> Verdict:
        return verdict("cluster", "no member ended by itself", f"{len(self._endpoints)} members", self._cluster.ends)

    def _judge(self) -> list[Verdict]:
        self._say_timed("judging")
        give_up_at = time.monotonic() + JUDGE_WITHIN_S
        found = [revisions.check("all", (op for each in self._workloads for op in each.ops()))]
        for each in self._workloads:
            found += each.verdicts(give_up_at)
        return found
