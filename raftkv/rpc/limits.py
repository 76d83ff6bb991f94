"""Every bound of the rpc layer, with its default and what happens when it is reached.

One immutable object is handed to the listener; nothing else in the room has a number of its own that
an operator might want to change.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KIB: Final = 1024
MIB: Final = 1024 * KIB


class Limits(NamedTuple):
    max_message_bytes: int = 2 * MIB
    """Largest request message, after decompression (LIM-03). Beyond: RESOURCE_EXHAUSTED."""

    max_concurrent_streams: int = 4294967295
    """Streams of one connection, announced in SETTINGS (LIM-07). Beyond: RST_STREAM REFUSED_STREAM."""

    max_connections: int = 16384
    """Of one listener. Beyond: closed at once, before a byte is read."""

    max_header_block_bytes: int = 64 * KIB
    """A header block as sent, HEADERS and CONTINUATION together. Beyond: GOAWAY ENHANCE_YOUR_CALM."""

    max_header_list_bytes: int = 64 * KIB
    """A header block decoded, counted as in RFC 9113 section 6.5.2. Beyond: GOAWAY ENHANCE_YOUR_CALM."""

    recv_window_bytes: int = MIB
    """Flow-control window of the connection and of each stream. At least one frame (16 KiB)."""

    max_partial_bytes: int = 64 * MIB
    """Incomplete messages of one connection together. Beyond: the stream that grows is refused with
    RESOURCE_EXHAUSTED."""

    stream_high_bytes: int = MIB
    """Queued stream messages of one call from which `send` answers False."""

    stream_low_bytes: int = 256 * KIB
    """Below it `on_writable` is called."""

    max_queued_bytes: int = 256 * MIB
    """Replies queued for one connection, and a KiB for each of its streams, from which new streams are REFUSED. None
    is cut (LIM-04)."""

    max_control_bytes: int = MIB
    """Control frames waiting for a peer that does not read. Beyond: the connection is closed."""

    flood_burst: int = 2000
    """Cheap frames of one sort (resets, SETTINGS, empty DATA, ...) that may come at once."""

    flood_per_s: float = 500.0
    """... and that may come in the long run. Beyond both: GOAWAY ENHANCE_YOUR_CALM."""

    handshake_timeout_s: float = 10.0
    """From accept to a complete HTTP/2 preface with SETTINGS, or a complete HTTP/1.1 request head; also
    the longest that a begun frame or header block may stay incomplete. Beyond: closed."""

    keepalive_min_time_s: float = 5.0
    """A client's pings may not come closer together than this while it has a stream (G-40)."""

    keepalive_interval_s: float = 7200.0
    """An idle connection is pinged after this long; 0 never (G-41)."""

    keepalive_timeout_s: float = 20.0
    """A ping not answered for this long ends the connection; 0 sends none (G-41)."""

    idle_http_timeout_s: float = 120.0
    """An HTTP/1.1 connection without a request is closed after this long."""

    max_http_body_bytes: int = 4 * MIB
    """Body of an HTTP request. Beyond: 413."""

    drain_timeout_s: float = 5.0
    """How long calls in flight may take to end once the listener drains. Beyond: connections close."""


DEFAULT_LIMITS: Final = Limits()
