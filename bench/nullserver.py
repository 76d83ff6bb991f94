"""A server that does nothing, as fast as raftkv.rpc can: it shows what the generator itself can sustain.

Answers every put, range and txn, and every HTTP request, with the same few bytes and hands each put to all watchers.
Stores nothing.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Call, Service, build_routes

_HEADER: Final = rpc_pb2.ResponseHeader(cluster_id=1, member_id=1, revision=1_000_000, raft_term=2)


class NullServer:
    """On a free port of 127.0.0.1, within the running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int = 0) -> None:
        self._answer: Final = rpc_pb2.PutResponse(header=_HEADER).SerializeToString()
        self._watchers: dict[_NullWatch, None] = {}
        kv = Service("etcdserverpb.KV").unary("Put", self._put)
        kv.unary("Range", self._reply).unary("Txn", self._reply)
        watch = Service("etcdserverpb.Watch").bidi("Watch", self._watch)
        self._listener = Listener(loop, build_routes([kv, watch]), self._answer_http)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: Final[int] = self._socket.getsockname()[1]

    async def start(self) -> None:
        await self._listener.start(self._socket)

    def close(self) -> None:
        self._listener.close()

    def forget(self, watch: _NullWatch) -> None:
        self._watchers.pop(watch, None)

    def _reply(self, call: Call, _message: bytes) -> None:
        call.reply(self._answer)

    def _answer_http(self, exchange: HttpExchange) -> None:
        exchange.respond(200, (("content-type", "application/json"),), b"{}")

    def _put(self, call: Call, message: bytes) -> None:
        call.reply(self._answer)
        if self._watchers:
            put = rpc_pb2.PutRequest.FromString(message)
            event = kv_pb2.Event(kv=kv_pb2.KeyValue(key=put.key, value=put.value, mod_revision=1_000_000))
            response = rpc_pb2.WatchResponse(header=_HEADER, events=[event]).SerializeToString()
            for watch in self._watchers:
                watch.send(response)

    def _watch(self, call: Call) -> _NullWatch:
        watch = _NullWatch(self, call)
        self._watchers[watch] = None
        return watch


class _NullWatch:
    """One watch stream; every create request on it adds a watcher of everything."""

    def __init__(self, server: NullServer, call: Call) -> None:
        self._server = server
        self._call = call
        self._count = 0

    def send(self, response: bytes) -> None:
        for _ in range(self._count):
            self._call.send(response)

    def on_message(self, _message: bytes) -> None:
        self._count += 1
        self._call.send(rpc_pb2.WatchResponse(header=_HEADER, created=True).SerializeToString())

    def on_half_close(self) -> None: ...

    def on_closed(self) -> None:
        self._server.forget(self)

    def on_writable(self) -> None: ...
