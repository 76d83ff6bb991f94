"""MemberAdd, MemberRemove, MemberUpdate, MemberPromote: the answers, the refusals, and what the members then do."""

import re
from collections.abc import Callable

import pytest
from helpers.cluster import ELECTION_S, Cluster, Member, when_healthy, when_in_sync
from helpers.member_client import (
    BAD_TRANSFEREE,
    BAD_URLS,
    MEMBER_NOT_FOUND,
    NOT_A_LEARNER,
    NOT_IN_SYNC,
    PEER_URL_EXISTS,
    TOO_MANY_LEARNERS,
    UNHEALTHY,
    Code,
    MemberClient,
    Refusal,
    Stream,
    WatchStream,
    outcome,
    refused,
)
from helpers.processes import Program, free_port
from helpers.waiting import stays_true, wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]

_UNKNOWN_ID = 0x7777
_EXIT_S = 20.0
"""A removed member stops about a second after it has applied that (CL-34)."""


def _free_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def _not_enough_started(program: Program) -> Refusal:
    """G-58: etcd sends the code of an error that it does not know."""
    code = Code.UNKNOWN if program.kind == "etcd" else Code.FAILED_PRECONDITION
    return code, "etcdserver: re-configuration failed due to not enough started members"


def _not_for_learners(program: Program) -> Refusal:
    """G-30: 3.5 has another code than 3.6."""
    code = Code.UNAVAILABLE if program.kind == "etcd" else Code.FAILED_PRECONDITION
    return code, "etcdserver: rpc not supported for learner"


def _check_exits_as_removed(member: Member) -> None:
    """CL-34: the process ends by itself and says why."""
    member.wait_exit(_EXIT_S)
    assert re.search("removed", member.log_text()), member.tail()


# --- adding -------------------------------------------------------------------------------------------------


def test_a_voter_is_added_starts_and_holds_everything(cluster: Cluster) -> None:
    """CL-01, CL-02, CL-03, CL-07, G-15, F-72, CL-53, RF-65."""
    leader, via = cluster.leader(), cluster.followers()[0]
    for number in range(50):
        leader.client.put(b"k%d" % number, b"v%d" % number)
    old = cluster.wait_same_members()
    newcomer, answer = cluster.add("m3", via)
    header = answer.header
    assert (header.cluster_id, header.member_id, header.revision) == (via.client.status().header.cluster_id, via.id, 0)
    assert header.raft_term == leader.client.status().raftTerm
    added = answer.member
    assert (list(added.peerURLs), added.name, list(added.clientURLs), added.isLearner) == (
        [newcomer.peer_url],
        "",
        [],
        False,
    )
    assert list(answer.members) == sorted([*old, added], key=lambda member: member.ID)
    for member in cluster.serving():
        assert list(member.client.members().members) == list(answer.members)
    leader.client.put(b"while it is not started")

    newcomer.spawn()
    newcomer.wait_serving()
    members = cluster.wait_same_members()
    assert newcomer.id == added.ID
    assert {each.ID for each in members} == {each.ID for each in answer.members}
    assert newcomer.client.value(b"k49") == b"v49"
    newcomer.client.put(b"through the newcomer")
    cluster.wait_same_hash()

    # Its vote counts: with four voters, three are needed, and it is one of them.
    cluster.kill9(cluster.others(newcomer, leader)[0])
    leader.client.put(b"with the newcomer's vote")
    cluster.start()
    assert cluster.wait_same_members() == members
    cluster.wait_same_hash()


@pytest.mark.slow
def test_a_lone_member_grows_to_three(new_cluster: NewCluster) -> None:
    """CL-24, CL-26, CL-31: with an unstarted second voter there is no quorum until it starts."""
    cluster = new_cluster(1).start()
    (first,) = cluster.members
    first.client.put(b"alone")
    second, _answer = cluster.add("m1", first)
    refusal = outcome(lambda: first.client.put(b"no quorum", timeout_s=1.5))
    assert refusal[0] in {Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE}, refusal
    with refused(_not_enough_started(cluster.program)):  # started voters 1, quorum of three 2
        first.client.add_member(_free_url())
    with refused(_not_enough_started(cluster.program)):  # what remained would be a voter that never ran
        first.client.remove_member(first.id)
    second.spawn()
    second.wait_serving()
    assert second.client.value(b"alone") == b"v"
    third, _answer = cluster.add("m2", second)
    third.spawn()
    third.wait_serving()
    third.client.put(b"three")
    cluster.wait_same_members()
    cluster.wait_same_hash()


