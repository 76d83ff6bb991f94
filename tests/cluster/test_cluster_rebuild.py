"""A member whose state is not that of the others: it notices, stops, tells all, and comes back by one command."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.cluster import Cluster, Member
from helpers.processes import clean_environment
from helpers.waiting import wait_until

from raftkv.apply import CORRUPT
from raftkv.backend import Backend
from raftkv.pb import rpc_pb2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.beyond_etcd("etcd 3.5.1 neither compares the states of its members as they apply, nor rebuilds one"),
]

NewCluster = Callable[..., Cluster]

KEY, VALUE, WRONG = b"balance", b"1000 coins", b"9000 coins"


def _damage(member: Member) -> None:
    """Change a value in the store of a member that is stopped, as a bad memory module or a bug of ours might."""
    backend = Backend.open(member.data_dir / "member" / "snap")
    try:
        record = backend.read().get(KEY, db=backend.tables.current)
        assert record is not None
        assert VALUE in record
        backend.begin_write().put(KEY, record.replace(VALUE, WRONG), db=backend.tables.current)
        backend.commit()
    finally:
        backend.close()


def _overwrite_if_unchanged(cluster: Cluster) -> bool:
    """A transaction whose outcome is another one on the damaged member: whether it found the right value."""
    compare = rpc_pb2.Compare(key=KEY, target=rpc_pb2.Compare.VALUE, result=rpc_pb2.Compare.EQUAL, value=VALUE)
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"seen", value=b"right"))
    return cluster.leader().client.txn(rpc_pb2.TxnRequest(compare=[compare], success=[put])).succeeded


def _rebuild(data_dir: Path, source: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftkv", "rebuild", "--data-dir", str(data_dir), "--from", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean_environment())


def _wait_alarm(cluster: Cluster, member_id: int) -> None:
    client = cluster.leader().client
    wait_until("CORRUPT is raised", lambda: (member_id, CORRUPT) in client.alarms())


def test_diverged_member_stops_names_the_entry_and_is_rebuilt(cluster: Cluster) -> None:
    """AL-11, RF-73: acknowledged data stays, the wrong member answers nothing more, and one command brings it back."""
    cluster.leader().client.put(KEY, VALUE)
    cluster.wait_same_hash()
    victim = cluster.followers()[0]
    victim_id = victim.id
    assert victim.terminate() == 0
    _damage(victim)
    cluster.restart(victim)
    assert victim.client.value(KEY) == WRONG  # it serves what it has, for nobody has had reason to compare

    index_before = cluster.leader().client.status().raftAppliedIndex
    assert _overwrite_if_unchanged(cluster)
    assert victim.wait_exit() == 1
    named = re.search(r"differs from that of the others from entry (\d+) on", victim.log_text())
    assert named is not None, victim.log_tail()
    assert int(named[1]) > index_before
    assert "raftkv rebuild --data-dir" in victim.log_text()
    _wait_alarm(cluster, victim_id)

    done = _rebuild(victim.data_dir, cluster.leader().peer_url)
    assert done.returncode == 0, done.stderr
    assert f"Member {victim_id:x} has the store of {cluster.leader().name}" in done.stdout
    cluster.restart(victim)
    assert victim.id == victim_id
    cluster.leader().client.disarm(victim_id, CORRUPT)
    assert _overwrite_if_unchanged(cluster)
    assert victim.client.value(KEY) == VALUE
    cluster.wait_same_hash()


def test_rebuild_is_refused_while_the_member_runs(cluster: Cluster) -> None:
    """PY-36."""
    member, other = cluster.followers()
    done = _rebuild(member.data_dir, other.peer_url)
    assert done.returncode == 1
    assert f"is in use by another raftkv (process {member.pid})" in done.stderr
    cluster.wait_same_hash()


def test_store_lost_while_the_log_is_sound(cluster: Cluster) -> None:
    """RF-72: what was promised is in the log, so such a member may come back under its id."""
    member, other = cluster.followers()
    member_id = member.id
    assert member.terminate() == 0
    for path in sorted((member.data_dir / "member" / "snap").iterdir()):
        path.unlink()
    for number in range(50):
        other.client.put(b"meanwhile", b"%d" % number)
    done = _rebuild(member.data_dir, other.peer_url)
    assert done.returncode == 0, done.stderr
    cluster.restart(member)
    assert member.id == member_id
    cluster.wait_same_hash()
