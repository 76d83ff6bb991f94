"""A received store takes the place of the open one, while readers of the old one go on as long as they can (RF-45)."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backend_support import NEXT_BOOT, Stores, checkpoint, content, fill
from received_support import (
    AFTER,
    NEW,
    OLD,
    OLD_POSITION,
    OPEN,
    OUR_ID,
    POSITION,
    all_of,
    behind,
    copied,
    receive,
    sender,
)

from raftkv.backend import (
    Backend,
    BackendError,
    Meta,
    PinsOpenError,
    ReceivedStore,
    TooManyPinsError,
    datadir,
    settle_received,
    store_facts,
)
from raftkv.backend.schema import pack_consistent_index, pack_u64


class Scene:
    """Our store, and beside it the received one of a peer."""

    def __init__(self, directory: Path, stores: Stores) -> None:
        self.directory = directory / "ours"
        self.data = copied(sender(stores, directory / "sender"))
        self.backend = behind(stores, self.directory)
        self.received = receive(self.directory, self.data)


@pytest.fixture
def scene(tmp_path: Path, stores: Stores) -> Scene:
    return Scene(tmp_path, stores)


def test_the_received_store_takes_over(scene: Scene, stores: Stores) -> None:
    """New content, our member id, the right durable index; usable at once, by a restart, and after a reboot."""
    backend, old_tables = scene.backend, scene.backend.tables
    assert backend.read().get(b"000", db=old_tables.current) == OLD[b"000"]
    backend.install(scene.received)
    assert backend.tables is not old_tables
    assert content(backend) == NEW
    assert backend.read().get(Meta.MEMBER_ID, db=backend.tables.meta) == pack_u64(OUR_ID)
    assert backend.read().get(Meta.CONSISTENT_INDEX, db=backend.tables.meta) == pack_consistent_index(*POSITION)
    assert backend.durable_index == POSITION[0]
    assert {path.name for path in scene.directory.iterdir()} == {
        "data.mdb", "checkpoint", "checkpoint.tmp", "lock.mdb", "backend.lock",
    }  # fmt: skip
    fill(backend, AFTER)
    checkpoint(backend)
    stores.drop(backend)
    again = stores.open(scene.directory, NEXT_BOOT)
    assert (again.recovered.swapped, again.recovered[-2:]) == (False, POSITION)
    assert content(again) == NEW | AFTER


def test_a_power_cut_right_after_it_leads_to_the_new_store(scene: Scene, stores: Stores) -> None:
    """The checkpoint of the old file, put back into the new one, would destroy it."""
    checkpoint(scene.backend)
    scene.backend.install(scene.received)
    fill(scene.backend, AFTER)
    stores.drop(scene.backend)
    again = stores.open(scene.directory, NEXT_BOOT)
    assert (again.recovered.rolled_back, again.recovered[-2:]) == (True, POSITION)
    assert content(again) == NEW


def test_what_is_open_is_dropped(scene: Scene) -> None:
    """It is superseded: the received store is further, and nobody may carry the old index into it."""
    told: list[object] = []
    scene.backend.before_commit = told.append
    fill_open(scene.backend)
    scene.backend.reserve_batch(1000, 3)
    scene.backend.install(scene.received)
    assert (told, scene.backend.open_bytes) == ([], 0)
    assert content(scene.backend) == NEW
    fill_open(scene.backend)
    scene.backend.commit()
    assert len(told) == 1
    assert content(scene.backend) == NEW | OPEN


def fill_open(backend: Backend) -> None:
    for key, value in OPEN.items():
        backend.begin_write().put(key, value, db=backend.tables.current)


def test_it_happens_while_reads_go_on_and_again(tmp_path: Path, stores: Stores, scene: Scene) -> None:
    """Two copies one after the other: nothing of the first install is in the way of the second."""
    backend = scene.backend
    backend.install(scene.received)
    fill(backend, AFTER)
    for turn in range(3):
        received = receive(scene.directory, scene.data)
        assert backend.read().get(b"after", db=backend.tables.current) == AFTER[b"after"]
        backend.install(received)
        assert content(backend) == NEW
        fill(backend, AFTER | {b"turn": b"%d" % turn})
    stores.close(backend)
    assert stores.open(scene.directory).recovered.clean


# --- who holds on to the old store ------------------------------------------------------------------------------


def test_scans_are_waited_for(scene: Scene) -> None:
    backend = scene.backend
    pin = backend.pin()
    assert (backend.pin_count, backend.blocking_pin_count) == (1, 1)
    with pytest.raises(PinsOpenError, match="1 snapshots"):
        backend.install(scene.received)
    assert dict(pin.txn.cursor(db=backend.tables.current)) == OLD
    fill(backend, AFTER)
    pin.close()
    backend.install(scene.received)
    assert content(backend) == NEW


def test_new_pins_can_be_held_off(scene: Scene) -> None:
    """So that the wait for the open ones ends. Everything else goes on."""
    backend = scene.backend
    pin = backend.pin()
    backend.refuse_pins = True
    for ask in (backend.pin, backend.begin_copy):
        with pytest.raises(TooManyPinsError, match="about to be replaced"):
            ask()
    assert backend.read().get(b"000", db=backend.tables.current) == OLD[b"000"]
    fill(backend, AFTER)
    checkpoint(backend)
    pin.close()
    backend.install(scene.received)
    with pytest.raises(TooManyPinsError):
        backend.pin()
    backend.refuse_pins = False
    backend.pin().close()


def test_a_hot_copy_goes_on_to_its_end(tmp_path: Path, stores: Stores, scene: Scene) -> None:
    """It reads the old file, which has no name any more, and which nobody changes: it is a whole store, the old one."""
    backend = scene.backend
    copy = backend.begin_copy()
    first = copy.read(0, 64 << 10)
    fill(backend, dict.fromkeys(OLD, b"later" * 200))
    assert (backend.pin_count, backend.blocking_pin_count) == (1, 0)
    backend.install(scene.received)
    assert backend.pin_count == 0
    for turn in range(20):
        fill(backend, dict.fromkeys(NEW, b"%d" % turn * 400))
        checkpoint(backend)
    rest = bytearray(first)
    while piece := copy.read(len(rest), 32 << 10):
        rest += piece
    assert (len(rest), copy.consistent_index, copy.term) == (copy.size_bytes, *OLD_POSITION)
    copy.close()
    copy.close()
    (tmp_path / "received").write_bytes(rest)
    datadir.install(tmp_path / "other", tmp_path / "received")
    assert content(stores.open(tmp_path / "other")) == OLD


def test_hot_copies_in_threads_do_not_notice(scene: Scene) -> None:
    copies = [scene.backend.begin_copy() for _ in range(3)]
    expected, results = all_of(copies[0]), [b""] * 3
    started = threading.Barrier(4)

    def read_all(number: int) -> None:
        started.wait(10)
        for _ in range(20):
            results[number] = all_of(copies[number])

    threads = [threading.Thread(target=read_all, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    scene.backend.install(scene.received)
    fill(scene.backend, dict.fromkeys(NEW, b"later" * 200))
    for thread in threads:
        thread.join()
    assert results == [expected] * 3
    for copy in copies:
        copy.close()


def test_hot_copies_outlive_a_defragmentation_too(scene: Scene) -> None:
    copy = scene.backend.begin_copy()
    expected = all_of(copy)
    job = scene.backend.begin_defragment()
    job.run()
    scene.backend.finish_defragment(job)
    fill(scene.backend, dict.fromkeys(OLD, b"later" * 200))
    assert all_of(copy) == expected
    copy.close()


def test_the_old_file_goes_with_its_last_reader(scene: Scene) -> None:
    """Gigabytes would stay in use otherwise."""
    copy = scene.backend.begin_copy()
    scene.backend.install(scene.received)
    assert wait_for(lambda: len(unnamed_files(scene.directory)) == 1)
    copy.close()
    assert wait_for(lambda: not unnamed_files(scene.directory))


def unnamed_files(directory: Path) -> list[str]:
    """Descriptors of this process for files of `directory` that have no name any more."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # that of the listing itself, or one that a thread has just closed
        if target.startswith(str(directory)) and target.endswith(" (deleted)"):
            found.append(target)
    return found


