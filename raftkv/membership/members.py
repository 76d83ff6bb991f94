"""The member records, in memory and in their tables.

Owns the `members` and `members_removed` tables. Every mutation takes the write transaction of the apply batch, so a
record and the consistent index that covers it become visible, and durable, together (RF-50).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raftkv.backend import SchemaError
from raftkv.backend.schema import pack_u64, unpack_u64
from raftkv.membership.errors import MemberExists, MemberNotFound, MemberRemoved, PeerURLExists
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from raftkv.backend import ReadTxn, Tables, WriteTxn


@dataclass(frozen=True, slots=True)
class Member:
    """One member as clients see it (CL-01)."""

    id: int
    peer_urls: tuple[str, ...]
    """Sorted (CL-03)."""
    name: str = ""
    """Empty until the member has started once and published it (CL-02)."""
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    @property
    def started(self) -> bool:
        return bool(self.name)

    def to_message(self) -> rpc_pb2.Member:
        return rpc_pb2.Member(
            ID=self.id,
            name=self.name,
            peerURLs=self.peer_urls,
            clientURLs=self.client_urls,
            isLearner=self.is_learner,
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Member:
        """Inverse of `to_message().SerializeToString()`. Raises SchemaError on anything else."""
        message = rpc_pb2.Member()
        try:
            message.ParseFromString(raw)
        except Exception as damage:
            raise SchemaError(f"members: a record of {len(raw)} bytes cannot be read") from damage
        return cls(
            id=message.ID,
            peer_urls=tuple(message.peerURLs),
            name=message.name,
            client_urls=tuple(message.clientURLs),
            is_learner=message.isLearner,
        )


class Members:
    """All members of this cluster, ascending by id (CL-03)."""

    __slots__ = ("_by_id", "_removed", "_tables")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._by_id: dict[int, Member] = {}
        """Always in ascending order of id."""
        self._removed: set[int] = set()

    def load(self, txn: ReadTxn) -> None:
        """Read all records. Raises SchemaError when one is damaged."""
        members = (Member.from_bytes(raw) for _, raw in txn.cursor(self._tables.members))
        self._by_id = {member.id: member for member in members}
        self._removed = {unpack_u64(key) for key, _ in txn.cursor(self._tables.members_removed)}

    def rebind(self, tables: Tables) -> None:
        """The environment was reopened: its old handles are dead."""
        self._tables = tables

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, member_id: int) -> Member | None:
        return self._by_id.get(member_id)

    def was_removed(self, member_id: int) -> bool:
        return member_id in self._removed

    def add(self, txn: WriteTxn, member: Member) -> None:
        """Raises MemberRemoved, MemberExists or PeerURLExists."""
        if member.id in self._removed:
            raise MemberRemoved
        if member.id in self._by_id:
            raise MemberExists
        self._refuse_known_urls(member)
        self._put(txn, replace(member, peer_urls=tuple(sorted(member.peer_urls))))

    def publish(self, txn: WriteTxn, member_id: int, name: str, client_urls: Iterable[str]) -> None:
        """A member tells its name and client URLs (CL-02). Raises MemberNotFound, also for a removed one."""
        self._put(txn, replace(self._must_get(member_id), name=name, client_urls=tuple(client_urls)))

    def _must_get(self, member_id: int) -> Member:
        member = self._by_id.get(member_id)
        if member is None:
            raise MemberNotFound
        return member

    def _refuse_known_urls(self, member: Member) -> None:
        urls = set(member.peer_urls)
        if any(urls.intersection(other.peer_urls) for other in self._by_id.values()):
            raise PeerURLExists

    def _put(self, txn: WriteTxn, member: Member) -> None:
        txn.put(pack_u64(member.id), member.to_message().SerializeToString(), db=self._tables.members)
        self._by_id[member.id] = member
        self._by_id = dict(sorted(self._by_id.items()))
