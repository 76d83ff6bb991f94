"""This member among the others: what it hears from them, what it tells them, and what it makes of their silence.

Joins the links, the peer service, copies of the store in both directions and the comparison of states to the core. Owns
none of the decisions: messages are the core's, membership is what was applied. All on the event loop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from raftkv.apply import CORRUPT, Kind
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import NOBODY, BadMessage, LogDamaged, MessageType
from raftkv.server.divergence import Divergence
from raftkv.server.errors import DataForgotten, NodeError, Removed
from raftkv.server.installer import Installer
from raftkv.server.peers import (
    Copies,
    Identity,
    Links,
    PeerService,
    Refused,
    RefusedAsRemoved,
    RefusedByCluster,
    RefusedWithOtherData,
)
from raftkv.version import RAFTKV_VERSION
from raftkv.wire import encode_conf_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.membership import Member
    from raftkv.raft import Message, RawNode
    from raftkv.rpc.service import Call
    from raftkv.server.bootstrap import Booted
    from raftkv.server.node import Node

_log = logging.getLogger(__name__)

REPORT_REFUSAL_EVERY_S: Final = 30.0
RAISE_AGAIN_S: Final = 0.5


class Peering:
    def __init__(self, node: Node, booted: Booted, rawnode: RawNode) -> None:
        self.identity = Identity(booted.cluster_id, booted.member_id, booted.data_id)
        self.members = booted.members
        self.links = Links(node.loop, self.identity, self._own_urls, self, node.to_peers)
        self._node = node
        self._rawnode = rawnode
        self._applier = booted.applier
        self.copies = Copies(
            node.loop, node.backend, self._encoded_conf_state, self._on_copy_ended, node.durations.snapshot
        )
        self.service = PeerService(self, self.copies)
        self.installer = Installer(
            self.identity,
            node.backend,
            node.config.data_dir / "member" / "snap",
            node.pausables,
            node.exchange,
            self,
            node.spawn,
            node.on_fatal,
            node.to_peers,
        )
        self.divergence = Divergence(
            self.identity, self._applier, self.links, lambda: self._applier.conf_state.voters, node.spawn, node.end
        )
        self._known: tuple[Member, ...] = ()
        """The members that the links were last told of."""
        self._reported_s: dict[int, float] = {}
        """Peer -> when its refusal was last mentioned in the log."""

    def _own_urls(self) -> Sequence[str]:
        own = self.members.get(self.identity.member_id)
        return own.peer_urls if own is not None else ()

    def _encoded_conf_state(self) -> bytes:
        return encode_conf_state(self._applier.conf_state)

    # --- life ---------------------------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        self.update_links()
        self.links.on_tick(now)
        self.copies.on_tick(now)

    def update_links(self) -> None:
        """After every change of the members, and from time to time: it costs a comparison."""
        members = tuple(self.members)
        if members != self._known:
            self._known = members
            self.links.update(members)

    async def stop(self) -> None:
        self.installer.stop()
        self.service.end_streams()
        await self.copies.stop()
        self.links.close()

    # --- links --------------------------------------------------------------------------------------------------------

    def accepts(self, peer_id: int, data_id: int) -> bool:
        """RF-72: what was told to the member that lost its data would be taken for known by the one without."""
        member = self.members.get(peer_id)
        forgotten = member is not None and member.data_id and data_id and data_id != member.data_id
        if forgotten and self._is_worth_a_line(peer_id):
            _log.error(
                "a member runs with another data directory than the one it joined with; it is not talked to. Remove it "
                "and add it anew",
                extra={"kv": {"peer": f"{peer_id:x}"}},
            )
        return not forgotten

    def on_link_up(self, peer_id: int) -> None:
        self._node.on_peer_connected()

    def on_link_down(self, peer_id: int) -> None:
        self._rawnode.report_unreachable(peer_id)
        self._node.schedule()

    def on_refused(self, peer_id: int, refusal: Refused) -> None:
        if isinstance(refusal, RefusedAsRemoved):
            self._node.end(removed(self.identity.member_id))
        elif isinstance(refusal, RefusedWithOtherData):
            self._node.end(forgotten(self.identity.member_id))
        elif self._is_worth_a_line(peer_id):
            hint = ""
            if isinstance(refusal, RefusedByCluster):
                hint = "its peer URL leads to a member of another cluster: check --initial-cluster and the token"
            fields = {"peer": f"{peer_id:x}", "reason": str(refusal), "hint": hint}
            _log.error("another member refuses to talk to this one", extra={"kv": fields})

    def _is_worth_a_line(self, peer_id: int) -> bool:
        now = self._node.now()
        if now - self._reported_s.get(peer_id, float("-inf")) < REPORT_REFUSAL_EVERY_S:
            return False
        self._reported_s[peer_id] = now
        return True

    def on_greeted(self, member_id: int) -> None:
        link = self.links.get(member_id)
        if link is not None:
            link.try_now()

    def on_stranger(self, member_id: int, urls: Sequence[str]) -> None:
        self.links.meet(member_id, urls)

    def on_stranger_gone(self, member_id: int) -> None:
        self.links.part(member_id)

    def on_left(self, peer_id: int) -> None:
        """It was removed a while ago."""
        self._reported_s.pop(peer_id, None)
        self.service.drop(peer_id)

    def on_unsent(self, message: Message) -> None:
        if message.type is MessageType.SNAP:
            self._rawnode.report_snapshot(message.to, False)
        else:
            self._rawnode.report_unreachable(message.to)

    def on_snapshot_offered(self, member_id: int) -> None:
        self.copies.expect(member_id)

    def _on_copy_ended(self, member_id: int, received: bool) -> None:
        self._rawnode.report_snapshot(member_id, received)
        self._node.schedule()

    # --- what other members say ---------------------------------------------------------------------------------------

    def on_peer_message(self, message: Message) -> None:
        """Raises BadMessage."""
        if self._node.stopped.done():
            return
        if message.state_index:
            self.divergence.check(message.sender, message.state_index, message.state_hash)
        if message.type is MessageType.SNAP:
            self._on_snapshot_offer(message)
        elif not self._node.reconfiguration.hold(message):
            self._step(message)

    def _step(self, message: Message) -> None:
        try:
            self._rawnode.step(message)
        except LogDamaged as damage:
            self._node.on_fatal(damage)
            return
        self._node.schedule()

    def _on_snapshot_offer(self, message: Message) -> None:
        snapshot = message.snapshot
        if snapshot is None or message.term < self._rawnode.term:
            return
        # It also is a sign of life of a leader: let the core hear that much, lest it campaigns meanwhile.
        self._step(_as_heartbeat(message))
        if snapshot.index <= self._rawnode.committed:
            self._step(message)  # the core will say that it is not needed
            return
        link = self.links.get(message.sender)
        if link is None:
            raise BadMessage(f"a snapshot is offered by {message.sender:x}, which is no member known here")
        self.installer.on_offer(message, link.url)

    def on_snapshot_ready(self, message: Message) -> bool:
        rawnode = self._rawnode
        if message.term < rawnode.term and rawnode.lead not in (NOBODY, self.identity.member_id):
            # Another leads by now. What was committed under the last one is committed under this one, so the copy is as
            # good as its own would be.
            message.term, message.sender = rawnode.term, rawnode.lead
        self._step(message)
        return self._rawnode.pending_snapshot is message.snapshot

    def on_store_replaced(self) -> None:
        self._node.on_store_replaced()

    def probed(self) -> peer_pb2.ProbeResponse:
        return peer_pb2.ProbeResponse(version=RAFTKV_VERSION, leader=self._rawnode.lead, term=self._rawnode.term)

    def known_members(self) -> peer_pb2.MembersResponse:
        return peer_pb2.MembersResponse(
            cluster_id=self.identity.cluster_id,
            members=[each.to_record() for each in self.members],
            removed=self.members.removed,
            leader=self._rawnode.lead,
            committed=self._applier.index,  # as far as these members go: the core may be a turn of the loop ahead
        )

    def on_forwarded(self, call: Call, request: peer_pb2.ForwardRequest) -> None:
        self._node.leader_calls.on_forwarded(call, request)

    def state_hashes(self, first: int, last: int) -> peer_pb2.StateHashesResponse:
        begin, hashes = self._applier.hashes.between(first, last)
        return peer_pb2.StateHashesResponse(first=begin, hashes=hashes)

    def on_diverged(self, reporter: int, request: peer_pb2.DivergedRequest) -> None:
        """Somebody's state differs. Is it ours? If not, and it says so itself, raise the alarm for it (AL-11): every
        member that hears of it does, for it may be the leader that is wrong, and a second alarm changes nothing."""
        if request.member_id == self.identity.member_id:
            self.divergence.inquire(reporter, request.index)
        elif request.member_id == reporter:
            message = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=request.member_id, alarm=CORRUPT
            )
            fields = {"member": f"{request.member_id:x}", "first_index": request.index}
            _log.critical("a member's state differs from that of the others; raising CORRUPT", extra={"kv": fields})
            self._raise_alarm(message)

    def _raise_alarm(self, message: rpc_pb2.AlarmRequest) -> None:
        if (message.memberID, message.alarm) not in self._node.alarms.active():
            self._node.propose(Kind.ALARM, message.SerializeToString(), self._on_alarm_answered, message)

    def _on_alarm_answered(self, message: rpc_pb2.AlarmRequest, result: object) -> None:
        """It may have been given to the very leader that is wrong, and have gone with it: try until it is raised."""
        if isinstance(result, NodeError) and not self._node.stopped.done():
            self._node.loop.call_later(RAISE_AGAIN_S, self._raise_alarm, message)


def _as_heartbeat(message: Message) -> Message:
    """A leader's message stripped of all but its sender and term."""
    return type(message)(MessageType.HEARTBEAT, message.to, sender=message.sender, term=message.term)


def removed(member_id: int) -> Removed:
    return Removed(
        f"member {member_id:x} has been removed from the cluster for good and stops. To come back it has to be added "
        "anew: remove its data directory, run etcdctl member add, and start it with --initial-cluster-state=existing"
    )


def forgotten(member_id: int) -> DataForgotten:
    return DataForgotten(
        f"member {member_id:x} joined the cluster with another data directory than this one, so the others do not talk "
        "to it: without its data it has forgotten what it promised them. If --data-dir is wrong, correct it. If the "
        f"data is lost, replace the member: etcdctl member remove {member_id:x}; etcdctl member add; then start it "
        "with an empty data directory and --initial-cluster-state=existing"
    )
