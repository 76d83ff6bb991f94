"""Carries out the plan: finds whom each step is for, begins it, ends it, and keeps the timeline.

Owns the order of things on the way. What a fault does is `chaos.faults`'; what was planned is `chaos.plan`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from chaos.client import CallError, Client, Status
from chaos.cluster import Cluster, Member
from chaos.errors import CannotRunError
from chaos.faults import FAULTS, Scene
from chaos.links import Links
from chaos.plan import Step, Target

STATUS_TIMEOUT_S: Final = 0.4
FIND_LEADER_S: Final = 1.2
"""Beyond it a step for the leader takes any member: the plan must go on when nobody leads."""
_POLL_S: Final = 0.1


@dataclass(slots=True)
class Injected:
    """One step as it happened. Times in seconds since the run began; `until_s` 0: it was not begun."""

    fault: str
    target: str
    on: list[str]
    at_s: float
    until_s: float = 0.0
    detail: str = ""


class Nemesis:
    """`run` the plan, then `heal`."""

    def __init__(self, cluster: Cluster, links: Links, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self.timeline: list[Injected] = []
        self._cluster = cluster
        self._scene = Scene(cluster, links)
        self._clock = clock
        self._say = say
        self._turn = asyncio.Lock()
        """Held while something is being done to processes or links."""
        self._clients = {member.name: Client(member.name, member.endpoint) for member in cluster.members}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def run(self, plan: Sequence[Step]) -> None:
        """Until the last step has ended. Raises CannotRunError when a fault could not be made or taken back."""
        try:
            async with asyncio.TaskGroup() as steps:
                for step in plan:
                    steps.create_task(self._play(step))
        except BaseExceptionGroup as group:
            failed = group.subgroup(CannotRunError)
            if failed is None:
                raise
            raise failed.exceptions[0] from group

    async def _play(self, step: Step) -> None:
        await self._sleep_until(step.at_s)
        victims, note = await self._victims(step)
        fault = FAULTS[step.fault]
        async with self._turn:
            self._cluster.look_after()
            begun = Injected(step.fault, step.target, [victim.name for victim in victims], self._clock())
            self.timeline.append(begun)
            detail = await asyncio.to_thread(fault.begin, self._scene, step, victims)
            begun.detail = "; ".join(filter(None, (detail, note)))
        on = ", ".join(begun.on)
        self._say(f"{begun.fault} {on} ({begun.target}) for {step.lasts_s:.1f} s {begun.detail}".rstrip())
        await self._sleep_until(step.at_s + step.lasts_s)
        async with self._turn:
            await asyncio.to_thread(fault.end, self._scene, step, victims)
            begun.until_s = self._clock()

    async def _sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - self._clock()))

    async def _victims(self, step: Step) -> tuple[list[Member], str]:
        """Whom the step is for, and what is to be said about the choice."""
        members = list(self._cluster.members)
        if step.target is Target.ALL:
            return members, ""
        leader = await self.find_leader()
        if leader is None:
            return [members[int(step.pick * len(members))]], "nobody led: any member"
        if step.target is Target.LEADER:
            return [leader], ""
        followers = self._cluster.others(leader)
        return [followers[int(step.pick * len(followers))]], ""

    async def find_leader(self) -> Member | None:
        """Who says that it leads, in the highest term; None if nobody does for some time."""
        give_up_s = self._clock() + FIND_LEADER_S
        while self._clock() < give_up_s:
            statuses = await self.statuses()
            leaders = [(status.term, name) for name, status in statuses.items() if status.leads]
            if leaders:
                return self._cluster.member(max(leaders)[1])
            await asyncio.sleep(_POLL_S)
        return None

    async def statuses(self) -> dict[str, Status]:
        """Of those members that answer soon."""

        async def ask(name: str) -> tuple[str, Status | None]:
            try:
                return name, await self._clients[name].status(STATUS_TIMEOUT_S)
            except CallError:
                return name, None

        answers = await asyncio.gather(*(ask(name) for name in self._clients))
        return {name: status for name, status in answers if status is not None}

    async def heal(self) -> None:
        """All links as new, all members running. Steps must have ended, or been cancelled."""
        async with self._turn:
            await asyncio.to_thread(self._scene.links.heal)
            self._cluster.revive()
