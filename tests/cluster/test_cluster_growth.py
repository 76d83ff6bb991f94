"""Members come and go while the cluster is written to: no acknowledged write is lost, no read is stale."""

import pytest
from helpers.cluster import Cluster, Member, when_in_sync
from helpers.cluster_load import ClusterLoad, FreshReads, check_all_members_have
from helpers.waiting import wait_until

pytestmark = pytest.mark.slow

_ENOUGH = 50


def _start_joined(member: Member) -> Member:
    member.spawn()
    member.wait_serving()
    return member


def test_add_promote_and_remove_under_load(cluster: Cluster) -> None:
    """CL-24, CL-35, CL-42, RF-63: a voter comes, a learner comes and is promoted, a follower goes, the leader goes."""
    first = list(cluster.members)
    with ClusterLoad(first, "changes") as load, FreshReads(first) as reads:
        load.wait_more(_ENOUGH)
        voter, _answer = cluster.add("m3", cluster.followers()[0])
        load.wait_more(_ENOUGH)  # four voters, three started
        _start_joined(voter)
        load.wait_more(_ENOUGH)
        learner, _answer = cluster.add("m4", cluster.leader(), learner=True)
        _start_joined(learner)
        when_in_sync(lambda: cluster.others(learner)[0].client.promote_member(learner.id))
        load.wait_more(_ENOUGH)
        leaver = next(member for member in first if member is not cluster.leader())
        cluster.remove(leaver, cluster.leader())
        leaver.wait_exit()
        load.wait_more(_ENOUGH)
        leader = cluster.leader()
        cluster.remove(leader, leader)
        leader.wait_exit()
        cluster.leader()
        load.wait_more(_ENOUGH)
        reads.check()
        load.stop()
    assert len(cluster.wait_same_members()) == 3
    print(f"{len(load.history.acknowledged)} acknowledged writes, {len(load.history.unknown)} unknown")
    check_all_members_have(cluster, load.history)


def test_every_member_is_replaced_by_a_new_one_under_load(cluster: Cluster) -> None:
    """RF-72, CL-06: killed, removed, added anew on an empty directory, one after the other, until all are new."""
    first = list(cluster.members)
    with ClusterLoad(first, "replace") as load:
        for number, old in enumerate(first):
            load.wait_more(_ENOUGH)
            old_id = old.id
            old.kill9()
            via = cluster.leader()
            via.client.remove_member(old_id)
            cluster.members.remove(old)
            new, answer = cluster.add(f"n{number}", cluster.leader())
            assert old_id != answer.member.ID
            _start_joined(new)
            wait_until("it serves as a voter", lambda new=new: new.client.put(b"through the new member"))  # type: ignore[misc]
            if number + 1 < len(first):
                load.wait_more(_ENOUGH)
        load.stop()
    members = cluster.wait_same_members()
    assert {member.name for member in members} == {"n0", "n1", "n2"}
    check_all_members_have(cluster, load.history)
