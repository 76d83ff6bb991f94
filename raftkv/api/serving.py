"""Where a member is reached: the listen URLs, what each of them serves, and the servers behind them.

    --listen-client-urls         gRPC and pages on one port (H-01), or gRPC alone when the pages are elsewhere
    --listen-client-http-urls    the pages and no gRPC (H-04)
    --listen-metrics-urls        metrics and probes, from the moment the node exists, before it has joined (H-08)
    --listen-peer-urls           the other members, from the moment the node exists (contract section 10.6)

Owns sockets and the order of opening and closing. Knows no service and no page: it gets routes and handlers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from raftkv.config import StartError
from raftkv.metrics import bounds
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Line, Listener
from raftkv.rpc.service import build_routes
from raftkv.rpc.stats import Stats
from raftkv.server.peers.link import PEER_LIMITS

if TYPE_CHECKING:
    from raftkv.config import Config, Url
    from raftkv.rpc.http_exchange import HttpHandler
    from raftkv.rpc.service import Routes
    from raftkv.rpc.tls import Tls
    from raftkv.server.peers import PeerService
    from raftkv.server.tls import MemberTls

_log = logging.getLogger(__name__)

MAX_PEER_MESSAGE_BYTES: Final = 1 << 30
"""An append holds at least one entry, and an entry at least one request of whatever size is allowed."""
JSON_FACTOR: Final = 2
"""How much longer than the message itself a request of the gateway may be: base64 takes four bytes for three."""
PEER_DRAIN_S: Final = 0.5
"""Streams between members last for ever; at the end there is nothing to wait for but answers under way."""


class Purpose(Enum):
    """The value is the flag that names such URLs."""

    CLIENT = "--listen-client-urls"
    HTTP = "--listen-client-http-urls"
    PROBES = "--listen-metrics-urls"
    PEER = "--listen-peer-urls"


class Door(NamedTuple):
    """A listen URL, bound. Nobody is accepted yet."""

    purpose: Purpose
    url: Url
    """With the port that the kernel chose, where port 0 was asked for."""
    sock: socket.socket
    takes_plain: bool = False
    """The same address is listed with http and with https: the first byte of each connection decides (H-05). `url` is
    the https one."""

    @property
    def urls(self) -> list[Url]:
        return [self.url, *([replace(self.url, scheme=_PLAIN[self.url.scheme])] if self.takes_plain else [])]


_PLAIN: Final = {"https": "http", "unixs": "unix"}


def bind(config: Config) -> list[Door]:
    """Bind every listen URL before any data is opened: a port in use is found at once, and named (G-03).

    Raises StartError.
    """
    wanted = (
        (Purpose.CLIENT, config.listen_client_urls),
        (Purpose.HTTP, config.listen_client_http_urls),
        (Purpose.PROBES, config.listen_metrics_urls),
        (Purpose.PEER, config.listen_peer_urls),
    )
    doors: list[Door] = []
    for purpose, urls in wanted:
        for url, takes_plain in _merged(urls):
            try:
                sock = _bound_socket(url, config)
            except OSError as failure:
                close(doors)
                raise StartError(
                    f"cannot listen on {url}: {failure.strerror}",
                    f"Is another server running there? Choose another address with {purpose.value}",
                ) from failure
            doors.append(Door(purpose, _real_url(url, sock), sock, takes_plain))
    return doors


def _merged(urls: Iterable[Url]) -> list[tuple[Url, bool]]:
    """Each address once, the secure URL of it if there are two, and whether there are."""
    by_address: dict[tuple[bool, str], list[Url]] = {}
    for url in urls:
        # Port 0 asks the kernel for a port each time.
        key = f"{url}" if not url.is_unix and not url.port else url.address
        by_address.setdefault((url.is_unix, key), []).append(url)
    return [(max(same, key=lambda each: each.is_tls), len(same) > 1) for same in by_address.values()]


def close(doors: Iterable[Door]) -> None:
    """Give up what was bound. Harmless for doors whose socket is closed already."""
    for door in doors:
        door.sock.close()
        if door.url.is_unix and os.path.exists(door.url.path):
            os.unlink(door.url.path)


def _bound_socket(url: Url, config: Config) -> socket.socket:
    if url.is_unix:
        _remove_stale_socket(url.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: object = url.path
    else:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        # `localhost` may have both kinds of address, and tools that say 127.0.0.1 are the older custom.
        family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        sock = socket.socket(family, kind, protocol)
        # Always, or a restart would have to wait until the connections of the last run have timed out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.socket_reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(address)  # type: ignore[arg-type]  # the kind of address that goes with the family
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale_socket(path: str) -> None:
    """A killed process leaves its socket file behind. One that somebody listens on stays, and bind fails."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _real_url(url: Url, sock: socket.socket) -> Url:
    return url if url.is_unix else replace(url, port=sock.getsockname()[1])


