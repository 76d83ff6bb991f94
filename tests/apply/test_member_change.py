"""Membership changes through the log: members and consensus' configuration change together, or not at all (CL-53)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from apply_support import (
    MEMBER_ID,
    TERM,
    Change,
    Machine,
    change_entry,
    conf_entry,
    entry,
    leave_entry,
    outcome,
    plain,
    publish,
    put,
    raise_alarm,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.apply import CORRUPT, NOSPACE, Applied, MalformedEntry, encode_member_change
from raftkv.apply.member_change import decode_member_change
from raftkv.backend import BackendError, Meta
from raftkv.membership import (
    ImpossibleChange,
    Member,
    MemberExists,
    MemberNotFound,
    MemberNotLearner,
    MemberRemoved,
    MembershipError,
    PeerURLExists,
    TooManyLearners,
)
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    decode_conf_change,
    encode_conf_change,
)
from raftkv.raft.confchange import apply_change, check

SELF_URL = "http://127.0.0.1:2380"
EIGHT = "http://eight:2380"
NINE = "http://nine:2380"
JOINT = ConfChangeTransition.JOINT_EXPLICIT


def listed(*members: Member) -> list[rpc_pb2.Member]:
    return [each.to_message() for each in members]


def body(applied: Applied) -> bytes:
    """Of the one result, which must not be a refusal."""
    (result,) = applied.results
    assert not isinstance(result, Exception), repr(result)
    revision, raw = result
    assert revision == 0
    return raw


def confirm(machine: Machine, conf_state: ConfState, *members: Member) -> None:
    """In memory, on disk, and after a restart (RF-65)."""
    for _ in range(2):
        assert machine.applier.conf_state == machine.stored_conf_state() == conf_state
        assert list(machine.members) == list(members)
        machine.backend.commit()
        machine.die()


# --- the four operations ----------------------------------------------------------------------------------------------


SEVEN = Member(MEMBER_ID, (SELF_URL,))


def test_a_voter_is_added(machine: Machine) -> None:
    """CL-07: the answer has the new member and all members after it, the new one's URLs sorted (CL-03)."""
    applied = machine.change(Change.ADD, 8, NINE, EIGHT)
    eight = Member(8, (EIGHT, NINE))
    assert rpc_pb2.MemberAddResponse.FromString(body(applied)) == rpc_pb2.MemberAddResponse(
        member=eight.to_message(), members=listed(SEVEN, eight)
    )
    confirm(machine, ConfState(voters=(7, 8)), SEVEN, eight)


def test_a_learner_is_added_and_promoted(machine: Machine) -> None:
    """CL-22, RF-63. Its name and addresses stay."""
    applied = machine.change(Change.ADD_LEARNER, 6, NINE)
    learner = Member(6, (NINE,), is_learner=True)
    assert rpc_pb2.MemberAddResponse.FromString(body(applied)) == rpc_pb2.MemberAddResponse(
        member=learner.to_message(), members=listed(learner, SEVEN)
    )
    confirm(machine, ConfState(voters=(7,), learners=(6,)), learner, SEVEN)

    machine.apply(publish(6, "six", "http://six:2379", data_id=66))
    promoted = Member(6, (NINE,), "six", ("http://six:2379",), data_id=66)
    applied = machine.change(Change.PROMOTE, 6)
    assert rpc_pb2.MemberPromoteResponse.FromString(body(applied)).members == listed(promoted, SEVEN)
    confirm(machine, ConfState(voters=(6, 7)), promoted, SEVEN)


@pytest.mark.parametrize("operation", [Change.ADD, Change.ADD_LEARNER])
def test_a_member_is_removed_and_never_comes_back(machine: Machine, operation: Change.Operation.ValueType) -> None:
    """CL-06, CL-30."""
    machine.change(operation, 8, EIGHT)
    applied = machine.change(Change.REMOVE, 8)
    assert rpc_pb2.MemberRemoveResponse.FromString(body(applied)).members == listed(SEVEN)
    confirm(machine, ConfState(voters=(7,)), SEVEN)
    assert machine.members.removed == [8]
    results = [
        machine.change(Change.REMOVE, 8).results,
        machine.change(Change.ADD, 8, EIGHT).results,
        machine.change(Change.ADD, 9, EIGHT).results,
    ]
    assert [outcome(result) for (result,) in results[:2]] == [MemberNotFound, MemberRemoved]
    assert outcome(results[2][0])[0] == 0


