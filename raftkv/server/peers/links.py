"""All the links of one member, kept in step with the member list; the transport of the Ready loop.

Messages go out in order per peer, may be lost, and never wait (RF-42). Owns which peers there are links to and what a
lost message means for the core's knowledge of its receiver.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.raft import MessageType
from raftkv.server.peers.link import Link, LinkOwner

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from raftkv.membership import Member
    from raftkv.raft import Message
    from raftkv.rpc.tls import Tls
    from raftkv.server.peers.protocol import Identity

_log = logging.getLogger(__name__)

LINGER_S: Final = 1.0
"""After its removal a member is still told of it for this long (CL-34, RF-64)."""


class LinksOwner(LinkOwner, Protocol):
    def on_left(self, peer_id: int) -> None:
        """A removed member has been told for long enough."""

    def on_unsent(self, message: Message) -> None:
        """The message was dropped, and it was one whose loss the core wants to know of: an append, or a snapshot."""

    def on_snapshot_offered(self, member_id: int) -> None:
        """A snapshot message has left: that member may now fetch a copy of the store."""


class Links:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        identity: Identity,
        own_urls: Callable[[], Sequence[str]],
        owner: LinksOwner,
        tls: Tls | None = None,
    ) -> None:
        """`own_urls`: where this member listens for others, as the member list has it now. `tls`: for https."""
        self._loop = loop
        self._identity = identity
        self._own_urls = own_urls
        self._owner = owner
        self._tls = tls
        self._links: dict[int, Link] = {}
        self._leaving: dict[int, float] = {}
        """Removed members -> when their links close (loop time)."""
        self._strangers: set[int] = set()
        """Have a link although they are no members that this one knows of: see `meet`."""

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links.values())

    def get(self, member_id: int) -> Link | None:
        return self._links.get(member_id)

    def update(self, members: Iterable[Member]) -> None:
        """After every change of the member list: new ones get a link, moved ones a new address, others leave."""
        wanted = {each.id: each for each in members if each.id != self._identity.member_id}
        for member_id, member in wanted.items():
            link = self._links.get(member_id)
            self._leaving.pop(member_id, None)
            self._strangers.discard(member_id)
            if link is None:
                self._links[member_id] = self._new_link(member_id, member.peer_urls)
            else:
                link.set_urls(member.peer_urls)
        for member_id in self._links:
            if member_id not in wanted and member_id not in self._strangers:
                self._leaving.setdefault(member_id, self._loop.time() + LINGER_S)

    def _new_link(self, member_id: int, urls: Sequence[str]) -> Link:
        return Link(self._loop, self._identity, member_id, urls, self._own_urls(), self._owner, self._tls)

    def meet(self, member_id: int, urls: Sequence[str]) -> None:
        """Somebody of this cluster speaks to us whom we do not know yet. It may be the leader, which was added while we
        were away; only when it hears our answers it can tell us so (thesis §4.1). Until `part`, it has a link."""
        if member_id not in self._links and urls:
            self._strangers.add(member_id)
            self._links[member_id] = self._new_link(member_id, urls)

    def part(self, member_id: int) -> None:
        """It speaks no more. If it has become a member meanwhile, its link stays."""
        if member_id in self._strangers:
            self._strangers.discard(member_id)
            self._links.pop(member_id).close()

    def send(self, messages: Sequence[Message]) -> None:
        links = self._links
        touched: dict[int, Link] = {}
        for message in messages:
            link = links.get(message.to)
            if link is None or not link.send(message):
                if message.type in _LOSS_MATTERS:
                    self._owner.on_unsent(message)
                continue
            touched[message.to] = link
            if message.snapshot is not None:
                self._owner.on_snapshot_offered(message.to)
        for link in touched.values():
            link.flush()

    def on_tick(self, now: float) -> None:
        for member_id in [each for each, due_s in self._leaving.items() if now >= due_s]:
            del self._leaving[member_id]
            self._links.pop(member_id).close()
            self._owner.on_left(member_id)
        for link in self._links.values():
            link.on_tick(now)

    def connected_since(self, member_id: int) -> float | None:
        """Loop time since when that member could be reached without a break; None if it cannot now."""
        link = self._links.get(member_id)
        return None if link is None or member_id in self._leaving else link.up_since_s

    def quorum_rtt_s(self, voters: Collection[int]) -> float:
        """Round trip to the farthest of the nearest others that make a quorum with this member, when nothing delays it;
        0 when it needs none, or does not know."""
        trips = sorted(link.least_rtt_s for each in voters if (link := self._links.get(each)) is not None)
        needed = len(voters) // 2
        return trips[needed - 1] if 0 < needed <= len(trips) else 0.0

    def close(self) -> None:
        for link in self._links.values():
            link.close()


_LOSS_MATTERS: Final = frozenset({MessageType.APP, MessageType.SNAP})
