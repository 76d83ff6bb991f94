"""Changes of the membership before they are in the log: checked, one at a time, those of followers in their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.apply import MemberChange
from raftkv.backend import Backend
from raftkv.membership import (
    LearnerNotReady,
    Member,
    MemberNotFound,
    MemberNotLearner,
    Members,
    NotEnoughStarted,
    PeerURLExists,
    TooManyLearners,
    UnhealthyCluster,
)
from raftkv.raft import ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType, ProposalDropped
from raftkv.server import reconfiguration as module
from raftkv.server.errors import NotLeader, ProposalLost, Stopped, TooManyRequests
from raftkv.server.proposals import Proposals
from raftkv.server.reconfiguration import Reconfiguration

ME, ONE, TWO, LEARNER = 1, 2, 3, 4
FIRST = 1000
TIMEOUT_S = 20.0


class Scene:
    """A leader of three voters and a learner, all of them started and connected, and the core that it asks."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.backend = Backend.open(directory, map_size_bytes=64 << 20, reserve_step_bytes=64 << 10)
        self.members = Members(self.backend.tables)
        txn = self.backend.begin_write()
        for each in (ME, ONE, TWO, LEARNER):
            self.members.add(txn, Member(each, (f"http://m{each}:1",), f"m{each}", is_learner=each == LEARNER))
        self.now = 100.0
        self.proposals = Proposals(ME, FIRST, lambda: self.now)
        self.is_leader = True
        self.lead = ME
        self.can_change_conf = True
        self.drops = False
        self.matches = {ME: 100, ONE: 100, TWO: 100, LEARNER: 95}
        self.proposed: list[ConfChange] = []
        self.stepped: list[Message] = []
        self.scheduled = 0
        self.since: dict[int, float] = {ONE: 0.0, TWO: 0.0, LEARNER: 0.0}
        self.steady = {ME, ONE, TWO}
        self.results: list[tuple[Any, Any]] = []
        this: Any = self
        links: Any = SimpleNamespace(connected_since=self.since.get)
        waiting: Any = SimpleNamespace(connected_for=lambda _seconds, _now: self.steady, proposal_error=gave_up_queued)
        settings = {"timeout_s": TIMEOUT_S, "strict": True, "max_learners": 2, **settings}
        self.changes = Reconfiguration(
            ME, self.members, this, self.proposals, links, waiting, self._schedule, lambda: self.now, **settings
        )

    def _schedule(self) -> None:
        self.scheduled += 1

    def go_on(self) -> None:
        self.changes.go_on(self.now)

    # --- the core

    def status(self) -> Any:
        progress = {each: SimpleNamespace(match=match) for each, match in self.matches.items()}
        return SimpleNamespace(progress=progress if self.is_leader else {})

    def propose_conf_change(self, change: ConfChange) -> None:
        if self.drops:
            raise ProposalDropped
        self.proposed.append(change)

    def step(self, message: Message) -> None:
        self.stepped.append(message)

    # --- the test's hand

    def finish(self, context: Any, result: Any) -> None:
        self.results.append((context, result))

    def add(self, name: str, *urls: str, is_learner: bool = False) -> None:
        self.changes.add(urls or (f"http://{name}:1",), is_learner, self.finish, name)

    def remove(self, member_id: int, name: str = "") -> None:
        self.changes.remove(member_id, self.finish, name)

    def promote(self, member_id: int, name: str = "") -> None:
        self.changes.promote(member_id, self.finish, name)

    def refusals(self) -> list[type]:
        return [type(result) for _, result in self.results]

    def applied(self, at: int = -1, result: Any = (0, b"members")) -> None:
        """The entry of that proposal has been applied."""
        change = MemberChange.FromString(self.proposed[at].context)
        assert change.proposer == ME
        self.proposals.complete(ME, change.number, [result])
        self.go_on()

    def follow(self, leader: int) -> None:
        self.is_leader, self.lead = leader == ME, leader
        self.changes.on_leader_changed()

    def asked(self) -> list[tuple[int, int]]:
        """(operation, member) of every proposal."""
        changes = [MemberChange.FromString(each.context) for each in self.proposed]
        return [(each.operation, each.member.ID) for each in changes]


