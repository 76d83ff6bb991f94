"""The service on the peer URLs: who is let in, and what is done with what they say.

Owns the check of every caller's identity. A message that arrives is handed to the host; what it means is the core's
affair. Whatever is malformed ends the stream it came on and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from raftkv.pb import peer_pb2
from raftkv.raft import BadMessage, MessageType
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Service
from raftkv.server.peers import protocol
from raftkv.server.peers.transfers import MAX_MEMBERS
from raftkv.wire import WireError

if TYPE_CHECKING:
    from raftkv.membership import Members
    from raftkv.raft import Message
    from raftkv.rpc.service import Call
    from raftkv.server.peers.copies import Copies

_log = logging.getLogger(__name__)

Request = TypeVar("Request")

FROM_STRANGERS: Final = frozenset(
    {
        MessageType.APP,
        MessageType.HEARTBEAT,
        MessageType.SNAP,
        MessageType.VOTE,
        MessageType.PRE_VOTE,
        MessageType.TIMEOUT_NOW,
    }
)
"""What is taken from a member of this cluster that is not known here yet: it may be the leader of a configuration that
this member has still to learn, or be elected by one (thesis §4.1). Proposals and answers of strangers are dropped."""


class Host(Protocol):
    """The node, as this room sees it."""

    identity: protocol.Identity
    members: Members

    def on_greeted(self, member_id: int) -> None:
        """Another member has begun to speak: it runs, and the network is there."""

    def on_stranger(self, member_id: int, urls: Sequence[str]) -> None:
        """A member of this cluster that is not known here has begun to speak."""

    def on_stranger_gone(self, member_id: int) -> None:
        """... and has ended."""

    def on_peer_message(self, message: Message) -> None:
        """Raises BadMessage when it is none that a member would send."""

    def probed(self) -> peer_pb2.ProbeResponse: ...

    def known_members(self) -> peer_pb2.MembersResponse: ...

    def on_forwarded(self, call: Call, request: peer_pb2.ForwardRequest) -> None:
        """Answer as leader; a failure is the client's status."""

    def state_hashes(self, first: int, last: int) -> peer_pb2.StateHashesResponse: ...

    def on_diverged(self, reporter: int, request: peer_pb2.DivergedRequest) -> None: ...


