"""TLS between a socket's transport and a protocol that knows nothing of it: each takes the layer for the other.

    transport <-> TlsLayer <-> protocol

Owns the handshake, the records and the end of a connection, for both roles. The protocol hears of the connection when
the handshake is done and its owner's rules are met (`tls_checks`); one that fails never reaches it. A layer that also
takes plain text (H-05) lets the first byte decide, and then is out of the way: transport and protocol meet.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from enum import Enum
from typing import Any, Final, Protocol, cast

from raftkv.rpc.tls import Tls, reason_of
from raftkv.rpc.tls_checks import judge

RECORD_BYTES: Final = 16 * 1024
"""The most that one TLS record carries."""
HANDSHAKE_RECORD: Final = 0x16
"""First byte of every TLS connection; no HTTP request and no HTTP/2 preface begins with it."""
MAX_EARLY_BYTES: Final = 256 * 1024
"""What a connection may send before it is let in. Beyond: closed. A chain of certificates is far smaller."""


class Owner(Protocol):
    """Whom a layer tells how its connection began: by one of `on_secured`, `on_unsecured` and `on_plain`, once."""

    def on_layer(self, layer: TlsLayer) -> bool:
        """The transport is there. False: there are too many connections, or nobody wants this one any more."""

    def on_handshake_due(self, layer: TlsLayer) -> None:
        """Bytes of the handshake have come: call `shake_hands`, now or soon. It costs a millisecond of CPU."""

    def on_secured(self, layer: TlsLayer) -> None: ...

    def on_plain(self, layer: TlsLayer) -> None:
        """It is no TLS, and that is allowed."""

    def on_unsecured(self, layer: TlsLayer, why: str) -> None:
        """The handshake failed, or the other side is not let in. The transport is closing."""


class _State(Enum):
    WAITING = "waiting"
    """For the transport, or for the first byte."""
    HANDSHAKE = "handshake"
    JUDGED = "judged"
    """The handshake is done; whether the other side is let in is being found out."""
    OPEN = "open"
    CLOSING = "closing"
    """We have said goodbye; what is queued is still written."""
    OVER = "over"


class TlsLayer(asyncio.Protocol, asyncio.Transport):
    """`server_hostname`: whom a client wants to reach, name or address. None: the server's role."""

    __slots__ = (
        "_early_bytes",
        "_failure",
        "_incoming",
        "_inner",
        "_judging",
        "_loaded",
        "_loop",
        "_outgoing",
        "_owner",
        "_server_hostname",
        "_session",
        "_state",
        "_takes_plain",
        "_tls",
        "_transport",
        "began_at",
        "is_half_done",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        inner: asyncio.Protocol,
        tls: Tls,
        *,
        server_hostname: str | None = None,
        takes_plain: bool = False,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._inner = inner
        self._tls = tls
        self._loaded = tls.loaded
        self._server_hostname = server_hostname
        self._takes_plain = takes_plain
        self._state = _State.WAITING
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._session: ssl.SSLObject = cast(ssl.SSLObject, None)
        """Made with the first byte, so that a connection that never sends one costs nothing."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._early_bytes = 0
        self._judging: asyncio.Future[str | None] | None = None
        self._failure: ssl.SSLError | None = None
        """Why an open connection ended."""
        self.began_at = loop.time()
        self.is_half_done = False
        """The other side is to answer what the handshake has said so far."""

    # --- as the transport sees it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._owner.on_layer(self):
            self._state = _State.OVER
            self._transport.abort()
        elif self._server_hostname is not None:
            try:
                self._begin()
            except ValueError as failure:  # no name that could be in a certificate
                self._fail(str(failure))
            else:
                self.shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._state is _State.OPEN:
            self._incoming.write(data)
            self._read()
        elif self._state not in (_State.CLOSING, _State.OVER):
            self._receive_early(data)

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        state = self._state
        if state in (_State.OPEN, _State.CLOSING):
            self._state = _State.OVER
            self._inner.connection_lost(self._failure or exc)
        elif state is not _State.OVER:
            self._fail("connection lost" if exc is None else str(exc))

    def pause_writing(self) -> None:
        if self._state is _State.OPEN:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._state is _State.OPEN:
            self._inner.resume_writing()

    # --- as the protocol sees it

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state is not _State.OPEN:
            return
        try:
            self._session.write(data)
        except ssl.SSLError as failure:
            self._break(failure)
            return
        self._transport.write(self._outgoing.read())

    def close(self) -> None:
        """Say goodbye, write what is queued and close."""
        if self._state is _State.OPEN:
            try:
                self._session.unwrap()
            except ssl.SSLError:
                pass  # it wants to hear the other side's goodbye, for which nobody waits
            self._flush()
            self._state = _State.CLOSING
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._session
        if name == "peercert":
            return self._session.getpeercert()
        return self._transport.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    # --- as the owner sees it

    @property
    def is_silent(self) -> bool:
        """Nothing has been received: perhaps somebody only looked whether the port is open."""
        return not self._early_bytes

    def shake_hands(self) -> None:
        """Go on with the handshake as far as what was received goes."""
        if self._state is not _State.HANDSHAKE:
            return
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            self.is_half_done = bool(self._outgoing.pending) or self.is_half_done
            self._flush()
        except (ssl.SSLError, ValueError) as failure:
            self._flush()  # the alert that tells the other side why
            self._fail(reason_of(failure))
        else:
            self._flush()
            self._state = _State.JUDGED
            self._judge()

    def refuse(self, why: str) -> None:
        """End a connection that is not let in yet."""
        if self._state not in (_State.OPEN, _State.OVER):
            self._fail(why)

    # --- within

    def _receive_early(self, data: bytes) -> None:
        if self._state is _State.WAITING:
            if self._takes_plain and data[0] != HANDSHAKE_RECORD:
                self._step_aside(data)
                return
            self._begin()
        self._incoming.write(data)
        self._early_bytes += len(data)
        if self._early_bytes > MAX_EARLY_BYTES:
            self._fail("too much was sent before the handshake was done")
        elif self._state is _State.HANDSHAKE:
            self._owner.on_handshake_due(self)

    def _begin(self) -> None:
        """From here on it is TLS, with the files as they are now (TLS-02)."""
        self._loaded = self._tls.current()
        name = self._server_hostname
        self._session = self._loaded.context.wrap_bio(
            self._incoming, self._outgoing, server_side=name is None, server_hostname=name or None
        )
        self._state = _State.HANDSHAKE

    def _step_aside(self, data: bytes) -> None:
        self._state = _State.OVER
        self._owner.on_plain(self)
        self._transport.set_protocol(self._inner)
        self._inner.connection_made(self._transport)
        self._inner.data_received(data)

    def _judge(self) -> None:
        verdict = judge(self._tls.settings, self._loaded, self._session, self._remote())
        if isinstance(verdict, Awaitable):
            self._judging = asyncio.ensure_future(verdict, loop=self._loop)
            self._judging.add_done_callback(self._on_judged)
        else:
            self._conclude(verdict)

    def _remote(self) -> str:
        name: Any = self._transport.get_extra_info("peername")
        return str(name[0]) if self._server_hostname is None and isinstance(name, tuple) else ""

    def _on_judged(self, judging: asyncio.Future[str | None]) -> None:
        if self._state is _State.JUDGED and not judging.cancelled():
            failure = judging.exception()
            self._conclude(judging.result() if failure is None else str(failure))

    def _conclude(self, refusal: str | None) -> None:
        if refusal is not None:
            self._fail(refusal)
            return
        self._state = _State.OPEN
        self._owner.on_secured(self)
        self._inner.connection_made(self)
        if self._incoming.pending and not self._transport.is_closing():
            self._read()  # what came with the last of the handshake

    def _read(self) -> None:
        """Hand over all whole records of what was received, at once."""
        incoming, read = self._incoming, self._session.read
        parts: list[bytes] = []
        goodbye, failure = False, None
        try:
            while incoming.pending and not goodbye:
                part = read(RECORD_BYTES)
                if part:
                    parts.append(part)
                else:
                    goodbye = True
        except ssl.SSLWantReadError:
            pass  # the rest of a record is on its way
        except ssl.SSLError as broken:
            failure = broken
        if parts:
            self._inner.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if failure is not None:
            self._break(failure)
        elif goodbye:
            self.close()
        else:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _break(self, failure: ssl.SSLError) -> None:
        """The other side has sent what is no TLS, or its alert."""
        self._failure = failure
        self._flush()
        self._transport.abort()

    def _fail(self, why: str) -> None:
        self._state = _State.OVER
        if self._judging is not None:
            self._judging.cancel()
        if self._transport is not None:  # given up before it was connected; `connection_made` will see
            self._transport.close()
        self._owner.on_unsecured(self, why)