def test_results_find_their_proposer_and_consensus_its_change(machine: Machine) -> None:
    """RF-54, RF-61: in the log's order, among ordinary entries."""
    entries = [
        entry(1, [put(b"a")]),
        change_entry(2, Change.ADD, 8, EIGHT),
        Entry(TERM, 3),
        change_entry(4, Change.ADD, 8, EIGHT),
        entry(5, [put(b"b")]),
    ]
    applied, events = machine.applier.apply(entries)
    assert [(each.proposer, each.number, len(each.results)) for each in applied] == [
        (MEMBER_ID, 1, 1),
        (MEMBER_ID, 2, 1),
        (0, 0, 0),
        (MEMBER_ID, 4, 1),
        (MEMBER_ID, 5, 1),
    ]
    assert [each.change is not None for each in applied] == [False, True, False, False, False]
    assert applied[1].change == decode_conf_change(entries[1].data)
    assert [revision for revision, _ in events] == [2, 3]
    assert (machine.applier.index, machine.applier.term) == (5, TERM)


def test_alarms_do_not_block_member_changes(machine: Machine) -> None:
    """CL-54."""
    machine.apply(raise_alarm(NOSPACE), raise_alarm(CORRUPT))
    for operation, member_id, *urls in (
        (Change.ADD_LEARNER, 8, EIGHT),
        (Change.PROMOTE, 8),
        (Change.REMOVE, 8),
        (Change.ADD, 9, NINE),
    ):
        applied = machine.change(operation, member_id, *map(str, urls))
        body(applied)
        assert applied.change is not None
    assert machine.applier.conf_state == ConfState(voters=(7, 9))


# --- refusals ---------------------------------------------------------------------------------------------------------


REFUSALS: dict[str, tuple[Callable[[Machine], Applied], type[MembershipError]]] = {
    "add a removed one": (lambda machine: machine.change(Change.ADD, 5, NINE), MemberRemoved),
    "add a known one": (lambda machine: machine.change(Change.ADD, 8, NINE), MemberExists),
    "add a learner as a voter": (lambda machine: machine.change(Change.ADD, 6, NINE), MemberExists),
    "add a voter as a learner": (lambda machine: machine.change(Change.ADD_LEARNER, 8, NINE), MemberExists),
    "add at a known URL": (lambda machine: machine.change(Change.ADD_LEARNER, 9, NINE, EIGHT), PeerURLExists),
    "remove a stranger": (lambda machine: machine.change(Change.REMOVE, 9), MemberNotFound),
    "remove nobody": (lambda machine: machine.change(Change.REMOVE, 0), MemberNotFound),
    "remove twice": (lambda machine: machine.change(Change.REMOVE, 5), MemberNotFound),
    "promote a stranger": (lambda machine: machine.change(Change.PROMOTE, 9), MemberNotFound),
    "promote a voter": (lambda machine: machine.change(Change.PROMOTE, 8), MemberNotLearner),
    "leave what is not joint": (lambda machine: machine.leave_joint(), ImpossibleChange),
}
"""With voters 7 and 8, learner 6, and 5 removed."""


