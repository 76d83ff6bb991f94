"""What can go wrong on this floor, as types. Each says which file, what was found, and what to do.

`lmdb.Error` is not wrapped on the hot path: after a successful open and `reserve()`, LMDB refuses only what
is a mistake of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

REBUILD: Final = "rebuild this member from its peers or from a snapshot"
"""The remedy where bytes are damaged: this member cannot know what was there, its peers do."""


class BackendError(Exception):
    """Base of everything the backend raises on purpose."""


class SchemaError(BackendError, ValueError):
    """A key or a value does not have the layout of its table: damage on disk, or a caller's nonsense."""


class NoSpaceError(BackendError):
    """The file system (or the map) has no room for the growth asked for. Nothing was changed.

    What was reserved before still works: reads, and commits within the reservation.
    """


class TooManyPinsError(BackendError):
    """As many snapshots are pinned as there are reader slots, or the store is about to be replaced. Ask again later."""


class PinsOpenError(BackendError):
    """The environment cannot be swapped while pins look at it. Nothing was changed; try when they are
    closed."""


class LockedError(BackendError):
    """Another process, or another Backend of this process, holds the data directory (PY-36)."""


class DamagedError(BackendError):
    """A file is not what it must be, and guessing would invent or lose data.

    `path` is the file, `found` what was seen, `remedy` what an operator can do.
    """

    def __init__(self, path: Path, found: str, remedy: str) -> None:
        super().__init__(f"{path}: {found}; {remedy}")
        self.path = path
        self.found = found
        self.remedy = remedy
