"""Sockets for the server: accepting, telling HTTP/2 from HTTP/1.1, writing once per turn of the loop.

Owns transports and timers. All rules of the protocols are in the connection objects, which get bytes and the
time from here. Works on uvloop and asyncio.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from raftkv.rpc.deadlines import TICK_S
from raftkv.rpc.flow import Leaving
from raftkv.rpc.frames import PREFACE
from raftkv.rpc.http1 import Http1Connection
from raftkv.rpc.http_exchange import HttpHandler
from raftkv.rpc.limits import DEFAULT_LIMITS, Limits
from raftkv.rpc.server_connection import ServerConnection
from raftkv.rpc.server_context import ServerContext
from raftkv.rpc.service import Routes
from raftkv.rpc.stats import Stats
from raftkv.rpc.tls_names import ALPN_HTTP2, common_name_in

if TYPE_CHECKING:
    from raftkv.rpc.handshakes import Handshakes
    from raftkv.rpc.tls import Tls

logger = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 1.0
"""Between two looks at every connection: keepalive, half-sent frames, draining."""
BACKLOG: Final = 1024
WRITE_HIGH_BYTES: Final = 512 * 1024
"""What a transport buffers before it says pause. One turn's output (256 KiB) always fits."""


class _Connection(Protocol):
    """What a socket's connection object offers, whichever protocol it speaks."""

    @property
    def finished(self) -> bool: ...
    def receive_data(self, data: bytes, now: float) -> None: ...
    def take_output(self) -> bytes: ...
    def connection_lost(self) -> None: ...
    def on_tick(self, now: float) -> None: ...
    def drain(self, now: float) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class _Task(Protocol):
    def step(self) -> bool:
        """True: there is more to do. False: it will be added again if there is."""


class Line(Protocol):
    """Long work that takes turns, a task in each turn of the loop, behind what is urgent."""

    def add(self, task: _Task) -> None: ...


