"""Handshakes of many connections at once, and what a peer may send in place of one. No sockets: layers by hand."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from helpers.certificates import Authority
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tls_kit import authority_in, run, settings

from raftkv.rpc import handshakes
from raftkv.rpc.handshakes import Handshakes
from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats
from raftkv.rpc.tls import Tls, server_tls
from raftkv.rpc.tls_layer import MAX_EARLY_BYTES, TlsLayer


class FakeTransport:
    """Keeps what is done to it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default


class Slow:
    """A layer whose handshake costs a few milliseconds."""

    def __init__(self, done: list[object], is_half_done: bool = False) -> None:
        self._done = done
        self.is_half_done = is_half_done

    def shake_hands(self) -> None:
        time.sleep(0.003)
        self._done.append(self)


def make_owner(loop: asyncio.AbstractEventLoop) -> tuple[Handshakes, Stats]:
    stats = Stats()
    return Handshakes(loop, Limits(), stats, asyncio.Protocol, lambda: True), stats


def test_a_storm_of_handshakes_leaves_time_for_others() -> None:
    """A leader that shook hands for a second would send no heartbeat, and lose its office."""

    async def main() -> None:
        owner, _ = make_owner(asyncio.get_running_loop())
        done: list[object] = []
        for _ in range(40):
            layer: Any = Slow(done)
            owner.on_handshake_due(layer)
        turns = 0
        while len(done) < 40:
            before = len(done)
            await asyncio.sleep(0)
            turns += 1
            assert len(done) - before <= handshakes.SLICE_S / 0.003 + 1
        assert turns >= 20

    run(main)


def test_what_is_half_done_goes_first() -> None:
    """If all advanced together, in a storm none would be done before the time limit."""

    async def main() -> None:
        owner, _ = make_owner(asyncio.get_running_loop())
        done: list[object] = []
        layers: list[Any] = [Slow(done, is_half_done=number == 9) for number in range(10)]
        for layer in layers:
            owner.on_handshake_due(layer)
        while len(done) < 10:
            await asyncio.sleep(0)
        assert done == [layers[9], *layers[:9]]

    run(main)


def in_server_role(tls: Tls) -> tuple[TlsLayer, FakeTransport, Handshakes, Stats]:
    loop = asyncio.new_event_loop()
    try:
        owner, stats = make_owner(loop)
        layer = owner.factory(tls, False)()
        transport: Any = FakeTransport()
        layer.connection_made(transport)
        return layer, transport, owner, stats
    finally:
        loop.close()


_tls: list[Tls] = []


def _shared_tls(directory: Path) -> Tls:
    if not _tls:
        authority, pair = authority_in(directory)
        _tls.append(server_tls(settings(authority, pair)))
    return _tls[0]


def test_whatever_comes_first_raises_nothing(tmp_path_factory: Any) -> None:
    tls = _shared_tls(tmp_path_factory.mktemp("pki"))

    @hypothesis_settings(deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=6), st.booleans())
    def check(pieces: list[bytes], looks_right: bool) -> None:
        layer, transport, owner, stats = in_server_role(tls)
        layer._owner = _Eager(owner)  # type: ignore[assignment]  # no loop turns here
        if looks_right:
            pieces[0] = b"\x16\x03\x01\x00\x50\x01" + pieces[0]
        for piece in pieces:
            layer.data_received(piece)
        layer.connection_lost(None)
        assert (len(owner), stats.tls_handshakes, stats.tls_handshakes_failed) == (0, 0, 1)
        assert transport.closed

    check()


class _Eager:
    """Hands on to the real owner, but lets handshakes go on at once."""

    def __init__(self, owner: Handshakes) -> None:
        self._owner = owner
        self.on_secured = owner.on_secured
        self.on_plain = owner.on_plain
        self.on_unsecured = owner.on_unsecured

    def on_handshake_due(self, layer: TlsLayer) -> None:
        layer.shake_hands()


def test_nobody_may_send_without_end_before_being_let_in(tmp_path: Path) -> None:
    """Also not while the handshake waits for its turn."""
    authority = Authority(tmp_path)
    tls = server_tls(settings(authority, authority.server()))
    layer, transport, owner, stats = in_server_role(tls)
    layer._loop = _NeverLoop()  # type: ignore[assignment]
    owner._loop = layer._loop
    layer.data_received(b"\x16\x03\x01\x00\x50\x01")
    for _ in range(MAX_EARLY_BYTES // 65536):
        assert not transport.closed
        layer.data_received(bytes(65536))
    assert transport.closed
    assert (len(owner), stats.tls_handshakes_failed) == (0, 1)


class _NeverLoop:
    def call_soon(self, *_: Any) -> None: ...

    def time(self) -> float:
        return 100.0
