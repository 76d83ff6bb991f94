"""Connections of a listener whose TLS handshake is under way: counted, timed, and never too many at once.

Owns what happens to them until they are let in; then they are the listener's like all others. A storm of new
connections is worked off in slices, for a handshake costs a millisecond of CPU and other clients, and the other
members, shall not wait for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats
from raftkv.rpc.tls import Tls
from raftkv.rpc.tls_layer import TlsLayer

_log = logging.getLogger(__name__)

SLICE_S: Final = 0.005
"""The most time in one turn of the loop, and one handshake beyond."""
REPORT_EVERY_S: Final = 1.0
"""Failed handshakes are mentioned in the log at most this often: anybody can cause them."""
TEXT_TOO_SLOW: Final = "the handshake took too long"


class Handshakes:
    """The owner of the layers of one listener."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        stats: Stats,
        make_protocol: Callable[[], asyncio.Protocol],
        has_room: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._stats = stats
        self._make_protocol = make_protocol
        self._has_room = has_room
        self._tls: list[Tls] = []
        self._under_way: dict[TlsLayer, None] = {}
        """Bounded by Limits.max_connections, each by Limits.handshake_timeout_s."""
        self._due: deque[TlsLayer] = deque()
        self._half_done: deque[TlsLayer] = deque()
        """Go first: if all advanced together, in a storm none would be done before the time limit."""
        self._scheduled = False
        self._next_report_s = 0.0
        self._unreported = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def factory(self, tls: Tls, takes_plain: bool) -> Callable[[], TlsLayer]:
        """What a server makes of each connection."""
        if tls not in self._tls:
            self._tls.append(tls)
        return lambda: TlsLayer(self._loop, self, self._make_protocol(), tls, takes_plain=takes_plain)

    def on_tick(self, now: float) -> None:
        for layer in [each for each in self._under_way if now - each.began_at > self._limits.handshake_timeout_s]:
            self._stats.handshake_timeouts += 1
            layer.refuse(TEXT_TOO_SLOW)
        for tls in self._tls:
            tls.current()  # a change that cannot be used is reported before somebody connects

    def end(self, why: str) -> None:
        for layer in list(self._under_way):
            layer.refuse(why)

    # --- as the layers' owner

    def on_layer(self, layer: TlsLayer) -> bool:
        if not self._has_room():
            return False
        self._under_way[layer] = None
        return True

    def on_handshake_due(self, layer: TlsLayer) -> None:
        (self._half_done if layer.is_half_done else self._due).append(layer)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def on_secured(self, layer: TlsLayer) -> None:
        del self._under_way[layer]
        self._stats.tls_handshakes += 1

    def on_plain(self, layer: TlsLayer) -> None:
        del self._under_way[layer]

    def on_unsecured(self, layer: TlsLayer, why: str) -> None:
        del self._under_way[layer]
        if not layer.is_silent:
            self._stats.tls_handshakes_failed += 1
            self._report(layer, why)

    # --- within

    def _run(self) -> None:
        until_s = perf_counter() + SLICE_S
        half_done, due = self._half_done, self._due
        while (half_done or due) and perf_counter() < until_s:
            (half_done or due).popleft().shake_hands()
        self._scheduled = bool(half_done or due)
        if self._scheduled:
            self._loop.call_soon(self._run)

    def _report(self, layer: TlsLayer, why: str) -> None:
        now = self._loop.time()
        if now < self._next_report_s:
            self._unreported += 1
            return
        self._next_report_s = now + REPORT_EVERY_S
        name: Any = layer.get_extra_info("peername")
        fields = {"remote": str(name[0]) if isinstance(name, tuple) else "", "reason": why}
        if self._unreported:
            fields["and_others"] = str(self._unreported)
            self._unreported = 0
        _log.warning("a TLS connection is refused", extra={"kv": fields})
