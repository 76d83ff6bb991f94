"""Which way a flush goes, and that one that fails is the last."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raftkv.raft import Entry, HardState
from raftkv.server.flusher import Flusher
from raftkv.wal import FlushResult, KernelSync, Wal, WalIoError


class FakeKernel:
    """A KernelSync whose sync ends when the test says so, with the error that the test wants."""

    def __init__(self) -> None:
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.submitted: list[int] = []
        self.refuses: OSError | None = None
        self.fails: OSError | None = None
        self.closed = False

    def fileno(self) -> int:
        return self._eventfd

    def submit(self, descriptor: int) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.submitted.append(descriptor)

    def complete(self) -> None:
        os.eventfd_write(self._eventfd, 1)

    def finish(self) -> None:
        os.eventfd_read(self._eventfd)
        if self.fails is not None:
            raise self.fails

    def close(self) -> None:
        self.closed = True


class Rig:
    """A log, its flusher, and what it reported."""

    def __init__(self, directory: Path, kernel: FakeKernel | KernelSync | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.wal = Wal.create(directory / "wal", b"", segment_bytes=1 << 20)
        self.reports: asyncio.Queue[FlushResult | Exception] = asyncio.Queue()
        put = self.reports.put_nowait
        self.flusher = Flusher(self.loop, self.wal, put, put, kernel)  # type: ignore[arg-type]
        self._index = 0

    def kick(self, data: bytes = b"data", *, on_loop: bool = False) -> None:
        self._index += 1
        self.wal.stage(HardState(1, 1, 0), [Entry(1, self._index, data=data)])
        self.flusher.kick(on_loop=on_loop)

    async def report(self) -> FlushResult | Exception:
        return await asyncio.wait_for(self.reports.get(), 30)

    def entries(self, directory: Path) -> int:
        self.flusher.stop()
        self.wal.close()
        return len(Wal.open(directory / "wal", segment_bytes=1 << 20)[1].entries)


@pytest.mark.parametrize("kernel", [KernelSync.open, lambda: None], ids=["by the kernel", "in the thread"])
def test_flushes_follow_one_another(tmp_path: Path, kernel: Callable[[], KernelSync | None]) -> None:
    async def main() -> None:
        rig = Rig(tmp_path, kernel())
        for _ in range(20):
            rig.kick(bytes(100_000))  # segments end on the way, and housekeeping has something to do
            assert rig.flusher.busy
            result = await rig.report()
            assert isinstance(result, FlushResult)
            assert result.bytes_written > 100_000
            assert not rig.flusher.busy
        assert rig.entries(tmp_path) == 20

    asyncio.run(main())


def test_a_large_flush_goes_to_the_thread(tmp_path: Path) -> None:
    async def main() -> None:
        kernel = FakeKernel()
        rig = Rig(tmp_path, kernel)
        rig.kick(bytes(2 << 20))
        assert isinstance(await rig.report(), FlushResult)
        assert kernel.submitted == []
        assert rig.entries(tmp_path) == 1

    asyncio.run(main())


@pytest.mark.parametrize("when", ["refuses", "fails"])
def test_a_kernel_that_cannot_is_done_without(tmp_path: Path, when: str) -> None:
    """The same flush, and all that follow, are synced in the thread."""

    async def main() -> None:
        kernel = FakeKernel()
        setattr(kernel, when, OSError(errno.EINVAL, "Invalid argument"))
        rig = Rig(tmp_path, kernel)
        rig.kick()
        if when == "fails":
            kernel.complete()
        assert isinstance(await rig.report(), FlushResult)
        assert kernel.closed
        submitted = len(kernel.submitted)
        rig.kick()
        assert isinstance(await rig.report(), FlushResult)
        assert len(kernel.submitted) == submitted
        assert rig.entries(tmp_path) == 2

    asyncio.run(main())


def test_a_failed_sync_is_reported_and_nothing_follows(tmp_path: Path) -> None:
    """RF-73."""

    async def main() -> None:
        kernel = FakeKernel()
        kernel.fails = OSError(errno.EIO, "Input/output error")
        rig = Rig(tmp_path, kernel)
        rig.kick()
        kernel.complete()
        assert isinstance(await rig.report(), WalIoError)
        assert rig.flusher.busy, "no other flush may begin"
        rig.flusher.stop()

    asyncio.run(main())


def test_a_failure_in_the_thread_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = Rig(tmp_path, None)

        def fail(_descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            rig.kick()
            assert isinstance(await rig.report(), WalIoError)
        rig.flusher.stop()

    asyncio.run(main())


def test_stopping_waits_for_the_flush_under_way(tmp_path: Path) -> None:
    """What was written is durable, whoever may still hear of it."""

    async def main() -> None:
        kernel = FakeKernel()
        rig = Rig(tmp_path, kernel)
        rig.kick()
        assert rig.entries(tmp_path) == 1
        assert kernel.closed
        assert rig.reports.empty()

    asyncio.run(main())


# --- on the loop ------------------------------------------------------------------------------------------------------


def test_the_owner_needs_no_kernel_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        rig = Rig(tmp_path, None)
        rig.kick(on_loop=True)
        rig.flusher.sync()
        assert isinstance(rig.reports.get_nowait(), FlushResult)
        rig.kick()
        assert isinstance(await rig.report(), FlushResult)
        assert rig.entries(tmp_path) == 2

    asyncio.run(main())


def test_the_owner_may_sync_itself(tmp_path: Path) -> None:
    """docs/adr/0010. Reported at once, and the next flush may be of either kind."""

    async def main() -> None:
        kernel = FakeKernel()
        rig = Rig(tmp_path, kernel)
        rig.kick(on_loop=True)
        assert (rig.flusher.busy, rig.flusher.waits_for_sync, kernel.submitted) == (True, True, [])
        rig.flusher.sync()
        assert (rig.flusher.busy, rig.flusher.waits_for_sync) == (False, False)
        result = rig.reports.get_nowait()
        assert isinstance(result, FlushResult)
        assert result.bytes_written > 0
        assert result.sync_s > 0
        while rig.flusher._thread_jobs:  # housekeeping: a flush that comes meanwhile goes to the thread
            await asyncio.sleep(0.001)
        rig.kick()
        assert len(kernel.submitted) == 1
        kernel.complete()
        assert isinstance(await rig.report(), FlushResult)
        assert rig.entries(tmp_path) == 2

    asyncio.run(main())


def test_what_the_loop_cannot_do_itself_goes_its_usual_way(tmp_path: Path) -> None:
    """A flush that ends a segment."""

    async def main() -> None:
        rig = Rig(tmp_path, FakeKernel())
        for _ in range(3):
            rig.kick(bytes(600_000), on_loop=True)
            if rig.flusher.waits_for_sync:
                rig.flusher.sync()
            assert isinstance(await rig.report(), FlushResult)
        assert rig.entries(tmp_path) == 3

    asyncio.run(main())


def test_a_sync_on_the_loop_that_fails_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    async def main() -> None:
        rig = Rig(tmp_path, FakeKernel())
        rig.kick(on_loop=True)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            rig.flusher.sync()
        assert isinstance(rig.reports.get_nowait(), WalIoError)
        assert rig.flusher.failed
        assert rig.flusher.busy
        assert not rig.flusher.stop()

    asyncio.run(main())


def test_stopped_between_the_write_and_the_sync(tmp_path: Path) -> None:
    """The turn that was to end with it has failed: what is written is synced all the same."""

    async def main() -> None:
        rig = Rig(tmp_path, FakeKernel())
        rig.kick(on_loop=True)
        assert rig.flusher.stop()
        assert rig.reports.empty()
        rig.wal.close()
        assert len(Wal.open(tmp_path / "wal", segment_bytes=1 << 20)[1].entries) == 1

    asyncio.run(main())
