"""Elections: claims with a value, and streams that follow who leads and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from claims_support import Scene, WaitingCall, delete, elected, key_value, put, told
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.apply import Kind
from raftkv.pb import election_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import RequestTimedOut

NOT_LEADER = (Code.UNKNOWN, "election: not leader")
NO_LEADER = (Code.UNKNOWN, "election: no leader")
NO_KEY = (Code.UNKNOWN, '"leader" field must be provided')
UNAVAILABLE_NO_LEADER = (Code.UNAVAILABLE, "etcdserver: no leader")
STOPPED = (Code.UNAVAILABLE, "etcdserver: server stopped")

Leader = election_pb2.LeaderKey


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def value_of(scene: Scene, key: bytes) -> tuple[bytes, int]:
    """Value and lease."""
    state = scene.node.store.get(scene.node.backend.read(), key)
    assert state is not None
    return state.value, state.lease


def ask_campaign(scene: Scene, value: bytes, lease: int) -> Any:
    """A Campaign call that has just come in."""
    call: Any = WaitingCall()
    request = election_pb2.CampaignRequest(name=b"n", lease=lease, value=value)
    scene.election.campaign(call, request.SerializeToString())
    return call


# --- campaigning ------------------------------------------------------------------------------------------------------


def test_winning_at_once(scene: Scene) -> None:
    """EL-01, EL-02."""
    answer = elected(scene.campaign(b"me", scene.lease()))
    assert answer.leader == Leader(name=b"n", key=b"n/1", rev=2, lease=1)
    assert answer.header.revision == 2
    assert value_of(scene, b"n/1") == (b"me", 1)
    granted = elected(scene.campaign(b"me", name=b"other")).leader
    assert granted.key == b"other/%x" % granted.lease
    assert value_of(scene, granted.key) == (b"me", granted.lease)


def test_winning_after_others(scene: Scene) -> None:
    """EL-01: the header stays that of the claim."""
    scene.campaign(b"one", scene.lease())
    waiter = scene.campaign(b"two", scene.lease())
    assert not waiter.ended
    scene.unlock(b"n/1")
    answer = elected(waiter)
    assert answer.leader == Leader(name=b"n", key=b"n/2", rev=3, lease=2)
    assert answer.header.revision == 3


@pytest.mark.parametrize("leads", [True, False])
def test_campaigning_again(scene: Scene, leads: bool) -> None:
    """EL-03: the place in the queue stays, the value changes if it is another."""
    if not leads:
        scene.campaign(b"before", scene.lease())
    lease = scene.lease()
    key = b"n/%x" % lease
    revision = scene.node.store.current_revision + 1
    first = scene.campaign(b"me", lease)
    same = scene.campaign(b"me", lease)
    assert scene.node.store.current_revision == revision
    other = scene.campaign(b"", lease)
    assert value_of(scene, key) == (b"", lease)
    if not leads:
        assert not any(call.ended for call in (first, same, other))
        scene.unlock(b"n/1")
    for call in (first, same, other):
        answer = elected(call)
        assert (answer.leader.key, answer.leader.rev) == (key, revision)


def test_a_lock_with_the_same_lease_leaves_the_value(scene: Scene) -> None:
    """LK-06: locks and elections under one name compete."""
    lease = scene.lease()
    scene.campaign(b"me", lease)
    assert scene.lock(lease=lease).replies
    assert value_of(scene, b"n/1") == (b"me", lease)


def test_a_candidate_whose_lease_ends_does_not_win(scene: Scene) -> None:
    """EL-01, LK-05: it is told so, where etcd would call it the leader."""
    scene.campaign(b"one", scene.lease())
    lease = scene.lease()
    waiter = scene.campaign(b"two", lease)
    scene.revoke(lease)
    scene.unlock(b"n/1")
    assert waiter.failure == NOT_LEADER
    assert not scene.queue()


def test_a_key_that_goes_before_its_value_is_replaced(scene: Scene) -> None:
    """EL-03, EL-04."""
    lease = scene.lease()
    scene.campaign(b"me", lease)
    call = ask_campaign(scene, b"other", lease)
    scene.node.add(*delete(b"n/1"))
    scene.settle()
    assert call.failure == NOT_LEADER
    assert not scene.claims.places


def test_a_value_that_cannot_be_replaced(scene: Scene) -> None:
    """EL-03: the caller is told; what its first call was told still holds."""
    lease = scene.lease()
    scene.campaign(b"me", lease)
    call = ask_campaign(scene, b"other", lease)
    scene.node.refusals = [RequestTimedOut()]
    scene.settle()
    assert call.failure == (Code.UNAVAILABLE, "etcdserver: request timed out")
    assert value_of(scene, b"n/1") == (b"me", 1)
    assert not scene.claims.places


@pytest.mark.parametrize("calls", [1, 2])
def test_a_candidate_that_goes(scene: Scene, calls: int) -> None:
    """EL-08, EL-03: with the last call for its key, be it while that replaces the value."""
    scene.campaign(b"one", scene.lease())
    lease = scene.lease()
    first, *others = [scene.campaign(b"%d" % number, lease) for number in range(calls)]
    last = ask_campaign(scene, b"last", lease)
    scene.node.commit()
    assert scene.node.waiting, "the value is being replaced"
    for call in (first, *others):
        call.cancel()
    scene.settle()
    assert [key for _, key in scene.queue()] == [b"n/1", b"n/2"]
    last.cancel()
    scene.settle()
    assert [key for _, key in scene.queue()] == [b"n/1"]
    assert not scene.claims.places


# --- proclaiming, asking, resigning -----------------------------------------------------------------------------------


def test_proclaiming(scene: Scene) -> None:
    """EL-04."""
    leader = elected(scene.campaign(b"me", scene.lease())).leader
    (reply,) = scene.ask(scene.election.proclaim, election_pb2.ProclaimRequest(leader=leader, value=b"new")).replies
    assert election_pb2.ProclaimResponse.FromString(reply).header.revision == 3
    assert value_of(scene, leader.key) == (b"new", 1)


@pytest.mark.parametrize(
    ("leader", "refusal"),
    [
        (None, NO_KEY),
        (Leader(), (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")),
        (Leader(key=b"n/1", rev=1, lease=1), NOT_LEADER),
        (Leader(key=b"n/2", rev=2, lease=1), NOT_LEADER),
        (Leader(key=b"n/1", rev=2, lease=99), (Code.NOT_FOUND, "etcdserver: requested lease not found")),
    ],
)
def test_proclaiming_what_is_refused(scene: Scene, leader: election_pb2.LeaderKey | None, refusal: object) -> None:
    """EL-04."""
    scene.campaign(b"me", scene.lease())
    call = scene.ask(scene.election.proclaim, election_pb2.ProclaimRequest(leader=leader, value=b"new"))
    assert call.failure == refusal
    assert value_of(scene, b"n/1") == (b"me", 1)


def test_proclaiming_without_a_lease(scene: Scene) -> None:
    """EL-04, EL-02: a value with no lease would stay for ever."""
    scene.campaign(b"me", scene.lease())
    call = scene.ask(
        scene.election.proclaim, election_pb2.ProclaimRequest(leader=Leader(key=b"n/1", rev=2), value=b"new")
    )
    assert call.replies
    value, lease = value_of(scene, b"n/1")
    assert value == b"new"
    assert lease > 1
    assert lease in scene.node.lessor
    scene.node.quota.allows = lambda _cost: False
    call = scene.ask(scene.election.proclaim, election_pb2.ProclaimRequest(leader=Leader(key=b"n/1", rev=2)))
    assert call.failure == (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")


def test_who_leads(scene: Scene) -> None:
    """EL-05."""
    ask = election_pb2.LeaderRequest(name=b"n")
    assert scene.ask(scene.election.leader, ask).failure == NO_LEADER
    scene.campaign(b"z", scene.lease())
    scene.campaign(b"a", scene.lease())
    assert key_value(scene.ask(scene.election.leader, ask)).value == b"z"
    scene.unlock(b"n/1")
    assert key_value(scene.ask(scene.election.leader, ask)).value == b"a"
    scene.node.read_error = RequestTimedOut()
    assert scene.ask(scene.election.leader, ask).failure == (Code.UNAVAILABLE, "etcdserver: request timed out")


def test_resigning(scene: Scene) -> None:
    """EL-07."""
    leader = elected(scene.campaign(b"me", scene.lease())).leader
    for revision in (3, 3):
        (reply,) = scene.ask(scene.election.resign, election_pb2.ResignRequest(leader=leader)).replies
        assert election_pb2.ResignResponse.FromString(reply).header.revision == revision
    assert not scene.queue()
    assert scene.ask(scene.election.resign, election_pb2.ResignRequest()).failure == NO_KEY
    refused = scene.ask(scene.election.resign, election_pb2.ResignRequest(leader=Leader()))
    assert refused.failure == (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")


def test_resigning_from_an_earlier_term(scene: Scene) -> None:
    """EL-07: the key is there again, and is another leadership."""
    lease = scene.lease()
    old = elected(scene.campaign(b"me", lease)).leader
    scene.unlock(b"n/1")
    scene.campaign(b"me", lease)
    assert scene.ask(scene.election.resign, election_pb2.ResignRequest(leader=old)).replies
    assert scene.queue() == [(4, b"n/1")]


def test_requests_that_are_none(scene: Scene) -> None:
    for handler in (
        scene.election.campaign,
        scene.election.proclaim,
        scene.election.leader,
        scene.election.resign,
    ):
        call: Any = WaitingCall()
        handler(call, b"\xff")
        assert call.failure[0] is Code.INTERNAL
    call, observer = scene.observe()
    observer.on_message(b"\xff")
    assert call.failure[0] is Code.INTERNAL


# --- observing --------------------------------------------------------------------------------------------------------


def test_observing_from_before_the_first_leader(scene: Scene) -> None:
    """EL-06: silence while there is none; then each value and each leader."""
    call, _ = scene.observe()
    scene.node.put(b"m/1", b"n0")
    scene.settle()
    assert not told(call)
    leader = elected(scene.campaign(b"one", scene.lease())).leader
    scene.ask(scene.election.proclaim, election_pb2.ProclaimRequest(leader=leader, value=b"more"))
    scene.campaign(b"two", scene.lease())
    scene.ask(scene.election.resign, election_pb2.ResignRequest(leader=leader))
    scene.unlock(b"n/2")
    scene.campaign(b"three", 1)
    assert told(call) == [
        (4, b"n/1", b"one"),
        (5, b"n/1", b"more"),
        (7, b"n/2", b"two"),
        (9, b"n/1", b"three"),
    ]
    assert scene.watchers == 1


def test_observing_begins_with_who_leads(scene: Scene) -> None:
    """EL-06."""
    scene.campaign(b"one", scene.lease())
    scene.campaign(b"two", scene.lease())
    call, _ = scene.observe()
    assert told(call) == [(3, b"n/1", b"one")]


def test_all_values_of_one_entry(scene: Scene) -> None:
    """EL-06: the first claim and its next values are applied together, before the observer can turn to the key."""
    call, _ = scene.observe()
    for value in (b"1", b"2", b"3"):
        scene.node.add(*put(b"n/1", value))
    scene.settle()
    assert told(call) == [(2, b"n/1", b"1"), (4, b"n/1", b"2"), (4, b"n/1", b"3")]


def test_a_leader_that_goes_and_comes_in_one_entry(scene: Scene) -> None:
    """EL-06."""
    scene.node.put(b"n/1")
    call, _ = scene.observe()
    scene.node.add(*delete(b"n/1"))
    scene.node.add(*put(b"n/1", b"again"))
    scene.node.add(*put(b"n/1", b"and again"))
    scene.settle()
    assert told(call) == [(2, b"n/1", b"v"), (5, b"n/1", b"and again")]
    scene.node.put(b"n/1", value=b"on")
    scene.settle()
    assert told(call)[2:] == [(6, b"n/1", b"on")]


def test_an_observer_that_does_not_read(scene: Scene) -> None:
    """EL-06, W-91: what it is sent is bounded meanwhile, and nothing is left out."""
    scene.node.put(b"n/1", value=b"0")
    call, observer = scene.observe(room=2)
    for number in range(1, 6):
        scene.node.put(b"n/1", value=b"%d" % number)
        scene.settle()
    assert [value for _, _, value in told(call)] == [b"0", b"1"]
    scene.node.apply((Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"n/1").SerializeToString()))
    scene.node.put(b"n/2", value=b"other")
    scene.settle()
    call.room = None
    observer.on_writable()
    scene.settle()
    assert [value for _, _, value in told(call)] == [b"0", b"1", b"2", b"3", b"4", b"5", b"other"]


def test_an_observer_that_does_not_read_until_it_is_compacted(scene: Scene) -> None:
    """EL-06, W-41: it goes on from what is there, and is not told again what it was told."""
    scene.node.put(b"n/1", value=b"0")
    call, observer = scene.observe(room=1)
    for number in range(1, 6):
        scene.node.put(b"n/1", value=b"%d" % number)
    scene.node.apply((Kind.COMPACT, rpc_pb2.CompactionRequest(revision=7).SerializeToString()))
    call.room = None
    observer.on_writable()
    scene.settle()
    scene.node.put(b"n/1", value=b"6")
    scene.settle()
    assert told(call) == [(2, b"n/1", b"0"), (7, b"n/1", b"5"), (8, b"n/1", b"6")]


@pytest.mark.parametrize("changed", [True, False])
def test_a_store_that_was_replaced(scene: Scene, changed: bool) -> None:
    """EL-06, W-60: what it skipped is compacted."""
    scene.node.put(b"n/1", value=b"0")
    call, _ = scene.observe()
    if changed:
        scene.node.add(*put(b"n/1", b"1"))
    for _ in range(3):
        scene.node.add(*put(b"x"))
    scene.node.add(Kind.COMPACT, rpc_pb2.CompactionRequest(revision=5))
    scene.node.commit(published=False)
    scene.node.hub.resync_all(scene.node.backend.tables)
    scene.node.catch_up()
    scene.settle()
    values = [value for _, _, value in told(call)]
    assert values == ([b"0", b"1"] if changed else [b"0"])
    scene.node.put(b"n/1", value=b"on")
    scene.settle()
    assert [value for _, _, value in told(call)] == [*values, b"on"]


def test_an_observer_that_cannot_read_at_first(scene: Scene) -> None:
    scene.node.read_error = RequestTimedOut()
    call, _ = scene.observe()
    assert call.failure == (Code.UNAVAILABLE, "etcdserver: request timed out")
    assert not scene.watchers


def test_observers_end_when_the_member_stops(scene: Scene) -> None:
    """ER-03."""
    calls = [scene.observe()[0] for _ in range(2)]
    scene.election.end_streams()
    assert [call.failure for call in calls] == [STOPPED, STOPPED]
    assert not scene.watchers


def test_observers_that_asked_for_a_leader_end_without_one(scene: Scene) -> None:
    """G-21, G-22."""
    asking, _ = scene.observe(hasleader="true")
    other, _ = scene.observe()
    scene.node.leader_id = 0
    for now in (100.0, 102.9):
        scene.election.on_tick(now)
        assert not asking.ended
    scene.election.on_tick(103.0)
    assert asking.failure == UNAVAILABLE_NO_LEADER
    assert not other.ended


@pytest.mark.parametrize("when", ["waiting", "following", "turning", "reading"])
def test_an_observer_that_goes(scene: Scene, when: str) -> None:
    """Nothing is left of it, and nothing is sent any more."""
    if when != "waiting":
        scene.node.put(b"n/1")
    if when == "reading":
        scene.node.held_reads = []
    call, _ = scene.observe()
    if when == "turning":
        scene.node.add(*delete(b"n/1"))
        scene.node.commit()
        assert scene.node.loop.soon
    call.cancel()
    if when == "reading":
        held, scene.node.held_reads = scene.node.held_reads or [], None
        for read, context in held:
            read(context, None)
    sent = len(call.sent)
    scene.node.put(b"n/2")
    scene.settle()
    assert len(call.sent) == sent
    assert not scene.watchers


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("put", "delete", "commit", "settle", "stall", "read on")), st.integers(1, 3)),
        max_size=40,
    )
)
def test_an_observer_sees_leaders_in_order(steps: list[tuple[str, int]]) -> None:
    """EL-06: every value it is sent was the leader's at some time, in order, none twice; the last is the one that holds
    when all is quiet."""
    scene = Scene()
    try:
        call, observer = scene.observe()
        values = 0
        for step, number in steps:
            if step == "put":
                values += 1
                scene.node.add(*put(b"n/%d" % number, b"%d" % values))
            elif step == "delete":
                scene.node.add(*delete(b"n/%d" % number))
            elif step == "commit" and scene.node.waiting:
                scene.node.commit()
            elif step == "settle":
                scene.settle()
            elif step == "stall":
                call.room = len(call.sent) + number
            elif step == "read on":
                call.room = None
                observer.on_writable()
        call.room = None
        observer.on_writable()
        scene.settle()
        sent = [election_pb2.LeaderResponse.FromString(each) for each in call.sent]
        seen = [each.kv for each in sent]
        revisions = [kv.mod_revision for kv in seen]
        assert len(set(revisions)) == len(revisions)
        for each in sent:
            assert each.kv.key in (scene.owner_at(each.kv.mod_revision), scene.owner_at(each.header.revision))
        creations = [kv.create_revision for kv in seen]
        assert creations == sorted(creations)
        leaders = scene.queue()
        assert not leaders or (seen[-1].key, seen[-1].create_revision) == leaders[0][::-1]
        if leaders:
            assert seen[-1].value == value_of(scene, leaders[0][1])[0]
    finally:
        scene.close()
