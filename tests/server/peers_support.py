"""A member as its peers see it, made of memory: identity, members, and a record of what it was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raftkv.membership import Member
from raftkv.pb import peer_pb2
from raftkv.raft import BadMessage, Message
from raftkv.rpc.codes import Code
from raftkv.server.peers import Identity
from raftkv.server.peers.protocol import WELCOME

CLUSTER, ME, PEER, GONE, STRANGER = 0xC1, 0xA, 0xB, 0xD, 0xE
MY_DATA, PEER_DATA = 0x111, 0x222

MINE = Identity(CLUSTER, ME, MY_DATA)
PEERS = Identity(CLUSTER, PEER, PEER_DATA)


class FakeCall:
    """Remembers how it was answered, and answers once. `metadata` as a peer sends it."""

    peer = "192.0.2.1:4321"
    cancelled = False

    def __init__(self, metadata: Any = ()) -> None:
        self._metadata = dict(metadata)
        self.replies: list[bytes] = []
        self.sent: list[bytes] = []
        self.ended: tuple[Code, str] | None = None

    def metadata(self, key: str) -> str | None:
        value: str | None = self._metadata.get(key)
        return value

    def reply(self, message: bytes) -> None:
        assert self.ended is None
        self.replies.append(message)
        self.ended = (Code.OK, "")

    def send(self, message: bytes) -> bool:
        assert self.ended is None
        self.sent.append(message)
        return True

    def fail(self, code: Code, text: str) -> None:
        if self.ended is None:
            self.ended = (code, text)

    def finish(self) -> None:
        self.fail(Code.OK, "")


class FakeMembers(dict[int, Member]):
    """By id. `gone`: those that were removed."""

    def __init__(self, *members: Member) -> None:
        super().__init__({each.id: each for each in members})
        self.gone = {GONE}

    def was_removed(self, member_id: int) -> bool:
        return member_id in self.gone

    @property
    def removed(self) -> list[int]:
        return sorted(self.gone)


class FakeHost:
    """What the peer service asks of a node. `bad`: messages of this term are none that a member would send."""

    BAD_TERM = 666

    def __init__(self) -> None:
        self.identity = MINE
        self.members: Any = FakeMembers(
            Member(ME, ("http://a:1",), "a", data_id=MY_DATA), Member(PEER, ("http://b:1",), "b", data_id=PEER_DATA)
        )
        self.messages: list[Message] = []
        self.forwarded: list[peer_pb2.ForwardRequest] = []
        self.diverged: list[tuple[int, int, int]] = []
        self.strangers: list[tuple[int, list[str] | None]] = []
        """(who, where it listens) of those that begin to speak, (who, None) of those that end."""
        self.greeted: list[int] = []

    def on_greeted(self, member_id: int) -> None:
        self.greeted.append(member_id)

    def on_stranger(self, member_id: int, urls: Sequence[str]) -> None:
        self.strangers.append((member_id, list(urls)))

    def on_stranger_gone(self, member_id: int) -> None:
        self.strangers.append((member_id, None))

    def on_peer_message(self, message: Message) -> None:
        if message.term == self.BAD_TERM:
            raise BadMessage("nonsense")
        self.messages.append(message)

    def probed(self) -> peer_pb2.ProbeResponse:
        return peer_pb2.ProbeResponse(version="v", leader=PEER, term=3)

    def known_members(self) -> peer_pb2.MembersResponse:
        return peer_pb2.MembersResponse(cluster_id=CLUSTER, removed=self.members.removed)

    def on_forwarded(self, call: Any, request: peer_pb2.ForwardRequest) -> None:
        self.forwarded.append(request)
        call.reply(b"")

    def state_hashes(self, first: int, last: int) -> peer_pb2.StateHashesResponse:
        return peer_pb2.StateHashesResponse(first=first, hashes=range(first, last + 1))

    def on_diverged(self, reporter: int, request: peer_pb2.DivergedRequest) -> None:
        self.diverged.append((reporter, request.member_id, request.index))


def welcome(data_id: int = PEER_DATA) -> bytes:
    return WELCOME.pack(data_id)
