"""The ready loop of one member of three: what leaves before the disk has it, what waits; snapshots; pauses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ready_loop_support import ME, Scene, take_the_disk

from raftkv.apply import Kind, decode_batch, encode_batch
from raftkv.raft import ConfState, Entry, Message, MessageType, Snapshot
from raftkv.server import ready_loop as module

LEADER, OTHER = 2, 3
TERM = 5


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Follows LEADER, with an empty log and an idle disk."""
    take_the_disk(monkeypatch)
    scene = Scene(LEADER, OTHER)
    scene.hear(Message(MessageType.HEARTBEAT, ME, sender=LEADER, term=TERM))
    scene.flushed()
    scene.story.clear()
    scene.sent.clear()
    return scene


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Leads, and OTHER has acknowledged the first entry of its term."""
    take_the_disk(monkeypatch)
    scene = Scene(LEADER, OTHER)
    scene.elect()
    scene.hear(Message(MessageType.PRE_VOTE_RESP, ME, sender=OTHER, term=1))
    scene.flushed()
    scene.hear(Message(MessageType.VOTE_RESP, ME, sender=OTHER, term=1))
    scene.flushed()
    scene.hear(acknowledgement(1))
    assert scene.ready_loop.rawnode.committed == 1
    tell_the_news(scene)
    scene.story.clear()
    scene.sent.clear()
    return scene


def tell_the_news(scene: Scene) -> None:
    scene.loop.advance(module.COMMIT_NEWS_S)


def acknowledgement(index: int) -> Message:
    return Message(MessageType.APP_RESP, ME, sender=OTHER, term=1, index=index)


def put(index: int, text: bytes) -> Entry:
    return Entry(TERM, index, data=encode_batch(LEADER, index, [(Kind.PUT, text)]))


def append(first: int, *texts: bytes, commit: int = 0) -> Message:
    """From the leader; all of its term."""
    entries = [put(first + at, text) for at, text in enumerate(texts)]
    log_term = TERM if first > 1 else 0
    return Message(
        MessageType.APP,
        ME,
        sender=LEADER,
        term=TERM,
        index=first - 1,
        log_term=log_term,
        entries=entries,
        commit=commit,
    )


def offer(index: int) -> Message:
    snapshot = Snapshot(index, TERM, ConfState(voters=(ME, LEADER, OTHER)))
    return Message(MessageType.SNAP, ME, sender=LEADER, term=TERM, snapshot=snapshot)


def test_a_leader_sends_while_its_own_disk_works(leader: Scene) -> None:
    """Thesis §10.2.1: appends need no promise of ours."""
    leader.propose(b"a")
    assert leader.story[:2] == [("send", "APP", OTHER), ("stage", [[b"a"]])] or leader.story[:3] == [
        ("send", "APP", LEADER), ("send", "APP", OTHER), ("stage", [[b"a"]]),
    ]  # fmt: skip
    assert leader.flusher.busy


def test_a_leader_counts_itself_when_its_disk_has_it(leader: Scene) -> None:
    """RF-40: one acknowledgement of two others is a quorum only with its own copy, and that one is not durable yet."""
    leader.propose(b"a")
    leader.hear(acknowledgement(2))
    assert ("apply", [[b"a"]]) not in leader.story
    leader.flushed()
    assert ("apply", [[b"a"]]) in leader.story


def test_a_quorum_of_others_commits_before_the_own_disk_has_it(leader: Scene) -> None:
    """And it is applied then, though a crash now would take it from this member's log: the others have it."""
    leader.propose(b"a")
    leader.hear(acknowledgement(2))
    both = acknowledgement(2)
    both.sender = LEADER
    leader.hear(both)
    assert leader.ready_loop.rawnode.committed == 2
    assert leader.flusher.busy


def test_acknowledgements_wait_for_the_disk(follower: Scene) -> None:
    """RF-40: what a follower says it has, it has after a power cut, too."""
    follower.hear(append(1, b"a"))
    assert follower.story == [("stage", [[b"a"]])]
    follower.hear(append(2, b"b"))
    assert follower.said(MessageType.APP_RESP) == []
    follower.flushed()
    assert [message.index for message in follower.said(MessageType.APP_RESP)] == [1]
    follower.flushed()
    assert [message.index for message in follower.said(MessageType.APP_RESP)] == [1, 2]


