"""The rolling state hash: the same wherever the same was done, another one wherever anything differed.

First the arithmetic and the ring for themselves, then through the applier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from apply_logs import logs
from apply_support import (
    MEMBER_ID,
    TERM,
    Change,
    Machine,
    Request,
    change_entry,
    delete,
    entry,
    grant,
    leave_entry,
    outcome,
    put,
    revoke,
    txn,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.apply import NoSpaceAlarm, RecentHashes, first_difference
from raftkv.apply.state_hash import mix
from raftkv.backend import Meta
from raftkv.backend.schema import pack_u64
from raftkv.lease import LeaseNotFound
from raftkv.membership import Member
from raftkv.mvcc import Writer
from raftkv.mvcc.userkeys import get_record, put_record
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry, EntryType

U64 = st.integers(0, 2**64 - 1)

# --- one entry --------------------------------------------------------------------------------------------------------

EVENT = (b"k", b"\x12\x03\x0a\x01k", None, True, False)
OTHER_EVENT = (b"k", b"\x12\x03\x0a\x01l", None, True, False)

MIXED: list[tuple[Any, ...]] = [
    (1, 5, 3, 9, [(9, [EVENT])], [(9, b"")]),
    (2, 5, 3, 9, [(9, [EVENT])], [(9, b"")]),
    (1, 6, 3, 9, [(9, [EVENT])], [(9, b"")]),
    (1, 5, 4, 9, [(9, [EVENT])], [(9, b"")]),
    (1, 5, 3, 10, [(9, [EVENT])], [(9, b"")]),
    (1, 5, 3, 9, [(9, [OTHER_EVENT])], [(9, b"")]),
    (1, 5, 3, 9, [(9, [EVENT, EVENT])], [(9, b"")]),
    (1, 5, 3, 9, [], [(9, b"")]),
    (1, 5, 3, 9, [(9, [EVENT])], [(8, b"")]),
    (1, 5, 3, 9, [(9, [EVENT])], []),
    (1, 5, 3, 9, [(9, [EVENT])], [(9, b"a")]),
    (1, 5, 3, 9, [(9, [EVENT])], [(9, b"a"), (9, b"")]),
    (1, 5, 3, 9, [(9, [EVENT])], [(9, b""), (9, b"a")]),
    (1, 5, 3, 9, [(9, [EVENT])], [(9, b""), (9, b"")]),
    (1, 5, 3, 9, [(9, [EVENT])], [LeaseNotFound("one text")]),
    (1, 5, 3, 9, [(9, [EVENT])], [NoSpaceAlarm()]),
    (1, 5, 3, 9, [(9, [EVENT])], [(9, b""), NoSpaceAlarm()]),
    (1, 5, 3, 9, [(9, [EVENT])], [NoSpaceAlarm(), (9, b"")]),
]


def test_everything_that_an_entry_did_goes_in() -> None:
    hashes = [mix(*each) for each in MIXED]
    assert len(set(hashes)) == len(MIXED)
    assert all(0 <= each < 2**64 for each in hashes)
    assert [mix(*each) for each in MIXED] == hashes


def test_a_refusals_text_does_not_go_in() -> None:
    """It may name what is local; its type may not."""
    assert mix(1, 5, 3, 9, [], [LeaseNotFound("one")]) == mix(1, 5, 3, 9, [], [LeaseNotFound("another")])


def test_the_hash_is_a_format() -> None:
    """Members of different versions compare: were these numbers others, they would call each other corrupt."""
    assert f"{mix(0, 1, 1, 1, [], []):016x}" == "eef1e9fcd7664c5e"
    assert (
        f"{mix(7, 2**40, 3, 2**62, [(2, [EVENT])], [(2, b'x'), (3, b''), NoSpaceAlarm()]):016x}" == "deb61814774a3b81"
    )


# --- what is remembered -----------------------------------------------------------------------------------------------


@given(
    capacity=st.integers(1, 9),
    start=st.integers(1, 2**64 - 100),
    hashes=st.lists(U64, max_size=25),
    asked=st.lists(st.tuples(st.integers(-12, 30), st.integers(-12, 30)), max_size=6),
)
def test_the_ring_remembers_the_last_entries(
    capacity: int, start: int, hashes: list[int], asked: list[tuple[int, int]]
) -> None:
    """Beside a dictionary that forgets nothing."""
    ring = RecentHashes(capacity)
    for index, state_hash in enumerate(hashes, start):
        ring.note(index, state_hash)
    kept = dict(list(enumerate(hashes, start))[-capacity:])
    assert ring.span() == ((min(kept), max(kept)) if kept else (0, 0))
    for index in range(start - 12, start + 30):
        assert ring.at(index) == kept.get(index)
    for first, last in asked:
        wanted = [index for index in kept if start + first <= index <= start + last]
        expected = (wanted[0], [kept[index] for index in wanted]) if wanted else (0, [])
        assert ring.between(start + first, start + last) == expected


def test_after_clearing_the_ring_begins_anywhere() -> None:
    ring = RecentHashes(4)
    for index in range(1, 7):
        ring.note(index, index * 11)
    ring.clear()
    assert (ring.span(), ring.at(6), ring.between(1, 9)) == ((0, 0), None, (0, []))
    ring.note(100, 5)
    assert (ring.span(), ring.at(100), ring.at(99), ring.between(1, 200)) == ((100, 100), 5, None, (100, [5]))
    with pytest.raises(AssertionError, match="left out"):
        ring.note(102, 5)


def test_the_ring_of_a_member_has_room_for_16384_entries() -> None:
    ring = RecentHashes()
    for index in range(1, 16_386):
        ring.note(index, index)
    assert ring.span() == (2, 16_385)


@given(
    common=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    ours_from=st.integers(0, 11),
    theirs_from=st.integers(0, 11),
    theirs_to=st.integers(0, 12),
    parted_at=st.none() | st.integers(0, 11),
    base=st.integers(1, 1000),
)
def test_the_first_difference_is_found_in_what_both_remember(
    common: list[int], ours_from: int, theirs_from: int, theirs_to: int, parted_at: int | None, base: int
) -> None:
    """Beside two dictionaries. From where they parted on, all differ."""
    ours = {base + at: each for at, each in enumerate(common) if at >= ours_from}
    theirs = {
        base + at: each + 10 if parted_at is not None and at >= parted_at else each
        for at, each in enumerate(common)
        if theirs_from <= at < theirs_to
    }
    different = [index for index in ours if index in theirs and ours[index] != theirs[index]]
    expected = min(different, default=None)
    assert first_difference(listed(ours), listed(theirs)) == expected
    assert first_difference(listed(theirs), listed(ours)) == expected


def listed(hashes: dict[int, int]) -> tuple[int, Sequence[int]]:
    return (min(hashes), list(hashes.values())) if hashes else (0, [])


# --- nothing local goes in --------------------------------------------------------------------------------------------


def hash_after_each(machine: Machine, entries: Sequence[Entry]) -> dict[int, int]:
    """Applied one by one, never committed."""
    hashes = {}
    for each in entries:
        machine.applier.apply([each])
        hashes[each.index] = machine.applier.state_hash
    return hashes


@settings(max_examples=30, deadline=None)
@given(entries=logs(), data=st.data())
def test_batches_commits_compaction_and_restarts_do_not_show(entries: list[Entry], data: st.DataObject) -> None:
    """Cut into turns anywhere; committed, compacted and made durable anywhere; killed anywhere, and replayed."""
    steady, other = Machine(), Machine()
    try:
        expected = hash_after_each(steady, entries)
        todo = list(entries)
        deaths = data.draw(st.integers(0, 2))
        while todo:
            other.applier.apply(todo[: data.draw(st.integers(1, 3))])
            _agree(other, expected)
            for act in data.draw(st.lists(st.sampled_from(LOCAL_ACTS), max_size=3)):
                act(other)
            if deaths and data.draw(st.booleans()):
                deaths -= 1
                other.die()
            _agree(other, expected)
            todo = [each for each in entries if each.index > other.applier.index]
        assert other.applier.state_hash == steady.applier.state_hash
    finally:
        steady.close()
        other.close()


def _agree(machine: Machine, expected: dict[int, int]) -> None:
    """All that it remembers, the newest above all."""
    applier = machine.applier
    first, hashes = applier.hashes.between(1, 2**64 - 1)
    assert hashes == [expected[index] for index in range(first, first + len(hashes))]
    assert applier.state_hash == expected.get(applier.index, 0)
    assert applier.hashes.at(applier.index) == expected.get(applier.index)


def _compact_a_little(machine: Machine) -> None:
    machine.store.compaction.step(machine.backend.begin_write(), max_events=1)


def _checkpoint(machine: Machine) -> None:
    checkpoint = machine.backend.begin_checkpoint()
    if checkpoint is not None:
        checkpoint.sync()
        machine.backend.end_checkpoint(checkpoint)


def _read(machine: Machine) -> None:
    machine.read(b"\x00", b"\x00")


LOCAL_ACTS: list[Callable[[Machine], None]] = [
    lambda machine: machine.backend.commit(),
    _compact_a_little,
    _checkpoint,
    _read,
]


def test_the_hash_survives_a_restart_and_begins_at_zero(machine: Machine) -> None:
    assert (machine.applier.state_hash, machine.applier.hashes.span()) == (0, (0, 0))
    machine.apply(put(b"a"))
    machine.apply(put(b"b"))
    committed = machine.applier.state_hash
    machine.backend.commit()
    machine.apply(put(b"c"))
    assert machine.applier.hashes.span() == (1, 3)
    machine.die()
    assert machine.stored(Meta.STATE_HASH) == pack_u64(committed)
    assert machine.applier.hashes.between(1, 9) == (2, [committed])


# --- whatever differs shows -------------------------------------------------------------------------------------------


class Twins:
    """Two members with the same past; something is then done to the second behind its back."""

    def __init__(self, *requests: Request) -> None:
        self.one, self.two = Machine(), Machine()
        past = entry(1, requests)
        for each in (self.one, self.two):
            each.applier.apply([past])
        assert self.agree()

    def agree(self) -> bool:
        return self.one.applier.state_hash == self.two.applier.state_hash

    def parted_by(self, next_entry: Entry) -> bool:
        """Apply it to both: whether they differ from it on; if so, they stay apart."""
        for each in (self.one, self.two):
            each.applier.apply([next_entry])
        agreed = self.agree()
        for each in (self.one, self.two):
            each.applier.apply([Entry(TERM, next_entry.index + 1)])
        assert self.agree() == agreed
        ours, theirs = (each.applier.hashes.between(1, 99) for each in (self.one, self.two))
        assert first_difference(ours, theirs) == (None if agreed else next_entry.index)
        return not agreed

    def change_value(self, key: bytes, old: bytes, new: bytes) -> None:
        """A few bytes of the second one's store turn into others."""
        backend = self.two.backend
        record = get_record(backend.read(), backend.tables, key)
        assert record is not None
        assert record.count(old) == 1
        assert len(old) == len(new)
        put_record(backend.begin_write(), backend.tables, key, record.replace(old, new))

    def close(self) -> None:
        self.one.close()
        self.two.close()