@pytest.mark.parametrize(("request_", "refusal"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_change_is_a_result_and_changes_nothing(
    machine: Machine, request_: Callable[[Machine], Applied], refusal: type[MembershipError]
) -> None:
    """RF-62, RF-52: neither members nor configuration, and consensus hears nothing of it."""
    machine.change(Change.ADD, 8, EIGHT)
    machine.change(Change.ADD_LEARNER, 6, "http://six:2380")
    machine.change(Change.ADD, 5, "http://five:2380")
    machine.change(Change.REMOVE, 5)
    machine.apply(put(b"a"))
    before, members, conf_state = machine.content(), list(machine.members), machine.applier.conf_state
    assert conf_state == ConfState(voters=(7, 8), learners=(6,))

    applied = request_(machine)

    assert [type(each) for each in applied.results] == [refusal]
    assert applied.change is None
    assert list(machine.members) == members
    assert machine.applier.conf_state == conf_state
    assert machine.store.current_revision == 2
    after = machine.content()
    assert {name for name in after if after[name] != before[name]} == {"meta"}
    assert [key for key, value in after["meta"] if (key, value) not in before["meta"]] == [
        Meta.CONSISTENT_INDEX,
        Meta.STATE_HASH,
    ]
    assert outcome(machine.change(Change.PROMOTE, 6).results[0])[0] == 0, "the next change goes its way"


def test_the_last_voter_cannot_be_removed(machine: Machine) -> None:
    """CL-33: a refusal with a reason, and nobody crashes; a learner does not make it possible."""
    machine.change(Change.ADD_LEARNER, 8, EIGHT)
    applied = machine.change(Change.REMOVE, MEMBER_ID)
    assert str(applied.results[0]) == "the change would remove every voter"
    assert isinstance(applied.results[0], ImpossibleChange)
    confirm(machine, ConfState(voters=(7,), learners=(8,)), SEVEN, Member(8, (EIGHT,), is_learner=True))


# --- joint configurations ---------------------------------------------------------------------------------------------


def test_a_joint_configuration_is_entered_and_left(machine: Machine) -> None:
    """Thesis 4.3. The way out has no proposer, and the second of two finds nothing to leave."""
    applied = machine.change(Change.ADD, 8, EIGHT, transition=JOINT)
    assert applied.change is not None
    assert applied.change.transition is JOINT
    confirm(machine, ConfState((7, 8), (), (7,)), SEVEN, Member(8, (EIGHT,)))
    assert outcome(machine.change(Change.ADD, 9, NINE).results[0]) is ImpossibleChange

    left = machine.leave_joint()

    assert (plain([left]), left.change) == ([(0, 0, [(0, b"")])], ConfChange())
    confirm(machine, ConfState((7, 8)), SEVEN, Member(8, (EIGHT,)))
    again = machine.leave_joint()
    assert (plain([again]), again.change) == ([(0, 0, [ImpossibleChange])], None)


def test_members_come_before_consensus_in_refusing(machine: Machine) -> None:
    """RF-62: what clients know by a text of its own is told first."""
    machine.change(Change.ADD, 8, EIGHT, transition=JOINT)
    assert outcome(machine.change(Change.REMOVE, 9).results[0]) is MemberNotFound
    assert outcome(machine.change(Change.ADD, 8, NINE).results[0]) is MemberExists


# --- what stops the member --------------------------------------------------------------------------------------------


def context(operation: int, member_id: int, *urls: str) -> bytes:
    member = peer_pb2.MemberRecord(ID=member_id, peerURLs=urls)
    return Change(operation=operation, member=member).SerializeToString()  # type: ignore[arg-type]


def conf_change(*singles: tuple[ConfChangeType, int], context: bytes = b"") -> ConfChange:
    return ConfChange(tuple(ConfChangeSingle(*each) for each in singles), context=context)


VOTER, LEARNER, GONE = ConfChangeType.ADD_VOTER, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE

MALFORMED = {
    "another type": conf_change((LEARNER, 8), context=context(Change.ADD, 8, EIGHT)),
    "another member": conf_change((VOTER, 9), context=context(Change.ADD, 8, EIGHT)),
    "promotion by removal": conf_change((GONE, 8), context=context(Change.PROMOTE, 8)),
    "two changes": conf_change((VOTER, 8), (VOTER, 9), context=context(Change.ADD, 8, EIGHT)),
    "no change": conf_change(context=context(Change.ADD, 8, EIGHT)),
    "no operation": conf_change((VOTER, 8), context=context(Change.NONE, 8, EIGHT)),
    "operation of a newer version": conf_change((VOTER, 8), context=context(5, 8, EIGHT)),
    "no context": conf_change((VOTER, 8)),
    "nobody added": conf_change((VOTER, 0), context=context(Change.ADD, 0, EIGHT)),
    "joint without change": ConfChange((), JOINT),
    "context of other bytes": conf_change((VOTER, 8), context=b"\xff\xff"),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_change_that_nobody_could_have_proposed_stops_the_member(machine: Machine, change: ConfChange) -> None:
    """RF-53: what consensus and the members are told must be the same."""
    before = machine.content()
    with pytest.raises(MalformedEntry):
        machine.applier.apply([entry(1, [put(b"a")]), conf_entry(2, change)])
    with pytest.raises(BackendError, match="restart this member"):
        machine.backend.commit()
    machine.die()
    assert machine.content() == before


def test_a_change_of_unreadable_bytes_stops_the_member(machine: Machine) -> None:
    with pytest.raises(MalformedEntry, match="a membership change of 3 bytes cannot be read"):
        machine.applier.apply([Entry(TERM, 1, EntryType.CONF_CHANGE, b"\x09\x00\x00")])


# --- packing ----------------------------------------------------------------------------------------------------------

OPERATIONS = st.sampled_from([Change.ADD, Change.ADD_LEARNER, Change.REMOVE, Change.PROMOTE])
IDS = st.integers(1, 2**64 - 1)


@given(proposer=IDS, number=IDS, operation=OPERATIONS, member_id=IDS, urls=st.lists(st.text(max_size=8), max_size=3))
def test_what_is_proposed_comes_out_again(
    proposer: int, number: int, operation: Change.Operation.ValueType, member_id: int, urls: list[str]
) -> None:
    proposed = encode_member_change(proposer, number, operation, member_id, urls)
    change, request = decode_member_change(encode_conf_change(proposed))
    assert change == proposed
    assert (request.proposer, request.number, request.operation) == (proposer, number, operation)
    assert (request.member.ID, list(request.member.peerURLs)) == (member_id, sorted(urls))
    assert request.member.isLearner == (operation == Change.ADD_LEARNER)


@pytest.mark.parametrize(
    ("operation", "single"),
    [(Change.ADD, VOTER), (Change.ADD_LEARNER, LEARNER), (Change.REMOVE, GONE), (Change.PROMOTE, VOTER)],
)
def test_what_an_operation_is_to_consensus(operation: Change.Operation.ValueType, single: ConfChangeType) -> None:
    """RF-63 for the last."""
    assert encode_member_change(1, 1, operation, 8).changes == (ConfChangeSingle(single, 8),)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_change_or_malformed(data: bytes) -> None:
    try:
        change, request = decode_member_change(data)
    except MalformedEntry:
        return
    assert change == ConfChange() or change.changes[0].node_id == request.member.ID


# --- any sequence -----------------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.sampled_from([Change.ADD, Change.ADD_LEARNER]), st.integers(5, 9), st.integers(5, 9)),
    st.tuples(st.sampled_from([Change.REMOVE, Change.PROMOTE]), st.integers(5, 9)),
    st.just(()),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(STEPS, st.sampled_from(ConfChangeTransition)), max_size=14))
def test_members_and_configuration_agree_after_any_changes(
    shared_machine: Machine, steps: list[tuple[tuple[Any, ...], ConfChangeTransition]]
) -> None:
    """CL-53; and the core, fed with what took effect, has the same configuration."""
    machine = shared_machine
    machine.reset()
    conf_of_core = machine.applier.conf_state
    for step, transition in steps:
        index = machine.applier.index + 1
        if step:
            urls = [f"http://{step[2]}:2380"] if len(step) == 3 else []
            next_entry = change_entry(index, step[0], step[1], *urls, transition=transition)
        else:
            next_entry = leave_entry(index)
        ((applied,), _) = machine.applier.apply([next_entry])

        if applied.change is not None:
            conf_of_core = apply_change(conf_of_core, applied.change)
        conf = machine.applier.conf_state
        check(conf)
        assert conf == conf_of_core == machine.stored_conf_state()
        assert isinstance(applied.results[0], Exception) == (applied.change is None)
        assert {each.id for each in machine.members if not each.is_learner} == set(conf.voters)
        assert {each.id for each in machine.members if each.is_learner} == {*conf.learners, *conf.learners_next}
        assert not {each.id for each in machine.members} & set(machine.members.removed)


def test_more_learners_than_the_proposer_allows_are_refused_by_all(machine: Machine) -> None:
    """CL-22, RF-52: two members may each have found room for one; the entry decides, not their settings."""
    first = encode_member_change(MEMBER_ID, 1, peer_pb2.MemberChange.ADD_LEARNER, 8, [EIGHT], max_learners=1)
    second = encode_member_change(MEMBER_ID, 2, peer_pb2.MemberChange.ADD_LEARNER, 9, [NINE], max_learners=1)
    index = machine.applier.index
    applied, _ = machine.applier.apply([conf_entry(index + 1, first), conf_entry(index + 2, second)])
    assert type(applied[0].results[0]) is tuple
    assert isinstance(applied[1].results[0], TooManyLearners)
    assert applied[1].change is None
    assert machine.applier.conf_state.learners == (8,)
