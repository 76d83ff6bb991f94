"""How much more may be written: AL-20 to AL-28, on a backend that says whatever a test needs."""

from __future__ import annotations

import pytest

from raftkv.backend import NoSpaceError
from raftkv.server.quota import AHEAD_BYTES, Quota


class Disk:
    """Stands for the backend. A commit turns `open_bytes` into `committed_as` more bytes of the file."""

    def __init__(self) -> None:
        self.size_bytes = 1000
        self.open_bytes = 0
        self.committed_as = 0
        self.commits = 0
        self.is_full = False
        self.reserved: list[int] = []

    def reserve(self, extra_bytes: int) -> None:
        self.reserved.append(extra_bytes)
        if self.is_full:
            raise NoSpaceError("full")

    def commit(self) -> None:
        self.commits += 1
        self.size_bytes += self.committed_as
        self.open_bytes = self.committed_as = 0


@pytest.fixture
def disk() -> Disk:
    return Disk()


def quota(disk: Disk, limit_bytes: int | None = 2000) -> Quota:
    return Quota(disk, limit_bytes)  # type: ignore[arg-type]


def test_a_request_fits_if_size_and_cost_stay_below_the_quota(disk: Disk) -> None:
    """AL-22: below, not equal."""
    assert quota(disk).allows(999)
    assert not quota(disk).allows(1000)


def test_what_costs_nothing_always_fits(disk: Disk) -> None:
    """AL-22, AL-26: deleting is the way out."""
    disk.size_bytes, disk.is_full = 5000, True
    assert quota(disk).allows(0)


def test_without_a_quota_everything_fits(disk: Disk) -> None:
    """AL-20."""
    assert quota(disk, None).allows(1 << 50)


def test_what_is_open_counts_until_it_is_measured(disk: Disk) -> None:
    """What is open was reckoned too high: before a refusal it is committed and measured."""
    disk.open_bytes, disk.committed_as = 900, 50
    measured = quota(disk)
    assert measured.headroom_bytes == 100
    assert measured.allows(99)
    assert disk.commits == 0
    assert measured.allows(500)
    assert (disk.commits, measured.headroom_bytes) == (1, 950)


def test_a_refusal_is_measured_once_and_not_for_every_request(disk: Disk) -> None:
    disk.open_bytes = disk.committed_as = 900
    measured = quota(disk)
    assert not measured.allows(500)
    assert not measured.allows(500)
    assert disk.commits == 1


def test_blocks_are_reserved_ahead_at_every_update(disk: Disk) -> None:
    made = quota(disk)
    made.update()
    assert disk.reserved == [AHEAD_BYTES] * 2


@pytest.mark.parametrize("limit_bytes", [2000, None])
def test_a_full_disk_leaves_no_headroom_until_there_is_room_again(disk: Disk, limit_bytes: int | None) -> None:
    """AL-27: only `retry` asks the disk again, not every commit."""
    made = quota(disk, limit_bytes)
    disk.is_full = True
    made.update()
    assert (made.disk_is_full, made.headroom_bytes, made.allows(1)) == (True, 0, False)
    tries = len(disk.reserved)
    made.update()
    assert len(disk.reserved) == tries
    made.retry(wal_is_full=False)
    assert made.headroom_bytes == 0
    disk.is_full = False
    made.update()
    assert made.headroom_bytes == 0
    made.retry(wal_is_full=False)
    assert (made.disk_is_full, made.allows(1)) == (False, True)


def test_a_log_without_room_refuses_as_well(disk: Disk) -> None:
    made = quota(disk)
    made.retry(wal_is_full=True)
    made.update()
    assert (made.headroom_bytes, made.disk_is_full, made.allows(1)) == (0, False, False)
    made.retry(wal_is_full=False)
    assert made.allows(1)


def test_a_file_larger_than_the_quota_has_no_negative_headroom(disk: Disk) -> None:
    """AL-28: after the quota was lowered, or the alarm disarmed too early."""
    disk.size_bytes = 3000
    assert quota(disk).headroom_bytes == 0