GET = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k"))
KEEP_VALUE = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", ignore_value=True))
COMPARE_VALUE = rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VALUE, value=b"right")


@pytest.mark.parametrize(
    "request_",
    [
        put(b"k", b"new", prev_kv=True),
        delete(b"k", prev_kv=True),
        txn(rpc_pb2.TxnRequest(success=[GET])),
        txn(rpc_pb2.TxnRequest(success=[KEEP_VALUE])),
        txn(rpc_pb2.TxnRequest(compare=[COMPARE_VALUE])),
    ],
    ids=["previous value", "deleted value", "value read", "value kept", "value compared"],
)
def test_a_value_changed_behind_the_back_shows_when_it_matters(request_: Request) -> None:
    twins = Twins(put(b"k", b"right"), put(b"other"))
    twins.change_value(b"k", b"right", b"wrong")
    assert twins.parted_by(entry(2, [put(b"other"), request_]))
    twins.close()


def test_a_value_that_nobody_looks_at_does_not_show() -> None:
    """The hash is of what was done, not of what lies there: HashKV is for that."""
    twins = Twins(put(b"k", b"right"))
    twins.change_value(b"k", b"right", b"wrong")
    assert not twins.parted_by(entry(2, [put(b"k", b"new"), put(b"other")]))
    twins.close()


