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

import uvloop

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
"""How long the loop may keep the interpreter from a thread whose system call has returned. The default of
5 ms would be the most of a put's latency under load."""

GC_THRESHOLD: Final = 50_000
"""Requests make no cycles, so their objects go without the collector; it need look less often than by default (700)."""


def run(config: Config) -> int:
    """Serve until SIGINT, SIGTERM or a failure; the exit code. Raises StartError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GC_THRESHOLD)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config))


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
    api = Api(node)
    await server.open_probes(pages.handle_probe)
    try:
        await node.start()
        await server.open_clients(api.routes(), pages.handle)
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
    failed = node.stopped.done()
    _log.info("stopping", extra={"kv": {"failed": failed}})
    api.end_streams()
    await server.drain()
    await node.stop()
    _log.info("stopped")
    return 1 if failed else 0


class Api:
    """Every service on one node."""

    def __init__(self, node: Node) -> None:
        self._context = ApiContext(node)
        self._watch = WatchService(self._context)
        self._lease = LeaseService(self._context)
        self._health = Health()
        node.on_tick(self._watch.on_tick)

    def routes(self) -> Routes:
        """Every method of every service, for either server."""
        context = self._context
        return build_routes(
            (
                KV(context).service(),
                self._watch.service(),
                self._lease.service(),
                Cluster(context).service(),
                Maintenance(context).service(),
                self._health.service(),
            )
        )

    def end_streams(self) -> None:
        """Streams would last for ever; tell their clients to go on elsewhere (ER-03)."""
        for each in (self._watch, self._lease, self._health):
            each.end_streams()