def test_what_member_add_refuses(cluster: Cluster) -> None:
    """CL-20, CL-21, CL-22, CL-24, by the leader and by a follower; nothing of it changes the list."""
    members = cluster.wait_same_members()
    for member in (cluster.leader(), cluster.followers()[0]):
        client = member.client
        for urls in (
            [],
            ["http://127.0.0.1"],
            ["http://127.0.0.1:1/path"],
            ["ftp://127.0.0.1:1"],
            ["127.0.0.1:1"],
            ["nonsense"],
            [_free_url(), "nonsense"],
        ):
            with refused(BAD_URLS):
                client.add_member(*urls)
        taken = cluster.followers()[1].peer_url
        with refused(PEER_URL_EXISTS):
            when_healthy(lambda client=client, taken=taken: client.add_member(taken))  # type: ignore[misc]
        with refused(PEER_URL_EXISTS):
            client.add_member(_free_url(), taken, learner=True)
    assert cluster.wait_same_members() == members
    cluster.leader().client.add_member(_free_url(), learner=True)
    for member in (cluster.leader(), cluster.followers()[0]):
        with refused(TOO_MANY_LEARNERS):
            member.client.add_member(_free_url(), learner=True)
    cluster.kill9(cluster.followers()[1])
    for member in cluster.serving():
        with refused(UNHEALTHY):  # three of four would have to be connected
            member.client.add_member(_free_url())
    assert len(cluster.leader().client.members().members) == 4


# --- learners -----------------------------------------------------------------------------------------------


def _check_serves_as_a_learner_only(learner: Member, lease: int) -> None:
    client, no = learner.client, _not_for_learners(learner.program)
    status = client.status()
    assert (status.isLearner, status.header.member_id) == (True, learner.id)
    assert client.value(b"k", serializable=True) == b"v"
    snapshot = client.calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=10)
    assert sum(len(part.blob) for part in snapshot) > 32, "MT-14: a learner may be backed up"
    unary: tuple[Callable[[MemberClient], object], ...] = (
        lambda client: client.value(b"k"),
        lambda client: client.put(b"k"),
        lambda client: client.delete(b"k"),
        lambda client: client.txn(rpc_pb2.TxnRequest()),
        lambda client: client.compact(1),
        lambda client: client.grant(60),
        lambda client: client.revoke(lease),
        lambda client: client.time_to_live(lease),
        lambda client: client.leases(),
        lambda client: client.members(),
        lambda client: client.members(linearizable=False),
        lambda client: client.add_member(_free_url()),
        lambda client: client.remove_member(_UNKNOWN_ID),
        lambda client: client.update_member(_UNKNOWN_ID, _free_url()),
        lambda client: client.promote_member(_UNKNOWN_ID),
        lambda client: client.hash_kv(),
        lambda client: client.alarms(),
        lambda client: client.move_leader(_UNKNOWN_ID),
    )
    for call in unary:
        with refused(no):
            call(client)
    with WatchStream(client, b"k") as watch:
        assert watch.wait_end() == no
    with Stream(client.calls.Lease.LeaseKeepAlive) as keep_alive:
        assert keep_alive.wait_end() == no


