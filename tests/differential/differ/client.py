"""One server (or cluster) as the tester sees it: grpcio channels, requests built from a script, answers as they come.

Owns the calls, the ids that belong to this side, and what stand-ins mean here. Compares nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from google.protobuf import message_factory

from differ.ops import (
    AddedMember,
    Blob,
    ClusterVersion,
    Fields,
    GrantedLease,
    LeaderRev,
    LeaseKey,
    MemberId,
    PeerUrl,
    Rev,
)
from raftkv.pb import election_pb2, lock_pb2, rpc_pb2

TIMEOUT_S: Final = 20.0
NO_SUCH_LEASE: Final = 0x7777
NO_SUCH_MEMBER: Final = 0x1234
OK: Final = 0
_UNIMPLEMENTED: Final = grpc.StatusCode.UNIMPLEMENTED.value[0]

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


class Method(NamedTuple):
    path: str
    request: Any
    response: Any
    arity: str


def _methods() -> dict[str, Method]:
    """All calls of the API by their short names."""
    table = {}
    for file in (rpc_pb2, lock_pb2, election_pb2):
        for service, descriptor in file.DESCRIPTOR.services_by_name.items():
            for method in descriptor.methods:
                table[f"{service}.{method.name}"] = Method(
                    f"/{descriptor.full_name}/{method.name}",
                    message_factory.GetMessageClass(method.input_type),
                    message_factory.GetMessageClass(method.output_type),
                    ("stream" if method.client_streaming else "unary")
                    + ("_stream" if method.server_streaming else "_unary"),
                )
    return table


METHODS: Final = _methods()


class Answer(NamedTuple):
    """What a call came to. `message` is None unless `code` is 0."""

    code: int
    text: str
    message: Any


class Moment:
    """Where the script is: what both sides agree on. Revisions of requests are made from it."""

    __slots__ = ("alarmed", "auth_on", "compacted", "leading", "now", "start")

    def __init__(self) -> None:
        self.leading: dict[tuple[bytes, Any], int] = {}
        """(name, lease) of won campaigns -> the revision that makes them what they are (EL-04)."""
        self.auth_on = False
        self.alarmed = False
        """An alarm was raised in this script."""
        self.now = 1
        self.compacted = -1
        self.start = 1

    def revision(self, ref: Rev) -> int:
        return {"now": self.now, "compacted": self.compacted, "start": self.start}[ref.base] + ref.offset


class Side:
    """One of the two. Members are in the order of their ranks: 0 leads."""

    def __init__(self, name: str, endpoints: list[str], peer_urls: list[str]) -> None:
        self.name = name
        self._endpoints = endpoints
        self._peer_urls = peer_urls
        self._channels = [grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS) for endpoint in endpoints]
        self._stubs = [self._stubs_of(channel) for channel in self._channels]
        self._order = list(range(len(endpoints)))
        self.cluster_id = 0
        self.member_ids = [0] * len(endpoints)
        self.names = [""] * len(endpoints)
        self.version = ""
        self.cluster_version = (0, 0)
        self.leases: dict[int, int] = {}
        """Ids that the server chose -> their number."""
        self.tokens: dict[str, str] = {}
        self._began = time.monotonic()
        self.added: dict[int, int] = {}
        """Ids of members that the script added -> their number."""

    @staticmethod
    def _stubs_of(channel: Any) -> dict[str, Any]:
        return {name: getattr(channel, method.arity)(method.path) for name, method in METHODS.items()}

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    @property
    def size(self) -> int:
        return len(self._endpoints)

    async def meet(self, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        """Learn ids, version and who leads; ranks follow from that and from those before. `metadata`: of the calls.

        Raises grpc.RpcError, LookupError (no leader).
        """
        statuses = [await self._status(place, metadata) for place in range(self.size)]
        leaders = {status.leader for status in statuses}
        ids = [status.header.member_id for status in statuses]
        if len(leaders) != 1 or not leaders <= set(ids):
            raise LookupError(f"{self.name}: the members name these leaders: {leaders}")
        leading = ids.index(leaders.pop())
        self._order = ranked(self._order, leading)
        self.member_ids = [ids[place] for place in self._order]
        body = await self._stubs[0]["Cluster.MemberList"](b"", timeout=TIMEOUT_S, metadata=metadata)
        named = {member.ID: member.name for member in rpc_pb2.MemberListResponse.FromString(body).members}
        self.names = [named.get(member_id, "") for member_id in self.member_ids]
        self.cluster_id = statuses[0].header.cluster_id
        self.version = statuses[0].version
        major, minor, *_patch = self.version.split(".")
        self.cluster_version = (int(major), int(minor))

    async def _status(self, place: int, metadata: tuple[tuple[str, str], ...]) -> rpc_pb2.StatusResponse:
        body = await self._stubs[place]["Maintenance.Status"](b"", timeout=TIMEOUT_S, metadata=metadata)
        return rpc_pb2.StatusResponse.FromString(body)

    def begin_script(self) -> None:
        self.leases.clear()
        self.tokens.clear()
        self.added.clear()
        self._began = time.monotonic()

    def seconds_of_script(self) -> float:
        """How long the script has been played."""
        return time.monotonic() - self._began

    # --- calls --------------------------------------------------------------------------------------------------------

    def stub(self, method: str, member: int) -> Any:
        return self._stubs[self._order[member % self.size]][method]

    def metadata(self, user: str) -> tuple[tuple[str, str], ...]:
        """Of a call by this user. One who never logged in sends a token that no server gave out."""
        return (("token", self.tokens.get(user, f"{user}.1")),) if user else ()

    async def unary(
        self,
        method: str,
        request: bytes,
        member: int = 0,
        metadata: tuple[tuple[str, str], ...] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        try:
            body = await self.stub(method, member)(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().value[0], error.details() or "", None)
        return Answer(OK, "", METHODS[method].response.FromString(body))

    async def has(self, method: str) -> bool:
        """Whether the server knows this call at all. Asked with a message that nothing can be made of."""
        kind = METHODS[method]
        if kind.arity != "unary_unary":
            return True
        return (await self.unary(method, b"\xff\xff\xff")).code != _UNIMPLEMENTED

    def learn_reply(self, method: str, fields: Fields, answer: Answer) -> None:
        """Note what later requests refer to: ids of leases, tokens."""
        if answer.message is None:
            return
        if method == "Lease.LeaseGrant" and not fields.get("ID"):
            self.leases.setdefault(answer.message.ID, len(self.leases))
        elif method in ("Lock.Lock", "Election.Campaign") and not fields.get("lease"):
            self.leases.setdefault(_lease_of(method, answer.message), len(self.leases))
        elif method == "Auth.Authenticate":
            self.tokens[str(fields.get("name", ""))] = answer.message.token
        elif method == "Cluster.MemberAdd":
            self.added.setdefault(answer.message.member.ID, len(self.added))

    # --- requests -----------------------------------------------------------------------------------------------------

    def encode(self, method: str, fields: Fields, moment: Moment) -> bytes:
        request = METHODS[method].request(**{name: self.resolve(value, moment) for name, value in fields.items()})
        encoded: bytes = request.SerializeToString()
        return encoded

    def resolve(self, value: Any, moment: Moment) -> Any:
        """The value with every stand-in replaced by what it means on this side."""
        kind = type(value)
        if kind is dict:
            return {name: self.resolve(each, moment) for name, each in value.items()}
        if kind is list:
            return [self.resolve(each, moment) for each in value]
        meaning = _MEANINGS.get(kind)
        return value if meaning is None else meaning(self, value, moment)

    def _lease_id(self, ref: GrantedLease, _moment: Moment) -> int:
        ids = [lease for lease, number in self.leases.items() if number == ref.number]
        return ids[0] if ids else NO_SUCH_LEASE

    def _lease_key(self, ref: LeaseKey, moment: Moment) -> bytes:
        return ref.name + b"/%x" % self.resolve(ref.lease, moment)  # -5 is "-5", as Go prints it

    def _member_id(self, ref: MemberId, _moment: Moment) -> int:
        return self.member_ids[ref.rank] if ref.rank < self.size else NO_SUCH_MEMBER

    def _added_member(self, ref: AddedMember, _moment: Moment) -> int:
        ids = [member for member, number in self.added.items() if number == ref.number]
        return ids[0] if ids else NO_SUCH_MEMBER

    def _peer_url(self, ref: PeerUrl, _moment: Moment) -> str:
        return self.peer_url(ref.rank % self.size)

    def peer_url(self, rank: int) -> str:
        return self._peer_urls[self._order[rank]]

    def endpoint(self, rank: int) -> str:
        return self._endpoints[self._order[rank]]

    def _version(self, ref: ClusterVersion, _moment: Moment) -> str:
        major, minor = self.cluster_version
        return f"{major}.{minor + ref.minor}.0"


def ranked(order: list[int], leading: int) -> list[int]:
    """Places of members by rank, once the one at this place leads.

    The others keep their order among themselves, so that a stream that was opened before leadership moved is with a
    member of the same rank on both sides.
    """
    return [leading, *(place for place in order if place != leading)]


def _lease_of(method: str, message: Any) -> int:
    """The lease that the server granted for a claim (LK-02)."""
    if method == "Election.Campaign":
        return int(message.leader.lease)
    return int(message.key.rpartition(b"/")[2], 16)


_MEANINGS: Final[dict[type, Any]] = {
    Rev: lambda _side, ref, moment: moment.revision(ref),
    GrantedLease: Side._lease_id,
    LeaseKey: Side._lease_key,
    LeaderRev: lambda _side, ref, moment: moment.leading.get((ref.name, ref.lease), 0),
    MemberId: Side._member_id,
    AddedMember: Side._added_member,
    PeerUrl: Side._peer_url,
    ClusterVersion: Side._version,
    Blob: lambda _side, blob, _moment: blob.letter * blob.size,
}
