"""A backup of a cluster under load, and new clusters of real members made from it (CT-21 to CT-23)."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.cluster import Cluster, Member
from helpers.cluster_load import ClusterLoad
from helpers.load import History, value_of
from helpers.member_client import COMPACTED, PUT, Told, WatchStream, refused
from helpers.processes import clean_environment
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.beyond_etcd("raftkv's own tool for its own file format (CT-20)"),
]

NewCluster = Callable[..., Cluster]

_BUMP = 1_000_000


def _snapshot_command(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftkv", "snapshot", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=clean_environment())


def _save(member: Member, path: Path) -> int:
    """The revision of the snapshot."""
    done = _snapshot_command("save", path, f"--endpoints={member.endpoint}")
    assert done.returncode == 0, done.stderr
    status = _snapshot_command("status", path, "-o", "json")
    assert status.returncode == 0, status.stderr
    return int(json.loads(status.stdout)["revision"])


def _restore(member: Member, path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return _snapshot_command(
        "restore",
        path,
        f"--name={member.name}",
        f"--data-dir={member.data_dir}",
        f"--initial-cluster={member.initial_cluster}",
        f"--initial-advertise-peer-urls={member.peer_url}",
        "--initial-cluster-token=restored",
        *flags,
    )


def _restore_all(cluster: Cluster, path: Path, *flags: str) -> Cluster:
    """Serving."""
    for member in cluster.members:
        done = _restore(member, path, *flags)
        assert done.returncode == 0, done.stderr
    return cluster.start()


@dataclass
class _Backup:
    path: Path
    revision: int
    acknowledged: Mapping[bytes, int]
    """What is surely in it: key -> revision."""
    unknown: set[bytes]
    short_lease: int
    long_lease: int


def _back_up_under_load(cluster: Cluster, path: Path) -> _Backup:
    """Of a follower, while all members are written to."""
    client = cluster.leader().client
    short, long = client.grant(5), client.grant(3600)
    client.put(b"dies", lease=short)
    client.put(b"stays", lease=long)
    history = History()
    with ClusterLoad(cluster.members, "backup", history=history) as load:
        load.wait_more(200)
        follower = cluster.followers()[0]
        floor = follower.client.revision()  # a linearizable read: it has all that was acknowledged before
        revision = _save(follower, path)
        load.wait_more(50)
    assert revision >= floor > 200
    acknowledged = {key: rev for key, rev in history.acknowledged.items() if rev <= revision}
    assert len(acknowledged) >= 200
    return _Backup(path, revision, acknowledged, history.unknown, short, long)


def _check_keys(cluster: Cluster, backup: _Backup) -> None:
    """Each member has what was acknowledged up to the snapshot's revision, and nothing that came later."""
    for member in cluster.members:
        stored = member.client.range(b"load/", b"load0", serializable=True).kvs
        found = {kv.key: kv.mod_revision for kv in stored if kv.key not in backup.unknown}
        assert found == {key: rev for key, rev in backup.acknowledged.items() if key not in backup.unknown}
        assert all(kv.value == value_of(kv.key) for kv in stored)
        assert member.client.value(b"stays") == b"v"


def test_three_new_members_from_a_backup_under_load(cluster: Cluster, new_cluster: NewCluster, tmp_path: Path) -> None:
    """CT-22, MT-13, MT-21, L-42: the keys with their revisions, one hash, leases that run out, and new identities."""
    backup = _back_up_under_load(cluster, tmp_path / "backup.db")
    old_ids = {member.id for member in cluster.members}
    old_cluster_id = cluster.leader().client.status().header.cluster_id
    cluster.end()

    restored = _restore_all(new_cluster(), backup.path)
    restored.wait_same_hash()
    assert restored.leader().client.revision() in (backup.revision, backup.revision + 1)  # the short lease may be over
    _check_keys(restored, backup)
    members = restored.wait_same_members()
    assert sorted(each.name for each in members) == ["m0", "m1", "m2"]
    assert not old_ids & {each.ID for each in members}
    assert restored.leader().client.status().header.cluster_id != old_cluster_id

    assert restored.leader().client.leases() >= {backup.long_lease}
    wait_until("the short lease runs out", lambda: restored.leader().client.value(b"dies") is None)
    assert restored.leader().client.leases() == {backup.long_lease}
    # The history up to the snapshot is there for those who watch from the past.
    with WatchStream(restored.followers()[0].client, b"load/", b"load0", start_revision=1) as watch:
        last = max(backup.acknowledged.values())
        told = [each for each in watch.wait_told(last) if each.key not in backup.unknown]
        expected = sorted((rev, key) for key, rev in backup.acknowledged.items() if key not in backup.unknown)
        assert told == [Told(rev, key, PUT) for rev, key in expected]

    again = _restore(restored.members[0], backup.path)
    assert again.returncode == 1
    assert "is not an empty directory, and a restore never writes over data" in again.stderr

    # It is a cluster like any other: it survives the loss of a member, writes, and a restart of all.
    lost = restored.followers()[0]
    lost.kill9()
    revision = restored.leader().client.put(b"after").header.revision
    restored.restart(lost)
    restored.kill9(*restored.members)
    restored.start()
    assert restored.leader().client.revision() == revision
    restored.wait_same_hash()


