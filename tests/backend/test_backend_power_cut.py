"""Power cuts, played on the files: what was written after a checkpoint may be there, missing, or garbage."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
from backend_support import BOOT, NEXT_BOOT, Stores, checkpoint, content, fill

from raftkv.backend import Backend, BackendError, DamagedError, Meta
from raftkv.backend import checkpoint as checkpoint_module
from raftkv.backend import durability as durability_module
from raftkv.backend.checkpoint import (
    CHECKPOINT_NAME,
    UNKNOWN_BOOT,
    CheckpointRecord,
    encode_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from raftkv.backend.schema import pack_consistent_index

PAGE_BYTES = 4096
DATA = "data.mdb"


def churn(backend: Backend, rng: random.Random, index: int) -> None:
    """One commit of random puts and deletes, small values and big ones."""
    txn = backend.begin_write()
    for _ in range(rng.randrange(1, 40)):
        key = b"key%03d" % rng.randrange(150)
        if rng.random() < 0.3:
            txn.delete(key, db=backend.tables.current)
        else:
            size = rng.choice((10, 200, 1500, 9000))
            txn.put(key, rng.randbytes(size), db=backend.tables.current)
    txn.put(Meta.CONSISTENT_INDEX, pack_consistent_index(index, 1), db=backend.tables.meta)
    backend.commit()


def pages(directory: Path, size_bytes: int) -> list[bytes]:
    with (directory / DATA).open("rb") as file:
        data = file.read(size_bytes)
    return [data[at : at + PAGE_BYTES] for at in range(0, size_bytes, PAGE_BYTES)]


def cut(rng: random.Random, images: list[list[bytes]]) -> bytes:
    """A disk after a power cut. `images[0]` is what the last checkpoint synced, the others came later."""
    disk = []
    for number in range(len(images[-1])):
        versions = [image[number] for image in images if number < len(image)]
        if len(versions) < len(images):
            versions.append(bytes(PAGE_BYTES))  # beyond the old end
        changed = any(version != versions[0] for version in versions)
        if changed and rng.random() < 0.2:
            versions = [rng.randbytes(PAGE_BYTES)]  # torn
        disk.append(rng.choice(versions))
    return b"".join(disk)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("seed", range(100))
def test_power_cut_leaves_exactly_the_checkpoint(tmp_path: Path, stores: Stores, seed: int) -> None:
    rng = random.Random(seed)
    disk = tmp_path / "disk"
    backend = stores.open(disk)
    index = 0
    for turn in range(3):
        for _ in range(rng.randrange(1, 25)):
            if index and rng.random() < 0.1 and index != backend.durable_index:
                checkpoint(backend)
            index += 1
            churn(backend, rng, index)
        checkpoint(backend)
        saved, saved_index = content(backend), backend.durable_index
        saved_file = (disk / CHECKPOINT_NAME).read_bytes()
        images = [pages(disk, backend.size_bytes)]
        unfinished = None
        for _ in range(rng.randrange(1, 12)):
            index += 1
            churn(backend, rng, index)
            if unfinished is None and rng.random() < 0.2:
                # A second checkpoint is on its way, but its file does not reach the disk.
                unfinished = backend.begin_checkpoint()
            images.append(pages(disk, backend.size_bytes))
        if unfinished is not None:
            unfinished.sync()
        stores.drop(backend)

        with (disk / DATA).open("r+b") as file:
            file.write(cut(rng, images))
        (disk / CHECKPOINT_NAME).write_bytes(saved_file)
        # The store must serve on after the cut, and stand the next one: every turn is another boot.
        backend = stores.open(disk, f"{turn:036d}")
        assert backend.recovered.rolled_back
        assert (backend.recovered.consistent_index, backend.durable_index) == (saved_index, saved_index)
        assert content(backend) == saved
        index = saved_index


@pytest.mark.usefixtures("no_waiting")
def test_power_cut_before_the_first_checkpoint_after_a_kill(tmp_path: Path, stores: Stores) -> None:
    """What a killed process committed is durable once the next one has opened."""
    backend = stores.open(tmp_path)
    fill(backend, {b"a": b"1"})
    stores.drop(backend)
    backend = stores.open(tmp_path)
    images = [pages(tmp_path, backend.size_bytes)]
    for n in range(20):
        fill(backend, {b"a": b"%d" % n, b"b%d" % n: b"x" * 3000})
        images.append(pages(tmp_path, backend.size_bytes))
    stores.drop(backend)
    with (tmp_path / DATA).open("r+b") as file:
        file.write(cut(random.Random(1), images))
    assert content(stores.open(tmp_path, NEXT_BOOT)) == {b"a": b"1"}


def test_kill_without_reboot_gives_nothing_up(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    checkpoint_content = {b"a": b"1"}
    fill(backend, checkpoint_content)
    checkpoint(backend)
    fill(backend, {b"a": b"2"})
    stores.drop(backend)
    again = stores.open(tmp_path)
    assert again.recovered[:4] == (False, False, False, False)
    assert content(again) == {b"a": b"2"}


def test_an_unknown_boot_counts_as_another_one(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path, UNKNOWN_BOOT)
    fill(backend, {b"a": b"1"})
    stores.drop(backend)
    again = stores.open(tmp_path, UNKNOWN_BOOT)
    assert again.recovered.rolled_back
    assert content(again) == {}


@pytest.mark.parametrize(("owner", "step"), [(os, "fdatasync"), (durability_module, "write_back")], ids=str)
def test_pages_the_kernel_lost_are_not_trusted_again(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    """After a failed write-back the kernel calls the pages clean, and tells nobody again; only going back and replaying
    helps."""
    backend = stores.open(tmp_path)
    fill(backend, {b"a": b"1"})
    checkpoint(backend)
    fill(backend, {b"a": b"2"})
    point = backend.begin_checkpoint()
    assert point is not None

    def broken(*_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(owner, step, broken)
    with pytest.raises(OSError, match="input/output"):
        point.sync()
    backend.end_checkpoint(point)
    monkeypatch.undo()
    with pytest.raises(BackendError):
        backend.begin_checkpoint()
    stores.close(backend)
    again = stores.open(tmp_path)
    assert again.recovered.rolled_back
    assert content(again) == {b"a": b"1"}


def test_failed_checkpoint_file_keeps_the_older_one(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = stores.open(tmp_path)
    older = (tmp_path / CHECKPOINT_NAME).read_bytes()
    fill(backend, {b"a": b"1"})
    point = backend.begin_checkpoint()
    assert point is not None

    def full(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(checkpoint_module, "write_all", full)
    with pytest.raises(OSError, match="full"):
        point.sync()
    backend.end_checkpoint(point)
    monkeypatch.undo()
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == older
    checkpoint(backend)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() != older


def test_a_replaced_checkpoint_is_not_written_over_before_the_names_are_durable(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = stores.open(tmp_path)
    older = os.stat(tmp_path / CHECKPOINT_NAME).st_ino
    fill(backend, {b"a": b"1"})

    def broken(_directory: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    with (tmp_path / CHECKPOINT_NAME).open("rb") as kept:
        before = kept.read()
        point = backend.begin_checkpoint()
        assert point is not None
        monkeypatch.setattr(checkpoint_module, "sync_directory", broken)
        with pytest.raises(OSError, match="input/output"):
            point.sync()
        backend.end_checkpoint(point)
        monkeypatch.undo()
        checkpoint(backend)
        kept.seek(0)
        assert (os.fstat(kept.fileno()).st_ino, kept.read()) == (older, before)


def test_replaced_checkpoint_lends_its_blocks_to_the_next(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    seen = set()
    for n in range(6):
        fill(backend, {b"a": b"%d" % n})
        checkpoint(backend)
        seen.add(frozenset(os.stat(tmp_path / name).st_ino for name in ("checkpoint", "checkpoint.tmp")))
        assert not (tmp_path / "checkpoint.old").exists()
    assert len(seen) == 1


# --- damage -------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path, stores: Stores) -> Path:
    """The directory of a store with a few hundred pages, cleanly closed."""
    backend = stores.open(tmp_path)
    fill(backend, {b"%d" % n: b"v" * 3000 for n in range(300)})
    stores.close(backend)
    return tmp_path


def refused(stores: Stores, directory: Path, name: str) -> str:
    with pytest.raises(DamagedError) as caught:
        stores.open(directory, NEXT_BOOT)
    assert caught.value.path == directory / name
    assert caught.value.remedy
    return caught.value.found


def test_every_damaged_byte_of_the_checkpoint_is_seen(closed: Path, stores: Stores) -> None:
    path = closed / CHECKPOINT_NAME
    whole = path.read_bytes()
    for at in [*range(90), *range(90, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with pytest.raises(DamagedError):
            read_checkpoint(path)
    for size in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(stores, closed, CHECKPOINT_NAME)
    path.write_bytes(whole)
    stores.open(closed)


def test_a_missing_half_is_refused(closed: Path, stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in (CHECKPOINT_NAME, DATA):
        half = tmp_path_factory.mktemp("half")
        shutil.copytree(closed, half, dirs_exist_ok=True)
        (half / name).unlink()
        assert "missing" in refused(stores, half, name)


def test_a_cut_data_file_is_refused(closed: Path, stores: Stores) -> None:
    os.truncate(closed / DATA, 100 * PAGE_BYTES)
    assert "cut to" in refused(stores, closed, DATA)


def test_a_cut_data_file_is_refused_after_a_kill(tmp_path: Path, stores: Stores) -> None:
    """The checkpoint's snapshot would fit, but on the same boot the newest one counts."""
    backend = stores.open(tmp_path)
    size = backend.size_bytes
    fill(backend, {b"%d" % n: b"v" * 3000 for n in range(300)})
    stores.drop(backend)
    os.truncate(tmp_path / DATA, size)
    with pytest.raises(DamagedError, match="are in use"):
        stores.open(tmp_path)


