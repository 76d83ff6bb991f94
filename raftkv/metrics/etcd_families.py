"""The families that etcd has (contract 11.1 to 11.5): names, kinds, labels and buckets are etcd's, and must stay.

Dashboards and alerts ask for them by these names. What a figure means where raftkv is built differently stands in the
row; what raftkv has nothing true to show for stands in ABSENT, with the reason.
"""

from __future__ import annotations

from typing import Final

from raftkv.metrics.family import Absent, Family, counter, exponential, gauge, histogram

DISK_S: Final = exponential(0.001, 2, 14)
TRANSFER_S: Final = exponential(0.1, 2, 10)
CALL: Final = ("grpc_method", "grpc_service", "grpc_type")

SERVER: Final = (
    gauge("etcd_server_has_leader", "1 while this member knows a leader."),
    gauge("etcd_server_is_leader", "1 while this member leads."),
    gauge("etcd_server_is_learner", "1 while this member is a learner."),
    counter("etcd_server_leader_changes_seen_total", "Leaders that became known anew, to this member."),
    counter("etcd_server_learner_promote_successes", "Learners made voters while this member led."),
    counter(
        "etcd_server_learner_promote_failures",
        "Promotions refused while this member led.",
        ("Reason",),
        differs="The reason in the words that the client gets.",
    ),
    counter(
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that this member as leader sent late.",
        differs="One for each late round of heartbeats (more than twice the interval after the last); etcd counts one "
        "for each follower.",
    ),
    gauge("etcd_server_proposals_committed_total", "Index of the last entry known to be committed."),
    gauge("etcd_server_proposals_applied_total", "Index of the last entry applied."),
    gauge(
        "etcd_server_proposals_pending",
        "Requests that wait for their result.",
        differs="Requests, of which one entry of the log holds many. The indexes above count entries: they grow more "
        "slowly than etcd's under load.",
    ),
    counter("etcd_server_proposals_failed_total", "Requests that ended without a result."),
    counter(
        "etcd_server_slow_apply_total",
        "Batches whose applying took longer than --warning-apply-duration.",
        differs="Batches of entries; etcd counts requests.",
    ),
    counter("etcd_server_slow_read_indexes_total", "Rounds of linearizable reads that had to be asked for again."),
    counter("etcd_server_read_indexes_failed_total", "Rounds of linearizable reads that were given up."),
    gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a received store is being put in place."),
    histogram(
        "etcd_server_apply_duration_seconds",
        "How long applying took.",
        exponential(0.0001, 2, 20),
        ("op", "success", "version"),
        differs='One observation for each batch of entries, under op="Batch", success="true": requests are not timed '
        "one by one.",
    ),
    counter(
        "etcd_server_client_requests_total",
        "Calls begun, by the API version that the client says it has.",
        ("client_api_version", "type"),
        differs="At most 32 versions, so that clients cannot fill the memory; the others count as `other`.",
    ),
    gauge("etcd_server_quota_backend_bytes", "Largest size that the store may reach; -1: any."),
    gauge("etcd_server_version", "The version of etcd that is spoken; always 1.", ("server_version",)),
    gauge("etcd_server_id", "Which member this is; always 1.", ("server_id",)),
    gauge(
        "etcd_server_feature_enabled",
        "1 for a feature gate that is on.",
        ("name", "stage"),
        differs="AllAlpha and AllBeta, which stand for other gates, have no value of their own and are left out.",
    ),
    counter("etcd_server_health_success", "/health requests answered with healthy."),
    counter("etcd_server_health_failures", "/health requests answered with not healthy."),
    gauge("etcd_server_healthcheck", "1 for a check of /livez or /readyz that passed the last time.", ("name", "type")),
    counter("etcd_server_healthchecks_total", "Checks of /livez and /readyz made.", ("name", "status", "type")),
    gauge("etcd_cluster_version", "The cluster version agreed on; always 1.", ("cluster_version",)),
)