def test_votes_wait_for_the_disk(follower: Scene) -> None:
    """RF-01: on disk before the candidate hears of it. The pre-vote, which promises nothing, does not wait."""
    rawnode = follower.ready_loop.rawnode
    for _ in range(20):
        rawnode.tick()  # the leader is silent, so others may be listened to (RF-03)
    follower.ready_loop.schedule()
    follower.loop.run()
    asked = follower.said(MessageType.PRE_VOTE)
    assert asked, "it asks the others itself, without waiting for anything"
    assert not follower.flusher.busy
    follower.hear(Message(MessageType.VOTE, ME, sender=OTHER, term=TERM + 2, index=9, log_term=TERM))
    assert follower.said(MessageType.VOTE_RESP) == []
    assert follower.flusher.busy
    follower.flushed()
    assert [message.reject for message in follower.said(MessageType.VOTE_RESP)] == [False]


def test_a_candidate_asks_for_votes_when_its_own_is_on_disk(fresh_of_three: Scene) -> None:
    scene = fresh_of_three
    scene.ready_loop.rawnode.campaign()
    scene.hear(Message(MessageType.PRE_VOTE_RESP, ME, sender=OTHER, term=1))
    assert scene.flusher.busy
    assert scene.said(MessageType.VOTE) == []
    scene.flushed()
    assert [message.to for message in scene.said(MessageType.VOTE)] == [LEADER, OTHER]


@pytest.fixture
def fresh_of_three(monkeypatch: pytest.MonkeyPatch) -> Scene:
    take_the_disk(monkeypatch)
    return Scene(LEADER, OTHER)


def test_a_followers_requests_leave_though_its_disk_is_busy(follower: Scene) -> None:
    """Its own flush is none of theirs: they go into the leader's log."""
    follower.hear(append(1, b"a"))
    assert follower.flusher.busy
    follower.propose(b"mine")
    [proposal] = follower.said(MessageType.PROP)
    assert (proposal.to, proposal.sender) == (LEADER, ME)
    [entry] = proposal.entries
    assert [message for _, message in decode_batch(entry.data).requests] == [b"mine"]
    assert follower.proposals.queued == 0


def test_a_follower_applies_what_the_leader_says_is_committed(follower: Scene) -> None:
    follower.hear(append(1, b"a", b"b", commit=1))
    assert follower.story == [("stage", [[b"a"], [b"b"]])]
    follower.flushed()
    assert ("apply", [[b"a"]]) in follower.story
    follower.hear(append(3, commit=2))
    assert [requests for what, *requests in follower.story if what == "apply"] == [[[[b"a"]]], [[[b"b"]]]]


# --- batches on their way to a quorum ---------------------------------------------------------------------------------


def test_near_a_quorum_batches_gather_while_one_is_on_its_way(leader: Scene) -> None:
    """The disk is idle again, but nobody has acknowledged: what comes makes one batch of the next."""
    leader.propose(b"a")
    leader.flushed()
    leader.propose(b"b")
    leader.propose(b"c")
    assert leader.proposals.queued == 2
    leader.hear(acknowledgement(2))
    assert leader.flusher.busy
    assert [each for what, *each in leader.story if what == "stage"] == [[[[b"a"]]], [[[b"b", b"c"]]]]


def test_far_from_a_quorum_the_way_is_kept_filled(leader: Scene) -> None:
    leader.ready_loop.quorum_rtt_s = 2.5 * module.DISTANCE_S
    for text in (b"a", b"b", b"c", b"d"):
        leader.propose(text)
        if leader.flusher.busy:
            leader.flushed()
    staged = [each for what, *each in leader.story if what == "stage"]
    assert staged == [[[[b"a"]]], [[[b"b"]]], [[[b"c"]]]]
    assert leader.proposals.queued == 1


def test_followers_hear_of_a_commit_with_the_next_batch_or_soon(leader: Scene) -> None:
    leader.propose(b"a")
    leader.flushed()
    leader.sent.clear()
    leader.hear(acknowledgement(2))
    assert ("apply", [[b"a"]]) in leader.story
    assert [message for message in leader.said(MessageType.APP) if message.to == OTHER] == []
    tell_the_news(leader)
    assert [message.commit for message in leader.said(MessageType.APP) if message.to == OTHER] == [2]


