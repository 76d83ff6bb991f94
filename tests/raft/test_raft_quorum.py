"""The arithmetic of majorities beside slow twins that count instead of sorting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import UNLIMITED
from raftkv.raft.quorum import VoteResult, joint_value, joint_vote, majority_value, majority_vote

VALUES = st.lists(st.integers(0, 12), max_size=7)
VOTERS = st.frozensets(st.integers(1, 7), max_size=6).map(lambda ids: tuple(sorted(ids)))
VOTES = st.dictionaries(st.integers(1, 8), st.booleans(), max_size=8)


def slow_majority_value(values: list[int]) -> int:
    """Try every candidate from above: is more than half of the voters there?"""
    for candidate in sorted(set(values), reverse=True):
        if sum(value >= candidate for value in values) * 2 > len(values):
            return candidate
    return UNLIMITED


def slow_vote(voters: tuple[int, ...], votes: dict[int, bool]) -> VoteResult:
    """Ask what could still happen if all the silent ones said yes, or no."""
    best = sum(votes.get(voter, True) for voter in voters)
    worst = sum(votes.get(voter, False) for voter in voters)
    if not voters or worst * 2 > len(voters):
        return VoteResult.WON
    return VoteResult.PENDING if best * 2 > len(voters) else VoteResult.LOST


@given(VALUES)
def test_majority_value_like_its_slow_twin(values: list[int]) -> None:
    assert majority_value(values) == slow_majority_value(values)


@given(VALUES, VALUES)
def test_joint_value_is_reached_by_both_majorities(incoming: list[int], outgoing: list[int]) -> None:
    """Thesis §4.3: agreement needs separate majorities of the old and the new configuration."""
    value = joint_value(incoming, outgoing)
    for half in (incoming, outgoing):
        assert not half or sum(v >= value for v in half) * 2 > len(half)
    assert value in (slow_majority_value(incoming), slow_majority_value(outgoing))


@given(VOTERS, VOTES)
def test_majority_vote_like_its_slow_twin(voters: tuple[int, ...], votes: dict[int, bool]) -> None:
    assert majority_vote(voters, votes) is slow_vote(voters, votes)


@given(VOTERS, VOTERS, VOTES)
def test_joint_vote_needs_both(incoming: tuple[int, ...], outgoing: tuple[int, ...], votes: dict[int, bool]) -> None:
    halves = {slow_vote(incoming, votes), slow_vote(outgoing, votes)}
    if VoteResult.LOST in halves:
        expected = VoteResult.LOST
    else:
        expected = VoteResult.WON if halves == {VoteResult.WON} else VoteResult.PENDING
    assert joint_vote(incoming, outgoing, votes) is expected


@given(VALUES.filter(bool), st.data())
def test_one_more_step_never_lowers_the_commit(values: list[int], data: st.DataObject) -> None:
    raised = list(values)
    raised[data.draw(st.integers(0, len(values) - 1))] += 1
    assert majority_value(raised) >= majority_value(values)
