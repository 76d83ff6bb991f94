"""A copy of a real store over a real connection: whole, whatever happens on the way, or an error that says why."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from peers_support import MINE, PEERS, FakeHost
from trio import PEER_SERVER_LIMITS, bound_socket

from raftkv.backend import Backend, Meta
from raftkv.backend.schema import pack_consistent_index
from raftkv.pb import peer_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Routes, build_routes
from raftkv.server.peers import Copies, CopyFacts, Identity, PeerCallError, PeerService, RefusedByCluster, fetch_copy
from raftkv.server.peers import fetch as module
from raftkv.server.peers import protocol as p

INDEX, TERM = 42, 3


class Giver:
    """A member that has a store, and the test's hand on what it answers.

    `before_read(number, call, message)` is asked before each piece; True: it has answered itself.
    """

    def __init__(self, directory: Path) -> None:
        loop = asyncio.get_running_loop()
        self.backend = Backend.open(directory, map_size_bytes=64 << 20, reserve_step_bytes=64 << 10)
        txn = self.backend.begin_write()
        for number in range(40):
            txn.put(b"k%d" % number, bytes([number]) * 50_000, db=self.backend.tables.current)
        txn.put(Meta.CONSISTENT_INDEX, pack_consistent_index(INDEX, TERM), db=self.backend.tables.meta)
        self.backend.commit()
        self.ended: list[tuple[int, bool]] = []
        self.copies = Copies(loop, self.backend, lambda: b"conf", lambda *ended: self.ended.append(ended))
        self.before_read: Callable[[int, Any, bytes], bool] = lambda *_: False
        self.reads = 0
        host: Any = FakeHost()
        self.listener = Listener(loop, self._watched(PeerService(host, self.copies)), None, PEER_SERVER_LIMITS)
        self.sock = bound_socket()
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"

    def _watched(self, service: PeerService) -> Routes:
        routes = dict(build_routes((service.service(),)))
        read: Any = routes[p.READ_COPY].handler

        def watched(call: Any, message: bytes) -> None:
            self.reads += 1
            if not self.before_read(self.reads, call, message):
                read(call, message)

        routes[p.READ_COPY] = routes[p.READ_COPY]._replace(handler=watched)
        return routes

    def break_connections(self) -> None:
        """As if a cable had been pulled and put back."""
        for each in list(self.listener._protocols):
            each.abort()

    async def whole(self) -> bytes:
        copy = self.backend.begin_copy()
        try:
            parts = []
            at = 0
            while part := copy.read(at, 1 << 20):
                parts.append(part)
                at += len(part)
            return b"".join(parts)
        finally:
            copy.close()

    async def end(self) -> None:
        self.listener.close()
        await self.copies.stop()
        self.backend.close()


class Receiver:
    """Where the bytes go; from several threads."""

    def __init__(self, facts: CopyFacts) -> None:
        self.content = bytearray(facts.size_bytes)
        self.pieces: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self.failure: OSError | None = None

    def write(self, offset: int, data: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if self.failure is not None:
            raise self.failure
        with self._lock:
            self.content[offset : offset + len(data)] = data
            self.pieces.append((offset, len(data)))


class Taker:
    def __init__(self, giver: Giver) -> None:
        self._giver = giver
        self.facts: list[CopyFacts] = []
        self.receivers: list[Receiver] = []
        self.write_error: OSError | None = None
        self.progress: list[tuple[int, int]] = []

    def begin(self, facts: CopyFacts) -> Receiver:
        self.facts.append(facts)
        self.receivers.append(Receiver(facts))
        self.receivers[-1].failure = self.write_error
        return self.receivers[-1]

    async def fetch(self, min_index: int = INDEX, identity: Identity = PEERS) -> CopyFacts:
        def progress(*done: int) -> None:
            self.progress.append(done)  # type: ignore[arg-type]  # two numbers

        return await fetch_copy(identity, MINE.member_id, self._giver.url, min_index, self.begin, progress)

    @property
    def content(self) -> bytes:
        return bytes(self.receivers[-1].content)


Story = Callable[[Giver, Taker], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Story], None]:
    """With pieces so small that there are many, and no long waits."""
    monkeypatch.setattr(module, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(module, "RETRY_S", 0.01)

    def run(story: Story) -> None:
        async def scenario() -> None:
            giver = Giver(tmp_path)
            await giver.listener.start(giver.sock)
            try:
                await asyncio.wait_for(story(giver, Taker(giver)), 20)
            finally:
                await giver.end()

        asyncio.run(scenario())

    return run


def test_a_whole_copy_arrives(play: Callable[[Story], None]) -> None:
    """RF-45: byte for byte, each piece once, and the giver is told."""

    async def story(giver: Giver, taker: Taker) -> None:
        expected = await giver.whole()
        assert len(expected) > 20 * module.PIECE_BYTES
        facts = await taker.fetch()
        assert facts == CopyFacts(len(expected), INDEX, TERM, b"conf")
        assert taker.facts == [facts]
        assert taker.content == expected
        offsets = sorted(offset for offset, _ in taker.receivers[0].pieces)
        assert offsets == list(range(0, len(expected), module.PIECE_BYTES))
        assert taker.progress[-1] == (len(expected), len(expected))
        assert [done for done, _ in taker.progress] == sorted(done for done, _ in taker.progress)
        assert giver.ended == [(PEERS.member_id, True)]
        assert (len(giver.copies), giver.backend.pin_count) == (0, 0)

    play(story)


def test_what_is_written_meanwhile_is_not_in_it(play: Callable[[Story], None]) -> None:
    """One snapshot, though the store goes on."""

    async def story(giver: Giver, taker: Taker) -> None:
        expected = await giver.whole()

        def write(number: int, _call: Any, _message: bytes) -> bool:
            giver.backend.begin_write().put(b"new%d" % number, b"x" * 10_000, db=giver.backend.tables.current)
            giver.backend.commit()
            return False

        giver.before_read = write
        await taker.fetch()
        assert taker.content[8192:] == expected[8192:]
        assert giver.reads > 20

    play(story)


@pytest.mark.parametrize("at", [1, 9, 30])
def test_a_broken_connection_costs_the_pieces_under_way(play: Callable[[Story], None], at: int) -> None:
    async def story(giver: Giver, taker: Taker) -> None:
        expected = await giver.whole()
        pieces = -(-len(expected) // module.PIECE_BYTES)

        def break_once(number: int, _call: Any, _message: bytes) -> bool:
            if number == at:
                giver.break_connections()
            return False

        giver.before_read = break_once
        await taker.fetch()
        assert taker.content == expected
        assert len(taker.facts) == 1, "the same copy goes on"
        assert pieces < giver.reads <= pieces + module.PIECES_UNDER_WAY
        assert giver.ended == [(PEERS.member_id, True)]

    play(story)


@pytest.mark.parametrize("damage", ["changed", "short", "long", "empty"])
def test_a_piece_that_is_not_whole_is_asked_for_again(play: Callable[[Story], None], damage: str) -> None:
    async def story(giver: Giver, taker: Taker) -> None:
        expected = await giver.whole()

        def spoil(number: int, call: Any, message: bytes) -> bool:
            if number not in (2, 7):
                return False
            ask = peer_pb2.ReadCopyRequest.FromString(message)
            data = expected[ask.offset : ask.offset + ask.size_bytes]
            crc = google_crc32c.value(data)
            spoilt = {
                "changed": data[:100] + bytes([data[100] ^ 1]) + data[101:],
                "short": data[:-1],
                "long": data + b"\x00",
                "empty": b"",
            }[damage]
            call.reply(peer_pb2.ReadCopyResponse(data=spoilt, crc32c=crc).SerializeToString())
            return True

        giver.before_read = spoil
        await taker.fetch()
        assert taker.content == expected
        assert giver.ended == [(PEERS.member_id, True)]

    play(story)


def test_a_giver_that_is_gone_is_given_up(play: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_UP_S", 0.2)

    async def story(giver: Giver, taker: Taker) -> None:
        def die(number: int, _call: Any, _message: bytes) -> bool:
            if number == 5:
                giver.listener.close()
            return True

        giver.before_read = die
        with pytest.raises(PeerCallError) as gone:
            await taker.fetch()
        assert gone.value.code is Code.UNAVAILABLE
        assert giver.ended == []

    play(story)


def test_a_piece_that_never_arrives_whole_is_given_up(
    play: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP_S", 0.1)

    async def story(giver: Giver, taker: Taker) -> None:
        def spoil(_number: int, call: Any, _message: bytes) -> bool:
            call.reply(peer_pb2.ReadCopyResponse(data=b"x", crc32c=0).SerializeToString())
            return True

        giver.before_read = spoil
        with pytest.raises(PeerCallError) as damaged:
            await taker.fetch()
        assert damaged.value.code is Code.DATA_LOSS
        assert giver.ended == [(PEERS.member_id, False)]

    play(story)


def test_a_copy_that_the_giver_has_closed_is_not_waited_for(play: Callable[[Story], None]) -> None:
    """It has been idle too long, or has restarted: another one must be asked for."""

    async def story(giver: Giver, taker: Taker) -> None:
        def forget(number: int, call: Any, message: bytes) -> bool:
            if number == 5:
                copy_id = peer_pb2.ReadCopyRequest.FromString(message).copy_id
                giver.copies._end(copy_id, received=False)
                giver.copies.read(call, peer_pb2.ReadCopyRequest(copy_id=copy_id))
            return number >= 5

        giver.before_read = forget
        with pytest.raises(PeerCallError, match="this copy is closed"):
            await taker.fetch()

    play(story)


def test_a_disk_that_fails_ends_the_transfer_and_the_giver_is_told(play: Callable[[Story], None]) -> None:
    async def story(giver: Giver, taker: Taker) -> None:
        taker.write_error = OSError(28, "no space")
        with pytest.raises(OSError, match="no space"):
            await taker.fetch()
        assert giver.ended == [(PEERS.member_id, False)]

    play(story)


def test_no_room_for_a_copy_ends_it_before_the_first_piece(play: Callable[[Story], None]) -> None:
    async def story(giver: Giver, taker: Taker) -> None:
        def begin(_facts: CopyFacts) -> Receiver:
            raise OSError(28, "no space")

        with pytest.raises(OSError, match="no space"):
            await fetch_copy(PEERS, MINE.member_id, giver.url, INDEX, begin)
        assert (giver.reads, giver.ended) == (0, [(PEERS.member_id, False)])

    play(story)


def test_a_copy_that_is_too_old_is_not_taken(play: Callable[[Story], None]) -> None:
    async def story(giver: Giver, taker: Taker) -> None:
        with pytest.raises(PeerCallError) as behind:
            await taker.fetch(min_index=INDEX + 1)
        assert behind.value.code is Code.OUT_OF_RANGE
        assert (taker.facts, giver.ended, giver.backend.pin_count) == ([], [], 0)

    play(story)


def test_a_member_of_another_cluster_gets_nothing(play: Callable[[Story], None]) -> None:
    """H-71."""

    async def story(giver: Giver, taker: Taker) -> None:
        with pytest.raises(RefusedByCluster):
            await taker.fetch(identity=PEERS._replace(cluster_id=1))
        assert (taker.facts, len(giver.copies)) == ([], 0)

    play(story)
