"""Which counter of a member stands behind which metric: one reader per family of `raftkv.metrics`.

The parts of a member count for themselves, in plain integers, and know no metric. This module knows both, and neither
counts nor formats. A reader is called once per scrape, between two turns of anything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from raftkv.api.errors import status_of
from raftkv.api.registry_counts import METHODS, READS
from raftkv.config.tables import FEATURE_GATES
from raftkv.histogram import Histogram
from raftkv.metrics import EXTENSIVE, Descriptors, Labels, Reader, max_virtual_memory_bytes
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import MethodKind
from raftkv.version import ETCD_VERSION, RAFTKV_VERSION

if TYPE_CHECKING:
    from raftkv.api.pages import CheckCount, Pages
    from raftkv.api.registry_counts import RegistryCounts
    from raftkv.api.serving import Serving
    from raftkv.rpc.service import Routes
    from raftkv.rpc.stats import MethodStats, Stats
    from raftkv.server import Node
    from raftkv.server.peers import Link
    from raftkv.server.peers.transfers import Transfers

Series = Iterable[tuple[Labels, float]]

CODES: Final = {
    Code.OK: "OK",
    Code.CANCELLED: "Canceled",
    Code.UNKNOWN: "Unknown",
    Code.INVALID_ARGUMENT: "InvalidArgument",
    Code.DEADLINE_EXCEEDED: "DeadlineExceeded",
    Code.NOT_FOUND: "NotFound",
    Code.ALREADY_EXISTS: "AlreadyExists",
    Code.PERMISSION_DENIED: "PermissionDenied",
    Code.RESOURCE_EXHAUSTED: "ResourceExhausted",
    Code.FAILED_PRECONDITION: "FailedPrecondition",
    Code.ABORTED: "Aborted",
    Code.OUT_OF_RANGE: "OutOfRange",
    Code.UNIMPLEMENTED: "Unimplemented",
    Code.INTERNAL: "Internal",
    Code.UNAVAILABLE: "Unavailable",
    Code.DATA_LOSS: "DataLoss",
    Code.UNAUTHENTICATED: "Unauthenticated",
}
"""As Go spells them."""
TYPES: Final = {MethodKind.UNARY: "unary", MethodKind.SERVER_STREAM: "server_stream", MethodKind.BIDI: "bidi_stream"}
"""M-10."""

NO_QUOTA: Final = -1
"""As etcd shows it: then no part of it is ever used up."""

_PORT_COUNTERS: Final = {
    "raftkv_connections_accepted_total": "connections_accepted",
    "raftkv_connections_refused_total": "connections_refused",
    "raftkv_http2_protocol_errors_total": "protocol_errors",
    "raftkv_http2_floods_total": "floods",
    "raftkv_http2_ping_strikes_total": "ping_strikes",
    "raftkv_http2_keepalive_timeouts_total": "keepalive_timeouts",
    "raftkv_http2_handshake_timeouts_total": "handshake_timeouts",
    "raftkv_http2_streams_refused_total": "calls_refused",
    "raftkv_http2_streams_reset_by_peer_total": "streams_reset_by_peer",
    "raftkv_http2_streams_reset_total": "streams_reset_by_us",
    "raftkv_http_bodies_refused_total": "http_bodies_refused",
    "raftkv_http_pipelining_closes_total": "http_pipelining_closes",
    "raftkv_http_idle_closes_total": "http_idle_closes",
    "raftkv_rpc_calls_rejected_total": "calls_rejected",
    "raftkv_rpc_calls_expired_total": "calls_expired",
    "raftkv_rpc_handler_errors_total": "handler_errors",
    "raftkv_tls_handshakes_total": "tls_handshakes",
    "raftkv_tls_handshakes_failed_total": "tls_handshakes_failed",
}
"""Family -> attribute of `Stats`."""


def readers(
    node: Node,
    server: Serving,
    pages: Pages,
    routes: Routes,
    registry: RegistryCounts,
    descriptors: Descriptors,
    scrapes: Histogram,
) -> dict[str, Reader]:
    """Family -> reader, for all that is shown with these settings."""
    return {
        **_server(node, pages),
        **_disk(node),
        **_network(node),
        **_store(node),
        **_calls(server.stats, routes, timed=node.config.metrics == "extensive"),
        **_own(node, server),
        **_registry(registry),
        "raftkv_scrape_duration_seconds": lambda: scrapes,
        "os_fd_used": lambda: descriptors.used,
        "os_fd_limit": lambda: descriptors.limit,
        "process_virtual_memory_max_bytes": max_virtual_memory_bytes,
    }


# --- the member (contract 11.1) ---------------------------------------------------------------------------------------


def _server(node: Node, pages: Pages) -> dict[str, Reader]:
    parts, counters = node.parts, node.counters
    reconfiguration, installer = node.reconfiguration, node.peering.installer
    config = node.config
    gates = [((name, gate.stage.upper()), name) for name, gate in FEATURE_GATES.items()]
    return {
        "etcd_server_has_leader": lambda: int(bool(node.leader_id)),
        "etcd_server_is_leader": lambda: int(node.leader_id == node.member_id),
        "etcd_server_is_learner": lambda: int(node.is_learner),
        "etcd_server_leader_changes_seen_total": lambda: counters.leader_changes,
        "etcd_server_learner_promote_successes": lambda: reconfiguration.promoted,
        "etcd_server_learner_promote_failures": lambda: _promotions_failed(reconfiguration.promotions_failed.values()),
        "etcd_server_heartbeat_send_failures_total": lambda: counters.late_heartbeats,
        "etcd_server_proposals_committed_total": lambda: node.committed,
        "etcd_server_proposals_applied_total": lambda: node.applier.index,
        "etcd_server_proposals_pending": lambda: parts.proposals.pending,
        "etcd_server_proposals_failed_total": lambda: parts.proposals.failed,
        "etcd_server_slow_apply_total": lambda: counters.slow_applies,
        "etcd_server_slow_read_indexes_total": lambda: parts.reads.slow,
        "etcd_server_read_indexes_failed_total": lambda: parts.reads.failed,
        "etcd_server_snapshot_apply_in_progress_total": lambda: int(installer.installing),
        "etcd_server_apply_duration_seconds": lambda: ((("Batch", "true", "v3"), node.durations.apply),),
        "etcd_server_quota_backend_bytes": lambda: (
            NO_QUOTA if config.quota_backend_bytes is None else config.quota_backend_bytes
        ),
        "etcd_server_version": lambda: (((ETCD_VERSION,), 1),),
        "etcd_server_id": lambda: (((f"{node.member_id:x}",), 1),),
        "etcd_server_feature_enabled": lambda: ((labels, int(config.feature_gates[name])) for labels, name in gates),
        "etcd_server_health_success": lambda: pages.health_count.passes,
        "etcd_server_health_failures": lambda: pages.health_count.failed,
        "etcd_server_healthcheck": lambda: (
            ((name, probe), each.passed) for (probe, name), each in _made(pages.check_counts)
        ),
        "etcd_server_healthchecks_total": lambda: _check_totals(pages.check_counts),
        "etcd_cluster_version": lambda: _cluster_version(node.applier.cluster_version),
    }


def _promotions_failed(failures: Iterable[tuple[Exception, int]]) -> Series:
    counts: Counter[Labels] = Counter()
    for error, count in failures:
        counts[(status_of(error).text,)] += count
    return counts.items()


def _made(counts: Mapping[tuple[str, str], CheckCount]) -> Iterator[tuple[tuple[str, str], CheckCount]]:
    """Those that somebody has asked for (M-03)."""
    return ((key, each) for key, each in counts.items() if each.passes or each.failed)


def _check_totals(counts: Mapping[tuple[str, str], CheckCount]) -> Series:
    for (probe, name), each in _made(counts):
        if each.passes:
            yield (name, "success", probe), each.passes
        if each.failed:
            yield (name, "error", probe), each.failed


def _cluster_version(version: str) -> Series:
    return [((version.rpartition(".")[0],), 1)] if version else []


# --- disk (contract 11.2) ---------------------------------------------------------------------------------------------


def _disk(node: Node) -> dict[str, Reader]:
    durations, defragmenter = node.durations, node.parts.defragmenter
    commits = node.backend.commit_durations
    assert commits is not None, "the node measures them"
    return {
        "etcd_disk_wal_fsync_duration_seconds": lambda: durations.wal_fsync,
        "etcd_disk_wal_write_duration_seconds": lambda: durations.wal_write,
        "etcd_disk_wal_write_bytes_total": lambda: node.counters.wal_bytes,
        "etcd_disk_backend_commit_duration_seconds": lambda: commits,
        "etcd_disk_backend_defrag_duration_seconds": lambda: defragmenter.durations,
        "etcd_disk_backend_snapshot_duration_seconds": lambda: durations.snapshot,
        "etcd_disk_defrag_inflight": lambda: int(defragmenter.running),
        "etcd_snap_db_save_total_duration_seconds": lambda: node.peering.installer.saves,
    }


# --- other members (contract 11.3) ------------------------------------------------------------------------------------


def _network(node: Node) -> dict[str, Reader]:
    peering = node.peering
    service = peering.service
    own = f"{node.member_id:x}"

    def per_link(figure: Callable[[Link], float]) -> Callable[[], Series]:
        return lambda: (((own, f"{link.peer_id:x}"), figure(link)) for link in peering.links)

    def to_link(figure: Callable[[Link], float | Histogram]) -> Reader:
        return lambda: (((f"{link.peer_id:x}",), figure(link)) for link in peering.links)

    def transfers(table: Mapping[int, Transfers], attribute: str) -> Reader:
        figure = attrgetter(attribute)
        return lambda: (((f"{member_id:x}",), figure(each)) for member_id, each in table.items())

    found: dict[str, Reader] = {
        "etcd_network_active_peers": per_link(lambda link: int(link.up)),
        "etcd_network_known_peers": lambda: (((own, f"{member.id:x}"), 1) for member in node.members),
        "etcd_network_disconnected_peers_total": per_link(lambda link: link.disconnects),
        "etcd_network_peer_sent_bytes_total": to_link(lambda link: link.sent_bytes),
        "etcd_network_peer_sent_failures_total": to_link(lambda link: link.lost),
        "etcd_network_peer_round_trip_time_seconds": to_link(lambda link: link.round_trips),
        "etcd_network_peer_received_bytes_total": lambda: _by_member(service.received_from),
        "etcd_network_peer_received_failures_total": lambda: _by_member(service.malformed_from),
    }
    tables = {"send": peering.copies.transfers.members, "receive": peering.installer.transfers.members}
    for way, table in tables.items():
        found[f"etcd_network_snapshot_{way}_success"] = transfers(table, "succeeded")
        found[f"etcd_network_snapshot_{way}_failures"] = transfers(table, "failed")
        found[f"etcd_network_snapshot_{way}_inflights_total"] = transfers(table, "under_way")
        found[f"etcd_network_snapshot_{way}_total_duration_seconds"] = transfers(table, "durations")
    return found


def _by_member(counts: Mapping[int, int]) -> Series:
    return (((f"{member_id:x}",), count) for member_id, count in counts.items())


# --- the store and the leases (contract 11.4) -------------------------------------------------------------------------


def _store(node: Node) -> dict[str, Reader]:
    store, backend, hub, lessor = node.store, node.backend, node.hub, node.lessor
    compactor, compaction, durations = node.compactor, node.store.compaction, node.durations
    ttls = lessor.granted_ttls
    assert ttls is not None, "the node measures them"
    alarms = _Alarms(node)
    return {
        "etcd_mvcc_range_total": lambda: store.ranges,
        "etcd_mvcc_put_total": lambda: store.puts,
        "etcd_mvcc_delete_total": lambda: store.deletions,
        "etcd_mvcc_txn_total": lambda: store.transactions,
        "etcd_mvcc_db_total_size_in_bytes": lambda: backend.size_bytes,
        "etcd_mvcc_db_total_size_in_use_in_bytes": lambda: backend.in_use_bytes,
        "etcd_mvcc_db_open_read_transactions": lambda: backend.pin_count,
        "etcd_mvcc_hash_duration_seconds": lambda: durations.hash,
        "etcd_mvcc_hash_rev_duration_seconds": lambda: durations.hash_kv,
        "etcd_debugging_mvcc_current_revision": lambda: store.current_revision,
        "etcd_debugging_mvcc_compact_revision": lambda: store.compacted_revision,
        "etcd_debugging_mvcc_keys_total": lambda: store.live_keys,
        "etcd_debugging_mvcc_watch_stream_total": lambda: hub.statistics().streams,
        "etcd_debugging_mvcc_watcher_total": lambda: hub.statistics().watchers,
        "etcd_debugging_mvcc_slow_watcher_total": lambda: hub.statistics().slow,
        "etcd_debugging_mvcc_events_total": lambda: hub.statistics().events_sent,
        "etcd_debugging_mvcc_pending_events_total": lambda: hub.statistics().backlog_revisions,
        "etcd_debugging_mvcc_total_put_size_in_bytes": lambda: node.counters.applied_bytes,
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": lambda: compactor.slices_ms,
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": lambda: compactor.totals_ms,
        "etcd_debugging_mvcc_db_compaction_last": lambda: compactor.last_s,
        "etcd_debugging_mvcc_db_compaction_keys_total": lambda: compaction.removed,
        "etcd_debugging_lease_granted_total": lambda: lessor.granted,
        "etcd_debugging_lease_revoked_total": lambda: lessor.revoked,
        "etcd_debugging_lease_renewed_total": lambda: lessor.renewed,
        "etcd_debugging_lease_ttl_total": lambda: ttls,
        "etcd_debugging_server_lease_expired_total": lambda: node.lease_keeper.expired,
        "etcd_debugging_server_alarms": alarms.read,
        "etcd_debugging_auth_revision": lambda: node.auth.revision,
    }


class _Alarms:
    """An alarm that was active and is not goes on to be shown, as 0: its end would else be a gap."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: dict[Labels, None] = {}
        """Bounded by the members there ever were, times the kinds of alarm."""

    def read(self) -> Series:
        active = {
            (rpc_pb2.AlarmType.Name(kind), f"{member_id:x}")  # type: ignore[arg-type]
            for member_id, kind in self._node.alarms.active()
        }
        self._seen.update(dict.fromkeys(sorted(active)))
        return [(labels, int(labels in active)) for labels in self._seen]


