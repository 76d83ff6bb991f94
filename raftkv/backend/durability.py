"""Which snapshot of an open data file is durable, and how the next one becomes so.

Owns the order: first the newer snapshot is durable, then the pin of the older one goes. A checkpoint is begun and ended
on the loop, by Backend, and synced in a thread, where it touches nothing that the loop changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from raftkv.backend.checkpoint import UNKNOWN_BOOT, CheckpointRecord, write_checkpoint
from raftkv.backend.metapage import MetaPages
from raftkv.backend.write_back import write_back

if TYPE_CHECKING:
    from raftkv.backend.handles import ReadTxn


class Checkpoint:
    """One snapshot on its way to being durable: `begin_checkpoint`, `sync`, `end_checkpoint`."""

    __slots__ = ("_directory", "_fd", "_previous", "durable", "record", "trusted", "txn")

    def __init__(
        self, directory: Path, fd: int, txn: ReadTxn, record: CheckpointRecord, previous: CheckpointRecord
    ) -> None:
        self.txn = txn
        self.record = record
        self.durable = False
        """Set by `sync`: a power cut from here on leads to this snapshot or a later one."""
        self.trusted = True
        """False once the kernel failed to write pages back: it may since call them clean although they are
        lost, so no later sync of this data file means anything."""
        self._directory = directory
        self._fd = fd
        self._previous = previous

    @property
    def consistent_index(self) -> int:
        """Of this snapshot. When durable, the log up to it is no longer needed for recovery."""
        return self.record.consistent_index

    def sync(self) -> None:
        """In a thread. Blocks until the snapshot is durable. Raises OSError; `end_checkpoint` it anyway."""
        try:
            write_back(self._fd, self.record.metas.size_bytes)
            # On Linux this writes the pages dirtied through the map as well; unlike LMDB's own sync it
            # reports errors as OSError, and needs no lock of the environment.
            os.fdatasync(self._fd)
        except OSError:
            self.trusted = False
            # Make the next start go back to the last durable checkpoint even without a reboot: replaying the
            # log then writes the lost pages anew.
            write_checkpoint(self._directory, self._previous._replace(boot_id=UNKNOWN_BOOT, clean=False))
            raise
        write_checkpoint(self._directory, self.record)
        self.durable = True


class Durability:
    """The durable snapshot of one open data file, and the checkpoint in flight. Ends with the environment.

    `record`: of the last durable checkpoint.
    `distrusted`: the kernel has failed to write pages of this file back; no checkpoint of it means anything any more.
    """

    __slots__ = ("_boot_id", "_directory", "_fd", "_pin", "distrusted", "in_flight", "record")

    def __init__(self, directory: Path, fd: int, boot_id: str, record: CheckpointRecord, pin: ReadTxn) -> None:
        """`pin`: the newest snapshot, from before the first commit to this file."""
        self._directory = directory
        self._fd = fd
        self._boot_id = boot_id
        self._pin = pin
        """Keeps the pages of the durable snapshot. Invariant: from the first commit to the last, one is open."""
        self.record = record
        self.in_flight: Checkpoint | None = None
        self.distrusted = False

    def begin(self, txn: ReadTxn, metas: MetaPages, consistent: tuple[int, int], *, clean: bool) -> Checkpoint:
        """Of the snapshot `txn`, whose meta pages and (index, term) these are. One at a time; `end` it."""
        assert self.in_flight is None, "a checkpoint is in flight"
        assert txn.id() == metas.newest.txn_id
        record = CheckpointRecord(metas, *consistent, self._boot_id, clean)
        self.in_flight = Checkpoint(self._directory, self._fd, txn, record, self.record)
        return self.in_flight

    def end(self, checkpoint: Checkpoint) -> None:
        """After `sync` has returned or raised. Only when the newer one is durable does the older pin go."""
        assert checkpoint is self.in_flight
        self.in_flight = None
        if checkpoint.durable:
            self._pin.abort()
            self._pin = checkpoint.txn
            self.record = checkpoint.record
        else:
            checkpoint.txn.abort()
            self.distrusted = self.distrusted or not checkpoint.trusted
