"""The way out to one other member: a connection, one stream of Raft messages on it, calls beside the stream.

Owns connecting, giving up a connection that has fallen silent, and connecting again, for as long as the member belongs
to the cluster. What is sent while there is no connection is lost, and the sender is told. Measures round trips.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv.config import Url
from raftkv.metrics import new_histogram
from raftkv.pb import peer_pb2
from raftkv.rpc.channel import Channel, ChannelState
from raftkv.rpc.codes import Code
from raftkv.rpc.limits import Limits
from raftkv.server.peers.protocol import MESSAGES, PROBE, WELCOME, PeerCallError, Refused, error_of, seal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.raft import Message
    from raftkv.rpc.client_call import OnDone, StreamCall
    from raftkv.rpc.tls import Tls
    from raftkv.server.peers.protocol import Identity

_log = logging.getLogger(__name__)

MIB: Final = 1 << 20
MAX_QUEUED_BYTES: Final = 64 * MIB
"""Messages that wait for a peer that reads slowly. Beyond, messages are dropped: Raft sends them again. What the core
has in flight to one follower is bounded below this (`Config.max_inflight_bytes`), so heartbeats still pass."""
CONNECT_TIMEOUT_S: Final = 2.0
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 0.5
PROBE_INTERVAL_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 3.0
"""No answer for so long: the connection is given up, and another is made. After a network has swallowed packets TCP
would wait for its next retransmission, up to two minutes."""
RECENT_TRIPS: Final = 16
REPORT_EVERY_S: Final = 30.0
"""A peer that cannot be reached is mentioned in the log this often."""
REFUSED_RETRY_S: Final = 1.0
"""After a refusal: it may be that the other side does not know of us yet."""
RTT_WEIGHT: Final = 0.125
"""Of the newest round trip in the mean, as TCP does it (RFC 6298)."""

PEER_LIMITS: Final = Limits(recv_window_bytes=8 * MIB, stream_high_bytes=8 * MIB, keepalive_interval_s=0.0)
"""Windows for a batch of entries on a network with some way to go. Probes take the place of pings."""


def peer_channel(
    loop: asyncio.AbstractEventLoop, url: str, connect_timeout_s: float = CONNECT_TIMEOUT_S, *, tls: Tls | None = None
) -> Channel:
    """A connection to the member that listens at this peer URL. `tls`: for https; None: whom the system trusts.

    Raises ValueError for what is no URL: the member list may hold what a member of another version has written.
    """
    target = Url.parse(url)
    return Channel(
        loop,
        target.host,
        target.port,
        path=target.path,
        tls=None if not target.is_tls else tls or _system_tls(),
        user_agent="raftkv-peer",
        limits=PEER_LIMITS,
        connect_timeout_s=connect_timeout_s,
        backoff_first_s=BACKOFF_FIRST_S,
        backoff_max_s=BACKOFF_MAX_S,
    )


@functools.cache
def _system_tls() -> Tls:
    from raftkv.rpc.tls import TlsSettings, client_tls

    return client_tls(TlsSettings())


class LinkOwner(Protocol):
    """Whom a link reports to. All calls come on the event loop."""

    def accepts(self, peer_id: int, data_id: int) -> bool:
        """Whether the peer, which has just said with which data directory it runs, is the member it was (RF-72)."""

    def on_link_up(self, peer_id: int) -> None: ...

    def on_link_down(self, peer_id: int) -> None:
        """Messages may have been lost."""

    def on_refused(self, peer_id: int, refusal: Refused) -> None:
        """The other side will not have us."""


class Link:
    """See the module. `send` from any turn of the loop; `on_tick` several times a second; at last `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        identity: Identity,
        peer_id: int,
        urls: Sequence[str],
        own_urls: Sequence[str],
        owner: LinkOwner,
        tls: Tls | None = None,
    ) -> None:
        """`tls`: for peer URLs that are https, see `peer_channel`."""
        self.peer_id: Final = peer_id
        self.urls = tuple(urls)
        self.up_since_s: float | None = None
        """Loop time; None while there is no working connection."""
        self.rtt_s: float | None = None
        """The last round trip; None before the first."""
        self.mean_rtt_s = 0.0
        self.round_trips = new_histogram("etcd_network_peer_round_trip_time_seconds")
        self._recent_rtt_s: deque[float] = deque(maxlen=RECENT_TRIPS)
        self.version = ""
        """What the peer said it is."""
        self.sent_bytes = 0
        self.lost = 0
        """Messages dropped."""
        self.disconnects = 0
        self._loop = loop
        self._metadata: Final = identity.metadata(peer_id, own_urls)
        self._owner = owner
        self._tls = tls
        self._turn = 0
        """Which of the URLs is tried."""
        self._channel: Channel | None = None
        self._stream: StreamCall | None = None
        self._closed = False
        self._probing = False
        self._next_probe_s = 0.0
        self._next_report_s = 0.0
        self._next_try_s = 0.0
        self._began_s = loop.time()

    @property
    def up(self) -> bool:
        return self.up_since_s is not None

    @property
    def least_rtt_s(self) -> float:
        """Of the last trips the shortest: how far away the peer is, rather than how busy. 0 before the first."""
        return min(self._recent_rtt_s, default=0.0)

    @property
    def url(self) -> str:
        """The peer URL in use, or to be tried next."""
        return self.urls[self._turn % len(self.urls)]

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Hand a message to the connection. False: it was dropped."""
        stream = self._stream
        if stream is None or self.up_since_s is None or stream.queued_bytes > MAX_QUEUED_BYTES:
            self.lost += 1
            return False
        data = seal(message)
        self.sent_bytes += len(data)
        stream.send(data)
        return True

    def flush(self) -> None:
        """What was sent leaves now: the other's disk shall begin before our own."""
        if self._channel is not None:
            self._channel.flush()

    def call(self, path: bytes, request: bytes, on_done: OnDone, ctx: Any, timeout_s: float) -> None:
        """A unary call beside the stream; `on_done(ctx, code, text, response)` is called once, later."""
        if self._channel is None:
            self._loop.call_soon(on_done, ctx, Code.UNAVAILABLE, "there is no connection available", b"")
        else:
            self._channel.unary(path, request, on_done, ctx, timeout_s, self._metadata)

    async def ask(self, path: bytes, request: bytes, timeout_s: float) -> bytes:
        """The same to wait for. Raises PeerCallError."""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self.call(path, request, _settle, answer, timeout_s)
        return await answer

    # --- the connection -----------------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        if self._closed:
            return
        if self._stream is None:
            if now >= self._next_try_s:
                self._open(now)
        elif now >= self._next_probe_s and not self._probing:
            self._next_probe_s = now + PROBE_INTERVAL_S
            self._probe()

    def try_now(self) -> None:
        """The member is there: connect at once if this link only waits for the time of its next try. What is sent until
        it is up is lost, and that may be a vote for a member that was just started (thesis §3.10)."""
        if self._closed or self._stream is not None:
            return
        if self._channel is not None and self._channel.state is ChannelState.BACKING_OFF:
            self._drop_connection()
        self._open(self._loop.time())

    def set_urls(self, urls: Sequence[str]) -> None:
        """The member has moved (CL-40)."""
        if tuple(urls) != self.urls:
            self.urls, self._turn = tuple(urls), 0
            self._drop_connection()

    def close(self) -> None:
        self._closed = True
        self._drop_connection()

    def _open(self, now: float) -> None:
        channel = self._channel
        if channel is None:
            try:
                channel = self._channel = peer_channel(self._loop, self.url, tls=self._tls)
            except ValueError:  # written by a member that knows more kinds of URLs
                self._turn += 1
                self._report_now_and_then(now)
                return
        if channel.state is ChannelState.BACKING_OFF:
            self._report_now_and_then(now)
            if len(self.urls) > 1:  # the others may work
                self._turn += 1
                self._drop_connection()
            return
        self._stream = channel.stream(MESSAGES, self, self._metadata)

    def _report_now_and_then(self, now: float) -> None:
        if now < self._next_report_s:
            return
        self._next_report_s = now + REPORT_EVERY_S
        since_s = round(now - self._began_s)
        fields = {"peer": f"{self.peer_id:x}", "urls": list(self.urls), "for_s": since_s}
        if self._channel is not None:
            fields["reason"] = self._channel.failure
        _log.warning("a member cannot be reached", extra={"kv": fields})

    def _drop_connection(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()  # ends the stream: `on_closed`

    # --- the stream, as its receiver ----------------------------------------------------------------------------------

    def on_message(self, welcome: bytes) -> None:
        """The other side takes messages from us: the only thing it ever says on this stream."""
        if self.up_since_s is None:
            if len(welcome) != WELCOME.size or not self._owner.accepts(self.peer_id, *WELCOME.unpack(welcome)):
                self._next_try_s = self._loop.time() + REFUSED_RETRY_S
                self._drop_connection()
                return
            self.up_since_s = self._loop.time()
            _log.info("connected to a member", extra={"kv": {"peer": f"{self.peer_id:x}"}})
            self._owner.on_link_up(self.peer_id)

    def on_writable(self) -> None: ...

    def on_closed(self, code: Code, text: str) -> None:
        self._stream = None
        was_up, self.up_since_s = self.up, None
        if self._closed:
            return
        if was_up:
            self.disconnects += 1
            self._began_s = self._loop.time()
            self._next_report_s = self._began_s + REPORT_EVERY_S
            fields = {"peer": f"{self.peer_id:x}", "reason": text}
            _log.warning("lost the connection to a member", extra={"kv": fields})
            self._owner.on_link_down(self.peer_id)
        refusal = error_of(code, text)
        if isinstance(refusal, Refused):
            self._next_try_s = self._loop.time() + REFUSED_RETRY_S
            self._owner.on_refused(self.peer_id, refusal)

    # --- round trips --------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        self._probing = True
        request = peer_pb2.ProbeRequest().SerializeToString()
        # The loop's own clock stands still during a turn and may count whole milliseconds.
        self.call(PROBE, request, self._on_probed, perf_counter(), PROBE_TIMEOUT_S)

    def _on_probed(self, sent_s: float, code: Code, text: str, response: bytes) -> None:
        self._probing = False
        if code is Code.OK:
            self.version = peer_pb2.ProbeResponse.FromString(response).version
            self.rtt_s = perf_counter() - sent_s
            self._recent_rtt_s.append(self.rtt_s)
            self.round_trips.observe(self.rtt_s)
            self.mean_rtt_s += (self.rtt_s - self.mean_rtt_s) * (RTT_WEIGHT if self.mean_rtt_s else 1.0)
        elif code is Code.DEADLINE_EXCEEDED and self._stream is not None:
            fields = {"peer": f"{self.peer_id:x}", "after_s": PROBE_TIMEOUT_S}
            _log.warning("a member does not answer; connecting anew", extra={"kv": fields})
            self._drop_connection()


def _settle(answer: asyncio.Future[bytes], code: Code, text: str, response: bytes) -> None:
    if answer.done():
        return
    if code is Code.OK:
        answer.set_result(response)
    else:
        failure: PeerCallError = error_of(code, text)
        answer.set_exception(failure)
