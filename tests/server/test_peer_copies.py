"""Copies of the store given to members that lag: how many, for how long, and what of the log stays behind them."""

from __future__ import annotations

import asyncio
from typing import Any

import google_crc32c
import pytest
from peers_support import FakeCall
from server_support import FakeLoop

from raftkv.backend import BackendError
from raftkv.pb import peer_pb2
from raftkv.rpc.codes import Code
from raftkv.server.peers import Copies
from raftkv.server.peers import copies as module

READER, OTHER = 0xB, 0xC
CONTENT = bytes(range(256)) * 40
HEAD = 100
"""The first read gives no more than this, as that of a real copy gives the two meta pages."""


class FakeCopy:
    size_bytes = len(CONTENT)
    term = 3

    def __init__(self, index: int) -> None:
        self.consistent_index = index
        self.closed: Any = False
        self.failure: Exception | None = None

    def read(self, offset: int, size: int) -> bytes:
        assert not self.closed
        if self.failure is not None:
            raise self.failure
        end = HEAD if offset < HEAD else len(CONTENT)
        return CONTENT[offset : min(end, offset + size)]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Read:
    """A read in a thread, which ends when the test says so."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._callback: Any = None
        self._result: Any = None
        self._failure: BaseException | None = None

    def add_done_callback(self, callback: Any) -> None:
        self._callback = callback

    def end(self) -> None:
        try:
            self._result = self._work()
        except Exception as failure:
            self._failure = failure
        self._callback(self)

    def exception(self) -> BaseException | None:
        return self._failure

    def result(self) -> Any:
        return self._result


class ThreadLoop(FakeLoop):
    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Read] = []

    def run_in_executor(self, _executor: None, function: Any, *args: Any) -> Read:
        self.reads.append(Read(lambda: function(*args)))
        return self.reads[-1]


class Scene:
    """The store, and whom the copies report to."""

    def __init__(self) -> None:
        self.loop = ThreadLoop()
        self.applied = 50
        self.failure: Exception | None = None
        self.made: list[FakeCopy] = []
        self.ended: list[tuple[int, bool]] = []
        this: Any = self
        self.copies = Copies(this.loop, this, lambda: b"conf", lambda *ended: self.ended.append(ended))

    def begin_copy(self) -> FakeCopy:
        if self.failure is not None:
            raise self.failure
        self.made.append(FakeCopy(self.applied))
        return self.made[-1]

    def call(self, method: Any, *args: Any) -> Any:
        call: Any = FakeCall()
        method(call, *args)
        return call

    def open(self, reader: int = READER, min_index: int = 0) -> FakeCall:
        call: FakeCall = self.call(self.copies.open, reader, peer_pb2.OpenCopyRequest(min_index=min_index))
        return call

    def opened(self, reader: int = READER) -> peer_pb2.OpenCopyResponse:
        return peer_pb2.OpenCopyResponse.FromString(self.open(reader).replies[0])

    def read(self, copy_id: int, offset: int = 0, size: int = 64) -> FakeCall:
        request = peer_pb2.ReadCopyRequest(copy_id=copy_id, offset=offset, size_bytes=size)
        call: FakeCall = self.call(self.copies.read, request)
        return call

    def piece(self, copy_id: int, offset: int, size: int) -> bytes:
        call = self.read(copy_id, offset, size)
        self.loop.reads.pop().end()
        answer = peer_pb2.ReadCopyResponse.FromString(call.replies[0])
        assert answer.crc32c == google_crc32c.value(answer.data)
        return answer.data

    def close(self, copy_id: int, *, received: bool) -> FakeCall:
        request = peer_pb2.CloseCopyRequest(copy_id=copy_id, received=received)
        call: FakeCall = self.call(self.copies.close, request)
        return call

    def oldest(self) -> int | None:
        return self.copies.oldest_index

    def tick(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.copies.on_tick(self.loop.time())


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- giving -----------------------------------------------------------------------------------------------------------


def test_a_copy_says_what_it_is(scene: Scene) -> None:
    """RF-65: the configuration goes with it."""
    opened = scene.opened()
    assert (opened.size_bytes, opened.index, opened.term, opened.conf_state) == (len(CONTENT), 50, 3, b"conf")
    assert opened.copy_id
    assert len(scene.copies) == 1


def test_pieces_come_whole_and_with_their_sum(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the store gives less at a time; only at its end a piece is shorter."""
    copy_id = scene.opened().copy_id
    assert scene.piece(copy_id, 0, 1000) == CONTENT[:1000]
    assert scene.piece(copy_id, 90, 20) == CONTENT[90:110]
    assert scene.piece(copy_id, 10_000, 1000) == CONTENT[10_000:]
    assert scene.piece(copy_id, len(CONTENT), 10) == b""
    assert scene.piece(copy_id, 0, 1000) == CONTENT[:1000], "asked for again"
    monkeypatch.setattr(module, "MAX_PIECE_BYTES", 500)
    assert scene.piece(copy_id, 0, 1000) == CONTENT[:500]