DISK: Final = (
    histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "How long syncing the log took.",
        DISK_S,
        differs="From giving the sync to the kernel, or to its thread, until the event loop hears of its end.",
    ),
    histogram("etcd_disk_wal_write_duration_seconds", "How long writing to the log took, without the sync.", DISK_S),
    gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log."),
    histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "How long committing to the store took.",
        DISK_S,
        differs="A commit to the memory map, without a sync, which the event loop waits for. etcd's includes the sync; "
        "ours comes later, in a thread: `raftkv_checkpoint_duration_seconds`.",
    ),
    histogram("etcd_disk_backend_defrag_duration_seconds", "How long defragmenting took.", exponential(0.1, 2, 13)),
    histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "How long giving somebody a whole copy of the store took.",
        exponential(0.01, 2, 17),
    ),
    gauge("etcd_disk_defrag_inflight", "1 while the store is being defragmented."),
    histogram(
        "etcd_snap_db_save_total_duration_seconds",
        "How long fetching a copy of another member's store, and saving it, took.",
        TRANSFER_S,
        differs="Fetched, checked and synced: the transfer is part of it.",
    ),
)

NETWORK: Final = (
    gauge("etcd_network_active_peers", "1 while there is a connection to that member.", ("Local", "Remote")),
    gauge("etcd_network_known_peers", "1 for every member of the cluster, this one included.", ("Local", "Remote")),
    counter("etcd_network_disconnected_peers_total", "Connections to that member that were lost.", ("Local", "Remote")),
    counter(
        "etcd_network_peer_sent_bytes_total",
        "Bytes of Raft messages sent to that member.",
        ("To",),
        differs="Of messages, without the framing and without copies of the store.",
    ),
    counter(
        "etcd_network_peer_received_bytes_total",
        "Bytes of Raft messages received from that member.",
        ("From",),
        differs="Of messages, without the framing and without copies of the store.",
    ),
    counter(
        "etcd_network_peer_sent_failures_total",
        "Raft messages to that member that were dropped, for there was no connection or too much was queued.",
        ("To",),
    ),
    counter("etcd_network_peer_received_failures_total", "Malformed messages of that member.", ("From",)),
    histogram(
        "etcd_network_peer_round_trip_time_seconds",
        "Round trip to that member, measured once a second.",
        exponential(0.0001, 2, 16),
        ("To",),
        differs="Of a small call through the event loops of both: what a busy member adds is part of it.",
    ),
    counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent to clients.",
        differs="Everything on the sockets of clients: the framing of HTTP/2 and the answers to HTTP requests. etcd "
        "counts messages alone, some 60 bytes less for each. Not counted with --rpc-server=grpcio.",
    ),
    counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received from clients.",
        differs="As for the bytes sent.",
    ),
    counter("etcd_network_snapshot_send_success", "Copies of the store that the member has received whole.", ("To",)),
    counter("etcd_network_snapshot_send_failures", "Copies of the store that the member gave up.", ("To",)),
    gauge("etcd_network_snapshot_send_inflights_total", "Copies of the store being sent.", ("To",)),
    histogram(
        "etcd_network_snapshot_send_total_duration_seconds",
        "How long sending a copy of the store took.",
        TRANSFER_S,
        ("To",),
    ),
    counter("etcd_network_snapshot_receive_success", "Copies of the store received from that member.", ("From",)),
    counter("etcd_network_snapshot_receive_failures", "Copies that could not be received.", ("From",)),
    gauge("etcd_network_snapshot_receive_inflights_total", "Copies of the store being received.", ("From",)),
    histogram(
        "etcd_network_snapshot_receive_total_duration_seconds",
        "How long receiving a copy of the store took.",
        TRANSFER_S,
        ("From",),
    ),
)

