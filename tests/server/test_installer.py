"""A received store on its way to its place: the order of the steps, and what each failure leaves (RF-45, RF-46)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from peers_support import ME, PEER, PEERS

from raftkv.backend import BackendError, NoSpaceError
from raftkv.raft import ConfState, Message, MessageType, Snapshot
from raftkv.rpc.codes import Code
from raftkv.server import installer as module
from raftkv.server.installer import Installer
from raftkv.server.peers import CopyFacts, PeerCallError
from raftkv.wire import encode_conf_state

CONF = ConfState(voters=(ME, PEER))
FACTS = CopyFacts(4096, 45, 3, encode_conf_state(CONF))
URL = "http://b:2380"
NEXT, THIRD = 0x71, 0x72
"""Leaders after PEER."""


class FakeReceived:
    """A store that arrives."""

    def __init__(self, scene: Scene, size_bytes: int) -> None:
        scene.story.append(("receive", size_bytes))
        self._scene = scene
        self.consistent_index = 0
        self.term = 0

    def finish(self, expect: Any) -> None:
        assert self._scene.may_finish.wait(10)
        if self._scene.finish_error is not None:
            raise self._scene.finish_error
        assert (expect.cluster_id, expect.member_id, expect.conf_state) == (PEERS.cluster_id, ME, FACTS.conf_state)
        self.consistent_index, self.term = expect.consistent_index, expect.term
        self._scene.story.append("finished")

    def discard(self) -> None:
        self._scene.story.append("discarded")


class Scene:
    """The store, one writer that pauses, the core and the rest of the member."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.story: list[Any] = []
        self.failed: list[Exception] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.wanted = True
        self.offered: list[Message] = []
        self.fetched: list[tuple[int, str]] = []
        """From whom and where, one for each copy begun."""
        self.arrives: asyncio.Future[CopyFacts] = asyncio.get_running_loop().create_future()
        self.whole = asyncio.Event()
        """Set unless the test says that the pieces do not come."""
        self.whole.set()
        self.may_let_go = asyncio.Event()
        """Set unless the test says that the giver does not answer to the end of a transfer either."""
        self.may_let_go.set()
        self.may_finish = threading.Event()
        """Set unless the test says that the disk is slow."""
        self.may_finish.set()
        self.finish_error: Exception | None = None
        self.install_error: Exception | None = None
        self.blocking_pin_count = 0
        self.refuse_pins = False
        monkeypatch.setattr(module, "fetch_copy", self._fetch_copy)
        monkeypatch.setattr(module, "ReceivedStore", lambda _directory, size_bytes: FakeReceived(self, size_bytes))
        this: Any = self
        identity = PEERS._replace(member_id=ME)
        self.exchange = asyncio.Lock()
        self.installer = Installer(
            identity, this, directory, (this,), self.exchange, this, self._spawn, self.failed.append
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(work))
        return self.tasks[-1]

    async def _fetch_copy(
        self, _identity: Any, peer_id: int, url: str, min_index: int, begin: Any, _progress: Any, _tls: Any
    ) -> CopyFacts:
        self.fetched.append((peer_id, url))
        assert min_index == 40
        try:
            facts = await asyncio.shield(self.arrives)
            begin(facts)
            await self.whole.wait()
            return facts
        finally:
            await self.may_let_go.wait()
            self.story.append(("let go", peer_id))

    # --- a writer

    def pause(self) -> None:
        self.story.append("pause")

    async def settled(self) -> None:
        self.story.append("settled")

    def resume(self) -> None:
        self.story.append("resume")

    # --- the backend

    def install(self, received: FakeReceived) -> None:
        assert not self.blocking_pin_count
        if self.install_error is not None:
            raise self.install_error
        self.story.append(("install", received.consistent_index))

    # --- the rest of the member

    def on_snapshot_ready(self, message: Message) -> bool:
        self.offered.append(message)
        return self.wanted

    def on_store_replaced(self) -> None:
        self.story.append("loaded")

    # --- the test's hand

    def offer(self, sender: int = PEER, term: int = 3) -> None:
        snapshot = Snapshot(40, 3, CONF)
        message = Message(MessageType.SNAP, ME, sender=sender, term=term, snapshot=snapshot)
        self.installer.on_offer(message, URL if sender == PEER else f"http://{sender:x}:2380")

    async def fetch(self) -> None:
        """A whole copy arrives, and the core is asked whether it wants it."""
        self.offer()
        self.arrives.set_result(FACTS)
        await self.settle()

    def begin_install(self) -> None:
        snapshot = self.offered[-1].snapshot
        assert snapshot is not None
        self.installer.install(snapshot, lambda: self.story.append("done"))

    async def settle(self) -> None:
        """All that was begun has ended, and nothing of it unexpectedly."""
        while pending := [each for each in self.tasks if not each.done()]:
            await asyncio.wait(pending)
            await turns(2)
        for each in self.tasks:
            if not each.cancelled():
                each.result()

    def steps(self) -> list[Any]:
        """The story without the ends of transfers."""
        return [each for each in self.story if each[0] != "let go"]


