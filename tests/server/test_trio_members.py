"""Members that come, are promoted, go, lag too far behind, or have lost what they had: with real nodes (contract 5)."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trio import Seat, Trio, play, until

from raftkv.apply import Kind
from raftkv.config import StartError
from raftkv.membership import LearnerNotReady, MemberNotFound, MemberNotLearner, PeerURLExists
from raftkv.mvcc.watch import EventBatch, Watcher
from raftkv.pb import rpc_pb2
from raftkv.raft import Message
from raftkv.server import applying
from raftkv.server.defragment import DefragmentRefused
from raftkv.server.errors import DataForgotten, Forwarded, Removed
from raftkv.server.peers import links as links_module

SHORT_LOG = "--snapshot-catchup-entries=5"


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """CL-34 allows a second; nothing here needs it."""
    monkeypatch.setattr(applying, "REMOVED_LINGER_S", 0.05)
    monkeypatch.setattr(links_module, "LINGER_S", 0.3)


# --- lagging behind ---------------------------------------------------------------------------------------------------


async def _leave_behind(trio: Trio, lagging: Seat) -> None:
    """The log that it needs next is gone everywhere."""
    [other, _] = [each for each in trio.running if each is not lagging]
    await other.apply(Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=7, TTL=600))
    for number in range(30):
        await other.apply(Kind.PUT, rpc_pb2.PutRequest(key=b"k%d" % number, value=b"x" * 5000, lease=7))
    behind = lagging.node.applier.index
    for each in trio.running:
        if each is not lagging:
            await until(lambda log=each.node._booted.storage: log.first_index() > behind + 1)  # type: ignore[misc]


def test_a_member_that_lags_behind_the_log_is_given_a_copy_of_the_store(tmp_path: Path) -> None:
    """RF-45: and goes on from the log; what it has in memory is that of the copy, and so it is after a restart."""

    async def story(trio: Trio) -> None:
        lagging, other = await trio.followers()
        await other.put(b"before")
        await lagging.end(cut=True)
        await _leave_behind(trio, lagging)
        await trio.restart(lagging)
        installer, leader = lagging.node.peering.installer, await trio.leader()
        await until(lambda: installer.installed)
        assert await lagging.put(b"after") == 33
        expected = {b"before": b"v", b"k0": b"x" * 5000, b"k29": b"x" * 5000, b"after": b"v"}
        assert {key: lagging.look(key) for key in expected} == expected
        assert 7 in lagging.node.lessor
        assert await trio.same() == lagging.node.applier.index
        assert (installer.installed, installer.failed, installer.busy) == (1, 0, False)
        assert (leader.node.peering.copies.sent, leader.node.peering.copies.failed) == (1, 0)
        await lagging.end(cut=True)
        await trio.restart(lagging)
        await trio.same()
        assert {key: lagging.look(key) for key in expected} == expected

    play(tmp_path, story, SHORT_LOG)


class Sink:
    def __init__(self) -> None:
        self.revisions: list[int] = []

    def deliver(self, _watcher: Watcher, batch: EventBatch) -> bool:
        assert len(batch.entries) == 1 + batch.last_revision - batch.first_revision
        self.revisions += range(batch.first_revision, batch.last_revision + 1)
        return True

    def cancelled(self, _watcher: Watcher, compact_revision: int) -> None:
        raise AssertionError(f"cancelled: {compact_revision} is compacted")


def test_a_member_serves_while_its_store_is_replaced(tmp_path: Path) -> None:
    """RF-45, W-54: reads under way keep the old store, which stays until they end; requests wait that long and then go
    through; watchers miss nothing."""

    async def story(trio: Trio) -> None:
        lagging, other = await trio.followers()
        backend, installer = lagging.node.backend, lagging.node.peering.installer
        sink = Sink()
        lagging.node.hub.watch(sink, 0, b"k", b"l")
        await lagging.put(b"k", b"old")
        lagging.cut_off()
        await _leave_behind(trio, lagging)
        pin, before = backend.pin(), lagging.node.applier.index
        lagging.reconnect()
        await until(lambda: lagging.node._ready_loop._paused, "the copy is there, and its turn has come")
        write = asyncio.ensure_future(lagging.put(b"k", b"through it"))
        await until(lambda: lagging.node._proposals.queued)
        assert (lagging.look(b"k"), lagging.node.applier.index, installer.installed) == (b"old", before, 0)
        assert lagging.node.store.get(pin.txn, b"k0") is None
        pin.close()
        revision = await write
        assert installer.installed == 1
        assert await other.get(b"k") == b"through it"
        await until(lambda: sink.revisions[-1] == revision, "the watcher has seen it")
        assert sink.revisions == list(range(2, revision + 1))
        await trio.same()

    play(tmp_path, story, SHORT_LOG)


@pytest.mark.parametrize("first", ["defragment", "install"])
def test_a_store_is_defragmented_and_replaced_one_after_the_other(tmp_path: Path, first: str) -> None:
    """MT-30, RF-45: neither ends the member, nor the pause of the other. What comes second is refused kindly if it is
    the defragmentation, and waits if it is the other store."""

    async def story(trio: Trio) -> None:
        lagging, _ = await trio.followers()
        node, loop = lagging.node, asyncio.get_running_loop()
        lagging.cut_off()
        await _leave_behind(trio, lagging)
        pin = node.backend.pin()
        if first == "install":
            lagging.reconnect()
            await until(lambda: node._ready_loop._paused)
            with pytest.raises(DefragmentRefused, match="another member's"):
                await node.defragment()
            pin.close()
        else:
            defragmenting = asyncio.ensure_future(node.defragment())
            await until(lambda: node._ready_loop._paused)
            lagging.reconnect()
            await until(lambda: node.peering.installer._received is not None)
            loop.call_later(0.1, pin.close)
            await defragmenting
        await until(lambda: node.stopped.done() or node.peering.installer.installed)
        assert not node.stopped.done()
        await lagging.put(b"k")
        await trio.same()
        await node.defragment()
        assert await lagging.get(b"k") == b"v"

    play(tmp_path, story, SHORT_LOG)


async def _let_lead(trio: Trio, newcomer: Seat) -> None:
    """... and write, while one of the others is away."""
    leader = await trio.leader()
    move = leader.node.leadership.move
    await leader.change(lambda done: move(newcomer.id, leader.node.now(), done, None))
    await until(lambda: newcomer.node.leads)
    for number in range(30):
        await newcomer.put(b"k%d" % number)


async def _catch_up(trio: Trio, lagging: Seat, newcomer: Seat) -> None:
    joining = await lagging.begin()
    assert lagging.node.members.get(newcomer.id) is None
    await joining
    await trio.same()
    assert lagging.look(b"k29") == b"v"
    assert trio.known(lagging) == trio.known(newcomer)
    assert lagging.node.peering.links.connected_since(newcomer.id) is not None


def test_a_member_that_missed_the_addition_of_its_leader_is_given_a_copy(tmp_path: Path) -> None:
    """Thesis §4.1: it hears of a leader that is no member it knows, and must be able to answer it. The leader's log
    begins with its own addition, so the store must come from it, too."""

    async def story(trio: Trio) -> None:
        lagging, _ = await trio.followers()
        await trio.same()
        await lagging.end(cut=True)
        newcomer = await trio.add()
        await trio.restart(newcomer)
        await _let_lead(trio, newcomer)
        await _catch_up(trio, lagging, newcomer)
        assert lagging.node.peering.installer.installed == 1

    play(tmp_path, story)


def test_a_member_that_has_not_heard_that_its_leader_is_one_goes_on_from_its_log(tmp_path: Path) -> None:
    """Thesis §4.1: it has the entry, and does not know that it is committed; where the logs meet the leader can find
    out only from its answers."""

    async def story(trio: Trio) -> None:
        lagging, _ = await trio.followers()
        known = await trio.same()
        peering: Any = lagging.node.peering
        hear = peering.on_peer_message

        def hear_no_news(message: Message) -> None:
            message.commit = min(message.commit, known)
            hear(message)

        peering.on_peer_message = hear_no_news
        newcomer = await trio.add()
        await trio.restart(newcomer)
        await newcomer.put(b"k")
        await until(lambda: lagging.node._rawnode.last_index >= newcomer.node.applier.index)
        await lagging.end(cut=True)
        await _let_lead(trio, newcomer)
        await _catch_up(trio, lagging, newcomer)
        assert lagging.node.peering.installer.installed == 0

    play(tmp_path, story)


def _give_no_more_pieces(seat: Seat) -> None:
    """Whoever reads a copy of its store waits for ever."""
    copies: Any = seat.node.peering.copies
    on_read, silence = copies._on_read, SimpleNamespace(reply=lambda _: None, fail=lambda *_: None)
    copies._on_read = lambda _call, *read: on_read(silence, *read)


def test_a_fetch_from_a_leader_that_has_gone_silent_is_taken_over_by_the_next(tmp_path: Path) -> None:
    """RF-45: it neither waits for the silent one nor has to be offered another copy in the end."""

    async def story(trio: Trio) -> None:
        lagging, (leader, other) = (await trio.followers())[0], (await trio.leader(), (await trio.followers())[1])
        lagging.cut_off()
        await _leave_behind(trio, lagging)
        _give_no_more_pieces(leader)
        lagging.reconnect()
        installer = lagging.node.peering.installer
        await until(lambda: len(leader.node.peering.copies))
        move = leader.node.leadership.move
        await leader.change(lambda done: move(other.id, leader.node.now(), done, None))
        await until(lambda: installer.installed)
        assert (installer.installed, installer.failed) == (1, 0)
        assert (other.node.peering.copies.sent, leader.node.peering.copies.sent) == (1, 0)
        await lagging.put(b"k")
        await trio.same()

    play(tmp_path, story, SHORT_LOG)


# --- joining ----------------------------------------------------------------------------------------------------------


def test_a_new_voter_starts_empty_and_is_given_everything(tmp_path: Path) -> None:
    """F-72, CL-01, CL-53, RF-65: it knows nothing of a log that began before it, not even the members (CL-04)."""

    async def story(trio: Trio) -> None:
        await trio.seats[0].put(b"k")
        newcomer = await trio.add()
        assert [each.name for each in trio.known(await trio.leader())].count("") == 1
        await trio.restart(newcomer)
        assert await newcomer.get(b"k") == b"v"
        await newcomer.put(b"k2")
        await trio.same()
        assert all(trio.known(seat) == trio.known(newcomer) for seat in trio.seats)
        assert len(newcomer.node.applier.conf_state.voters) == 4
        assert newcomer.node.peering.installer.installed == 1
        await newcomer.end(cut=True)
        await trio.restart(newcomer)
        assert len(newcomer.node.applier.conf_state.voters) == 4
        assert newcomer.node.peering.installer.installed == 0, "it has a log of its own by now"

    play(tmp_path, story)


def test_a_member_that_joins_serves_as_soon_as_it_has_its_copy(tmp_path: Path) -> None:
    """G-03: the entry in which it publishes itself may come with the copy, and its result then never comes."""

    async def story(trio: Trio) -> None:
        newcomer = await trio.add()
        began = asyncio.get_running_loop().time()
        await trio.restart(newcomer)
        assert asyncio.get_running_loop().time() - began < newcomer.node.config.request_timeout_s

    play(tmp_path, story)


def test_a_lone_member_grows(tmp_path: Path) -> None:
    """CL-26: with two, both are needed. The one that joins is given a copy, for the log does not hold everything."""

    async def story(trio: Trio) -> None:
        [first] = trio.seats
        await first.put(b"k")
        second = await trio.add()
        write = asyncio.ensure_future(first.put(b"waits for the second"))
        await until(lambda: first.node._rawnode.last_index > first.node.applier.index)
        assert not write.done()
        await trio.restart(second)
        await write
        third = await trio.add()
        await trio.restart(third)
        for number, seat in enumerate((first, second, third)):
            await seat.put(b"k", b"%d" % number)
        await trio.same()
        assert {len(each.node.applier.conf_state.voters) for each in trio.seats} == {3}
        await first.end(cut=True)
        assert await (await trio.leader()).put(b"without the first") > 0

    play(tmp_path, story, size=1)


def test_a_learner_is_promoted_when_it_has_caught_up(tmp_path: Path) -> None:
    """CL-41, CL-42, CL-44, RF-63: asked of any member; until it has started it is not ready."""

    async def story(trio: Trio) -> None:
        leader, (follower, _) = await trio.leader(), await trio.followers()
        learner = await trio.add(is_learner=True)
        [record] = [each for each in trio.known(leader) if each.is_learner]
        with pytest.raises(LearnerNotReady):
            await trio.promote(record.id, leader)
        with pytest.raises(Forwarded, match="can only promote a learner member which is in sync with leader"):
            await trio.promote(record.id, follower)
        await trio.restart(learner)
        assert (learner.id, learner.node.is_learner) == (record.id, True)
        await trio.same()  # so the leader has heard of it, or will with the next answer
        await until(lambda: leader.node.raft_status().progress[learner.id].match == leader.node.applier.index)
        await trio.promote(learner.id, follower)
        await until(lambda: not learner.node.is_learner)
        assert learner.id in learner.node.applier.conf_state.voters
        assert learner.node.applier.conf_state.learners == ()
        with pytest.raises(MemberNotLearner):
            await trio.promote(learner.id, leader)
        with pytest.raises(MemberNotFound):
            await trio.promote(1, leader)
        await trio.same()

    play(tmp_path, story)


def test_changes_that_are_asked_of_several_members_at_once_are_made_one_by_one(tmp_path: Path) -> None:
    """CL-51, RF-60: none is lost as an empty entry."""

    async def story(trio: Trio) -> None:
        urls = [f"http://127.0.0.1:{port}" for port in range(1, 7)]

        def add(seat: Seat, peer_urls: list[str]) -> Any:
            return seat.change(lambda done: seat.node.reconfiguration.add(peer_urls, True, done, None))

        await asyncio.gather(*(add(seat, [url]) for seat, url in zip(trio.seats * 2, urls, strict=True)))
        await trio.same()
        for seat in trio.seats:
            assert sorted(each.peer_urls[0] for each in trio.known(seat) if each.is_learner) == urls
        with pytest.raises(PeerURLExists):
            await add(trio.seats[0], [*urls[:1], "http://127.0.0.1:7"])

    play(tmp_path, story, "--max-learners=9")


@pytest.mark.parametrize("through", ["the leader", "a follower"])
def test_the_next_change_is_made_as_soon_as_the_last_is_applied(tmp_path: Path, through: str) -> None:
    """CL-51: ticks may be seconds apart, and a change takes milliseconds."""

    async def story(trio: Trio) -> None:
        leader, (follower, _) = await trio.leader(), await trio.followers()
        for seat in trio.seats:
            _ignore_ticks(seat)
        asked = leader if through == "the leader" else follower
        adds = []
        for port in range(1, 5):
            urls = [f"http://127.0.0.1:{port}"]
            adds.append(asked.change(partial(_add_learner, asked, urls)))
        await asyncio.gather(*adds)
        await trio.same()
        assert sum(each.is_learner for each in trio.known(leader)) == 4

    play(tmp_path, story, "--max-learners=9")


def _add_learner(seat: Seat, urls: list[str], done: Any) -> None:
    seat.node.reconfiguration.add(urls, True, done, None)


def _ignore_ticks(seat: Seat) -> None:
    """No tick of this member helps a membership change on."""
    node = seat.node
    changes: Any = node.reconfiguration
    go_on = changes.go_on
    changes.go_on = lambda now: None if now == node._last_tick_s else go_on(now)


# --- going ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["follower", "leader"])
def test_a_removed_member_ends_and_the_others_go_on(tmp_path: Path, who: str) -> None:
    """CL-34, CL-35, RF-64, CL-06."""

    async def story(trio: Trio) -> None:
        leaver = (await trio.followers())[0] if who == "follower" else await trio.leader()
        via = next(each for each in trio.seats if each is not leaver)
        await trio.remove(leaver, via)
        assert isinstance(await trio.ended(leaver), Removed)
        for seat in trio.running:
            await seat.put(b"k", seat.name.encode())
        leader = await trio.leader()
        assert leader.node.members.removed == [leaver.id]
        assert len(leader.node.applier.conf_state.voters) == 2
        await until(lambda: leader.node.peering.links.get(leaver.id) is None)
        assert leaver.node.backend.read() is not None
        with pytest.raises(MemberNotFound):
            await trio.remove(leaver)

    play(tmp_path, story)


def test_a_member_that_was_removed_while_it_was_away_learns_it_when_it_returns(tmp_path: Path) -> None:
    """CL-34, RF-64: nobody sends it the entry any more, so the others' refusal tells it."""

    async def story(trio: Trio) -> None:
        leaver, other = await trio.followers()
        await leaver.end(cut=True)
        await trio.remove(leaver, other)
        joining = await leaver.begin()
        with pytest.raises(Removed, match="etcdctl member add"):
            await joining
        assert isinstance(await trio.ended(leaver), Removed)

    play(tmp_path, story)


