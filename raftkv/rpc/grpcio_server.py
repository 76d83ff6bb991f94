"""The same routes on a stock grpcio server: the reference for our own, and a way out for who needs one.

The one file of the room with `async def`: it adapts callbacks to grpc.aio, which knows nothing else. Needs
the optional dependency grpcio, imported when a server is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from raftkv.rpc.codes import Code
from raftkv.rpc.limits import DEFAULT_LIMITS, Limits
from raftkv.rpc.service import (
    TEXT_DEADLINE,
    Left,
    Method,
    MethodKind,
    Routes,
    StreamHandler,
    StreamReceiver,
    UnaryHandler,
    UnaryWaiter,
    unimplemented_text,
)
from raftkv.rpc.stats import Stats

if TYPE_CHECKING:
    from raftkv.rpc.grpcio_tls import GrpcioTls
    from raftkv.rpc.tls import Tls

logger = logging.getLogger(__name__)


MAX_PENDING_REQUESTS: Final = 50_000
"""grpcio's own default is 1000."""


def server_options(limits: Limits) -> list[tuple[str, int]]:
    """Channel arguments that make grpcio keep etcd's promises (PY-01)."""
    pings = limits.keepalive_interval_s > 0 and limits.keepalive_timeout_s > 0  # G-41
    interval_ms = int(limits.keepalive_interval_s * 1000) if pings else 2**31 - 1
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(limits.keepalive_min_time_s * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_time_ms", interval_ms),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout_s * 1000)),
        ("grpc.max_concurrent_streams", min(limits.max_concurrent_streams, 2**31 - 1)),
        ("grpc.so_reuseport", 0),
        # Above the first number calls waiting to be picked up are dropped at random; a burst is no reason to.
        ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_REQUESTS),
    ]


