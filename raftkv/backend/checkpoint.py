"""The checkpoint file: which snapshot of the data file is whole on disk, and how to get back to it.

Commits do not sync. A checkpoint makes one snapshot durable afterwards: its pages are synced, then its two
meta pages are written here. As long as the snapshot is pinned, LMDB leaves its pages alone, whatever it
commits later; so after a power cut these two pages, put back at the begin of the data file, are exactly that
snapshot, even if any subset of the pages written since has been lost.

    magic 8 "raftkvCP", format 4, flags 4, consistent index 8, term 8, transaction id 8, boot id 36 (ASCII),
    page bytes 4, then the two pages, then CRC-32C of everything before it 4                      (big endian)

Owns the format and the order of writes. Knows nothing of LMDB's environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import google_crc32c

from raftkv.backend.errors import REBUILD, DamagedError
from raftkv.backend.metapage import MetaPages, parse_metas

CHECKPOINT_NAME: Final = "checkpoint"
CHECKPOINT_TMP_NAME: Final = "checkpoint.tmp"
CHECKPOINT_OLD_NAME: Final = "checkpoint.old"

_HEADER: Final = Struct(">8sIIQQQ36sI")
_CRC: Final = Struct(">I")
_MAGIC: Final = b"raftkvCP"
_FORMAT: Final = 1
_CLEAN: Final = 1

UNKNOWN_BOOT: Final = "-" * 36
"""Stands for a boot that nobody can tell; equal to no boot, not even itself (see `same_boot`)."""


class CheckpointRecord(NamedTuple):
    """Content of a checkpoint file."""

    metas: MetaPages
    consistent_index: int
    term: int
    boot_id: str
    clean: bool
    """Nothing was committed after this snapshot: the data file needs nothing put back."""

    def same_boot(self, boot_id: str) -> bool:
        """Whether the page cache this was written in is surely still the same one."""
        return self.boot_id == boot_id != UNKNOWN_BOOT


def read_boot_id() -> str:
    """36 ASCII characters that change with every boot of the kernel; UNKNOWN_BOOT where there is no such
    thing."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return UNKNOWN_BOOT
    return boot_id if len(boot_id) == len(UNKNOWN_BOOT) else UNKNOWN_BOOT


def encode_checkpoint(record: CheckpointRecord) -> bytes:
    raw = record.metas.raw
    boot_id = record.boot_id.encode("ascii")
    assert len(boot_id) == len(UNKNOWN_BOOT)
    flags = _CLEAN if record.clean else 0
    txn_id = record.metas.newest.txn_id
    header = _HEADER.pack(_MAGIC, _FORMAT, flags, record.consistent_index, record.term, txn_id, boot_id, len(raw))
    body = header + raw
    return body + _CRC.pack(google_crc32c.value(body))


def read_checkpoint(path: Path) -> CheckpointRecord | None:
    """None if there is no such file. Raises DamagedError if it is not a whole checkpoint."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) < _HEADER.size + _CRC.size or raw[: len(_MAGIC)] != _MAGIC:
        raise DamagedError(path, "this is not a checkpoint file", REBUILD)
    if google_crc32c.value(raw[: -_CRC.size]) != _CRC.unpack(raw[-_CRC.size :])[0]:
        raise DamagedError(path, "the checksum does not match", REBUILD)
    _, version, flags, index, term, txn_id, boot_id, pages_bytes = _HEADER.unpack_from(raw)
    if version != _FORMAT:
        raise DamagedError(path, f"format {version} is not known here", "start the raftkv version that wrote it")
    metas = parse_metas(raw[_HEADER.size : -_CRC.size])
    if metas is None or len(metas.raw) != pages_bytes or metas.newest.txn_id != txn_id:
        raise DamagedError(path, "the saved pages are not LMDB meta pages", REBUILD)
    return CheckpointRecord(metas, index, term, boot_id.decode("ascii", "replace"), bool(flags & _CLEAN))


def write_checkpoint(directory: Path, record: CheckpointRecord) -> None:
    """Replaces the checkpoint file; blocks until that is durable. Raises OSError: then the old one stays
    valid.

    The replaced file becomes the next `checkpoint.tmp`, so that its blocks serve again: checkpoints go on
    when the disk is full, and with them the reuse of free pages.
    """
    tmp, path, old = (directory / name for name in (CHECKPOINT_TMP_NAME, CHECKPOINT_NAME, CHECKPOINT_OLD_NAME))
    data = encode_checkpoint(record)
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        os.ftruncate(fd, len(data))
        # Before the rename: a name that is durable ahead of its content would hide the older, whole
        # checkpoint.
        os.fsync(fd)
    finally:
        os.close(fd)
    old.unlink(missing_ok=True)
    try:
        os.link(path, old)
    except FileNotFoundError:
        os.rename(tmp, path)
    else:
        os.rename(tmp, path)
        os.rename(old, tmp)
    try:
        sync_directory(directory)
    except OSError:
        # On disk the old content may still be the checkpoint: it must not be written over.
        tmp.unlink(missing_ok=True)
        raise


def write_all(fd: int, data: bytes) -> None:
    """`os.write` until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable (renames, new files, removals)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
