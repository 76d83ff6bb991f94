"""A new cluster from a snapshot: what stays, what is new, what is refused, and what failures and crashes leave."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backup_support import LEASE, NAMES, booted, config, dump_backend, dump_file, live, put, requests

from raftkv.backend import DamagedError, Meta, NoSpaceError
from raftkv.backend.schema import unpack_consistent_index
from raftkv.config import ConfigError, StartError
from raftkv.mvcc import CompactedError
from raftkv.mvcc.check import check
from raftkv.raft import ConfState
from raftkv.server.backup import save_offline, snapshot_status
from raftkv.server.bootstrap import boot
from raftkv.server.joining import found_cluster
from raftkv.server.restore import Restored, restore
from raftkv.wal import LogPosition
from raftkv.wire import decode_conf_state

REVISION = 1 + 100 + 3
"""Of the snapshot."""
NEW_META = {
    Meta.CONF_STATE,
    Meta.CLUSTER_ID,
    Meta.MEMBER_ID,
    Meta.CONSISTENT_INDEX,
    Meta.STATE_HASH,
}
"""What a restore may change beside the members."""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # preallocated segments are large


@pytest.fixture
def snapshot(directory: Path) -> Path:
    """Of a member of a cluster of three that has lived; its members have data ids, and one was removed."""
    path = directory / "backup.db"
    settings = config(directory / "source", "m2", NAMES)
    live(settings, requests(100))
    with booted(settings) as member:
        txn = member.backend.begin_write()
        txn.put(bytes(7) + b"\x05", b"", db=member.backend.tables.members_removed)
        member.members.publish(txn, member.member_id, "m2", ["http://127.0.0.1:1"], 77)
        member.auth.user_add(txn, "root", b"a hash", False)
        member.auth.role_add(txn, "root")
        member.auth.user_grant_role(txn, "root", "root")
        member.auth.enable(txn)
        member.backend.commit()
    save_offline(directory / "source", None, path)
    return path


def restore_trio(directory: Path, snapshot: Path, bump: int = 0) -> list[Restored]:
    return [restore(config(directory / name, name, NAMES, "new"), snapshot, bump=bump) for name in NAMES]


# --- what stays, and what is new --------------------------------------------------------------------------------------


def test_three_members_that_agree(directory: Path, snapshot: Path) -> None:
    """CT-22: ids as a cluster founded from the same settings has them (CL-04, CL-05), all voters, a log that begins
    anew; one state, as far as members compare theirs."""
    restored = restore_trio(directory, snapshot)
    hashes = set()
    for name, made in zip(NAMES, restored, strict=True):
        settings = config(directory / name, name, NAMES, "new")
        founding = found_cluster(settings)
        assert made == Restored(founding.member_id, founding.cluster_id, founding.members, REVISION, 5, False)
        with booted(settings) as member:
            assert (member.member_id, member.cluster_id) == (founding.member_id, founding.cluster_id)
            assert member.data_id != 0
            assert list(member.members) == list(founding.members)
            assert member.members.removed == []
            assert member.conf_state == ConfState(voters=tuple(each.id for each in founding.members))
            assert (member.storage.first_index(), member.storage.last_index()) == (2, 1)
            assert (member.applier.index, member.applier.term) == (1, 1)
            hashes.add((member.applier.state_hash, member.applier.hashes.at(1)))
            assert check(member.backend.read(), member.store) == []
    assert len(hashes) == 1
    assert len({made.member_id for made in restored}) == 3


def test_everything_else_stays(directory: Path, snapshot: Path) -> None:
    """CT-22: keys with their revisions, leases, alarms, users; byte for byte."""
    settings = config(directory / "m1")
    restore(settings, snapshot)
    before = dump_file(snapshot)
    with booted(settings) as member:
        after = dump_backend(member.backend)
        assert LEASE in member.lessor
        assert list(member.lessor.keys(member.backend.read(), LEASE)) == [b"leased"]
        assert member.alarms.active() == [(9, 1)]
        assert (member.auth.enabled, member.auth.has_root_role("root")) == (True, True)
        assert member.store.live_keys == 41
    for table in before.keys() - {"members", "members_removed", "meta"}:
        assert after[table] == before[table], table
    old, new = dict(before["meta"]), dict(after["meta"])
    assert {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} == NEW_META
    assert unpack_consistent_index(new[Meta.CONSISTENT_INDEX]) == (1, 1)
    assert len(decode_conf_state(new[Meta.CONF_STATE]).voters) == 1


def test_a_lone_member_fills_those_who_join_by_a_copy(directory: Path, snapshot: Path) -> None:
    """Entry 1 is not in its log: a member that joins has nothing, and must get the store, not the log alone."""
    restore(config(directory / "m1"), snapshot)
    with booted(config(directory / "m1")) as member:
        assert member.storage.first_index() == 2


def test_members_of_different_snapshots_notice(directory: Path, snapshot: Path) -> None:
    """RF-73: somebody mixed up two files. The first append tells."""
    settings = config(directory / "source", "m2", NAMES)
    life = [put(1)]
    live(settings, life)
    save_offline(directory / "source", None, directory / "later.db")
    restore(config(directory / "m1", "m1", NAMES), snapshot)
    restore(config(directory / "m2", "m2", NAMES), directory / "later.db")
    restore(config(directory / "m3", "m3", NAMES), snapshot, bump=7)
    hashes = set()
    for name in NAMES:
        with booted(config(directory / name, name, NAMES)) as member:
            hashes.add(member.applier.hashes.at(1))
    assert len(hashes) == 3


def test_bump_and_mark(directory: Path, snapshot: Path) -> None:
    """CT-23: as etcdutl 3.6: the revision is the bumped one, and so is the compact revision; keys keep theirs."""
    settings = config(directory / "m1")
    made = restore(settings, snapshot, bump=1000)
    bumped = REVISION + 1000
    assert (made.revision, made.compacted_revision) == (bumped, bumped)
    with booted(settings) as member:
        store, txn = member.store, member.backend.read()
        assert (store.current_revision, store.compacted_revision) == (bumped, bumped)
        for revision in (6, REVISION, bumped - 1):
            with pytest.raises(CompactedError):
                store.check_readable(revision)
        store.check_readable(bumped)
        found = store.get(txn, b"k019")
        assert found is not None
        assert (found.value, found.mod) == (b"v99", 101)
        while not store.compaction.step(member.backend.begin_write()):
            pass
        assert check(member.backend.read(), store) == []
        assert store.live_keys == 41
    with booted(settings) as member:
        assert member.store.current_revision == bumped


def test_no_revision_beyond_the_largest(directory: Path, snapshot: Path) -> None:
    with pytest.raises(StartError, match="beyond the largest there is"):
        restore(config(directory / "m1"), snapshot, bump=(1 << 63) - REVISION)
    assert not (directory / "m1").exists()
    made = restore(config(directory / "m1"), snapshot, bump=(1 << 63) - 1 - REVISION)
    assert made.revision == (1 << 63) - 1


def test_the_same_cluster_is_told(directory: Path, snapshot: Path) -> None:
    assert restore(config(directory / "m1", "m1", NAMES, "old"), snapshot).same_cluster


def test_a_restored_member_can_be_backed_up_and_restored(directory: Path, snapshot: Path) -> None:
    restore(config(directory / "m1"), snapshot)
    save_offline(directory / "m1", None, directory / "again.db")
    assert snapshot_status(directory / "again.db").revision == REVISION
    restore(config(directory / "m2"), directory / "again.db")
    with booted(config(directory / "m2")) as member:
        assert member.store.live_keys == 41


def test_a_log_elsewhere(directory: Path, snapshot: Path) -> None:
    settings = config(directory / "m1", wal_dir=directory / "logs" / "m1")
    restore(settings, snapshot)
    assert not (directory / "m1" / "member" / "wal").exists()
    with booted(settings) as member:
        assert member.store.current_revision == REVISION


def test_an_empty_directory_will_do(directory: Path, snapshot: Path) -> None:
    (directory / "m1").mkdir()
    restore(config(directory / "m1"), snapshot)
    with booted(config(directory / "m1")) as member:
        assert member.store.current_revision == REVISION


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_directory_with_data_is_left_alone(directory: Path, snapshot: Path) -> None:
    """CT-22; and a second restore into the same place."""
    settings = config(directory / "m1")
    restore(settings, snapshot)
    for _ in range(2):
        with pytest.raises(StartError, match="is not an empty directory, and a restore never writes over data"):
            restore(settings, snapshot)
        with booted(settings) as member:
            assert member.store.current_revision == REVISION
    (directory / "m2").mkdir()
    (directory / "m2" / "notes.txt").write_text("mine")
    with pytest.raises(StartError, match="is not an empty directory"):
        restore(config(directory / "m2"), snapshot)
    assert [path.name for path in (directory / "m2").iterdir()] == ["notes.txt"]


def test_an_existing_log_directory_is_left_alone(directory: Path, snapshot: Path) -> None:
    """CT-22."""
    (directory / "wal").mkdir()
    with pytest.raises(StartError, match="wal exists"):
        restore(config(directory / "m1", wal_dir=directory / "wal"), snapshot)
    assert not (directory / "m1").exists()


def test_a_name_that_is_not_in_the_cluster(directory: Path, snapshot: Path) -> None:
    """CT-22, F-65."""
    settings = config(directory / "m1", initial_cluster="other=http://127.0.0.1:8000")
    with pytest.raises(ConfigError, match="names other, but not this member, 'm1'"):
        restore(settings, snapshot)
    settings = config(directory / "m1", initial_cluster="m1=http://127.0.0.1:9999")
    with pytest.raises(ConfigError, match="Make the two equal"):
        restore(settings, snapshot)
    assert not (directory / "m1").exists()


def test_without_a_checksum(directory: Path, snapshot: Path) -> None:
    """CT-22: a plain copy needs --skip-hash-check; the data file of a stopped member is one."""
    plain = directory / "source" / "member" / "snap" / "data.mdb"
    with pytest.raises(StartError, match=r"has no checksum at its end.*add --skip-hash-check"):
        restore(config(directory / "m1"), plain)
    assert not (directory / "m1").exists()
    restore(config(directory / "m1"), plain, skip_hash_check=True)
    with booted(config(directory / "m1")) as member:
        assert (member.store.current_revision, member.store.live_keys) == (REVISION, 41)


def _flip(content: bytearray) -> None:
    content[len(content) // 2] ^= 1


def _flip_checksum(content: bytearray) -> None:
    content[-1] ^= 1


def _cut(content: bytearray) -> None:
    del content[-4096:]


def _cut_in_the_middle(content: bytearray) -> None:
    del content[8192:12288]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_flip, "damaged: the SHA-256 of its content is"),
        (_flip_checksum, "damaged: the SHA-256 of its content is"),
        (_cut, "cut short"),
        (_cut_in_the_middle, "cut short"),
        (bytearray.clear, "the file is empty"),
    ],
)
def test_a_damaged_file_leaves_nothing(
    damage: Callable[[bytearray], None], text: str, directory: Path, snapshot: Path
) -> None:
    """CT-22: a wrong checksum. What was there before stays there."""
    content = bytearray(snapshot.read_bytes())
    damage(content)
    (directory / "bad.db").write_bytes(content)
    (directory / "m2").mkdir()
    for name in ("m1", "m2"):
        with pytest.raises(DamagedError, match=text):
            restore(config(directory / name), directory / "bad.db")
    assert not (directory / "m1").exists()
    assert list((directory / "m2").iterdir()) == []


def test_the_check_can_be_skipped(directory: Path, snapshot: Path) -> None:
    content = bytearray(snapshot.read_bytes())
    _flip_checksum(content)
    (directory / "bad.db").write_bytes(content)
    restore(config(directory / "m1"), directory / "bad.db", skip_hash_check=True)
    with booted(config(directory / "m1")) as member:
        assert member.store.current_revision == REVISION


def test_what_cannot_be_read_is_not_restored_unchecked(directory: Path, snapshot: Path) -> None:
    content = bytearray(snapshot.read_bytes())
    content[8192:-32] = b"\xa5" * (len(content) - 8192 - 32)
    (directory / "bad.db").write_bytes(content)
    with pytest.raises(DamagedError, match="damaged: reading it"):
        restore(config(directory / "m1"), directory / "bad.db", skip_hash_check=True)
    assert not (directory / "m1").exists()


# --- failures and crashes ---------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing(directory: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    wal_dir = directory / "wal"
    with monkeypatch.context() as full:
        full.setattr("raftkv.backend.received.os.posix_fallocate", no_space)
        with pytest.raises(NoSpaceError, match="no room for a copy"):
            restore(config(directory / "m1", wal_dir=wal_dir), snapshot)
    assert not (directory / "m1").exists()
    assert not wal_dir.exists()
    restore(config(directory / "m1", wal_dir=wal_dir), snapshot)


def test_a_log_that_cannot_be_made_leaves_nothing(
    directory: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    wal_dir = directory / "wal"
    with monkeypatch.context() as patch:
        patch.setattr("raftkv.wal.wal.Wal._begin_segment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore(config(directory / "m1", wal_dir=wal_dir), snapshot)
    assert not (directory / "m1").exists()
    assert not wal_dir.exists()


_DIES_AT = """
import importlib, os, sys
from raftkv.cli.main import run

