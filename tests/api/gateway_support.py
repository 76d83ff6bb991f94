"""A JSON gateway in front of handlers that keep what they are given: no sockets, and time as the test says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from raftkv.api.client_version import with_client_version_checked
from raftkv.api.gateway import Gateway
from raftkv.pb import rpc_pb2
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.service import Call, Service, build_routes
from raftkv.rpc.stats import Stats

FOO = base64.b64encode(b"foo").decode()
CORS = [("access-control-allow-origin", "*")]


class Loop:
    """Time and turns as the test says."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return 100.0

    def call_soon(self, step: Callable[[], None]) -> None:
        self.soon.append(step)

    def call_later(self, delay_s: float, step: Callable[[], None]) -> Any:
        timer = (delay_s, step)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def turn(self) -> None:
        steps, self.soon = self.soon, []
        for step in steps:
            step()


class Outlet:
    """What an answer without a known end came to."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.ended = False
        self.room = True
        self.protocol: str | None = None
        self.on_text: Callable[[str], None] | None = None

    def start(self, status: int, headers: Any) -> None:
        self.status, self.headers = status, dict(headers)

    def send(self, data: bytes) -> bool:
        self.parts.append(data)
        return self.room

    def finish(self) -> None:
        self.ended = True

    def open_socket(self, protocol: str | None, on_text: Callable[[str], None]) -> None:
        self.protocol, self.on_text = protocol, on_text

    def lines(self) -> list[Any]:
        whole = b"".join(self.parts)
        assert not whole or whole.endswith(b"\n")
        return [json.loads(line) for line in whole.splitlines()]


class Stream:
    """The receiver of a stream; the test makes its answers."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.happened: list[Any] = []

    def on_message(self, message: bytes) -> None:
        self.happened.append(message)

    def on_half_close(self) -> None:
        self.happened.append("half closed")

    def on_closed(self) -> None:
        self.happened.append("closed")

    def on_writable(self) -> None:
        self.happened.append("writable")


class Bench:
    """A gateway in front of three handlers that keep what they are given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, bytes]] = []
        self.streams: list[Stream] = []
        self.loop = Loop()
        self.tasks: list[Any] = []
        self.stats = Stats()
        routes = build_routes(
            [
                Service("etcdserverpb.KV")
                .unary("Put", lambda call, message: self.calls.append((call, message)))
                .unary("Range", self._raise),
                Service("etcdserverpb.Watch").bidi("Watch", self._open),
                Service("etcdserverpb.Maintenance").server_stream("Snapshot", self._open),
            ]
        )
        node: Any = SimpleNamespace(
            config=SimpleNamespace(max_recv_bytes=1000, client_tls=SimpleNamespace(client_cert_auth=False)),
            auth=SimpleNamespace(enabled=False),
            loop=self.loop,
            slices=SimpleNamespace(add=self.tasks.append),
        )
        self.node = node
        self.gateway = Gateway(node, with_client_version_checked(routes), self.stats)

    def _raise(self, _call: Call, _message: bytes) -> None:
        raise ValueError("on purpose")

    def _open(self, call: Call) -> Stream:
        stream = Stream(call)
        self.streams.append(stream)
        return stream

    def ask(
        self, path: str, body: str | bytes = "", method: str = "POST", socket: bool = False, **headers: str
    ) -> Asked:
        asked = Asked(path, body.encode() if isinstance(body, str) else body, method, socket, headers)
        self.gateway.handle(asked.exchange, CORS)
        return asked

    def put(self, **headers: str) -> tuple[Asked, Call]:
        asked = self.ask("/v3/kv/put", f'{{"key":"{FOO}"}}', **headers)
        return asked, self.calls[-1][0]

    def watch(self, body: str = "", **headers: str) -> tuple[Asked, Stream]:
        asked = self.ask("/v3/watch", body, **headers)
        return asked, self.streams[-1]


class Asked:
    """One exchange and what became of it."""

    def __init__(self, path: str, body: bytes, method: str, socket: bool, headers: dict[str, str]) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.outlet = Outlet()
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.exchange = HttpExchange(
            method, path, fields, body, "peer:1", "the certificate's name", self._respond, self.outlet, socket
        )

    def _respond(self, status: int, headers: Any, body: bytes) -> None:
        self.answers.append((status, dict(headers), body))

    def answer(self) -> tuple[int, Any]:
        [(status, headers, body)] = self.answers
        assert headers["content-type"] == "application/json"  # H-32
        assert headers["access-control-allow-origin"] == "*"
        return status, json.loads(body)


def reply(**fields: Any) -> bytes:
    return rpc_pb2.PutResponse(**fields).SerializeToString()


def watched(watch_id: int) -> bytes:
    return rpc_pb2.WatchResponse(watch_id=watch_id).SerializeToString()