# --- gRPC (contract 11.5) ---------------------------------------------------------------------------------------------


def _calls(stats: Stats, routes: Routes, *, timed: bool) -> dict[str, Reader]:
    """For every method there is, from the start (M-03)."""
    methods = [_Method(path, TYPES[method.kind], stats) for path, method in routes.items()]
    totals = {
        "grpc_server_started_total": attrgetter("started"),
        "grpc_server_msg_received_total": attrgetter("received"),
        "grpc_server_msg_sent_total": attrgetter("sent"),
    }

    def total(figure: Callable[[MethodStats], int]) -> Callable[[], Series]:
        return lambda: ((each.labels, sum(map(figure, each.stats()))) for each in methods)

    found: dict[str, Reader] = {name: total(figure) for name, figure in totals.items()}
    found["grpc_server_handled_total"] = lambda: (series for each in methods for series in each.handled())
    found["etcd_server_client_requests_total"] = lambda: _client_requests(methods)
    if timed:
        [name] = EXTENSIVE
        found[name] = lambda: ((each.labels, histogram) for each in methods for histogram in each.durations())
    return found


class _Method:
    """One method, with the labels of its series."""

    __slots__ = ("_coded", "_path", "_stats", "kind", "labels")

    def __init__(self, path: bytes, kind: str, stats: Stats) -> None:
        _, service, method = path.decode().split("/")
        self.kind = kind
        self.labels = (method, service, kind)
        self._coded = [(name, *self.labels) for name in CODES.values()]
        """In the order of the codes."""
        self._path = path
        self._stats = stats

    def stats(self) -> list[MethodStats]:
        """One for each version of clients that has called."""
        tables = (self._stats.methods, *self._stats.versions.values())
        return [found for table in tables if (found := table.get(self._path)) is not None]

    def handled(self) -> Iterable[tuple[Labels, int]]:
        found = self.stats()
        if not found:
            return ((labels, 0) for labels in self._coded)
        sums = found[0].handled if len(found) == 1 else map(sum, zip(*(each.handled for each in found), strict=True))
        return zip(self._coded, sums, strict=True)

    def durations(self) -> list[Histogram]:
        """Empty before the first call."""
        found = [each.durations for each in self.stats() if each.durations is not None]
        return [Histogram.of_all(found)] if found else []


