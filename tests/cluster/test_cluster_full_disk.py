"""One member's disk is full: it must not take the others along, nor lose or invent anything (AL-20 to AL-28, RF-73).

Two ways out are sound. The member raises NOSPACE in time, and no member takes writes; or it cannot apply what the
others have already agreed on, and ends. Which one comes depends on who notices first.
"""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.cluster import Cluster, Member
from helpers.load import value_of
from helpers.member_client import NO_SPACE, outcome, refused
from helpers.processes import ServerNotServingError
from helpers.small_disk import small_file_system
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

pytestmark = [pytest.mark.crash, pytest.mark.slow]

NewCluster = Callable[..., Cluster]

_DISK_MIB = 320
_LARGER_DISK_MIB = 1024
_VALUE_REPEATS = 512
"""Values of some hundred KiB: the disk must be full within seconds."""
_MOST_PUTS = 3000


def _value(key: bytes) -> bytes:
    return value_of(key) * _VALUE_REPEATS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with few blocks."""
    with small_file_system(tmp_path, _DISK_MIB):
        yield tmp_path


def _fill(cluster: Cluster, victim: Member) -> dict[bytes, int]:
    """Put through the others until the victim's disk stops it or all: the acknowledged puts, key -> revision."""
    acknowledged: dict[bytes, int] = {}
    others = cluster.others(victim)
    for number in range(_MOST_PUTS):
        key = b"fill/%06d" % number
        answer = outcome(lambda number=number, key=key: others[number % 2].client.put(key, _value(key)))  # type: ignore[misc]
        if answer == NO_SPACE or not victim.is_running():
            if isinstance(answer, rpc_pb2.PutResponse):
                acknowledged[key] = answer.header.revision
            return acknowledged
        # While a leader with a full disk is being replaced, puts may fail in other ways; they are not acknowledged.
        if isinstance(answer, rpc_pb2.PutResponse):
            acknowledged[key] = answer.header.revision
    raise AssertionError(f"the disk of {_DISK_MIB} MiB never got full")


def _let_lead(cluster: Cluster, member: Member) -> None:
    cluster.leader().client.move_leader(member.id)
    wait_until("the right one leads", lambda: cluster.leader_now() is member)


def _check_all_there(member: Member, acknowledged: dict[bytes, int]) -> None:
    """One linearizable read per key: a whole range would be as large as the disk."""
    for key, revision in acknowledged.items():
        (kv,) = member.client.range(key).kvs
        assert (kv.value, kv.mod_revision) == (_value(key), revision)


def _check_writes_are_refused(cluster: Cluster) -> None:
    for member in cluster.members:
        with refused(NO_SPACE):
            member.client.put(b"small")
        with refused(NO_SPACE):
            member.client.grant(60)


def _check_raised_or_ended(cluster: Cluster, victim: Member) -> None:
    """The alarm is raised and all members run (AL-06, AL-25), or the member has ended and the others serve (RF-73)."""
    alarms = wait_until("a leader tells the alarms", lambda: [cluster.leader().client.alarms()])[0]
    if alarms:
        assert alarms == {(victim.id, rpc_pb2.NOSPACE)}
        assert all(member.is_running() for member in cluster.members), victim.tail()
        _check_writes_are_refused(cluster)
    else:
        assert victim.wait_exit() not in {0, -signal.SIGBUS, -signal.SIGSEGV}, victim.tail()
        assert "space" in victim.log_text(), victim.tail()
        for member in cluster.others(victim):
            member.client.put(b"without it")


@pytest.fixture
def small_cluster(new_cluster: NewCluster, small_disk: Path) -> Cluster:
    """Three serving members, the last of them on the small disk."""
    cluster = new_cluster(3)
    cluster.members[2].data_dir = small_disk / "data"
    return cluster.start()


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_a_full_disk_of_one_member_does_not_stop_the_others(
    small_cluster: Cluster, small_disk: Path, leads: bool
) -> None:
    """AL-06, AL-23 to AL-27, RF-73: nothing acknowledged is lost, reads go on; room and a disarm make all well."""
    cluster, victim = small_cluster, small_cluster.members[2]
    victim_id = victim.id
    _let_lead(cluster, victim if leads else cluster.members[0])
    acknowledged = _fill(cluster, victim)
    assert len(acknowledged) > 20, "it was full before it was used"
    _check_raised_or_ended(cluster, victim)
    for member in cluster.serving():
        _check_all_there(member, acknowledged)

    subprocess.run(["mount", "-o", f"remount,size={_LARGER_DISK_MIB}m", str(small_disk)], check=True)
    cluster.start()
    assert victim.client.status().header.member_id == victim_id
    for member_id, alarm in cluster.leader().client.alarms():
        cluster.leader().client.disarm(member_id, alarm)
    for member in cluster.members:
        member.client.put(b"after", member.name.encode())
    wait_until("the member has caught up", lambda: victim.client.value(b"after", serializable=True) == b"m2")
    if cluster.program.kind == "raftkv":  # etcd 3.5.1 that has crashed may lack what it had applied
        _check_all_there(victim, acknowledged)
        cluster.wait_same_hash()


@pytest.mark.beyond_etcd("a member of etcd 3.5.1 that has crashed may lack what it had applied (pull request 13908)")
def test_a_member_is_started_again_on_its_full_disk(small_cluster: Cluster, small_disk: Path) -> None:
    """AL-05, AL-25, RF-73: it serves as before, or says that it needs room and ends; the others never notice."""
    cluster, victim = small_cluster, small_cluster.members[2]
    _let_lead(cluster, cluster.members[0])
    acknowledged = _fill(cluster, victim)
    if victim.is_running():
        victim.kill9()
    term = cluster.leader().client.status().raftTerm
    for _start in range(2):
        victim.spawn()
        try:
            victim.wait_serving()
        except ServerNotServingError:
            assert victim.wait_exit() not in {0, -signal.SIGBUS, -signal.SIGSEGV}, victim.tail()
            assert "space" in victim.log_text(), victim.tail()
        else:
            if cluster.members[0].client.alarms():
                _check_writes_are_refused(cluster)
            victim.end()
    assert cluster.leader().client.status().raftTerm == term
    _check_all_there(cluster.members[0], acknowledged)
    subprocess.run(["mount", "-o", f"remount,size={_LARGER_DISK_MIB}m", str(small_disk)], check=True)
    cluster.restart(victim)
    _check_all_there(victim, acknowledged)
    cluster.wait_same_hash()