@pytest.mark.parametrize("at", [16, 20, PAGE_BYTES + 16, 10])
def test_a_foreign_data_file_is_refused(closed: Path, stores: Stores, at: int) -> None:
    """Wrong magic, wrong version, wrong kind of page."""
    with (closed / DATA).open("r+b") as file:
        file.seek(at)
        file.write(b"\x00\x00\x00\x00")
    assert "not an LMDB" in refused(stores, closed, DATA)


def test_files_of_different_stores_are_refused(closed: Path, stores: Stores, tmp_path: Path) -> None:
    other = stores.open(tmp_path / "other")
    for n in range(5):
        fill(other, {b"a": b"%d" % n})
    stores.close(other)
    shutil.copy(tmp_path / "other" / DATA, closed / DATA)
    shutil.copy(tmp_path / "other" / CHECKPOINT_NAME, tmp_path / "kept")
    found = refused(stores, closed, DATA)
    assert "checkpoint" in found


def test_another_schema_version_is_refused(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    txn = backend.begin_write()
    txn.put(Meta.SCHEMA_VERSION, (99).to_bytes(8, "big"), db=backend.tables.meta)
    backend.commit()
    stores.close(backend)
    assert "schema version 99" in refused(stores, tmp_path, DATA)


def test_an_unreadable_consistent_index_is_refused(tmp_path: Path, stores: Stores) -> None:
    """RF-50: without it nobody knows which entries to skip."""
    backend = stores.open(tmp_path)
    txn = backend.begin_write()
    txn.put(Meta.CONSISTENT_INDEX, b"nonsense", db=backend.tables.meta)
    backend.commit()
    stores.drop(backend)
    with pytest.raises(DamagedError):
        stores.open(tmp_path)


def test_another_checkpoint_format_is_refused(closed: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read_checkpoint(closed / CHECKPOINT_NAME)
    assert record is not None
    monkeypatch.setattr(checkpoint_module, "_FORMAT", 2)
    write_checkpoint(closed, record)
    monkeypatch.undo()
    assert "format 2" in refused(stores, closed, CHECKPOINT_NAME)


def test_checkpoint_round_trip(closed: Path) -> None:
    record = read_checkpoint(closed / CHECKPOINT_NAME)
    assert record is not None
    assert (record.clean, record.boot_id) == (True, BOOT)
    for clean in (True, False):
        changed = CheckpointRecord(record.metas, 77, 8, NEXT_BOOT, clean)
        (closed / "x").write_bytes(encode_checkpoint(changed))
        assert read_checkpoint(closed / "x") == changed
