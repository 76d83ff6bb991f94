"""The pages that are plain HTTP: /health, /livez, /readyz, /version, /debug/vars, members' /members, and who may ask.

Short bodies for probes and tools; everything else is 404. Owns the checks behind the probes. What the JSON gateway
serves is handed on to it, once it is there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

from raftkv.api import debug_vars, member_page
from raftkv.api.errors import status_of
from raftkv.api.gateway import PREFIXES
from raftkv.apply import CORRUPT
from raftkv.pb import rpc_pb2
from raftkv.version import ETCD_VERSION, STORAGE_VERSION

if TYPE_CHECKING:
    from raftkv.api.gateway import Gateway
    from raftkv.rpc.http_exchange import HttpExchange
    from raftkv.server import Node

_log = logging.getLogger(__name__)

Headers: TypeAlias = Sequence[tuple[str, str]]

_JSON: Final = [("content-type", "application/json")]
_TEXT: Final = [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")]
_CORS: Final = [
    ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("access-control-allow-headers", "accept, content-type, authorization"),
]
_MISDIRECTED: Final = (
    b"The Host header of this request names a host that this server does not answer for.\n"
    b"Use a name that --host-whitelist allows, or add this one to it.\n"
)


class Guard:
    """Who may ask: the hosts a request may name, against DNS rebinding (H-09), and the origins that may read
    the answer (H-10)."""

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    def admits(self, exchange: HttpExchange) -> bool:
        """Over TLS a name cannot be rebound: the certificate tells."""
        return exchange.is_tls or "*" in self._hosts or _host_name(exchange.header("host") or "") in self._hosts

    def cors(self, exchange: HttpExchange) -> Headers:
        """Headers of any answer to this request."""
        origin = "*" if "*" in self._origins else exchange.header("origin")
        if origin is None or origin not in self._origins:
            return ()
        return [*_CORS, ("access-control-allow-origin", origin)]


def _host_name(host: str) -> str:
    """Without the port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


class _Request:
    """An exchange as a page sees it. `respond` may be called later, and by whoever finds the answer."""

    __slots__ = ("_common_headers", "_exchange", "path", "query")

    def __init__(self, exchange: HttpExchange, common_headers: Headers) -> None:
        target = urlsplit(exchange.target)
        self._exchange = exchange
        self._common_headers = common_headers
        self.path = target.path
        self.query: Mapping[str, Sequence[str]] = parse_qs(target.query, keep_blank_values=True)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self._exchange.respond(status, [*headers, *self._common_headers], body)


Page: TypeAlias = Callable[[_Request], None]


class Pages:
    """`handle` serves all pages to clients, `handle_probe` those for probes and Prometheus to whoever comes (H-07,
    H-08)."""

    def __init__(self, node: Node, guard: Guard) -> None:
        self._node = node
        self._guard = guard
        self._gateway: Gateway | None = None
        self.check_counts: Final = {
            (path[1:], name): CheckCount() for path, checks in CHECKS.items() for name in checks
        }
        """(livez or readyz, name of the check) -> how it went (H-57)."""
        self.health_count: Final = CheckCount()
        """Of /health."""
        self._probes: dict[str, Page] = {"/health": self._health}
        for path, checks in CHECKS.items():
            self._probes[path] = partial(self._run_chosen, path, checks)
            for name, check in checks.items():
                self._probes[f"{path}/{name}"] = partial(self._run, path, {name: check})  # H-53
        self._probes[member_page.PATH] = partial(member_page.answer, node)
        self._pages: dict[str, Page] = {
            **self._probes,
            "/version": self._version,
            debug_vars.PATH: partial(debug_vars.answer, node),
        }
        self._peer_pages: dict[str, Page] = {"/members": self._members, "/version": self._version}

    def add(self, path: str, page: Page) -> None:
        """One that knows more than this module does: for clients, and on the probe URLs."""
        self._probes[path] = self._pages[path] = page

    def attach(self, gateway: Gateway) -> None:
        """From now on the paths of the gateway are served; they are 404 without one (H-20)."""
        self._gateway = gateway

    def handle(self, exchange: HttpExchange) -> None:
        if not self._guard.admits(exchange):
            _log.warning("refused a request for an unknown host", extra={"kv": {"host": exchange.header("host")}})
            exchange.respond(421, _TEXT, _MISDIRECTED)
            return
        cors = self._guard.cors(exchange)
        if exchange.method == "OPTIONS":
            exchange.respond(200, cors)
        elif self._gateway is not None and exchange.target.startswith(PREFIXES):
            self._gateway.handle(exchange, cors)
        else:
            _dispatch(self._pages, exchange, cors)

    def handle_probe(self, exchange: HttpExchange) -> None:
        """Without the guard: a kubelet names the host as it likes, and no browser comes here."""
        _dispatch(self._probes, exchange, ())

    def handle_peer(self, exchange: HttpExchange) -> None:
        """On the peer URLs (contract section 10.6). What members say to each other is not for browsers either."""
        _dispatch(self._peer_pages, exchange, ())

    def _members(self, request: _Request) -> None:
        """H-70."""
        members = [
            {
                "id": each.id,
                "name": each.name,
                "peerURLs": each.peer_urls,
                "clientURLs": each.client_urls,
                "isLearner": each.is_learner,
            }
            for each in self._node.members
        ]
        cluster = ("x-etcd-cluster-id", f"{self._node.cluster_id:x}")
        request.respond(200, [*_JSON, cluster], json.dumps(members).encode())

    def _version(self, request: _Request) -> None:
        """H-60."""
        versions = {
            "etcdserver": ETCD_VERSION,
            "etcdcluster": self._node.applier.cluster_version or "not_decided",
            "storage": STORAGE_VERSION,
        }
        request.respond(200, _JSON, json.dumps(versions, separators=(",", ":")).encode())

    def _health(self, request: _Request) -> None:
        """H-40 to H-46: alarms, then a leader, then a read."""
        excluded = set(request.query.get("exclude", ()))
        for _, alarm in self._node.alarms.active():
            name = rpc_pb2.AlarmType.Name(alarm)  # type: ignore[arg-type]
            if name not in excluded:
                self._answer_health(request, f"ALARM {name}")
                return
        report = partial(self._answer_read_health, request)
        if request.query.get("serializable", [""])[0] == "true":
            _serializable_read(self._node, report)
        elif not self._node.leader_id:
            self._answer_health(request, "RAFT NO LEADER")
        else:
            _linearizable_read(self._node, report)

    def _answer_read_health(self, request: _Request, error: str) -> None:
        self._answer_health(request, f"RANGE ERROR:{error}" if error else "")

    def _answer_health(self, request: _Request, reason: str) -> None:
        self.health_count.count(passed=not reason)
        _answer_health(request, reason)

    def _run_chosen(self, path: str, checks: Mapping[str, Check], request: _Request) -> None:
        """All checks but the excluded ones (H-52)."""
        excluded = set(request.query.get("exclude", ()))
        unknown = sorted(excluded.difference(checks, ("",)))
        if unknown:
            fields = {"path": request.path, "exclude": unknown}
            _log.warning("a probe excludes checks that do not exist", extra={"kv": fields})
        self._run(path, {name: check for name, check in checks.items() if name not in excluded}, request)

    def _run(self, path: str, checks: Mapping[str, Check], request: _Request) -> None:
        """Run them side by side and answer when the last has reported (H-50, H-51)."""
        errors: dict[str, str] = {}

        def report(name: str, error: str) -> None:
            errors[name] = error
            self.check_counts[path[1:], name].count(passed=not error)
            if len(errors) == len(checks):
                _answer_probe(request, [(each, errors[each]) for each in checks])

        if not checks:
            _answer_probe(request, [])
        for name, check in checks.items():
            check(self._node, partial(report, name))


