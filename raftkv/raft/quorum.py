"""Arithmetic of majorities. Pure functions; no state, no messages.

A majority of nobody agrees to everything: its commit index is UNLIMITED and its vote is WON. With
that a configuration that is not joint is simply a joint one whose second half is empty, and the
joint rule (thesis §4.3: both majorities) is a minimum or a conjunction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from .types import UNLIMITED, NodeId


class VoteResult(Enum):
    PENDING = "pending"
    LOST = "lost"
    WON = "won"


def majority_value(values: Iterable[int]) -> int:
    """The highest number that more than half of `values` have reached (one value per voter)."""
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        return UNLIMITED
    # The n//2 + 1 largest are a majority; the smallest of those is what all of it has reached.
    return ordered[(count - 1) // 2]


def joint_value(incoming: Iterable[int], outgoing: Iterable[int]) -> int:
    return min(majority_value(incoming), majority_value(outgoing))


def majority_vote(voters: tuple[NodeId, ...], votes: Mapping[NodeId, bool]) -> VoteResult:
    """Of votes given so far (True: yes). Voters without a vote may still decide either way."""
    needed = len(voters) // 2 + 1
    if not voters:
        return VoteResult.WON
    yes = no = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is True:
            yes += 1
        elif vote is False:
            no += 1
    if yes >= needed:
        return VoteResult.WON
    if len(voters) - no < needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def joint_vote(incoming: tuple[NodeId, ...], outgoing: tuple[NodeId, ...], votes: Mapping[NodeId, bool]) -> VoteResult:
    first, second = majority_vote(incoming, votes), majority_vote(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
