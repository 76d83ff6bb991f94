"""Which streams of which proxies carry the data that a fault is about."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from chaos import names
from chaos.cluster import Cluster
from chaos.faults import FAULTS, Scene, both_ways, into, out_of
from chaos.links import CUT, Direction, Links, Placed, Toxic, places
from chaos.plan import Step, Target


def test_data_from_one_to_another_runs_in_connections_that_either_dialled() -> None:
    """etcd's members receive Raft messages on streams that they dialled themselves."""
    assert places((1, 2), "x") == (Placed("m1-m2", "upstream", "x-up"), Placed("m2-m1", "downstream", "x-down"))


def test_the_two_directions_of_a_pair_share_no_stream() -> None:
    there, back = places((1, 2), "x"), places((2, 1), "x")
    streams = {(place.proxy, place.stream) for place in (*there, *back)}
    assert streams == {(proxy, stream) for proxy in ("m1-m2", "m2-m1") for stream in ("upstream", "downstream")}
    assert len({(place.proxy, place.name) for place in (*there, *back)}) == 4


class FakeLinks(Links):
    """Remembers instead of placing."""

    def __init__(self) -> None:
        self.put_calls: list[tuple[str, Toxic, set[Direction]]] = []
        self.lifted: list[str] = []

    def put(self, label: str, toxic: Toxic, directions: Iterable[Direction]) -> None:
        given = list(directions)
        assert len(given) == len(set(given)), "a direction twice: Toxiproxy refuses the second toxic of that name"
        self.put_calls.append((label, toxic, set(given)))

    def lift(self, label: str) -> None:
        self.lifted.append(label)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(Cluster(3, tmp_path), FakeLinks())


def test_mute_and_deafen_are_the_two_halves_of_a_cut(scene: Scene) -> None:
    victim = scene.cluster.members[:1]
    assert out_of(scene, victim) == [(1, 2), (1, 3)]
    assert into(scene, victim) == [(2, 1), (3, 1)]
    assert both_ways(scene, victim) == sorted([*out_of(scene, victim), *into(scene, victim)])


def test_on_all_members_every_direction_is_meant_once(scene: Scene) -> None:
    assert both_ways(scene, scene.cluster.members) == [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]


@pytest.mark.parametrize(
    ("fault", "toxic", "directions"),
    [
        ("cut", CUT, {(2, 1), (2, 3), (1, 2), (3, 2)}),
        ("mute", CUT, {(2, 1), (2, 3)}),
        ("deafen", CUT, {(1, 2), (3, 2)}),
        ("cut-one-link", CUT, {(2, 3), (3, 2)}),
        ("delay", Toxic("latency", {"latency": 110, "jitter": 55}), {(2, 1), (2, 3), (1, 2), (3, 2)}),
        ("throttle", Toxic("bandwidth", {"rate": 26}), {(2, 1), (2, 3), (1, 2), (3, 2)}),
        ("reset", Toxic("reset_peer", {"timeout": 400}, 0.7), {(2, 1), (2, 3), (1, 2), (3, 2)}),
    ],
)
def test_what_each_fault_does_to_links(scene: Scene, fault: str, toxic: Toxic, directions: set[Direction]) -> None:
    links = scene.links
    assert isinstance(links, FakeLinks)
    step = Step(4, 0.0, 1.0, fault, Target.LEADER, pick=0.9, strength=0.5)
    FAULTS[fault].begin(scene, step, scene.cluster.members[1:2])
    assert links.put_calls == [("step4", toxic, directions)]
    FAULTS[fault].end(scene, step, scene.cluster.members[1:2])
    assert links.lifted == ["step4"]


def test_every_member_reaches_the_others_by_addresses_of_its_own() -> None:
    views = [names.hosts_text(viewer, 3).splitlines() for viewer in (1, 2, 3)]
    assert views[0] == [
        "127.0.0.1 localhost",
        "127.77.1.1 m1.chaos.test",
        "127.77.1.2 m2.chaos.test",
        "127.77.1.3 m3.chaos.test",
    ]
    addresses = [line.split()[0] for view in views for line in view if line.startswith("127.77.")]
    assert len(set(addresses)) == 9
    assert {names.own_address(number) for number in (1, 2, 3)} < set(addresses)
