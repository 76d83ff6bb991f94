"""What a directory lies on: the mount, its file system and options, the kind of drive, the room.

Reads /proc and /sys, writes nothing, and judges nothing: that is `doctor_disk`'s business. What cannot be found out is
None.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

_MOUNTS: Final = Path("/proc/self/mountinfo")
_BLOCK_DEVICES: Final = Path("/sys/dev/block")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    point: Path
    filesystem: str
    """Such as ext4, tmpfs, nfs4, fuse.sshfs."""
    source: str
    """A device, a server's export, or a word."""
    options: tuple[str, ...]
    """Those of the mount and those of the file system."""
    device: str
    """MAJOR:MINOR."""


class Volume(NamedTuple):
    free_bytes: int
    """For the user who asks."""
    size_bytes: int
    mount: Mount | None
    rotational: bool | None
    """Whether the drive says that it turns."""


def volume_of(directory: Path) -> Volume:
    """Raises OSError if the directory cannot be looked at."""
    room = os.statvfs(directory)
    mount = _mount_of(directory.resolve(strict=True))
    return Volume(
        room.f_bavail * room.f_frsize,
        room.f_blocks * room.f_frsize,
        mount,
        None if mount is None else _rotational(mount),
    )


def _mount_of(path: Path) -> Mount | None:
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return None  # not Linux, or no /proc
    return find_mount(lines, path)


def find_mount(lines: list[str], path: Path) -> Mount | None:
    """The innermost mount above an absolute path, from the lines of mountinfo (proc_pid_mountinfo(5))."""
    found: Mount | None = None
    for line in lines:
        mount = _parse(line)
        # Of two at one place the later one covers the earlier.
        if path.is_relative_to(mount.point) and (found is None or mount.point.is_relative_to(found.point)):
            found = mount
    return found


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    words, (filesystem, source, super_options) = before.split(" "), after.split(" ")[:3]
    options = dict.fromkeys([*words[5].split(","), *super_options.split(",")])
    return Mount(Path(_unescaped(words[4])), filesystem, _unescaped(source), tuple(options), words[2])


def _unescaped(text: str) -> str:
    """Blanks, tabs, line ends and backslashes stand there as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _rotational(mount: Mount) -> bool | None:
    device = mount.device
    try:
        if device.startswith("0:"):
            # No block device of the file system's own (btrfs): the one that was mounted.
            number = os.stat(mount.source).st_rdev
            device = f"{os.major(number)}:{os.minor(number)}"
        at = (_BLOCK_DEVICES / device).resolve(strict=True)
        queue = at / "queue" if (at / "queue").is_dir() else at.parent / "queue"  # of a partition: its drive's
        return (queue / "rotational").read_text().strip() == "1"
    except OSError:
        return None