def test_bumped_and_marked(cluster: Cluster, new_cluster: NewCluster, tmp_path: Path) -> None:
    """CT-23, W-40: whoever has cached a revision from before is told that it was compacted; none goes back."""
    client = cluster.leader().client
    for number in range(30):
        client.put(b"k%02d" % (number % 10), b"%d" % number)
    cluster.wait_same_hash()
    revision = _save(cluster.leader(), tmp_path / "backup.db")
    later = [client.put(b"lost", b"%d" % number).header.revision for number in range(20)]
    cluster.end()

    bumped = revision + _BUMP
    restored = _restore_all(new_cluster(), tmp_path / "backup.db", f"--bump-revision={_BUMP}", "--mark-compacted")
    assert restored.wait_same_hash() == bumped
    for member in restored.members:
        assert member.client.hash_kv().compact_revision == bumped
        for cached in (2, revision, later[-1], bumped - 1):
            with WatchStream(member.client, b"k", b"l", start_revision=cached) as watch:
                watch.wait("the watch is told of the compaction", watch.compacted)
                assert watch.compacted() == bumped
            with refused(COMPACTED):
                member.client.calls.KV.Range(rpc_pb2.RangeRequest(key=b"k", range_end=b"l", revision=cached))
        listed = member.client.range(b"k", b"l", revision=bumped)
        assert [kv.value for kv in listed.kvs] == [b"%d" % number for number in range(20, 30)]
        assert listed.header.revision == bumped
    with WatchStream(restored.followers()[0].client, b"k", b"l", start_revision=bumped + 1) as watch:
        watch.wait_created()
        assert restored.leader().client.put(b"k00", b"new").header.revision == bumped + 1
        assert watch.wait_told(bumped + 1) == [Told(bumped + 1, b"k00", PUT)]
    restored.wait_same_hash()
    restored.kill9(*restored.members)
    restored.start()
    assert restored.leader().client.revision() == bumped + 1
    restored.wait_same_hash()


def test_one_member_that_others_join(cluster: Cluster, new_cluster: NewCluster, tmp_path: Path) -> None:
    """CT-22, RF-45: the joining member has nothing, and the log does not reach back to what the backup holds."""
    keys = [b"k%02d" % number for number in range(20)]
    for key in keys:
        cluster.leader().client.put(key)
    cluster.wait_same_hash()
    _save(cluster.leader(), tmp_path / "backup.db")
    cluster.end()
    alone = _restore_all(new_cluster(1), tmp_path / "backup.db")
    joiner, _answer = alone.add("joiner", alone.leader())
    joiner.spawn()
    joiner.wait_serving()
    alone.wait_same_hash()
    assert [kv.key for kv in joiner.client.range(b"k", b"l", serializable=True).kvs] == keys


def test_members_of_different_backups_do_not_mix(cluster: Cluster, new_cluster: NewCluster, tmp_path: Path) -> None:
    """RF-73: somebody mixed up two files. Members that differ do not go on together: those of one file stop, and
    say why.

    Which ones depends on who meets first: a member that no majority clears at that moment stops.
    """
    cluster.leader().client.put(b"k", b"in both")
    _save(cluster.leader(), tmp_path / "first.db")
    cluster.leader().client.put(b"k", b"in one")
    _save(cluster.leader(), tmp_path / "second.db")
    cluster.end()
    mixed = new_cluster()
    for member, name in zip(mixed.members, ("first.db", "second.db", "second.db"), strict=True):
        assert _restore(member, tmp_path / name).returncode == 0
    for member in mixed.members:
        member.spawn()
    odd, *even = mixed.members

    def parted() -> bool:
        return not odd.is_running() or not any(member.is_running() for member in even)

    wait_until("no two members run that differ", parted)
    stopped = [member for member in mixed.members if not member.is_running()]
    assert all(member.wait_exit() == 1 for member in stopped)
    assert all("differs from that of the others from entry 1 on" in member.log_text() for member in stopped)