def test_one_timer_at_a_time_holds_the_news_of_commits(leader: Scene) -> None:
    for index, text in ((2, b"a"), (3, b"b")):
        leader.propose(text)
        leader.flushed()
        leader.hear(acknowledgement(index))
    leader.sent.clear()
    assert not leader.loop.idle
    tell_the_news(leader)
    assert [message.commit for message in leader.said(MessageType.APP) if message.to == OTHER] == [3]
    leader.loop.advance(1.0)
    assert leader.loop.idle


def test_followers_hear_of_a_commit_at_once_when_one_of_them_waits(leader: Scene) -> None:
    """Its client's request is in it."""
    leader.propose(b"a")
    leader.flushed()
    leader.sent.clear()
    leader.ready_loop.tell_commit_now()
    leader.hear(acknowledgement(2))
    assert [message.commit for message in leader.said(MessageType.APP) if message.to == OTHER] == [2]


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_in_the_log_before_its_store_is_in_place(follower: Scene) -> None:
    """RF-46: the record in the log decides after a crash. The core, and with it the leader, hears of it last."""
    follower.hear(offer(40))
    assert follower.story == [("restart the log", 40)]
    follower.flushed()
    assert follower.story == [("restart the log", 40), ("install", 40)]
    assert follower.ready_loop.rawnode.pending_snapshot is not None
    assert follower.said(MessageType.APP_RESP) == []
    assert follower.installed is not None
    follower.installed()
    follower.loop.run()
    assert [message.index for message in follower.said(MessageType.APP_RESP)] == [40]
    assert follower.ready_loop.rawnode.applied == 40


def test_what_comes_behind_a_snapshot_waits_until_it_is_in_place(follower: Scene) -> None:
    """Durable, but on top of a store that is not there yet: neither acknowledged nor applied, and then in order."""
    follower.hear(offer(40))
    follower.hear(append(41, b"a", commit=41))
    follower.flushed()
    follower.flushed()
    follower.hear(append(42, b"b", commit=42))
    follower.flushed()
    assert not follower.flusher.busy
    assert follower.said(MessageType.APP_RESP) == []
    assert [what for what, *_ in follower.story] == ["restart the log", "stage", "install", "stage"]
    assert follower.installed is not None
    follower.installed()
    follower.loop.run()
    assert [message.index for message in follower.said(MessageType.APP_RESP)] == [40, 41, 42]
    applied = [requests for what, *requests in follower.story if what == "apply"]
    assert [request for [batches] in applied for request in batches] == [[b"a"], [b"b"]]


# --- paused -----------------------------------------------------------------------------------------------------------


def test_paused_the_members_go_on_talking(follower: Scene) -> None:
    """A store that is exchanged must not cost the leadership: acknowledgements leave, the log grows, nothing is
    applied; then all of it, in order."""
    follower.ready_loop.pause()
    follower.hear(append(1, b"a", b"b", commit=1))
    follower.flushed()
    follower.hear(append(3, b"c", commit=3))
    follower.flushed()
    follower.hear(Message(MessageType.HEARTBEAT, ME, sender=LEADER, term=TERM, commit=3))
    assert [message.index for message in follower.said(MessageType.APP_RESP)] == [2, 3]
    assert len(follower.said(MessageType.HEARTBEAT_RESP)) == 1
    assert [what for what, *_ in follower.story if what == "apply"] == []
    follower.propose(b"mine")
    assert (follower.proposals.queued, follower.said(MessageType.PROP)) == (1, [])
    follower.ready_loop.resume()
    follower.loop.run()
    applied = [requests for what, *requests in follower.story if what == "apply"]
    assert [request for [batches] in applied for request in batches] == [[b"a"], [b"b"], [b"c"]]
    assert follower.ready_loop.rawnode.applied == 3
    assert len(follower.said(MessageType.PROP)) == 1


def test_what_was_held_back_in_a_pause_is_part_of_a_snapshot_that_comes(follower: Scene) -> None:
    """It must not be applied to the new store a second time."""
    follower.ready_loop.pause()
    follower.hear(append(1, b"a", b"b", commit=2))
    follower.flushed()
    follower.hear(offer(40))
    follower.flushed()
    assert follower.installed is not None
    follower.installed()
    follower.ready_loop.resume()
    follower.loop.run()
    follower.hear(append(41, b"c", commit=41))
    follower.flushed()
    applied = [requests for what, *requests in follower.story if what == "apply"]
    assert [request for [batches] in applied for request in batches] == [[b"c"]]
    assert follower.fatal == []


