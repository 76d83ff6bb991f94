"""What can go wrong with the log on disk, as types.

    WalError
    ├── WalMissingError      the directory holds no log
    ├── WalExistsError       asked to create a log where one is
    ├── WalCorruptError      bytes that had been made durable are not what was written
    ├── WalMetadataError     a sound log, but of another node or cluster
    ├── WalFullError         no block for a write (disk, quota or file size limit)
    └── WalIoError           any other refusal of the kernel

After WalFullError or WalIoError from `flush` the log takes no more writes in this process: when
fdatasync has failed the kernel may already have dropped the dirty pages and would report success
the next time, so a second try proves nothing. The node stops (contract RF-73); a restart reads
back what is really there.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class WalError(Exception):
    """Base of everything that `raftkv.wal` raises on purpose."""


class WalMissingError(WalError):
    """There is no log segment in the directory."""


class WalExistsError(WalError):
    """`Wal.create` found a log segment; creating would hide or mix two logs."""


class WalMetadataError(WalError):
    """The log's metadata (node and cluster id) is not what the caller expects."""


class WalCorruptError(WalError):
    """Durable bytes are damaged or missing; the log cannot be trusted and is not guessed at.

    `file` and `offset` (bytes from the start of the file) say where the first bad byte range begins.
    """

    def __init__(self, file: Path, offset: int, reason: str) -> None:
        super().__init__(
            f"write-ahead log damaged: {file} at offset {offset}: {reason}. "
            "Nothing was changed. Do not delete the file by hand: restore the data directory from a backup, "
            "or remove this member from the cluster and add it again with an empty data directory."
        )
        self.file = file
        self.offset = offset
        self.reason = reason


class WalIoError(WalError):
    """The kernel refused a read, write or sync."""


class WalFullError(WalIoError):
    """The kernel found no room: ENOSPC, EDQUOT or EFBIG."""


def is_no_space(error: OSError) -> bool:
    return error.errno in _NO_SPACE


def from_os_error(error: OSError, doing: str) -> WalIoError:
    """The typed error for `error`, which the kernel raised while `doing` something."""
    kind = WalFullError if is_no_space(error) else WalIoError
    return kind(f"write-ahead log: {doing}: {error}")
