"""Members that speak TLS to each other and to clients: certificates change under load, and strangers stay outside."""

import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.certificates import Authority, Pair, write
from helpers.cluster import Member
from helpers.cluster_load import ClusterLoad, check_all_members_have
from helpers.endpoints import secure as secure_endpoint
from helpers.load import check_nothing_lost
from helpers.processes import Program, clean_environment
from helpers.secure import SecureCluster, SecureMember, credentials
from helpers.waiting import stays_true, wait_until

NewSecureCluster = Callable[..., SecureCluster]


@pytest.fixture
def secure_cluster(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewSecureCluster]:
    """`secure_cluster("--flag=x")`: three members of the test's own, not started."""
    with ExitStack() as stack:

        def make(*flags: str) -> SecureCluster:
            cluster = SecureCluster(subject_program, tmp_path_factory.mktemp("cluster"), 3, flags)
            stack.callback(cluster.discard)
            return cluster

        yield make


def secure(member: Member) -> SecureMember:
    assert isinstance(member, SecureMember)
    return member


def _renew(pair: Pair, authority: Authority, name: str, common_name: str) -> None:
    """Other files in the places of these."""
    other = authority.issue(name, common_name)
    write(pair.key, other.key.read_bytes())
    write(pair.cert, other.cert.read_bytes())


def _shown(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port))


def _leaders_seen(members: list[Member]) -> set[int]:
    return {member.client.status().leader for member in members}


@pytest.mark.slow
def test_tls_02_everything_is_renewed_under_load_and_nothing_is_lost(secure_cluster: NewSecureCluster) -> None:
    """Another CA, and certificates of it for every member, in the three steps that operators take; no restart for that,
    and what was connected goes on. That the new ones are in force is seen when members have to connect anew."""
    cluster = secure_cluster()
    successor = Authority(cluster.directory / "next")
    for member in cluster.members:
        secure_endpoint(member.endpoint, credentials(cluster.authority, cluster.admin, successor))
    cluster.start()
    assert all(each.clientURLs[0].startswith("https://") for each in cluster.wait_same_members())
    old_ca, new_ca = cluster.authority.ca.read_bytes(), successor.ca.read_bytes()
    with ClusterLoad(cluster.members, "rotation") as load:
        load.wait_more(100)
        write(cluster.authority.ca, old_ca + new_ca)
        load.wait_more(100)
        for member in map(secure, cluster.members):
            _renew(member.peer_pair, successor, f"{member.name}-peer", member.name)
            _renew(member.client_pair, successor, f"{member.name}-client", "server")
        load.wait_more(100)
        # Members of the old CA are no longer believed, nor are clients: those who are connected stay.
        write(cluster.authority.ca, new_ca)
        load.wait_more(100)
        write(cluster.authority.ca, new_ca + old_ca)
        for member in map(secure, cluster.members):
            assert _shown(member.peer_port) == member.peer_pair.cert.read_text()
            assert _shown(member.client_port) == member.client_pair.cert.read_text()
        leader = cluster.leader()
        leader.kill9()
        load.wait_more(100)
        cluster.restart(leader)
        load.wait_more(100)
        other = cluster.followers()[0]
        other.kill9()
        cluster.restart(other)
        load.wait_more(100)
    check_all_members_have(cluster, load.history)


@pytest.mark.slow
def test_a_member_of_another_ca_is_kept_out_until_its_files_are_right(secure_cluster: NewSecureCluster) -> None:
    """TLS-03 among members: the other two are a quorum, and go on."""
    cluster = secure_cluster()
    stranger = secure(cluster.members[2])
    right = stranger.peer_pair.cert.read_bytes(), stranger.peer_pair.key.read_bytes()
    _renew(stranger.peer_pair, Authority(cluster.directory / "wrong"), "wrong", stranger.name)
    friends = cluster.members[:2]
    for member in cluster.members:
        member.spawn()
    for member in friends:
        member.wait_serving()
    friends[0].client.put(b"k", b"v")
    leaders = wait_until("the two agree", lambda: len(seen := _leaders_seen(friends)) == 1 and 0 not in seen and seen)
    assert leaders <= {each.id for each in friends}
    # It would have to win a vote, or be told of an entry, before it serves: neither can reach it.
    stays_true("the stranger does not serve", lambda: not _serves(stranger), 3.0)
    write(stranger.peer_pair.key, right[1])
    write(stranger.peer_pair.cert, right[0])
    stranger.wait_serving()
    assert stranger.client.value(b"k") == b"v"
    cluster.wait_same_hash()


def _serves(member: Member) -> bool:
    return "ready to serve client requests" in member.log_text()


@pytest.mark.slow
def test_tls_05_members_are_known_by_their_common_names(secure_cluster: NewSecureCluster) -> None:
    cluster = secure_cluster("--peer-cert-allowed-cn=m0,m1")
    for member in cluster.members:
        member.spawn()
    for member in cluster.members[:2]:
        member.wait_serving()
    cluster.members[0].client.put(b"k")
    stays_true("m2 is kept out", lambda: not _serves(cluster.members[2]), 3.0)


@pytest.mark.slow
def test_tls_08_members_with_certificates_of_their_own(
    subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from helpers.cluster import Cluster

    cluster = Cluster(subject_program, tmp_path_factory.mktemp("cluster"), 3, ["--peer-auto-tls"])
    try:
        for member in cluster.members:
            member.peer_url = member.peer_url.replace("http://", "https://")
        cluster.use_initial_cluster(cluster.members)
        cluster.start()
        cluster.members[1].client.put(b"k", b"v")
        assert cluster.members[2].client.value(b"k") == b"v"
        made = [member.data_dir / "fixtures" / "peer" for member in cluster.members]
        assert all((each / "cert.pem").exists() and (each / "key.pem").exists() for each in made)
        assert len({(each / "cert.pem").read_bytes() for each in made}) == 3
    finally:
        cluster.discard()


def _raftkv(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raftkv", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.beyond_etcd("the flag and the commands are raftkv's own")
def test_copies_of_the_store_travel_over_tls_too(secure_cluster: NewSecureCluster, tmp_path: Path) -> None:
    """To a follower that was away for too long, to `raftkv rebuild`, and to `raftkv snapshot save`."""
    cluster = secure_cluster("--snapshot-count=100", "--snapshot-catchup-entries=50").start()
    away = secure(cluster.followers()[0])
    away.kill9()
    leader = secure(cluster.leader())
    with ClusterLoad(cluster.serving(), "missed") as load:
        load.wait_more(600)
    cluster.restart(away)
    wait_until("a copy is installed", lambda: "the store was replaced by a copy" in away.log_text())
    check_all_members_have(cluster, load.history, watches=False)

    away.terminate()
    own = f"--cert={away.peer_pair.cert}", f"--key={away.peer_pair.key}", f"--cacert={cluster.authority.ca}"
    _raftkv("rebuild", f"--data-dir={away.data_dir}", f"--from={leader.peer_url}", *own)
    cluster.restart(away)
    check_nothing_lost(away.endpoint, load.history)

    as_client = f"--cert={cluster.admin.cert}", f"--key={cluster.admin.key}", f"--cacert={cluster.authority.ca}"
    _raftkv("snapshot", "save", tmp_path / "backup.db", f"--endpoints={leader.endpoint}", *as_client)
    assert (tmp_path / "backup.db").stat().st_size > 100_000
