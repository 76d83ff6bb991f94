"""How members begin: with settings that do not fit they end with an error that helps, and disturb no other member."""

from collections.abc import Callable

import pytest
from helpers.cluster import ELECTION_S, EXISTING, Cluster, Member, when_healthy
from helpers.member_client import Code, outcome
from helpers.waiting import stays_true, wait_until

NewCluster = Callable[..., Cluster]

_REFUSED_S = 30.0
"""A member that is to join asks several times before it gives up."""


def _check_refuses_to_start(member: Member, *words: str) -> None:
    """The process ends by itself, not with success, and its log holds each of the words."""
    member.spawn()
    code = member.wait_exit(_REFUSED_S)
    assert code > 0, f"ended with {code}\n{member.tail()}"
    text = member.log_text().lower()
    missing = [word for word in words if word.lower() not in text]
    assert not missing, f"nothing about {missing} in:\n{member.tail()}"


def _check_serves(cluster: Cluster, size: int = 3) -> None:
    assert len(cluster.serving()) == size
    term = cluster.leader().client.status().raftTerm
    cluster.leader().client.put(b"still here")
    assert len(cluster.wait_same_members()) == size
    cluster.wait_same_hash()
    assert cluster.leader().client.status().raftTerm == term


def _say(cluster: Cluster, etcd: str, raftkv: str) -> str:
    return etcd if cluster.program.kind == "etcd" else raftkv


# --- joining ------------------------------------------------------------------------------------------------


def test_a_member_that_was_not_added_cannot_join(shared_cluster: Cluster) -> None:
    """F-72: the number of members and their URLs must be those of the cluster."""
    cluster = shared_cluster
    stranger = cluster.new_member("stranger")
    cluster.use_initial_cluster([*cluster.members, stranger])
    stranger.state = EXISTING
    _check_refuses_to_start(stranger, _say(cluster, "member count is unequal", "etcdctl member add"))
    _check_serves(cluster)


def test_a_member_that_was_added_at_another_url_cannot_join(cluster: Cluster) -> None:
    """F-72: as many members, but not the same."""
    stranger = cluster.new_member("stranger")
    when_healthy(lambda: cluster.leader().client.add_member("http://127.0.0.1:1", learner=True))
    cluster.use_initial_cluster([*cluster.members, stranger])
    stranger.state = EXISTING
    _check_refuses_to_start(stranger, _say(cluster, "error validating peerURLs", "etcdctl member add"))


def test_nobody_to_join(new_cluster: NewCluster) -> None:
    """F-72: no member of the cluster that is said to exist answers."""
    cluster = new_cluster(2)
    member = cluster.members[0]
    member.state = EXISTING
    _check_refuses_to_start(member, _say(cluster, "could not retrieve cluster information", "answers"))
    lone = cluster.new_member("lone")
    lone.state = EXISTING
    _check_refuses_to_start(lone, _say(cluster, "could not retrieve cluster information", "other member"))


# --- strangers ----------------------------------------------------------------------------------------------


def _check_takes_no_part(cluster: Cluster, stranger: Member) -> None:
    """It may end or go on alone, but says what is wrong, never serves, and does not disturb the others (CL-05)."""
    term = cluster.leader().client.status().raftTerm
    wait_until("it says that it is of another cluster", lambda: "cluster" in _complaints(stranger))
    stays_true("the others are not disturbed", lambda: cluster.leader_now() is not None, 3 * ELECTION_S)
    assert cluster.leader().client.status().raftTerm == term
    if stranger.is_running():
        refusal = outcome(lambda: stranger.client.status(timeout_s=0.5))
        assert refusal[0] in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}, refusal
        stranger.kill9()
    cluster.leader().client.put(b"k")


def _complaints(member: Member) -> str:
    """What a member logged as a warning or worse, but for what every start has."""
    lines = member.log_text().splitlines()
    return "\n".join(
        line.lower() for line in lines if any(word in line for word in ("mismatch", "ERROR", "belongs to cluster"))
    )


def test_another_token_makes_another_cluster(new_cluster: NewCluster) -> None:
    """CL-04, CL-05: the third member was given another --initial-cluster-token; the two others are a cluster."""
    cluster = new_cluster(3)
    stranger = cluster.members.pop()
    cluster.start()
    stranger.once = ("--initial-cluster-token=another",)
    stranger.spawn()
    _check_takes_no_part(cluster, stranger)
    if cluster.program.kind == "raftkv":
        assert stranger.wait_exit() > 0
    # Nothing of it is left in the way of the right settings.
    stranger.wipe()
    stranger.spawn()
    stranger.wait_serving()
    cluster.members.append(stranger)
    _check_serves(cluster)


def test_a_member_with_data_may_have_a_new_name(new_cluster: NewCluster) -> None:
    """F-70: what --initial-cluster says does not matter then, and the new name is told to all."""
    cluster = new_cluster(1).start()
    (member,) = cluster.members
    member_id = member.id
    cluster.kill9(member)
    member.name = "renamed"
    cluster.restart(member)
    assert member.id == member_id
    wait_until(
        "it is known by its new name", lambda: [each.name for each in member.client.members().members] == ["renamed"]
    )


@pytest.mark.slow
def test_data_of_another_cluster_takes_no_part(new_cluster: NewCluster) -> None:
    """CL-05: a data directory that came from elsewhere, behind the address of a member."""
    other = new_cluster(3).start()
    other.leader().client.put(b"another history")
    other.kill9(*other.members)
    cluster = new_cluster(3)
    stranger = cluster.members.pop()
    cluster.start()
    stranger.data_dir = other.members[2].data_dir
    stranger.spawn()
    _check_takes_no_part(cluster, stranger)
    assert cluster.leader().client.value(b"another history") is None


