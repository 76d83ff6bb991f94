"""Claims to a name: who owns it, who waits for whom, and what becomes of a claim whose call ends otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from claims_support import Scene, WaitingCall, delete, locked
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.api.claims import RETRIES, claim_key
from raftkv.api.learner_gate import LearnerGate
from raftkv.apply import Kind
from raftkv.pb import lock_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Method, MethodKind, build_routes
from raftkv.server.errors import ProposalLost, RequestTimedOut, Stopped

EXPIRED = (Code.UNKNOWN, "mutex: session is expired")
STOPPED = (Code.UNAVAILABLE, "etcdserver: server stopped")
TIMED_OUT = (Code.UNAVAILABLE, "etcdserver: request timed out")


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


# --- owning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lease", "key"),
    [(10, b"n/a"), (2**63 - 1, b"n/7fffffffffffffff"), (-26, b"n/-1a"), (-(2**63), b"n/-" + b"8" + b"0" * 15)],
)
def test_the_key_of_a_claim(lease: int, key: bytes) -> None:
    """LK-01."""
    assert claim_key(b"n", lease) == key


def test_a_free_lock_takes_one_round(scene: Scene) -> None:
    """LK-01, LK-03, LK-08."""
    scene.node.read_error = RequestTimedOut()  # nothing is asked of the other members but to write
    answer = locked(scene.lock(lease=scene.lease()))
    assert (answer.key, answer.header.revision) == (b"n/1", 2)
    assert [kind for kind, _ in scene.node.proposed] == [Kind.TXN]
    assert scene.queue() == [(2, b"n/1")]
    assert not scene.watchers
    assert not scene.claims.places


def test_a_claim_that_goes_in_its_own_entry(scene: Scene) -> None:
    """LK-05, LK-08: alone it was granted, at its revision; after another there is nothing to own any more."""
    first, second = (scene.ask_lock(lease=scene.lease()) for _ in range(2))
    for key in (b"n/1", b"n/2"):
        scene.node.add(*delete(key))
    scene.settle()
    assert locked(first).header.revision == 2
    assert second.failure == EXPIRED
    assert not scene.claims.places


def test_the_same_lease_again_has_the_lock(scene: Scene) -> None:
    """LK-06."""
    lease = scene.lease()
    scene.lock(lease=lease)
    scene.lock(b"other", lease)
    again = locked(scene.lock(lease=lease))
    assert (again.key, again.header.revision) == (b"n/1", 3)
    assert scene.queue() == [(2, b"n/1")]


def test_without_a_lease_one_of_a_minute_is_granted(scene: Scene) -> None:
    """LK-02."""
    answer = locked(scene.lock())
    (kind, message), _ = scene.node.proposed
    granted = rpc_pb2.LeaseGrantRequest.FromString(message)
    assert (kind, granted.TTL) == (Kind.LEASE_GRANT, 60)
    assert answer.key == b"n/%x" % granted.ID


def test_an_unknown_lease(scene: Scene) -> None:
    """LK-10."""
    assert scene.lock(lease=99).failure == (Code.NOT_FOUND, "etcdserver: requested lease not found")
    assert not scene.queue()
    assert len(scene.node.proposed) == 1, "there is nothing to take back"
    assert not scene.claims.places


def test_names_do_not_reach_into_each_other(scene: Scene) -> None:
    """LK-03: n/ is not the prefix of other names' claims."""
    for name in (b"n", b"nn", b"n0", b"m", b""):
        assert locked(scene.lock(name, scene.lease())).key


