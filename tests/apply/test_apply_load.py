"""The store is replaced while the process goes on: after `load` nothing is left of the old one (RF-45, RF-65).

Two members with different pasts; the second one's store takes the place of the first one's. From then on the first
must be what the second is, and go on as it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
from apply_logs import logs
from apply_support import (
    MEMBER_ID,
    TERM,
    Change,
    Machine,
    change_entry,
    compact,
    delete,
    entry,
    grant,
    outcome,
    plain,
    publish,
    put,
    raise_alarm,
    revoke,
)
from hypothesis import given, settings

from raftkv.apply import CORRUPT, NOSPACE, Applier, Kind, NoSpaceAlarm
from raftkv.backend import Meta, SchemaError
from raftkv.lease import NotPrimaryLessor
from raftkv.mvcc.check import check
from raftkv.raft import ConfState, Entry

CONF_STATE = ConfState((7, 8), (6,))


def fill_old(machine: Machine) -> None:
    """What must not be seen any more: much of everything, some of it not committed."""
    machine.apply(grant(1), grant(2, 9000), *(put(b"old%02d" % number, lease=1) for number in range(30)))
    machine.apply(
        compact(20), raise_alarm(CORRUPT), publish(MEMBER_ID, "old", data_id=1), (Kind.CLUSTER_VERSION, b"9.9")
    )
    machine.change(Change.ADD, 5, "http://five:2380")
    machine.change(Change.ADD, 4, "http://four:2380")
    machine.change(Change.REMOVE, 4)
    machine.backend.commit()
    machine.lessor.promote(1000.0, 1.0)
    machine.apply(delete(b"old07"), grant(3))


def fill_new(machine: Machine) -> None:
    """What must be there afterwards; with more entries, as a snapshot that is installed always has."""
    for number in range(8):
        machine.apply(put(b"new%02d" % (number // 2)))
    machine.apply(grant(2, 30), put(b"leased", lease=2), delete(b"new03"), raise_alarm(NOSPACE))
    machine.apply(compact(4), publish(MEMBER_ID, "new", data_id=2), (Kind.CLUSTER_VERSION, b"3.6.0"))
    machine.change(Change.ADD_LEARNER, 6, "http://six:2380")
    machine.change(Change.ADD, 8, "http://eight:2380")
    machine.change(Change.ADD, 9, "http://nine:2380")
    machine.change(Change.REMOVE, 9)
    machine.applier.apply([Entry(TERM + 4, machine.applier.index + 1)])
    machine.backend.commit()


@pytest.fixture
def both() -> Iterator[tuple[Machine, Machine]]:
    """(the one whose store was replaced, the one it came from)."""
    old, new = Machine(), Machine()
    fill_old(old)
    fill_new(new)
    old.install_copy_of(new)
    yield old, new
    old.close()
    new.close()


def test_the_applier_stands_where_the_copy_stands(both: tuple[Machine, Machine]) -> None:
    old, new = (each.applier for each in both)
    assert (old.index, old.term) == (new.index, TERM + 4)
    assert old.cluster_version == "3.6.0"
    assert old.conf_state == both[0].stored_conf_state() == CONF_STATE
    assert old.state_hash == new.state_hash != 0


def test_only_the_copys_last_hash_is_remembered(both: tuple[Machine, Machine]) -> None:
    """What came before it was another store's, or is not known here."""
    old, new = (each.applier for each in both)
    assert old.hashes.span() == (new.index, new.index)
    assert old.hashes.at(new.index) == new.state_hash


def test_the_store_is_the_copys(both: tuple[Machine, Machine]) -> None:
    old, new = both
    assert old.store.current_revision == new.store.current_revision == 11
    assert old.store.compacted_revision == 4
    assert old.store.live_keys == new.store.live_keys == 4
    assert old.read(b"\x00", b"\x00") == new.read(b"\x00", b"\x00")
    assert old.hash() == new.hash()
    assert check(old.backend.read(), old.store) == []


def test_an_unfinished_compaction_goes_on_where_the_copys_was() -> None:
    old, new = Machine(), Machine()
    fill_old(old)
    while not old.store.compaction.step(old.backend.begin_write()):
        pass
    fill_new(new)
    new.store.compaction.step(new.backend.begin_write(), max_events=1)
    new.backend.commit()
    old.install_copy_of(new)
    assert (old.store.compaction.scheduled, old.store.compaction.finished) == (4, -1)
    for each in (old, new):
        while not each.store.compaction.step(each.backend.begin_write(), max_events=1):
            pass
    assert old.hash() == new.hash()
    assert old.content()["events"] == new.content()["events"]
    old.close()
    new.close()


