"""When a member looks at its disk, and when it tells the others (AL-23 to AL-28)."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.apply import NOSPACE
from raftkv.server.space_watch import INTERVAL_S, SpaceWatch

ME = 7


class Disk:
    """A member's disk, and the parts of it that ask for room. What it knows of the disk is as old as its last look."""

    def __init__(self) -> None:
        self.full = False
        self.log_is_full = False
        """By the last try to make its next segment; whether there is room is tried later."""
        self.disk_is_full = False
        self.headroom_bytes = 1 << 30
        self.size_bytes = 0
        self.alarms: list[tuple[int, int]] = []
        self.proposed: list[Any] = []
        anything: Any = self
        self.watch = SpaceWatch(ME, anything, anything, anything, anything, self._is_log_full, self._propose)

    def _is_log_full(self, *, room_was_made: bool) -> bool:
        return self.full if room_was_made else self.log_is_full

    def retry(self, *, wal_is_full: bool) -> None:
        self.disk_is_full = self.full or wal_is_full
        self.headroom_bytes = 0 if self.disk_is_full else 1 << 30

    def active(self) -> list[tuple[int, int]]:
        return self.alarms

    def _propose(self, _kind: int, _message: bytes, finish: Any, context: Any) -> None:
        self.proposed.append((finish, context))

    def apply_alarm(self) -> None:
        self.alarms = [(ME, NOSPACE)]
        self.watch.after_apply()
        finish, context = self.proposed.pop()
        finish(context, (1, b""))

    def disarm(self) -> None:
        self.alarms = []
        self.watch.after_apply()


@pytest.fixture
def disk() -> Disk:
    """Full, and the alarm is raised."""
    disk = Disk()
    disk.full = True
    disk.watch.on_tick(100.0)
    disk.apply_alarm()
    assert disk.headroom_bytes == 0
    return disk


def test_who_makes_room_and_disarms_may_write_at_once(disk: Disk) -> None:
    """AL-27: not only after the next look, which is up to a second away."""
    disk.full = False
    disk.watch.on_tick(100.0 + INTERVAL_S / 2)
    assert disk.headroom_bytes == 0, "not looked yet"
    disk.disarm()
    assert disk.headroom_bytes > 0
    assert disk.proposed == []


def test_what_the_log_found_before_room_was_made_raises_no_alarm(disk: Disk) -> None:
    """AL-27: else who disarms at once has to do so again."""
    disk.log_is_full = True
    disk.full = False
    disk.disarm()
    assert (disk.headroom_bytes > 0, disk.proposed) == (True, [])
    disk.log_is_full = False  # the next try has worked
    disk.watch.on_tick(200.0)
    assert (disk.headroom_bytes > 0, disk.proposed) == (True, [])


def test_a_log_that_finds_no_room_all_the_same_raises_it_again(disk: Disk) -> None:
    """AL-28: at the next look. The file system did not know of a limit."""
    disk.log_is_full = True
    disk.full = False
    disk.disarm()
    disk.watch.on_tick(200.0)
    assert (disk.headroom_bytes, len(disk.proposed)) == (0, 1)


def test_a_disk_that_is_still_full_raises_it_again(disk: Disk) -> None:
    """AL-28: with the first write."""
    disk.disarm()
    assert (disk.headroom_bytes, disk.proposed) == (0, [])
    disk.watch.raise_alarm()
    assert len(disk.proposed) == 1


def test_an_alarm_that_is_active_is_looked_at_no_more_than_once_a_second(disk: Disk) -> None:
    disk.full = False
    for _ in range(3):
        disk.watch.after_apply()
    assert disk.headroom_bytes == 0