class Listener:
    """Serves one set of routes on any number of sockets.

    `drain` ends politely, `close` at once. `connections` counts open ones.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        routes: Routes,
        http_handler: HttpHandler | None = None,
        limits: Limits = DEFAULT_LIMITS,
        stats: Stats | None = None,
        line: Line | None = None,
    ) -> None:
        """`line`: where connections that have much to send wait for their turns; without, none waits for another."""
        self._loop: Final = loop
        self.line: Final = line
        self.limits: Final = limits
        self.stats: Final = stats if stats is not None else Stats()
        self._context: Final = ServerContext(routes, http_handler, limits, self.stats, self._request_sweep)
        self._servers: list[asyncio.Server] = []
        self._protocols: dict[_ServerProtocol, None] = {}
        """Open connections. Bounded by Limits.max_connections, with those in a handshake: more are closed at once."""
        self._handshakes: Handshakes | None = None
        """Of connections that are to be TLS; None while no socket asks for it."""
        self._talking: deque[_ServerProtocol] = deque()
        """Those with output that leaves at the end of this turn of the loop. Some may have none left by then."""
        self._housekeeping: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._drain_limit: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        return len(self._protocols) + (len(self._handshakes) if self._handshakes is not None else 0)

    def start(
        self, sock: socket.socket, tls: Tls | None = None, *, takes_plain: bool = False
    ) -> asyncio.Future[asyncio.Server]:
        """Listen on a bound socket. With `tls`, connections are TLS; if it `takes_plain` too, each as its first byte
        says (H-05). ALPN should offer `h2` and `http/1.1` (H-03)."""
        make_protocol = self._make_protocol if tls is None else self._secured().factory(tls, takes_plain)
        if sock.family == socket.AF_UNIX:
            starting = cast(
                "Awaitable[asyncio.Server]",
                self._loop.create_unix_server(make_protocol, sock=sock, backlog=BACKLOG),
            )
        else:
            starting = self._loop.create_server(make_protocol, sock=sock, backlog=BACKLOG)
        started = asyncio.ensure_future(starting, loop=self._loop)
        started.add_done_callback(self._on_started)
        if self._housekeeping is None:
            self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._on_housekeeping)
        return started

    def drain(self) -> asyncio.Future[None]:
        """Accept nothing more, let calls in flight end, then close what remains after drain_timeout_s."""
        if self._drained is None:
            self._drained = self._loop.create_future()
            self._stop_accepting()
            now = self._loop.time()
            for protocol in list(self._protocols):
                protocol.drain(now)
            if self._handshakes is not None:
                self._handshakes.end("the server is leaving")
            self._drain_limit = self._loop.call_later(self.limits.drain_timeout_s, self.close)
            self._check_drained()
        return self._drained

    def close(self) -> None:
        """Close every socket now. Calls in flight are cancelled."""
        self._stop_accepting()
        for timer in (self._housekeeping, self._sweep, self._drain_limit):
            if timer is not None:
                timer.cancel()
        for protocol in list(self._protocols):
            protocol.abort()
        if self._handshakes is not None:
            self._handshakes.end("the server is leaving")
        self._check_drained()

    def leave(self) -> None:
        """All output leaves now, or at the end of this turn of the loop, which calls it then."""
        talking = self._talking
        try:
            for _ in range(len(talking)):  # who has more to say then, says it in the next turn
                talking.popleft().flush()
        finally:
            if talking:
                self._loop.call_soon(self.leave)

    # --- what protocols call

    def on_output(self, protocol: _ServerProtocol) -> None:
        """It leaves at the end of this turn of the loop, in one write."""
        if not self._talking:
            self._loop.call_soon(self.leave)
        self._talking.append(protocol)

    def has_room(self) -> bool:
        """False, and counted: there are too many connections."""
        if self.connections < self.limits.max_connections:
            return True
        self.stats.connections_refused += 1
        return False

    def on_open(self, protocol: _ServerProtocol) -> bool:
        """False: there are too many."""
        if not self.has_room():
            return False
        self.stats.connections_accepted += 1
        self._protocols[protocol] = None
        return True

    def on_gone(self, protocol: _ServerProtocol) -> None:
        if protocol in self._protocols:
            del self._protocols[protocol]
            self.stats.connections_closed += 1
            self._check_drained()

    # --- within

    def _make_protocol(self) -> _ServerProtocol:
        return _ServerProtocol(self, self._loop, self._context)

    def _secured(self) -> Handshakes:
        if self._handshakes is None:
            # Not above: what it imports is 12 MB that a server without TLS does not need.
            from raftkv.rpc.handshakes import Handshakes

            self._handshakes = Handshakes(self._loop, self.limits, self.stats, self._make_protocol, self.has_room)
        return self._handshakes

    def _on_started(self, started: asyncio.Future[asyncio.Server]) -> None:
        if not started.cancelled() and started.exception() is None:
            self._servers.append(started.result())

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _check_drained(self) -> None:
        if self._drained is not None and not self._protocols and not self._drained.done():
            self._drained.set_result(None)
            if self._drain_limit is not None:
                self._drain_limit.cancel()

    def _request_sweep(self) -> None:
        self._sweep = self._loop.call_later(TICK_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self._context.deadlines.sweep(self._loop.time())

    def _on_housekeeping(self) -> None:
        self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._on_housekeeping)
        now = self._loop.time()
        for protocol in list(self._protocols):
            protocol.on_tick(now)
        if self._handshakes is not None:
            self._handshakes.on_tick(now)


_NOTHING: Final = Leaving()
"""Of HTTP/1.1, where what is counted waits with its maker."""


class _ServerProtocol(asyncio.Protocol):
    """One socket: sniffs the protocol, then carries bytes between transport and connection."""

    __slots__ = (
        "_accepted_at",
        "_connection",
        "_context",
        "_first",
        "_flush_due",
        "_leaving",
        "_listener",
        "_loop",
        "_transport",
    )

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop, context: ServerContext) -> None:
        self._listener = listener
        self._loop = loop
        self._context = context
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._connection: _Connection | None = None
        """None until the first bytes have told the protocol."""
        self._first = b""
        """What has come so far while it could still become the preface: shorter than the preface."""
        self._accepted_at = loop.time()
        self._flush_due = False
        self._leaving = _NOTHING
        """What somebody counts of the connection's output."""

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._listener.on_open(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            self._first += data
            data = self._first
            connection = self._choose(data)
            if connection is None:
                return
            self._first = b""
        connection.receive_data(data, self._loop.time())

    def eof_received(self) -> None:
        """The transport closes itself; half-closed connections have no use here."""

    def connection_lost(self, exc: Exception | None) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.connection_lost()
        self._listener.on_gone(self)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    # --- what the listener calls

    def on_tick(self, now: float) -> None:
        if self._connection is not None:
            self._report_left()
            self._connection.on_tick(now)
            self._close_if_finished()
        elif now - self._accepted_at > self._context.limits.handshake_timeout_s:
            self._context.stats.handshake_timeouts += 1
            self._transport.abort()

    def drain(self, now: float) -> None:
        if self._connection is not None:
            self._connection.drain(now)
            self._close_if_finished()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- within

    def _choose(self, first: bytes) -> _Connection | None:
        """The connection object that ALPN has chosen (H-03), or in plain text these first bytes (H-02); None while they
        do not tell."""
        session: Any = self._transport.get_extra_info("ssl_object")
        if session is not None:
            is_http2 = session.selected_alpn_protocol() == ALPN_HTTP2
        elif not first.startswith(PREFACE[: len(first)]) and not PREFACE.startswith(first[: len(PREFACE)]):
            is_http2 = False
        elif len(first) < len(PREFACE):
            return None
        else:
            is_http2 = True
        kind = ServerConnection if is_http2 else Http1Connection
        self._connection = kind(
            self._context,
            _peer_name(self._transport),
            session is not None,
            _common_name(self._transport),
            self._wake,
            self._loop.time(),
        )
        if isinstance(self._connection, ServerConnection):
            self._leaving = self._connection.outbox.leaving
            if self._listener.line is not None:
                self._connection.outbox.wake_later = self._line_up
        return self._connection

    def _wake(self) -> None:
        """The connection has output."""
        if not self._flush_due:
            self._flush_due = True
            self._listener.on_output(self)

    def _line_up(self) -> None:
        assert self._listener.line is not None, "who has no line does not ask"
        self._listener.line.add(self)

    def step(self) -> bool:
        """This connection's turn to send more of what it has queued."""
        if isinstance(self._connection, ServerConnection):
            self._connection.outbox.waits_turn = False
            self.flush()
        return False

    def flush(self) -> None:
        self._flush_due = False
        connection = self._connection
        if connection is None:
            return
        self._report_left()
        data = connection.take_output()
        if data:
            self._transport.write(data)
            if self._leaving.size_bytes:  # the transport writes at the end of this turn of the loop
                self._loop.call_soon(self._report_left)
        self._close_if_finished()

    def _report_left(self) -> None:
        if self._leaving.size_bytes:
            self._leaving.keep(self._transport.get_write_buffer_size())

    def _close_if_finished(self) -> None:
        if self._connection is not None and self._connection.finished and not self._flush_due:
            if self._leaving.is_hopeless:
                self._transport.abort()
            else:
                self._transport.close()


def _peer_name(transport: asyncio.Transport) -> str:
    name: Any = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return ""
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _common_name(transport: asyncio.Transport) -> str | None:
    certificate: dict[str, Any] | None = transport.get_extra_info("peercert")
    return common_name_in(certificate) if certificate else None
