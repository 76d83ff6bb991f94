"""A TLS server of either kind in the running loop, and clients of several kinds in front of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from helpers.certificates import Authority, Pair
from rpc_kit import EchoService, bound_socket

from raftkv.rpc.channel import Channel
from raftkv.rpc.grpcio_server import GrpcioServer
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Call, Routes, Service, build_routes
from raftkv.rpc.stats import Stats
from raftkv.rpc.tls import Tls, TlsSettings, client_tls, server_tls

WHO = b"/test.Who/AmI"
LIMITS = Limits(drain_timeout_s=1.0)


def run(main: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 30.0) -> None:
    """On the loop that members have; the other rpc tests use Python's own."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), timeout_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def settings(authority: Authority, pair: Pair, **more: Any) -> TlsSettings:
    """A server's, that wants certificates of the authority's clients unless `more` says otherwise."""
    more = {"wants_client_cert": True, "ca_file": str(authority.ca), "alpn": ("h2", "http/1.1")} | more
    return TlsSettings(cert_file=str(pair.cert), key_file=str(pair.key), **more)


def caller(authority: Authority, pair: Pair | None = None, **more: Any) -> Tls:
    """A client's, that trusts the authority."""
    files = {} if pair is None else {"cert_file": str(pair.cert), "key_file": str(pair.key)}
    return client_tls(TlsSettings(ca_file=str(authority.ca), **files, **more))


def context_of(authority: Authority, pair: Pair | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """The same for the standard library's own TLS, which shares no code with ours."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def credentials_of(authority: Authority, pair: Pair | None = None) -> grpc.ChannelCredentials:
    files = (None, None) if pair is None else (pair.key.read_bytes(), pair.cert.read_bytes())
    return grpc.ssl_channel_credentials(authority.ca.read_bytes(), *files)


class Serving:
    """One server, and how to reach it."""

    def __init__(self, port: int, service: EchoService, stats: Stats, tls: Tls, listener: Listener | None) -> None:
        self.port = port
        self.service = service
        self.stats = stats
        self.tls = tls
        self._listener = listener

    @property
    def listener(self) -> Listener:
        assert self._listener is not None, "the server is grpcio's"
        return self._listener

    @asynccontextmanager
    async def channel(self, tls: Tls | None, **more: Any) -> AsyncIterator[Channel]:
        """Our own."""
        channel = Channel(asyncio.get_running_loop(), "127.0.0.1", self.port, tls=tls, **more)
        try:
            yield channel
        finally:
            channel.close()

    async def who(self, tls: Tls, **more: Any) -> str:
        """The common name that a handler sees, on a connection of its own. Raises RpcError."""
        async with self.channel(tls, **more) as channel:
            return (await channel.unary_future(WHO, b"", 5.0)).decode()

    async def open(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)


def routes_of(service: EchoService) -> Routes:
    who = Service("test.Who").unary("AmI", _who)
    return {**service.routes, **build_routes([who])}


def _who(call: Call, message: bytes) -> None:
    call.reply((call.tls_common_name or "nobody").encode())


def _page(exchange: HttpExchange) -> None:
    exchange.respond(200, (), f"page for {exchange.tls_common_name}".encode())


@asynccontextmanager
async def serving(
    tls_settings: TlsSettings, kind: str = "native", limits: Limits = LIMITS, *, takes_plain: bool = False
) -> AsyncIterator[Serving]:
    service, tls = EchoService(), server_tls(tls_settings)
    if kind == "native":
        listener = Listener(asyncio.get_running_loop(), routes_of(service), _page, limits)
        sock, port = bound_socket()
        await listener.start(sock, tls, takes_plain=takes_plain)
        try:
            yield Serving(port, service, listener.stats, tls, listener)
        finally:
            await listener.drain()
    else:
        server = GrpcioServer(routes_of(service), limits)
        port = server.add_port("127.0.0.1:0", tls)
        await server.start()
        try:
            yield Serving(port, service, server.stats, tls, None)
        finally:
            await server.close()


def authority_in(directory: Path) -> tuple[Authority, Pair]:
    """An authority and a server's pair of it."""
    authority = Authority(directory / "pki")
    return authority, authority.server()
