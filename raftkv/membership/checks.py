"""Would the cluster be able to go on after this change? What is asked before a change is proposed (CL-23).

Pure functions over the members as the asked member knows them and over plain facts that only it has: whom it is
connected to, and, if it leads, how far everybody has come. They keep an operator from breaking a quorum by accident;
they are not what safety rests on. Applying never asks them, because what is local may not decide what is applied
(RF-52); it validates once more what is the same everywhere (`Members.check_add` and its siblings).

The order of the questions is etcd's, so that of several reasons clients see the same one. `strict` is
--strict-reconfig-check.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.membership.errors import (
    LearnerNotReady,
    MemberNotFound,
    NotEnoughStarted,
    TooManyLearners,
    UnhealthyCluster,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.membership.members import Member, Members

STEADY_S: Final = 5.0
"""Connected for less than this counts as not connected: a member that comes and goes carries no quorum (CL-24)."""

READY_TENTHS: Final = 9
"""Of the leader's log, the part that a learner must have before it may vote (CL-42)."""


class Links(NamedTuple):
    """Whom the member that was asked is connected to."""

    own_id: int
    """Always counts as connected, whether it is in the sets or not."""
    connected: Set[int]
    """Members that it is connected to now."""
    steady: Set[int]
    """Those of them that it has been connected to for STEADY_S without a break."""


def check_add(members: Members, newcomer: Member, links: Links, *, strict: bool, max_learners: int) -> None:
    """Raises NotEnoughStarted, UnhealthyCluster or TooManyLearners (CL-22, CL-24, CL-25).

    Where there are too many learners, what applying would refuse anyway goes first: MemberRemoved, MemberExists,
    PeerURLExists.
    """
    if strict:
        _check_quorum_after_add(_voters(members), newcomer, links)
    if newcomer.is_learner and sum(each.is_learner for each in members) >= max_learners:
        members.check_add(newcomer)
        raise TooManyLearners


def _check_quorum_after_add(voters: Sequence[Member], newcomer: Member, links: Links) -> None:
    needed = _quorum(len(voters) + 1)
    # A lone voter may always take a second one, though it then has to wait for it (CL-26): how else could it grow?
    alone = len(voters) == 1
    if not newcomer.is_learner and not (alone and _started(voters)) and _started(voters) < needed:
        raise NotEnoughStarted
    if not alone and _steady(voters, links) < needed:
        raise UnhealthyCluster


def check_remove(members: Members, member_id: int, links: Links, *, strict: bool) -> None:
    """Raises NotEnoughStarted (CL-31) or UnhealthyCluster (CL-32). An unknown member is left to applying (CL-30)."""
    target = members.get(member_id)
    if not strict or (target is not None and target.is_learner):
        return
    voters = _voters(members)
    remaining = [each for each in voters if each.id != member_id]
    if _started(remaining) < _quorum(len(remaining)):
        raise NotEnoughStarted
    if member_id != links.own_id and member_id not in links.connected:
        return  # it carries nothing that could be lost with it
    if _steady(voters, links) - 1 < 1 + (len(voters) - 1) // 2:
        raise UnhealthyCluster


def check_promote(
    members: Members, member_id: int, matches: Mapping[int, int], leader_id: int, *, strict: bool
) -> None:
    """For the leader, which alone knows how far each member's log matches its own: `matches`, by member id (CL-44).

    Raises MemberNotFound (CL-41), LearnerNotReady (CL-42) or NotEnoughStarted (CL-43). One that is no learner is left
    to applying.
    """
    if members.get(member_id) is None:
        raise MemberNotFound
    match = matches.get(member_id)
    if match is None or 10 * match < READY_TENTHS * matches[leader_id]:
        raise LearnerNotReady
    voters = _voters(members)
    if strict and _started(voters) + 1 < _quorum(len(voters) + 1):
        raise NotEnoughStarted


def _voters(members: Members) -> list[Member]:
    return [each for each in members if not each.is_learner]


def _started(members: Sequence[Member]) -> int:
    return sum(each.started for each in members)


def _steady(members: Sequence[Member], links: Links) -> int:
    return sum(each.id == links.own_id or each.id in links.steady for each in members)


def _quorum(voters: int) -> int:
    return voters // 2 + 1