class PeerService:
    def __init__(self, host: Host, copies: Copies) -> None:
        self._host = host
        self._copies = copies
        self._streams: dict[MessageReceiver, None] = {}
        self.received_bytes = 0
        self.received_from: dict[int, int] = {}
        """Member -> bytes of messages; bounded by MAX_MEMBERS."""
        self.malformed_from: dict[int, int] = {}
        """Member -> messages that made no sense; bounded likewise."""

    def service(self) -> Service:
        copies = self._copies
        open_copy = peer_pb2.OpenCopyRequest.FromString
        return (
            Service(protocol.SERVICE)
            .bidi("Messages", self._open)
            .unary("Probe", self._checked(peer_pb2.ProbeRequest.FromString, self._probe))
            .unary("Members", self._members)
            .unary("Forward", self._checked(peer_pb2.ForwardRequest.FromString, self._host.on_forwarded))
            .unary("OpenCopy", self._checked(open_copy, lambda call, ask: copies.open(call, caller_of(call), ask)))
            .unary("ReadCopy", self._checked(peer_pb2.ReadCopyRequest.FromString, copies.read))
            .unary("CloseCopy", self._checked(peer_pb2.CloseCopyRequest.FromString, copies.close))
            .unary("StateHashes", self._checked(peer_pb2.StateHashesRequest.FromString, self._state_hashes))
            .unary("Diverged", self._checked(peer_pb2.DivergedRequest.FromString, self._diverged))
        )

    def end_streams(self) -> None:
        for stream in list(self._streams):
            stream.end()

    def drop(self, member_id: int) -> None:
        """End what a member that has been removed still has open (RF-64)."""
        for stream in list(self._streams):
            if stream.sender == member_id:
                stream.refuse(protocol.TEXT_REMOVED)

    # --- who is let in ------------------------------------------------------------------------------------------------

    def refusal(self, call: Call) -> str | None:
        """Why this caller is not talked to, or None."""
        identity, members = self._host.identity, self._host.members
        if call.metadata(protocol.KEY_PROTOCOL) != protocol.PROTOCOL_VERSION:
            return protocol.TEXT_PROTOCOL
        if call.metadata(protocol.KEY_CLUSTER) != f"{identity.cluster_id:x}":
            return protocol.TEXT_OTHER_CLUSTER
        if call.metadata(protocol.KEY_TO) != f"{identity.member_id:x}":
            return protocol.TEXT_WRONG_MEMBER
        caller = caller_of(call)
        if members.was_removed(caller):
            return protocol.TEXT_REMOVED
        member = members.get(caller)
        data_id = _hex(call.metadata(protocol.KEY_DATA))
        if member is not None and data_id and member.data_id and data_id != member.data_id:
            return protocol.TEXT_OTHER_DATA
        return None

    def _checked(
        self, parse: Callable[[bytes], Request], handle: Callable[[Call, Request], None]
    ) -> Callable[[Call, bytes], None]:
        def handler(call: Call, message: bytes) -> None:
            refusal = self.refusal(call)
            if refusal is not None:
                call.fail(Code.FAILED_PRECONDITION, refusal)
                return
            try:
                request = parse(message)
            except Exception as damage:
                call.fail(Code.INVALID_ARGUMENT, f"not a request of a member: {damage}")
                return
            handle(call, request)

        return handler

    # --- what they say ------------------------------------------------------------------------------------------------

    def _open(self, call: Call) -> MessageReceiver:
        stream = MessageReceiver(self, call)
        refusal = self.refusal(call)
        if refusal is not None:
            _log_refusal(call, refusal)
            stream.refuse(refusal)
            return stream
        self._streams[stream] = None
        if self._host.members.get(stream.sender) is not None:
            self._host.on_greeted(stream.sender)
        else:
            urls = call.metadata(protocol.KEY_URLS) or ""
            self._host.on_stranger(stream.sender, [each for each in urls.split(",") if each])
        call.send(protocol.WELCOME.pack(self._host.identity.data_id))
        return stream

    def closed(self, stream: MessageReceiver) -> None:
        if self._streams.pop(stream, self) is self:
            return
        if all(each.sender != stream.sender for each in self._streams):
            self._host.on_stranger_gone(stream.sender)

    def deliver(self, sender: int, data: bytes) -> None:
        """Raises WireError and BadMessage."""
        self.received_bytes += len(data)
        _add(self.received_from, sender, len(data))
        message = protocol.unseal(data)
        if message.sender != sender:
            raise BadMessage(f"member {sender:x} sent a message of {message.sender:x}")
        if message.type in FROM_STRANGERS or self._host.members.get(sender) is not None:
            self._host.on_peer_message(message)

    def _probe(self, call: Call, _request: Any) -> None:
        call.reply(self._host.probed().SerializeToString())

    def _members(self, call: Call, _message: bytes) -> None:
        """For whoever asks: a member that joins does not know the cluster's id yet (F-72)."""
        call.reply(self._host.known_members().SerializeToString())

    def _state_hashes(self, call: Call, request: peer_pb2.StateHashesRequest) -> None:
        call.reply(self._host.state_hashes(request.first, request.last).SerializeToString())

    def _diverged(self, call: Call, request: peer_pb2.DivergedRequest) -> None:
        self._host.on_diverged(caller_of(call), request)
        call.reply(peer_pb2.DivergedResponse().SerializeToString())


class MessageReceiver:
    """One stream of Raft messages from one member."""

    __slots__ = ("_call", "_service", "sender")

    def __init__(self, service: PeerService, call: Call) -> None:
        self._service = service
        self._call = call
        self.sender = caller_of(call)

    def on_message(self, data: bytes) -> None:
        try:
            self._service.deliver(self.sender, data)
        except (WireError, BadMessage) as damage:
            _add(self._service.malformed_from, self.sender, 1)
            # The rest of the stream is not to be trusted either. A new one begins between two messages.
            fields = {"peer": f"{self.sender:x}", "error": str(damage)}
            _log.warning("a malformed message of a member; its stream is ended", extra={"kv": fields})
            self._call.fail(Code.INVALID_ARGUMENT, str(damage))

    def refuse(self, why: str) -> None:
        self._call.fail(Code.FAILED_PRECONDITION, why)

    def end(self) -> None:
        self._call.fail(Code.UNAVAILABLE, "this member is stopping")

    def on_half_close(self) -> None:
        self._call.finish()

    def on_closed(self) -> None:
        self._service.closed(self)

    def on_writable(self) -> None: ...


def _add(counts: dict[int, int], member_id: int, count: int) -> None:
    """Who is one too many is not counted: a caller may claim any id."""
    if member_id in counts or len(counts) < MAX_MEMBERS:
        counts[member_id] = counts.get(member_id, 0) + count


def caller_of(call: Call) -> int:
    """The member id that the caller gives; 0 when it gives none."""
    return _hex(call.metadata(protocol.KEY_FROM))


def _hex(text: str | None) -> int:
    try:
        return int(text or "0", 16) & ((1 << 64) - 1)
    except ValueError:
        return 0


def _log_refusal(call: Call, why: str) -> None:
    fields = {"caller": f"{caller_of(call):x}", "address": call.peer, "reason": why}
    _log.warning("refused a member", extra={"kv": fields})