def gave_up(started_s: float, *, proposed: bool) -> Exception:
    assert proposed
    return TimeoutError()


def gave_up_queued(started_s: float, *, proposed: bool) -> Exception:
    """Says since when it waited."""
    assert not proposed
    return TimeoutError(started_s)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.backend.close()


# --- checked before anything is proposed ------------------------------------------------------------------------------


def test_a_change_says_who_and_what_to_both_who_apply_it(scene: Scene) -> None:
    """CL-03, CL-53: the core's half and the members' are one entry; peer URLs are sorted."""
    scene.add("a", "http://z:1", "http://a:1")
    [change] = scene.proposed
    half = MemberChange.FromString(change.context)
    [single] = change.changes
    assert (single.type, single.node_id) == (ConfChangeType.ADD_VOTER, half.member.ID)
    assert (half.operation, half.number, list(half.member.peerURLs)) == (
        MemberChange.ADD,
        FIRST,
        ["http://a:1", "http://z:1"],
    )
    assert half.member.ID not in (0, ME, ONE, TWO, LEARNER)
    assert scene.scheduled == 1


def test_each_operation_goes_into_the_log_as_such(scene: Scene) -> None:
    scene.add("learner", is_learner=True)
    scene.applied()
    scene.remove(LEARNER)
    scene.applied()
    scene.promote(LEARNER)
    scene.applied()
    assert [operation for operation, _ in scene.asked()] == [
        MemberChange.ADD_LEARNER,
        MemberChange.REMOVE,
        MemberChange.PROMOTE,
    ]
    assert [member for _, member in scene.asked()[1:]] == [LEARNER, LEARNER]
    assert [result for _, result in scene.results] == [(0, b"members")] * 3


def test_what_the_cluster_could_not_go_on_with_is_refused_at_once(scene: Scene) -> None:
    """CL-24, CL-32, CL-41, CL-42: nothing is proposed."""
    scene.promote(99)
    scene.matches[LEARNER] = 89
    scene.promote(LEARNER)
    scene.steady.discard(TWO)
    scene.add("fourth")
    scene.remove(ONE)
    assert scene.refusals() == [MemberNotFound, LearnerNotReady, UnhealthyCluster, UnhealthyCluster]
    assert (scene.proposed, scene.scheduled) == ([], 0)


def test_what_only_the_members_know_is_left_to_applying(scene: Scene) -> None:
    """CL-23: this member's list may be older than the leader's, so it does not refuse by it."""
    scene.add("taken", f"http://m{ONE}:1")
    scene.applied(result=PeerURLExists())
    scene.remove(99)
    scene.applied(result=MemberNotFound())
    scene.promote(ONE)
    scene.applied(result=MemberNotLearner())
    assert len(scene.proposed) == 3
    assert scene.refusals() == [PeerURLExists, MemberNotFound, MemberNotLearner]


def test_a_member_that_is_not_connected_may_be_removed(scene: Scene) -> None:
    """CL-32: that is why one removes it."""
    del scene.since[TWO]
    scene.steady.discard(TWO)
    scene.remove(TWO)
    assert scene.asked() == [(MemberChange.REMOVE, TWO)]


def test_too_many_learners_are_refused(scene: Scene) -> None:
    """CL-22: by --max-learners of the member that is asked."""
    scene.add("second", is_learner=True)
    txn = scene.backend.begin_write()
    scene.members.add(txn, Member(9, ("http://m9:1",), is_learner=True))
    scene.applied()
    scene.add("third", is_learner=True)
    assert scene.refusals()[1:] == [TooManyLearners]


def test_an_unstarted_member_is_one_to_wait_for(scene: Scene) -> None:
    """CL-24: two of those, and the quorum would be of names only."""
    txn = scene.backend.begin_write()
    scene.members.remove(txn, TWO)
    scene.members.add(txn, Member(9, ("http://m9:1",)))
    scene.add("fourth")
    assert scene.refusals() == [NotEnoughStarted]


