"""etcdctl on three members, side by side with three real etcd members: outputs and exit codes (section 12.8)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster_ctl import ClusterSide, Scenario
from helpers.cluster import Cluster
from helpers.comparison import difference
from helpers.etcd_tools import Tool, ToolMissingError, etcdctl
from helpers.processes import Program
from helpers.waiting import wait_until

pytestmark = pytest.mark.differential

NewCluster = Callable[..., Cluster]
Compare = Callable[[Scenario], None]

_FORMATS = ("simple", "json", "fields", "table")


@pytest.fixture
def compare_clusters(
    new_cluster: NewCluster, etcd_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Compare:
    """Play one scenario on three members of each program and compare the transcripts."""

    def play(scenario: Scenario, cluster: Cluster, tool: Tool) -> list[str]:
        cluster.start()
        cluster.wait_same_members()
        side = ClusterSide(cluster, tool, tmp_path_factory.mktemp("side"))
        scenario(side)
        return side.transcript

    def run(scenario: Scenario) -> None:
        try:
            tool = etcdctl("3.5.1", tmp_path_factory.mktemp("tool"))
        except ToolMissingError as error:
            pytest.skip(str(error))
        clusters = new_cluster(3), new_cluster(3, program=etcd_program)
        with ThreadPoolExecutor(max_workers=2) as pool:
            subject, etcd = pool.map(lambda cluster: play(scenario, cluster, tool), clusters)
        assert any(line.startswith("  = ") for line in etcd)
        assert subject == etcd, difference(etcd, subject)

    return run


def _lead(side: ClusterSide, rank: int) -> None:
    """Make one member the leader, without a line in the transcript."""
    member, leader = side.ranked[rank - 1], side.cluster.leader()
    leader.client.move_leader(member.id)
    wait_until("all members know the leader", lambda: side.cluster.leader_now() is member)


def _write_history(side: ClusterSide) -> None:
    for number in range(12):
        side.ranked[number % 3].client.put(b"k%d" % (number % 5), b"v%d" % number)
    side.ranked[1].client.delete(b"k3")
    side.cluster.wait_same_hash()


def _look(side: ClusterSide) -> None:
    _lead(side, 2)
    _write_history(side)
    for fmt in _FORMATS:
        side.ctl(f"member list -w {fmt}")
        side.ctl(f"endpoint status -w {fmt}", side.ranked)
        side.ctl(f"endpoint hashkv -w {fmt}", side.ranked)
    for fmt in ("json", "table"):
        side.ctl(f"endpoint status --cluster -w {fmt}", side.ranked[:1])
        side.ctl(f"endpoint hashkv --cluster -w {fmt}", side.ranked[2:])
    side.ctl("endpoint hashkv --cluster --rev=5", side.ranked[1:2])
    side.ctl("endpoint health --cluster", ordered=False)
    side.ctl("endpoint health --cluster -w table", ordered=False)
    side.ctl("member list --consistency=s")


def test_member_and_endpoint_tables(compare_clusters: Compare) -> None:
    """CT-01, CT-02, MT-21, MT-22: the same numbers, in the same places, on all six members."""
    compare_clusters(_look)


def _move(side: ClusterSide) -> None:
    _lead(side, 1)
    side.ctl("move-leader {id2}", side.ranked)
    wait_until("the second leads", lambda: side.cluster.leader_now() is side.ranked[1])
    side.ctl("move-leader {id2}", side.ranked)
    side.ctl("move-leader {id1}")  # not the leader's endpoint
    side.ctl("move-leader 1234", side.ranked)
    side.ctl("move-leader", side.ranked)
    side.ctl("endpoint status -w table", side.ranked)


def test_move_leader(compare_clusters: Compare) -> None:
    """MT-40 to MT-43."""
    compare_clusters(_move)


def _change(side: ClusterSide) -> None:
    cluster = side.cluster
    _lead(side, 1)
    newcomer = cluster.new_member("newcomer")
    refused_at_first = "unhealthy cluster"
    side.ctl_until("member add twin --peer-urls={peer2}", refused_at_first)
    side.ctl("member add newcomer")
    side.ctl("member add newcomer --peer-urls=nonsense")
    side.ctl("member remove 1234")
    side.ctl("member update 1234 --peer-urls=http://127.0.0.1:1")
    side.ctl("member update {id1} --peer-urls={peer2}")
    side.ctl("member promote 1234")
    side.ctl("member promote {id2}")

    side.announce(newcomer)
    side.ctl_until("member add newcomer --learner --peer-urls={peer4}", refused_at_first)
    cluster.use_initial_cluster([*cluster.members, newcomer])
    newcomer.state = "existing"
    side.ctl("member list", ordered=False)
    side.ctl("member list -w table", ordered=False)
    side.ctl("member promote {id4}")
    newcomer.spawn()
    newcomer.wait_serving()
    wait_until("the newcomer has told its name", lambda: _is_published(cluster, newcomer.peer_url))
    side.ctl("endpoint status -w table", side.ranked)
    side.ctl_until("member promote {id4}", "in sync with leader")
    side.ctl("member list -w table", ordered=False)
    side.ctl("member update {id4} --peer-urls={peer4}")
    side.ctl_until("member remove {id4}", refused_at_first)
    newcomer.wait_exit()
    side.ctl("member remove {id4}")
    side.ctl("member list -w simple")


def _is_published(cluster: Cluster, peer_url: str) -> bool:
    """All members know the name of the one at this peer URL."""
    return all(
        any(each.name and list(each.peerURLs) == [peer_url] for each in member.client.members(False).members)
        for member in cluster.members
    )


@pytest.mark.slow
def test_member_add_promote_update_remove(compare_clusters: Compare) -> None:
    """CL-20, CL-21, CL-27, CL-30, CL-40, CL-41, CL-42, with the exit codes and the environment that add prints."""
    compare_clusters(_change)


def _with_one_down(side: ClusterSide) -> None:
    _lead(side, 1)
    side.ranked[2].kill9()
    short = "--command-timeout=1s --dial-timeout=1s"
    side.ctl(f"endpoint status --cluster -w table {short}")
    side.ctl(f"endpoint health --cluster {short}", ordered=False)
    side.ctl(f"endpoint hashkv --cluster {short}")
    side.ctl("member list")


@pytest.mark.slow
@pytest.mark.crash
def test_one_member_is_down(compare_clusters: Compare) -> None:
    """CT-05: what the tool says of it, and the exit codes."""
    compare_clusters(_with_one_down)
