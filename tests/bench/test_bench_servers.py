"""Clusters as processes: what members are told, and that they end."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import procfs
from bench.servers import Cluster, Program, Server, ServerError, running

SLEEPER = Program("etcd", "1", ("/bin/sh", "-c", 'printf "%s\\n" "$@"; exec sleep 60', "sh"), "member/db")
FAILING = Program("raftkv", "1", ("/bin/sh", "-c", "echo no room; exit 3", "sh"), "member/db")


def _told(directory: Path, name: str, last: str = "--log-level=warn") -> dict[str, str]:
    """The flags of a member, from what it wrote into its log, once that ends with `last`."""
    log = directory / f"{name}.log"
    _wait(lambda: log.read_text().endswith(f"{last}\n"))
    return dict(line.split("=", 1) for line in log.read_text().splitlines())


def _wait(reached: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("size", [1, 3])
def test_members_share_a_cluster_and_nothing_else(tmp_path: Path, size: int) -> None:
    names = [f"n{number + 1}" for number in range(size)]
    with running([SLEEPER], tmp_path, size, {"etcd": ["--more=1"], "raftkv": ["--other=1"]}) as (cluster,):
        assert [server.name for server in cluster.servers] == names
        told = [_told(tmp_path / "etcd", name, last="--more=1") for name in names]
        assert len(set(cluster.pids)) == size
    shared = {name: value for name, value in told[0].items() if all(each[name] == value for each in told)}
    peers = dict(peer.split("=") for peer in told[0]["--initial-cluster"].split(","))
    assert peers == {each["--name"]: each["--initial-advertise-peer-urls"] for each in told}
    assert len({each["--listen-client-urls"] for each in told}) == size
    assert len({each["--data-dir"] for each in told}) == size
    assert shared["--initial-cluster-state"] == "new"
    assert (shared["--heartbeat-interval"], shared["--election-timeout"]) == ("100", "1000")
    assert shared["--more"] == "1"
    assert "--other" not in shared


def test_members_are_started_again_with_a_certificate(tmp_path: Path) -> None:
    with running([SLEEPER], tmp_path, 2) as (cluster,):
        before = cluster.pids
        assert cluster.ca_file == ""
        cluster.secure()
        assert not set(before) & set(cluster.pids)
        for server in cluster.servers:
            log = tmp_path / "etcd" / f"{server.name}.log"
            _wait(lambda log=log: "--key-file=" in log.read_text())
            told = _told(tmp_path / "etcd", server.name)
            assert told["--listen-client-urls"] == told["--advertise-client-urls"] == f"https://127.0.0.1:{server.port}"
            assert told["--cert-file"] == cluster.ca_file == server.ca_file


def test_clusters_end_with_their_block_and_give_the_signal_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    other = SLEEPER._replace(name="raftkv")
    pids: list[int] = []

    def interrupted() -> None:
        with running([SLEEPER, other], tmp_path, 2) as clusters:
            pids.extend(pid for cluster in clusters for pid in cluster.pids)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 4
    for pid in pids:
        with pytest.raises(OSError, match="No such"):
            procfs.cpu_s(pid)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_member_that_ends_by_itself_is_missed(tmp_path: Path) -> None:
    with running([FAILING], tmp_path, 2) as (cluster,):
        _wait(lambda: cluster.running == [])
        with pytest.raises(ServerError, match=r"raftkv n1 ended with exit code 3\nno room"):
            cluster.check_running()


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_member_that_was_ended_is_not_missed_and_can_start_again(tmp_path: Path, end: object) -> None:
    assert callable(end)
    with running([SLEEPER], tmp_path, 3) as (cluster,):
        first, second, third = cluster.servers
        told = _told(tmp_path / "etcd", "n2")
        end(second)
        assert cluster.running == [first, third]
        cluster.check_running()
        second.start()
        assert cluster.running == [first, second, third]
        log = tmp_path / "etcd" / "n2.log"
        _wait(lambda: log.read_text().count(f"--listen-peer-urls={told['--listen-peer-urls']}") == 2)


def test_a_member_that_somebody_killed_can_start_again(tmp_path: Path) -> None:
    with running([SLEEPER], tmp_path, 1) as (cluster,):
        (server,) = cluster.servers
        os.kill(server.pid, signal.SIGKILL)
        server.wait_ended()
        assert not server.running
        server.start()
        assert server.running


def test_another_database_file_has_another_identity(tmp_path: Path) -> None:
    cluster = Cluster(SLEEPER, tmp_path / "etcd", 1)
    (server,) = cluster.servers
    assert server.database_id is None
    file = tmp_path / "etcd" / "n1" / "member" / "db"
    file.parent.mkdir(parents=True)
    file.write_text("old")
    before = server.database_id
    file.write_text("changed in its place")
    assert server.database_id == before
    received = file.with_name("received")
    received.write_text("new")
    received.rename(file)
    assert server.database_id != before


def test_memory_of_members_is_summed() -> None:
    alone = procfs.total_memory([os.getpid()])
    assert procfs.total_memory([os.getpid()] * 3).rss_bytes == pytest.approx(3 * alone.rss_bytes, rel=0.1)
