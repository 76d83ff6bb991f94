"""GET /metrics: what Prometheus asks for (H-61).

Written in slices between other work: a scrape, whatever there is to show, keeps nobody waiting.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.api.figures import readers
from raftkv.metrics import ALL_FAMILIES, CONTENT_TYPE, EXTENSIVE, Descriptors, Exposition, new_histogram, process_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from raftkv.api.pages import Pages
    from raftkv.api.registry_counts import RegistryCounts
    from raftkv.api.serving import Serving
    from raftkv.rpc.service import Routes
    from raftkv.server import Node

_log = logging.getLogger(__name__)

SLICE_S: Final = 0.001
"""The most time in one turn of the loop, and one family beyond."""
MAX_SCRAPES: Final = 16
"""At once; further ones are refused: who asks faster than this is no Prometheus."""


class Answerable(Protocol):
    """The request, as this page sees it."""

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


class MetricsPage:
    PATH: Final = "/metrics"

    def __init__(self, node: Node, server: Serving, pages: Pages, routes: Routes, registry: RegistryCounts) -> None:
        """`routes`: the methods that are served, whose counters are shown from the start (M-03)."""
        self._node = node
        self._under_way = 0
        self._durations = new_histogram("raftkv_scrape_duration_seconds")
        descriptors = Descriptors(node.loop)
        node.on_tick(descriptors.on_tick)
        families = [
            family for family in ALL_FAMILIES if family.name not in EXTENSIVE or node.config.metrics == "extensive"
        ]
        figures = readers(node, server, pages, routes, registry, descriptors, self._durations)
        self._exposition = Exposition(families, figures)

    def answer(self, request: Answerable) -> None:
        if self._under_way >= MAX_SCRAPES:
            request.respond(503, [("content-type", "text/plain; charset=utf-8")], b"too many scrapes at once\n")
            return
        self._under_way += 1
        reading = self._node.loop.run_in_executor(None, process_text)
        reading.add_done_callback(lambda reading: self._on_process_read(request, reading))

    def _on_process_read(self, request: Answerable, reading: asyncio.Future[str]) -> None:
        self._node.slices.add(_Scrape(request, self._pieces(reading), self._end))

    def _pieces(self, reading: asyncio.Future[str]) -> Iterator[str]:
        yield from self._exposition.pieces()
        yield reading.result()

    def _end(self, took_s: float) -> None:
        self._under_way -= 1
        self._durations.observe(took_s)


class _Scrape:
    """One page in the making."""

    __slots__ = ("_end", "_parts", "_pieces", "_request", "_took_s")

    def __init__(self, request: Answerable, pieces: Iterator[str], end: Callable[[float], None]) -> None:
        self._request = request
        self._pieces = pieces
        self._end = end
        self._parts: list[str] = []
        self._took_s = 0.0

    def step(self) -> bool:
        began_s = perf_counter()
        try:
            more = self._go_on(began_s + SLICE_S)
        except Exception:  # ours, and no reason to end the member, as a slice that raises would
            _log.exception("the metrics cannot be shown")
            self._finish(500, b"the metrics cannot be shown; the log says why\n", began_s)
            return False
        if more:
            self._took_s += perf_counter() - began_s
        else:
            self._finish(200, "".join(self._parts).encode(), began_s)
        return more

    def _go_on(self, until_s: float) -> bool:
        for piece in self._pieces:
            self._parts.append(piece)
            if perf_counter() >= until_s:
                return True
        return False

    def _finish(self, status: int, body: bytes, began_s: float) -> None:
        content_type = CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
        self._request.respond(status, [("content-type", content_type)], body)
        self._end(self._took_s + perf_counter() - began_s)