def test_the_life_of_a_learner(cluster: Cluster) -> None:
    """CL-22, CL-41, CL-42, CL-44, CL-45, G-30, G-31, MT-41, RF-63: added, refused, promoted, a voter."""
    leader, follower = cluster.leader(), cluster.followers()[0]
    leader.client.put(b"k")
    lease = leader.client.grant(3600)
    learner, answer = cluster.add("m3", follower, learner=True)
    assert (answer.member.isLearner, answer.member.name) == (True, "")
    for via in (leader, follower):
        with refused(NOT_IN_SYNC):  # it was never started
            via.client.promote_member(answer.member.ID)
        with refused(NOT_A_LEARNER):
            via.client.promote_member(leader.id)
        with refused(MEMBER_NOT_FOUND):
            via.client.promote_member(_UNKNOWN_ID)
    learner.spawn()
    learner.wait_serving()
    wait_until("it has what was put before", lambda: learner.client.value(b"k", serializable=True))
    _check_serves_as_a_learner_only(learner, lease)
    with refused(BAD_TRANSFEREE):
        leader.client.move_leader(learner.id)
    promoted = when_in_sync(lambda: follower.client.promote_member(learner.id))
    assert (promoted.header.member_id, promoted.header.revision) == (follower.id, 0)
    assert [member.isLearner for member in promoted.members] == [False] * 4
    wait_until("it knows that it is a voter", lambda: not learner.client.status().isLearner)
    assert learner.client.value(b"k") == b"v"
    learner.client.put(b"k2")
    with WatchStream(learner.client, b"k", start_revision=2) as watch:
        watch.wait_created()
        watch.wait_told(2)
    with refused(NOT_A_LEARNER):
        leader.client.promote_member(learner.id)
    cluster.wait_same_members()
    cluster.wait_same_hash()
    leader.client.move_leader(learner.id)
    assert cluster.leader() is learner, "a promoted member may lead"


def test_a_learner_counts_for_no_quorum(new_cluster: NewCluster) -> None:
    """CL-45: a lone voter goes on writing while its learner is down; a second voter would have stopped it (CL-26)."""
    cluster = new_cluster(1).start()
    (voter,) = cluster.members
    learner, _answer = cluster.add("m1", voter, learner=True)
    voter.client.put(b"before it starts")
    learner.spawn()
    learner.wait_serving()
    learner.kill9()
    voter.client.put(b"while it is down")
    cluster.restart(learner)
    value = wait_until("it catches up", lambda: learner.client.value(b"while it is down", serializable=True))
    assert value == b"v"
    # It never campaigns (RF-06): without the voter there is nobody to lead. It need not notice that.
    leaders = {voter.id, 0}
    voter.kill9()
    stays_true("nobody else leads", lambda: learner.client.status().leader in leaders, 2.5 * ELECTION_S)


# --- updating -----------------------------------------------------------------------------------------------


def test_what_member_update_refuses(shared_cluster: Cluster) -> None:
    """CL-40, by the leader and by a follower."""
    cluster = shared_cluster
    members = cluster.wait_same_members()
    for member in (cluster.leader(), cluster.followers()[0]):
        with refused(MEMBER_NOT_FOUND):
            member.client.update_member(_UNKNOWN_ID, _free_url())
        other = cluster.others(member)[0]
        with refused(PEER_URL_EXISTS):
            member.client.update_member(member.id, other.peer_url)
        answer = member.client.update_member(member.id, member.peer_url)  # its own URL is no one else's
        assert list(answer.members) == members
        assert (answer.header.member_id, answer.header.revision) == (member.id, 0)
    assert cluster.wait_same_members() == members


@pytest.mark.beyond_etcd("such a URL in a MemberUpdate ends all members of etcd 3.5.1")
def test_member_update_checks_the_urls(shared_cluster: Cluster) -> None:
    """CL-40 with the syntax rules of CL-20: what no member could ever use does not enter the log."""
    cluster = shared_cluster
    members = cluster.wait_same_members()
    for member in cluster.members:
        for urls in ([], ["nonsense"], ["http://127.0.0.1"], [_free_url(), "ftp://127.0.0.1:1"]):
            with refused(BAD_URLS):
                member.client.update_member(member.id, *urls)
    assert cluster.wait_same_members() == members


def test_a_member_moves_to_another_address(cluster: Cluster) -> None:
    """CL-40, CL-53: the others find it at the URL that was announced before it moved."""
    mover, leader = cluster.followers()[0], cluster.leader()
    port = free_port()
    answer = leader.client.update_member(mover.id, f"http://127.0.0.1:{port}")
    announced = {each.ID: list(each.peerURLs) for each in answer.members}
    assert announced[mover.id] == [f"http://127.0.0.1:{port}"]
    mover.kill9()
    mover.peer_port, mover.peer_url = port, f"http://127.0.0.1:{port}"
    cluster.restart(mover)
    # It is needed now: the third member is away.
    cluster.kill9(cluster.others(mover, leader)[0])
    leader.client.put(b"with the moved member")
    assert mover.client.value(b"with the moved member") == b"v"
    cluster.start()
    cluster.wait_same_members()


# --- removing -----------------------------------------------------------------------------------------------