def test_a_copy_must_reach_as_far_as_it_is_needed(scene: Scene) -> None:
    """Of a member that lags itself: the log behind its copy is gone where the rest would come from."""
    assert scene.open(min_index=50).ended == (Code.OK, "")
    refused = scene.open(OTHER, min_index=51)
    assert refused.ended is not None
    assert refused.ended[0] is Code.OUT_OF_RANGE
    assert scene.made[1].closed
    assert len(scene.copies) == 1


def test_only_so_many_are_read_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """RF-44. Each pins pages of the store."""
    monkeypatch.setattr(module, "MAX_COPIES", 2)
    first = scene.opened(1)
    scene.opened(2)
    full = scene.open(3)
    assert full.ended is not None
    assert full.ended[0] is Code.RESOURCE_EXHAUSTED
    assert len(scene.made) == 2
    scene.close(first.copy_id, received=True)
    assert scene.open(3).ended == (Code.OK, "")


@pytest.mark.parametrize("failure", [BackendError("too many pins"), OSError("no descriptors")])
def test_a_store_that_cannot_be_copied_now_says_so(scene: Scene, failure: Exception) -> None:
    scene.failure = failure
    refused = scene.open()
    assert refused.ended == (Code.UNAVAILABLE, f"the store cannot be copied: {failure}")


def test_a_copy_that_cannot_be_read_says_so(scene: Scene) -> None:
    copy_id = scene.opened().copy_id
    scene.made[0].failure = OSError("bad disk")
    call = scene.read(copy_id)
    scene.loop.reads.pop().end()
    assert call.ended == (Code.INTERNAL, "the store cannot be read: bad disk")


def test_a_copy_that_is_not_open_is_not_found(scene: Scene) -> None:
    copy_id = scene.opened().copy_id
    scene.close(copy_id, received=True)
    for unknown in (copy_id, copy_id ^ 1):
        assert scene.read(unknown).ended == (Code.NOT_FOUND, "this copy is closed")


# --- the end of a copy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("received", [True, False])
def test_the_core_hears_once_how_a_copy_ended(scene: Scene, received: bool) -> None:
    """Whoever closes it twice has not heard the first answer."""
    copy_id = scene.opened().copy_id
    for _ in range(2):
        assert scene.close(copy_id, received=received).ended == (Code.OK, "")
    assert scene.ended == [(READER, received)]
    assert scene.made[0].closed
    assert (scene.copies.sent, scene.copies.failed) == (int(received), int(not received))


def test_a_copy_that_nobody_reads_is_closed(scene: Scene) -> None:
    """RF-44: counted from the last piece asked for."""
    copy_id = scene.opened().copy_id
    scene.tick(module.IDLE_S - 1.0)
    scene.piece(copy_id, 0, 10)
    scene.tick(module.IDLE_S - 1.0)
    assert len(scene.copies) == 1
    scene.tick(1.0)
    assert (len(scene.copies), scene.ended, scene.made[0].closed) == (0, [(READER, False)], True)


def test_a_copy_is_not_closed_under_a_read(scene: Scene) -> None:
    """The thread still has the file."""
    copy_id = scene.opened().copy_id
    call = scene.read(copy_id)
    scene.tick(2 * module.IDLE_S)
    assert not scene.made[0].closed
    scene.loop.reads.pop().end()
    assert call.ended == (Code.OK, "")
    scene.tick(0.1)
    assert scene.made[0].closed


def test_who_begins_anew_gives_up_its_first_copy(scene: Scene) -> None:
    """Nothing has ended for that member: it is being served. Those of others go on."""
    scene.opened(OTHER)
    first = scene.opened()
    second = scene.opened()
    assert first.copy_id != second.copy_id
    assert [each.closed for each in scene.made] == [False, True, False]
    assert (scene.ended, len(scene.copies)) == ([], 2)