def test_without_the_strict_check_nobody_need_be_connected(tmp_path: Path) -> None:
    """--strict-reconfig-check=false. The number of learners is no part of it (CL-22)."""
    scene = Scene(tmp_path, strict=False, max_learners=1)
    scene.steady.clear()
    scene.add("fourth")
    scene.add("learner", is_learner=True)
    assert (len(scene.proposed), scene.refusals()) == (1, [TooManyLearners])
    scene.backend.close()


def test_only_the_leader_knows_whether_a_learner_is_ready(scene: Scene) -> None:
    """CL-44."""
    scene.follow(ONE)
    scene.promote(LEARNER)
    assert scene.refusals() == [NotLeader]


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_the_next_change_waits_until_the_last_is_applied(scene: Scene) -> None:
    """CL-51, RF-60: a second one in the log would become an empty entry."""
    for name in ("a", "b", "c"):
        scene.add(name)
    scene.go_on()
    assert len(scene.proposed) == 1
    scene.applied(0)
    assert (len(scene.proposed), scene.results) == (2, [("a", (0, b"members"))])
    scene.applied(1, PeerURLExists())
    assert [name for name, _ in scene.results] == ["a", "b"]
    assert isinstance(scene.results[1][1], PeerURLExists), "refused when it was applied (CL-23)"
    scene.applied(2)
    assert [name for name, _ in scene.results] == ["a", "b", "c"]


def test_a_change_that_was_given_up_does_not_hold_up_the_next(scene: Scene) -> None:
    """Its entry may have been lost with a leader."""
    scene.add("lost")
    scene.add("next")
    scene.now += 10.0
    scene.proposals.expire(scene.now, gave_up)
    assert scene.refusals() == [TimeoutError]
    scene.go_on()
    assert len(scene.proposed) == 2
    scene.applied(1)
    assert scene.results[1] == ("next", (0, b"members"))


def test_a_leader_waits_until_a_change_of_another_is_applied(scene: Scene) -> None:
    """RF-60: that of a follower, or of the leader before."""
    scene.can_change_conf = False
    scene.add("a")
    scene.go_on()
    assert scene.proposed == []
    scene.can_change_conf = True
    scene.go_on()
    assert len(scene.proposed) == 1


def test_a_follower_gives_its_change_to_the_leader_at_once(scene: Scene) -> None:
    """Whether it is its turn the leader knows."""
    scene.follow(ONE)
    scene.can_change_conf = False
    scene.add("a")
    assert len(scene.proposed) == 1


def test_without_a_leader_changes_wait(scene: Scene) -> None:
    """G-51."""
    scene.follow(0)
    scene.add("a")
    scene.go_on()
    assert (scene.proposed, scene.results) == ([], [])
    scene.follow(TWO)
    scene.go_on()
    assert len(scene.proposed) == 1


def test_a_change_that_has_waited_too_long_is_not_made_any_more(scene: Scene) -> None:
    """G-51, G-52: whoever asked has given up, and may have decided otherwise since. Those who came later still wait."""
    scene.follow(0)
    scene.remove(ONE, "early")
    scene.now += 2.0
    scene.remove(TWO, "late")
    scene.now += TIMEOUT_S - 2.1
    scene.go_on()
    assert scene.results == []
    scene.now += 0.1
    scene.go_on()
    [(name, error)] = scene.results
    assert (name, type(error), error.args) == ("early", TimeoutError, (100.0,))
    scene.follow(ME)
    scene.go_on()
    assert scene.asked() == [(MemberChange.REMOVE, TWO)]
    scene.applied()
    assert [name for name, _ in scene.results] == ["early", "late"]


def test_a_change_behind_one_that_hangs_is_given_up_too(scene: Scene) -> None:
    """G-51: the one under way is in the log, and the proposals give it up."""
    scene.add("hangs")
    scene.add("next")
    scene.now += TIMEOUT_S
    scene.go_on()
    assert [name for name, _ in scene.results] == ["next"]
    scene.applied()
    assert len(scene.proposed) == 1


def test_it_says_whether_anything_waits(scene: Scene) -> None:
    said = []
    steps: list[Callable[[], object]] = [
        lambda: scene.add("in the log, where nobody can do anything for it"),
        lambda: scene.add("behind it"),
        lambda: scene.applied(0),
    ]
    for step in steps:
        step()
        said.append(scene.changes.waits)
    scene.can_change_conf = False
    scene.changes.hold(proposal(CHANGE))
    assert [*said, scene.changes.waits] == [False, True, False, True]


