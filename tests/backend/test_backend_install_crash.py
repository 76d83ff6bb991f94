"""A store is received and installed, and everything ends at some step: killed, or without power (RF-46).

The outcome is judged as the next process finds it, with the log beside it: the old store and the old log, or the new
store and the new log.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from backend_support import BOOT, CRASHED, NEXT_BOOT, CrashAt, Stores, checkpoint, content, fill, in_child
from power_disk import PowerDisk
from received_support import (
    AFTER,
    EXPECTED,
    NEW,
    OLD,
    OLD_POSITION,
    OPEN,
    OUR_ID,
    POSITION,
    behind,
    copied,
    decide,
    read_log,
    receive,
    restart,
    sender,
)

from raftkv.backend import Backend, Meta, ReceivedStore
from raftkv.backend.schema import pack_u64

pytestmark = pytest.mark.usefixtures("no_waiting")

MAP_BYTES = 1 << 20
LATER = {b"later": b"committed, not in a checkpoint"}
OLD_NAMES = {"data.mdb", "checkpoint", "checkpoint.tmp", "lock.mdb", "backend.lock"}


@pytest.fixture
def data(tmp_path: Path, stores: Stores) -> bytes:
    return copied(sender(stores, tmp_path / "sender"))


def make_member(member: Path, stores: Stores) -> Backend:
    """A log that begins with the first entry; a store whose checkpoint holds OLD, and a commit and a half more."""
    (member / "wal").mkdir(parents=True)
    backend = behind(stores, member / "snap", MAP_BYTES)
    checkpoint(backend)
    fill(backend, LATER)
    for key, value in OPEN.items():
        backend.begin_write().put(key, value, db=backend.tables.current)
    return backend


def receive_and_install(member: Path, backend: Backend, data: bytes) -> None:
    """In the order that the server keeps. What follows is what a member does then."""
    received = ReceivedStore(member / "snap", len(data))
    half = len(data) // 2
    for offset, piece in ((half, data[half:]), (0, data[:half])):
        received.write(offset, piece)
    received.finish(EXPECTED)
    decide(member / "wal", POSITION)
    backend.install(received)
    fill(backend, AFTER)
    checkpoint(backend)


def judged(member: Path, stores: Stores, boot_id: str) -> str:
    """Starts again on what is there. "old" or "new", if store and log agree; and it must serve on."""
    decided = read_log(member / "wal")
    backend = restart(member, stores, boot_id, MAP_BYTES)
    found, index = content(backend), backend.recovered.consistent_index
    member_id = backend.read().get(Meta.MEMBER_ID, db=backend.tables.meta)
    assert member_id == pack_u64(OUR_ID)
    if decided is None:
        # After a reboot the log replays what is not in the checkpoint.
        assert (found, index) == (OLD if boot_id == NEXT_BOOT else OLD | LATER, OLD_POSITION[0])
    else:
        assert (decided, index) == (POSITION, POSITION[0])
        assert found in (NEW, NEW | AFTER)
    fill(backend, {b"serves": b"on"})
    checkpoint(backend)
    assert {path.name for path in (member / "snap").iterdir()} == OLD_NAMES
    stores.drop(backend)
    again = restart(member, stores, boot_id, MAP_BYTES)  # what was settled once stays so
    assert content(again) == found | {b"serves": b"on"}
    stores.drop(again)
    return "new" if decided else "old"


# --- killed ---------------------------------------------------------------------------------------------------


def _die_installing(member: Path, data: bytes, step: int) -> None:
    backend = make_member(member, Stores())
    CrashAt(step)
    receive_and_install(member, backend, data)


def _die_starting(member: Path, step: int) -> None:
    CrashAt(step)
    restart(member, Stores(), BOOT, MAP_BYTES)


def _state(member: Path) -> tuple[object, ...]:
    """What tells two crashes apart, as far as the next start is concerned."""
    return read_log(member / "wal"), tuple(sorted(path.name for path in (member / "snap").rglob("*")))


def test_a_crash_at_each_step_of_receiving_and_installing(tmp_path: Path, stores: Stores, data: bytes) -> None:
    """... and at each step of the start after it, wherever the first crash left something of its own kind."""
    outcomes: list[str] = []
    seen: set[tuple[object, ...]] = set()
    second_crashes = 0
    while True:
        member = tmp_path / str(len(outcomes))
        status = in_child(partial(_die_installing, member, data, len(outcomes)))
        if status != CRASHED:
            break
        if (state := _state(member)) not in seen:
            seen.add(state)
            second_crashes += _crash_again(member, stores)
        rebooted = member.with_name(member.name + "-rebooted")
        shutil.copytree(member, rebooted)
        outcomes.append(judged(member, stores, BOOT))
        assert judged(rebooted, stores, NEXT_BOOT) == outcomes[-1]
        for directory in (member, rebooted):
            shutil.rmtree(directory)
    assert status == 0
    assert judged(member, stores, BOOT) == "new"
    # The log decides, once.
    first_new = outcomes.index("new")
    assert outcomes == ["old"] * first_new + ["new"] * (len(outcomes) - first_new)
    assert first_new > 10
    assert len(outcomes) - first_new > 20
    assert len(seen) > 8
    assert second_crashes > 100


def _crash_again(member: Path, stores: Stores) -> int:
    """Crashes the start on a copy of `member` at each of its steps. How many there are."""
    step = 0
    while True:
        copy = member.with_name(f"{member.name}-{step}")
        shutil.copytree(member, copy)
        if in_child(partial(_die_starting, copy, step)) != CRASHED:
            break
        outcome = "new" if read_log(member / "wal") else "old"
        assert judged(copy, stores, BOOT) == outcome
        shutil.rmtree(copy)
        step += 1
    assert judged(copy, stores, BOOT)
    return step


# --- without power ----------------------------------------------------------------------------------------------


Judge = Callable[[Path, Stores, str], str]


class Cuts:
    """Plays power cuts before every step of a story, and judges what each leaves."""

    def __init__(self, stores: Stores, directory: Path, seed: int, judge: Judge) -> None:
        self._stores = stores
        self._directory = directory
        self._judge = judge
        self._rng = random.Random(seed)
        self.outcomes: list[set[str]] = []
        """Before each step."""

    def before_step(self, disk: PowerDisk) -> None:
        outcomes = {self._judged(disk, None, kept=False), self._judged(disk, None, kept=True)}
        outcomes |= {self._judged(disk, self._rng) for _ in range(2)}
        self.outcomes.append(outcomes)

    def _judged(self, disk: PowerDisk, rng: random.Random | None, *, kept: bool = False) -> str:
        member = self._directory / "cut"
        disk.image(member, rng, kept=kept)
        outcome = self._judge(member, self._stores, NEXT_BOOT)
        shutil.rmtree(member)
        return outcome


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_at_each_step_of_receiving_and_installing(
    tmp_path: Path, stores: Stores, data: bytes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    member = tmp_path / "member"
    backend = make_member(member, stores)
    cuts = Cuts(stores, tmp_path, seed, judged)
    with monkeypatch.context() as patch:
        disk = PowerDisk(member, patch, cuts.before_step)
        receive_and_install(member, backend, data)
    disk.close()
    # Until the log is renamed nothing can be new, and once its directory is synced nothing can be old.
    certain = [outcomes for outcomes in cuts.outcomes if len(outcomes) == 1]
    assert certain == [{"old"}] * certain.count({"old"}) + [{"new"}] * certain.count({"new"})
    assert certain.count({"old"}) > 15
    assert certain.count({"new"}) > 20
    assert len(cuts.outcomes) - len(certain) < 10


@pytest.mark.parametrize("staged", [False, True])
def test_a_power_cut_at_each_step_of_the_start_that_installs(
    tmp_path: Path, stores: Stores, data: bytes, monkeypatch: pytest.MonkeyPatch, staged: bool
) -> None:
    """The process was killed after the log had decided; the power goes while the next one finishes."""
    member = tmp_path / "member"
    stores.drop(make_member(member, stores))
    received = receive(member / "snap", data)
    decide(member / "wal", POSITION)
    if staged:
        os.rename(received.path, member / "snap" / "data.mdb.next")
    cuts = Cuts(stores, tmp_path, 1, judged)
    with monkeypatch.context() as patch:
        disk = PowerDisk(member, patch, cuts.before_step)
        backend = restart(member, stores, BOOT, MAP_BYTES)
    disk.close()
    assert content(backend) == NEW
    assert cuts.outcomes == [{"new"}] * disk.steps
    assert disk.steps > 20


def judged_without_an_old_store(member: Path, stores: Stores, boot_id: str) -> str:
    decided = read_log(member / "wal")
    backend = restart(member, stores, boot_id, MAP_BYTES)
    assert content(backend) == (NEW if decided else {})
    stores.drop(backend)
    return "new" if decided else "old"


def test_a_power_cut_at_each_step_of_rebuilding_from_nothing(
    tmp_path: Path, stores: Stores, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of the store is made for the received one, and must last as surely."""
    member = tmp_path / "member"
    (member / "wal").mkdir(parents=True)
    cuts = Cuts(stores, tmp_path, 1, judged_without_an_old_store)
    with monkeypatch.context() as patch:
        disk = PowerDisk(member, patch, cuts.before_step)
        receive(member / "snap", data)
        decide(member / "wal", POSITION)
        backend = restart(member, stores, BOOT, MAP_BYTES)
    disk.close()
    assert content(backend) == NEW
    assert {"old"} in cuts.outcomes
    assert {"new"} in cuts.outcomes