def test_unlocking(scene: Scene) -> None:
    """LK-09."""
    key = locked(scene.lock(lease=scene.lease())).key
    for revision in (3, 3):
        (reply,) = scene.unlock(key).replies
        assert lock_pb2.UnlockResponse.FromString(reply).header.revision == revision
    assert scene.unlock(b"").failure == (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_each_waits_for_the_one_before_it(scene: Scene) -> None:
    """LK-04, LK-11: in the order of claims, and one deletion wakes one."""
    holder, *waiters = [scene.lock(lease=scene.lease()) for _ in range(4)]
    assert locked(holder).key == b"n/1"
    for number, waiter in enumerate(waiters):
        assert not waiter.ended
        assert scene.watchers == len(waiters) - number
        scene.node.add(*delete(b"n/%x" % (number + 1)))
        scene.node.commit()
        assert len(scene.node.loop.soon) == 1, "the others sleep on"
        scene.settle()
        answer = locked(waiter)
        assert answer.key == b"n/%x" % (number + 2)
        assert answer.header.revision == scene.node.store.current_revision, "of what confirmed it (LK-08)"
    assert not scene.watchers


def test_one_that_leaves_the_middle_of_the_queue_lets_nobody_in(scene: Scene) -> None:
    """LK-04: who was woken looks again at who is before it."""
    _holder, middle, last = [scene.lock(lease=scene.lease()) for _ in range(3)]
    middle.cancel()
    scene.settle()
    assert scene.queue() == [(2, b"n/1"), (4, b"n/3")]
    assert not last.ended
    scene.unlock(b"n/1")
    assert locked(last).key == b"n/3"


def test_an_owner_that_goes_in_the_same_entry(scene: Scene) -> None:
    """LK-04: the claim's own answer names an owner that is gone by the time it arrives."""
    scene.lock(lease=scene.lease())
    call = scene.ask_lock(lease=scene.lease())
    scene.node.add(*delete(b"n/1"))
    scene.settle()
    assert locked(call).key == b"n/2"


def test_an_owner_that_goes_while_a_long_queue_is_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """LK-04: the watcher begins where the reading stood, in the past by now."""
    calls = [scene.lock(lease=scene.lease()) for _ in range(4)]
    for call in calls[1:3]:
        call.cancel()
    scene.settle()
    monkeypatch.setattr("raftkv.mvcc.scan.SLICE_KEYS", 1)
    last = scene.ask_lock(lease=scene.lease())
    scene.node.commit()
    assert scene.node.tasks, "the queue is being read in slices"
    scene.node.add(*delete(b"n/1"))
    scene.node.add(*delete(b"n/4"))
    scene.node.commit()
    scene.settle()
    assert locked(last).key == b"n/5"


@pytest.mark.parametrize("compacted", [False, True])
def test_a_store_that_was_replaced(scene: Scene, compacted: bool) -> None:
    """LK-04, W-41, W-60: nobody was told that the owner's key went; the events may even be compacted."""
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    scene.node.add(*delete(b"n/1"))
    scene.node.add(Kind.PUT, rpc_pb2.PutRequest(key=b"x"))
    if compacted:
        scene.node.add(Kind.COMPACT, rpc_pb2.CompactionRequest(revision=5))
    scene.node.commit(published=False)
    scene.node.hub.resync_all(scene.node.backend.tables)
    scene.node.catch_up()
    scene.settle()
    assert locked(waiter).key == b"n/2"
    assert not scene.watchers


def test_a_lease_that_ends_while_its_claim_waits(scene: Scene) -> None:
    """LK-05."""
    scene.lock(lease=scene.lease())
    lease = scene.lease()
    waiter = scene.lock(lease=lease)
    scene.revoke(lease)
    assert not waiter.ended
    scene.unlock(b"n/1")
    assert waiter.failure == EXPIRED
    assert not scene.claims.places


def test_a_claim_that_was_made_anew_is_another(scene: Scene) -> None:
    """LK-05, LK-11: the key is there again, but behind those that came meanwhile."""
    scene.lock(lease=scene.lease())
    first = scene.lock(lease=scene.lease())
    scene.unlock(b"n/2")
    other = scene.lock(lease=scene.lease())
    again = scene.lock(lease=2)
    scene.unlock(b"n/1")
    assert first.failure == EXPIRED
    assert locked(other).key == b"n/3"
    assert not again.ended
    scene.unlock(b"n/3")
    assert locked(again).key == b"n/2"


# --- the client goes --------------------------------------------------------------------------------------------------


def test_a_client_that_goes_while_it_waits(scene: Scene) -> None:
    """LK-07."""
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    waiter.cancel()
    scene.settle()
    assert scene.queue() == [(2, b"n/1")]
    assert not scene.watchers
    assert not scene.claims.places


def test_a_client_that_goes_while_a_claim_of_its_lease_waits(scene: Scene) -> None:
    """LK-07: the claim came over another member, and nobody waits there any more."""
    scene.lock(lease=scene.lease())
    scene.node.add(Kind.PUT, rpc_pb2.PutRequest(key=b"n/2", lease=scene.lease()))
    scene.settle()
    waiter = scene.lock(lease=2)
    waiter.cancel()
    scene.settle()
    assert scene.queue() == [(2, b"n/1")]


def test_a_client_that_goes_before_its_claim_is_made(scene: Scene) -> None:
    """LK-07: nobody would know of it."""
    call = scene.ask_lock(lease=scene.lease())
    call.cancel()
    scene.settle()
    assert not scene.queue()
    assert not call.replies
    assert not scene.claims.places


def test_a_client_that_goes_before_its_lease_is_granted(scene: Scene) -> None:
    """LK-02, LK-07."""
    call = scene.ask_lock()
    call.cancel()
    scene.settle()
    assert [kind for kind, _ in scene.node.proposed] == [Kind.LEASE_GRANT]
    assert not scene.claims.places


def test_a_client_that_has_gone_already(scene: Scene) -> None:
    """A gate in front may have held the call for a while."""
    call: WaitingCall = WaitingCall()
    call.cancel()
    scene.lock_service.lock(call, lock_pb2.LockRequest(name=b"n", lease=scene.lease()).SerializeToString())  # type: ignore[arg-type]
    scene.settle()
    assert not scene.node.proposed


def test_a_client_that_goes_while_it_asks_again_keeps_its_lock(scene: Scene) -> None:
    """LK-06, LK-07: the claim was there before this call."""
    lease = scene.lease()
    scene.lock(lease=lease)
    again = scene.ask_lock(lease=lease)
    again.cancel()
    scene.settle()
    assert scene.queue() == [(2, b"n/1")]


@pytest.mark.parametrize("when", ["made", "waiting", "owned"])
def test_a_client_that_tries_again_takes_its_claim_over(scene: Scene, when: str) -> None:
    """LK-06, LK-07: the first call gave up after the second had come; what the second was told must hold."""
    if when != "owned":
        scene.lock(lease=scene.lease())
    lease = scene.lease()
    first = scene.ask_lock(lease=lease)
    if when == "waiting":
        scene.settle()
    second = scene.ask_lock(lease=lease)
    first.cancel()
    scene.settle()
    if when != "owned":
        scene.unlock(b"n/1")
    assert locked(second).key == claim_key(b"n", lease)
    assert [key for _, key in scene.queue()] == [claim_key(b"n", lease)]


def test_what_is_taken_back_is_this_claim_and_no_later_one(scene: Scene) -> None:
    """LK-07: the key went and was made again, by a client of another member, before the deletion."""
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    scene.node.add(*delete(b"n/2"))
    scene.node.add(Kind.PUT, rpc_pb2.PutRequest(key=b"n/2", lease=2))
    waiter.cancel()
    scene.settle()
    assert scene.queue() == [(2, b"n/1"), (5, b"n/2")]


@pytest.mark.parametrize("failure", [RequestTimedOut(), ProposalLost()])
def test_taking_back_is_tried_again(scene: Scene, failure: Exception) -> None:
    """LK-07: an election must not leave a claim behind that nobody knows of."""
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    scene.node.refusals = [failure, failure]
    waiter.cancel()
    for _ in range(2):
        scene.settle()
        assert len(scene.queue()) == 2
        (retry,) = scene.node.loop.later
        scene.node.loop.later.clear()
        retry()
    scene.settle()
    assert scene.queue() == [(2, b"n/1")]
    assert not scene.claims.places


def test_taking_back_is_given_up_in_the_end(scene: Scene) -> None:
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    scene.node.refusals = [RequestTimedOut()] * (RETRIES + 10)
    waiter.cancel()
    tries = 0
    while scene.node.loop.later:
        scene.node.loop.later.pop()()
        tries += 1
    assert tries == RETRIES
    assert not scene.claims.places


def test_taking_back_stops_when_the_client_comes_again(scene: Scene) -> None:
    """LK-06: the claim has been granted to its second call meanwhile."""
    scene.lock(lease=scene.lease())
    lease = scene.lease()
    waiter = scene.lock(lease=lease)
    scene.node.refusals = [RequestTimedOut()]
    waiter.cancel()
    second = scene.lock(lease=lease)
    scene.unlock(b"n/1")
    assert locked(second).key == b"n/2"
    scene.node.loop.later.pop()()
    scene.settle()
    assert [key for _, key in scene.queue()] == [b"n/2"]


# --- the member cannot go on ------------------------------------------------------------------------------------------


def test_a_wait_that_cannot_be_confirmed(scene: Scene) -> None:
    """LK-07: refused when the claim has been taken back, and not before."""
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    scene.node.read_error = RequestTimedOut()
    scene.node.add(*delete(b"n/1"))
    scene.node.commit()
    scene.node.loop.turn()
    assert scene.node.waiting, "the claim is being deleted"
    assert not waiter.ended
    scene.settle()
    assert waiter.failure == TIMED_OUT
    assert not scene.queue()


def test_a_member_that_stops(scene: Scene) -> None:
    """ER-03: who waits is told, and its claim is taken back; who comes later does not begin to wait."""
    holder = scene.lock(lease=scene.lease())
    waiters = [scene.lock(lease=scene.lease()) for _ in range(2)]
    scene.claims.end_streams()
    assert not any(waiter.ended for waiter in waiters)
    scene.settle()
    assert [waiter.failure for waiter in waiters] == [STOPPED, STOPPED]
    assert scene.lock(lease=scene.lease()).failure == STOPPED
    assert scene.queue() == [(2, locked(holder).key)]
    assert not scene.watchers


def test_a_member_that_stops_while_a_long_queue_is_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """ER-03."""
    for _ in range(2):
        scene.lock(lease=scene.lease())
    monkeypatch.setattr("raftkv.mvcc.scan.SLICE_KEYS", 1)
    call = scene.ask_lock(lease=scene.lease())
    scene.node.commit()
    assert scene.node.tasks
    scene.claims.end_streams()
    scene.settle()
    assert call.failure == STOPPED


def test_a_member_that_has_stopped(scene: Scene) -> None:
    scene.lock(lease=scene.lease())
    waiter = scene.lock(lease=scene.lease())
    scene.node.refusals = [Stopped()]
    scene.claims.end_streams()
    assert waiter.failure == STOPPED
    assert not scene.node.loop.later
    assert not scene.claims.places


def test_quota_and_size_limits_hold(scene: Scene) -> None:
    """AL-23, LIM-01: a claim is a put like any other."""
    lease = scene.lease()
    assert scene.lock(b"n" * 2000, lease).failure == (Code.INVALID_ARGUMENT, "etcdserver: request is too large")
    scene.node.quota.allows = lambda _cost: False
    assert scene.lock(lease=lease).failure == (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")


def test_a_request_that_is_none(scene: Scene) -> None:
    for handler in (scene.lock_service.lock, scene.lock_service.unlock):
        call = WaitingCall()
        handler(call, b"\xff")  # type: ignore[arg-type]
        assert call.failure is not None
        assert call.failure[0] is Code.INTERNAL


def test_the_steps_are_made_as_the_caller(scene: Scene) -> None:
    """AU-73: through the gates, with the call's own token at every step; only its wish for a leader is its own."""
    seen: list[tuple[str, str | None, str | None]] = []

    def noting(method: Method) -> Method:
        def gated(call: object, message: bytes) -> None:
            seen.append((method.path.rpartition("/")[2], call.metadata("token"), call.metadata("hasleader")))  # type: ignore[attr-defined]
            method.handler(call, message)  # type: ignore[call-arg, arg-type]

        return method._replace(handler=gated)

    scene.local.bind({path: noting(method) for path, method in scene.local._routes.items()})
    scene.lock(lease=scene.lease())
    call = scene.ask_lock(lease=scene.lease(), token="secret", hasleader="true")
    scene.settle()
    call.cancel()
    scene.settle()
    steps = [("Txn", "secret", None), ("Range", "secret", None), ("Txn", "secret", None)]
    assert [each for each in seen if each[1]] == steps


# --- any order of events ----------------------------------------------------------------------------------------------

_STEPS = ("lock", "cancel", "unlock", "revoke", "commit", "turn", "settle")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 3)), max_size=40))
def test_there_is_one_owner_at_a_time(steps: list[tuple[str, int]]) -> None:
    """LK-03 to LK-08, LK-11: whoever is told that it owns the lock had the oldest claim at the revision it was told.

    When all is quiet the owner knows of it, and no claim is left behind.
    """
    scene = Scene()
    try:
        leases = [scene.lease() for _ in range(4)]
        revoked: set[int] = set()
        calls: list[tuple[int, WaitingCall]] = []

        for step, number in steps:
            lease = leases[number]
            if step == "lock":
                calls.append((number, scene.ask_lock(lease=lease)))
            elif step == "cancel":
                for owner, call in calls:
                    if owner == number:
                        call.cancel()
            elif step == "unlock":
                scene.node.add(*delete(claim_key(b"n", lease)))
            elif step == "revoke" and lease not in revoked:
                revoked.add(lease)
                scene.node.add(Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease))
            elif step == "commit" and scene.node.waiting:
                scene.node.commit()
            elif step == "turn":
                scene.node.loop.turn()
            elif step == "settle":
                scene.settle()
        scene.settle()
        for number, call in calls:
            if call.replies:
                answer = locked(call)
                assert scene.owner_at(answer.header.revision) == answer.key == claim_key(b"n", leases[number])
        waiting = {number for number, call in calls if not call.ended}
        assert scene.watchers == sum(not call.ended for _, call in calls)
        keys = [key for _, key in scene.queue()]
        granted = {claim_key(b"n", leases[number]) for number, call in calls if call.replies}
        assert not keys or keys[0] in granted, "nobody knows that it owns the lock"
        assert set(keys) <= granted | {claim_key(b"n", leases[number]) for number in waiting}, "a claim was left behind"
        assert set(scene.claims.places) <= {claim_key(b"n", leases[number]) for number in waiting}
    finally:
        scene.close()


# --- on a learner -----------------------------------------------------------------------------------------------------


def test_a_learner_serves_neither_locks_nor_elections(scene: Scene) -> None:
    """G-30, G-31."""
    node: Any = SimpleNamespace(is_learner=True)
    services = (scene.lock_service.service(), scene.election.service())
    routes = LearnerGate(node, build_routes(services)).routes()
    assert len(routes) == 7
    for path, method in routes.items():
        call: Any = WaitingCall()
        handler: Any = method.handler
        if method.kind is MethodKind.UNARY:
            handler(call, b"")
        else:
            handler(call).on_message(b"")
        assert call.failure == (Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"), path
    assert not scene.node.proposed
