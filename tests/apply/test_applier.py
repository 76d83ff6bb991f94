"""Committed entries in, results out: each once, and a refusal changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from apply_support import (
    MEMBER_ID,
    TERM,
    Change,
    Machine,
    Request,
    change_entry,
    compact,
    delete,
    disarm,
    entry,
    grant,
    leave_entry,
    outcome,
    plain,
    publish,
    put,
    raise_alarm,
    raw,
    revoke,
    txn,
    update_member,
)
from google.protobuf.message import DecodeError

from raftkv.apply import CORRUPT, NOSPACE, Applied, Applier, CorruptAlarm, Kind, MalformedEntry, NoSpaceAlarm
from raftkv.apply.applier import COPIES_OF_VALUE, PAGES_PER_REQUEST
from raftkv.backend import BackendError, Meta
from raftkv.lease import LeaseExists, LeaseNotFound, LeaseTTLTooLarge, NotPrimaryLessor
from raftkv.membership import DataDirectoryChanged, MemberNotFound
from raftkv.mvcc import CompactedError, FutureRevisionError, KeyNotFoundError
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import Entry, EntryType

# --- what is certain before -------------------------------------------------------------------------------------------


def test_a_plain_put_is_certain_to_take_the_next_revision(machine: Machine) -> None:
    machine.apply(put(b"first"))
    next_entry = machine.entry(put(b"k"))
    revision = machine.store.current_revision
    foreseen = machine.applier.foresee(next_entry, MEMBER_ID)
    assert machine.store.current_revision == revision
    assert foreseen == Applied(MEMBER_ID, next_entry.index, [(revision + 1, b"")])
    assert machine.applier.apply([next_entry])[0] == [foreseen]


@pytest.mark.parametrize(
    "requests",
    [
        [put(b"k", lease=5)],
        [put(b"k", prev_kv=True)],
        [put(b"k", ignore_value=True)],
        [put(b"k", ignore_lease=True)],
        [put(b"k"), put(b"l")],
        [delete(b"k")],
        [],
    ],
    ids=["lease", "previous value", "kept value", "kept lease", "two", "another kind", "none"],
)
def test_nothing_else_is(machine: Machine, requests: list[Request]) -> None:
    machine.apply(put(b"k"), grant(5))
    assert machine.applier.foresee(machine.entry(*requests), MEMBER_ID) is None


def test_nor_is_a_plain_put_of_another_member_or_another_leader(machine: Machine) -> None:
    """Headers tell the term of the last applied entry (G-12)."""
    machine.apply(put(b"k"))
    next_entry = machine.entry(put(b"l"))
    assert machine.applier.foresee(next_entry, MEMBER_ID + 1) is None
    assert machine.applier.foresee(replace(next_entry, term=TERM + 1), MEMBER_ID) is None
    assert machine.applier.foresee(replace(next_entry, index=next_entry.index - 1), MEMBER_ID) is None
    assert machine.applier.foresee(next_entry, MEMBER_ID) is not None


@pytest.mark.parametrize("alarm", [NOSPACE, CORRUPT])
def test_nor_is_one_while_an_alarm_is_on(machine: Machine, alarm: int) -> None:
    machine.apply(put(b"k"))
    machine.apply(raise_alarm(alarm))
    assert machine.applier.foresee(machine.entry(put(b"l")), MEMBER_ID) is None
    machine.apply(disarm(alarm))
    assert machine.applier.foresee(machine.entry(put(b"l")), MEMBER_ID) is not None


# --- each entry once --------------------------------------------------------------------------------------------------


def test_results_carry_proposer_and_batch_number(machine: Machine) -> None:
    """RF-54."""
    applied, _ = machine.applier.apply([machine.entry(put(b"a"), put(b"b"))])
    assert plain(applied) == [(MEMBER_ID, 1, [(2, b""), (3, b"")])]


def test_entries_up_to_the_consistent_index_are_skipped(machine: Machine) -> None:
    """RF-50: replay after a restart."""
    entries = [entry(index, [put(b"k", b"%d" % index)]) for index in range(1, 6)]
    machine.applier.apply(entries[:3])
    machine.backend.commit()
    machine.die()
    assert (machine.applier.index, machine.applier.term) == (3, TERM)

    applied, events = machine.applier.apply(entries)

    assert [each.number for each in applied] == [4, 5]
    assert [revision for revision, _ in events] == [5, 6]
    assert machine.read(b"k").kvs[0].version == 5
    assert machine.applier.apply(entries) == ([], [])


def test_an_aborted_batch_is_applied_again_as_if_for_the_first_time(machine: Machine) -> None:
    """RF-50."""
    machine.apply(grant(1), put(b"a", lease=1))
    machine.backend.commit()
    entries = [entry(2, [put(b"b", lease=1), revoke(1)]), entry(3, [grant(2), raise_alarm(NOSPACE), put(b"c")])]
    first = plain(machine.applier.apply(entries)[0])

    machine.reset()

    assert machine.applier.index == 1
    assert machine.store.current_revision == 2
    assert 1 in machine.lessor
    assert 2 not in machine.lessor
    assert machine.alarms.active() == []
    assert plain(machine.applier.apply(entries)[0]) == first


def test_a_gap_in_the_log_is_a_mistake_of_ours(machine: Machine) -> None:
    with pytest.raises(AssertionError, match="in order"):
        machine.applier.apply([entry(2, [put(b"a")])])


def test_the_first_entry_of_a_leader_moves_index_and_term_only(machine: Machine) -> None:
    """RF-07; the term is what headers show (G-12)."""
    machine.apply(put(b"a"))
    applied, events = machine.applier.apply([Entry(TERM + 1, 2)])
    assert (plain(applied), events) == ([(0, 0, [])], [])
    assert (machine.applier.index, machine.applier.term, machine.store.current_revision) == (2, TERM + 1, 2)


# --- what stops the member --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damaged", "error"),
    [
        (Entry(TERM, 2, data=b"\x01"), MalformedEntry),
        (entry(2, [put(b"b"), (99, b"")]), MalformedEntry),
        (Entry(TERM, 2, EntryType.CONF_CHANGE, b"x"), MalformedEntry),
        (entry(2, [put(b"b"), (Kind.PUT, b"\xff")]), DecodeError),
    ],
    ids=["not a batch", "unknown kind", "no configuration change", "request that is none"],
)
def test_an_entry_that_nobody_could_have_proposed_stops_the_member(
    machine: Machine, damaged: Entry, error: type[Exception]
) -> None:
    """RF-53: nothing of its batch is ever committed, nor anything after it."""
    before = machine.content()
    with pytest.raises(error):
        machine.applier.apply([entry(1, [put(b"a")]), damaged])
    with pytest.raises(BackendError, match="restart this member"):
        machine.backend.commit()
    machine.die()
    assert machine.content() == before
    assert machine.apply(put(b"a")) == [(2, b"")]


def test_an_error_of_the_disk_is_no_result(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """RF-53: after a restart the entry is applied again."""

    def fail(*_: Any) -> None:
        raise OSError("disk")

    monkeypatch.setattr(machine.lessor, "grant", fail)
    with pytest.raises(OSError, match="disk"):
        machine.apply(put(b"a"), grant(1))
    machine.die()
    assert (machine.applier.index, machine.read(b"a").count) == (0, 0)
    assert machine.apply(put(b"a"), grant(1))[0] == (2, b"")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (put(b"x", lease=9), LeaseNotFound),
        (put(b"x", b"", ignore_value=True), KeyNotFoundError),
        (put(b"x", ignore_lease=True), KeyNotFoundError),
        (compact(99), FutureRevisionError),
        (compact(2), CompactedError),
        (grant(1), LeaseExists),
        (grant(2, 9_000_000_001), LeaseTTLTooLarge),
        (grant(0), LeaseNotFound),
        (revoke(9), LeaseNotFound),
        (publish(8, "other"), MemberNotFound),
        (update_member(8, "http://other:2380"), MemberNotFound),
        (
            txn(
                rpc_pb2.TxnRequest(
                    success=[
                        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"x")),
                        rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"a")),
                        rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a", revision=99)),
                    ]
                )
            ),
            FutureRevisionError,
        ),
    ],
)
def test_a_refusal_is_a_result_and_leaves_no_trace(
    machine: Machine, request_: Request, refusal: type[Exception]
) -> None:
    """RF-52: neither in the tables, nor in memory, nor for the watchers; and no revision is used."""
    machine.apply(grant(1), put(b"a", lease=1), put(b"b"), compact(2))
    before = machine.content()

    applied, events = machine.applier.apply([machine.entry(request_)])

    assert [outcome(result) for result in applied[0].results] == [refusal]
    assert list(events) == []
    assert machine.store.current_revision == 3
    after = machine.content()
    assert {name for name in after if after[name] != before[name]} == {"meta"}
    changed = [key for key, value in after["meta"] if (key, value) not in before["meta"]]
    assert changed == [Meta.CONSISTENT_INDEX, Meta.STATE_HASH]


def test_a_refusal_does_not_harm_its_neighbours_in_the_batch(machine: Machine) -> None:
    results = machine.apply(put(b"a"), put(b"b", lease=9), put(b"c"), revoke(9), delete(b"a", b"z"))
    assert [outcome(result) for result in results] == [
        (2, b""),
        LeaseNotFound,
        (3, b""),
        LeaseNotFound,
        (4, b"\x10\x02"),
    ]


# --- leases -----------------------------------------------------------------------------------------------------------


def test_revoking_deletes_all_keys_sorted_in_one_revision(machine: Machine) -> None:
    """L-11."""
    long_keys = [b"m" * 600 + b"2", b"m" * 600 + b"1"]
    machine.apply(grant(1), *(put(key, lease=1) for key in [b"z", *long_keys, b"a"]), put(b"free"))

    applied, events = machine.applier.apply([machine.entry(revoke(1))])

    ((revision, changes),) = events
    assert applied[0].results == [(revision, b"")] == [(7, b"")]
    assert [change[0] for change in changes] == [b"a", *sorted(long_keys), b"z"]
    assert [kv.key for kv in machine.read(b"\x00", b"\x00").kvs] == [b"free"]
    assert machine.content()["lease_keys"] == []


def test_revoking_a_lease_without_keys_uses_no_revision(machine: Machine) -> None:
    machine.apply(grant(1))
    assert machine.apply(revoke(1)) == [(1, b"")]


def test_a_key_follows_its_last_put(machine: Machine) -> None:
    """L-40, L-41: from lease to lease, off it, and kept with ignore_lease."""
    machine.apply(grant(1), grant(2), put(b"moved", lease=1), put(b"freed", lease=1), put(b"kept", lease=1))
    machine.apply(put(b"moved", lease=2), put(b"freed"), put(b"kept", b"new", ignore_lease=True))
    txn_ = machine.backend.read()
    assert machine.lessor.keys(txn_, 1) == [b"kept"]
    assert machine.lessor.keys(txn_, 2) == [b"moved"]
    machine.apply(revoke(1))
    assert [kv.key for kv in machine.read(b"\x00", b"\x00").kvs] == [b"freed", b"moved"]


def test_a_granted_lease_tells_id_and_ttl(machine: Machine) -> None:
    ((revision, body),) = machine.apply(grant(2**63 - 1, 5))
    assert revision == 1
    assert rpc_pb2.LeaseGrantResponse.FromString(body) == rpc_pb2.LeaseGrantResponse(ID=2**63 - 1, TTL=5)


# --- alarms -----------------------------------------------------------------------------------------------------------


def _txn_of(*ops: rpc_pb2.RequestOp) -> Request:
    return txn(rpc_pb2.TxnRequest(success=ops))


_PUT_OP = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"t"))
_DELETE_OP = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"a"))
_NESTED_PUT = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(failure=[_PUT_OP]))

_ALL_KINDS: list[tuple[str, Request]] = [
    ("put", put(b"new")),
    ("delete", delete(b"a")),
    ("txn that puts", _txn_of(_PUT_OP)),
    ("txn that puts deep down", _txn_of(_NESTED_PUT)),
    ("txn that deletes", _txn_of(_DELETE_OP)),
    ("compact", compact(2)),
    ("grant", grant(5)),
    ("revoke", revoke(1)),
    ("publish", publish(MEMBER_ID, "n")),
    ("update", update_member(MEMBER_ID, "http://moved:2380")),
    ("alarm", raise_alarm(NOSPACE, 99)),
]


def _refused(machine: Machine) -> dict[str, type[Exception]]:
    """Which of all kinds of requests are refused now, each tried for itself."""
    machine.backend.commit()
    refused = {}
    for name, request in _ALL_KINDS:
        revision = machine.store.current_revision
        (result,) = machine.apply(request)
        if isinstance(result, Exception):
            refused[name] = type(result)
            assert machine.store.current_revision == revision
        machine.reset()
    return refused


def test_no_space_refuses_what_adds_data_and_nothing_else(machine: Machine) -> None:
    """AL-25, AL-26, CL-54; of whichever member the alarm is (AL-06)."""
    machine.apply(grant(1), put(b"a", lease=1), raise_alarm(NOSPACE, member_id=1234))
    assert _refused(machine) == dict.fromkeys(
        ["put", "txn that puts", "txn that puts deep down", "grant"], NoSpaceAlarm
    )


def test_corrupt_refuses_every_change_of_data(machine: Machine) -> None:
    """AL-10, CL-54."""
    machine.apply(grant(1), put(b"a", lease=1), raise_alarm(CORRUPT))
    unharmed = {"publish", "update", "alarm"}
    assert _refused(machine) == dict.fromkeys([name for name, _ in _ALL_KINDS if name not in unharmed], CorruptAlarm)


def test_corrupt_comes_before_no_space(machine: Machine) -> None:
    machine.apply(raise_alarm(NOSPACE), raise_alarm(CORRUPT))
    assert set(_refused(machine).values()) == {CorruptAlarm}


def test_an_alarm_holds_for_the_next_request_of_the_same_batch(machine: Machine) -> None:
    results = machine.apply(put(b"a"), raise_alarm(NOSPACE), put(b"b"), disarm(NOSPACE), put(b"c"))
    assert [outcome(result) for result in results[::2]] == [(2, b""), NoSpaceAlarm, (3, b"")]


def test_alarms_hold_until_the_last_of_their_type_is_disarmed(machine: Machine) -> None:
    """AL-04, AL-06."""
    machine.apply(raise_alarm(NOSPACE, 1), raise_alarm(NOSPACE, 2), disarm(NOSPACE, 1))
    assert [outcome(result) for result in machine.apply(put(b"a"))] == [NoSpaceAlarm]
    machine.apply(disarm(NOSPACE, 2))
    assert machine.apply(put(b"a")) == [(2, b"")]


def test_alarms_hold_after_a_restart(machine: Machine) -> None:
    """AL-05."""
    machine.apply(raise_alarm(CORRUPT))
    machine.backend.commit()
    machine.die()
    assert [outcome(result) for result in machine.apply(put(b"a"))] == [CorruptAlarm]


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [rpc_pb2.Member, peer_pb2.MemberRecord], ids=["written at first", "written now"])
def test_a_member_publishes_itself(machine: Machine, message: type[rpc_pb2.Member | peer_pb2.MemberRecord]) -> None:
    """CL-02. Entries of the first raftkv hold the message that clients get."""
    published = message(ID=MEMBER_ID, name="one", clientURLs=["http://b:1", "http://a:1"])
    assert machine.apply((Kind.PUBLISH, raw(published))) == [(1, b"")]
    machine.backend.commit()
    machine.die()
    known = machine.members.get(MEMBER_ID)
    assert known is not None
    assert (known.name, known.client_urls, known.started) == ("one", ("http://b:1", "http://a:1"), True)


def test_a_member_that_lost_its_data_cannot_publish(machine: Machine) -> None:
    """RF-72."""
    results = machine.apply(
        publish(MEMBER_ID, "one", data_id=11), publish(MEMBER_ID, "one"), publish(MEMBER_ID, "new", data_id=12)
    )
    assert [outcome(each) for each in results] == [(1, b""), (1, b""), DataDirectoryChanged]
    known = machine.members.get(MEMBER_ID)
    assert known is not None
    assert (known.name, known.data_id) == ("one", 11)


def test_a_member_moves(machine: Machine) -> None:
    """CL-40, CL-07; stored sorted (CL-03). No revision is used."""
    machine.apply(put(b"a"), publish(MEMBER_ID, "one", "http://c:1"))
    ((revision, body),) = machine.apply(update_member(MEMBER_ID, "http://z:2380", "http://a:2380"))
    assert revision == 2
    moved = rpc_pb2.Member(
        ID=MEMBER_ID, name="one", peerURLs=["http://a:2380", "http://z:2380"], clientURLs=["http://c:1"]
    )
    assert rpc_pb2.MemberUpdateResponse.FromString(body) == rpc_pb2.MemberUpdateResponse(members=[moved])
    machine.backend.commit()
    machine.die()
    assert [each.to_message() for each in machine.members] == [moved]


def test_the_cluster_version_is_remembered(machine: Machine) -> None:
    """F-76."""
    assert machine.applier.cluster_version == ""
    machine.apply((Kind.CLUSTER_VERSION, b"3.6.0"))
    assert machine.applier.cluster_version == "3.6.0"
    machine.backend.commit()
    machine.die()
    assert machine.applier.cluster_version == "3.6.0"


def test_growth_counts_bytes_and_requests_of_all_entries() -> None:
    """A membership change is one request, whatever stands where a batch has its count."""
    entries = [
        Entry(TERM, 1),
        entry(2, [put(b"a"), put(b"b")]),
        entry(3, [put(b"c")]),
        change_entry(4, Change.ADD, 8, "http://eight:2380"),
        leave_entry(5),
    ]
    data_bytes = sum(len(each.data) for each in entries)
    assert Applier.growth(entries) == (COPIES_OF_VALUE * data_bytes, PAGES_PER_REQUEST * 5)


def test_a_lease_runs_out_only_under_the_leader_that_says_so(machine: Machine) -> None:
    """L-50: a deposed leader's word, carried into the log by the next one, is void; its keys stay."""
    machine.apply(grant(7), put(b"k", lease=7))
    stale = peer_pb2.LeaseExpiry(ID=7, term=TERM - 1).SerializeToString()
    [refusal] = machine.apply((Kind.LEASE_EXPIRE, stale))
    assert isinstance(refusal, NotPrimaryLessor)
    assert 7 in machine.lessor
    revision = machine.store.current_revision
    [ended] = machine.apply((Kind.LEASE_EXPIRE, peer_pb2.LeaseExpiry(ID=7, term=TERM).SerializeToString()))
    assert ended == (revision + 1, b"")
    assert 7 not in machine.lessor


