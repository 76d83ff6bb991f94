"""Counters of what the rpc layer did, as plain integers that `metrics` reads when it is asked.

Incrementing an attribute is all the hot path pays. Nothing here is ever reset.
"""

from __future__ import annotations

from typing import Final

from raftkv.rpc.codes import Code


class MethodStats:
    """Counters of one method. `handled[code]` is indexed by gRPC status code."""

    __slots__ = ("handled", "path", "received", "sent", "started")

    def __init__(self, path: str) -> None:
        self.path = path
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
        "floods",
        "goaways_received",
        "goaways_sent",
        "handler_errors",
        "handshake_timeouts",
        "keepalive_timeouts",
        "methods",
        "ping_strikes",
        "protocol_errors",
        "streams_reset_by_peer",
        "streams_reset_by_us",
    )

    def __init__(self) -> None:
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
        self.handler_errors = 0
        """Handlers that raised: always a mistake of ours."""
        self.methods: Final[dict[bytes, MethodStats]] = {}

    def of_method(self, path: bytes) -> MethodStats:
        """The counters of a served path. Never called with a path that a client made up."""
        found = self.methods.get(path)
        if found is None:
            found = self.methods[path] = MethodStats(path.decode())
        return found