def wait_for(holds: Callable[[], bool]) -> bool:
    give_up_s = time.monotonic() + 10
    while not holds():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.001)
    return True


# --- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("our_map_bytes", "their_map_bytes"), [(16 << 20, 64 << 20), (64 << 20, 16 << 20)])
def test_a_larger_store_of_a_peer_with_another_map(
    tmp_path: Path, stores: Stores, our_map_bytes: int, their_map_bytes: int
) -> None:
    """What the peer's file says of its map does not bind us; sizes and reserved blocks are those of the new file."""
    big = {b"%05d" % n: b"v" * 3000 for n in range(2000)}
    source = sender(stores, tmp_path / "sender", big, their_map_bytes)
    backend = behind(stores, tmp_path / "ours", our_map_bytes)
    received = receive(tmp_path / "ours", copied(source))
    facts = store_facts(received.path)
    backend.install(received)
    assert backend._env.info()["map_size"] == our_map_bytes
    assert backend.size_bytes >= facts.size_bytes > 6 << 20
    free_bytes = backend.size_bytes - backend.in_use_bytes
    assert free_bytes == pytest.approx(source.size_bytes - source.in_use_bytes, abs=10 * 4096)
    blocks_bytes = os.stat(tmp_path / "ours" / "data.mdb").st_blocks * 512
    assert backend.size_bytes + (64 << 10) <= backend._room.reserved_bytes <= blocks_bytes
    backend.reserve_batch(1 << 20, 100)
    assert os.stat(tmp_path / "ours" / "data.mdb").st_blocks * 512 >= backend.size_bytes + (1 << 20)
    fill(backend, AFTER | {b"large": bytes(1 << 20)})
    checkpoint(backend)
    stores.close(backend)
    again = stores.open(tmp_path / "ours", NEXT_BOOT, our_map_bytes)
    assert again._env.info()["map_size"] == our_map_bytes
    assert content(again) == big | AFTER | {b"large": bytes(1 << 20)}