# --- without its data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["new", "existing"])
def test_a_member_without_its_data_is_not_started(tmp_path: Path, state: str) -> None:
    """RF-72, F-71, F-72: asked before anything is made; the text says how to come back."""

    async def story(trio: Trio) -> None:
        victim, other = await trio.followers()
        victim_id, term = victim.id, other.node.raft_status().term
        await victim.end(cut=True)
        shutil.rmtree(victim.directory)
        with pytest.raises(StartError, match="before" if state == "existing" else "already been bootstrapped") as no:
            await victim.begin(f"--initial-cluster-state={state}")
        assert f"etcdctl member remove {victim_id:x}; etcdctl member add {victim.name}" in no.value.hint
        assert victim.url in no.value.hint
        assert not victim.directory.exists()
        await other.put(b"k")
        assert other.node.raft_status().term == term

    play(tmp_path, story)


def test_a_member_without_its_data_that_starts_when_nobody_can_be_asked_is_found_out(tmp_path: Path) -> None:
    """RF-72: it neither votes nor acknowledges, though with one other it would be a quorum."""

    async def story(trio: Trio) -> None:
        victim, other = await trio.followers()
        third = next(each for each in trio.seats if each not in (victim, other))
        await other.put(b"acknowledged")
        await trio.same()
        for each in trio.seats:
            await each.end(cut=True)
        shutil.rmtree(victim.directory)
        first = await victim.begin()
        second = await other.begin()
        with pytest.raises(DataForgotten, match=f"etcdctl member remove {victim.id:x}"):
            await first
        assert not other.node.leader_id
        await victim.end(cut=True)
        await trio.restart(third)
        await second
        assert other.look(b"acknowledged") == b"v"

    play(tmp_path, story)
