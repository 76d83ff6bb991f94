"""The configuration as the server uses it: checked, typed, frozen.

Owns the fields and what they mean. Made by `load`; knows nothing of flags, environment or files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftkv.config.errors import StartError
from raftkv.config.inputs import Notice
from raftkv.config.urls import Url

RECV_OVERHEAD_BYTES: Final = 512 * 1024
"""What a gRPC message may be larger than the largest request (rule LIM-03)."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """One side's TLS settings (rules TLS-01 to TLS-09). Files are named here, and read per handshake."""

    cert_file: str
    key_file: str
    trusted_ca_file: str
    client_cert_auth: bool
    """Client certificates are required. A trusted_ca_file requires them too: see `wants_client_cert`."""
    client_cert_file: str
    """For outgoing connections; empty means cert_file."""
    client_key_file: str
    crl_file: str
    allowed_cns: tuple[str, ...]
    allowed_hostnames: tuple[str, ...]
    auto_tls: bool
    skip_client_san_verification: bool

    @property
    def wants_client_cert(self) -> bool:
        """Rule TLS-03."""
        return self.client_cert_auth or bool(self.trusted_ca_file)

    @property
    def is_empty(self) -> bool:
        """No certificate, given or to be made."""
        return not (self.cert_file or self.key_file or self.auto_tls)


@dataclass(frozen=True, slots=True)
class Discovery:
    """An etcd cluster through which the members of a new one find each other (rule F-74)."""

    token: str
    endpoints: tuple[Url, ...]
    """At least one, http or https."""
    dial_timeout_s: float
    request_timeout_s: float
    keepalive_time_s: float
    """0: no pings."""
    keepalive_timeout_s: float
    insecure_skip_tls_verify: bool
    cert_file: str
    key_file: str
    cacert_file: str
    user: str
    """Empty: no authentication."""
    password: str


@dataclass(frozen=True, slots=True)
class AutoCompaction:
    """Automatic compaction; exactly one of the two is more than 0."""

    period_s: float = 0.0
    """periodic mode: keep what is younger."""
    revisions: int = 0
    """revision mode: keep this many."""


@dataclass(frozen=True, slots=True)
class AuthToken:
    """What Authenticate hands out (section 7.5)."""

    kind: str
    """simple or jwt."""
    options: Mapping[str, str]
    """For jwt: sign-method, pub-key, priv-key (file names), ttl (a Go duration)."""


@dataclass(frozen=True, slots=True)
class LogRotation:
    max_size_bytes: int
    max_age_days: int
    """0 keeps files of any age."""
    max_backups: int
    """0 keeps any number of files."""
    local_time: bool
    compress: bool


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Input of `logs.setup`."""

    level: str
    """debug, info, warn, error, panic or fatal."""
    format: str
    """auto, console or json."""
    outputs: tuple[str, ...]
    """stderr, stdout, or file names; `default` has become stderr."""
    rotation: LogRotation | None
    """Not None: outputs hold exactly one file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Fields carry the names of the flags; units last."""

    name: str
    data_dir: Path
    wal_dir: Path
    """Where the log segments are; <data_dir>/member/wal unless --wal-dir says otherwise (rule F-75)."""
    snapshot_count: int
    snapshot_catchup_entries: int
    heartbeat_interval_ms: int
    election_timeout_ms: int
    initial_election_tick_advance: bool
    quota_backend_bytes: int | None
    """Resolved (AL-20): the default is filled in; None means no quota."""
    feature_gates: Mapping[str, bool]
    """Every known gate."""
    rpc_server: str
    """native or grpcio."""

    listen_client_urls: tuple[Url, ...]
    advertise_client_urls: tuple[Url, ...]
    listen_client_http_urls: tuple[Url, ...]
    """Not empty: HTTP is served here only, gRPC on listen_client_urls only (rule H-04)."""
    listen_metrics_urls: tuple[Url, ...]
    listen_peer_urls: tuple[Url, ...]
    initial_advertise_peer_urls: tuple[Url, ...]
    socket_reuse_port: bool
    socket_reuse_address: bool

    max_txn_ops: int
    max_request_bytes: int
    max_list_bytes_in_flight: int
    """0: no limit."""
    max_concurrent_streams: int
    grpc_keepalive_min_time_s: float
    grpc_keepalive_interval_s: float
    """0 disables the server's pings."""
    grpc_keepalive_timeout_s: float
    """0 disables them too."""
    enable_grpc_gateway: bool
    enable_grpc_reflection: bool
    cors: frozenset[str]
    """Allowed origins; {"*"} allows all."""
    host_whitelist: frozenset[str]
    """Allowed Host names; {"*"} allows all."""

    initial_cluster: Mapping[str, tuple[Url, ...]]
    """Member name -> its peer URLs. Empty when the members come from discovery."""
    discovery: Discovery | None
    discovery_srv: str
    """DNS domain; empty: no discovery by SRV records."""
    discovery_srv_name: str
    initial_cluster_state: str
    """new or existing."""
    initial_cluster_token: str
    strict_reconfig_check: bool
    pre_vote: bool
    max_learners: int
    raft_read_timeout_s: float
    raft_write_timeout_s: float

    auto_compaction: AutoCompaction | None
    """None: off."""
    compaction_batch_limit: int
    compaction_sleep_interval_s: float
    watch_progress_notify_interval_s: float
    corrupt_check_time_s: float
    """0: off."""
    compact_hash_check_time_s: float
    downgrade_check_time_s: float
    bootstrap_defrag_threshold_bytes: int
    """0: never."""

    client_tls: TlsFiles
    peer_tls: TlsFiles
    self_signed_cert_validity_years: int
    cipher_suites: tuple[str, ...]
    tls_min_version: str
    tls_max_version: str
    """Empty: the newest there is."""
    auth_token: AuthToken
    auth_token_ttl_s: int
    bcrypt_cost: int

    log: LogConfig
    warning_unary_request_duration_s: float
    warning_apply_duration_s: float
    metrics: str
    """basic or extensive."""

    force_new_cluster: bool
    unsafe_no_fsync: bool

    other: Mapping[str, Any]
    """Flag name -> value of every setting that has no field here; durations in ns."""
    given: Mapping[str, str]
    """Setting name -> where it was given, for what was not left at its default."""
    notices: tuple[Notice, ...]
    """Warnings to log once there is a log."""

    @property
    def election_ticks(self) -> int:
        """Heartbeat intervals in an election timeout."""
        return self.election_timeout_ms // self.heartbeat_interval_ms

    @property
    def request_timeout_s(self) -> float:
        """How long a request may wait inside the server (rule G-50)."""
        return 5.0 + 2 * self.election_timeout_ms / 1000

    @property
    def max_recv_bytes(self) -> int:
        """Largest gRPC message to take (rule LIM-03)."""
        return self.max_request_bytes + RECV_OVERHEAD_BYTES

    def has_data(self) -> bool:
        """Whether a log exists, so that the --initial-* settings no longer matter (rule F-70).

        Raises StartError when it cannot be told: no data may be taken for a new member's.
        """
        try:
            return any(name.endswith(".wal") for name in os.listdir(self.wal_dir))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as failure:
            raise StartError(
                f"the log directory {self.wal_dir} cannot be read: {failure.strerror}",
                "Start as the user whose data it is, or give --data-dir a directory of this user's own",
            ) from failure
