"""Measures how fast a directory makes writes durable, in the way the log does it, and judges the volume below it.

The log itself is what writes: a `Wal` in a directory of its own, on segments whose blocks were written before, as
those of a member that runs for a while are (docs/adr/0001-wal-preallocation.md). Owns the thresholds; prints nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from raftkv.cli.doctor_latency import FEW_SAMPLES, Finding, Latencies, milliseconds
from raftkv.cli.doctor_volume import Volume
from raftkv.raft import Entry
from raftkv.wal import Wal

SEGMENT_BYTES: Final = 16 << 20
"""A quarter of a member's, so that little room and time is needed."""
TAKEN_BYTES: Final = 2 * SEGMENT_BYTES
"""The segment in use and one recycled or prepared."""
MAX_WRITE_BYTES: Final = 4 << 20
SCRATCH_PREFIX: Final = "raftkv-doctor-"

SLOW_P99_S: Final = 0.010
"""etcd's advice for the log's fsync."""
IMPLAUSIBLE_P50_S: Final = 0.000_010
"""No drive answers as fast as that, nor does one with a cache that survives a power cut: the bus takes longer."""
ELECTION_TIMEOUT_S: Final = 1.0
"""--election-timeout, as long as nobody changes it."""
ROOMY_BYTES: Final = 5 << 30
"""Twice the default quota of 2 GiB, for a defragmentation or a rebuild makes a copy beside the store, and the log."""

_MEMORY: Final = frozenset({"tmpfs", "ramfs", "rootfs"})
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "afs", "lustre", "glusterfs", "9p", "virtiofs", "ocfs2", "gfs2"}
)
_NETWORK_PREFIX: Final = "fuse."
"""Programs that pretend to be a file system: sshfs, GlusterFS, S3 and the like."""
_LAYERS: Final = frozenset({"overlay", "aufs"})
_COPY_ON_WRITE: Final = frozenset({"btrfs", "zfs", "bcachefs"})
_UNSAFE_OPTIONS: Final = frozenset({"nobarrier", "barrier=0"})

Progress = Callable[[int, int], None]
"""Told (what is done, all), in milliseconds."""


class Timing(NamedTuple):
    fsync: Latencies
    elapsed_s: float
    """From the first write to the end of the last sync."""

    @property
    def syncs_per_s(self) -> float:
        return self.fsync.samples / self.elapsed_s


def measure(directory: Path, write_bytes: int, duration_s: float, progress: Progress | None = None) -> Timing:
    """Append and sync, one after the other, for so long. Leaves nothing behind, however it ends.

    Raises WalError when the disk refuses, and OSError.
    """
    assert 0 < write_bytes <= MAX_WRITE_BYTES
    with _log_in_use(directory) as log:
        # Random, so that nothing between here and the drive can make it smaller.
        data = os.urandom(write_bytes)
        samples: list[float] = []
        started = now = perf_counter()
        told = 0.0
        while now - started < duration_s or not samples:
            samples.append(log.append(data))
            now = perf_counter()
            if progress is not None and now - told > 0.1:
                told = now
                progress(round(1000 * (now - started)), round(1000 * duration_s))
        return Timing(Latencies.of(samples), now - started)


class _Log:
    """A `Wal` that keeps nothing but what was appended last."""

    def __init__(self, wal: Wal) -> None:
        self._wal = wal
        self._index = 0

    def append(self, data: bytes) -> float:
        """Seconds that the sync took."""
        self._index += 1
        self._wal.stage(None, [Entry(1, self._index, data=data)])
        sync_s = self._wal.flush().sync_s
        self._wal.release_before(self._index)  # so that segments are recycled
        return sync_s


@contextmanager
def _log_in_use(directory: Path) -> Iterator[_Log]:
    """A log in the state of one that has been written to for long: the blocks of its segments have been written to."""
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=directory))
    try:
        wal = Wal.create(scratch, b"raftkv doctor", segment_bytes=SEGMENT_BYTES)
        try:
            log = _Log(wal)
            log.append(bytes(SEGMENT_BYTES - 4096))  # fills the first segment
            while wal.maintain():
                pass  # writes zeros into the second
            yield log
        finally:
            wal.close()
    finally:
        shutil.rmtree(scratch)


