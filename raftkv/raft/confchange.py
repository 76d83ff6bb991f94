"""From one configuration to the next. Pure: a ConfState goes in, a ConfState comes out.

In the notation of thesis §4.3, with voters of C_new written before those of C_old:

    simple       (1 2 3)            -> (1 2 3 4)              one voter more or less
    enter_joint  (1 2 3)            -> (1 2 4)&(1 2 3)        any change
    leave_joint  (1 2 4)&(1 2 3)    -> (1 2 4)

A voter that becomes a learner while it still votes in C_old waits in `learners_next`: nobody is a
voter and a learner at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from .errors import BadConfChange
from .types import ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfState, NodeId


class _Draft:
    """The three sets a single change moves ids between; C_old stands still."""

    __slots__ = ("learners", "learners_next", "outgoing", "voters")

    def __init__(self, conf: ConfState, outgoing: Iterable[NodeId]) -> None:
        self.voters = set(conf.voters)
        self.learners = set(conf.learners)
        self.learners_next = set(conf.learners_next)
        self.outgoing = frozenset(outgoing)

    def add_voter(self, node_id: NodeId) -> None:
        self.learners.discard(node_id)
        self.learners_next.discard(node_id)
        self.voters.add(node_id)

    def add_learner(self, node_id: NodeId) -> None:
        self.voters.discard(node_id)
        if node_id in self.outgoing:
            self.learners_next.add(node_id)
        else:
            self.learners.add(node_id)

    def remove(self, node_id: NodeId) -> None:
        self.voters.discard(node_id)
        self.learners.discard(node_id)
        self.learners_next.discard(node_id)

    def finish(self, auto_leave: bool) -> ConfState:
        return ConfState(
            tuple(sorted(self.voters)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners_next)),
            auto_leave,
        )


_APPLY: Final[Mapping[ConfChangeType, Callable[[_Draft, NodeId], None]]] = {
    ConfChangeType.ADD_VOTER: _Draft.add_voter,
    ConfChangeType.ADD_LEARNER: _Draft.add_learner,
    ConfChangeType.REMOVE: _Draft.remove,
}


def _changed(draft: _Draft, changes: Iterable[ConfChangeSingle], auto_leave: bool) -> ConfState:
    for change in changes:
        if change.node_id:
            _APPLY[change.type](draft, change.node_id)
    if not draft.voters:
        raise BadConfChange("the change would remove every voter")
    return draft.finish(auto_leave)


def simple(conf: ConfState, changes: Iterable[ConfChangeSingle]) -> ConfState:
    """At most one voter comes or goes, so any two majorities share a member (thesis §4.1)."""
    if conf.voters_outgoing:
        raise BadConfChange("a simple change is impossible in a joint configuration")
    after = _changed(_Draft(conf, ()), changes, False)
    if len(set(conf.voters) ^ set(after.voters)) > 1:
        raise BadConfChange("more than one voter changed without a joint configuration")
    return after


def enter_joint(conf: ConfState, changes: Iterable[ConfChangeSingle], auto_leave: bool) -> ConfState:
    if conf.voters_outgoing:
        raise BadConfChange("the configuration is joint already")
    if not conf.voters:
        raise BadConfChange("a cluster without voters cannot become joint")
    return _changed(_Draft(conf, conf.voters), changes, auto_leave)


def leave_joint(conf: ConfState) -> ConfState:
    if not conf.voters_outgoing:
        raise BadConfChange("the configuration is not joint")
    learners = tuple(sorted({*conf.learners, *conf.learners_next}))
    return ConfState(voters=conf.voters, learners=learners)


def apply_change(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after change. Raises BadConfChange; then nothing may be changed anywhere."""
    if change.leaves_joint:
        return leave_joint(conf)
    if change.uses_joint:
        auto_leave = change.transition is not ConfChangeTransition.JOINT_EXPLICIT
        return enter_joint(conf, change.changes, auto_leave)
    return simple(conf, change.changes)


def check(conf: ConfState) -> None:
    """Refuse a ConfState from disk or from a peer that no sequence of changes leads to."""
    voters, learners = set(conf.voters), set(conf.learners)
    outgoing, learners_next = set(conf.voters_outgoing), set(conf.learners_next)
    for ids in conf[:4]:
        if list(ids) != sorted(set(ids)) or 0 in ids:
            raise BadConfChange(f"not a sorted set of members: {ids}")
    if learners & (voters | outgoing):
        raise BadConfChange("somebody is both voter and learner")
    if learners_next - outgoing or learners_next & voters:
        raise BadConfChange("learners_next must be outgoing voters only")
    if not outgoing and conf.auto_leave:
        raise BadConfChange("auto_leave without a joint configuration")
    if outgoing and not voters:
        raise BadConfChange("a joint configuration without incoming voters")