# --- data that was lost -------------------------------------------------------------------------------------


def test_a_member_without_its_data_is_refused_and_comes_back_as_a_new_one(cluster: Cluster) -> None:
    """RF-72, F-71, CL-06: under its old id it would have forgotten its votes and what it acknowledged."""
    victim = cluster.followers()[0]
    cluster.leader().client.put(b"k", b"before")
    old_id = victim.id
    victim.kill9()
    victim.wipe()
    _check_refuses_to_start(victim, "has already been bootstrapped", f"{old_id:x}")
    if cluster.program.kind == "raftkv":  # the error must say what to do
        assert f"etcdctl member remove {old_id:x}" in victim.log_text()
        assert f"etcdctl member add {victim.name} --peer-urls={victim.peer_url}" in victim.log_text()
        # It must be refused again, and not find a directory that a first try has left.
        _check_refuses_to_start(victim, "has already been bootstrapped")
    cluster.leader().client.put(b"k", b"without it")

    leader = cluster.leader()
    leader.client.remove_member(old_id)
    answer = when_healthy(lambda: leader.client.add_member(victim.peer_url))
    assert old_id != answer.member.ID
    victim.wipe()
    cluster.members.remove(victim)
    cluster.admit(victim, answer)
    victim.spawn()
    victim.wait_serving()
    assert victim.id == answer.member.ID
    assert victim.client.value(b"k") == b"without it"
    _check_serves(cluster)


def test_a_member_without_its_data_cannot_join_under_its_old_id(cluster: Cluster) -> None:
    """RF-72: --initial-cluster-state=existing does not make it a new member either."""
    victim = cluster.followers()[0]
    cluster.leader().client.put(b"k")
    old_id = victim.id
    victim.kill9()
    victim.wipe()
    victim.state = EXISTING
    # The real etcd falls over a log that is shorter than the leader remembers; it, too, does not serve.
    _check_refuses_to_start(victim, _say(cluster, "panic", f"etcdctl member remove {old_id:x}"))
    cluster.leader().client.put(b"k2")


@pytest.mark.beyond_etcd("etcd asks its peers only once, before it starts; later it votes without its memory")
def test_a_member_without_its_data_that_starts_first_is_found_out_later(cluster: Cluster) -> None:
    """RF-72: nobody could be asked when it started; it must not serve or vote when it meets the others."""
    victim = cluster.followers()[0]
    for number in range(20):
        cluster.leader().client.put(b"k%d" % number)
    members = cluster.wait_same_members()
    old_id = victim.id
    cluster.kill9(*cluster.members)
    victim.wipe()
    victim.spawn()
    wait_until("it has made itself a new log", lambda: list(victim.data_dir.glob("member/wal/*.wal")))
    others = [member for member in cluster.members if member is not victim]
    # One of the two others alone would be a quorum with a member that has forgotten everything.
    others[0].spawn()
    code = victim.wait_exit(_REFUSED_S)
    assert code > 0, victim.tail()
    assert f"etcdctl member remove {old_id:x}" in victim.log_text(), victim.tail()
    others[1].spawn()
    for member in others:
        member.wait_serving()
    assert cluster.leader() in others
    assert list(others[0].client.members().members) == members
    assert {kv.key for kv in others[0].client.range(b"k", b"l").kvs} == {b"k%d" % number for number in range(20)}


# --- the last one left --------------------------------------------------------------------------------------


def _crash(member: Member) -> None:
    """Kill the process; etcd is stopped, for a killed 3.5.1 may lack what it had applied (pull request 13908)."""
    if member.program.kind == "etcd":
        member.terminate()
    else:
        member.kill9()


@pytest.mark.slow
def test_one_of_three_becomes_a_cluster_of_its_own_and_grows_again(cluster: Cluster) -> None:
    """F-73, CL-06: the two others are lost for good; the data is kept, and two new members get it."""
    for number in range(50):
        cluster.members[number % 3].client.put(b"k%d" % number, b"v%d" % number)
    revision = cluster.wait_same_hash()
    survivor, *lost = cluster.members
    before = survivor.client.hash_kv(revision)
    cluster_id, survivor_id = before.header.cluster_id, survivor.id
    # etcd keeps what the survivor knows to be committed, which a crash may set back by the last few entries.
    last = [survivor.client.put(b"last").header.revision for _number in range(5)][-1]
    cluster.wait_same_hash()
    cluster.kill9(*lost)
    _crash(survivor)
    for member in lost:
        cluster.members.remove(member)
    survivor.once = ("--force-new-cluster",)
    survivor.spawn()
    survivor.wait_serving()
    (record,) = cluster.wait_same_members()
    assert (record.ID, record.name) == (survivor_id, survivor.name)
    after = survivor.client.hash_kv(revision)
    assert (after.hash, after.header.cluster_id) == (before.hash, cluster_id)
    if cluster.program.kind == "raftkv":
        assert survivor.client.revision() == last
    now = survivor.client.put(b"alone").header.revision
    assert revision < now <= last + 1

    _crash(survivor)  # and without the flag it stays alone
    survivor.spawn()
    survivor.wait_serving()
    assert len(cluster.wait_same_members()) == 1
    assert survivor.client.revision() == now
    for name in ("m3", "m4"):
        newcomer, _answer = cluster.add(name, survivor)
        newcomer.spawn()
        newcomer.wait_serving()
        newcomer.client.put(b"through " + name.encode())
    _check_serves(cluster)
    for member in cluster.members:
        assert member.client.value(b"k49", serializable=True) == b"v49"