def test_so_many_changes_may_wait(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the next is refused and the others stay."""
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    for name in ("under way", "b", "c", "one too many"):
        scene.add(name)
    assert [name for name, _ in scene.results] == ["one too many"]
    assert scene.refusals() == [TooManyRequests]
    scene.applied()
    scene.add("d")
    assert len(scene.results) == 2


def test_a_change_that_the_core_drops_is_surely_not_made(scene: Scene) -> None:
    """G-54: a transfer is under way. The next is tried all the same."""
    scene.drops = True
    scene.add("dropped")
    assert scene.refusals() == [ProposalLost]
    scene.drops = False
    scene.add("next")
    assert len(scene.proposed) == 1


def test_stopping_answers_everybody_once(scene: Scene) -> None:
    """G-56: the one under way is in the log, and answered by the proposals."""
    for name in ("under way", "b", "c"):
        scene.add(name)
    scene.changes.fail_all(Stopped())
    scene.changes.fail_all(Stopped())
    assert [name for name, _ in scene.results] == ["b", "c"]
    scene.proposals.fail_all(Stopped())
    assert scene.refusals() == [Stopped] * 3


# --- of followers -----------------------------------------------------------------------------------------------------


def proposal(*types: EntryType, kind: MessageType = MessageType.PROP, sender: int = ONE) -> Message:
    return Message(kind, ME, sender=sender, entries=[Entry(0, 0, each, b"data") for each in types])


CHANGE = EntryType.CONF_CHANGE


def test_a_followers_change_that_comes_too_early_is_kept_until_its_turn(scene: Scene) -> None:
    """RF-60: the core would make an empty entry of it, and nobody would hear of that."""
    scene.can_change_conf = False
    early, later = proposal(CHANGE), proposal(CHANGE, sender=TWO)
    assert scene.changes.hold(early)
    assert scene.changes.hold(later)
    scene.go_on()
    assert scene.stepped == []
    scene.can_change_conf = True
    scene.go_on()
    assert scene.stepped == [early, later]
    scene.go_on()
    assert len(scene.stepped) == 2
    assert scene.scheduled == 2


def test_one_of_them_that_blocks_the_next_is_waited_for(scene: Scene) -> None:
    scene.can_change_conf = False
    for sender in (ONE, TWO):
        scene.changes.hold(proposal(CHANGE, sender=sender))

    def step(message: Message) -> None:
        scene.stepped.append(message)
        scene.can_change_conf = False

    scene.step = step  # type: ignore[method-assign]
    scene.can_change_conf = True
    scene.go_on()
    assert [message.sender for message in scene.stepped] == [ONE]


@pytest.mark.parametrize(
    "message",
    [
        proposal(EntryType.NORMAL),
        proposal(EntryType.NORMAL, EntryType.NORMAL),
        proposal(CHANGE, kind=MessageType.APP),
        proposal(),
    ],
    ids=["request", "requests", "append", "nothing"],
)
def test_everything_else_passes(scene: Scene, message: Message) -> None:
    scene.can_change_conf = False
    assert not scene.changes.hold(message)


def test_what_comes_in_its_turn_passes(scene: Scene) -> None:
    assert not scene.changes.hold(proposal(CHANGE))
    scene.can_change_conf = False
    scene.follow(ONE)
    assert not scene.changes.hold(proposal(CHANGE)), "a follower passes it on"


def test_what_followers_gave_to_a_leader_is_not_the_next_ones(scene: Scene) -> None:
    """They time out, or ask again; made later, a change might be one that nobody wants any more."""
    scene.can_change_conf = False
    scene.changes.hold(proposal(CHANGE))
    scene.follow(ONE)
    scene.follow(ME)
    scene.can_change_conf = True
    scene.go_on()
    assert scene.stepped == []


def test_so_many_of_them_are_kept(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound they are lost, as on the way."""
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    scene.can_change_conf = False
    assert all(scene.changes.hold(proposal(CHANGE)) for _ in range(4))
    scene.can_change_conf = True
    scene.go_on()
    assert len(scene.stepped) == 2
