"""The log in memory: how much of what is applied is kept for members that lag, and what stands for the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.raft import ENTRY_HEADER_SIZE_BYTES, Compacted, ConfState, Entry, HardState, Snapshot
from raftkv.server import replica_log as module
from raftkv.server.replica_log import ReplicaLog

CONF = ConfState(voters=(1, 2, 3))


def log_of(entries: int, applied: int, size: int = 10, base: int = 0) -> ReplicaLog:
    """So many entries behind `base`, each of so many bytes of data."""
    applier: Any = SimpleNamespace(index=applied, term=1, conf_state=CONF)
    log = ReplicaLog(applier, HardState(1, 1, applied), CONF)
    if base:
        log.apply_snapshot(Snapshot(base, 1, CONF))
    log.append([Entry(1, index, data=bytes(size)) for index in range(base + 1, base + entries + 1)])
    return log


def kept(log: ReplicaLog) -> tuple[int, int]:
    return log.first_index(), log.last_index()


@pytest.mark.parametrize(
    ("applied", "keep", "first"),
    [(100, 10, 91), (100, 99, 2), (100, 100, 2), (60, 10, 51), (5, 10, 2), (100, 0, 101), (0, 10, 1), (0, 0, 1)],
)
def test_so_many_applied_entries_are_kept(applied: int, keep: int, first: int) -> None:
    """RF-43: and everything that is not applied yet, whatever its number."""
    log = log_of(100, applied)
    log.trim(keep, None)
    assert kept(log) == (first, 100)


def test_the_first_entry_goes_once_it_is_applied() -> None:
    """A member that joins has nothing, not even the members of a cluster founded before the log: it gets a snapshot."""
    log = log_of(3, applied=1)
    log.trim(1000, None)
    assert kept(log) == (2, 3)
    with pytest.raises(Compacted):
        log.entries(1, 2, 100)


def test_no_more_than_so_many_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry holds a whole batch, so a count alone says little."""
    size = 100
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 10 * (size + ENTRY_HEADER_SIZE_BYTES))
    log = log_of(100, applied=100, size=size)
    log.trim(1000, None)
    assert kept(log) == (91, 100)
    assert log.size_bytes == 10 * (size + ENTRY_HEADER_SIZE_BYTES)
    log.append([Entry(1, 101, data=bytes(3 * size))])
    log.trim(1000, None)
    assert log.last_index() == 101
    assert log.size_bytes <= module.MAX_KEPT_BYTES + size + ENTRY_HEADER_SIZE_BYTES, "to within an entry"


def test_what_is_not_applied_is_kept_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 500)
    log = log_of(100, applied=40, size=100)
    log.trim(1000, None)
    assert kept(log) == (41, 100)
    none_applied = log_of(10, applied=20, size=100, base=20)
    none_applied.trim(0, None)
    assert kept(none_applied) == (21, 30)


@pytest.mark.parametrize(("keep_from", "first"), [(30, 31), (90, 91), (95, 91), (0, 1), (100, 91)])
def test_the_log_behind_a_copy_is_kept(keep_from: int, first: int) -> None:
    """RF-44: whoever has the copy as of that entry needs the next ones; more than the bound if need be, never less."""
    log = log_of(100, applied=100)
    log.trim(10, keep_from)
    assert kept(log) == (first, 100)


def test_the_log_behind_a_copy_is_kept_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 500)
    log = log_of(100, applied=100, size=100)
    log.trim(0, 50)
    assert kept(log) == (51, 100)
    log.trim(0, None)
    assert log.size_bytes <= 500


def test_trimming_again_and_trimming_a_short_log_change_nothing() -> None:
    log = log_of(100, applied=100)
    log.trim(10, None)
    log.trim(10, None)
    log.trim(50, 20)
    assert kept(log) == (91, 100)
    restarted = log_of(0, applied=200, base=200)
    restarted.trim(0, None)
    assert kept(restarted) == (201, 200)


def test_the_snapshot_is_always_what_is_applied() -> None:
    """RF-45: a member that is told of it fetches a copy of the store, which is as new as that, or newer."""
    log = log_of(100, applied=60)
    assert log.snapshot() == Snapshot(60, 1, CONF)
    applier: Any = log._applier
    applier.index, applier.term, applier.conf_state = 70, 2, ConfState(voters=(1, 2))
    log.trim(0, None)
    assert log.snapshot() == Snapshot(70, 2, ConfState(voters=(1, 2)))
    assert log.snapshot().index >= log.first_index() - 1
