"""The member records, in memory and in their tables.

Owns the `members` and `members_removed` tables. Every mutation takes the write transaction of the apply batch, so a
record and the consistent index that covers it become visible, and durable, together (RF-50). A mutation that is
refused has changed nothing; the `check_` methods tell beforehand, for who must change something else with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raftkv.backend import SchemaError
from raftkv.backend.schema import pack_u64, unpack_u64
from raftkv.membership.errors import (
    DataDirectoryChanged,
    MemberExists,
    MemberNotFound,
    MemberNotLearner,
    MemberRemoved,
    PeerURLExists,
)
from raftkv.pb import peer_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from raftkv.backend import ReadTxn, Tables, WriteTxn


@dataclass(frozen=True, slots=True)
class Member:
    """One member: what clients see of it (CL-01), and what only members tell each other."""

    id: int
    peer_urls: tuple[str, ...]
    """Sorted (CL-03)."""
    name: str = ""
    """Empty until the member has started once and published it (CL-02)."""
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False
    data_id: int = 0
    """The data directory that the member first started with; 0 until it has published one (RF-72)."""

    @property
    def started(self) -> bool:
        return bool(self.name)

    def to_message(self) -> rpc_pb2.Member:
        """For clients."""
        return rpc_pb2.Member(
            ID=self.id,
            name=self.name,
            peerURLs=self.peer_urls,
            clientURLs=self.client_urls,
            isLearner=self.is_learner,
        )

    def to_record(self) -> peer_pb2.MemberRecord:
        """For the disk and for other members."""
        return peer_pb2.MemberRecord(
            ID=self.id,
            name=self.name,
            peerURLs=self.peer_urls,
            clientURLs=self.client_urls,
            isLearner=self.is_learner,
            data_id=self.data_id,
        )

    @classmethod
    def from_record(cls, record: peer_pb2.MemberRecord) -> Member:
        return cls(
            id=record.ID,
            peer_urls=tuple(sorted(record.peerURLs)),
            name=record.name,
            client_urls=tuple(record.clientURLs),
            is_learner=record.isLearner,
            data_id=record.data_id,
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Member:
        """Inverse of `to_record().SerializeToString()`; also reads the etcdserverpb.Member of raftkv's first stores.
        Raises SchemaError on anything else."""
        record = peer_pb2.MemberRecord()
        try:
            record.ParseFromString(raw)
        except Exception as damage:
            raise SchemaError(f"members: a record of {len(raw)} bytes cannot be read") from damage
        return cls.from_record(record)


class Members:
    """All members of this cluster, ascending by id (CL-03)."""

    __slots__ = ("_by_id", "_removed", "_tables")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._by_id: dict[int, Member] = {}
        """Always in ascending order of id. Replaced, never changed: who iterates sees one state."""
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

    @property
    def removed(self) -> list[int]:
        """Ids that were members once and never will be again (CL-06), ascending."""
        return sorted(self._removed)

    # --- changes of the configuration: apply makes each together with consensus' own (CL-53) ---

    def check_add(self, member: Member) -> None:
        """Raises MemberRemoved, MemberExists or PeerURLExists."""
        if member.id in self._removed:
            raise MemberRemoved
        if member.id in self._by_id:
            raise MemberExists
        self._refuse_known_urls(member)

    def add(self, txn: WriteTxn, member: Member) -> None:
        """Raises MemberRemoved, MemberExists or PeerURLExists."""
        self.check_add(member)
        self._put(txn, replace(member, peer_urls=tuple(sorted(member.peer_urls))))

    def check_remove(self, member_id: int) -> None:
        """Raises MemberNotFound, also for one that was removed before (CL-30)."""
        self._must_get(member_id)

    def remove(self, txn: WriteTxn, member_id: int) -> None:
        """The id never comes back (CL-06). Raises MemberNotFound, also for one that was removed before (CL-30)."""
        self.check_remove(member_id)
        key = pack_u64(member_id)
        txn.delete(key, db=self._tables.members)
        txn.put(key, b"", db=self._tables.members_removed)
        self._by_id = {each.id: each for each in self if each.id != member_id}
        self._removed.add(member_id)

    def check_promote(self, member_id: int) -> None:
        """Raises MemberNotFound, or MemberNotLearner (CL-41)."""
        if not self._must_get(member_id).is_learner:
            raise MemberNotLearner

    def promote(self, txn: WriteTxn, member_id: int) -> None:
        """A learner becomes a voter. Raises MemberNotFound, or MemberNotLearner (CL-41)."""
        self.check_promote(member_id)
        self._put(txn, replace(self._must_get(member_id), is_learner=False))

    def keep_only(self, txn: WriteTxn, member_id: int) -> None:
        """Make a cluster of one member, a voter; all others are removed (--force-new-cluster).

        The caller sets consensus' configuration in the same transaction. Raises MemberNotFound.
        """
        kept = replace(self._must_get(member_id), is_learner=False)
        for other in self:
            if other.id != member_id:
                self.remove(txn, other.id)
        self._put(txn, kept)

    # --- changes of a record ---

    def update(self, txn: WriteTxn, member_id: int, peer_urls: Iterable[str]) -> None:
        """Change where a member listens for others (CL-40). Raises MemberNotFound or PeerURLExists."""
        moved = replace(self._must_get(member_id), peer_urls=tuple(sorted(peer_urls)))
        self._refuse_known_urls(moved)
        self._put(txn, moved)

    def publish(self, txn: WriteTxn, member_id: int, name: str, client_urls: Iterable[str], data_id: int = 0) -> None:
        """A member tells its name and client URLs (CL-02), and which data directory it has; 0 leaves what is known.

        Raises MemberNotFound, also for a removed one, or DataDirectoryChanged (RF-72).
        """
        member = self._must_get(member_id)
        if data_id and member.data_id and data_id != member.data_id:
            raise DataDirectoryChanged(
                f"member {member_id:x} has another data directory than it first started with: the votes it gave and "
                "the log it acknowledged are forgotten, so it may not go on under this id. Remove it from the "
                "cluster, add it again, and start it with an empty data directory"
            )
        known = replace(member, name=name, client_urls=tuple(client_urls), data_id=data_id or member.data_id)
        self._put(txn, known)

    def _must_get(self, member_id: int) -> Member:
        member = self._by_id.get(member_id)
        if member is None:
            raise MemberNotFound
        return member

    def _refuse_known_urls(self, member: Member) -> None:
        """Its own do not count."""
        urls = set(member.peer_urls)
        if any(urls.intersection(other.peer_urls) for other in self if other.id != member.id):
            raise PeerURLExists

    def _put(self, txn: WriteTxn, member: Member) -> None:
        txn.put(pack_u64(member.id), member.to_record().SerializeToString(), db=self._tables.members)
        self._by_id = dict(sorted({**self._by_id, member.id: member}.items()))
