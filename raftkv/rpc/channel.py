"""The client: calls to one address over one HTTP/2 connection, made again when it is lost.

Owns connecting, backing off, and calls that wait for a connection. Users get callbacks, not futures, unless
they ask for one. Knows nothing of what is called.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from ssl import SSLError
from typing import TYPE_CHECKING, Final, cast

from raftkv.rpc.client_call import ClientCall, Metadata, OnDone, StreamCall, StreamClient, UnaryCall
from raftkv.rpc.client_connection import TEXT_CLOSING, ClientConnection
from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.deadlines import TICK_S, Deadlines
from raftkv.rpc.grpc import CONTENT_TYPE, format_timeout
from raftkv.rpc.headers import literal
from raftkv.rpc.limits import Limits
from raftkv.rpc.stats import Stats

if TYPE_CHECKING:
    from raftkv.rpc.tls import Tls
    from raftkv.rpc.tls_layer import TlsLayer

HOUSEKEEPING_S: Final = 1.0
MAX_PENDING_CALLS: Final = 10_000
"""Calls that wait for a connection or for a free stream. Beyond: UNAVAILABLE at once."""
REMEMBERED_TIMEOUTS: Final = 256
"""Encoded `grpc-timeout` fields. When full all are forgotten."""

CHANNEL_LIMITS: Final = Limits(keepalive_interval_s=10.0, keepalive_timeout_s=5.0)
"""Of a channel: a peer that is gone without a word is noticed while calls wait for it."""


class ChannelState(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    """The last try failed: calls fail at once until the next one."""
    CLOSED = "closed"


class Channel:
    """Calls to `host:port`, or to the Unix socket `path`. Connects at the first call, and again at a call after a loss.

    With `tls` the connection is TLS, and the server's certificate must be for `server_hostname`, or else for `host`.
    `max_message_bytes` bounds a response. `state_changed` is called with each new state.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        *,
        path: str = "",
        tls: Tls | None = None,
        server_hostname: str | None = None,
        authority: str | None = None,
        user_agent: str = "raftkv",
        limits: Limits = CHANNEL_LIMITS,
        max_message_bytes: int = 2**31 - 1,
        stats: Stats | None = None,
        connect_timeout_s: float = 5.0,
        backoff_first_s: float = 0.1,
        backoff_max_s: float = 3.0,
        state_changed: Callable[[ChannelState], None] | None = None,
    ) -> None:
        self._loop: Final = loop
        self._host: Final = host
        self._port: Final = port
        self._path: Final = path
        self._tls: Final = tls
        self._server_hostname: Final = server_hostname or host or "localhost"
        self.limits: Final = limits
        self.max_message_bytes: Final = max_message_bytes
        self.stats: Final = stats if stats is not None else Stats()
        self.deadlines: Final = Deadlines(self._request_sweep)
        self._connect_timeout_s: Final = connect_timeout_s
        self._backoff_first_s: Final = backoff_first_s
        self._backoff_max_s: Final = backoff_max_s
        self._backoff_s = backoff_first_s
        self._state_changed = state_changed
        self._state = ChannelState.IDLE
        self._failure = ""
        """Why the last try failed."""
        self._target: Final = path or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        authority = authority or ("localhost" if path else self._target)
        self._head: Final = (
            (b":method", b"POST"),
            (b":scheme", b"https" if tls is not None else b"http"),
            (b":authority", authority.encode("ascii")),
            (b"content-type", CONTENT_TYPE),
            (b"te", b"trailers"),
            (b"user-agent", user_agent.encode("ascii")),
        )
        self._timeouts: dict[float, bytes] = {}
        self._pending: deque[ClientCall] = deque()
        self._protocol: _ClientProtocol | None = None
        """The connection for new calls, being made or ready. Earlier ones end by themselves."""
        self._protocols: dict[_ClientProtocol, None] = {}
        """All that are not closed: after a GOAWAY the old one lives on beside the new."""
        self._connecting: asyncio.Future[object] | None = None
        self._layer: TlsLayer | None = None
        """Of the connection being made, until its handshake is done."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def state(self) -> ChannelState:
        return self._state

    @property
    def failure(self) -> str:
        """Why the last try to connect failed; empty when it did not."""
        return self._failure

    def connect(self) -> None:
        """Connect now rather than at the first call. No effect while connecting, ready or backing off."""
        if self._state is ChannelState.IDLE:
            self._connect()

    def unary(
        self,
        path: bytes,
        message: bytes,
        on_done: OnDone,
        ctx: object = None,
        timeout_s: float | None = None,
        metadata: Metadata = (),
    ) -> UnaryCall:
        """Call a unary method. `on_done(ctx, code, text, response)` is called once: not from
        within this function, but from within the handle's `cancel`."""
        call = UnaryCall(self, path, metadata, timeout_s, message, on_done, ctx)
        self._start(call)
        return call

    def unary_future(
        self, path: bytes, message: bytes, timeout_s: float | None = None, metadata: Metadata = ()
    ) -> asyncio.Future[bytes]:
        """The same with a future, which raises RpcError. Cancelling it cancels the call."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        call = self.unary(path, message, _resolve, future, timeout_s, metadata)
        future.add_done_callback(lambda done: call.cancel() if done.cancelled() else None)
        return future

    def stream(
        self,
        path: bytes,
        client: StreamClient,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> StreamCall:
        """Open a stream. `client.on_closed(code, text)` is called once: not from within this
        function, but from within the handle's `cancel`."""
        call = StreamCall(self, path, metadata, timeout_s, client)
        self._start(call)
        return call

    def flush(self) -> None:
        """Write what is queued at once, instead of at the end of this turn of the loop."""
        if self._protocol is not None:
            self._protocol.flush()

    def close(self) -> None:
        """End every call with CANCELLED and close the connection."""
        if self._state is ChannelState.CLOSED:
            return
        self._set_state(ChannelState.CLOSED)
        for timer in self._timers.values():
            timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        self._give_up_handshake()
        self._fail_pending(Code.CANCELLED, TEXT_CLOSING)
        for protocol in list(self._protocols):
            protocol.close()

    # --- starting calls

    def _start(self, call: ClientCall) -> None:
        timeout_s = call.timeout_s
        if timeout_s is not None:
            now = self._loop.time()
            call.deadline = now + timeout_s
            call.tick = self.deadlines.add(call, call.deadline, now)
        protocol = self._protocol
        if (
            self._state is ChannelState.READY
            and protocol is not None
            and not self._pending
            and protocol.connection.usable
            and protocol.connection.has_room
        ):
            self._open(protocol.connection, call, timeout_s)
        else:
            self._wait_for_connection(call)

    def _open(self, connection: ClientConnection, call: ClientCall, timeout_s: float | None) -> None:
        key = (call.path, call.metadata)
        block = connection.writer.remembered.get(key)
        if block is None:
            block = connection.writer.encode(key, self._request_head(call))
        if timeout_s is not None:
            # A literal that no table remembers: a timeout is seldom the same twice.
            block += self._timeouts.get(timeout_s) or self._encode_timeout(timeout_s)
        connection.open(call, block)

    def _request_head(self, call: ClientCall) -> list[tuple[bytes, bytes]]:
        head = [*self._head[:3], (b":path", call.path), *self._head[3:]]
        for key, value in call.metadata:
            raw = value if isinstance(value, bytes) else value.encode("utf-8")
            head.append((key.encode("ascii"), base64.b64encode(raw) if key.endswith("-bin") else raw))
        return head

    def _encode_timeout(self, timeout_s: float) -> bytes:
        if len(self._timeouts) >= REMEMBERED_TIMEOUTS:
            self._timeouts.clear()
        encoded = self._timeouts[timeout_s] = literal(b"grpc-timeout", format_timeout(timeout_s))
        return encoded

    def _wait_for_connection(self, call: ClientCall) -> None:
        if self._state in (ChannelState.BACKING_OFF, ChannelState.CLOSED) or len(self._pending) >= MAX_PENDING_CALLS:
            closed = self._state is ChannelState.CLOSED
            code = Code.CANCELLED if closed else Code.UNAVAILABLE
            text = TEXT_CLOSING if closed else self._unavailable_text()
            self._loop.call_soon(call.fail_unsent, code, text)
            return
        self._pending.append(call)
        if self._protocol is not None and self._state is ChannelState.READY and not self._protocol.connection.usable:
            self._leave(self._protocol)
        if self._state is ChannelState.IDLE:
            self._connect()

    def _unavailable_text(self) -> str:
        # Surely not sent: the text lets etcd's clients retry even a put (ER-02).
        return f"there is no connection available: {self._failure or 'too many calls wait'}"

    def _start_pending(self) -> None:
        """Calls that waited, in order, as far as the server allows."""
        protocol = self._protocol
        while self._pending and protocol is not None and self._state is ChannelState.READY:
            connection = protocol.connection
            if not connection.usable or not connection.has_room:
                return
            call = self._pending.popleft()
            if call.done:
                continue
            left_s = None if call.deadline is None else max(call.deadline - self._loop.time(), 0.0)
            self._open(connection, call, left_s)

    def _fail_pending(self, code: Code, text: str) -> None:
        pending, self._pending = self._pending, deque()
        for call in pending:
            call.fail_unsent(code, text)

    def on_call_ended(self) -> None:
        """A call has freed its stream."""
        if self._pending:
            self._start_pending()

    # --- connecting

    def _connect(self) -> None:
        self._set_state(ChannelState.CONNECTING)
        self._timers["connect"] = self._loop.call_later(self._connect_timeout_s, self._on_connect_timeout)
        make = self._make_protocol if self._tls is None else self._make_layer
        if self._path:
            connecting = self._loop.create_unix_connection(make, self._path)
        else:
            connecting = self._loop.create_connection(make, self._host, self._port)
        self._connecting = cast("asyncio.Future[object]", asyncio.ensure_future(connecting, loop=self._loop))
        self._connecting.add_done_callback(self._on_connected)

    def _make_protocol(self) -> asyncio.Protocol:
        return _ClientProtocol(self, self._loop)

    def _make_layer(self) -> asyncio.Protocol:
        from raftkv.rpc.tls_layer import TlsLayer  # what it imports is 12 MB that a channel without TLS does not need

        assert self._tls is not None
        name = self._server_hostname
        self._layer = TlsLayer(self._loop, self, self._make_protocol(), self._tls, server_hostname=name)
        return self._layer

    def _on_connected(self, connecting: asyncio.Future[object]) -> None:
        if self._connecting is connecting:
            self._connecting = None
        if connecting.cancelled():
            return
        error = connecting.exception()
        if error is not None:
            self._on_failure(str(error) or type(error).__name__)

    def _on_connect_timeout(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._on_failure("timed out")

    def _on_failure(self, text: str) -> None:
        """The try to connect failed: wait longer each time, and fail calls meanwhile."""
        if self._state is not ChannelState.CONNECTING:
            return
        self._timers.pop("connect").cancel()
        self._failure = f"connecting to {self._target}: {text}"
        self._set_state(ChannelState.BACKING_OFF)
        self._give_up_handshake()
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            protocol.close()
        wait_s = self._backoff_s * random.uniform(0.8, 1.2)
        self._backoff_s = min(self._backoff_s * 1.6, self._backoff_max_s)
        self._timers["backoff"] = self._loop.call_later(wait_s, self._set_state, ChannelState.IDLE)
        self._fail_pending(Code.UNAVAILABLE, self._unavailable_text())

    def _give_up_handshake(self) -> None:
        layer, self._layer = self._layer, None
        if layer is not None:
            layer.refuse("nobody waits for the connection any more")

    def _set_state(self, state: ChannelState) -> None:
        if self._state is not state:
            self._state = state
            if self._state_changed is not None:
                self._state_changed(state)

    def _leave(self, protocol: _ClientProtocol, why: str = "connection lost") -> None:
        """No new calls on this connection. The next call, or one that waits, makes another."""
        if self._protocol is not protocol:
            return
        if self._state is ChannelState.CONNECTING:
            self._on_failure(why)
            return
        self._protocol = None
        if self._state is ChannelState.READY:
            self._set_state(ChannelState.IDLE)
            if self._pending:
                self._connect()

    # --- what protocols call

    def on_open(self, protocol: _ClientProtocol) -> bool:
        """False: nobody wants the connection any more."""
        if self._state is not ChannelState.CONNECTING:
            return False
        self._protocol = protocol
        self._protocols[protocol] = None
        return True

    def on_ready(self, protocol: _ClientProtocol) -> None:
        """The server's SETTINGS have come."""
        if self._protocol is not protocol or self._state is not ChannelState.CONNECTING:
            return
        self._timers.pop("connect").cancel()
        self._backoff_s = self._backoff_first_s
        self._failure = ""
        self._set_state(ChannelState.READY)
        if "housekeeping" not in self._timers:
            self._on_housekeeping()
        self._start_pending()

    def on_progress(self, protocol: _ClientProtocol) -> None:
        """Something was received or written: the connection may have become useless, or empty."""
        if not protocol.connection.usable:
            self._leave(protocol)

    def on_gone(self, protocol: _ClientProtocol, exc: Exception | None) -> None:
        self._protocols.pop(protocol, None)
        if isinstance(exc, SSLError):  # a server tells only after its own handshake that it wants no such client
            self._leave(protocol, f"TLS: {(exc.reason or str(exc)).lower().replace('_', ' ')}")
        else:
            self._leave(protocol)

    # --- what the TLS layer calls

    def on_layer(self, layer: TlsLayer) -> bool:
        return self._layer is layer

    def on_handshake_due(self, layer: TlsLayer) -> None:
        layer.shake_hands()

    def on_secured(self, layer: TlsLayer) -> None:
        if self._layer is layer:
            self._layer = None

    def on_plain(self, layer: TlsLayer) -> None:
        raise AssertionError("a client's connection is TLS or it is not")

    def on_unsecured(self, layer: TlsLayer, why: str) -> None:
        if self._layer is layer:
            self._layer = None
            self._on_failure(f"TLS: {why}")

    # --- timers

    def _request_sweep(self) -> None:
        self._timers["sweep"] = self._loop.call_later(TICK_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self.deadlines.sweep(self._loop.time())

    def _on_housekeeping(self) -> None:
        if not self._protocols:
            self._timers.pop("housekeeping", None)
            return
        self._timers["housekeeping"] = self._loop.call_later(HOUSEKEEPING_S, self._on_housekeeping)
        now = self._loop.time()
        for protocol in list(self._protocols):
            protocol.on_tick(now)


def _resolve(ctx: object, code: Code, text: str, response: bytes) -> None:
    future = cast("asyncio.Future[bytes]", ctx)
    if future.done():
        return
    if code is Code.OK:
        future.set_result(response)
    else:
        future.set_exception(RpcError(code, text))


class _ClientProtocol(asyncio.Protocol):
    """One socket: carries bytes between transport and connection."""

    __slots__ = ("_channel", "_flush_due", "_loop", "_transport", "connection")

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._flush_due = False
        self.connection = ClientConnection(channel.limits, channel.stats, self._wake, self._on_ready, loop.time())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._channel.on_open(self):
            self.flush()
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data, self._loop.time())
        if not self.connection.usable:
            self._channel.on_progress(self)
            self._close_if_finished()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.on_gone(self, exc)
        self.connection.connection_lost()

    def pause_writing(self) -> None:
        self.connection.pause()

    def resume_writing(self) -> None:
        self.connection.resume()

    def on_tick(self, now: float) -> None:
        self.connection.on_tick(now)
        self._close_if_finished()

    def close(self) -> None:
        """Calls in flight end with UNAVAILABLE or, if the channel closes, CANCELLED."""
        self.connection.shut_down()
        self.flush()

    def _on_ready(self) -> None:
        self._channel.on_ready(self)

    def _wake(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flush_due = False
        transport = self._transport
        if transport is None:
            return
        data = self.connection.take_output()
        if data:
            transport.write(data)
        self._close_if_finished()

    def _close_if_finished(self) -> None:
        if self._transport is not None and self.connection.finished and not self._flush_due:
            self._transport.close()
