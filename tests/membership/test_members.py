"""The member records: CL-01 to CL-06, in memory and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from raftkv.backend import SchemaError
from raftkv.backend.schema import Tables, pack_u64
from raftkv.membership import (
    Member,
    MemberExists,
    MemberNotFound,
    MemberRemoved,
    Members,
    PeerURLExists,
)

ONE = Member(1, ("http://one:2380",))
HUGE = Member(2**64 - 1, ("http://huge:2380",), is_learner=True)


class Disk:
    """The two tables, and the members read from them."""

    def __init__(self, directory: Path) -> None:
        self.env = lmdb.open(str(directory), max_dbs=2, map_size=1 << 20, sync=False)
        members, removed = self.env.open_db(b"members"), self.env.open_db(b"members_removed")
        self.tables = Tables(**dict.fromkeys(Tables._fields, members) | {"members_removed": removed})
        self.members = self.load()

    def load(self) -> Members:
        """What a restart finds."""
        self.members = Members(self.tables)
        with self.env.begin() as txn:
            self.members.load(txn)
        return self.members

    def add(self, *members: Member) -> None:
        with self.env.begin(write=True) as txn:
            for member in members:
                self.members.add(txn, member)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(key, value, db=getattr(self.tables, table))
        self.load()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.env.close()


def test_members_are_listed_by_unsigned_id(disk: Disk) -> None:
    """CL-03; and so after a restart."""
    disk.add(HUGE, ONE, Member(256, ("http://mid:2380",)))
    for members in (disk.members, disk.load()):
        assert [member.id for member in members] == [1, 256, 2**64 - 1]
        assert len(members) == 3
        assert members.get(2**64 - 1) == HUGE
        assert members.get(3) is None


def test_peer_urls_are_kept_sorted(disk: Disk) -> None:
    """CL-03."""
    disk.add(Member(1, ("http://z:1", "http://a:1")))
    found = disk.members.get(1)
    assert found is not None
    assert found.peer_urls == ("http://a:1", "http://z:1")


def test_a_member_has_no_name_until_it_publishes_one(disk: Disk) -> None:
    """CL-01, CL-02."""
    disk.add(ONE)
    assert not next(iter(disk.members)).started
    with disk.env.begin(write=True) as txn:
        disk.members.publish(txn, 1, "first", ["http://c:1"])
        disk.members.publish(txn, 1, "renamed", ["http://c:2", "http://c:1"])
    for members in (disk.members, disk.load()):
        (member,) = members
        assert member == Member(1, ONE.peer_urls, "renamed", ("http://c:2", "http://c:1"))
        assert member.started


@pytest.mark.parametrize(
    ("newcomer", "refusal"),
    [
        (Member(1, ("http://other:2380",)), MemberExists),
        (Member(2, ("http://new:2380", "http://one:2380")), PeerURLExists),
        (Member(66, ("http://new:2380",)), MemberRemoved),
    ],
)
def test_a_refused_member_leaves_no_trace(disk: Disk, newcomer: Member, refusal: type[Exception]) -> None:
    """CL-06, CL-21."""
    disk.put("members_removed", pack_u64(66), b"")
    disk.add(ONE)
    with pytest.raises(refusal):
        disk.add(newcomer)
    for members in (disk.members, disk.load()):
        assert list(members) == [ONE]
        assert members.was_removed(66)
        assert not members.was_removed(1)


def test_only_members_can_publish(disk: Disk) -> None:
    disk.put("members_removed", pack_u64(66), b"")
    for stranger in (66, 67):
        with disk.env.begin(write=True) as txn, pytest.raises(MemberNotFound):
            disk.members.publish(txn, stranger, "ghost", [])
    assert list(disk.load()) == []


def test_a_record_comes_back_as_it_was() -> None:
    member = Member(2**64 - 1, ("http://p:1", "http://q:1"), "näme", ("http://c:1",), is_learner=True)
    assert Member.from_bytes(member.to_message().SerializeToString()) == member


def test_a_damaged_record_is_refused_with_its_table(disk: Disk) -> None:
    with pytest.raises(SchemaError, match="members: a record of 2 bytes"):
        disk.put("members", pack_u64(1), b"\xff\xff")


def test_new_handles_after_the_environment_was_reopened(disk: Disk) -> None:
    """Defragment: the state in memory goes on, with the new tables."""
    disk.add(ONE)
    moved = disk.env.open_db(b"members_removed")
    disk.members.rebind(disk.tables._replace(members=moved))
    disk.add(HUGE)
    with disk.env.begin() as txn:
        assert [key for key, _ in txn.cursor(moved)] == [pack_u64(HUGE.id)]
