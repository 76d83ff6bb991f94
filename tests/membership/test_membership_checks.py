"""What is asked before a change is proposed, for every cluster of one to five members: CL-22, CL-24, CL-25, CL-31,
CL-32, CL-42, CL-43.

A member is one of twelve: voter or learner, started or not, and connected for long, just now, or not at all. All
clusters of up to five of them are tried, each with every one of its members being asked. Beside the code stand the
rules once more, as the contract has them, with nothing but counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple, cast

import pytest

from raftkv.membership import (
    LearnerNotReady,
    Links,
    Member,
    MemberExists,
    MemberNotFound,
    Members,
    NotEnoughStarted,
    PeerURLExists,
    TooManyLearners,
    UnhealthyCluster,
    check_add,
    check_promote,
    check_remove,
)

Refusal = type[Exception] | None

LONG, NOW, NEVER = "long", "now", "never"
STRANGER = 99


class Sort(NamedTuple):
    voter: bool
    started: bool
    link: str


SORTS = [Sort(*each) for each in product((True, False), (True, False), (LONG, NOW, NEVER))]


class Scene(NamedTuple):
    """A cluster of ids 1, 2, ..., seen by the member `own_id`."""

    sorts: dict[int, Sort]
    own_id: int
    members: Members
    links: Links

    @property
    def voters(self) -> dict[int, Sort]:
        return {each: sort for each, sort in self.sorts.items() if sort.voter}

    def long_connected_voters(self) -> int:
        """Of which the one that was asked is always one, if it votes."""
        return len([each for each, sort in self.voters.items() if each == self.own_id or sort.link == LONG])


class NoDisk:
    """Takes what Members would write."""

    def put(self, *_: Any, **__: Any) -> None: ...


def members_of(sorts: dict[int, Sort]) -> Members:
    members = Members(cast("Any", type("Tables", (), {"members": None})))
    for each, sort in sorts.items():
        name = f"m{each}" if sort.started else ""
        members.add(cast("Any", NoDisk()), Member(each, (f"http://m{each}:2380",), name, is_learner=not sort.voter))
    return members


def scenes() -> Iterator[Scene]:
    for size in range(1, 6):
        for combination in combinations_with_replacement(SORTS, size):
            sorts = dict(enumerate(combination, 1))
            if not any(sort.voter for sort in combination):
                continue  # there is no cluster without a voter
            members = members_of(sorts)
            for own_id in sorts:
                links = Links(
                    own_id,
                    frozenset(each for each, sort in sorts.items() if sort.link != NEVER and each != own_id),
                    frozenset(each for each, sort in sorts.items() if sort.link == LONG and each != own_id),
                )
                yield Scene(sorts, own_id, members, links)


ALL_SCENES = list(scenes())


def quorum(count: int) -> int:
    """The smallest majority."""
    return min(majority for majority in range(count + 2) if 2 * majority > count)


def refusal(check: Callable[..., None], *arguments: Any, **options: Any) -> Refusal:
    try:
        check(*arguments, **options)
    except Exception as reason:
        return type(reason)
    return None


# --- the rules in their own words -------------------------------------------------------------------------------------


def rule_add(scene: Scene, learner: bool, max_learners: int, strict: bool) -> Refusal:
    voters = scene.voters.values()
    started = [sort for sort in voters if sort.started]
    if strict:
        # CL-24: "started voters must be >= quorum of the new size. Exception: a single-member cluster with that
        # member started." CL-25: of a learner this is not asked.
        single_and_started = len(voters) == 1 and len(started) == 1
        if not learner and not single_and_started and len(started) < quorum(len(voters) + 1):
            return NotEnoughStarted
        # CL-24: "connected for >= 5 s to a quorum of the new voter set. Single-member cluster exempt." CL-25: also
        # asked of a learner.
        if len(voters) != 1 and scene.long_connected_voters() < quorum(len(voters) + 1):
            return UnhealthyCluster
    # CL-22: "More learners than --max-learners".
    learners = len(scene.sorts) - len(voters)
    if learner and learners + 1 > max_learners:
        return TooManyLearners
    return None


def rule_remove(scene: Scene, target: int, strict: bool) -> Refusal:
    if not strict or (target in scene.sorts and target not in scene.voters):
        return None  # CL-31: "Removing a learner [...] is fine."
    # CL-31: "remaining started voters must be >= quorum of the remaining voters".
    remaining = [sort for each, sort in scene.voters.items() if each != target]
    if len([sort for sort in remaining if sort.started]) < quorum(len(remaining)):
        return NotEnoughStarted
    # CL-32: "if the target is currently not connected, allow". Everybody is connected to itself.
    if target != scene.own_id and (target not in scene.sorts or scene.sorts[target].link == NEVER):
        return None
    # CL-32: "connected voters minus one must be >= 1 + (n-1)/2 where n = voters now".
    if scene.long_connected_voters() - 1 < 1 + int((len(scene.voters) - 1) / 2):
        return UnhealthyCluster
    return None


def rule_promote(scene: Scene, target: int, match: int | None, leader_match: int, strict: bool) -> Refusal:
    if target not in scene.sorts:
        return MemberNotFound  # CL-41
    # CL-42: "its match index < 90 % of the leader's match index, or no progress known".
    if match is None or match / leader_match < 0.9:
        return LearnerNotReady
    # CL-43: "started voters + 1 must be >= quorum of the new voter count".
    started = [sort for sort in scene.voters.values() if sort.started]
    if strict and len(started) + 1 < quorum(len(scene.voters) + 1):
        return NotEnoughStarted
    return None


# --- against the code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("learner", [True, False])
def test_additions(learner: bool, strict: bool) -> None:
    """CL-22, CL-24, CL-25."""
    newcomer = Member(STRANGER, ("http://new:2380",), is_learner=learner)
    seen: set[Refusal] = set()
    for scene in ALL_SCENES:
        for max_learners in (1, 2):
            expected = rule_add(scene, learner, max_learners, strict)
            found = refusal(check_add, scene.members, newcomer, scene.links, strict=strict, max_learners=max_learners)
            assert found is expected, scene.sorts
            seen.add(found)
    expected_kinds = {None} | ({UnhealthyCluster} if strict else set()) | ({TooManyLearners} if learner else set())
    assert seen == expected_kinds | ({NotEnoughStarted} if strict and not learner else set())


@pytest.mark.parametrize("strict", [True, False])
def test_removals(strict: bool) -> None:
    """CL-31, CL-32; of every member, of the one that is asked, and of somebody unknown."""
    seen: set[Refusal] = set()
    for scene in ALL_SCENES:
        for target in (*scene.sorts, STRANGER):
            found = refusal(check_remove, scene.members, target, scene.links, strict=strict)
            assert found is rule_remove(scene, target, strict), (scene.sorts, target)
            seen.add(found)
    assert seen == ({None, NotEnoughStarted, UnhealthyCluster} if strict else {None})


@pytest.mark.parametrize("strict", [True, False])
def test_promotions(strict: bool) -> None:
    """CL-41 to CL-43."""
    matches: list[int | None] = [None, 0, 89, 90, 91, 100]
    seen: set[Refusal] = set()
    for scene in ALL_SCENES:
        if scene.own_id != 1:
            continue  # whom it is connected to does not matter here
        for target, match in product((*scene.sorts, STRANGER), matches):
            known = dict.fromkeys(scene.sorts, 100)
            if match is None:
                known.pop(target, None)
            else:
                known[target] = match
            found = refusal(check_promote, scene.members, target, known | {7: 100}, 7, strict=strict)
            assert found is rule_promote(scene, target, match, 100, strict), (scene.sorts, target, match)
            seen.add(found)
    assert seen == {None, MemberNotFound, LearnerNotReady} | ({NotEnoughStarted} if strict else set())


def test_nine_tenths_of_the_log_are_enough() -> None:
    """CL-42: for every pair of positions of short logs, and just around the border of long ones."""
    members = members_of({1: Sort(True, True, NOW), 2: Sort(False, True, NOW)})
    pairs = [(match, leader) for leader in range(1, 200) for match in range(leader + 1)]
    for leader in (10**6, 10**6 + 7, 10**12, 10**12 + 3):
        pairs += [(match, leader) for match in range(leader * 9 // 10 - 3, leader * 9 // 10 + 4)]
    for match, leader in pairs:
        expected = LearnerNotReady if match / leader < 0.9 else None
        assert refusal(check_promote, members, 2, {1: leader, 2: match}, 1, strict=True) is expected, (match, leader)


# --- examples with names ----------------------------------------------------------------------------------------------


HEALTHY = Sort(True, True, LONG)
LEARNER = Sort(False, True, LONG)


def scene_of(*sorts: Sort) -> Scene:
    wanted = dict(enumerate(sorts, 1))
    return next(each for each in ALL_SCENES if each.own_id == 1 and each.sorts == wanted)


def test_a_lone_member_may_always_grow_but_not_go() -> None:
    """CL-24, CL-26, CL-33."""
    scene = scene_of(HEALTHY)
    newcomer = Member(STRANGER, ("http://new:2380",))
    assert refusal(check_add, scene.members, newcomer, scene.links, strict=True, max_learners=1) is None
    assert refusal(check_remove, scene.members, 1, scene.links, strict=True) is NotEnoughStarted
    assert refusal(check_remove, scene.members, 1, scene.links, strict=False) is None


def test_three_healthy_members_may_become_four_or_two() -> None:
    scene = scene_of(HEALTHY, HEALTHY, HEALTHY)
    newcomer = Member(STRANGER, ("http://new:2380",))
    assert refusal(check_add, scene.members, newcomer, scene.links, strict=True, max_learners=1) is None
    assert refusal(check_remove, scene.members, 2, scene.links, strict=True) is None


def test_with_one_of_three_away_only_that_one_may_go() -> None:
    """CL-32."""
    scene = scene_of(HEALTHY, HEALTHY, Sort(True, True, NEVER))
    assert refusal(check_remove, scene.members, 3, scene.links, strict=True) is None
    assert refusal(check_remove, scene.members, 2, scene.links, strict=True) is UnhealthyCluster
    assert refusal(check_remove, scene.members, 1, scene.links, strict=True) is UnhealthyCluster


def test_a_second_unstarted_member_is_refused_until_the_first_has_started() -> None:
    """CL-24: one of two voters is no quorum of three."""
    scene = scene_of(HEALTHY, Sort(True, False, NEVER))
    newcomer = Member(STRANGER, ("http://new:2380",))
    assert refusal(check_add, scene.members, newcomer, scene.links, strict=True, max_learners=1) is NotEnoughStarted


@pytest.mark.parametrize(
    ("newcomer", "expected"),
    [
        (Member(3, ("http://new:2380",), is_learner=True), TooManyLearners),
        (Member(2, ("http://new:2380",), is_learner=True), MemberExists),
        (Member(3, ("http://m1:2380",), is_learner=True), PeerURLExists),
        (Member(2, ("http://new:2380",)), None),
    ],
)
def test_what_applying_would_refuse_comes_before_too_many_learners(newcomer: Member, expected: Refusal) -> None:
    """CL-21 before CL-22, as where both are found out when applied; without the limit it is left to applying."""
    scene = scene_of(HEALTHY, LEARNER)
    assert refusal(check_add, scene.members, newcomer, scene.links, strict=True, max_learners=1) is expected
