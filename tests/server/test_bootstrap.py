"""From a data directory to the parts of a node: made, found again, or refused with what to do about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from raftkv.apply import Kind, encode_batch
from raftkv.backend import Backend, Defragmentation, NoSpaceError
from raftkv.config import Config, StartError, load
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry, HardState
from raftkv.server.bootstrap import Booted, DirectoryLock, boot
from raftkv.wal import Wal

DEFAULT_MEMBER, DEFAULT_CLUSTER = 0x8E9E05C52164694D, 0xCDF818194E3A8C32
"""What etcd computes for http://localhost:2380 and the token etcd-cluster."""


def config(directory: Path, *argv: str) -> Config:
    return load([f"--data-dir={directory}", "--unsafe-no-fsync", *argv], {})


def close(booted: Booted) -> None:
    booted.wal.close()
    booted.backend.close()
    booted.lock.release()


def make(directory: Path, *argv: str, entries: int = 0, applied: int = 0) -> None:
    """A member with so many puts in its log, and so many of them in its store."""
    booted = boot(config(directory, *argv))
    log = [_put(booted.member_id, index) for index in range(1, entries + 1)]
    booted.wal.stage(HardState(1, booted.member_id, entries), log)
    booted.wal.flush()
    booted.applier.apply(log[:applied])
    close(booted)


def _put(member_id: int, index: int) -> Entry:
    message = rpc_pb2.PutRequest(key=b"k", value=b"%d" % index).SerializeToString()
    return Entry(1, index, data=encode_batch(member_id, index, [(Kind.PUT, message)]))


def ids(booted: Booted) -> tuple[int, int]:
    return booted.member_id, booted.cluster_id


# --- made and found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "later",
    [
        ("--initial-cluster-token=other",),
        ("--name=other", "--initial-cluster=default=http://localhost:2380"),
        ("--initial-cluster=a=http://h:1,b=http://h:2",),
        ("--discovery-srv=example.test",),
        ("--discovery-endpoints=127.0.0.1:1", "--discovery-token=t"),
    ],
    ids=str,
)
def test_a_new_member_has_etcds_ids_and_keeps_them(tmp_path: Path, later: tuple[str, ...]) -> None:
    """CL-04, CL-05, F-70: what the flags say later does not matter."""
    booted = boot(config(tmp_path))
    assert ids(booted) == (DEFAULT_MEMBER, DEFAULT_CLUSTER)
    assert booted.conf_state.voters == (DEFAULT_MEMBER,)
    assert [(member.id, member.peer_urls) for member in booted.members] == [
        (DEFAULT_MEMBER, ("http://localhost:2380",))
    ]
    assert (booted.applier.index, booted.storage.last_index(), booted.store.current_revision) == (0, 0, 1)
    close(booted)

    again = boot(config(tmp_path, *later))
    assert ids(again) == (DEFAULT_MEMBER, DEFAULT_CLUSTER)
    assert again.conf_state == booted.conf_state
    assert list(again.members) == list(booted.members)
    close(again)


def test_log_and_store_are_found_as_they_were_left(tmp_path: Path) -> None:
    """RF-41, RF-50: what is in the log and not in the store is there to be applied."""
    make(tmp_path, entries=5, applied=3)
    booted = boot(config(tmp_path))
    assert (booted.applier.index, booted.storage.last_index()) == (3, 5)
    hard_state, _ = booted.storage.initial_state()
    assert hard_state == HardState(1, DEFAULT_MEMBER, 5)
    assert booted.store.current_revision == 4
    close(booted)


class Crash(BaseException):
    """The process dies here."""