def test_who_begins_anew_under_a_read_gives_up_its_first_copy(scene: Scene) -> None:
    """When the read has ended, for the thread still has the file; and nothing has failed for that member."""
    first = scene.opened()
    call = scene.read(first.copy_id)
    second = scene.opened()
    assert (scene.made[0].closed, len(scene.copies)) == (False, 2)
    scene.loop.reads.pop().end()
    assert (call.ended, scene.made[0].closed, len(scene.copies)) == ((Code.OK, ""), True, 1)
    scene.tick(module.IDLE_S - 1.0)
    scene.piece(second.copy_id, 0, 10)
    scene.tick(1.0)
    assert (scene.made[1].closed, scene.ended) == (False, [])


def test_a_copy_that_was_given_up_goes_with_the_last_of_its_reads(scene: Scene) -> None:
    first = scene.opened()
    for offset in (0, 64):
        scene.read(first.copy_id, offset)
    for _ in range(3):
        scene.opened()
    assert len(scene.copies) == 2, "those without reads went at once"
    for closed in (False, True):
        scene.loop.reads.pop().end()
        assert scene.made[0].closed is closed
    assert (scene.ended, scene.copies.failed) == ([], 3)


def test_a_copy_that_is_closed_under_a_read_goes_when_that_has_ended(scene: Scene) -> None:
    """A reader that is told by another leader to fetch elsewhere has requests on the way, and closes its copy."""
    copy_id = scene.opened().copy_id
    call = scene.read(copy_id)
    assert scene.close(copy_id, received=False).ended == (Code.OK, "")
    assert not scene.made[0].closed
    scene.loop.reads.pop().end()
    assert call.ended == (Code.OK, "")
    assert (scene.made[0].closed, len(scene.copies), scene.ended) == (True, 0, [(READER, False)])


@pytest.mark.parametrize("received", [True, False])
def test_a_copy_that_has_ended_under_a_read_is_ended_once(scene: Scene, received: bool) -> None:
    """What its reader says of it first holds; no more of it is read."""
    first = scene.opened()
    scene.read(first.copy_id)
    scene.close(first.copy_id, received=received)
    scene.close(first.copy_id, received=not received)
    assert scene.read(first.copy_id).ended == (Code.NOT_FOUND, "this copy is closed")
    scene.opened()
    scene.loop.reads.pop().end()
    assert (scene.ended, len(scene.copies)) == ([(READER, received)], 1)


def test_a_member_that_does_not_fetch_what_it_was_offered(scene: Scene) -> None:
    """Without this the core would wait for ever for the snapshot to arrive."""
    scene.copies.expect(READER)
    scene.copies.expect(OTHER)
    scene.opened(OTHER)
    scene.tick(module.IDLE_S - 1.0)
    assert scene.ended == []
    scene.tick(1.0)
    assert (READER, False) in scene.ended
    assert scene.ended.count((READER, False)) == 1
    scene.tick(2 * module.IDLE_S)
    assert scene.ended.count((READER, False)) == 1


# --- the log behind it ------------------------------------------------------------------------------------------------


def test_the_log_behind_a_copy_is_kept_while_it_is_read_and_a_while_after(scene: Scene) -> None:
    """RF-44: else the entries since would be gone, and the member would need another copy."""
    assert scene.oldest() is None
    first = scene.opened()
    scene.applied = 70
    second = scene.opened(OTHER)
    assert scene.oldest() == 50
    scene.close(first.copy_id, received=True)
    assert scene.oldest() == 50
    scene.tick(module.KEEP_LOG_S - 1.0)
    assert scene.oldest() == 50
    scene.piece(second.copy_id, 0, 10)
    scene.tick(1.0)
    assert scene.oldest() == 70
    scene.close(second.copy_id, received=False)
    assert scene.oldest() is None


def test_stopping_waits_for_the_reads_under_way(scene: Scene) -> None:
    async def stop() -> None:
        scene.read(scene.opened().copy_id)
        stopping = asyncio.ensure_future(scene.copies.stop())
        await asyncio.sleep(0)
        assert not scene.made[0].closed
        scene.loop.reads.pop().end()
        await stopping
        assert scene.made[0].closed
        assert (len(scene.copies), scene.ended) == (0, [])

    asyncio.run(stop())
