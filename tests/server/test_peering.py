"""A member among others, before anybody has answered: what it makes of offers, refusals and accusations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.api.errors import status_of
from raftkv.apply import CORRUPT, Kind, decode_batch, encode_batch
from raftkv.config import load
from raftkv.membership import Member
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import BadMessage, ConfState, Entry, Message, MessageType, Snapshot
from raftkv.rpc.codes import Code
from raftkv.server import Node, boot
from raftkv.server import peering as module
from raftkv.server.errors import DataForgotten, Removed, TimedOutByLeaderFailure
from raftkv.server.peers import Refused, RefusedAsRemoved, RefusedByCluster, RefusedWithOtherData

TERM = 7


class Scene:
    """One of three members; the two others are `peer` and `other`. It is not started: nothing runs by itself."""

    def __init__(self, directory: Path) -> None:
        members = ",".join(f"{name}=http://127.0.0.1:{port}" for port, name in enumerate("abc", 1))
        flags = ("--name=a", "--initial-advertise-peer-urls=http://127.0.0.1:1", f"--initial-cluster={members}")
        config = load([f"--data-dir={directory}", "--unsafe-no-fsync", *flags], {})
        self.node = Node(asyncio.get_running_loop(), config, boot(config), status_of)
        self.peering = self.node.peering
        self.peering.update_links()
        self.peer, self.other = [each.id for each in self.node.members if each.id != self.node.member_id]
        self.offers: list[tuple[Message, str]] = []
        installer: Any = self.peering.installer
        installer.on_offer = lambda message, url: self.offers.append((message, url))

    def offer(self, index: int = 40, *, sender: int = 0, term: int = TERM) -> Message:
        snapshot = Snapshot(index, 3, ConfState(voters=self.node.applier.conf_state.voters))
        message = Message(MessageType.SNAP, self.node.member_id, sender=sender or self.peer, term=term)
        message.snapshot = snapshot
        return message

    def hear(self, message: Message) -> None:
        self.peering.on_peer_message(message)

    def know(self, member_id: int, data_id: int) -> None:
        """That member has published itself."""
        txn = self.node.backend.begin_write()
        self.node.members.publish(txn, member_id, "m", (), data_id)

    def proposed(self) -> list[tuple[int, bytes]]:
        if not self.node._proposals.queued:
            return []
        return list(decode_batch(self.node._proposals.take_batch()[1]).requests)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Scene], Any]], None]:
    def run(story: Callable[[Scene], Any]) -> None:
        async def scenario() -> None:
            scene = Scene(tmp_path)
            try:
                await story(scene)
            finally:
                await scene.node.stop()

        asyncio.run(scenario())

    return run


Play = Callable[[Callable[[Scene], Any]], None]


# --- offers of snapshots ----------------------------------------------------------------------------------------------


def test_an_offer_is_a_sign_of_life_and_is_fetched_from_its_sender(play: Play) -> None:
    """RF-45: the core learns who leads, and nothing of the snapshot until its store is here."""

    async def story(scene: Scene) -> None:
        message = scene.offer()
        scene.hear(message)
        [url] = [each.peer_urls[0] for each in scene.node.members if each.id == scene.peer]
        assert scene.offers == [(message, url)]
        status = scene.node.raft_status()
        assert (status.term, status.lead, status.committed) == (TERM, scene.peer, 1)
        assert scene.node._rawnode.pending_snapshot is None

    play(story)


def test_an_offer_of_what_is_committed_here_is_answered_and_not_fetched(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.hear(scene.offer(index=1))
        assert scene.offers == []
        answers = [each for each in scene.node._rawnode.ready().messages_after_sync if each.to == scene.peer]
        assert [(each.type, each.index) for each in answers] == [(MessageType.APP_RESP, 1)]

    play(story)


def test_an_offer_of_a_leader_of_the_past_is_not_fetched(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.hear(Message(MessageType.HEARTBEAT, scene.node.member_id, sender=scene.other, term=TERM + 1))
        scene.hear(scene.offer())
        assert scene.offers == []
        assert scene.node.raft_status().lead == scene.other

    play(story)


def test_a_message_that_contradicts_itself_is_refused(play: Play) -> None:
    """The service ends the stream that it came on."""

    async def story(scene: Scene) -> None:
        with pytest.raises(BadMessage):
            scene.hear(Message(MessageType.HEARTBEAT, 999, sender=scene.peer, term=TERM))
        assert scene.node.raft_status().term < TERM

    play(story)


def test_a_member_that_has_ended_hears_nothing_any_more(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.end(Removed("by the test"))
        scene.hear(Message(MessageType.HEARTBEAT, scene.node.member_id, sender=scene.peer, term=TERM))
        scene.hear(scene.offer())
        assert (scene.offers, scene.node.raft_status().lead) == ([], 0)

    play(story)


def test_a_copy_of_a_deposed_leader_is_used_under_the_next(play: Play) -> None:
    """RF-45: what was committed under the last is committed under this one. The answer goes to who leads now."""

    async def story(scene: Scene) -> None:
        message = scene.offer()
        scene.hear(message)
        scene.hear(Message(MessageType.HEARTBEAT, scene.node.member_id, sender=scene.other, term=TERM + 1))
        assert scene.peering.on_snapshot_ready(message)
        status = scene.node.raft_status()
        assert scene.node._rawnode.pending_snapshot is message.snapshot
        assert (status.term, status.lead) == (TERM + 1, scene.other)
        assert (message.sender, message.term) == (scene.other, TERM + 1)

    play(story)


def test_without_a_leader_the_copy_of_the_last_is_not_taken(play: Play) -> None:
    """Nobody would hear of it; the next leader offers its own."""

    async def story(scene: Scene) -> None:
        message = scene.offer()
        scene.hear(message)
        vote = Message(
            MessageType.VOTE, scene.node.member_id, sender=scene.other, term=TERM + 1, index=9, log_term=TERM
        )
        scene.node._rawnode._raft.lead = 0
        scene.hear(vote)
        assert (scene.node.raft_status().term, scene.node.raft_status().lead) == (TERM + 1, 0)
        assert not scene.peering.on_snapshot_ready(message)
        assert scene.node._rawnode.pending_snapshot is None

    play(story)


def test_a_copy_that_the_log_has_overtaken_is_not_taken(play: Play) -> None:
    async def story(scene: Scene) -> None:
        message = scene.offer(index=1)
        assert not scene.peering.on_snapshot_ready(message)

    play(story)


# --- strangers --------------------------------------------------------------------------------------------------------

STRANGER = 999


def test_a_stranger_is_answered_while_it_speaks(play: Play) -> None:
    """Thesis §4.1: a leader that was added while this member was away. What it offers is fetched from where it
    listens."""

    async def story(scene: Scene) -> None:
        scene.peering.on_stranger(STRANGER, ["http://127.0.0.1:9"])
        message = scene.offer(sender=STRANGER)
        scene.hear(message)
        assert scene.offers == [(message, "http://127.0.0.1:9")]
        assert scene.node.raft_status().lead == STRANGER
        link = scene.peering.links.get(STRANGER)
        assert link is not None
        assert dict(link._metadata)["raftkv-urls"] == "http://127.0.0.1:1", "so that it can answer in its turn"
        scene.peering.update_links()
        scene.peering.on_stranger_gone(STRANGER)
        assert scene.peering.links.get(STRANGER) is None

    play(story)


def test_an_offer_of_a_stranger_that_cannot_be_reached_is_refused(play: Play) -> None:
    """It has not said where it listens."""

    async def story(scene: Scene) -> None:
        with pytest.raises(BadMessage, match="3e7"):
            scene.hear(scene.offer(sender=STRANGER))
        assert scene.offers == []

    play(story)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "reason", "text"),
    [(RefusedAsRemoved, Removed, "etcdctl member add"), (RefusedWithOtherData, DataForgotten, "etcdctl member remove")],
)
def test_a_refusal_that_is_for_good_ends_the_member(
    play: Play, refusal: type[Refused], reason: type[Exception], text: str
) -> None:
    """CL-34, RF-72: the text says how to come back."""

    async def story(scene: Scene) -> None:
        scene.peering.on_refused(scene.peer, refusal(Code.FAILED_PRECONDITION, "no"))
        ended = scene.node.stopped.result()
        assert isinstance(ended, reason)
        assert f"{scene.node.member_id:x}" in str(ended)
        assert text in str(ended)

    play(story)


def test_other_refusals_are_mentioned_now_and_then(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """The other side may be wrong, and is asked again."""

    async def story(scene: Scene) -> None:
        now = 1000.0
        scene.node.now = lambda: now  # type: ignore[method-assign]
        for _ in range(3):
            scene.peering.on_refused(scene.peer, RefusedByCluster(Code.FAILED_PRECONDITION, "cluster ID mismatch"))
        scene.peering.on_refused(scene.other, Refused(Code.FAILED_PRECONDITION, "incompatible peer protocol"))
        now += 31.0
        scene.peering.on_refused(scene.peer, RefusedByCluster(Code.FAILED_PRECONDITION, "cluster ID mismatch"))
        told = [record.__dict__["kv"] for record in caplog.records if "refuses to talk" in record.getMessage()]
        assert [each["peer"] for each in told] == [f"{scene.peer:x}", f"{scene.other:x}", f"{scene.peer:x}"]
        assert "--initial-cluster" in told[0]["hint"]
        assert not scene.node.stopped.done()

    play(story)


def test_only_a_data_directory_that_is_known_to_be_another_is_not_talked_to(play: Play) -> None:
    """RF-72."""

    async def story(scene: Scene) -> None:
        accepts = scene.peering.accepts
        assert accepts(scene.peer, 5), "it has not said yet which it has"
        scene.know(scene.peer, 5)
        assert [accepts(scene.peer, data_id) for data_id in (5, 6, 0)] == [True, False, True]
        assert accepts(999, 6)

    play(story)


# --- accusations ------------------------------------------------------------------------------------------------------


def diverged(member_id: int) -> peer_pb2.DivergedRequest:
    return peer_pb2.DivergedRequest(member_id=member_id, index=3)


def test_who_says_of_itself_that_it_differs_is_believed(play: Play) -> None:
    """AL-11."""

    async def story(scene: Scene) -> None:
        scene.peering.on_diverged(scene.peer, diverged(scene.peer))
        [(kind, message)] = scene.proposed()
        alarm = rpc_pb2.AlarmRequest.FromString(message)
        assert (kind, alarm.action, alarm.memberID, alarm.alarm) == (
            Kind.ALARM,
            rpc_pb2.AlarmRequest.ACTIVATE,
            scene.peer,
            CORRUPT,
        )

    play(story)


def test_the_alarm_is_raised_though_the_first_try_went_with_the_leader(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AL-11: the leader may be the one that is wrong, and end with the request in its log."""
    monkeypatch.setattr(module, "RAISE_AGAIN_S", 0.0)

    async def story(scene: Scene) -> None:
        scene.peering.on_diverged(scene.peer, diverged(scene.peer))
        first = scene.proposed()
        assert len(first) == 1
        scene.node._proposals.fail_in_flight(TimedOutByLeaderFailure())
        await asyncio.sleep(0.001)
        assert scene.proposed() == first
        scene.node.applier.apply([Entry(2, 2, data=encode_batch(1, 1, first))])
        scene.node._proposals.fail_in_flight(TimedOutByLeaderFailure())
        await asyncio.sleep(0.001)
        assert scene.proposed() == [], "another has raised it meanwhile"

    play(story)


