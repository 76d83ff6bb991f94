"""A serving member: data directory, node, services, sockets, signals; from `raftkv serve` to its end.

Owns the order of start and stop, and nothing that happens in between.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import uvloop

from raftkv.api import errors, serving
from raftkv.api.auth import Auth
from raftkv.api.claims import Claims
from raftkv.api.client_version import with_client_version_checked
from raftkv.api.cluster import Cluster
from raftkv.api.context import ApiContext
from raftkv.api.election import Election
from raftkv.api.gateway import Gateway
from raftkv.api.health import Health
from raftkv.api.kv import KV
from raftkv.api.leader_gate import with_leader_asked_for
from raftkv.api.learner_gate import LearnerGate
from raftkv.api.lease import LeaseService
from raftkv.api.local_client import LocalClient
from raftkv.api.lock import Lock
from raftkv.api.maintenance import Maintenance
from raftkv.api.metrics_page import MetricsPage
from raftkv.api.pages import Guard, Pages
from raftkv.api.watch import WatchService
from raftkv.config import StartError
from raftkv.config.systemd import notify
from raftkv.rpc.service import build_routes
from raftkv.server import Founding, Node, boot, find_founding
from raftkv.server.errors import MemberEnded, Removed
from raftkv.server.tls import load_tls

if TYPE_CHECKING:
    from raftkv.config import Config
    from raftkv.rpc.service import Routes
    from raftkv.rpc.tls import Tls
    from raftkv.server.authenticator import SignedTokens

_log = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""How long the loop may keep the interpreter from a thread whose system call has returned. The default of
5 ms would be the most of a put's latency under load."""

Result = TypeVar("Result")

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
    ended = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    signed_tokens = _load_signed_tokens(config)
    tls = load_tls(config)
    doors = serving.bind(config)
    try:
        founding = await _unless_ended(ended, _find_founding(config, tls.to_peers))
        if founding is None:
            return 0
        node = Node(loop, config, boot(config, founding.result()), errors.status_of, signed_tokens, tls.to_peers)
    finally:
        if sys.exc_info()[0] is not None or founding is None:
            serving.close(doors)
    node.stopped.add_done_callback(lambda _: ended.set())
    server = serving.Serving(loop, config, doors, tls, node.slices)
    pages = Pages(node, Guard(config.host_whitelist, config.cors))
    api = Api(node)
    pages.add(MetricsPage.PATH, MetricsPage(node, server, pages, api.routes(), api.registry).answer)
    await server.open_probes(pages.handle_probe)
    await server.open_peers(node.peering.service, pages.handle_peer)
    try:
        if await _unless_ended(ended, node.start()) is None:
            return await _stop(node, server)
        routes = api.routes()
        if config.enable_grpc_gateway:
            pages.attach(Gateway(node, routes, server.stats))
        await server.open_clients(routes, pages.handle)
        node.applying.leave = server.leave
    except Exception as failure:
        await _stop(node, server)
        if isinstance(failure, StartError):
            raise
        raise StartError(f"this member cannot start: {failure}") from failure
    # What start-up made stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    notify("READY=1")
    await ended.wait()
    _log.info("stopping", extra={"kv": {"failed": node.stopped.done()}})
    api.end_streams()
    await node.hand_over()
    return await _stop(node, server)


def _load_signed_tokens(config: Config) -> SignedTokens | None:
    """None: simple tokens. Raises StartError for keys that cannot be used, before anything is made or bound."""
    if config.auth_token.kind != "jwt":
        return None
    # Not above: what it imports is 12 MB that few members need.
    from raftkv.server.jwt_tokens import load_jwt

    return load_jwt(config.auth_token)


async def _find_founding(config: Config, tls: Tls | None) -> Founding | None:
    """None for a member that has data: what it began with no longer matters (F-70)."""
    return None if config.has_data() else await find_founding(config, tls)


async def _unless_ended(ended: asyncio.Event, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result] | None:
    """`work` when it is done; None when this process was told to stop first. Raises what `work` raises."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(ended.wait())
    await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        task.result()
        return task
    task.cancel()
    await asyncio.wait((task,))
    return None


async def _stop(node: Node, server: serving.Serving) -> int:
    """The exit code. A member that was removed has done what it should (CL-34): nobody need start it again."""
    reason = node.stopped.result() if node.stopped.done() else None
    await server.drain()
    await node.stop()
    if isinstance(reason, MemberEnded):
        _log.warning(str(reason))
    _log.info("stopped")
    return 0 if reason is None or isinstance(reason, Removed) else 1


class _Streaming(Protocol):
    """A service with streams that would last for ever."""

    def end_streams(self) -> None: ...


class Api:
    """Every service on one node."""

    def __init__(self, node: Node) -> None:
        self._context = ApiContext(node)
        self.registry: Final = self._context.registry
        self._watch = WatchService(self._context)
        self._lease = LeaseService(self._context)
        self._health = Health()
        node.on_tick(self._watch.on_tick)
        node.on_tick(self._lease.on_tick)
        context = self._context
        local = LocalClient()
        self._claims = Claims(context, local)
        self._election = Election(self._claims)
        node.on_tick(self._election.on_tick)
        services = [
            KV(context).service(),
            self._watch.service(),
            self._lease.service(),
            Cluster(context).service(),
            Maintenance(context).service(),
            Auth(context).service(),
            self._health.service(),
            Lock(self._claims).service(),
            self._election.service(),
        ]
        self._streaming: list[_Streaming] = [self._watch, self._lease, self._health, self._claims, self._election]
        if node.config.enable_grpc_reflection:
            # Not above: few members need it.
            from raftkv.api.reflection import Reflection

            reflection = Reflection(context, [each.name for each in services])
            services += reflection.services()
            self._streaming.append(reflection)
        routes = with_leader_asked_for(context, with_client_version_checked(build_routes(services)))
        local.bind(routes)
        self._gate = LearnerGate(node, routes)

    def routes(self) -> Routes:
        """Every method of every service, for either server."""
        return self._gate.routes()

    def end_streams(self) -> None:
        """Tell the clients of streams to go on elsewhere (ER-03)."""
        for each in self._streaming:
            each.end_streams()
