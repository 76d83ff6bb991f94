"""Three members' /metrics: what each says of the others, of leaders and of copies of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from helpers.cluster import Cluster, Member
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, free_port
from helpers.waiting import wait_until
from scrape_support import Page, listed, scrape

from raftkv.pb import rpc_pb2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    flags = ("--snapshot-count=50", "--experimental-snapshot-catchup-entries=50")
    made = Cluster(RAFTKV, tmp_path_factory.mktemp("metrics-cluster"), 3, flags)
    try:
        yield made.start()
    finally:
        made.discard()


def page_of(member: Member) -> Page:
    return scrape(member.client_port)


def put(member: Member, count: int, size: int = 10) -> None:
    with connect(member.endpoint) as channel:
        for number in range(count):
            Calls(channel).KV.Put(rpc_pb2.PutRequest(key=b"%d" % number, value=b"v" * size), timeout=20)


def ids(members: list[Member]) -> set[str]:
    return {f"{each.id:x}" for each in members}


def test_leadership(cluster: Cluster) -> None:
    leader = cluster.leader()
    pages = {member.id: page_of(member) for member in cluster.members}
    for member_id, page in pages.items():
        assert page.value("etcd_server_has_leader") == 1
        assert page.value("etcd_server_is_leader") == (member_id == leader.id)
        assert page.value("etcd_server_is_learner") == 0
        assert page.value("etcd_server_leader_changes_seen_total") >= 1, "the first one counts"
    assert pages[leader.id].value("etcd_cluster_version", cluster_version="3.6") == 1


def test_peers(cluster: Cluster) -> None:
    """M-02, and the labels by which dashboards tell members apart."""
    leader = cluster.leader()
    put(leader, 20)
    others = ids(cluster.others(leader))
    own = f"{leader.id:x}"

    def measured() -> Page | None:
        page = page_of(leader)
        counts = page.samples.get("etcd_network_peer_round_trip_time_seconds_count", {})
        return page if len(counts) == 2 and all(value >= 2 for value in counts.values()) else None

    page = wait_until("round trips are measured", measured)
    trips = "etcd_network_peer_round_trip_time_seconds"
    assert {dict(labels)["To"] for labels in page.samples[f"{trips}_count"]} == others
    assert 0 < page.value(f"{trips}_sum") < 60
    known = {(dict(labels)["Local"], dict(labels)["Remote"]) for labels in page.samples["etcd_network_known_peers"]}
    assert known == {(own, other) for other in (*others, own)}
    for other in others:
        assert page.value("etcd_network_active_peers", Local=own, Remote=other) == 1
        assert page.value("etcd_network_peer_sent_bytes_total", To=other) > 200
        assert page.value("etcd_network_peer_received_bytes_total", From=other) > 100
    assert page.value("raftkv_connections", port="peer") >= 2
    for name in page.types:
        if name in listed():
            assert (page.types[name], page.label_names(name)) == (listed()[name].kind, {listed()[name].labels}), name


def test_every_member_applies_and_counts(cluster: Cluster) -> None:
    before = {member.id: page_of(member) for member in cluster.members}
    put(cluster.leader(), 10)
    for member in cluster.members:
        old = before[member.id]

        def applied(member: Member = member, old: Page = old) -> bool:
            new = page_of(member)
            return new.value("etcd_mvcc_put_total") - old.value("etcd_mvcc_put_total") == 10

        wait_until(f"{member.name} has applied", applied)
        new = page_of(member)
        for name in ("etcd_server_proposals_applied_total", "etcd_disk_wal_fsync_duration_seconds_count"):
            assert new.value(name) > old.value(name), name
    followers = [each for each in cluster.members if each is not cluster.leader()]
    checks = sum(page_of(each).value("raftkv_state_hash_checks_total") for each in followers)
    assert checks > 0, "the states of members are compared"


def test_promotions_are_counted_on_the_leader(cluster: Cluster) -> None:
    leader = cluster.leader()
    with connect(leader.endpoint) as channel, pytest.raises(grpc.RpcError) as caught:
        Calls(channel).Cluster.MemberPromote(rpc_pb2.MemberPromoteRequest(ID=leader.id), timeout=20)
    page = page_of(leader)
    reason = caught.value.details()
    assert page.value("etcd_server_learner_promote_failures", Reason=reason) == 1
    assert page.value("etcd_server_learner_promote_successes") == 0


def test_a_lost_member_and_the_copy_it_gets(cluster: Cluster) -> None:
    """Another leader, failures to send, and a copy of the store for who was away too long."""
    lost = cluster.leader()
    rest = cluster.others(lost)
    changes = {each.id: page_of(each).value("etcd_server_leader_changes_seen_total") for each in rest}
    cluster.kill9(lost)
    leader = wait_until("another leads", lambda: next((each for each in rest if _leads(each)), None))
    assert page_of(leader).value("etcd_server_leader_changes_seen_total") > changes[leader.id]
    labels = {"Local": f"{leader.id:x}", "Remote": f"{lost.id:x}"}
    wait_until(
        "the lost one is missed", lambda: page_of(leader).value("etcd_network_disconnected_peers_total", **labels) >= 1
    )
    assert page_of(leader).value("etcd_network_active_peers", **labels) == 0
    put(leader, 300)
    assert page_of(leader).value("etcd_network_peer_sent_failures_total", To=f"{lost.id:x}") > 0
    cluster.restart(lost)
    key = {"From": f"{leader.id:x}"}
    wait_until("a copy is received", lambda: page_of(lost).value("etcd_network_snapshot_receive_success", **key) == 1)
    page = page_of(lost)
    assert page.value("etcd_network_snapshot_receive_total_duration_seconds_count", **key) == 1
    assert page.value("etcd_snap_db_save_total_duration_seconds_count") == 1
    assert page.value("etcd_network_snapshot_receive_inflights_total", **key) == 0
    to = {"To": f"{lost.id:x}"}
    wait_until("the giver knows", lambda: page_of(leader).value("etcd_network_snapshot_send_success", **to) == 1)
    page = page_of(leader)
    assert page.value("etcd_network_snapshot_send_total_duration_seconds_count", **to) == 1
    assert page.value("etcd_network_snapshot_send_inflights_total", **to) == 0
    assert page.value("etcd_disk_backend_snapshot_duration_seconds_count") == 1


def _leads(member: Member) -> bool:
    return page_of(member).value("etcd_server_is_leader") == 1


def test_a_member_that_cannot_join_yet(tmp_path: Path) -> None:
    """H-08, M-03: an alert on etcd_server_has_leader must see a member that waits for the others."""
    port = free_port()
    member = Member(RAFTKV, tmp_path, "alone", [f"--listen-metrics-urls=http://127.0.0.1:{port}"])
    member.initial_cluster += f",other=http://127.0.0.1:{free_port()}"
    try:
        member.spawn()

        def answered() -> Page | None:
            try:
                return scrape(port)
            except OSError:
                return None

        page = wait_until("it shows itself", answered)
        assert page.types["etcd_server_has_leader"] == "gauge"
        assert page.value("etcd_server_has_leader") == 0
        assert page.value("etcd_server_leader_changes_seen_total") == 0
        assert "etcd_cluster_version" not in page.samples
        assert page.value("etcd_network_active_peers") == 0
        assert len(page.samples["etcd_network_known_peers"]) == 2
        assert page.value("grpc_server_handled_total") == 0
        assert len(page.samples["grpc_server_handled_total"]) > 500
    finally:
        member.end()
