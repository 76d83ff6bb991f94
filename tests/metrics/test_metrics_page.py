"""GET /metrics between other work, and the count of file descriptors."""

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator

import pytest

from raftkv.api import metrics_page as module
from raftkv.api.metrics_page import SLICE_S, _Scrape
from raftkv.metrics import Descriptors, process_text


class Request:
    def __init__(self) -> None:
        self.answers: list[tuple[int, str, bytes]] = []

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, dict(headers)["content-type"], body))


def make(pieces: Iterator[str]) -> tuple[_Scrape, Request, list[float]]:
    request, took = Request(), list[float]()
    return _Scrape(request, pieces, took.append), request, took


class Clock:
    """Time goes by only where a piece takes some."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def pieces(self, count: int, work_s: float) -> Iterator[str]:
        for number in range(count):
            self.now_s += work_s
            yield f"{number}\n"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", lambda: clock.now_s)
    return clock


def test_a_long_page_is_written_in_slices(clock: Clock) -> None:
    """Others have their turn after each of them."""
    scrape, request, took = make(clock.pieces(5, SLICE_S * 1.2))
    steps = 1
    while scrape.step():
        assert not request.answers
        steps += 1
    assert steps == 6, "one piece in each, and one to see that there are no more"
    assert request.answers == [(200, "text/plain; version=0.0.4; charset=utf-8", b"0\n1\n2\n3\n4\n")]
    assert took == [pytest.approx(5 * SLICE_S * 1.2)]


def test_a_short_page_needs_one() -> None:
    scrape, request, took = make(iter(["a 1\n", "", "b 2\n"]))
    assert not scrape.step()
    assert request.answers[0][2] == b"a 1\nb 2\n"
    assert len(took) == 1


def test_a_figure_that_cannot_be_read_does_not_end_the_member(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[str]:
        yield "a 1\n"
        raise RuntimeError("our mistake")

    scrape, request, took = make(broken())
    assert not scrape.step()
    [(status, _, body)] = request.answers
    assert (status, len(took)) == (500, 1)
    assert b"a 1" not in body
    assert "the metrics cannot be shown" in caplog.text


def test_the_process_is_shown() -> None:
    """M-20, M-22."""
    text = process_text()
    assert "\nprocess_resident_memory_bytes " in text
    assert "\npython_info{" in text
    assert "_created" not in text, "PY-20"


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda limit: monkeypatch.setattr(resource, "getrlimit", lambda _kind: (limit, limit))


def test_descriptors_that_run_out_are_mentioned_once(
    limit: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """M-21: counted every 10 s, with a warning above 80 %."""

    async def count(*moments: float) -> Descriptors:
        descriptors = Descriptors(asyncio.get_running_loop())
        for now in moments:
            descriptors.on_tick(now)
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
        return descriptors

    caplog.set_level(logging.WARNING)
    limit(1_000_000)
    found = asyncio.run(count(100.0))
    assert 0 < found.used < 1000
    assert (found.limit, caplog.text) == (1_000_000, "")
    limit(found.used)
    asyncio.run(count(100.0, 105.0, 110.0, 120.0))
    assert caplog.text.count("file descriptors are running out") == 1


def test_descriptors_are_counted_anew_after_ten_seconds() -> None:
    async def count() -> tuple[int, int, int]:
        loop = asyncio.get_running_loop()
        descriptors = Descriptors(loop)
        seen = []
        opened: list[int] = []
        for now in (100.0, 105.0, 110.0):
            descriptors.on_tick(now)
            await loop.run_in_executor(None, time.sleep, 0.05)
            seen.append(descriptors.used)
            opened += (os.open(os.devnull, os.O_RDONLY) for _ in range(5))
        for each in opened:
            os.close(each)
        return seen[0], seen[1], seen[2]

    first, second, third = asyncio.run(count())
    assert first == second
    assert third - first in range(9, 12), "ten more, and what the loop opens"
