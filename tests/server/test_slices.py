"""Long work in slices: tasks take turns, one slice in each turn of the loop."""

from __future__ import annotations

from typing import Any

import pytest
from server_support import FakeLoop

from raftkv.server.slices import MAX_GIVEN, Slices


class Work:
    def __init__(self, name: str, slices: int, log: list[str]) -> None:
        self.name, self.left, self.log = name, slices, log

    def step(self) -> bool:
        self.left -= 1
        self.log.append(self.name)
        return self.left > 0


class Broken:
    def step(self) -> bool:
        raise RuntimeError("our mistake")


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
def slices(loop: Any, failures: list[Exception]) -> Slices:
    return Slices(loop, failures.append)


def test_tasks_take_turns_until_each_is_done(loop: FakeLoop, slices: Slices) -> None:
    log: list[str] = []
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        slices.add(Work(name, count, log))
    loop.run()
    assert "".join(log) == "abcaca"
    assert (len(slices), loop.idle) == (0, True)


def test_one_slice_in_a_turn_so_that_sockets_are_served_in_between(loop: FakeLoop, slices: Slices) -> None:
    log: list[str] = []
    slices.add(Work("a", 2, log))
    slices.add(Work("b", 2, log))
    assert log == []
    for expected in ("a", "ab", "aba", "abab"):
        loop.turn()
        assert "".join(log) == expected


def test_a_newcomer_waits_for_one_round(loop: FakeLoop, slices: Slices) -> None:
    log: list[str] = []
    slices.add(Work("a", 9, log))
    loop.turn()
    slices.add(Work("b", 1, log))
    loop.turn()
    loop.turn()
    assert "".join(log) == "aab"


def test_a_task_that_raises_ends_the_member(loop: FakeLoop, slices: Slices, failures: list[Exception]) -> None:
    slices.add(Broken())
    loop.run()
    assert [str(failure) for failure in failures] == ["our mistake"]


def test_nothing_is_done_after_the_stop(loop: FakeLoop, slices: Slices, failures: list[Exception]) -> None:
    log: list[str] = []
    slices.add(Work("a", 2, log))
    slices.stop()
    loop.run()
    assert (log, failures, len(slices)) == ([], [], 0)


def test_urgent_work_goes_first_and_stops_nothing(loop: Any, failures: list[Exception]) -> None:
    log: list[str] = []
    urgent = True
    slices = Slices(loop, failures.append, lambda: urgent)
    slices.add(Work("a", 2, log))
    for _ in range(MAX_GIVEN):
        loop.turn()
    assert log == []
    loop.turn()
    assert log == ["a"]
    loop.turn()
    assert log == ["a"]
    urgent = False
    loop.turn()
    assert log == ["a", "a"]