def _client_requests(methods: Iterable[_Method]) -> Series:
    """By the version that the client says it has, and whether the call is a stream (G-24)."""
    counts: Counter[Labels] = Counter()
    for method in methods:
        kind = "unary" if method.kind == "unary" else "stream"
        for each in method.stats():
            counts[each.client_version, kind] += each.started
    return [(labels, count) for labels, count in counts.items() if count]


# --- raftkv's own -----------------------------------------------------------------------------------------------------


def _own(node: Node, server: Serving) -> dict[str, Reader]:
    checkpoints, budget = node.parts.checkpoints, node.list_budget
    ports = {"client": server.stats, "peer": server.peer_stats}

    def per_port(figure: Callable[[Stats], int]) -> Callable[[], Series]:
        return lambda: [((port,), figure(stats)) for port, stats in ports.items()]

    found: dict[str, Reader] = {
        "etcd_network_client_grpc_sent_bytes_total": lambda: server.stats.bytes_sent,
        "etcd_network_client_grpc_received_bytes_total": lambda: server.stats.bytes_received,
        "raftkv_build_info": lambda: (((RAFTKV_VERSION,), 1),),
        "raftkv_loop_lag_seconds": lambda: node.durations.loop_lag,
        "raftkv_batch_requests": lambda: node.parts.proposals.batch_requests,
        "raftkv_checkpoint_duration_seconds": lambda: checkpoints.durations,
        "raftkv_checkpoint_age_seconds": lambda: node.now() - checkpoints.durable_s,
        "raftkv_watch_lag_revisions": lambda: node.hub.statistics().backlog_revisions,
        "raftkv_mvcc_deleted_keys_total": lambda: node.store.deletes,
        "raftkv_slow_requests_total": lambda: node.slow_requests.total,
        "raftkv_state_hash_checks_total": lambda: node.peering.divergence.checked,
        "raftkv_state_hash_differences_total": lambda: node.peering.divergence.differed,
        "raftkv_backups_total": lambda: node.counters.backups,
        "raftkv_list_bytes_in_flight": lambda: budget.in_flight_bytes,
        "raftkv_lists_waiting": lambda: budget.waiting,
        "raftkv_lists_refused_total": lambda: budget.refused,
        "raftkv_lists_given_up_total": lambda: budget.cut_off,
        "raftkv_connections": per_port(lambda stats: stats.connections_accepted - stats.connections_closed),
        "raftkv_tls_certificate_expiry_timestamp_seconds": lambda: _expiries(server, "not_after_s"),
        "raftkv_tls_ca_expiry_timestamp_seconds": lambda: _expiries(server, "ca_not_after_s"),
        "raftkv_tls_crl_expiry_timestamp_seconds": lambda: _expiries(server, "crl_next_update_s"),
        "raftkv_tls_reloads_total": lambda: [((side,), tls.reloads) for side, tls in server.tls_sides().items()],
        "raftkv_tls_reload_failures_total": lambda: [
            ((side,), tls.reload_failures) for side, tls in server.tls_sides().items()
        ],
    }
    for name, attribute in _PORT_COUNTERS.items():
        found[name] = per_port(attrgetter(attribute))
    return found


def _expiries(server: Serving, field: str) -> Series:
    """`field`: of `Loaded`."""
    sides = ((side, getattr(tls.loaded, field)) for side, tls in server.tls_sides().items())
    return [((side,), until_s) for side, until_s in sides if until_s is not None]


def _registry(counts: RegistryCounts) -> dict[str, Reader]:
    def per_prefix(attribute: str, methods: Iterable[str] = METHODS) -> Callable[[], Series]:
        figure = attrgetter(attribute)
        return lambda: [
            ((method, prefix.decode()), figure(count))
            for method in methods
            for prefix, count in counts[method].by_prefix.items()
        ]

    return {
        "raftkv_registry_requests_total": per_prefix("requests"),
        "raftkv_registry_received_bytes_total": per_prefix("received_bytes"),
        "raftkv_registry_sent_bytes_total": per_prefix("sent_bytes", READS),
    }