class _Server(Protocol):
    """Our own listener, or grpcio's server."""

    def drain(self) -> Awaitable[None]: ...


class Serving:
    """The servers of one member. `open_probes` and `open_peers`, then `open_clients`, at last `drain`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        doors: list[Door],
        tls: MemberTls,
        line: Line | None = None,
    ) -> None:
        """`line`: of the member's long work, in which also clients' connections wait that have much to send."""
        self._loop = loop
        self._line = line
        self._config = config
        self._doors = doors
        self._tls = tls
        self._limits = _limits(config)
        self._servers: list[_Server] = []
        self._talking: list[Listener] = []
        """Those that answer what has to be applied."""
        self.stats = Stats(bounds("grpc_server_handling_seconds") if config.metrics == "extensive" else ())
        """Of all connections of clients, whichever URL they came through."""
        self.peer_stats = Stats()
        """Of those of other members."""

    def tls_sides(self) -> dict[str, Tls]:
        """What is served or called over TLS, by name."""
        named = {"client": self._tls.clients, "peer": self._tls.peers, "to_peers": self._tls.to_peers}
        return {name: tls for name, tls in named.items() if tls is not None}

    def urls(self, purpose: Purpose) -> list[str]:
        return [str(url) for door in self._doors if door.purpose is purpose for url in door.urls]

    async def open_probes(self, handler: HttpHandler) -> None:
        await self._open_listener(Purpose.PROBES, {}, handler)

    async def open_peers(self, service: PeerService, handler: HttpHandler) -> None:
        """Always our own server, whichever one clients get: members speak to nobody else here."""
        limits = PEER_LIMITS._replace(
            max_message_bytes=MAX_PEER_MESSAGE_BYTES,
            max_partial_bytes=MAX_PEER_MESSAGE_BYTES,
            keepalive_min_time_s=0.0,
            drain_timeout_s=PEER_DRAIN_S,
        )
        await self._open_listener(Purpose.PEER, build_routes((service.service(),)), handler, limits)

    async def open_clients(self, routes: Routes, handler: HttpHandler) -> None:
        pages_apart = bool(self.urls(Purpose.HTTP))
        if self._config.rpc_server == "grpcio":
            await self._open_grpcio(routes)
        else:
            await self._open_listener(Purpose.CLIENT, routes, None if pages_apart else handler)
        await self._open_listener(Purpose.HTTP, {}, handler)
        names = ("client_urls", Purpose.CLIENT), ("http_urls", Purpose.HTTP), ("metrics_urls", Purpose.PROBES)
        fields = {name: urls for name, purpose in names if (urls := self.urls(purpose))}
        _log.info("ready to serve client requests", extra={"kv": fields})

    def leave(self) -> None:
        """What clients have been answered leaves now, not at the end of this turn of the loop. grpcio has its own
        time."""
        for listener in self._talking:
            listener.leave()

    async def drain(self) -> None:
        """Accept nothing more, let what is under way end, then close."""
        await asyncio.gather(*(server.drain() for server in self._servers))
        close(self._doors)

    async def _open_listener(
        self, purpose: Purpose, routes: Routes, handler: HttpHandler | None, limits: Limits | None = None
    ) -> None:
        stats = self.stats if purpose is not Purpose.PEER else self.peer_stats
        line = self._line if purpose is Purpose.CLIENT else None
        listener = Listener(self._loop, routes, handler, limits or self._limits, stats, line)
        self._servers.append(listener)
        if purpose in (Purpose.CLIENT, Purpose.HTTP):
            self._talking.append(listener)
        for door in self._doors:
            if door.purpose is purpose:
                await listener.start(door.sock, self._tls_of(door), takes_plain=door.takes_plain)

    def _tls_of(self, door: Door) -> Tls | None:
        if not door.url.is_tls:
            return None
        return self._tls.peers if door.purpose is Purpose.PEER else self._tls.clients

    async def _open_grpcio(self, routes: Routes) -> None:
        from raftkv.rpc.grpcio_server import GrpcioServer  # an optional dependency

        server = GrpcioServer(routes, self._limits, self.stats)
        self._servers.append(server)
        for door in self._doors:
            if door.purpose is Purpose.CLIENT:
                # grpcio binds for itself; our socket has found a port in use before the data was opened.
                close([door])
                server.add_port(f"unix:{door.url.path}" if door.url.is_unix else door.url.address, self._tls_of(door))
        await server.start()


def _limits(config: Config) -> Limits:
    return Limits(
        max_message_bytes=config.max_recv_bytes,
        max_concurrent_streams=config.max_concurrent_streams,
        max_http_body_bytes=JSON_FACTOR * config.max_recv_bytes,
        keepalive_min_time_s=config.grpc_keepalive_min_time_s,
        keepalive_interval_s=config.grpc_keepalive_interval_s,
        keepalive_timeout_s=config.grpc_keepalive_timeout_s,
    )
