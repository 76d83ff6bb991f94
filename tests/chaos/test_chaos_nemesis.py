"""The plan carried out on a cluster of sleeping processes: who is chosen, what is done, and that all is healed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from chaos import nemesis
from chaos.client import Status
from chaos.cluster import Cluster, Member, State, free_ports
from chaos.links import Direction, Links, Toxic
from chaos.nemesis import Nemesis
from chaos.plan import Step, Target
from chaos.programs import Program

SLEEP = Program("sleep", "1", ("sh", "-c", "exec sleep 60"))


class FakeLinks(Links):
    """Remembers instead of placing."""

    def __init__(self) -> None:
        self.placed: dict[str, set[Direction]] = {}
        self.ever_placed: dict[str, set[Direction]] = {}
        self.healed = False

    def put(self, label: str, toxic: Toxic, directions: Iterable[Direction]) -> None:
        self.placed[label] = self.ever_placed[label] = set(directions)

    def lift(self, label: str) -> None:
        del self.placed[label]

    def heal(self) -> None:
        self.healed = True


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three processes that do nothing; `in_view` without a namespace would bind-mount, so they are started plainly."""
    found = Cluster(3, tmp_path)
    for member in found.members:
        member._command = SLEEP.command
        member.start()
    yield found
    found.stop()


@asynccontextmanager
async def at_work(cluster: Cluster, leader: int | None, links: Links) -> AsyncIterator[Nemesis]:
    """A nemesis that is told who leads; None: nobody."""
    began = monotonic()
    working = Nemesis(cluster, links, lambda: monotonic() - began, lambda _text: None)

    async def statuses() -> dict[str, Status]:
        own = {1: 11, 2: 22, 3: 33}
        return {
            f"m{number}": Status(member_id, own[leader] if leader else 0, 5, 1, "3.6.0")
            for number, member_id in own.items()
        }

    working.statuses = statuses  # type: ignore[method-assign]
    try:
        yield working
    finally:
        await working.close()


def step(number: int, fault: str, target: Target, at_s: float = 0.0, lasts_s: float = 0.1, pick: float = 0.0) -> Step:
    return Step(number, at_s, lasts_s, fault, target, pick, strength=0.5)


def test_the_leader_is_cut_off_and_joined_again(cluster: Cluster) -> None:
    links = FakeLinks()

    async def story() -> Nemesis:
        async with at_work(cluster, leader=2, links=links) as working:
            await working.run([step(0, "cut", Target.LEADER)])
            return working

    (done,) = asyncio.run(story()).timeline
    assert links.ever_placed == {"step0": {(2, 1), (2, 3), (1, 2), (3, 2)}}
    assert links.placed == {}
    assert (done.fault, done.target, done.on) == ("cut", "leader", ["m2"])
    assert done.until_s - done.at_s >= 0.05


@pytest.mark.parametrize(("pick", "follower"), [(0.0, "m1"), (0.99, "m3")])
def test_which_follower_is_decided_by_the_plan(cluster: Cluster, pick: float, follower: str) -> None:
    async def story() -> Nemesis:
        async with at_work(cluster, leader=2, links=FakeLinks()) as working:
            await working.run([step(0, "kill", Target.FOLLOWER, pick=pick)])
            return working

    (done,) = asyncio.run(story()).timeline
    assert done.on == [follower]


def test_without_a_leader_any_member_is_taken_and_the_timeline_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nemesis, "FIND_LEADER_S", 0.05)

    async def story() -> Nemesis:
        async with at_work(cluster, leader=None, links=FakeLinks()) as working:
            await working.run([step(0, "pause", Target.LEADER, pick=0.99)])
            return working

    (done,) = asyncio.run(story()).timeline
    assert done.on == ["m3"]
    assert "nobody led" in done.detail


def state_of(member: Member) -> str:
    """The kernel's word for what the process is doing: T is stopped."""
    assert member._process is not None
    return Path(f"/proc/{member._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_paused_member_is_stopped_and_goes_on(cluster: Cluster) -> None:
    async def story() -> None:
        async with at_work(cluster, leader=1, links=FakeLinks()) as working:
            task = asyncio.create_task(working.run([step(0, "pause", Target.LEADER, lasts_s=2)]))
            while state_of(cluster.members[0]) != "T":
                await asyncio.sleep(0.001)
            assert cluster.members[0].state is State.PAUSED
            await task

    asyncio.run(story())
    assert cluster.members[0].state is State.RUNNING
    assert state_of(cluster.members[0]) != "T"


def test_killed_while_paused_and_all_at_once(cluster: Cluster) -> None:
    """Steps overlap; in the end everybody runs, with a new process, and nobody ended by itself."""
    before = [member._process for member in cluster.members]

    async def story() -> None:
        async with at_work(cluster, leader=1, links=FakeLinks()) as working:
            await working.run(
                [
                    step(0, "pause", Target.LEADER, lasts_s=0.4),
                    step(1, "kill", Target.ALL, at_s=0.1, lasts_s=0.1),
                    step(2, "kill", Target.LEADER, at_s=0.15, lasts_s=0.2),
                ]
            )

    asyncio.run(story())
    assert [member.state for member in cluster.members] == [State.RUNNING] * 3
    assert all(old is not member._process for old, member in zip(before, cluster.members, strict=True))
    assert cluster.ends == []


def test_healing_lifts_everything_and_wakes_everybody(cluster: Cluster) -> None:
    links = FakeLinks()
    cluster.members[0].pause()
    cluster.members[1].kill9()
    cluster.members[1].reap()

    async def story() -> None:
        async with at_work(cluster, leader=3, links=links) as working:
            await working.heal()

    asyncio.run(story())
    assert links.healed
    assert [member.state for member in cluster.members] == [State.RUNNING] * 3


def test_a_member_that_ends_by_itself_is_noticed_and_quoted(tmp_path: Path) -> None:
    member = Cluster(1, tmp_path).members[0]
    member._command = ("sh", "-c", "echo something broke; exit 3")
    member.start()
    assert member._process is not None
    member._process.wait()
    member.look_after()
    member.start()
    member._process.wait()
    member.kill9()
    assert member.state is State.DOWN
    assert len(member.ends) == 2
    assert "exit code 3" in member.ends[0]
    assert "something broke" in member.ends[0]


def test_a_kill_that_was_ordered_is_no_end_by_itself(cluster: Cluster) -> None:
    cluster.members[0].kill9()
    cluster.look_after()
    assert cluster.ends == []


def test_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_members_flags_are_etcds(tmp_path: Path) -> None:
    cluster = Cluster(2, tmp_path)
    first, second = cluster.members
    first.prepare(SLEEP, cluster.members, ("unshare",), "token")
    words = list(first._command)
    assert words[:3] == ["unshare", "sh", "-c"]
    assert f"--listen-peer-urls=http://127.77.1.1:{first.peer_port}" in words
    cluster_flag = f"m1=http://m1.chaos.test:{first.peer_port},m2=http://m2.chaos.test:{second.peer_port}"
    assert f"--initial-cluster={cluster_flag}" in words
    assert (tmp_path / "m1.hosts").read_text().splitlines()[1] == "127.77.1.1 m1.chaos.test"