def test_a_store_that_fills_our_map_can_be_read(tmp_path: Path, stores: Stores) -> None:
    """Writes are refused as on a full disk (PY-30), not in the middle of a transaction."""
    big = {b"%05d" % n: b"v" * 3000 for n in range(500)}
    backend = behind(stores, tmp_path / "ours", 1 << 20)
    backend.install(receive(tmp_path / "ours", copied(sender(stores, tmp_path / "sender", big))))
    assert content(backend) == big
    with pytest.raises(Exception, match="the map ends at"):
        backend.reserve_batch(100_000, 10)
    stores.close(backend)
    assert content(stores.open(tmp_path / "ours", map_size_bytes=16 << 20)) == big


# --- what must not be, and what goes wrong -----------------------------------------------------------------------


def test_mistakes_are_refused(tmp_path: Path, stores: Stores, scene: Scene) -> None:
    half = ReceivedStore(tmp_path / "elsewhere", len(scene.data))
    with pytest.raises(AssertionError, match="not whole"):
        scene.backend.install(half)
    half.discard()
    with pytest.raises(AssertionError, match="another directory"):
        scene.backend.install(receive(tmp_path / "elsewhere", scene.data))
    fill(scene.backend, AFTER)
    point = scene.backend.begin_checkpoint()
    assert point is not None
    with pytest.raises(AssertionError, match="in flight"):
        scene.backend.install(scene.received)
    point.sync()
    scene.backend.end_checkpoint(point)
    job = scene.backend.begin_defragment()
    with pytest.raises(AssertionError, match="under way"):
        scene.backend.install(scene.received)
    scene.backend.abandon_defragment(job)
    scene.backend.install(scene.received)


