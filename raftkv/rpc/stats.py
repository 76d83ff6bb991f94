"""Counters of what the rpc layer did, as plain integers that `metrics` reads when it is asked.

Incrementing an attribute is all the hot path pays. Nothing here is ever reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.histogram import Histogram
from raftkv.rpc.codes import Code

MAX_VERSIONS: Final = 32
"""Versions of clients that are told apart."""
MAX_VERSION_CHARS: Final = 32
UNKNOWN_VERSION: Final = "unknown"
OTHER_VERSION: Final = "other"


class MethodStats:
    """Counters of one method, for clients of one version. `handled[code]` is indexed by gRPC status code."""

    __slots__ = ("client_version", "durations", "handled", "path", "received", "sent", "started")

    def __init__(self, path: str, client_version: str = UNKNOWN_VERSION, durations: Histogram | None = None) -> None:
        self.path = path
        self.client_version = client_version
        self.durations = durations
        """Seconds from a call's head to its status; None where nobody measures."""
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = [0] * len(Code)


class Stats:
    """Counters of one listener or channel, shared by all its connections."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "calls_expired",
        "calls_refused",
        "calls_rejected",
        "connections_accepted",
        "connections_closed",
        "connections_refused",
        "duration_bounds",
        "floods",
        "goaways_received",
        "goaways_sent",
        "handler_errors",
        "handshake_timeouts",
        "http_bodies_refused",
        "http_idle_closes",
        "http_pipelining_closes",
        "keepalive_timeouts",
        "methods",
        "ping_strikes",
        "protocol_errors",
        "streams_reset_by_peer",
        "streams_reset_by_us",
        "tls_handshakes",
        "tls_handshakes_failed",
        "versions",
    )

    def __init__(self, duration_bounds: Sequence[float] = ()) -> None:
        """`duration_bounds`: measure how long calls take, with these buckets."""
        self.duration_bounds: Final = duration_bounds
        self.bytes_received = 0
        self.bytes_sent = 0
        self.connections_accepted = 0
        self.connections_refused = 0
        """Beyond the limit of connections."""
        self.connections_closed = 0
        self.calls_expired = 0
        self.calls_refused = 0
        """New streams answered REFUSED_STREAM: too many streams, or too much queued for the connection."""
        self.calls_rejected = 0
        """Ended at their head: unknown method or encoding, malformed timeout."""
        self.streams_reset_by_peer = 0
        self.streams_reset_by_us = 0
        self.goaways_sent = 0
        self.goaways_received = 0
        self.protocol_errors = 0
        """Connections ended because the peer broke a rule of HTTP/2 or HPACK."""
        self.floods = 0
        """Connections ended with ENHANCE_YOUR_CALM for anything but pings."""
        self.ping_strikes = 0
        self.keepalive_timeouts = 0
        self.handshake_timeouts = 0
        self.http_bodies_refused = 0
        """Requests answered 413."""
        self.http_pipelining_closes = 0
        """HTTP/1.1 connections ended, for too much came while a request was being served."""
        self.http_idle_closes = 0
        """... and those that brought no further request for too long."""
        self.tls_handshakes = 0
        """Connections that TLS let in."""
        self.tls_handshakes_failed = 0
        """... and those it did not: no agreement, a certificate that will not do, or too slow (TLS-10)."""
        self.handler_errors = 0
        """Handlers that raised: always a mistake of ours."""
        self.methods: Final[dict[bytes, MethodStats]] = {}
        """Of clients that do not say their version."""
        self.versions: Final[dict[str, dict[bytes, MethodStats]]] = {}
        """Of the others, by what they say; bounded by MAX_VERSIONS and one more."""

    def of_method(self, path: bytes, client_version: str | None = None) -> MethodStats:
        """The counters of a served path. Never called with a path that a client made up; the version may be (G-24)."""
        if client_version is None:
            methods, version = self.methods, UNKNOWN_VERSION
        else:
            version = self._known_version(client_version)
            methods = self.versions.setdefault(version, {})
        found = methods.get(path)
        if found is None:
            durations = Histogram(self.duration_bounds) if self.duration_bounds else None
            found = methods[path] = MethodStats(path.decode(), version, durations)
        return found

    def _known_version(self, version: str) -> str:
        if version in self.versions:
            return version
        return OTHER_VERSION if len(self.versions) >= MAX_VERSIONS or len(version) > MAX_VERSION_CHARS else version
