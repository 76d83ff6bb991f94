"""How long things took, for the metrics: what several parts of a member measure, and no single one of them owns."""

from __future__ import annotations

from raftkv.metrics import new_histogram


class Durations:
    """Seconds."""

    __slots__ = ("apply", "hash", "hash_kv", "loop_lag", "snapshot", "wal_fsync", "wal_write")

    def __init__(self) -> None:
        self.apply = new_histogram("etcd_server_apply_duration_seconds")
        """Of batches of entries."""
        self.hash = new_histogram("etcd_mvcc_hash_duration_seconds")
        self.hash_kv = new_histogram("etcd_mvcc_hash_rev_duration_seconds")
        self.loop_lag = new_histogram("raftkv_loop_lag_seconds")
        self.snapshot = new_histogram("etcd_disk_backend_snapshot_duration_seconds")
        """Of copies of the store that somebody received whole."""
        self.wal_fsync = new_histogram("etcd_disk_wal_fsync_duration_seconds")
        self.wal_write = new_histogram("etcd_disk_wal_write_duration_seconds")