def test_a_removed_follower_stops_and_never_comes_back(cluster: Cluster) -> None:
    """CL-06, CL-07, CL-30, CL-34, G-15, RF-64."""
    leader, (via, victim) = cluster.leader(), cluster.followers()
    leader.client.put(b"k")
    before, victim_id = cluster.wait_same_members(), victim.id
    answer = cluster.remove(victim, via)
    assert (answer.header.member_id, answer.header.revision) == (via.id, 0)
    assert list(answer.members) == [member for member in before if victim_id != member.ID]
    _check_exits_as_removed(victim)
    assert list(leader.client.members().members) == list(answer.members)
    for member in cluster.members:
        with refused(MEMBER_NOT_FOUND):
            member.client.remove_member(victim_id)
        with refused(MEMBER_NOT_FOUND):
            member.client.update_member(victim_id, _free_url())
    # Its old data does not make it a member again: it is told so, and stops.
    victim.spawn()
    _check_exits_as_removed(victim)
    leader.client.put(b"k2")
    cluster.wait_same_hash()

    # At the same address with an empty directory it is another member, with another id.
    victim.wipe()
    again = when_healthy(lambda: leader.client.add_member(victim.peer_url))
    assert victim_id != again.member.ID
    cluster.admit(victim, again)
    victim.spawn()
    victim.wait_serving()
    assert victim.id == again.member.ID
    assert victim.client.value(b"k2") == b"v"
    cluster.wait_same_members()
    cluster.wait_same_hash()


def test_a_member_that_was_removed_while_it_was_down_stops_when_it_comes(cluster: Cluster) -> None:
    """CL-32, CL-34: it never applied its own removal; the others refuse it, and it says why it ends."""
    victim = cluster.followers()[0]
    victim_id = victim.id
    victim.kill9()
    answer = cluster.leader().client.remove_member(victim_id)  # allowed at once: it is not connected
    assert len(answer.members) == 2
    cluster.members.remove(victim)
    victim.spawn()
    _check_exits_as_removed(victim)
    cluster.leader().client.put(b"k")


@pytest.mark.parametrize("itself", [True, False], ids=["asked itself", "asked a follower"])
def test_the_leader_is_removed(cluster: Cluster, itself: bool) -> None:
    """CL-35, CL-34: the answer still comes, it stops, another one leads."""
    leader, follower = cluster.leader(), cluster.followers()[0]
    leader.client.put(b"k")
    answer = cluster.remove(leader, leader if itself else follower)
    assert len(answer.members) == 2
    _check_exits_as_removed(leader)
    assert cluster.leader() in cluster.members
    follower.client.put(b"k2")
    assert len(cluster.wait_same_members()) == 2
    cluster.wait_same_hash()


def test_what_member_remove_refuses(cluster: Cluster) -> None:
    """CL-30, CL-32: with one of three away, neither of the other two may go; the one that is away may."""
    for member in (cluster.leader(), cluster.followers()[0]):
        with refused(MEMBER_NOT_FOUND):
            member.client.remove_member(_UNKNOWN_ID)
    away = cluster.followers()[0]
    away_id = away.id
    away.kill9()
    leader, follower = cluster.leader(), cluster.followers()[0]
    for member in (leader, follower):
        for target in (leader, follower):
            with refused(UNHEALTHY):
                member.client.remove_member(target.id)
    assert [each.ID for each in follower.client.remove_member(away_id).members] == sorted([leader.id, follower.id])


def test_the_member_list_outlives_restarts(cluster: Cluster) -> None:
    """CL-06, CL-53, F-70: after adds, a promotion, an update and a removal all members start with what they know."""
    leader = cluster.leader()
    learner, _answer = cluster.add("m3", leader, learner=True)
    learner.spawn()
    learner.wait_serving()
    when_in_sync(lambda: leader.client.promote_member(learner.id))
    victim = next(member for member in cluster.others(leader, learner))
    cluster.remove(victim, leader)
    _check_exits_as_removed(victim)
    members = cluster.wait_same_members()
    revision = leader.client.put(b"k").header.revision
    cluster.kill9(*cluster.members)
    cluster.start()
    assert cluster.wait_same_members() == members
    assert cluster.wait_same_hash() == revision
    cluster.leader().client.put(b"k2")