async def turns(count: int = 10) -> None:
    """Of the loop, in which nothing is waited for."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Scene], Any]], None]:
    monkeypatch.setattr(module, "RETRY_S", 0.0)

    def run(story: Callable[[Scene], Any]) -> None:
        async def scenario() -> None:
            await asyncio.wait_for(story(Scene(tmp_path, monkeypatch)), 10)

        asyncio.run(scenario())

    return run


Play = Callable[[Callable[[Scene], Any]], None]


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_the_core_is_told_of_what_arrived_and_not_of_what_was_announced(play: Play) -> None:
    """The copy may be newer than the offer; its position and configuration are the snapshot's."""

    async def story(scene: Scene) -> None:
        await scene.fetch()
        assert scene.steps() == [("receive", 4096), "finished"]
        [message] = scene.offered
        assert (message.type, message.sender, message.term) == (MessageType.SNAP, PEER, 3)
        assert message.snapshot == Snapshot(45, 3, CONF)
        assert scene.installer.busy

    play(story)


def test_one_copy_at_a_time(play: Play) -> None:
    """Until it is in place: further offers mean the same."""

    async def story(scene: Scene) -> None:
        scene.offer()
        await asyncio.sleep(0)
        scene.offer()
        scene.arrives.set_result(FACTS)
        await scene.settle()
        scene.offer()
        await scene.settle()
        assert scene.fetched == [(PEER, URL)]
        scene.begin_install()
        scene.offer()
        await scene.settle()
        assert (len(scene.fetched), scene.installer.busy, scene.installer.installed) == (1, False, 1)
        scene.offer()
        await asyncio.sleep(0)
        assert scene.installer.busy
        await scene.settle()
        assert scene.fetched == [(PEER, URL)] * 2

    play(story)


def test_the_next_leaders_offer_replaces_a_fetch_under_way(play: Play) -> None:
    """RF-45: the last one may not answer any more, and its log is no longer the one that goes on."""

    async def story(scene: Scene) -> None:
        scene.arrives.set_result(FACTS)
        scene.whole.clear()
        scene.offer()
        await turns()
        scene.offer(NEXT, term=4)
        await turns()
        assert scene.fetched == [(PEER, URL), (NEXT, "http://71:2380")]
        assert scene.story == [("receive", 4096), ("let go", PEER), "discarded", ("receive", 4096)]
        assert (scene.installer.busy, scene.installer.failed) == (True, 0)
        scene.whole.set()
        await scene.settle()
        [message] = scene.offered
        assert (message.sender, message.term, message.snapshot) == (NEXT, 4, Snapshot(45, 3, CONF))
        assert scene.steps()[3:] == ["finished"]

    play(story)