def test_what_one_says_of_another_is_for_that_one_to_look_at(play: Play) -> None:
    """It is told, too; the accuser may be the one that is wrong."""

    async def story(scene: Scene) -> None:
        asked: list[tuple[int, int]] = []
        divergence: Any = scene.peering.divergence
        divergence.inquire = lambda *about: asked.append(about)
        scene.peering.on_diverged(scene.other, diverged(scene.peer))
        assert (scene.proposed(), asked) == ([], [])
        scene.peering.on_diverged(scene.other, diverged(scene.node.member_id))
        assert (scene.proposed(), asked) == ([], [(scene.other, 3)])

    play(story)


# --- the clock --------------------------------------------------------------------------------------------------------


def test_the_first_connection_shortens_the_wait_for_a_leader(play: Play) -> None:
    """RF-09: to two ticks before the election timeout, once; a leader that is there will be heard by then."""

    async def story(scene: Scene) -> None:
        raft = scene.node._rawnode._raft
        for _ in range(3):
            scene.peering.on_link_up(scene.peer)
        assert raft.election_elapsed == scene.node.config.election_ticks - 2
        assert raft.role.value == "follower"

    play(story)


def test_who_hears_a_leader_already_waits_no_shorter(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.leader_id = scene.other
        scene.peering.on_link_up(scene.peer)
        assert scene.node._rawnode._raft.election_elapsed == 0

    play(story)


def test_a_process_that_did_not_run_for_a_while_notices_it(play: Play) -> None:
    """L-26: more than three heartbeats without a tick."""

    async def story(scene: Scene) -> None:
        heartbeat_s = scene.node.config.heartbeat_interval_ms / 1000
        last_s = scene.node._last_tick_s
        loop = SimpleNamespace(time=lambda: last_s + 2.9 * heartbeat_s)
        real, scene.node.loop = scene.node.loop, loop  # type: ignore[assignment]
        before = scene.node.ticks_are_late
        loop.time = lambda: last_s + 3.1 * heartbeat_s
        after = scene.node.ticks_are_late
        scene.node.loop = real
        assert (before, after) == (False, True)

    play(story)


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_it_tells_the_members_as_it_knows_them(play: Play) -> None:
    """F-72: with their data directories, which clients are not told."""

    async def story(scene: Scene) -> None:
        scene.know(scene.peer, 5)
        known = scene.peering.known_members()
        assert known.cluster_id == scene.node.cluster_id
        assert [Member.from_record(each) for each in known.members] == list(scene.node.members)
        assert {each.ID: each.data_id for each in known.members}[scene.peer] == 5
        assert (known.committed, known.leader, list(known.removed)) == (1, 0, [])
        probed = scene.peering.probed()
        assert (probed.leader, probed.term) == (0, scene.node.raft_status().term)

    play(story)


def test_it_tells_the_hashes_that_it_remembers(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.node.applier.hashes.note(2, 77)
        told = scene.peering.state_hashes(0, 9)
        assert (told.first, list(told.hashes)[-1]) == (1, 77)
        assert list(scene.peering.state_hashes(50, 60).hashes) == []

    play(story)