@pytest.mark.parametrize(
    ("lost", "at_once"),
    [(put(b"new"), True), (delete(b"k"), True), (revoke(1), True), (grant(5), False)],
    ids=["put", "delete", "revoke", "grant"],
)
def test_a_request_that_one_of_them_did_not_do_shows(lost: Request, at_once: bool) -> None:
    """Its state machine answers as if it had; what has no other effect than to be there shows when it is missed."""
    twins = Twins(grant(1), put(b"k", b"v", lease=1))
    twins.one.applier.apply([entry(2, [lost])])
    lessor = twins.two.lessor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "put", lambda *_: None)
        patch.setattr(Writer, "delete_range", lambda *_: [])
        patch.setattr(lessor, "grant", lambda _, _lease_id, ttl_s: ttl_s)
        patch.setattr(lessor, "revoke", lambda *_: [])
        twins.two.applier.apply([entry(2, [lost])])
    assert twins.agree() is not at_once
    for each in (twins.one, twins.two):
        each.applier.apply([entry(3, [put(b"x", lease=5)])])
    assert not twins.agree()
    twins.close()


def test_an_event_that_went_missing_shows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table and the results are right, only the watchers are told less."""
    twins = Twins(put(b"k"))
    end = Writer.end

    def forgetful(writer: Writer) -> int:
        writer._changes = writer._changes[1:]
        return end(writer)

    two_keys = txn(
        rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key)) for key in (b"a", b"b")])
    )
    twins.one.applier.apply([entry(2, [two_keys])])
    monkeypatch.setattr(Writer, "end", forgetful)
    twins.two.applier.apply([entry(2, [two_keys])])
    assert twins.one.hash() == twins.two.hash()
    assert not twins.agree()
    twins.close()


def test_a_revision_too_many_shows_at_once() -> None:
    twins = Twins(put(b"k"))
    twins.two.store.current_revision += 1
    assert twins.parted_by(Entry(TERM, 2))
    twins.close()


def _rename(machine: Machine) -> None:
    machine.members.publish(machine.backend.begin_write(), MEMBER_ID, "renamed", [])


def _add_learner(machine: Machine) -> None:
    machine.members.add(machine.backend.begin_write(), Member(9, ("http://nine:2380",), is_learner=True))


def _add_learner_for_consensus(machine: Machine) -> None:
    machine.applier.conf_state = machine.applier.conf_state._replace(learners=(9,))


@pytest.mark.parametrize(
    ("tamper", "change"),
    [
        (_rename, change_entry(2, Change.ADD, 8, "http://eight:2380")),
        (_add_learner, change_entry(2, Change.PROMOTE, 9)),
        (_add_learner_for_consensus, change_entry(2, Change.ADD, 8, "http://eight:2380")),
        (_add_learner_for_consensus, leave_entry(2)),
    ],
    ids=["listed member", "refusal", "configuration", "configuration that stays"],
)
def test_members_that_differ_show_with_the_next_change(tamper: Callable[[Machine], None], change: Entry) -> None:
    twins = Twins(put(b"k"))
    tamper(twins.two)
    assert twins.parted_by(change)
    twins.close()


def effects(machine: Machine, entries: Sequence[Entry]) -> list[Any]:
    """All that each entry did, as far as anybody could see."""
    seen = []
    for each in entries:
        ((applied,), events) = machine.applier.apply([each])
        told = [(revision, [change[1] for change in changes]) for revision, changes in events]
        results = [outcome(result) for result in applied.results]
        is_change = each.type is EntryType.CONF_CHANGE
        conf_state = machine.applier.conf_state if is_change else None
        seen.append((each.term, machine.store.current_revision, told, results, conf_state))
    return seen


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Machine, Machine]]:
    """For many examples: each begins with `reset`, and none may commit."""
    made = Machine(), Machine()
    yield made
    for each in made:
        each.close()


@settings(max_examples=100, deadline=None)
@given(ours=logs(), theirs=logs(), common=st.integers(1, 8))
def test_hashes_part_exactly_where_effects_do(
    pair: tuple[Machine, Machine], ours: list[Entry], theirs: list[Entry], common: int
) -> None:
    """Two logs with the same beginning, compared in all that they did and in their hashes."""
    beginning = ours[:common]
    theirs = beginning + theirs[len(beginning) :]
    one, two = pair
    one.reset()
    two.reset()
    pairs = zip(effects(one, ours), effects(two, theirs), strict=False)
    parted = next((index for index, (own, other) in enumerate(pairs, 1) if own != other), None)
    assert first_difference(one.applier.hashes.between(1, 99), two.applier.hashes.between(1, 99)) == parted