def test_the_next_fetch_begins_when_the_last_has_let_go(play: Play) -> None:
    """A copy is received in one place. The newest offer counts, and repeating it hurries nobody."""

    async def story(scene: Scene) -> None:
        scene.arrives.set_result(FACTS)
        scene.whole.clear()
        scene.may_let_go.clear()
        scene.offer()
        await turns()
        for sender in (NEXT, NEXT, THIRD):
            scene.offer(sender, term=5)
            await turns()
        assert (scene.story, len(scene.fetched), scene.installer.busy) == ([("receive", 4096)], 1, True)
        scene.may_let_go.set()
        await turns()
        assert scene.story == [("receive", 4096), ("let go", PEER), "discarded", ("receive", 4096)]
        assert scene.fetched == [(PEER, URL), (THIRD, "http://72:2380")]
        scene.whole.set()
        await scene.settle()
        assert [each.sender for each in scene.offered] == [THIRD]

    play(story)


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_that_is_all_there_is_not_given_up_for_the_next_leaders(play: Play, fails: bool) -> None:
    """RF-45: a thread is making it durable and has its files; and it is as good as the next would be. If it turns out
    bad the next leader offers its own again."""

    async def story(scene: Scene) -> None:
        scene.may_finish.clear()
        scene.finish_error = BackendError("damaged") if fails else None
        scene.arrives.set_result(FACTS)
        scene.offer()
        while ("let go", PEER) not in scene.story:
            await asyncio.sleep(0)
        await turns()
        scene.offer(NEXT, term=4)
        await turns()
        assert "discarded" not in scene.story
        scene.may_finish.set()
        await scene.settle()
        assert scene.fetched == [(PEER, URL)]
        assert scene.steps() == [("receive", 4096), "discarded" if fails else "finished"]
        assert [each.sender for each in scene.offered] == ([] if fails else [PEER])
        scene.finish_error = None
        scene.whole.clear()
        wanted = [NEXT, THIRD] if fails else []
        for sender in (NEXT, THIRD):
            scene.offer(sender, term=5)
            await turns()
        for _ in range(1000):  # a thread lets go of what the first of the two had begun
            if len(scene.fetched) > len(wanted):
                break
            await asyncio.sleep(0.005)
        assert [sender for sender, _ in scene.fetched[1:]] == wanted
        scene.whole.set()
        await scene.settle()

    play(story)