def _dispatch(pages: Mapping[str, Page], exchange: HttpExchange, common_headers: Headers) -> None:
    request = _Request(exchange, common_headers)
    page = pages.get(request.path)
    if page is None:
        request.respond(404, _TEXT, b"404 page not found\n")
    elif exchange.method != "GET":
        request.respond(405, [*_TEXT, ("allow", "GET")], b"Method Not Allowed\n")
    else:
        page(request)


def _answer_health(request: _Request, reason: str) -> None:
    # `health` is a string, and the body of a failure ends in a newline: probes compare bytes (H-40).
    body = json.dumps({"health": "false" if reason else "true", "reason": reason}, separators=(",", ":"))
    if reason:
        request.respond(503, _TEXT, body.encode() + b"\n")
    else:
        request.respond(200, _JSON, body.encode())


# --- checks -------------------------------------------------------------------------------------------------

Report: TypeAlias = Callable[[str], None]
"""Told once, now or later: why the check fails, or the empty text."""
Check: TypeAlias = "Callable[[Node, Report], None]"


def _data_corruption(node: Node, report: Report) -> None:
    """H-54."""
    report("alarm activated: CORRUPT" if node.alarms.active(CORRUPT) else "")


def _serializable_read(node: Node, report: Report) -> None:
    try:
        node.store.get(node.backend.read(), b"health")
    except Exception as failure:  # whatever it is, saying so is what a probe is for
        report(str(failure) or type(failure).__name__)
    else:
        report("")


def _linearizable_read(node: Node, report: Report) -> None:
    """H-55. Bounded by the request timeout (H-46)."""
    node.linearizable(_on_read_allowed, (node, report))


def _on_read_allowed(context: tuple[Node, Report], refusal: Exception | None) -> None:
    node, report = context
    if refusal is None:
        _serializable_read(node, report)
    else:
        report(status_of(refusal).text)


def _non_learner(node: Node, report: Report) -> None:
    member = node.members.get(node.member_id)
    report("not supported for learner" if member is not None and member.is_learner else "")


CHECKS: Final[Mapping[str, Mapping[str, Check]]] = {
    "/livez": {"serializable_read": _serializable_read},
    "/readyz": {
        "data_corruption": _data_corruption,
        "serializable_read": _serializable_read,
        "linearizable_read": _linearizable_read,
        "non_learner": _non_learner,
    },
}
"""Path -> name -> check (contract section 10.4)."""


class CheckCount:
    """How often a check was made, and how it went. Plain integers, which the metrics read when they are asked."""

    __slots__ = ("failed", "passed", "passes")

    def __init__(self) -> None:
        self.passed = 0
        """1: it did when it was last made."""
        self.passes = 0
        self.failed = 0

    def count(self, *, passed: bool) -> None:
        self.passed = int(passed)
        if passed:
            self.passes += 1
        else:
            self.failed += 1


def _answer_probe(request: _Request, results: Sequence[tuple[str, str]]) -> None:
    lines = "".join(f"[-]{name} failed: {error}\n" if error else f"[+]{name} ok\n" for name, error in results)
    failed = [name for name, error in results if error]
    if failed:
        _log.warning("a probe failed", extra={"kv": {"path": request.path, "checks": failed}})
        request.respond(503, _TEXT, lines.encode())
    else:
        request.respond(200, _TEXT, f"{lines if 'verbose' in request.query else ''}ok\n".encode())
