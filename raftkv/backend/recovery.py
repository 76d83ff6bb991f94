"""From whatever an earlier process left in a directory to a data file that LMDB may open.

Owns the order: remove what is half made, finish a swap, go back after a power cut, check. Opens no environment, except
to make an empty store where there is none.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from raftkv.backend import datadir, environment
from raftkv.backend.checkpoint import CheckpointRecord

_log = logging.getLogger(__name__)


class Recovered(NamedTuple):
    """What opening found and did."""

    created: bool
    """There was no store; this one is new and empty."""
    clean: bool
    """The last owner closed it properly (or it was just created or swapped in)."""
    rolled_back: bool
    """Commits after the last checkpoint were given up: a power cut may have torn them. Replay the log."""
    swapped: bool
    """A staged store (defragmentation, snapshot install) was put in place."""
    consistent_index: int
    term: int

    def report(self, directory: Path) -> None:
        """To the log."""
        fields = {"directory": str(directory), **self._asdict()}
        _log.log(logging.WARNING if self.rolled_back else logging.INFO, "store opened", extra={"kv": fields})


def recover(directory: Path, boot_id: str) -> tuple[CheckpointRecord, Recovered]:
    """Makes data.mdb a file that LMDB may open; its checkpoint. The caller holds the lock on the directory.

    The consistent index is that of the checkpoint: the data file may be further. Raises DamagedError, OSError.
    """
    datadir.remove_leftovers(directory)
    swapped = datadir.finish_swap(directory, boot_id, (0, 0))
    record = datadir.load_checkpoint(directory)
    created = record is None
    if record is None:
        environment.make_store(directory)
        datadir.finish_swap(directory, boot_id, (0, 0))
        record = datadir.load_checkpoint(directory)
        assert record is not None
    rolled_back = datadir.needs_rollback(record, boot_id)
    if rolled_back:
        datadir.put_back(directory, record)
    datadir.check_data_file(directory, record)
    return record, Recovered(created, record.clean, rolled_back, swapped, record.consistent_index, record.term)