def test_a_member_that_stops_begins_no_other_fetch(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.offer()
        await turns()
        scene.offer(NEXT, term=4)
        scene.installer.stop()
        await scene.settle()
        assert (scene.fetched, scene.offered) == ([(PEER, URL)], [])

    play(story)


def test_an_offer_that_comes_while_a_copy_waits_for_its_turn_is_not_needed(play: Play) -> None:
    """It is whole, and the core has taken it; what a newer leader has on top comes with the log."""

    async def story(scene: Scene) -> None:
        await scene.fetch()
        scene.offer(NEXT, term=4)
        scene.begin_install()
        scene.offer(NEXT, term=4)
        await scene.settle()
        assert (len(scene.fetched), scene.installer.installed) == (1, 1)
        assert "discarded" not in scene.story

    play(story)


@pytest.mark.parametrize(
    "failure", [PeerCallError(Code.UNAVAILABLE, "gone"), BackendError("damaged"), NoSpaceError("full"), OSError("disk")]
)
def test_a_transfer_that_fails_leaves_nothing_and_the_next_offer_is_taken(play: Play, failure: Exception) -> None:
    async def story(scene: Scene) -> None:
        scene.finish_error = failure
        await scene.fetch()
        assert scene.steps() == [("receive", 4096), "discarded"]
        assert (scene.offered, scene.installer.failed, scene.installer.busy, scene.failed) == ([], 1, False, [])
        scene.finish_error = None
        scene.offer()
        await scene.settle()
        assert len(scene.offered) == 1

    play(story)


def test_a_copy_that_the_core_has_no_use_for_any_more_goes(play: Play) -> None:
    """The log has caught up meanwhile, or another member leads."""

    async def story(scene: Scene) -> None:
        scene.wanted = False
        await scene.fetch()
        await scene.settle()
        assert scene.steps() == [("receive", 4096), "finished", "discarded"]
        assert (scene.installer.busy, scene.installer.installed) == (False, 0)

    play(story)


# --- exchanging -------------------------------------------------------------------------------------------------------


def test_everybody_stands_still_while_the_stores_are_exchanged(play: Play) -> None:
    """RF-45: paused, settled, exchanged, loaded, and only then the core hears of it."""

    async def story(scene: Scene) -> None:
        await scene.fetch()
        scene.story.clear()
        scene.begin_install()
        await scene.settle()
        assert scene.story == ["pause", "settled", ("install", 45), "loaded", "resume", "done"]
        assert (scene.installer.installed, scene.installer.busy) == (1, False)

    play(story)


def test_a_defragmentation_is_waited_for(play: Play) -> None:
    """MT-30, RF-45: two at once would end each other's pause. Nobody stands still before its turn has come."""

    async def story(scene: Scene) -> None:
        await scene.fetch()
        scene.story.clear()
        await scene.exchange.acquire()
        scene.begin_install()
        await turns()
        assert (scene.story, scene.installer.installed) == ([], 0)
        scene.exchange.release()
        await scene.settle()
        assert scene.story == ["pause", "settled", ("install", 45), "loaded", "resume", "done"]
        assert not scene.exchange.locked()

    play(story)


def test_no_defragmentation_begins_while_the_stores_are_exchanged(play: Play) -> None:
    async def story(scene: Scene) -> None:
        await scene.fetch()
        scene.blocking_pin_count = 1
        scene.begin_install()
        await turns()
        assert scene.exchange.locked()
        scene.blocking_pin_count = 0
        await scene.settle()
        assert not scene.exchange.locked()

    play(story)


def test_reads_under_way_are_waited_for_and_in_the_end_no_new_ones_begin(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold the old store. There might always be one more."""

    async def story(scene: Scene) -> None:
        loop: Any = asyncio.get_running_loop()
        real, ahead = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + ahead)
        await scene.fetch()
        scene.blocking_pin_count = 1
        scene.begin_install()
        for _ in range(10):
            await asyncio.sleep(0)
        refused = scene.refuse_pins
        assert not refused
        ahead = module.PATIENT_S
        for _ in range(10):
            await asyncio.sleep(0)
        assert scene.refuse_pins
        assert scene.installer.installed == 0
        scene.blocking_pin_count = 0
        await scene.settle()
        assert (scene.refuse_pins, scene.installer.installed) == (False, 1)

    play(story)


def test_an_exchange_that_fails_ends_the_member(play: Play) -> None:
    """The log speaks of a store that is not in place: the next start finishes it, and until then nothing goes on."""

    async def story(scene: Scene) -> None:
        await scene.fetch()
        scene.install_error = OSError("disk")
        scene.begin_install()
        await scene.settle()
        assert scene.failed == [scene.install_error]
        assert "resume" not in scene.story
        assert "done" not in scene.story
        assert not scene.refuse_pins

    play(story)


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stopping_member_begins_nothing(play: Play) -> None:
    async def story(scene: Scene) -> None:
        scene.installer.stop()
        scene.offer()
        await scene.settle()
        assert (scene.fetched, scene.installer.busy) == ([], False)

    play(story)


def test_what_arrives_when_the_member_stops_is_left_to_the_next_start(play: Play) -> None:
    """The log does not speak of it, so it is removed then."""

    async def story(scene: Scene) -> None:
        scene.offer()
        await asyncio.sleep(0)
        scene.installer.stop()
        scene.arrives.set_result(FACTS)
        await scene.settle()
        assert scene.offered == []

    play(story)


def test_an_exchange_that_waits_when_the_member_stops_is_left_to_the_next_start(play: Play) -> None:
    """RF-46: the log decided for it, so it is put in place then."""

    async def story(scene: Scene) -> None:
        await scene.fetch()
        scene.blocking_pin_count = 1
        scene.begin_install()
        await asyncio.sleep(0)
        scene.installer.stop()
        scene.blocking_pin_count = 0
        await scene.settle()
        assert (scene.installer.installed, scene.failed) == (0, [])
        assert "done" not in scene.story

    play(story)
