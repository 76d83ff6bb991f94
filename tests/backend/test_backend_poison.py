"""After a failure in the open transaction: nothing of it, and nothing after it, may reach the disk.

Whoever wrote it is ahead of the disk in memory, consistent index and all; a later commit would tell the log not to
replay what is not there.
"""

from pathlib import Path

import pytest

from raftkv.backend import Backend, BackendError, Meta
from raftkv.backend.schema import pack_consistent_index


def _put(backend: Backend, key: bytes) -> None:
    backend.begin_write().put(key, b"v", db=backend.tables.current)


def _committed(directory: Path) -> list[bytes]:
    backend = Backend.open(directory, map_size_bytes=1 << 26, reserve_step_bytes=1 << 20)
    keys = [key for key, _ in backend.read().cursor(backend.tables.current)]
    backend.close()
    return keys


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    backend = Backend.open(tmp_path, map_size_bytes=1 << 26, reserve_step_bytes=1 << 20)
    _put(backend, b"committed")
    backend.commit()
    _put(backend, b"open")
    return backend


def test_poisoned_it_takes_no_more(backend: Backend, tmp_path: Path) -> None:
    told: list[Exception] = []
    backend.on_failed = told.append
    failure = RuntimeError("a mistake of ours")
    backend.poison(failure)
    assert told == [failure]
    for write in (backend.begin_write, backend.commit, backend.pin, backend.begin_checkpoint, backend.begin_copy):
        with pytest.raises(BackendError, match="restart this member"):
            write()
    backend.close()
    assert _committed(tmp_path) == [b"committed"]


def test_a_failed_commit_poisons_it_whoever_asked(backend: Backend, tmp_path: Path) -> None:
    """A long read commits to get its snapshot; the error it sees must not be the only consequence."""
    told: list[Exception] = []
    backend.on_failed = told.append
    backend.before_commit = lambda _: (_ for _ in ()).throw(MemoryError("no pages"))
    with pytest.raises(BackendError, match="commit failed"):
        backend.pin()
    assert len(told) == 1
    backend.before_commit = lambda txn: txn.put(
        Meta.CONSISTENT_INDEX, pack_consistent_index(9, 1), db=backend.tables.meta
    )
    with pytest.raises(BackendError):
        backend.commit()
    backend.close()
    assert _committed(tmp_path) == [b"committed"]
