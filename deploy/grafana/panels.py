"""What the dashboard shows: rows of panels, each with its queries. `make_dashboard` makes Grafana's JSON of it.

$S stands for the selector of the chosen cluster and members. A query names only metrics of docs/metrics.md.
"""

from __future__ import annotations

from typing import NamedTuple

Queries = dict[str, str]
"""Legend -> query."""


class Panel(NamedTuple):
    title: str
    unit: str
    queries: Queries
    about: str = ""
    """What it shows, and what is good; the (i) in the corner."""


class Stat(NamedTuple):
    """A tile with the newest value."""

    title: str
    unit: str
    queries: Queries
    about: str = ""
    shows_name: bool = False
    """The legend instead of the value."""
    is_bad_above_zero: bool = False


def quantile(share: float, name: str, by: str = "instance") -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({name}_bucket{{$S}}[$__rate_interval])))"


def rate(name: str, by: str = "") -> str:
    rates = f"rate({name}{{$S}}[$__rate_interval])"
    return f"sum by ({by}) ({rates})" if by else rates


def each(legend: str, query: str) -> Queries:
    return {f"{{{{{legend}}}}}": query}


FAILURES = "Unknown|DeadlineExceeded|ResourceExhausted|FailedPrecondition|Internal|Unavailable|DataLoss"
STREAMS = (
    'sum(grpc_server_started_total{{$S, grpc_service="{0}", grpc_type="bidi_stream"}})'
    ' - sum(grpc_server_handled_total{{$S, grpc_service="{0}", grpc_type="bidi_stream"}})'
)

