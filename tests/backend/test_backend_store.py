"""Open, commit, read, pin, copy, defragment: on a healthy machine with room on its disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from backend_support import BOOT, NEXT_BOOT, Stores, checkpoint, content, fill

from raftkv.backend import (
    Backend,
    DamagedError,
    LockedError,
    Meta,
    NoSpaceError,
    PinsOpenError,
    TooManyPinsError,
    install,
)
from raftkv.backend import snapshots as snapshots_module
from raftkv.backend.metapage import read_metas
from raftkv.backend.schema import SCHEMA_VERSION, pack_consistent_index, pack_u64
from raftkv.backend.space import count_free_pages


def test_a_new_store_is_empty_and_says_so(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path / "member" / "snap")
    assert backend.recovered == (True, True, False, False, 0, 0)
    assert content(backend) == {}
    assert backend.durable_index == 0
    raw = backend.read().get(Meta.SCHEMA_VERSION, db=backend.tables.meta)
    assert raw == pack_u64(SCHEMA_VERSION)


def test_clean_close_is_reported_and_keeps_everything(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    txn = backend.begin_write()
    txn.put(Meta.CONSISTENT_INDEX, pack_consistent_index(42, 3), db=backend.tables.meta)
    txn.put(b"k", b"v", db=backend.tables.current)
    backend.commit()
    stores.close(backend)
    # Even on another boot: a clean store needs nothing put back.
    again = stores.open(tmp_path, NEXT_BOOT)
    assert again.recovered == (False, True, False, False, 42, 3)
    assert again.durable_index == 42
    assert content(again) == {b"k": b"v"}


def test_second_open_is_refused(tmp_path: Path, stores: Stores) -> None:
    """F-75, PY-36."""
    backend = stores.open(tmp_path)
    with pytest.raises(LockedError):
        Backend.open(tmp_path)
    with pytest.raises(LockedError):
        install(tmp_path, tmp_path / "copy")
    stores.close(backend)
    stores.open(tmp_path)


def test_a_failed_open_lets_go_of_the_lock(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a store")
    for _ in range(2):
        with pytest.raises(DamagedError):
            stores.open(tmp_path)


def test_shared_read_follows_commits(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    fill(backend, {b"a": b"1"})
    before = backend.read()
    assert backend.read() is before
    txn = backend.begin_write()
    txn.put(b"a", b"2", db=backend.tables.current)
    assert before.get(b"a", db=backend.tables.current) == b"1"
    backend.commit()
    assert backend.read().get(b"a", db=backend.tables.current) == b"2"


def test_aborted_write_leaves_no_trace(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    txn = backend.begin_write()
    txn.put(b"a", b"1", db=backend.tables.current)
    backend.abort()
    fill(backend, {b"b": b"1"})
    assert content(backend) == {b"b": b"1"}


def test_pin_keeps_its_snapshot(tmp_path: Path, stores: Stores) -> None:
    """PY-32: what a pin sees does not change, however much is written and reused meanwhile."""
    backend = stores.open(tmp_path)
    old = {b"%03d" % n: b"old" * 200 for n in range(100)}
    fill(backend, old)
    pin = backend.pin()
    assert (backend.pin_count, backend.oldest_pin_age_s >= 0.0) == (1, True)
    for turn in range(20):
        fill(backend, dict.fromkeys(old, b"%d" % turn * 600))
    assert dict(pin.txn.cursor(db=backend.tables.current)) == old
    pin.close()
    pin.close()
    assert (backend.pin_count, backend.oldest_pin_age_s) == (0, 0.0)


def test_pins_are_bounded(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "MAX_PINS", 2)
    backend = stores.open(tmp_path)
    first, copy = backend.pin(), backend.begin_copy()
    for ask in (backend.pin, backend.begin_copy):
        with pytest.raises(TooManyPinsError):
            ask()
    first.close()
    copy.close()
    assert backend.pin_count == 0


def test_all_promised_pins_exist(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    fill(backend, {b"a": b"1"})
    pins = [backend.pin() for _ in range(snapshots_module.MAX_PINS)]
    backend.read()
    fill(backend, {b"a": b"2"})
    checkpoint(backend)
    for pin in pins:
        pin.close()


def test_pins_and_copies_may_be_closed_after_the_store(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    pin, copy = backend.pin(), backend.begin_copy()
    stores.close(backend)
    pin.close()
    copy.close()


def test_sizes_add_up(tmp_path: Path, stores: Stores) -> None:
    """PY-31: every page is in a tree, on the free list, or one of the two meta pages."""
    backend = stores.open(tmp_path)
    values = {b"%04d" % n: bytes(n % 9000) for n in range(600)}
    for turn in range(40):
        fill(backend, values)
        txn = backend.begin_write()
        for key in sorted(values)[turn::2]:
            txn.delete(key, db=backend.tables.current)
        backend.commit()
        if turn % 10 == 0:
            checkpoint(backend)
    fd = os.open(tmp_path / "data.mdb", os.O_RDONLY)
    meta = read_metas(fd, tmp_path).newest
    free = count_free_pages(fd, meta)
    raw = os.pread(fd, 2 * meta.page_size, 0)
    os.close(fd)
    newest_at = meta.page_size if raw[meta.page_size + 144 :][:8] == meta.txn_id.to_bytes(8, "little") else 0
    tree = raw[newest_at + 40 + 8 :][:24]
    free_tree_pages = sum(int.from_bytes(tree[at : at + 8], "little") for at in (0, 8, 16))
    stats = [backend._env.stat(), *(backend.read().stat(db) for db in backend.tables)]
    used = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
    assert free > 100
    assert 2 + used + free_tree_pages + free == meta.last_page + 1
    assert backend.size_bytes == (meta.last_page + 1) * meta.page_size
    assert backend.in_use_bytes == backend.size_bytes - free * meta.page_size


def test_history_is_a_table_of_sorted_duplicates(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    txn = backend.begin_write()
    for n in (3, 1, 2):
        txn.put(b"k", n.to_bytes(12, "big"), db=backend.tables.history)
    cursor = txn.cursor(db=backend.tables.history)
    assert cursor.set_key(b"k")
    assert [int.from_bytes(v, "big") for v in cursor.iternext_dup()] == [1, 2, 3]
    backend.abort()


def test_checkpoint_moves_the_durable_index(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    checkpoint_after_tables = backend.begin_checkpoint()
    assert checkpoint_after_tables is None, "nothing was committed since opening"
    for index in (5, 9):
        txn = backend.begin_write()
        txn.put(Meta.CONSISTENT_INDEX, pack_consistent_index(index, 1), db=backend.tables.meta)
        backend.commit()
        point = backend.begin_checkpoint()
        assert point is not None
        assert point.consistent_index == index
        before = backend.durable_index
        point.sync()
        assert backend.durable_index == before, "only the loop moves it"
        backend.end_checkpoint(point)
        assert backend.durable_index == index


def test_checkpoint_syncs_in_a_thread_while_commits_go_on(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    fill(backend, {b"a": b"1"})
    point = backend.begin_checkpoint()
    assert point is not None
    thread = threading.Thread(target=point.sync)
    thread.start()
    for n in range(50):
        fill(backend, {b"%d" % n: b"x" * 500})
    thread.join()
    backend.end_checkpoint(point)
    assert backend.begin_checkpoint() is not None
    backend._durability.in_flight = None


def test_copy_is_one_snapshot_while_writes_go_on(tmp_path: Path, stores: Stores) -> None:
    """MT-10, MT-11, PY-34: the size is known ahead, a multiple of 512, and the bytes are a store."""
    backend = stores.open(tmp_path / "a", map_size_bytes=64 << 20)
    old = {b"%03d" % n: b"old" * 500 for n in range(200)}
    fill(backend, old)
    copy = backend.begin_copy()
    assert copy.size_bytes % 512 == 0
    received = bytearray()
    while chunk := copy.read(len(received), 32 << 10):
        received += chunk
        fill(backend, dict.fromkeys(old, b"new%d" % len(received) * 100))
    assert len(received) == copy.size_bytes
    copy.close()
    copy.close()
    (tmp_path / "received").write_bytes(received)
    install(tmp_path / "b", tmp_path / "received")
    other = stores.open(tmp_path / "b")
    assert content(other) == old
    assert other.recovered.clean


def test_copy_written_by_a_thread(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path / "a")
    fill(backend, {b"a": b"1"})
    copy = backend.begin_copy()
    with (tmp_path / "copy").open("wb") as out:
        thread = threading.Thread(target=copy.write_to, args=(out.fileno(),))
        thread.start()
        for n in range(30):
            fill(backend, {b"a": b"%d" % n})
        thread.join()
    copy.close()
    install(tmp_path / "b", tmp_path / "copy")
    assert content(stores.open(tmp_path / "b")) == {b"a": b"1"}


def test_install_replaces_an_older_store(tmp_path: Path, stores: Stores) -> None:
    source, target = stores.open(tmp_path / "a"), stores.open(tmp_path / "b")
    fill(source, {b"a": b"1"})
    fill(target, {b"b": b"1"})
    checkpoint(target)
    fill(target, {b"b": b"2"})
    stores.drop(target)
    copy = source.begin_copy()
    with (tmp_path / "b" / "received").open("wb") as out:
        copy.write_to(out.fileno())
    copy.close()
    install(tmp_path / "b", tmp_path / "b" / "received")
    again = stores.open(tmp_path / "b", NEXT_BOOT)
    assert content(again) == {b"a": b"1"}


def test_install_refuses_half_a_copy(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path / "a")
    fill(backend, {b"%d" % n: b"v" * 2000 for n in range(20)})
    copy = backend.begin_copy()
    for size in (0, 100, copy.size_bytes - 1):
        (tmp_path / "half").write_bytes((copy.read(0, 8192) + copy.read(8192, copy.size_bytes))[:size])
        with pytest.raises(DamagedError):
            install(tmp_path / "b", tmp_path / "half")
    copy.close()
    assert stores.open(tmp_path / "b").recovered.created


def grown(backend: Backend) -> dict[bytes, bytes]:
    """A store with much more free than used."""
    fill(backend, {b"%04d" % n: b"x" * 1000 for n in range(1000)})
    txn = backend.begin_write()
    for n in range(10, 1000):
        txn.delete(b"%04d" % n, db=backend.tables.current)
    backend.commit()
    return content(backend)


def test_defragment_shrinks_and_loses_nothing(tmp_path: Path, stores: Stores) -> None:
    """MT-30, MT-31, PY-31: afterwards size is about what is in use; reads go on meanwhile."""
    backend = stores.open(tmp_path)
    rest = grown(backend)
    before = backend.size_bytes
    job = backend.begin_defragment()
    thread = threading.Thread(target=job.run)
    thread.start()
    assert backend.read().get(b"0001", db=backend.tables.current) == b"x" * 1000
    thread.join()
    old_tables = backend.tables
    backend.finish_defragment(job)
    assert backend.size_bytes < before / 10
    assert backend.size_bytes - backend.in_use_bytes < 8192
    assert backend.tables is not old_tables
    assert content(backend) == rest
    fill(backend, {b"after": b"1"})
    stores.close(backend)
    assert content(stores.open(tmp_path)) == rest | {b"after": b"1"}


def test_defragment_waits_for_pins(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    rest = grown(backend)
    pin = backend.pin()
    job = backend.begin_defragment()
    job.run()
    with pytest.raises(PinsOpenError):
        backend.finish_defragment(job)
    pin.close()
    backend.finish_defragment(job)
    assert content(backend) == rest


def test_defragment_may_be_abandoned(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    rest = grown(backend)
    job = backend.begin_defragment()
    job.run()
    backend.abandon_defragment(job)
    assert not (tmp_path / "data.mdb.tmp").exists()
    fill(backend, {b"after": b"1"})
    assert content(backend) == rest | {b"after": b"1"}
    backend.begin_defragment()
    stores.close(backend)


def test_reserve_keeps_blocks_ahead(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    for turn in range(10):
        value = b"v" * 40_000
        backend.reserve_batch(len(value), 3)
        fill(backend, {b"%d" % turn: value})
        blocks = os.stat(tmp_path / "data.mdb").st_blocks * 512
        assert backend.size_bytes <= backend._room.reserved_bytes <= blocks


def test_no_space_is_refused_and_changes_nothing(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = stores.open(tmp_path)
    reserved = backend._room.reserved_bytes

    def full(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpaceError):
        backend.reserve(reserved)
    backend.reserve(0)
    fill(backend, {b"still": b"works"})
    assert backend._room.reserved_bytes == reserved
    monkeypatch.undo()
    backend.reserve(reserved)


def test_a_full_disk_gives_what_is_left_instead_of_a_step(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = stores.open(tmp_path)
    real, left = os.posix_fallocate, 16 << 10

    def nearly_full(fd: int, offset: int, size: int) -> None:
        if size > left:
            raise OSError(errno.ENOSPC, "full")
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", nearly_full)
    ahead = backend._room.reserved_bytes - backend.size_bytes
    backend.reserve(ahead + left)
    with pytest.raises(NoSpaceError):
        backend.reserve(ahead + 3 * left)


def test_the_map_is_a_limit_too(tmp_path: Path, stores: Stores) -> None:
    """PY-30: refused before LMDB would fail in the middle of a transaction."""
    backend = stores.open(tmp_path, map_size_bytes=1 << 20)
    backend.reserve(512 << 10)
    with pytest.raises(NoSpaceError):
        backend.reserve(1 << 20)


def test_tables_of_a_later_version_are_added(tmp_path: Path, stores: Stores) -> None:
    backend = stores.open(tmp_path)
    txn = backend.begin_write()
    txn.drop(backend.tables.blocks)
    backend.commit()
    stores.close(backend)
    backend = stores.open(tmp_path)
    assert backend.read().get(b"x", db=backend.tables.blocks) is None


def test_boot_id_is_the_kernels(tmp_path: Path) -> None:
    backend = Backend.open(tmp_path, map_size_bytes=16 << 20)
    assert backend._boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip() != BOOT
    backend.close()