def test_a_crash_between_store_and_log_makes_the_member_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-70: without a log there was no member."""
    with monkeypatch.context() as patch:
        patch.setattr(Wal, "create", lambda *_, **__: (_ for _ in ()).throw(OSError("the power went")))
        with pytest.raises(StartError):
            boot(config(tmp_path))
    left_over = tmp_path / "member" / "snap" / "left-over"
    left_over.touch()

    booted = boot(config(tmp_path))

    assert ids(booted) == (DEFAULT_MEMBER, DEFAULT_CLUSTER)
    assert not left_over.exists()
    close(booted)


def test_a_store_that_ever_had_a_log_is_not_made_again(tmp_path: Path) -> None:
    """After `kill -9`, and with --wal-dir changed, everything that was acknowledged may be in the other log alone."""
    make(tmp_path)
    shutil.rmtree(config(tmp_path).wal_dir)
    with pytest.raises(StartError, match="no log in"):
        boot(config(tmp_path))
    assert (tmp_path / "member" / "snap" / "data.mdb").exists()


def test_the_log_may_be_elsewhere(tmp_path: Path) -> None:
    """F-75."""
    wal_dir = tmp_path / "fast disk"
    make(tmp_path / "data", f"--wal-dir={wal_dir}", entries=1, applied=1)
    assert list(wal_dir.glob("*.wal"))
    assert not (tmp_path / "data" / "member" / "wal").exists()


# --- refused ----------------------------------------------------------------------------------------------------------


def refusal(settings: Config) -> str:
    with pytest.raises(StartError) as refused:
        boot(settings)
    return str(refused.value)


@pytest.mark.parametrize("entries", [0, 2])
def test_a_store_without_its_log_is_not_given_a_new_one(tmp_path: Path, entries: int) -> None:
    """Even if nothing was applied yet, for that may have been in the log alone. The message names both places."""
    make(tmp_path, entries=entries, applied=entries)
    settings, store_dir = config(tmp_path), tmp_path / "member" / "snap"
    shutil.rmtree(settings.wal_dir)

    text = refusal(settings)

    assert str(settings.wal_dir) in text
    assert str(store_dir) in text
    assert not settings.has_data()
    backend = Backend.open(store_dir)
    assert backend.recovered.consistent_index == entries
    backend.close()


def test_a_log_of_another_format_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    settings = config(tmp_path)
    shutil.rmtree(settings.wal_dir)
    Wal.create(settings.wal_dir, b"somebody else's", unsafe_no_fsync=True).close()
    text = refusal(settings)
    assert str(settings.wal_dir) in text
    assert "not written by this raftkv" in text


def test_a_log_of_another_member_is_refused(tmp_path: Path) -> None:
    """Its entries would be applied to a store that never saw their past."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    make(mine, entries=1, applied=1)
    make(other, "--initial-cluster-token=other", entries=3, applied=3)
    text = refusal(config(mine, f"--wal-dir={config(other).wal_dir}"))
    assert str(config(other).wal_dir) in text
    assert str(mine / "member" / "snap") in text


def test_a_log_that_ends_before_the_store_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "short", entries=1, applied=1)
    make(tmp_path / "long", entries=4, applied=4)
    text = refusal(config(tmp_path / "long", f"--wal-dir={config(tmp_path / 'short').wal_dir}"))
    assert "applied entry 4" in text
    assert "ends at entry 1" in text


def test_a_directory_in_use_names_the_process_that_uses_it(tmp_path: Path) -> None:
    """PY-36; free again as soon as it is let go."""
    make(tmp_path)
    settings = config(tmp_path)
    lock = DirectoryLock(tmp_path / "member")
    text = refusal(settings)
    assert str(tmp_path) in text
    assert f"process {os.getpid()}" in text
    lock.release()
    close(boot(settings))


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    assert "cannot be used" in refusal(config(tmp_path / "data"))


# --- defragmentation at start -----------------------------------------------------------------------------------------

FREED_BYTES = 4 << 20


def _store_with_free_pages(directory: Path) -> int:
    """A member whose store was larger once; the size of its file in use and free."""
    make(directory)
    backend = Backend.open(directory / "member" / "snap")
    key, junk = b"junk", bytes(FREED_BYTES)
    backend.begin_write().put(key, junk, db=backend.tables.meta)
    backend.commit()
    backend.begin_write().delete(key, db=backend.tables.meta)
    backend.commit()
    size_bytes = backend.size_bytes
    backend.close()
    return size_bytes


def test_much_to_free_is_freed_at_start(tmp_path: Path) -> None:
    """MT-32."""
    size_bytes = _store_with_free_pages(tmp_path)
    booted = boot(config(tmp_path, "--bootstrap-defrag-threshold-megabytes=3"))
    assert booted.backend.size_bytes < size_bytes - (3 << 20)
    assert ids(booted) == (DEFAULT_MEMBER, DEFAULT_CLUSTER)
    close(booted)


@pytest.mark.parametrize("megabytes", [0, 5], ids=["never", "too little"])
def test_little_to_free_is_left(tmp_path: Path, megabytes: int) -> None:
    """MT-32."""
    size_bytes = _store_with_free_pages(tmp_path)
    booted = boot(config(tmp_path, f"--bootstrap-defrag-threshold-megabytes={megabytes}"))
    assert booted.backend.size_bytes == size_bytes
    close(booted)


def test_no_room_for_the_copy_does_not_keep_a_member_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = _store_with_free_pages(tmp_path)

    def full_disk(_job: object) -> None:
        raise NoSpaceError("no room for a compacted copy")

    monkeypatch.setattr(Defragmentation, "run", full_disk)
    booted = boot(config(tmp_path, "--bootstrap-defrag-threshold-megabytes=3"))
    assert booted.backend.size_bytes == size_bytes
    booted.backend.begin_write().put(b"goes on", b"1", db=booted.backend.tables.meta)
    booted.backend.commit()
    close(booted)