def _checkpoint(term: int, *leases: tuple[int, int]) -> tuple[Kind, bytes]:
    message = peer_pb2.LeaseCheckpoints(term=term)
    for lease_id, remaining_s in leases:
        message.leases.add(ID=lease_id, remaining_s=remaining_s)
    return Kind.LEASE_CHECKPOINT, message.SerializeToString()


def test_what_is_left_of_leases_is_kept_for_the_next_leader(machine: Machine) -> None:
    """L-54, L-55: over a restart too; a lease that is gone is no error."""
    machine.apply(grant(7, 600), grant(8, 600))
    assert machine.apply(_checkpoint(TERM, (7, 250), (9, 10), (8, 300))) == [(machine.store.current_revision, b"")]
    machine.backend.commit()
    machine.die()
    machine.lessor.promote(0.0, 0.0)
    assert [machine.lessor.remaining_s(lease_id, 0.0) for lease_id in (7, 8)] == [250, 300]
    machine.apply(_checkpoint(TERM, (7, 0)))
    assert not machine.lessor.has_checkpoint(7)


def test_a_deposed_leaders_checkpoint_is_void(machine: Machine) -> None:
    """L-54: the lease may have been renewed since."""
    machine.apply(grant(7, 600))
    [refusal] = machine.apply(_checkpoint(TERM - 1, (7, 250)))
    assert isinstance(refusal, NotPrimaryLessor)
    assert not machine.lessor.has_checkpoint(7)
