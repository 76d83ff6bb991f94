"""A model of what a disk keeps when the power goes: only what was synced is sure.

Watches one directory tree of this process. Names (renames, links, new and removed files) are sure once their directory
was synced, content once its file was. Anything later is there, or not, or torn, independently of each other: more than
a real file system would do to us.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE_BYTES = 4096
_SYNCS = ("fsync", "fdatasync")
_OTHERS = ("rename", "link", "unlink", "mkdir", "rmdir", "open", "ftruncate", "posix_fallocate", "pwrite", "write")

Names = dict[str, int]
"""Name -> inode."""


class PowerDisk:
    """From its making on; what is in `root` then is sure."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, before_step: Callable[[PowerDisk], None]) -> None:
        """`before_step` is called before each call that changes or syncs anything, and may take an `image`."""
        self.steps = 0
        self._root = os.stat(root).st_ino
        self._before_step = before_step
        self._busy = False
        self._paths: dict[int, Path] = {self._root: root}
        """Directories by inode."""
        self._held: dict[int, int] = {}
        """Inode -> a descriptor of it, so that its number is not used again, and a file's content stays readable."""
        self._names: dict[int, list[Names]] = {}
        """Directory -> its listings since it was last synced; the first is sure."""
        self._sure: dict[int, bytes] = {}
        """File -> its content when it was last synced."""
        self._look()
        for directory in list(self._names):
            self._names[directory] = self._names[directory][-1:]
        for inode, fd in self._held.items():
            if inode not in self._names:
                self._sure[inode] = _content(fd)
        for name in _SYNCS:
            patch.setattr(os, name, self._stepped(getattr(os, name), syncs=True))
        for name in _OTHERS:
            patch.setattr(os, name, self._stepped(getattr(os, name), syncs=False))

    def close(self) -> None:
        for fd in self._held.values():
            os.close(fd)

    def _stepped(self, call, *, syncs: bool):  # type: ignore[no-untyped-def]
        def stepped(*args, **kwargs):  # type: ignore[no-untyped-def]
            if self._busy:
                return call(*args, **kwargs)
            self._busy = True
            try:
                self._before_step(self)
                self.steps += 1
                self._look()
                result = call(*args, **kwargs)
                self._look()
                if syncs:
                    self._note_sync(args[0])
                return result
            finally:
                self._busy = False

        return stepped

    def _note_sync(self, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if inode in self._names:
            self._names[inode] = self._names[inode][-1:]
        elif inode in self._held:  # else: of another directory tree
            self._sure[inode] = _content(self._held[inode])

    def _look(self) -> None:
        """Notes the listings that have changed."""
        todo = [self._root]
        while todo:
            directory = todo.pop()
            path = self._paths[directory]
            listing: Names = {}
            for entry in os.scandir(path):
                inode = listing[entry.name] = entry.inode()
                if entry.is_dir():
                    self._paths[inode] = Path(entry.path)
                    todo.append(inode)
                if inode not in self._held:
                    self._held[inode] = os.open(entry.path, os.O_RDONLY)
            history = self._names.setdefault(directory, [{}])
            if history[-1] != listing:
                history.append(listing)

    def image(self, target: Path, rng: random.Random | None, *, kept: bool = False) -> None:
        """Writes to `target` what a power cut now might leave: all that is not sure is lost, or `kept`, or, with
        `rng`, whatever it says."""
        target.mkdir()
        self._write_directory(self._root, target, rng, kept)

    def _write_directory(self, inode: int, target: Path, rng: random.Random | None, kept: bool) -> None:
        history = self._names.get(inode, [{}])
        listing = rng.choice(history) if rng else history[-1 if kept else 0]
        for name, child in listing.items():
            if child in self._paths:
                (target / name).mkdir()
                self._write_directory(child, target / name, rng, kept)
            else:
                self._write_file(child, target / name, rng, kept)

    def _write_file(self, inode: int, target: Path, rng: random.Random | None, kept: bool) -> None:
        sure, now = self._sure.get(inode, b""), _content(self._held[inode])
        data = _torn(sure, now, rng) if rng else now if kept else sure
        target.write_bytes(data)


def _content(fd: int) -> bytes:
    size_bytes = os.fstat(fd).st_size
    return os.pread(fd, size_bytes, 0)


def _torn(sure: bytes, now: bytes, rng: random.Random) -> bytes:
    size_bytes = rng.choice((len(sure), len(now)))
    disk = []
    for at in range(0, size_bytes, PAGE_BYTES):
        end = min(at + PAGE_BYTES, size_bytes)
        versions = [version[at:end].ljust(end - at, b"\0") for version in (sure, now)]
        if versions[0] != versions[1] and rng.random() < 0.2:
            versions = [rng.randbytes(end - at)]
        disk.append(rng.choice(versions))
    return b"".join(disk)
