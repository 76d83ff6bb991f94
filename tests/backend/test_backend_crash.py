"""Processes that die in the middle: killed, crashed at every step of a swap, or out of disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from backend_support import CRASHED, NEXT_BOOT, CrashAt, Stores, checkpoint, content, fill, in_child

from raftkv.backend import Backend, Meta, install
from raftkv.backend.schema import pack_consistent_index


def test_kill_loses_nothing_committed(tmp_path: Path, stores: Stores) -> None:
    """The page cache outlives the process: every commit that returned is there, and whole (RF-50)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _commit_for_ever(tmp_path, writer)
    os.close(writer)
    reported = b""
    while len(reported) < 8 * 300:
        reported += os.read(reader, 8)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while rest := os.read(reader, 1 << 16):
        reported += rest
    os.close(reader)
    last = int.from_bytes(reported[len(reported) // 8 * 8 - 8 : len(reported) // 8 * 8], "big")

    backend = stores.open(tmp_path)
    assert backend.recovered[:4] == (False, False, False, False)
    index = backend.recovered.consistent_index
    assert index >= last >= 300
    assert content(backend) == {b"%05d" % n: b"v%d" % index * 50 for n in range(20)}


def _commit_for_ever(directory: Path, writer: int) -> None:
    try:
        stores = Stores()
        backend = stores.open(directory)
        index = 0
        while True:
            index += 1
            txn = backend.begin_write()
            for n in range(20):
                txn.put(b"%05d" % n, b"v%d" % index * 50, db=backend.tables.current)
            txn.put(Meta.CONSISTENT_INDEX, pack_consistent_index(index, 1), db=backend.tables.meta)
            backend.commit()
            os.write(writer, index.to_bytes(8, "big"))
            if index % 50 == 0:
                checkpoint(backend)
    finally:
        os._exit(99)


OLD = {b"%03d" % n: b"x" * 1000 for n in range(200)}
NEW = {b"%03d" % n: b"x" * 1000 for n in range(190, 200)}


def _shrunk(directory: Path) -> Backend:
    """A store whose checkpoint holds OLD, and whose later commits leave NEW."""
    backend = Stores().open(directory, map_size_bytes=4 << 20)
    fill(backend, OLD)
    checkpoint(backend)
    txn = backend.begin_write()
    for key in sorted(OLD.keys() - NEW.keys()):
        txn.delete(key, db=backend.tables.current)
    backend.commit()
    return backend


def _defragment(directory: Path, step: int) -> None:
    backend = _shrunk(directory)
    CrashAt(step)
    job = backend.begin_defragment()
    job.run()
    backend.finish_defragment(job)


def _create(directory: Path, step: int) -> None:
    CrashAt(step)
    Stores().open(directory)


def _install(directory: Path, step: int) -> None:
    CrashAt(step)
    install(directory, directory / "received")


class AfterCrash(NamedTuple):
    swapped: bool
    """Opening had a staged store to put in place."""
    here: dict[bytes, bytes]
    """Content as the next process finds it."""
    rebooted: dict[bytes, bytes]
    """Content as found after a reboot."""


def _reopen(directory: Path, stores: Stores) -> AfterCrash:
    """Opens what a crash left, and a copy of it on another boot; both must be in order and serve on."""
    directory.mkdir(exist_ok=True)
    twin = directory.with_name(directory.name + "-twin")
    shutil.copytree(directory, twin)
    backend, other = stores.open(directory), stores.open(twin, NEXT_BOOT)
    found = AfterCrash(backend.recovered.swapped, content(backend), content(other))
    assert other.recovered.swapped == found.swapped
    for opened in (backend, other):
        fill(opened, {b"after": b"1"})
        names = {path.name for path in opened._directory.iterdir()}
        assert names == {"data.mdb", "checkpoint", "checkpoint.tmp", "lock.mdb", "backend.lock"}
        stores.drop(opened)
    return found


def test_defragment_survives_a_crash_at_each_step(tmp_path: Path, stores: Stores) -> None:
    step, found = 0, []
    while (status := in_child(partial(_defragment, tmp_path / str(step), step))) == CRASHED:
        found.append(_reopen(tmp_path / str(step), stores))
        step += 1
    assert status == 0
    assert all(each.here == NEW for each in found)
    # Not staged yet, staged, in place: the crashes met all three. A reboot finds the old checkpoint before
    # the copy is staged, and never again afterwards.
    swapped = [each.swapped for each in found]
    first = swapped.index(True)
    assert 0 < first < first + sum(swapped) < len(found)
    assert all(swapped[first : first + sum(swapped)])
    assert [each.rebooted for each in found] == [OLD] * first + [NEW] * (len(found) - first)


def test_creating_survives_a_crash_at_each_step(tmp_path: Path, stores: Stores) -> None:
    step = 0
    while (status := in_child(partial(_create, tmp_path / str(step), step))) == CRASHED:
        found = _reopen(tmp_path / str(step), stores)
        assert found.here == found.rebooted == {}
        step += 1
    assert status == 0
    assert step > 15


def test_install_survives_a_crash_at_each_step(tmp_path: Path, stores: Stores) -> None:
    source = stores.open(tmp_path / "source")
    fill(source, NEW)
    copy = source.begin_copy()
    with (tmp_path / "received").open("wb") as out:
        copy.write_to(out.fileno())
    copy.close()

    step, seen = 0, set()
    while True:
        directory = tmp_path / str(step)
        target = stores.open(directory, map_size_bytes=4 << 20)
        fill(target, OLD)
        stores.drop(target)
        shutil.copy(tmp_path / "received", directory / "received")

        status = in_child(partial(_install, directory, step))
        (directory / "received").unlink(missing_ok=True)
        now = content(stores.open(directory))
        assert now in (OLD, NEW)
        seen.add(len(now))
        if status != CRASHED:
            break
        step += 1
    assert status == 0
    assert now == NEW
    assert seen == {len(OLD), len(NEW)}


# --- a full disk --------------------------------------------------------------------------------------------


FILL_THE_DISK = """
import sys
from pathlib import Path
from raftkv.backend import Backend, NoSpaceError
backend = Backend.open(Path(sys.argv[1]), reserve_step_bytes=1 << 20)
done = 0
try:
    while True:
        if sys.argv[2] == "reserve":
            backend.reserve_batch(30 * 1000, 3 * 30)
        txn = backend.begin_write()
        for n in range(30):
            txn.put(b"%08d" % (done + n), b"v" * 1000, db=backend.tables.current)
        backend.commit()
        done += 30
except NoSpaceError:
    pass
# The disk is really full for everybody else.
try:
    with open(sys.argv[1] + "/../filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
except OSError:
    pass
# Reads, a commit inside the reservation, and checkpoints go on.
assert backend.read().stat(backend.tables.current)["entries"] == done
for turn in range(5):
    backend.reserve(64 << 10)
    txn = backend.begin_write()
    txn.put(b"turn", b"%d" % turn, db=backend.tables.current)
    backend.commit()
    point = backend.begin_checkpoint()
    point.sync()
    backend.end_checkpoint(point)
try:
    backend.reserve(64 << 20)
except NoSpaceError:
    backend.close()
    # Opening again finds all of it, and still refuses.
    backend = Backend.open(Path(sys.argv[1]))
    assert backend.recovered.clean
    assert backend.read().stat(backend.tables.current)["entries"] == done + 1
    try:
        backend.reserve(64 << 20)
    except NoSpaceError:
        backend.close()
        print(done)
"""


def _fill_the_disk(mount: Path, mode: str) -> subprocess.CompletedProcess[str]:
    def no_core() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(mount / "snap"), mode],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=no_core,
    )


def test_a_full_disk_refuses_writes_and_keeps_the_rest(small_disk: Path) -> None:
    """PY-30 and design: no SIGBUS, everything reserved works, everything written is readable."""
    done = _fill_the_disk(small_disk, "reserve")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 3000


def test_without_reserving_a_full_disk_kills(small_disk: Path) -> None:
    """The danger is real: this is why `reserve` exists."""
    assert _fill_the_disk(small_disk, "careless").returncode == -signal.SIGBUS