def test_leases_are_the_copys_and_nobody_counts_their_time(both: tuple[Machine, Machine]) -> None:
    """L-52: deadlines are not stored; a member that leads starts them anew (L-50)."""
    old, _ = both
    assert 1 not in old.lessor
    assert 3 not in old.lessor
    assert (len(old.lessor), old.lessor.ttl_s(2)) == (1, 30)
    assert old.lessor.keys(old.backend.read(), 2) == [b"leased"]
    assert not old.lessor.is_primary
    assert old.lessor.expired(math.inf) == []
    assert old.lessor.next_deadline_s(2000.0) is None
    with pytest.raises(NotPrimaryLessor):
        old.lessor.remaining_s(2, 2000.0)
    old.lessor.promote(2000.0, 1.0)
    assert old.lessor.remaining_s(2, 2000.0) == 31
    assert old.lessor.expired(2031.0) == [2]


def test_members_and_removed_ids_are_the_copys(both: tuple[Machine, Machine]) -> None:
    old, new = both
    assert list(old.members) == list(new.members)
    assert [(each.id, each.name, each.data_id) for each in old.members] == [(6, "", 0), (7, "new", 2), (8, "", 0)]
    assert old.members.removed == [9]
    assert not old.members.was_removed(4)


def test_alarms_are_the_copys_and_so_is_what_they_forbid(both: tuple[Machine, Machine]) -> None:
    """The old store had CORRUPT, the new one has NOSPACE."""
    old, new = both
    assert old.alarms.active() == new.alarms.active() == [(MEMBER_ID, NOSPACE)]
    results = old.apply(put(b"refused"), delete(b"new00"), revoke(2))
    assert [outcome(each) for each in results] == [NoSpaceAlarm, (12, b"\x10\x01"), (13, b"")]


def test_both_go_on_alike(both: tuple[Machine, Machine]) -> None:
    """Results, tables and hashes; and the new tables are those that are written, as a restart shows."""
    old, new = both
    more: list[Callable[[int], Entry]] = [
        lambda index: entry(index, [delete(b"new", b"nex", prev_kv=True), put(b"x"), grant(1), grant(2), revoke(2)]),
        lambda index: entry(index, [compact(6), publish(6, "six")]),
        lambda index: change_entry(index, Change.PROMOTE, 6),
        lambda index: change_entry(index, Change.REMOVE, 8),
    ]
    for make in more:
        following = make(new.applier.index + 1)
        assert plain(old.applier.apply([following])[0]) == plain(new.applier.apply([following])[0])
        assert old.applier.state_hash == new.applier.state_hash
    assert old.content() == new.content()
    old.die()
    assert old.content() == new.content()
    assert old.applier.state_hash == new.applier.state_hash


@settings(max_examples=15, deadline=None)
@given(past=logs(), log=logs(), more=logs())
def test_whatever_the_past_was(past: list[Entry], log: list[Entry], more: list[Entry]) -> None:
    """Any past, any copy, any future."""
    old, new = Machine(), Machine()
    try:
        old.applier.apply(past)
        new.applier.apply(log)
        new.backend.commit()
        old.install_copy_of(new)
        following = [_moved(each, len(log)) for each in more]
        assert plain(old.applier.apply(following)[0]) == plain(new.applier.apply(following)[0])
        assert old.applier.hashes.between(len(log), 99) == new.applier.hashes.between(len(log), 99)
        assert old.content() == new.content()
        assert old.applier.conf_state == new.applier.conf_state
    finally:
        old.close()
        new.close()


def _moved(each: Entry, by: int) -> Entry:
    return Entry(each.term, each.index + by, each.type, each.data)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "raw"),
    [(Meta.CONF_STATE, b"\x07"), (Meta.STATE_HASH, b"\x01"), (Meta.CONSISTENT_INDEX, b"\x00" * 15)],
)
def test_damage_is_told_and_not_taken_in(machine: Machine, key: bytes, raw: bytes) -> None:
    machine.backend.begin_write().put(key, raw, db=machine.backend.tables.meta)
    with pytest.raises(SchemaError):
        machine.applier.load()


def test_a_store_without_configuration_and_hash_has_none(machine: Machine) -> None:
    """As the first raftkv left it, or before it was made a member's."""
    machine.apply(put(b"a"))
    machine.backend.commit()
    for key in (Meta.CONF_STATE, Meta.STATE_HASH):
        machine.backend.begin_write().delete(key, db=machine.backend.tables.meta)
    machine.applier.load()
    applier: Applier = machine.applier
    assert (applier.conf_state, applier.state_hash, applier.hashes.span()) == (ConfState(), 0, (1, 1))