MVCC: Final = (
    counter(
        "etcd_mvcc_range_total",
        "Range operations on this member, those in transactions included.",
        differs="What the compares of a transaction and the probes read is not counted.",
    ),
    counter("etcd_mvcc_put_total", "Put operations applied."),
    counter(
        "etcd_mvcc_delete_total",
        "Delete operations applied, however many keys each found; for a lease that ends, one per key.",
    ),
    counter(
        "etcd_mvcc_txn_total", "Transactions of more than one operation; a lease that ends with several keys is one."
    ),
    gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the store, free pages included."),
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "The same without free pages."),
    gauge("etcd_mvcc_db_open_read_transactions", "Snapshots of the store that long reads and copies hold."),
    histogram("etcd_mvcc_hash_duration_seconds", "How long Hash took.", exponential(0.01, 2, 15)),
    histogram(
        "etcd_mvcc_hash_rev_duration_seconds",
        "How long HashKV took.",
        exponential(0.01, 2, 15),
        differs="Both are computed in slices between other work, which is part of the time.",
    ),
    gauge("etcd_debugging_mvcc_current_revision", "Newest revision of this member's store."),
    gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction; -1 before the first."),
    gauge(
        "etcd_debugging_mvcc_keys_total",
        "Keys in the store.",
        differs="Live keys; etcd's index also counts deleted keys until they are compacted.",
    ),
    gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams."),
    gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
    gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that have yet to be told what has happened already."),
    counter("etcd_debugging_mvcc_events_total", "Events given to watchers."),
    gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "How far the watchers being served from history are behind.",
        differs="Revisions that the last of them has yet to read: events are not kept waiting, so there are none to "
        "count.",
    ),
    gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of requests applied.",
        differs="Whole entries of the log: deletions and others too, and some 10 bytes more for each. etcd adds "
        "up keys and values of puts.",
    ),
    histogram(
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "How long one slice of a compaction took.",
        exponential(1, 2, 13),
    ),
    histogram(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "How long deleting what a compaction made unreadable took.",
        exponential(100, 2, 14),
    ),
    gauge("etcd_debugging_mvcc_db_compaction_last", "Unix time at which the last compaction began; 0: none yet."),
    counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions that compactions have deleted."),
    counter("etcd_debugging_lease_granted_total", "Leases granted."),
    counter("etcd_debugging_lease_revoked_total", "Leases ended."),
    counter("etcd_debugging_lease_renewed_total", "Leases renewed while this member led."),
    histogram("etcd_debugging_lease_ttl_total", "Seconds that leases were granted for.", exponential(1, 2, 24)),
    counter("etcd_debugging_server_lease_expired_total", "Leases that ran out while this member led."),
    gauge(
        "etcd_debugging_server_alarms",
        "1 for an alarm that is active, 0 for one that was.",
        ("alarm_type", "server_id"),
    ),
    gauge("etcd_debugging_auth_revision", "Revision of users and roles."),
)

GRPC: Final = (
    counter("grpc_server_started_total", "Calls begun.", CALL),
    counter("grpc_server_handled_total", "Calls ended, by the status that the client got.", ("grpc_code", *CALL)),
    counter("grpc_server_msg_received_total", "Messages received.", CALL),
    counter("grpc_server_msg_sent_total", "Messages sent.", CALL),
)

GRPC_EXTENSIVE: Final = (
    histogram(
        "grpc_server_handling_seconds",
        "From the head of a call to its status.",
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        CALL,
        differs="Not measured with --rpc-server=grpcio, nor for calls through the JSON gateway.",
    ),
)
"""Only with --metrics=extensive."""

ABSENT: Final = (
    Absent("etcd_server_range_duration_seconds", "Ranges are not timed one by one. `grpc_server_handling_seconds` is."),
    Absent("etcd_server_request_duration_seconds", "Of etcd 3.7. The same."),
    Absent("etcd_server_go_version", "There is no Go. `python_info` names the runtime."),
    Absent("etcd_network_server_stream_failures_total", "A stream ends with its connection; nothing else fails in it."),
    Absent("etcd_snap_fsync_duration_seconds", "There are no snapshot files beside the store."),
    Absent("etcd_snap_db_fsync_duration_seconds", "Part of `etcd_snap_db_save_total_duration_seconds`."),
    Absent("etcd_debugging_snap_save_total_duration_seconds", "There are no snapshot files beside the store."),
    Absent("etcd_debugging_snap_save_marshalling_duration_seconds", "There are no snapshot files beside the store."),
    Absent("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "A step of bbolt that LMDB does not have."),
    Absent("etcd_debugging_disk_backend_commit_spill_duration_seconds", "A step of bbolt that LMDB does not have."),
    Absent("etcd_debugging_disk_backend_commit_write_duration_seconds", "A step of bbolt that LMDB does not have."),
    Absent("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "There is no index in memory."),
    Absent("etcd_debugging_mvcc_range_total", "Of etcd 3.5, the same as `etcd_mvcc_range_total`."),
    Absent("process_network_receive_bytes_total", "Of the whole machine, not of the process: ask node_exporter."),
    Absent("process_network_transmit_bytes_total", "Of the whole machine, not of the process: ask node_exporter."),
)

ETCD_FAMILIES: Final[tuple[Family, ...]] = (*SERVER, *DISK, *NETWORK, *MVCC, *GRPC)