class GrpcioServer:
    """Serves routes by grpc.aio in the running loop. HTTP/1.1 is not served on its ports."""

    def __init__(self, routes: Routes, limits: Limits = DEFAULT_LIMITS, stats: Stats | None = None) -> None:
        import grpc

        self._routes: Final = routes
        self.limits: Final = limits
        self.stats: Final = stats if stats is not None else Stats()
        self._server: Final = grpc.aio.server(options=server_options(limits))
        self._server.add_generic_rpc_handlers((_make_generic_handler(self),))
        self._tls: GrpcioTls | None = None

    def add_port(self, address: str, tls: Tls | None = None) -> int:
        """Bind `host:port` or `unix:path`; returns the port. Raises RuntimeError when it cannot."""
        if tls is None:
            return int(self._server.add_insecure_port(address))
        # Not above: what it imports is 12 MB that a server without TLS does not need.
        from raftkv.rpc.grpcio_tls import GrpcioTls

        self._tls = self._tls or GrpcioTls(tls)
        return int(self._server.add_secure_port(address, self._tls.credentials()))

    def refusal(self, context: Any) -> str | None:
        """Why the client with this certificate gets no answer; or None."""
        return None if self._tls is None else self._tls.refusal(context.auth_context())

    async def start(self) -> None:
        await self._server.start()

    async def drain(self) -> None:
        """Accept nothing more, let calls in flight end, then cancel what remains after drain_timeout_s."""
        await self._server.stop(self.limits.drain_timeout_s)

    async def close(self) -> None:
        await self._server.stop(None)

    def handler_for(self, path: str) -> Any:
        """The grpcio method handler of a path; for one that nobody serves, a handler that says so."""
        import grpc

        method = self._routes.get(path.encode())
        if method is None:
            return grpc.stream_stream_rpc_method_handler(self._refusal(path))
        if method.kind is MethodKind.UNARY:
            return grpc.unary_unary_rpc_method_handler(self._unary(method))
        if method.kind is MethodKind.SERVER_STREAM:
            return grpc.unary_stream_rpc_method_handler(self._server_stream(method))
        return grpc.stream_stream_rpc_method_handler(self._bidi(method))

    def _refusal(self, path: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def refuse(requests: Any, context: Any) -> None:
            self.stats.calls_rejected += 1
            await context.abort(_status(Code.UNIMPLEMENTED), unimplemented_text(self._routes, path.encode()))

        return refuse

    def _unary(self, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        handler = cast(UnaryHandler, method.handler)

        async def serve(request: bytes, context: Any) -> bytes:
            call = _GrpcioCall(self, method, context)
            call.stats.received += 1
            try:
                if call.admitted():
                    call.guard(handler, call, request)
                await call.wait_ended()
                await call.abort_if_failed()
                return call.take_reply()
            finally:
                call.on_over()

        return serve

    def _server_stream(self, method: Method) -> Callable[[bytes, Any], Awaitable[None]]:
        async def serve(request: bytes, context: Any) -> None:
            async def one() -> AsyncIterator[bytes]:
                yield request

            await _serve_stream(_GrpcioCall(self, method, context), one())

        return serve

    def _bidi(self, method: Method) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
        async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
            await _serve_stream(_GrpcioCall(self, method, context), requests)

        return serve


def _make_generic_handler(server: GrpcioServer) -> Any:
    import grpc

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio is untyped
        def service(self, details: Any) -> Any:
            return server.handler_for(details.method)

    return Handler()


async def _serve_stream(call: _GrpcioCall, requests: AsyncIterator[bytes]) -> None:
    """Requests go to the receiver as they come, messages to the client as fast as it takes them."""
    if call.admitted():
        call.meet(call.guard(cast(StreamHandler, call.method.handler), call))
    reading = asyncio.ensure_future(_read_requests(call, requests))
    try:
        while (message := await call.next_message()) is not None:
            await call.context.write(message)
            call.on_written(len(message))
        await call.abort_if_failed()
    finally:
        reading.cancel()
        call.on_over()


async def _read_requests(call: _GrpcioCall, requests: AsyncIterator[bytes]) -> None:
    async for message in requests:
        if call.done or call.receiver is None:
            return
        call.stats.received += 1
        call.guard(call.receiver.on_message, message)
    if not call.done and call.receiver is not None:
        call.guard(call.receiver.on_half_close)


class _GrpcioCall:
    """`raftkv.rpc.service.Call` on a grpc.aio servicer context."""

    def __init__(self, server: GrpcioServer, method: Method, context: Any) -> None:
        self._server = server
        self.method = method
        self.context = context
        self._metadata: dict[str, str] | None = None
        self.stats = server.stats.of_method(method.path.encode(), self.metadata("client-api-version"))
        self.stats.started += 1
        self.receiver: StreamReceiver | None = None
        self.cancelled = False
        self.done = False
        """The status is decided."""
        self.queued_bytes = 0
        self.identity: Any = None
        left_s = context.time_remaining()
        self.deadline: float | None = None
        if left_s is not None:
            self.deadline = asyncio.get_running_loop().time() + left_s
        self._queue: deque[bytes] = deque()
        """Bounded as in the native server: `send` says False beyond the high mark."""
        self._throttled = False
        self._failure: tuple[Code, str] | None = None
        self._changed = asyncio.Event()
        """Something was queued, or the call was ended by its handler."""

    # --- as handlers see it

    @property
    def peer(self) -> str:
        name = unquote(str(self.context.peer()))
        family, _, address = name.partition(":")
        return address if family in ("ipv4", "ipv6") else ""

    @property
    def tls_common_name(self) -> str | None:
        names = self.context.auth_context().get("x509_common_name")
        return names[0].decode("utf-8", "replace") if names else None

    def metadata(self, key: str) -> str | None:
        if self._metadata is None:
            self._metadata = {}
            for name, value in self.context.invocation_metadata() or ():
                text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
                self._metadata.setdefault(name, text)
        return self._metadata.get(key)

    def when_closed(self, callback: Callable[[], None]) -> None:
        if self.done:
            callback()
        else:
            self.receiver = UnaryWaiter(callback)

    def reply(self, message: bytes) -> None:
        if not self.done:
            self.receiver = None  # a unary call's, if any: answered is not what it waits for
            self._queue.append(message)
            self.stats.sent += 1
            self._settle(Code.OK)

    def reply_in_parts(self, parts: list[bytes], left: Left) -> None:
        size = sum(map(len, parts))
        if self.done:
            left(size)
        else:
            self.context.add_done_callback(lambda _context: left(size))
            self.reply(b"".join(parts))
            parts.clear()

    def fail(self, code: Code, text: str) -> None:
        if not self.done:
            self._failure = (code, text)
            self._settle(code)

    def send(self, message: bytes) -> bool:
        if self.done:
            return True
        self._queue.append(message)
        self.queued_bytes += len(message)
        self.stats.sent += 1
        self._changed.set()
        if self.queued_bytes < self._server.limits.stream_high_bytes:
            return True
        self._throttled = True
        return False

    def send_counted(self, message: bytes, left: Left) -> bool:
        """Of what waits here the high mark is bound enough; what grpcio holds, nobody can count."""
        left(len(message))
        return self.send(message)

    def cut_off(self) -> None:
        """grpcio keeps an answer that it has taken until its client goes."""

    def finish(self) -> None:
        if not self.done:
            self._settle(Code.OK)

    # --- as the server sees it

    def admitted(self) -> bool:
        """False, and the call is refused, when its caller or its metadata is not acceptable."""
        stranger = self._server.refusal(self.context)
        if stranger is not None:
            self.fail(Code.UNAUTHENTICATED, stranger)
            return False
        admit = self.method.admit
        refused = None if admit is None else admit(self.metadata)
        if refused is None:
            return True
        self.fail(*refused)
        return False

    def guard(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a handler; one that raises is our mistake and fails its own call only."""
        try:
            return function(*args)
        except Exception:
            self._server.stats.handler_errors += 1
            logger.exception("handler raised", extra={"kv": {"method": self.method.path}})
            self.fail(Code.INTERNAL, "internal error")
            return None

    def meet(self, receiver: StreamReceiver | None) -> None:
        """The stream's handler has answered with its receiver, or raised."""
        if not self.done:
            self.receiver = receiver
        elif receiver is not None:
            # The handler ended the call before it returned.
            self.guard(receiver.on_closed)

    async def wait_ended(self) -> None:
        while not self.done:
            await self._changed.wait()
            self._changed.clear()

    async def next_message(self) -> bytes | None:
        """None when the call is ended and everything queued has been taken."""
        while not self._queue:
            if self.done:
                return None
            await self._changed.wait()
            self._changed.clear()
        return self._queue.popleft()

    def take_reply(self) -> bytes:
        return self._queue.popleft()

    def on_written(self, size_bytes: int) -> None:
        self.queued_bytes -= size_bytes
        if self._throttled and self.queued_bytes < self._server.limits.stream_low_bytes:
            self._throttled = False
            if self.receiver is not None and not self.done:
                self.guard(self.receiver.on_writable)

    async def abort_if_failed(self) -> None:
        if self._failure is not None:
            code, text = self._failure
            await self.context.abort(_status(code), text)

    def on_over(self) -> None:
        """grpc.aio is done with the call: it ended as decided, or was cancelled."""
        if not self.done:
            self.cancelled = True
            expired = self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline
            if expired:
                self._server.stats.calls_expired += 1
            self.fail(*((Code.DEADLINE_EXCEEDED, TEXT_DEADLINE) if expired else (Code.CANCELLED, "")))

    def _settle(self, code: Code) -> None:
        self.done = True
        self.stats.handled[code] += 1
        self._changed.set()
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            self.guard(receiver.on_closed)


def _status(code: Code) -> Any:
    import grpc

    return next(status for status in grpc.StatusCode if status.value[0] == code)