module, _, path = sys.argv[1].partition(":")
owner = importlib.import_module(module)
*way, name = path.split(".")
for step in way:
    owner = getattr(owner, step)
getattr(owner, name)  # it must exist
setattr(owner, name, lambda *_args, **_kwargs: os._exit(99))
sys.exit(run(["snapshot", "restore", *sys.argv[2:]]))
"""


@pytest.mark.crash
@pytest.mark.parametrize(
    "where",
    [
        "raftkv.server.restore:_copy_store",
        "raftkv.server.restore:ReceivedStore.write",
        "raftkv.server.restore:ReceivedStore.finish",
        "raftkv.server.restore:install",
        "raftkv.server.restore:_own_store",
        "raftkv.server.restore:_replace_members",
        "raftkv.server.restore:_Directory.make_wal_dir",
        "raftkv.server.restore:Wal.create",
        "raftkv.wal.wal:Wal._begin_segment",
    ],
)
def test_death_on_the_way_leaves_nothing_that_starts(where: str, directory: Path, snapshot: Path) -> None:
    """Neither as the restored member, nor as a new and empty one; and the next restore does not build upon it."""
    settings = config(directory / "m1")
    argv = [str(snapshot), f"--data-dir={settings.data_dir}", "--name=m1"]
    argv.append("--initial-advertise-peer-urls=http://127.0.0.1:8000")
    done = subprocess.run(
        [sys.executable, "-c", _DIES_AT, where, *argv], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 99, done.stderr
    for _ in range(2):
        with pytest.raises(
            StartError, match=r"there is a store in .* but no log in .*restore this member from a backup"
        ):
            boot(settings)
    with pytest.raises(StartError, match=r"is not an empty directory.*interrupted restore"):
        restore(settings, snapshot)
    shutil.rmtree(settings.data_dir)
    assert restore(settings, snapshot).revision == REVISION


@pytest.mark.crash
def test_death_behind_the_last_step(directory: Path, snapshot: Path) -> None:
    """From the log on there is a member."""
    settings = config(directory / "m1")
    argv = [str(snapshot), f"--data-dir={settings.data_dir}", "--name=m1"]
    argv.append("--initial-advertise-peer-urls=http://127.0.0.1:8000")
    where = "raftkv.server.restore:_Directory.release"
    done = subprocess.run([sys.executable, "-c", _DIES_AT, where, *argv], check=False, timeout=60)
    assert done.returncode == 99
    with booted(settings) as member:
        assert member.store.current_revision == REVISION
        assert LogPosition(member.applier.index, member.applier.term) == LogPosition(1, 1)