# --- judging ----------------------------------------------------------------------------------------------------------


def findings(volume: Volume, timing: Timing) -> list[Finding]:
    """Problems first. Without a problem the directory is fit for a member."""
    found = [*_of_filesystem(volume), *_of_speed(volume, timing), *_of_room(volume)]
    return sorted(found, key=lambda finding: not finding.problem)


def _of_filesystem(volume: Volume) -> Iterator[Finding]:
    if volume.mount is None:
        yield Finding(False, "which file system this is cannot be found out here", "")
        return
    kind = volume.mount.filesystem
    if kind in _MEMORY:
        yield Finding(True, f"{kind} is memory: a restart of the machine loses everything", "Use a volume on a drive")
    elif kind in _NETWORK or kind.startswith(_NETWORK_PREFIX):
        yield Finding(
            True,
            f"{kind} is not a local file system: the store is a memory map, which it may tear or refuse, and every "
            "write waits for somebody else's server",
            "Use a local drive, or a block device from the network",
        )
    elif kind in _LAYERS:
        yield Finding(
            True, f"{kind} is a container's own layer: the data goes when the container goes", "Mount a volume here"
        )
    elif kind in _COPY_ON_WRITE:
        yield Finding(
            False,
            f"{kind} copies blocks when they are written again, so the log's prepared segments gain nothing",
            "ext4 or XFS is usually faster for this; the figures above decide",
        )
    unsafe = sorted(_UNSAFE_OPTIONS.intersection(volume.mount.options))
    if unsafe:
        yield Finding(
            True,
            f"mounted with {unsafe[0]}: a power cut may lose or mix what fsync has promised",
            "Mount it without that option",
        )


def _of_speed(volume: Volume, timing: Timing) -> Iterator[Finding]:
    fsync = timing.fsync
    if fsync.p50_s < IMPLAUSIBLE_P50_S and not (volume.mount and volume.mount.filesystem in _MEMORY):
        yield Finding(
            True,
            f"half of the fsyncs took less than {milliseconds(IMPLAUSIBLE_P50_S)}: no drive is that fast, so something "
            "in between ignores them, and a power cut loses acknowledged writes",
            "Look for a cache that is set to unsafe (hypervisor, RAID controller) or a library such as eatmydata",
        )
    if fsync.p99_s >= SLOW_P99_S:
        drive = "A drive that turns cannot do better: use an SSD" if volume.rotational else "Use a faster or idle drive"
        yield Finding(
            True,
            f"p99 of fsync is {milliseconds(fsync.p99_s)}, the advice is less than {milliseconds(SLOW_P99_S)}: every "
            "write waits that long, and a busy member may lose its leadership",
            f"{drive}, give the log one of its own (--wal-dir), or raise --heartbeat-interval and --election-timeout",
        )
    elif volume.rotational:
        yield Finding(
            False,
            "the drive says that it turns, which virtual ones often say for no reason; if it does, a cache hides it "
            "now and may not under load",
            "Use an SSD",
        )
    if fsync.max_s >= ELECTION_TIMEOUT_S:
        yield Finding(
            True,
            f"one fsync took {fsync.max_s:.1f} s, longer than an election timeout: a leader would have stepped down",
            "Find out who else uses the drive, and measure again for longer: --duration=5m",
        )
    if fsync.samples < FEW_SAMPLES:
        yield Finding(False, f"{fsync.samples} writes are too few for a p99", "Measure for longer: --duration=30s")


def _of_room(volume: Volume) -> Iterator[Finding]:
    if volume.free_bytes < ROOMY_BYTES:
        yield Finding(
            False,
            f"{volume.free_bytes / 1e9:.1f} GB are free; a member with the default quota of 2 GiB can need "
            f"{ROOMY_BYTES / 1e9:.1f} GB",
            "Use a larger volume, or a smaller --quota-backend-bytes",
        )