def test_what_was_not_synced_can_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the disk itself: were it too kind, the tests above would prove nothing."""
    root, step = tmp_path / "root", 0
    (root / "a").mkdir(parents=True)
    (root / "a" / "kept").write_bytes(b"1" * 8192)

    with monkeypatch.context() as patch:
        disk = PowerDisk(root, patch, lambda _: None)

        def left(rng: random.Random | None = None, *, kept: bool = False) -> dict[str, bytes]:
            nonlocal step
            step += 1
            with monkeypatch.context() as unwatched:
                unwatched.setattr(disk, "_busy", True)
                disk.image(tmp_path / str(step), rng, kept=kept)
                found = [path for path in (tmp_path / str(step)).rglob("*") if path.is_file()]
                return {str(path.relative_to(tmp_path / str(step))): path.read_bytes() for path in found}

        old = {"a/kept": b"1" * 8192}
        fd = os.open(root / "a" / "new", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, b"2" * 8192, 0)
        assert left() == old
        assert left(kept=True) == old | {"a/new": b"2" * 8192}
        os.fsync(fd)
        assert left() == old
        directory = os.open(root / "a", os.O_RDONLY)
        os.fsync(directory)
        assert left() == old | {"a/new": b"2" * 8192}
        os.pwrite(fd, b"3" * 4096, 0)
        os.rename(root / "a" / "new", root / "a" / "kept")
        assert left() == old | {"a/new": b"2" * 8192}
        assert left(kept=True) == {"a/kept": b"3" * 4096 + b"2" * 4096}
        torn = [left(random.Random(seed)).get("a/kept", b"") for seed in range(40)]
        assert {b"1" * 8192, b"2" * 8192, b"3" * 4096 + b"2" * 4096} < set(torn)
        assert all(each in (b"1" * 8192, b"") or each[4096:] == b"2" * 4096 for each in torn)
        os.fsync(directory)
        assert left() == {"a/kept": b"2" * 8192}
        os.close(fd)
        os.close(directory)
        disk.close()
