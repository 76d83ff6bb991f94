"""The directory of the data file: its lock, its file names, and which of them counts after a crash.

    data.mdb        the store; as long as the map (sparse), its content ends at the last used page
    checkpoint      the last durable snapshot of data.mdb (see checkpoint.py); always beside data.mdb
    checkpoint.tmp  the next checkpoint being written, or the blocks for it
    checkpoint.old  a second name of the checkpoint while it is replaced
    data.mdb.next   a whole, synced store about to replace data.mdb; whoever opens finishes the swap
    data.mdb.tmp    a copy being written; worthless after a crash
    new.tmp/        a store being made for the first time; worthless after a crash
    incoming.tmp/   a peer's store being received; worthless after a crash
    received-*.mdb  a peer's store, whole; it counts if the log says so (see received.py)
    lock.mdb        LMDB's reader table; worthless when no process has it open
    backend.lock    held by flock for as long as a Backend is open

Owns the order of renames. Knows nothing of LMDB's environment, tables or transactions.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from raftkv.backend.checkpoint import (
    CHECKPOINT_NAME,
    CHECKPOINT_OLD_NAME,
    CheckpointRecord,
    read_boot_id,
    read_checkpoint,
    sync_directory,
    write_all,
    write_checkpoint,
)
from raftkv.backend.errors import REBUILD, DamagedError, LockedError
from raftkv.backend.metapage import read_metas

DATA_NAME: Final = "data.mdb"
NEXT_NAME: Final = "data.mdb.next"
TMP_NAME: Final = "data.mdb.tmp"
NEW_DIR_NAME: Final = "new.tmp"
INCOMING_DIR_NAME: Final = "incoming.tmp"
READER_TABLE_NAME: Final = "lock.mdb"
LOCK_NAME: Final = "backend.lock"


class DirectoryLock:
    """An exclusive flock on a directory (PY-36). The kernel drops it when the process dies, however it
    dies."""

    __slots__ = ("_fd",)

    def __init__(self, directory: Path) -> None:
        """Raises LockedError if it is taken."""
        self._fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise LockedError(f"{directory}: another raftkv has this store open; stop it first") from None

    def release(self) -> None:
        os.close(self._fd)


def make_directory(directory: Path) -> None:
    """Makes it, with its parents, durably; nothing if it is there."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in made:
        sync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Half-made files of an earlier life. Not received stores: those are whole, and the log's to decide."""
    for name in (TMP_NAME, CHECKPOINT_OLD_NAME):
        (directory / name).unlink(missing_ok=True)
    for name in (NEW_DIR_NAME, INCOMING_DIR_NAME):
        shutil.rmtree(directory / name, ignore_errors=True)


def stage_next(directory: Path, whole: Path) -> None:
    """Decides that `whole` (on the same file system, content synced) becomes the store.

    From here on a crash leads to the new store; before, to the old one.
    """
    os.rename(whole, directory / NEXT_NAME)
    sync_directory(directory)


def finish_swap(directory: Path, boot_id: str, consistent: tuple[int, int]) -> bool:
    """Puts a staged store in place; may be repeated after a crash at any step. False if none is staged.

    No environment may be open on the directory. `consistent` is (consistent index, term) of the new store if
    the caller knows it; (0, 0) is a safe understatement, corrected by the first checkpoint after opening.
    """
    staged = directory / NEXT_NAME
    try:
        fd = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        metas = read_metas(fd, staged)
    finally:
        os.close(fd)
    # The checkpoint first: were the new file in place beside the old checkpoint, a power cut would put the
    # old file's meta pages into the new file. The other way round the staged name still exists, and this runs
    # again.
    write_checkpoint(directory, CheckpointRecord(metas, *consistent, boot_id, clean=True))
    (directory / READER_TABLE_NAME).unlink(missing_ok=True)
    os.rename(staged, directory / DATA_NAME)
    sync_directory(directory)
    return True


def load_checkpoint(directory: Path) -> CheckpointRecord | None:
    """The checkpoint beside the data file; None if this directory has never held a store.

    Raises DamagedError if one exists without the other, or if the data file cannot hold the snapshot.
    """
    data, path = directory / DATA_NAME, directory / CHECKPOINT_NAME
    record = read_checkpoint(path)
    if record is None:
        if data.exists():
            raise DamagedError(path, f"missing, but {DATA_NAME} is there", REBUILD)
        return None
    try:
        size_bytes = data.stat().st_size
    except FileNotFoundError:
        raise DamagedError(data, f"missing, but {CHECKPOINT_NAME} is there", REBUILD) from None
    if size_bytes < record.metas.size_bytes:
        found = f"cut to {size_bytes} bytes; its last checkpoint needs {record.metas.size_bytes}"
        raise DamagedError(data, found, REBUILD)
    return record


def needs_rollback(record: CheckpointRecord, boot_id: str) -> bool:
    """Whether pages written after the checkpoint may be missing: a power cut, or nobody can tell."""
    return not record.clean and not record.same_boot(boot_id)


def put_back(directory: Path, record: CheckpointRecord) -> None:
    """Turns the data file back into the snapshot of its checkpoint. Idempotent. No environment is open."""
    fd = os.open(directory / DATA_NAME, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        write_all(fd, record.metas.raw)
        os.fsync(fd)
    finally:
        os.close(fd)


def check_data_file(directory: Path, record: CheckpointRecord) -> None:
    """Raises DamagedError unless data.mdb is this checkpoint's file, at its snapshot or a later one."""
    path = directory / DATA_NAME
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        metas = read_metas(fd, path)
        size_bytes = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if size_bytes < metas.size_bytes:
        raise DamagedError(path, f"cut to {size_bytes} bytes; {metas.size_bytes} are in use", REBUILD)
    saved = record.metas.newest.txn_id
    if metas.newest.txn_id < saved or (record.clean and metas.newest.txn_id != saved):
        found = f"holds snapshot {metas.newest.txn_id}, but its checkpoint is of {saved}"
        raise DamagedError(path, found, REBUILD)


def install(directory: Path, copy: Path) -> None:
    """Makes a received copy (the bytes of a `HotCopy`, on the same file system) the store of a directory.

    Crash-safe: afterwards the directory holds the old store or the new one. `copy` is moved.
    Raises DamagedError if it is not a whole data file, LockedError, OSError.
    """
    make_directory(directory)
    lock = DirectoryLock(directory)
    try:
        fd = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
        try:
            metas = read_metas(fd, copy)
            size_bytes = os.fstat(fd).st_size
            if size_bytes < metas.size_bytes:
                raise DamagedError(copy, f"{size_bytes} bytes of {metas.size_bytes}", "send the snapshot again")
            os.fsync(fd)
        finally:
            os.close(fd)
        stage_next(directory, copy)
        finish_swap(directory, read_boot_id(), (0, 0))
    finally:
        lock.release()
