"""Membership changes as pure arithmetic: what follows from what, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import (
    BadConfChange,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    decode_conf_change,
    encode_conf_change,
)
from raftkv.raft.confchange import apply_change, check, enter_joint, leave_joint, simple

ADD, REMOVE, LEARN = ConfChangeType.ADD_VOTER, ConfChangeType.REMOVE, ConfChangeType.ADD_LEARNER
SINGLES = st.builds(ConfChangeSingle, st.sampled_from(ConfChangeType), st.integers(0, 6))
CHANGES = st.builds(
    ConfChange,
    st.lists(SINGLES, max_size=4).map(tuple),
    st.sampled_from(ConfChangeTransition),
    st.binary(max_size=20),
)


def changes(*singles: tuple[ConfChangeType, int]) -> list[ConfChangeSingle]:
    return [ConfChangeSingle(*single) for single in singles]


def test_one_voter_more_or_less_is_simple() -> None:
    conf = ConfState(voters=(1, 2))
    assert simple(conf, changes((ADD, 3))) == ConfState(voters=(1, 2, 3))
    assert simple(conf, changes((REMOVE, 2))) == ConfState(voters=(1,))
    assert simple(conf, changes((LEARN, 3))) == ConfState(voters=(1, 2), learners=(3,))


def test_two_voters_at_once_need_a_joint_configuration() -> None:
    with pytest.raises(BadConfChange):
        simple(ConfState(voters=(1, 2)), changes((ADD, 3), (ADD, 4)))
    with pytest.raises(BadConfChange):
        simple(ConfState(voters=(1, 2)), changes((ADD, 3), (REMOVE, 1)))


def test_demoted_voter_waits_until_the_old_half_is_left() -> None:
    joint = enter_joint(ConfState(voters=(1, 2, 3)), changes((LEARN, 3), (ADD, 4)), auto_leave=True)
    assert joint == ConfState((1, 2, 4), (), (1, 2, 3), (3,), True)
    assert leave_joint(joint) == ConfState((1, 2, 4), (3,))


def test_promotion_and_demotion_in_one_step() -> None:
    conf = ConfState(voters=(1, 2), learners=(3,))
    assert simple(conf, changes((ADD, 3))) == ConfState(voters=(1, 2, 3))
    assert simple(conf, changes((LEARN, 2))) == ConfState(voters=(1,), learners=(2, 3))


@pytest.mark.parametrize(
    ("conf", "change"),
    [
        (ConfState(voters=(1,)), ConfChange(tuple(changes((REMOVE, 1))))),
        (ConfState(voters=(1,)), ConfChange()),
        (ConfState((1,), (), (2,)), ConfChange(tuple(changes((ADD, 3))))),
        (ConfState((1,), (), (2,)), ConfChange(tuple(changes((ADD, 3), (ADD, 4))))),
        (ConfState(), ConfChange(tuple(changes((ADD, 3), (ADD, 4))))),
    ],
)
def test_impossible_changes_are_refused(conf: ConfState, change: ConfChange) -> None:
    with pytest.raises(BadConfChange):
        apply_change(conf, change)


def test_node_zero_is_no_change() -> None:
    """RF-62: how a refused change is written."""
    conf = ConfState(voters=(1, 2), learners=(3,))
    assert apply_change(conf, ConfChange(tuple(changes((REMOVE, 0))))) == conf


@given(st.lists(CHANGES, max_size=12))
def test_every_reachable_configuration_makes_sense(sequence: list[ConfChange]) -> None:
    conf = ConfState(voters=(1, 2, 3))
    for change in sequence:
        try:
            after = apply_change(conf, change)
        except BadConfChange:
            continue
        check(after)
        assert after.voters
        if not conf.voters_outgoing and not after.voters_outgoing:
            # Thesis §4.1: any majority of the one meets any majority of the other.
            assert len(set(conf.voters) ^ set(after.voters)) <= 1
        conf = after


@pytest.mark.parametrize(
    "conf",
    [
        ConfState(voters=(2, 1)),
        ConfState(voters=(0, 1)),
        ConfState(voters=(1,), learners=(1,)),
        ConfState((1,), (), (2,), (3,)),
        ConfState((1, 2), (), (2,), (2,)),
        ConfState(voters=(1,), auto_leave=True),
        ConfState(voters_outgoing=(1,)),
    ],
)
def test_configurations_that_cannot_be_are_refused(conf: ConfState) -> None:
    with pytest.raises(BadConfChange):
        check(conf)


@given(CHANGES)
def test_bytes_of_a_change_come_back_as_the_change(change: ConfChange) -> None:
    assert decode_conf_change(encode_conf_change(change)) == change


@given(st.binary(max_size=60))
def test_any_bytes_are_a_change_or_refused(data: bytes) -> None:
    try:
        change = decode_conf_change(data)
    except BadConfChange:
        return
    assert decode_conf_change(encode_conf_change(change)) == change
