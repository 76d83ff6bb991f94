"""The families that etcd does not have: raftkv_*, and those of the process (contract 11.6).

What prometheus_client collects about the process and about Python is not listed here: see `process`.
"""

from __future__ import annotations

from typing import Final

from raftkv.metrics.family import Family, counter, exponential, gauge, histogram

PORT: Final = ("port",)
"""client or peer."""
REGISTRY: Final = ("method", "prefix")
REGISTRY_HERE: Final = (
    "By the first word behind it, as in `/registry/pods`, so by resource; a transaction by the key of its first "
    "comparison. At most 256 prefixes for each method; the others count as `other`."
)

OWN_FAMILIES: Final[tuple[Family, ...]] = (
    gauge("raftkv_build_info", "The version of raftkv; always 1.", ("version",)),
    histogram(
        "raftkv_loop_lag_seconds",
        "How late the event loop was, measured ten times a second.",
        exponential(0.001, 2, 13),
    ),
    histogram(
        "raftkv_batch_requests",
        "Requests that went into one entry of the log together, on the member that proposed them.",
        exponential(1, 2, 14),
    ),
    histogram(
        "raftkv_checkpoint_duration_seconds",
        "How long making a snapshot of the store durable took; a thread waits for it, not the event loop.",
        exponential(0.001, 2, 16),
    ),
    gauge(
        "raftkv_checkpoint_age_seconds",
        "Since the last moment at which all of the store was durable by itself, without the log.",
    ),
    gauge("raftkv_watch_lag_revisions", "How far the watchers being served from history are behind."),
    counter("raftkv_mvcc_deleted_keys_total", "Keys deleted."),
    counter("raftkv_slow_requests_total", "Requests that took longer than --warning-unary-request-duration."),
    counter("raftkv_state_hash_checks_total", "Comparisons of this member's state with that of another."),
    counter("raftkv_state_hash_differences_total", "Comparisons that found a difference: one of the two is wrong."),
    counter("raftkv_backups_total", "Copies of the store that clients have taken whole: snapshots saved."),
    gauge("raftkv_list_bytes_in_flight", "Memory that large answers take, from being read until they are sent."),
    gauge("raftkv_lists_waiting", "Large answers that wait for room, to begin or to go on."),
    counter("raftkv_lists_refused_total", "Large answers refused, for too many waited already."),
    counter("raftkv_lists_given_up_total", "Large answers given up, for their clients did not take them."),
    gauge("raftkv_connections", "Open connections.", PORT),
    counter("raftkv_connections_accepted_total", "Connections accepted.", PORT),
    counter("raftkv_connections_refused_total", "Connections refused beyond the limit.", PORT),
    counter("raftkv_http2_protocol_errors_total", "Connections ended, for the other side broke a rule of HTTP.", PORT),
    counter("raftkv_http2_floods_total", "Connections ended, for too much came that is no request.", PORT),
    counter("raftkv_http2_ping_strikes_total", "Pings that came sooner than allowed.", PORT),
    counter("raftkv_http2_keepalive_timeouts_total", "Connections ended, for a ping was not answered.", PORT),
    counter("raftkv_http2_handshake_timeouts_total", "Connections that did not say what they want in time.", PORT),
    counter("raftkv_http2_streams_refused_total", "Streams refused beyond the limit.", PORT),
    counter("raftkv_http2_streams_reset_by_peer_total", "Streams that the other side gave up.", PORT),
    counter("raftkv_http2_streams_reset_total", "Streams that this member gave up.", PORT),
    counter("raftkv_http_bodies_refused_total", "HTTP requests answered 413, for their body was too large.", PORT),
    counter(
        "raftkv_http_pipelining_closes_total",
        "HTTP/1.1 connections ended, for too much came while a request was being served.",
        PORT,
    ),
    counter("raftkv_http_idle_closes_total", "HTTP/1.1 connections ended, for no request came any more.", PORT),
    counter("raftkv_rpc_calls_rejected_total", "Calls refused at their head, for a path not served or the like.", PORT),
    counter("raftkv_rpc_calls_expired_total", "Calls whose deadline passed.", PORT),
    counter("raftkv_rpc_handler_errors_total", "Handlers that raised: mistakes of raftkv.", PORT),
    counter("raftkv_tls_handshakes_total", "Connections that TLS let in.", PORT),
    counter("raftkv_tls_handshakes_failed_total", "Connections that TLS did not let in.", PORT),
    gauge(
        "raftkv_tls_certificate_expiry_timestamp_seconds",
        "Unix time at which the certificate in use ends.",
        ("side",),
    ),
    gauge(
        "raftkv_tls_ca_expiry_timestamp_seconds",
        "Unix time at which the first of the CA certificates in use ends.",
        ("side",),
    ),
    gauge(
        "raftkv_tls_crl_expiry_timestamp_seconds",
        "Unix time at which the revocation list in use should be replaced by the next.",
        ("side",),
    ),
    counter("raftkv_tls_reloads_total", "Changes of TLS files that were taken into use.", ("side",)),
    counter("raftkv_tls_reload_failures_total", "Changes of TLS files that cannot be used.", ("side",)),
    counter("raftkv_registry_requests_total", "Requests for keys below /registry/.", REGISTRY, REGISTRY_HERE),
    counter("raftkv_registry_received_bytes_total", "Bytes of these requests.", REGISTRY),
    counter(
        "raftkv_registry_sent_bytes_total",
        "Bytes of the answers to those of them that read: Range and RangeStream.",
        REGISTRY,
    ),
    histogram(
        "raftkv_scrape_duration_seconds",
        "Time on the event loop that showing these metrics took; work of others between its slices not counted.",
        exponential(0.0005, 2, 8),
    ),
)

PROCESS_FAMILIES: Final[tuple[Family, ...]] = (
    gauge("os_fd_used", "File descriptors in use, counted every 10 s."),
    gauge("os_fd_limit", "File descriptors that this process may use."),
    gauge("process_virtual_memory_max_bytes", "Most virtual memory that this process may use."),
)