def next_start(scene: Scene, stores: Stores) -> dict[bytes, bytes]:
    """The log has decided; what the next process finds."""
    settle_received(scene.directory, POSITION)
    return content(stores.open(scene.directory, NEXT_BOOT))


def test_a_poisoned_backend_leaves_it_to_the_next_start(scene: Scene, stores: Stores) -> None:
    """Those who wrote what was dropped may not have forgotten it; the member is ending."""
    scene.backend.poison(RuntimeError("a mistake of ours"))
    with pytest.raises(BackendError, match="restart this member"):
        scene.backend.install(scene.received)
    stores.close(scene.backend)
    assert next_start(scene, stores) == NEW


def test_lost_pages_are_not_replaced_at_run_time(scene: Scene, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(scene.backend, AFTER)
    point = scene.backend.begin_checkpoint()
    assert point is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="input/output"):
            point.sync()
    scene.backend.end_checkpoint(point)
    with pytest.raises(BackendError, match="restart this member"):
        scene.backend.install(scene.received)
    job = scene.backend.begin_defragment()
    job.run()
    with pytest.raises(BackendError, match="restart this member"):
        scene.backend.finish_defragment(job)
    stores.close(scene.backend)
    assert next_start(scene, stores) == NEW


def broken(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "input/output error")


class FailAt:
    """Every call that changes files or names works, except the nth."""

    CALLS = ("rename", "fsync", "fdatasync", "link", "ftruncate", "unlink")

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        for name in self.CALLS:
            patch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call):  # type: ignore[no-untyped-def]
        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
            self.left -= 1
            if self.left == -1:
                broken()
            return call(*args, **kwargs)

        return counted


def test_an_error_at_any_step_closes_the_backend_and_the_next_start_finishes(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed for good: no write, no checkpoint of a store that is no more, no other file's descriptor closed."""
    number = failures = 0
    while True:
        scene = Scene(tmp_path / str(number), stores)
        with monkeypatch.context() as patch:
            steps = FailAt(patch, number)
            try:
                scene.backend.install(scene.received)
            except OSError:
                failures += 1
            else:
                break
        assert steps.left < 0
        for ask in (scene.backend.begin_write, scene.backend.commit, scene.backend.pin, scene.backend.begin_copy):
            with pytest.raises(BackendError, match="restart this member"):
                ask()
        taken = os.open(tmp_path, os.O_RDONLY)  # would be the victim of a second close
        stores.close(scene.backend)
        os.fstat(taken)
        os.close(taken)
        assert next_start(scene, stores) == NEW
        number += 1
    assert steps.left >= 0
    assert failures == number > 12
    assert content(scene.backend) == NEW


def test_a_failed_defragmentation_closes_the_backend_too(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits after the copy was staged would be lost by the swap at the next open."""
    number = 0
    while True:
        backend = behind(stores, tmp_path / str(number))
        checkpoint(backend)
        job = backend.begin_defragment()
        job.run()
        with monkeypatch.context() as patch:
            FailAt(patch, number)
            try:
                backend.finish_defragment(job)
            except OSError:
                pass
            else:
                break
        with pytest.raises(BackendError, match="restart this member"):
            backend.begin_write()
        stores.close(backend)
        assert content(stores.open(tmp_path / str(number), NEXT_BOOT)) == OLD
        number += 1
    assert number > 12


def test_it_is_over_quickly_beside_a_large_store(scene: Scene) -> None:
    """The last descriptor of the old file is not closed on the loop: freeing its blocks takes long."""
    closed_on = []
    real = os.close

    def noted(fd: int) -> None:
        if os.fstat(fd).st_ino == inode:
            closed_on.append(threading.current_thread().name)
        real(fd)

    inode = os.stat(scene.directory / "data.mdb").st_ino
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "close", noted)
        scene.backend.install(scene.received)
        assert wait_for(lambda: len(closed_on) == 2)
    assert closed_on == ["MainThread", "free-blocks"]