# --- the end ----------------------------------------------------------------------------------------------------------


def test_what_is_staged_is_flushed_at_the_stop(follower: Scene) -> None:
    """It is not acknowledged, but the next start need not fetch it again."""
    follower.hear(append(1, b"a"))
    follower.hear(append(2, b"b"))
    follower.ready_loop.stop()
    assert follower.flushes == 1


def test_a_member_that_has_failed_writes_nothing_any_more(follower: Scene) -> None:
    """RF-53, RF-73."""
    follower.hear(append(1, b"a"))
    follower.hear(append(2, b"b"))
    follower.ready_loop.halt()
    follower.flushed()
    follower.hear(append(3, b"c", commit=3))
    follower.propose(b"mine")
    follower.ready_loop.stop()
    assert follower.flushes == 0
    assert [what for what, *_ in follower.story if what == "apply"] == []
    assert follower.proposals.queued == 1


def test_a_followers_requests_wait_while_the_leader_cannot_be_reached(follower: Scene) -> None:
    """What is sent to a leader that has just died is lost, and its client would wait for the whole request timeout."""
    follower.unreachable.add(LEADER)
    follower.propose(b"mine")
    assert (follower.proposals.queued, follower.said(MessageType.PROP)) == (1, [])
    follower.unreachable.clear()
    follower.ready_loop.schedule()
    follower.loop.run()
    assert (follower.proposals.queued, len(follower.said(MessageType.PROP))) == (0, 1)


@pytest.mark.parametrize("gone", [True, False])
def test_what_waited_for_a_leader_longer_than_its_client_is_not_proposed(follower: Scene, gone: bool) -> None:
    """G-51."""
    follower.unreachable.add(LEADER)
    call = SimpleNamespace(cancelled=False)
    assert follower.proposals.add(Kind.PUT, b"mine", lambda *_: None, call)
    follower.ready_loop.schedule()
    follower.loop.run()
    call.cancelled = gone
    follower.unreachable.clear()
    follower.ready_loop.schedule()
    follower.loop.run()
    assert (follower.proposals.queued, len(follower.said(MessageType.PROP))) == (0, int(not gone))


# --- what a follower does first ---------------------------------------------------------------------------------------


def committed_behind_a_flush(follower: Scene) -> None:
    """Entry 1 is durable here and known to be committed; entry 2, which told so, is being flushed."""
    follower.hear(append(1, b"a"))
    follower.flushed()
    follower.hear(append(2, b"b", commit=1))
    assert follower.flusher.busy


def applied(follower: Scene) -> list[Any]:
    return [requests for what, *requests in follower.story if what == "apply"]


def test_a_follower_promises_before_it_applies(follower: Scene) -> None:
    """All wait for its promise, nobody but its own clients for what it applies (docs/adr/0006)."""
    committed_behind_a_flush(follower)
    assert applied(follower) == []
    follower.story.clear()
    follower.flushed()
    told = [what for what, *_ in follower.story]
    assert told.index("send") < told.index("apply")
    assert follower.ready_loop.rawnode.applied == 1


def test_a_follower_whose_disk_hangs_applies_all_the_same(follower: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed and durable here is not kept from its clients."""
    committed_behind_a_flush(follower)
    now = module.perf_counter()
    monkeypatch.setattr(module, "perf_counter", lambda: now + module.PROMISE_S)
    follower.ready_loop.schedule()
    follower.loop.run()
    assert follower.flusher.busy
    assert follower.ready_loop.rawnode.applied == 1


def test_among_several_members_the_loop_never_waits_for_its_disk(leader: Scene) -> None:
    """Others wait for what it says meanwhile, heartbeats above all."""
    for number in range(200):
        leader.propose(b"%d" % number)
        leader.flushed(0.0001)
        leader.hear(acknowledgement(leader.ready_loop.rawnode.last_index))
    assert leader.ready_loop.batch_sizes.single
    assert leader.flusher.syncs == 0
