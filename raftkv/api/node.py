"""A serving member: data directory, node, services, sockets, signals; from `raftkv serve` to its end.

Owns the order of start and stop, and nothing that happens in between.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from typing import TYPE_CHECKING, Final

from raftkv.api import serving
from raftkv.api.cluster import Cluster
from raftkv.api.context import ApiContext
from raftkv.api.health import Health
from raftkv.api.kv import KV
from raftkv.api.lease import LeaseService
from raftkv.api.maintenance import Maintenance
from raftkv.api.pages import Guard, Pages
from raftkv.api.watch import WatchService
from raftkv.config import StartError
from raftkv.config.systemd import notify
from raftkv.rpc.service import build_routes
from raftkv.server import Node, boot

if TYPE_CHECKING:
    from raftkv.config import Config
    from raftkv.rpc.service import Routes

_log = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the loop may keep the interpreter from the WAL thread once a flush has returned. The default of
5 ms would be the most of a put's latency under load."""


def run(config: Config) -> int:
    """Serve until SIGINT, SIGTERM or a failure; the exit code. Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    loop = asyncio.get_running_loop()
    doors = serving.bind(config)
    try:
        node = Node(loop, config, boot(config))
    except BaseException:
        serving.close(doors)
        raise
    ended = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    node.stopped.add_done_callback(lambda _: ended.set())
    server = serving.Serving(loop, config, doors)
    pages = Pages(node, Guard(config.host_whitelist, config.cors))
    await server.open_probes(pages.handle_probe)
    try:
        await node.start()
        await server.open_clients(_make_routes(node), pages.handle)
    except Exception as failure:
        await server.drain()
        await node.stop()
        if isinstance(failure, StartError):
            raise
        raise StartError(f"this member cannot start: {failure}") from failure
    # What start-up made stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    notify("READY=1")
    await ended.wait()
    return await _shut_down(node, server)


async def _shut_down(node: Node, server: serving.Serving) -> int:
    failed = node.stopped.done()
    _log.info("stopping", extra={"kv": {"failed": failed}})
    await server.drain()
    await node.stop()
    _log.info("stopped")
    return 1 if failed else 0


def _make_routes(node: Node) -> Routes:
    context = ApiContext(node)
    watch = WatchService(context)
    node.on_tick(watch.on_tick)
    return routes(context, watch)


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
