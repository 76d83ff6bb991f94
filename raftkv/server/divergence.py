"""Noticing that two members, having applied the same entries, do not hold the same state (design §6, AL-11).

Every append and heartbeat says up to where its sender has applied, and what its state hashed to there. A member
compares that with its own hash at the same index. If they differ one of the two is wrong, by a bug or by memory that
lies; which one, the other members tell. The one in the minority must stop before it answers anything more. Owns the
comparison and the inquiry. Changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from raftkv.apply import first_difference
from raftkv.pb import peer_pb2
from raftkv.server.errors import Diverged
from raftkv.server.peers import PeerCallError
from raftkv.server.peers.protocol import DIVERGED, STATE_HASHES

if TYPE_CHECKING:
    from raftkv.apply import Applier
    from raftkv.server.peers import Identity, Links

_log = logging.getLogger(__name__)

ASK_TIMEOUT_S: Final = 2.0
DECIDE_S: Final = 2.0
"""How long those are asked again who could not say yet: a member must not answer much longer with a state that is
contradicted, and must not end because another is slow."""
PAUSE_S: Final = 0.05
"""... and how long between."""
AGAIN_S: Final = 1.0
"""Between two inquiries: every message of a member that is wrong says so again, until it has stopped."""
RECENT: Final = 4096
"""Entries looked back at to find the first that differs."""


class Divergence:
    """`check` on every message that says something; `on_applied` after every batch."""

    def __init__(
        self,
        identity: Identity,
        applier: Applier,
        links: Links,
        voters: Callable[[], tuple[int, ...]],
        spawn: Callable[..., asyncio.Task[None]],
        on_diverged: Callable[[Diverged], None],
    ) -> None:
        self._identity = identity
        self._applier = applier
        self._links = links
        self._voters = voters
        self._spawn = spawn
        self._on_diverged = on_diverged
        self._later: dict[int, tuple[int, int]] = {}
        """Member -> the newest (index, hash) that it told and this one has not applied yet. One each."""
        self._inquiring = False
        self.checked = 0
        """Comparisons made."""
        self.differed = 0
        """... and those that found a difference."""

    def check(self, sender: int, index: int, state_hash: int) -> None:
        own = self._applier.hashes.at(index)
        if own is not None:
            self._compare(sender, index, state_hash, own)
        elif index > self._applier.index:
            self._later[sender] = (index, state_hash)

    def on_applied(self) -> None:
        if self._later:
            index = self._applier.index
            for sender in [each for each, (told, _) in self._later.items() if told <= index]:
                self.check(sender, *self._later.pop(sender))

    def _compare(self, sender: int, index: int, theirs: int, ours: int) -> None:
        self.checked += 1
        if theirs != ours:
            self.differed += 1
            self.inquire(sender, index)

    # --- which of the two is wrong ------------------------------------------------------------------------------------

    def inquire(self, other: int, index: int) -> None:
        """This member and `other` differ at `index`, says one of them. Find out whether it is this one that is
        wrong."""
        if not self._inquiring:
            self._inquiring = True
            fields = {"other": f"{other:x}", "index": index}
            _log.error("the state of another member differs; asking all", extra={"kv": fields})
            self._spawn(self._inquire(other, index))

    async def _inquire(self, other: int, index: int) -> None:
        try:
            own = self._applier.hashes.at(index)
            if own is None or await self._is_cleared(own, index, other):
                if own is not None:  # else it lies too far back to say anything
                    await self._tell(other, index)
                await asyncio.sleep(AGAIN_S)
                self._inquiring = False
                return
            first = await self._first_difference(other, index)
        except Exception as failure:
            # Not knowing is no reason to go on with a state that is contradicted.
            _log.error("the inquiry failed", extra={"kv": {"error": str(failure)}})
            first = index
        await self._tell(self._identity.member_id, first)
        self._on_diverged(_verdict(self._identity.member_id, first))

    async def _is_cleared(self, own: int, index: int, other: int) -> bool:
        """A majority that agrees with this member clears it. Anything else does not.

        Who has not applied so far or does not answer is asked again: without that, one member that lies lets another
        end too, of which a third, slower one would have said that it is right.
        """
        loop = asyncio.get_running_loop()
        late_s = loop.time() + DECIDE_S
        while True:
            told = await self._ask_all(index, index)
            voters = self._voters()
            asked = [told.get(each) for each in voters if each not in (self._identity.member_id, other)]
            agree = (self._identity.member_id in voters) + asked.count([own])
            undecided = sum(not hashes for hashes in asked)
            if agree > len(voters) // 2:
                return True
            if agree + undecided <= len(voters) // 2 or loop.time() >= late_s:
                return False
            await asyncio.sleep(PAUSE_S)

    async def _first_difference(self, other: int, index: int) -> int:
        first = max(self._applier.hashes.span()[0], index - RECENT)
        begin, ours = self._applier.hashes.between(first, index)
        link = self._links.get(other)
        if link is None:
            return index
        theirs = await self._ask(link, begin, index)
        if theirs is None:
            return index
        return first_difference((begin, ours), theirs) or index

    async def _ask_all(self, first: int, last: int) -> dict[int, list[int]]:
        links = list(self._links)
        answers = await asyncio.gather(*(self._ask(link, first, last) for link in links))
        return {link.peer_id: answer[1] for link, answer in zip(links, answers, strict=True) if answer is not None}

    async def _ask(self, link: Any, first: int, last: int) -> tuple[int, list[int]] | None:
        request = peer_pb2.StateHashesRequest(first=first, last=last).SerializeToString()
        try:
            answer = peer_pb2.StateHashesResponse.FromString(await link.ask(STATE_HASHES, request, ASK_TIMEOUT_S))
        except PeerCallError:
            return None
        return answer.first, list(answer.hashes)

    async def _tell(self, member_id: int, index: int) -> None:
        """All members: the leader among them raises the alarm, and the one that is meant looks at itself."""
        request = peer_pb2.DivergedRequest(member_id=member_id, index=index).SerializeToString()
        calls = (link.ask(DIVERGED, request, ASK_TIMEOUT_S) for link in self._links)
        await asyncio.gather(*calls, return_exceptions=True)


def _verdict(member_id: int, index: int) -> Diverged:
    return Diverged(
        f"the state of this member, {member_id:x}, differs from that of the others from entry {index} on, so it stops "
        "serving. Nothing was lost from the cluster. Rebuild its store from another member: raftkv rebuild --data-dir "
        "<directory> --from <peer URL of another member>; then start it, and clear the alarm: etcdctl alarm disarm"
    )
