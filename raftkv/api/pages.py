"""The pages of the client port that are plain HTTP: /health and /version.

Short bodies for probes and tools; everything else is 404. The JSON gateway is not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from raftkv.api.errors import status_of
from raftkv.pb import rpc_pb2
from raftkv.version import ETCD_VERSION, STORAGE_VERSION

if TYPE_CHECKING:
    from raftkv.rpc.http_exchange import HttpExchange
    from raftkv.server import Node

_JSON: Final = [("content-type", "application/json")]
_TEXT: Final = [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")]


class Pages:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._pages: dict[str, Callable[[HttpExchange, dict[str, list[str]]], None]] = {
            "/health": self._health,
            "/version": self._version,
        }

    def handle(self, exchange: HttpExchange) -> None:
        target = urlsplit(exchange.target)
        page = self._pages.get(target.path)
        if page is None:
            exchange.respond(404, _TEXT, b"404 page not found\n")
        elif exchange.method not in ("GET", "HEAD"):
            exchange.respond(405, [*_TEXT, ("allow", "GET")], b"Method Not Allowed\n")
        else:
            page(exchange, parse_qs(target.query, keep_blank_values=True))

    def _version(self, exchange: HttpExchange, _query: dict[str, list[str]]) -> None:
        """H-60."""
        versions = {
            "etcdserver": ETCD_VERSION,
            "etcdcluster": self._node.applier.cluster_version or "not_decided",
            "storage": STORAGE_VERSION,
        }
        exchange.respond(200, _JSON, json.dumps(versions, separators=(",", ":")).encode())

    def _health(self, exchange: HttpExchange, query: dict[str, list[str]]) -> None:
        """H-40 to H-44: alarms, then a leader, then a read."""
        excluded = set(query.get("exclude", ()))
        for _, alarm in self._node.alarms.active():
            name = rpc_pb2.AlarmType.Name(alarm)  # type: ignore[arg-type]
            if name not in excluded:
                _answer_health(exchange, f"ALARM {name}")
                return
        if query.get("serializable") == ["true"]:
            self._finish_health(exchange, None)
        elif not self._node.leader_id:
            _answer_health(exchange, "RAFT NO LEADER")
        else:
            self._node.linearizable(self._finish_health, exchange)

    def _finish_health(self, exchange: HttpExchange, error: Exception | None) -> None:
        if error is not None:
            _answer_health(exchange, f"RANGE ERROR:{status_of(error).text}")
            return
        self._node.store.get(self._node.backend.read(), b"health")
        _answer_health(exchange, "")


def _answer_health(exchange: HttpExchange, reason: str) -> None:
    # `health` is a string, and the body of a failure ends in a newline: probes compare bytes (H-40).
    body = json.dumps({"health": "false" if reason else "true", "reason": reason}, separators=(",", ":"))
    if reason:
        exchange.respond(503, _TEXT, body.encode() + b"\n")
    else:
        exchange.respond(200, _JSON, body.encode())