ROWS: dict[str, tuple[Panel | Stat, ...]] = {
    "Cluster": (
        Stat("Members up", "none", {"up": 'sum(up{job="$cluster"})'}, "Members that answer Prometheus."),
        Stat("Members with a leader", "none", {"members": "sum(etcd_server_has_leader{$S})"}),
        Stat("Leader", "none", each("instance", "etcd_server_is_leader{$S} == 1"), shows_name=True),
        Stat("Revision", "none", {"revision": "max(etcd_debugging_mvcc_current_revision{$S})"}),
        Stat(
            "Alarms",
            "none",
            {"alarms": "sum(max by (alarm_type, server_id) (etcd_debugging_server_alarms{$S})) or vector(0)"},
            "NOSPACE or CORRUPT, until somebody disarms it.",
            is_bad_above_zero=True,
        ),
        Stat(
            "Alerts that fire",
            "none",
            {"alerts": 'count(ALERTS{job="$cluster", alertstate="firing"}) or vector(0)'},
            "Of deploy/prometheus/raftkv.rules.yaml.",
            is_bad_above_zero=True,
        ),
        Panel("Who leads", "none", each("instance", "etcd_server_is_leader{$S}"), "1 for the leader."),
        Panel(
            "Leader changes",
            "none",
            each("instance", "increase(etcd_server_leader_changes_seen_total{$S}[$__rate_interval])"),
            "As each member saw them. None is good; a restart of the leader is one or two.",
        ),
        Panel(
            "Members with a leader",
            "none",
            each("instance", "etcd_server_has_leader{$S}"),
            "0 while a member knows none: it takes no writes.",
        ),
    ),
    "Log": (
        Panel(
            "Entries committed",
            "ops",
            each("instance", rate("etcd_server_proposals_committed_total")),
            "Entries of the log a second. One entry holds all requests that came together, so under load they are far "
            "fewer than requests.",
        ),
        Panel(
            "Requests waiting for their result",
            "none",
            each("instance", "etcd_server_proposals_pending{$S}"),
            "Where clients are connected.",
        ),
        Panel(
            "Writes that failed",
            "ops",
            each("instance", rate("etcd_server_proposals_failed_total")),
            "Ended without a result: no leader, or a time-out.",
        ),
        Panel(
            "Entries behind",
            "none",
            each(
                "instance",
                "max(etcd_server_proposals_committed_total{$S})"
                " - on () group_right () etcd_server_proposals_applied_total{$S}",
            ),
            "What each member has yet to apply, as far as one scrape can tell.",
        ),
        Panel(
            "Requests in one entry",
            "none",
            {
                "mean {{instance}}": "sum by (instance) (rate(raftkv_batch_requests_sum{$S}[$__rate_interval]))"
                " / sum by (instance) (rate(raftkv_batch_requests_count{$S}[$__rate_interval]))"
            },
            "On the members that propose. More under load is how raftkv is fast.",
        ),
        Panel(
            "Comparisons of state",
            "ops",
            {
                "{{instance}}": rate("raftkv_state_hash_checks_total"),
                "differences {{instance}}": rate("raftkv_state_hash_differences_total"),
            },
            "Followers compare their state with the leader's all the time. A difference is never good.",
        ),
    ),
    "Requests": (
        Panel(
            "Calls",
            "reqps",
            each(
                "grpc_method",
                'sum by (grpc_method) (rate(grpc_server_started_total{$S, grpc_type="unary"}[$__rate_interval])) > 0',
            ),
        ),
        Panel(
            "Calls that failed",
            "reqps",
            each(
                "grpc_code",
                f'sum by (grpc_code) (rate(grpc_server_handled_total{{$S, grpc_code=~"{FAILURES}"}}'
                "[$__rate_interval]))",
            ),
            "By code; what clients ask wrongly is not among them.",
        ),
        Panel(
            "Time of calls, 99 %",
            "s",
            each(
                "grpc_method",
                "histogram_quantile(0.99, sum by (grpc_method, le) (rate(grpc_server_handling_seconds_bucket"
                '{$S, grpc_type="unary"}[$__rate_interval])))',
            ),
            "On the server, and only with --metrics=extensive.",
        ),
        Panel(
            "Operations",
            "ops",
            {
                "put": f"max({rate('etcd_mvcc_put_total')})",
                "delete": f"max({rate('etcd_mvcc_delete_total')})",
                "txn": f"max({rate('etcd_mvcc_txn_total')})",
                "range": f"sum({rate('etcd_mvcc_range_total')})",
            },
            "Writes as the quickest member applies them, for all apply the same; reads of all members together. A "
            "transaction of one operation counts as that.",
        ),
        Panel(
            "Slow requests",
            "reqps",
            each("instance", rate("raftkv_slow_requests_total")),
            "Longer than --warning-unary-request-duration, 300 ms.",
        ),
        Panel(
            "Bytes from and to clients",
            "Bps",
            {
                "in {{instance}}": rate("etcd_network_client_grpc_received_bytes_total"),
                "out {{instance}}": rate("etcd_network_client_grpc_sent_bytes_total"),
            },
        ),
    ),
    "Large answers": (
        Panel(
            "Memory that they take",
            "bytes",
            each("instance", "raftkv_list_bytes_in_flight{$S}"),
            "From being read until they are sent. There is a limit, at which others wait.",
        ),
        Panel("Waiting for room", "none", each("instance", "raftkv_lists_waiting{$S}")),
        Panel(
            "Refused or given up",
            "ops",
            {
                "refused {{instance}}": rate("raftkv_lists_refused_total"),
                "given up {{instance}}": rate("raftkv_lists_given_up_total"),
            },
            "For too many waited, or for their clients did not take them.",
        ),
    ),
    "Disk": (
        Panel(
            "Sync of the log",
            "s",
            {
                "99 % {{instance}}": quantile(0.99, "etcd_disk_wal_fsync_duration_seconds"),
                "50 % {{instance}}": quantile(0.5, "etcd_disk_wal_fsync_duration_seconds"),
            },
            "Every write waits for one. 10 ms for 99 % is good.",
        ),
        Panel(
            "Commit to the store, 99 %",
            "s",
            each("instance", quantile(0.99, "etcd_disk_backend_commit_duration_seconds")),
            "To the memory map. 25 ms is much.",
        ),
        Panel(
            "Applying a batch, 99 %",
            "s",
            each("instance", quantile(0.99, "etcd_server_apply_duration_seconds")),
        ),
        Panel(
            "Checkpoints, 99 %",
            "s",
            each("instance", quantile(0.99, "raftkv_checkpoint_duration_seconds")),
            "Making the store durable, in a thread. None without writes.",
        ),
        Panel(
            "Age of the last checkpoint",
            "s",
            each("instance", "raftkv_checkpoint_age_seconds{$S}"),
            "Up to five seconds, and as long as one takes.",
        ),
        Panel("Bytes to the log", "Bps", each("instance", rate("etcd_disk_wal_write_bytes_total"))),
    ),
    "Store": (
        Panel(
            "Size of the store",
            "bytes",
            {
                "{{instance}}": "etcd_mvcc_db_total_size_in_bytes{$S}",
                "in use {{instance}}": "etcd_mvcc_db_total_size_in_use_in_bytes{$S}",
            },
        ),
        Panel(
            "Part of the quota",
            "percentunit",
            each("instance", "etcd_mvcc_db_total_size_in_bytes{$S} / (etcd_server_quota_backend_bytes{$S} > 0)"),
            "At 1 no writes are taken any more.",
        ),
        Panel(
            "Keys",
            "short",
            each("instance", "etcd_debugging_mvcc_keys_total{$S}"),
        ),
        Panel(
            "Revisions",
            "short",
            {
                "current": "max(etcd_debugging_mvcc_current_revision{$S})",
                "compacted": "max(etcd_debugging_mvcc_compact_revision{$S})",
            },
            "What lies between the two is history that can be read.",
        ),
        Panel(
            "Revisions deleted by compactions",
            "ops",
            each("instance", rate("etcd_debugging_mvcc_db_compaction_keys_total")),
        ),
        Panel(
            "Copies and backups",
            "none",
            {
                "snapshots held {{instance}}": "etcd_mvcc_db_open_read_transactions{$S}",
                "backups in 24 h {{instance}}": "increase(raftkv_backups_total{$S}[24h])",
            },
        ),
    ),
    "Members": (
        Panel(
            "Round trip, 99 %",
            "s",
            {"{{instance}} to {{To}}": quantile(0.99, "etcd_network_peer_round_trip_time_seconds", "instance, To")},
            "Through the event loops of both. Below 10 ms is good.",
        ),
        Panel(
            "Bytes between members",
            "Bps",
            {
                "in {{instance}}": rate("etcd_network_peer_received_bytes_total", "instance"),
                "out {{instance}}": rate("etcd_network_peer_sent_bytes_total", "instance"),
            },
        ),
        Panel(
            "Messages lost",
            "ops",
            {"{{instance}} to {{To}}": rate("etcd_network_peer_sent_failures_total")},
            "To members that are down or cut off.",
        ),
    ),
    "Watches and leases": (
        Panel(
            "Streams",
            "none",
            {"watch": STREAMS.format("etcdserverpb.Watch"), "lease": STREAMS.format("etcdserverpb.Lease")},
        ),
        Panel(
            "Watchers",
            "none",
            {
                "{{instance}}": "etcd_debugging_mvcc_watcher_total{$S}",
                "slow {{instance}}": "etcd_debugging_mvcc_slow_watcher_total{$S}",
            },
            "A slow one has yet to be told what has happened already.",
        ),
        Panel(
            "Watchers behind",
            "none",
            each("instance", "raftkv_watch_lag_revisions{$S}"),
            "Revisions that the slowest has yet to read.",
        ),
        Panel("Events to watchers", "ops", each("instance", rate("etcd_debugging_mvcc_events_total"))),
        Panel(
            "Leases",
            "ops",
            {
                "granted": f"max({rate('etcd_debugging_lease_granted_total')})",
                "ended": f"max({rate('etcd_debugging_lease_revoked_total')})",
                "ran out": f"sum({rate('etcd_debugging_server_lease_expired_total')})",
                "renewed": f"sum({rate('etcd_debugging_lease_renewed_total')})",
            },
            "Granted and ended on every member alike; renewed and run out as the leader saw it.",
        ),
    ),
    "Kubernetes": (
        Panel(
            "Requests by resource",
            "reqps",
            {"{{method}} {{prefix}}": rate("raftkv_registry_requests_total", "method, prefix")},
            "Of an API server: keys below /registry/.",
        ),
        Panel(
            "Bytes received by resource", "Bps", each("prefix", rate("raftkv_registry_received_bytes_total", "prefix"))
        ),
        Panel("Bytes read by resource", "Bps", each("prefix", rate("raftkv_registry_sent_bytes_total", "prefix"))),
    ),
    "Process": (
        Panel(
            "Event loop late by, 99 %",
            "s",
            each("instance", quantile(0.99, "raftkv_loop_lag_seconds")),
            "Everything on the member waits as long. 10 ms under full load is usual.",
        ),
        Panel(
            "CPU",
            "percentunit",
            each("instance", rate("process_cpu_seconds_total")),
            "1 is one core, of which the loop uses one.",
        ),
        Panel(
            "Resident memory",
            "bytes",
            each("instance", "process_resident_memory_bytes{$S}"),
            "With the pages of the store that are mapped, which the kernel takes back when it needs them.",
        ),
        Panel(
            "File descriptors",
            "short",
            {"{{instance}}": "process_open_fds{$S}", "limit {{instance}}": "process_max_fds{$S}"},
        ),
        Panel(
            "Time of a scrape, 99 %",
            "s",
            each("instance", quantile(0.99, "raftkv_scrape_duration_seconds")),
            "On the event loop, in slices of a millisecond.",
        ),
        Panel("Up for", "s", each("instance", "time() - process_start_time_seconds{$S}")),
    ),
    "Connections and abuse": (
        Panel(
            "Connections",
            "none",
            {
                "{{port}} {{instance}}": "raftkv_connections{$S}",
                "refused {{port}} {{instance}}": rate("raftkv_connections_refused_total"),
            },
        ),
        Panel(
            "HTTP/2 abuse",
            "ops",
            {
                "floods": f"sum({rate('raftkv_http2_floods_total')})",
                "ping strikes": f"sum({rate('raftkv_http2_ping_strikes_total')})",
                "protocol errors": f"sum({rate('raftkv_http2_protocol_errors_total')})",
                "handshake time-outs": f"sum({rate('raftkv_http2_handshake_timeouts_total')})",
                "keepalive time-outs": f"sum({rate('raftkv_http2_keepalive_timeouts_total')})",
                "streams refused": f"sum({rate('raftkv_http2_streams_refused_total')})",
                "streams reset by clients": f"sum({rate('raftkv_http2_streams_reset_by_peer_total')})",
            },
        ),
        Panel(
            "HTTP abuse and rejected calls",
            "ops",
            {
                "413": f"sum({rate('raftkv_http_bodies_refused_total')})",
                "pipelining": f"sum({rate('raftkv_http_pipelining_closes_total')})",
                "idle": f"sum({rate('raftkv_http_idle_closes_total')})",
                "calls rejected": f"sum({rate('raftkv_rpc_calls_rejected_total')})",
                "deadlines passed": f"sum({rate('raftkv_rpc_calls_expired_total')})",
            },
        ),
        Panel(
            "TLS handshakes",
            "ops",
            {
                "let in {{port}}": rate("raftkv_tls_handshakes_total", "port"),
                "failed {{port}}": rate("raftkv_tls_handshakes_failed_total", "port"),
            },
        ),
        Panel(
            "Certificates end in",
            "s",
            {"{{side}} {{instance}}": "raftkv_tls_certificate_expiry_timestamp_seconds{$S} - time()"},
            "None without TLS.",
        ),
    ),
}
