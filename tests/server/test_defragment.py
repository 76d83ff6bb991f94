"""Rewriting the store without its free pages: who is paused, what is waited for, and that a failure harms nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from raftkv.backend import Backend, NoSpaceError, PinsOpenError
from raftkv.backend.snapshots import Defragmentation
from raftkv.server import defragment as module
from raftkv.server.defragment import Defragmenter, DefragmentRefused


class Scene:
    """A real store with free pages; one writer, which is also told the new handles."""

    def __init__(self, directory: Path) -> None:
        self.backend = Backend.open(directory, map_size_bytes=64 << 20, reserve_step_bytes=64 << 10)
        for value in (b"x" * 200_000, b"small"):
            self.put(b"k", value)
        self.log: list[str] = []
        self.fatal: list[Exception] = []
        self.tables = self.backend.tables
        self.exchange = asyncio.Lock()
        self.defragmenter = Defragmenter(self.backend, (self,), (self,), self.fatal.append, self.exchange)

    def put(self, key: bytes, value: bytes) -> None:
        self.backend.begin_write().put(key, value, db=self.backend.tables.current)
        self.backend.commit()

    def get(self, key: bytes) -> bytes | None:
        return self.backend.read().get(key, db=self.tables.current)

    def pause(self) -> None:
        self.log.append("pause")

    async def settled(self) -> None:
        self.log.append("settled")

    def resume(self) -> None:
        self.log.append("resume")

    def rebind(self, tables: Any) -> None:
        self.log.append("rebind")
        self.tables = tables

    def assert_usable(self) -> None:
        """Readable, writable, and ready for another try."""
        assert self.get(b"k") == b"small"
        self.put(b"k2", b"v2")
        assert self.get(b"k2") == b"v2"


def play(directory: Path, story: Callable[[Scene], Awaitable[None]]) -> None:
    async def scenario() -> None:
        scene = Scene(directory)
        await story(scene)
        scene.backend.close()

    asyncio.run(scenario())


def test_the_file_shrinks_and_everybody_goes_on(tmp_path: Path) -> None:
    """MT-30: paused, settled, rebound, resumed, in this order."""

    async def story(scene: Scene) -> None:
        before = scene.backend.size_bytes
        await scene.defragmenter.run()
        assert scene.backend.size_bytes < before
        assert scene.log == ["pause", "settled", "rebind", "resume"]
        scene.assert_usable()
        await scene.defragmenter.run()
        scene.assert_usable()

    play(tmp_path, story)


def test_reads_see_the_store_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Scene) -> None:
        seen: list[bytes | None] = []
        loop, run = asyncio.get_running_loop(), Defragmentation.run

        def run_beside_a_read(job: Defragmentation) -> None:
            read = asyncio.run_coroutine_threadsafe(_read(), loop)
            read.result(10)
            run(job)

        async def _read() -> None:
            seen.append(scene.get(b"k"))

        monkeypatch.setattr(Defragmentation, "run", run_beside_a_read)
        await scene.defragmenter.run()
        assert seen == [b"small"]

    play(tmp_path, story)


def test_long_reads_are_waited_for(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        pin = scene.backend.pin()
        run = asyncio.ensure_future(scene.defragmenter.run())
        while "settled" not in scene.log:
            await asyncio.sleep(0)
        assert pin.txn.get(b"k", db=scene.tables.current) == b"small"
        asyncio.get_running_loop().call_later(0.01, pin.close)
        await run
        scene.assert_usable()

    play(tmp_path, story)


def test_readers_that_stay_are_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MT-31: refused, the copy thrown away, writers resumed; the next try succeeds."""
    monkeypatch.setattr(module, "WAIT_FOR_READERS_S", 0.0)

    async def story(scene: Scene) -> None:
        pin = scene.backend.pin()
        with pytest.raises(DefragmentRefused, match="long reads"):
            await scene.defragmenter.run()
        assert pin.txn.get(b"k", db=scene.tables.current) == b"small"
        assert scene.log == ["pause", "settled", "resume"]
        assert scene.fatal == []
        scene.assert_usable()
        pin.close()
        await scene.defragmenter.run()
        scene.assert_usable()

    play(tmp_path, story)


def test_one_at_a_time(tmp_path: Path) -> None:
    """The second is refused and does not disturb the first."""

    async def story(scene: Scene) -> None:
        first = asyncio.ensure_future(scene.defragmenter.run())
        await asyncio.sleep(0)
        with pytest.raises(DefragmentRefused, match="under way"):
            await scene.defragmenter.run()
        await first
        assert scene.log == ["pause", "settled", "rebind", "resume"]
        scene.assert_usable()

    play(tmp_path, story)


def test_while_another_members_store_is_put_in_place_it_is_refused(tmp_path: Path) -> None:
    """MT-30, RF-45: two at once would end each other's pause. The other store has no free pages to speak of."""

    async def story(scene: Scene) -> None:
        async with scene.exchange:
            with pytest.raises(DefragmentRefused, match="another member's"):
                await scene.defragmenter.run()
            assert (scene.log, scene.fatal, scene.exchange.locked()) == ([], [], True)
        await scene.defragmenter.run()
        scene.assert_usable()

    play(tmp_path, story)


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_replaces_the_store_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """And whoever waits to do so has its turn afterwards, however it ended, when everybody goes on."""

    def fail(_job: Defragmentation) -> None:
        raise NoSpaceError("no room for a copy")

    async def story(scene: Scene) -> None:
        if fails:
            monkeypatch.setattr(Defragmentation, "run", fail)
        running = asyncio.ensure_future(scene.defragmenter.run())
        await asyncio.sleep(0)
        async with scene.exchange:
            scene.log.append("replace")
        await asyncio.gather(running, return_exceptions=True)
        assert scene.log == ["pause", "settled", *([] if fails else ["rebind"]), "resume", "replace"]

    play(tmp_path, story)


def test_a_copy_that_fails_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_job: Defragmentation) -> None:
        raise NoSpaceError("no room for a copy")

    async def story(scene: Scene) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Defragmentation, "run", fail)
            with pytest.raises(NoSpaceError):
                await scene.defragmenter.run()
        assert scene.log == ["pause", "settled", "resume"]
        assert scene.fatal == []
        scene.assert_usable()
        await scene.defragmenter.run()
        scene.assert_usable()

    play(tmp_path, story)


def test_a_swap_that_fails_ends_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old store may be closed already: nothing more may be promised, and the handles stay the old ones."""

    def fail(_backend: Backend, _job: Defragmentation) -> None:
        raise PinsOpenError("in the middle of the swap")

    async def story(scene: Scene) -> None:
        monkeypatch.setattr(Backend, "finish_defragment", fail)
        with pytest.raises(PinsOpenError) as failure:
            await scene.defragmenter.run()
        assert scene.fatal == [failure.value]
        assert "rebind" not in scene.log

    play(tmp_path, story)
