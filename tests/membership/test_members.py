"""The member records: CL-01 to CL-06, CL-21, CL-30, CL-40, CL-41, RF-72, in memory and after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from raftkv.backend import SchemaError
from raftkv.backend.schema import Tables, pack_u64
from raftkv.membership import (
    DataDirectoryChanged,
    Member,
    MemberExists,
    MemberNotFound,
    MemberNotLearner,
    MemberRemoved,
    Members,
    PeerURLExists,
)
from raftkv.pb import peer_pb2, rpc_pb2

ONE = Member(1, ("http://one:2380",))
TWO = Member(2, ("http://two:2380", "http://two:2382"), "two", ("http://two:2379",), data_id=22)
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

    def change(self, change: Callable[..., None], *arguments: Any) -> None:
        """Have one of the members' own mutations committed; nothing is, if it is refused."""
        with self.env.begin(write=True) as txn:
            change(txn, *arguments)

    def both(self) -> Iterator[Members]:
        """The members as they are, and as a restart finds them."""
        yield self.members
        yield self.load()

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


# --- removal ----------------------------------------------------------------------------------------------------------


def test_a_removed_member_is_gone_for_ever(disk: Disk) -> None:
    """CL-06, CL-30: its id is refused, for whatever, also after a restart; its URLs are free again."""
    disk.add(ONE, TWO, HUGE)
    disk.change(disk.members.remove, 2)
    disk.change(disk.members.remove, HUGE.id)
    for members in disk.both():
        assert list(members) == [ONE]
        assert members.removed == [2, HUGE.id]
        assert members.was_removed(2)
        with pytest.raises(MemberRemoved):
            disk.change(members.add, Member(2, ("http://elsewhere:2380",)))
        for change in (members.remove, members.promote):
            with pytest.raises(MemberNotFound):
                disk.change(change, 2)
        with pytest.raises(MemberNotFound):
            disk.change(members.update, 2, ["http://elsewhere:2380"])
    disk.add(Member(3, TWO.peer_urls))
    assert [each.id for each in disk.load()] == [1, 3]


def test_who_walks_over_the_members_may_remove_them(disk: Disk) -> None:
    disk.add(ONE, TWO, HUGE)
    for each in disk.members:
        disk.change(disk.members.remove, each.id)
    assert len(disk.members) == len(disk.load()) == 0


def test_one_member_is_kept_as_a_voter(disk: Disk) -> None:
    """--force-new-cluster; a learner may be all that is left."""
    disk.add(ONE, TWO, HUGE)
    disk.change(disk.members.remove, 1)
    disk.change(disk.members.keep_only, HUGE.id)
    for members in disk.both():
        assert list(members) == [Member(HUGE.id, HUGE.peer_urls, is_learner=False)]
        assert members.removed == [1, 2]


def test_nobody_is_removed_for_the_sake_of_a_stranger(disk: Disk) -> None:
    disk.add(ONE, TWO)
    with pytest.raises(MemberNotFound):
        disk.change(disk.members.keep_only, 3)
    for members in disk.both():
        assert list(members) == [ONE, TWO]
        assert members.removed == []


# --- promotion and update ---------------------------------------------------------------------------------------------


def test_a_learner_becomes_a_voter_once(disk: Disk) -> None:
    """CL-41."""
    disk.add(ONE, HUGE)
    disk.change(disk.members.promote, HUGE.id)
    for members in disk.both():
        assert [each.is_learner for each in members] == [False, False]
        with pytest.raises(MemberNotLearner):
            disk.change(members.promote, HUGE.id)


def test_an_update_changes_the_peer_urls_and_nothing_else(disk: Disk) -> None:
    """CL-40; stored sorted (CL-03). A member's own URLs are not in its way."""
    disk.add(ONE, TWO)
    disk.change(disk.members.update, 2, ["http://two:2384", "http://two:2382"])
    for members in disk.both():
        assert members.get(2) == Member(
            2, ("http://two:2382", "http://two:2384"), TWO.name, TWO.client_urls, data_id=TWO.data_id
        )


