"""A serving member: data directory, node, services, sockets, signals; from `raftkv serve` to its end.

Owns the order of start and stop, and nothing that happens in between.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

from raftkv.api.cluster import Cluster
from raftkv.api.context import ApiContext
from raftkv.api.health import Health
from raftkv.api.kv import KV
from raftkv.api.lease import LeaseService
from raftkv.api.maintenance import Maintenance
from raftkv.api.pages import Pages
from raftkv.api.watch import WatchService
from raftkv.config import StartError
from raftkv.config.systemd import notify
from raftkv.rpc.limits import Limits
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import build_routes
from raftkv.server import Node, boot

if TYPE_CHECKING:
    from raftkv.config import Config, Url
    from raftkv.rpc.grpcio_server import GrpcioServer
    from raftkv.rpc.service import Routes

_log = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the loop may keep the interpreter from the WAL thread once a flush has returned. The default of 5 ms would
be the most of a put's latency under load."""


def run(config: Config) -> int:
    """Serve until SIGINT, SIGTERM or a failure; the exit code. Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    loop = asyncio.get_running_loop()
    sockets = _bind(config)
    node = Node(loop, config, boot(config))
    ended = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    node.stopped.add_done_callback(lambda _: ended.set())
    try:
        await node.start()
    except Exception as failure:
        await node.stop()
        raise StartError(f"this member cannot start: {failure}") from failure
    server = _make_server(config, loop, node)
    await _listen(server, sockets)
    # What start-up made stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    _log.info("ready to serve client requests", extra={"kv": {"urls": [str(url) for url in config.listen_client_urls]}})
    notify("READY=1")
    await ended.wait()
    return await _shut_down(node, server)


async def _listen(server: Listener | GrpcioServer, sockets: list[socket.socket]) -> None:
    if isinstance(server, Listener):
        for sock in sockets:
            await server.start(sock)
        return
    for sock in sockets:  # grpcio binds for itself; ours have found a port in use before the data was opened
        address = sock.getsockname()
        sock.close()
        server.add_port(f"{_host(address[0])}:{address[1]}")
    await server.start()


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def _shut_down(node: Node, server: Listener | GrpcioServer) -> int:
    failed = node.stopped.done()
    _log.info("stopping", extra={"kv": {"failed": failed}})
    await server.drain()
    await node.stop()
    _log.info("stopped")
    return 1 if failed else 0


def routes(context: ApiContext, watch: WatchService) -> Routes:
    """Every method of every service, for either server."""
    return build_routes(
        (
            KV(context).service(),
            watch.service(),
            LeaseService(context).service(),
            Cluster(context).service(),
            Maintenance(context).service(),
            Health().service(),
        )
    )


def _make_server(config: Config, loop: asyncio.AbstractEventLoop, node: Node) -> Listener | GrpcioServer:
    context = ApiContext(node)
    watch = WatchService(context)
    node.on_tick(watch.on_tick)
    table = routes(context, watch)
    if config.rpc_server == "grpcio":
        from raftkv.rpc.grpcio_server import GrpcioServer  # an optional dependency

        return GrpcioServer(table, _limits(config))
    return Listener(loop, table, Pages(node).handle, _limits(config))


def _limits(config: Config) -> Limits:
    return Limits(
        max_message_bytes=config.max_recv_bytes,
        max_concurrent_streams=config.max_concurrent_streams,
        keepalive_min_time_s=config.grpc_keepalive_min_time_s,
        keepalive_interval_s=config.grpc_keepalive_interval_s,
        keepalive_timeout_s=config.grpc_keepalive_timeout_s,
    )


def _bind(config: Config) -> list[socket.socket]:
    """Bind before anything is opened: a port in use is found at once, and named. Nobody is accepted yet (G-03)."""
    sockets: list[socket.socket] = []
    for url in config.listen_client_urls:
        try:
            sockets.append(_bound_socket(url, config))
        except OSError as failure:
            for each in sockets:
                each.close()
            raise StartError(
                f"cannot listen on {url}: {failure.strerror}",
                "Is another server running there? Choose another address with --listen-client-urls",
            ) from failure
    return sockets


def _bound_socket(url: Url, config: Config) -> socket.socket:
    if url.scheme in ("unix", "unixs"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(url.address)
        return sock
    family, kind, protocol, _, address = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if config.socket_reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    return sock
