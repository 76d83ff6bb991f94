"""Members that are killed under load: what was acknowledged is on every member afterwards, and no read was stale."""

from collections.abc import Callable

import pytest
from helpers.cluster import Cluster, Member
from helpers.cluster_load import ClusterLoad, FreshReads, check_all_members_have

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.beyond_etcd(
        "a killed member of etcd 3.5.1 may come back without writes that it had applied, and with other hashes "
        "(fixed in 3.5.3, etcd pull request 13908)"
    ),
]

NewCluster = Callable[..., Cluster]

_ENOUGH = 50
"""Acknowledged writes that show that the cluster serves."""


def _kill_and_restart(cluster: Cluster, victims: list[Member], load: ClusterLoad) -> None:
    """The others must go on without them, and they must come back into a cluster that is being written to."""
    cluster.kill9(*victims)
    load.wait_more(_ENOUGH)
    for victim in victims:
        victim.spawn()
    for victim in victims:
        victim.wait_serving()
    cluster.leader()
    load.wait_more(_ENOUGH)


def test_leader_and_followers_killed_in_turn_under_load(cluster: Cluster) -> None:
    """RF-71, RF-40, RF-36: kill -9 of the leader, of a follower, of the new leader, of another follower."""
    with ClusterLoad(cluster.members, "kills") as load, FreshReads(cluster.members) as reads:
        load.wait_more(_ENOUGH)
        for turn in range(2):
            _kill_and_restart(cluster, [cluster.leader()], load)
            _kill_and_restart(cluster, [cluster.followers()[turn]], load)
        reads.check()
        load.stop()
    print(f"{len(load.history.acknowledged)} acknowledged writes, {len(load.history.unknown)} unknown")
    check_all_members_have(cluster, load.history)


def test_two_of_five_killed_at_once_under_load(new_cluster: NewCluster) -> None:
    """RF-71: five members serve with any three; the leader is among the dead, then it is not."""
    cluster = new_cluster(5).start()
    with ClusterLoad(cluster.members, "pairs") as load, FreshReads(cluster.members) as reads:
        load.wait_more(_ENOUGH)
        _kill_and_restart(cluster, [cluster.leader(), cluster.followers()[0]], load)
        _kill_and_restart(cluster, cluster.followers()[-2:], load)
        reads.check()
        load.stop()
    check_all_members_have(cluster, load.history)


def test_all_members_killed_at_once_under_load(cluster: Cluster) -> None:
    """RF-40, KV-10: what was acknowledged was on a quorum's disks; so it is there when all have died, three times."""
    load = ClusterLoad(cluster.members, "all")
    with load, FreshReads(cluster.members) as reads:
        for _round in range(3):
            load.wait_more(_ENOUGH)
            cluster.kill9(*cluster.members)
            cluster.start()
        load.wait_more(_ENOUGH)
        reads.check()
        load.stop()
    check_all_members_have(cluster, load.history)