def test_another_members_url_is_refused(disk: Disk) -> None:
    """CL-40."""
    disk.add(ONE, TWO)
    with pytest.raises(PeerURLExists):
        disk.change(disk.members.update, 1, ["http://one:2380", "http://two:2382"])
    for members in disk.both():
        assert list(members) == [ONE, TWO]


@pytest.mark.parametrize(
    ("change", "argument", "outcome"),
    [
        ("add", TWO, None),
        ("add", Member(1, ("http://new:2380",)), MemberExists),
        ("add", Member(3, ("http://new:2380", *ONE.peer_urls)), PeerURLExists),
        ("add", Member(66, ("http://new:2380",)), MemberRemoved),
        ("remove", 1, None),
        ("remove", 66, MemberNotFound),
        ("remove", 67, MemberNotFound),
        ("promote", HUGE.id, None),
        ("promote", 1, MemberNotLearner),
        ("promote", 66, MemberNotFound),
        ("promote", 67, MemberNotFound),
    ],
)
def test_what_is_checked_beforehand_is_what_the_change_says(
    disk: Disk, change: str, argument: Any, outcome: type[Exception] | None
) -> None:
    disk.add(ONE, HUGE)
    disk.put("members_removed", pack_u64(66), b"")
    before = list(disk.members)
    assert _refusal(getattr(disk.members, f"check_{change}"), argument) is outcome
    assert list(disk.members) == before
    assert _refusal(disk.change, getattr(disk.members, change), argument) is outcome
    assert (list(disk.members) == before) is (outcome is not None)


def _refusal(call: Callable[..., None], *arguments: Any) -> type[Exception] | None:
    try:
        call(*arguments)
    except Exception as refusal:
        return type(refusal)
    return None


# --- the data directory -----------------------------------------------------------------------------------------------


def test_a_member_keeps_the_data_directory_that_it_first_had(disk: Disk) -> None:
    """RF-72: whoever comes with another one has forgotten its votes; 0 says nothing and is no other."""
    disk.add(ONE)
    disk.change(disk.members.publish, 1, "one", ["http://c:1"])
    disk.change(disk.members.publish, 1, "one", ["http://c:1"], 11)
    disk.change(disk.members.publish, 1, "renamed", ["http://c:2"], 11)
    disk.change(disk.members.publish, 1, "again", ["http://c:3"], 0)
    with pytest.raises(DataDirectoryChanged, match="Remove it from the cluster, add it again"):
        disk.change(disk.members.publish, 1, "impostor", ["http://c:4"], 12)
    for members in disk.both():
        assert list(members) == [Member(1, ONE.peer_urls, "again", ("http://c:3",), data_id=11)]


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was() -> None:
    member = Member(2**64 - 1, ("http://p:1", "http://q:1"), "näme", ("http://c:1",), True, 2**64 - 1)
    assert Member.from_bytes(member.to_record().SerializeToString()) == member
    assert Member.from_record(member.to_record()) == member


def test_a_record_and_a_clients_member_read_as_each_other() -> None:
    """Stores written before there was a record hold the message that clients get."""
    member = Member(7, ("http://p:1", "http://q:1"), "seven", ("http://c:1",), is_learner=True)
    old = member.to_message().SerializeToString()
    assert old == member.to_record().SerializeToString()
    assert Member.from_bytes(old) == member
    newer = Member(7, member.peer_urls, "seven", ("http://c:1",), True, data_id=5).to_record()
    as_client_sees_it = rpc_pb2.Member.FromString(newer.SerializeToString())
    as_client_sees_it.DiscardUnknownFields()
    assert as_client_sees_it == member.to_message()


def test_the_record_has_the_fields_of_a_clients_member() -> None:
    """protos/peer.proto promises that either can be read as the other."""
    fields = {each.name: each for each in peer_pb2.MemberRecord.DESCRIPTOR.fields}
    for each in rpc_pb2.Member.DESCRIPTOR.fields:
        twin = fields[each.name]
        assert (twin.number, twin.type, twin.is_repeated) == (each.number, each.type, each.is_repeated)


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
