"""A membership change on its way through the log: the core's ConfChange, with a MemberChange as its context.

The core wants to know whose vote counts, the membership room who that is and where it listens. Both are told by one
entry and change in one transaction, or neither does (CL-53): what either of them refuses is refused as a whole, with
nothing changed (RF-62).

Owns how the two are packed together, and which of the operations means what to each. Reads nothing local; keeps no
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from raftkv.apply.errors import MalformedEntry
from raftkv.membership import ImpossibleChange, Member, Members, TooManyLearners
from raftkv.pb import peer_pb2
from raftkv.pb.splice import framed
from raftkv.raft import BadConfChange, ConfChange, ConfChangeSingle, ConfChangeType, decode_conf_change
from raftkv.raft.confchange import apply_change

if TYPE_CHECKING:
    from raftkv.backend import WriteTxn
    from raftkv.raft import ConfState

MemberChange = peer_pb2.MemberChange

# Encoded field tags of the replies (contract section 15).
_NEWCOMER: Final = b"\x12"
_MEMBERS_AFTER_ADD: Final = b"\x1a"
_MEMBERS: Final = b"\x12"


class _Operation(NamedTuple):
    """What an operation is to the core, and what it is to the members."""

    type: ConfChangeType
    check: Callable[[Members, Member], None]
    """Raises what `run` would raise."""
    run: Callable[[Members, WriteTxn, Member], None]


_ADDITIONS: Final = (MemberChange.ADD, MemberChange.ADD_LEARNER)

_OPERATIONS: Final[dict[int, _Operation]] = {
    MemberChange.ADD: _Operation(
        ConfChangeType.ADD_VOTER,
        lambda members, member: members.check_add(member),
        lambda members, txn, member: members.add(txn, member),
    ),
    MemberChange.ADD_LEARNER: _Operation(
        ConfChangeType.ADD_LEARNER,
        lambda members, member: members.check_add(member),
        lambda members, txn, member: members.add(txn, member),
    ),
    MemberChange.REMOVE: _Operation(
        ConfChangeType.REMOVE,
        lambda members, member: members.check_remove(member.id),
        lambda members, txn, member: members.remove(txn, member.id),
    ),
    MemberChange.PROMOTE: _Operation(
        ConfChangeType.ADD_VOTER,
        lambda members, member: members.check_promote(member.id),
        lambda members, txn, member: members.promote(txn, member.id),
    ),
}


def encode_member_change(
    proposer: int,
    number: int,
    operation: MemberChange.Operation.ValueType,
    member_id: int,
    peer_urls: Iterable[str] = (),
    max_learners: int = 0,
) -> ConfChange:
    """What the proposer hands to the core. Its answer comes with `Applied` of that proposer and number (RF-54).

    `operation`: MemberChange.ADD, ADD_LEARNER, REMOVE or PROMOTE; the first two take peer URLs. `max_learners`: what
    the proposer allows, for ADD_LEARNER; 0 for any number.
    """
    member = peer_pb2.MemberRecord(
        ID=member_id, peerURLs=sorted(peer_urls), isLearner=operation == MemberChange.ADD_LEARNER
    )
    context = MemberChange(
        proposer=proposer, number=number, operation=operation, member=member, max_learners=max_learners
    )
    single = ConfChangeSingle(_OPERATIONS[operation].type, member_id)
    return ConfChange((single,), context=context.SerializeToString())


def decode_member_change(data: bytes) -> tuple[ConfChange, MemberChange]:
    """From an entry's data. The way out of a joint configuration comes from the core and has no operation.

    Raises MalformedEntry when the bytes are no change, or when the core's part is not that of the operation.
    """
    try:
        change = decode_conf_change(data)
        request = MemberChange.FromString(change.context)
    except (BadConfChange, DecodeError) as damage:
        raise MalformedEntry(f"a membership change of {len(data)} bytes cannot be read") from damage
    if change == ConfChange():
        return change, request
    operation = _OPERATIONS.get(request.operation)
    if operation is None:
        raise MalformedEntry(f"a membership change of unknown operation {request.operation}: upgrade this raftkv")
    # To the core, member 0 is nobody and nothing would change; the members would have one more all the same.
    is_nobody = request.operation in _ADDITIONS and not request.member.ID
    if is_nobody or change.changes != (ConfChangeSingle(operation.type, request.member.ID),):
        raise MalformedEntry(
            f"a membership change whose two halves differ: {list(change.changes)} for consensus, operation "
            f"{request.operation} of member {request.member.ID:x} for the members"
        )
    return change, request


def leave_joint(conf_state: ConfState) -> ConfState:
    """The configuration after a joint one. Raises ImpossibleChange, as for the second of two proposals to leave it."""
    return _next_conf_state(conf_state, ConfChange())


def change_members(
    txn: WriteTxn, members: Members, conf_state: ConfState, change: ConfChange, request: MemberChange
) -> tuple[ConfState, bytes]:
    """Apply a decoded change to the members: (configuration after it, response body without header).

    Raises MembershipError, among them ImpossibleChange for what the core cannot do; then nothing has changed.
    """
    operation = _OPERATIONS[request.operation]
    is_learner = request.operation == MemberChange.ADD_LEARNER
    member = Member(request.member.ID, tuple(request.member.peerURLs), is_learner=is_learner)
    operation.check(members, member)
    if is_learner and request.max_learners and sum(each.is_learner for each in members) >= request.max_learners:
        raise TooManyLearners
    after = _next_conf_state(conf_state, change)
    operation.run(members, txn, member)
    if request.operation not in _ADDITIONS:
        return after, members_body(members)
    newcomer = members.get(member.id)
    assert newcomer is not None
    body = framed(_NEWCOMER, newcomer.to_message().SerializeToString())
    return after, body + _members_body(_MEMBERS_AFTER_ADD, members)


def members_body(members: Members) -> bytes:
    """The member list as field 2, as all responses have it but that to an addition (CL-07)."""
    return _members_body(_MEMBERS, members)


def _members_body(tag: bytes, members: Members) -> bytes:
    return b"".join(framed(tag, each.to_message().SerializeToString()) for each in members)


def _next_conf_state(conf_state: ConfState, change: ConfChange) -> ConfState:
    try:
        return apply_change(conf_state, change)
    except BadConfChange as impossible:
        raise ImpossibleChange(str(impossible)) from impossible
