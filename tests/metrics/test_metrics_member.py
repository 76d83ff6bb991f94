"""A member's /metrics: what is there from the start, what moves with what is done, and the real etcd beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, Program, Server, free_port
from helpers.waiting import wait_until
from scrape_support import Page, get, listed, scrape

from raftkv.metrics import BY_NAME
from raftkv.metrics.exposition import go_number
from raftkv.pb import rpc_pb2
from raftkv.version import ETCD_VERSION

Deltas = Callable[[str], float]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(RAFTKV, tmp_path_factory.mktemp("metrics"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def fresh_page(member: Server) -> Page:
    """Of a member on which nothing has been done."""
    return scrape(member.client_port)


@pytest.fixture
def calls(member: Server, fresh_page: Page) -> Iterator[Calls]:
    with connect(member.endpoint) as channel:
        yield Calls(channel)


class Change:
    """What a piece of work changes on the page."""

    def __init__(self, member: Server) -> None:
        self._port = member.client_port
        self.before = scrape(self._port)
        self.after = self.before

    def look(self) -> Change:
        self.after = scrape(self._port)
        return self

    def of(self, name: str, /, **labels: str) -> float:
        return self.after.value(name, **labels) - self.before.value(name, **labels)


# --- names, types, buckets --------------------------------------------------------------------------------------------


def test_the_answer(fresh_page: Page) -> None:
    """H-61, PY-22."""
    assert fresh_page.status == 200
    assert fresh_page.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "_created" not in fresh_page.text, "PY-20"


def test_what_is_there_from_the_start(fresh_page: Page) -> None:
    """M-03: everything without labels, with the type of the list; of the others only what has a series."""
    rows = {name: row for name, row in listed().items() if not row.absent}
    assert not {name for name, row in rows.items() if not row.labels} - set(fresh_page.types)
    shown = {name for name in fresh_page.types if not name.startswith(("raftkv_", "python_"))}
    assert shown <= set(rows)
    assert {name: fresh_page.types[name] for name in shown} == {name: rows[name].kind for name in shown}
    for name in shown:
        assert fresh_page.label_names(name) == {rows[name].labels}, name


def test_buckets_as_go_writes_them(fresh_page: Page) -> None:
    """M-01, PY-22."""
    histograms = [name for name, kind in fresh_page.types.items() if kind == "histogram"]
    assert len(histograms) > 15
    for name in histograms:
        bounds = listed()[name].bounds if name in listed() else BY_NAME[name].bounds
        assert fresh_page.bucket_ends(name) == [*map(go_number, bounds), "+Inf"], name


def test_every_method_and_code_is_there_from_the_start(fresh_page: Page) -> None:
    """M-03, M-10."""
    handled = fresh_page.samples["grpc_server_handled_total"]
    methods: dict[tuple[str, str, str], set[str]] = {}
    for labels in map(dict, handled):
        key = labels["grpc_service"], labels["grpc_method"], labels["grpc_type"]
        methods.setdefault(key, set()).add(labels["grpc_code"])
    assert {len(codes) for codes in methods.values()} == {17}
    assert {"OK", "Canceled", "InvalidArgument", "DataLoss"} <= methods["etcdserverpb.KV", "Range", "unary"]
    for service, method, kind in (
        ("etcdserverpb.Watch", "Watch", "bidi_stream"),
        ("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream"),
        ("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
        ("v3lockpb.Lock", "Lock", "unary"),
    ):
        assert (service, method, kind) in methods
    for name in ("grpc_server_started_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total"):
        assert len(fresh_page.samples[name]) == len(methods)


def test_what_does_not_change(member: Server, fresh_page: Page) -> None:
    """M-02, M-20, M-21."""
    assert fresh_page.value("etcd_server_version", server_version=ETCD_VERSION) == 1
    assert fresh_page.value("etcd_server_quota_backend_bytes") == 2 << 30
    assert fresh_page.value("etcd_server_feature_enabled", name="TxnModeWriteWithSharedBuffer", stage="BETA") == 1
    [labels] = fresh_page.samples["etcd_server_id"]
    with connect(member.endpoint) as channel:
        header = Calls(channel).Maintenance.Status(rpc_pb2.StatusRequest(), timeout=20).header
    assert dict(labels) == {"server_id": f"{header.member_id:x}"}
    for name in (
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_max_bytes",
        "process_open_fds",
        "process_max_fds",
    ):
        assert fresh_page.value(name) > 0, name
    assert "python_info" in fresh_page.types, "M-22"
    page = wait_until("descriptors are counted", lambda: _with_descriptors(member))
    assert 0 < page.value("os_fd_used") < page.value("os_fd_limit")


def _with_descriptors(member: Server) -> Page | None:
    page = scrape(member.client_port)
    return page if page.value("os_fd_used") else None


def test_prometheus_has_nothing_to_complain_of(member: Server) -> None:
    """But names that are etcd's: its own promtool says the same of etcd."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH: it is in Debian's package prometheus")
    text = scrape(member.client_port).text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    complaints = {line.split(" ", 1)[0] for line in (checked.stdout + checked.stderr).splitlines()}
    etcds = {
        name
        for name, row in listed().items()
        if name.endswith("_total") != (row.kind == "counter") or name.endswith("_milliseconds")
    }
    assert complaints <= etcds, checked.stderr
    assert checked.returncode in (0, 3), "3: complaints, but the text was read"


def test_beside_etcd(etcd_server: Server, fresh_page: Page) -> None:
    """M-01: what etcd 3.5 has as well has the same type, labels and buckets there: the list is etcd's, not ours."""
    theirs = scrape(etcd_server.client_port)
    of_35 = {name: row for name, row in listed().items() if row.in_35 and name in theirs.types}
    assert len(of_35) > 60
    for name, row in of_35.items():
        assert theirs.types[name] == row.kind, name
        assert theirs.label_names(name) == {row.labels}, name
        if row.kind == "histogram":
            assert theirs.bucket_ends(name) == [*map(go_number, row.bounds), "+Inf"], name
    unlabelled = {name for name, row in listed().items() if row.in_35 and not row.labels}
    assert unlabelled <= set(theirs.types), "the list has nothing that etcd does not"
    ignored = re.compile("go_|promhttp_|etcd_grpc_proxy_|etcd_debugging_store_")
    unknown = {name for name in theirs.types if not ignored.match(name)} - set(listed())
    assert unknown == {"etcd_debugging_mvcc_range_total"}
    codes = {labels["grpc_code"] for labels in map(dict, theirs.samples["grpc_server_handled_total"])}
    assert codes == {labels["grpc_code"] for labels in map(dict, fresh_page.samples["grpc_server_handled_total"])}


# --- what moves -------------------------------------------------------------------------------------------------------


def test_a_put(member: Server, calls: Calls) -> None:
    change = Change(member)
    for number in range(3):
        calls.KV.Put(rpc_pb2.PutRequest(key=b"put/%d" % number, value=b"v" * 100), timeout=20)
    change.look()
    assert change.of("etcd_mvcc_put_total") == 3
    assert change.of("etcd_debugging_mvcc_keys_total") == 3
    assert change.of("etcd_debugging_mvcc_current_revision") == 3
    assert change.of("etcd_server_proposals_committed_total") == 3, "one after the other, so an entry each"
    assert change.of("etcd_server_proposals_applied_total") == 3
    assert change.of("etcd_server_proposals_pending") == 0
    assert change.of("etcd_disk_wal_fsync_duration_seconds_count") >= 3
    assert change.of("etcd_disk_wal_fsync_duration_seconds_sum") > 0
    assert change.of("etcd_disk_wal_write_duration_seconds_count") >= 3
    assert change.of("etcd_disk_wal_write_bytes_total") > 300
    assert change.of("etcd_debugging_mvcc_total_put_size_in_bytes") > 300
    applied = {"op": "Batch", "success": "true", "version": "v3"}
    assert change.of("etcd_server_apply_duration_seconds_count", **applied) >= 3
    assert change.of("raftkv_batch_requests_count") == 3
    assert change.of("etcd_network_client_grpc_received_bytes_total") > 300
    assert change.of("etcd_network_client_grpc_sent_bytes_total") > 60
    puts = {"grpc_service": "etcdserverpb.KV", "grpc_method": "Put", "grpc_type": "unary"}
    for name in ("grpc_server_started_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total"):
        assert change.of(name, **puts) == 3
    assert change.of("grpc_server_handled_total", grpc_code="OK", **puts) == 3
    assert change.of("grpc_server_handled_total", **puts) == 3


def test_operations_count_as_in_etcd(etcd_server: Server, member: Server, calls: Calls) -> None:
    """Contract 11.4: operations, not keys; those of a transaction one by one, and the transaction if it has several."""
    names = ("put", "delete", "txn")

    def work(calls: Calls) -> None:
        kv, put = calls.KV, rpc_pb2.PutRequest
        for number in range(3):
            kv.Put(put(key=b"op/%d" % number, value=b"v"), timeout=20)
        kv.Range(rpc_pb2.RangeRequest(key=b"op/", range_end=b"op0"), timeout=20)
        kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"op/", range_end=b"op0"), timeout=20)
        one, two = (_txn(put(key=b"op/%d" % number, value=b"v") for number in range(count)) for count in (1, 2))
        kv.Txn(one, timeout=20)
        kv.Txn(two, timeout=20)
        inner = rpc_pb2.RequestOp(request_txn=two)
        kv.Txn(rpc_pb2.TxnRequest(success=[inner]), timeout=20)
        reads = [rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"op/0")) for _ in range(2)]
        kv.Txn(rpc_pb2.TxnRequest(success=reads), timeout=20)
        kv.Txn(rpc_pb2.TxnRequest(success=[*reads, *two.success]), timeout=20)
        for keys in (1, 2):
            lease = calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=100), timeout=20)
            for number in range(keys):
                kv.Put(put(key=b"leased/%d" % number, lease=lease.ID), timeout=20)
            calls.Lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease.ID), timeout=20)

    ours, theirs = Change(member), Change(etcd_server)
    work(calls)
    with connect(etcd_server.endpoint) as channel:
        work(Calls(channel))
    changed = [
        {name: change.look().of(f"etcd_mvcc_{name}_total") for name in (*names, "range")} for change in (ours, theirs)
    ]
    assert changed[0] == changed[1]
    assert changed[0] == {"put": 13, "delete": 4, "txn": 5, "range": 5}
    for name in ("granted", "revoked"):
        assert ours.of(f"etcd_debugging_lease_{name}_total") == 2
    assert ours.of("etcd_debugging_lease_ttl_total_count") == 2
    assert ours.of("etcd_debugging_lease_ttl_total_sum") == 200
    assert ours.of("etcd_debugging_lease_ttl_total_bucket", le="64") == 0
    assert ours.of("etcd_debugging_lease_ttl_total_bucket", le="128") == 2
    assert ours.of("raftkv_mvcc_deleted_keys_total") == 6


def _txn(puts: Iterator[Any]) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=each) for each in puts])


def test_what_fails_counts_under_its_code(member: Server, calls: Calls) -> None:
    """M-31."""
    change = Change(member)
    with pytest.raises(grpc.RpcError):
        calls.KV.Put(rpc_pb2.PutRequest(), timeout=20)
    with pytest.raises(grpc.RpcError):
        calls.KV.Range(rpc_pb2.RangeRequest(key=b"a", revision=1 << 40), timeout=20)
    change.look()
    assert change.of("grpc_server_handled_total", grpc_method="Put", grpc_code="InvalidArgument") == 1
    assert change.of("grpc_server_handled_total", grpc_method="Range", grpc_code="OutOfRange") == 1
    assert change.of("grpc_server_handled_total") == 2


def test_a_watch_stream(member: Server, calls: Calls) -> None:
    """M-30, W-93: a stream counts when it ends; what it watches, while it is open."""
    change = Change(member)
    requests = [
        rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"w", range_end=b"x")),
        rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"w1")),
    ]
    stream = calls.Watch.Watch(iter_then_wait(requests), timeout=60)
    assert next(stream).created
    assert next(stream).created
    calls.KV.Put(rpc_pb2.PutRequest(key=b"w1", value=b"v"), timeout=20)
    for _ in range(2):
        assert len(next(stream).events) == 1
    change.look()
    assert change.of("etcd_debugging_mvcc_watch_stream_total") == 1
    assert change.of("etcd_debugging_mvcc_watcher_total") == 2
    assert change.of("etcd_debugging_mvcc_events_total") == 2
    assert change.after.value("etcd_debugging_mvcc_slow_watcher_total") == 0
    assert change.after.value("etcd_debugging_mvcc_pending_events_total") == 0
    watch = {"grpc_service": "etcdserverpb.Watch", "grpc_type": "bidi_stream"}
    assert change.of("grpc_server_started_total", **watch) == 1
    assert change.of("grpc_server_msg_sent_total", **watch) == 4
    assert change.of("grpc_server_handled_total", **watch) == 0
    stream.cancel()
    wait_until("the stream has ended", lambda: change.look().of("grpc_server_handled_total", **watch) == 1)
    assert change.of("grpc_server_handled_total", grpc_code="Canceled", **watch) == 1
    assert change.of("etcd_debugging_mvcc_watcher_total") == 0


def iter_then_wait(requests: list[Any]) -> Iterator[Any]:
    """The client's side of a stream that stays open."""
    import threading

    yield from requests
    threading.Event().wait(60)


def test_a_watcher_that_reads_nothing_is_slow(member: Server, calls: Calls) -> None:
    """W-93."""
    for _ in range(3):
        calls.KV.Put(rpc_pb2.PutRequest(key=b"slow", value=b"v" * 1_000_000), timeout=20)
    first = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"slow", start_revision=1))
    # Windows of 64 KiB, and nobody takes anything out of them.
    options = (("grpc.http2.lookahead_bytes", 0), ("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1))
    with grpc.insecure_channel(member.endpoint, options=options) as channel:
        stream = Calls(channel).Watch.Watch(iter_then_wait([first] * 8), timeout=60)
        assert next(stream).created
        for _ in range(5):
            calls.KV.Put(rpc_pb2.PutRequest(key=b"slow", value=b"v" * 1_000_000), timeout=20)
        wait_until(
            "a watcher is slow", lambda: scrape(member.client_port).value("etcd_debugging_mvcc_slow_watcher_total") > 0
        )
        stream.cancel()
    wait_until("no watcher is", lambda: scrape(member.client_port).value("etcd_debugging_mvcc_slow_watcher_total") == 0)


def test_versions_of_clients(member: Server, calls: Calls) -> None:
    """G-24: counted, those that do not say as unknown, and however many are made up, no more than a few."""
    change = Change(member)

    def put(version: str | None) -> None:
        metadata = () if version is None else (("client-api-version", version),)
        calls.KV.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20, metadata=metadata)

    for version in ("3.6", None, "3.6", "3.5"):
        put(version)
    change.look()
    name = "etcd_server_client_requests_total"
    assert change.of(name, type="unary", client_api_version="3.6") == 2
    assert change.of(name, type="unary", client_api_version="3.5") == 1
    assert change.of(name, type="unary", client_api_version="unknown") == 1
    assert change.of("grpc_server_handled_total", grpc_method="Put", grpc_code="OK") == 4
    for number in range(40):
        put(f"made-up-{number}")
    put("x" * 100)
    change.look()
    assert len(change.after.samples[name]) < 40
    assert change.of(name, client_api_version="other") >= 9
    assert change.of(name) == 45


def test_probes(member: Server, calls: Calls) -> None:
    """H-57."""
    change = Change(member)
    calls.Maintenance.Alarm(_alarm(rpc_pb2.AlarmRequest.ACTIVATE, member), timeout=20)
    try:
        assert get(member.client_port, "/readyz")[0] == 503
        assert get(member.client_port, "/health")[0] == 503
        change.look()
        check = {"type": "readyz", "name": "data_corruption"}
        assert change.after.value("etcd_server_healthcheck", **check) == 0
        assert change.of("etcd_server_healthchecks_total", status="error", **check) == 1
        assert change.of("etcd_server_health_failures") == 1
        [alarm] = change.after.samples["etcd_debugging_server_alarms"].items()
        assert (dict(alarm[0])["alarm_type"], alarm[1]) == ("CORRUPT", 1)
    finally:
        calls.Maintenance.Alarm(_alarm(rpc_pb2.AlarmRequest.DEACTIVATE, member), timeout=20)
    assert get(member.client_port, "/readyz")[0] == 200
    assert get(member.client_port, "/livez/serializable_read")[0] == 200
    assert get(member.client_port, "/health")[0] == 200
    change.look()
    assert change.after.value("etcd_server_healthcheck", **check) == 1
    assert change.of("etcd_server_healthchecks_total", status="success", **check) == 1
    assert change.of("etcd_server_healthchecks_total", type="livez", name="serializable_read", status="success") == 1
    assert change.of("etcd_server_health_success") == 1
    assert change.after.value("etcd_debugging_server_alarms") == 0
    assert "etcd_debugging_server_alarms" in change.after.samples, "its end shows as 0"


def _alarm(action: Any, member: Server) -> rpc_pb2.AlarmRequest:
    [labels] = scrape(member.client_port).samples["etcd_server_id"]
    return rpc_pb2.AlarmRequest(action=action, memberID=int(dict(labels)["server_id"], 16), alarm=rpc_pb2.CORRUPT)


def test_maintenance(member: Server, calls: Calls) -> None:
    change = Change(member)
    for number in range(20):
        calls.KV.Put(rpc_pb2.PutRequest(key=b"m", value=b"%d" % number), timeout=20)
    revision = calls.KV.Put(rpc_pb2.PutRequest(key=b"m"), timeout=20).header.revision
    calls.KV.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=20)
    calls.Maintenance.Hash(rpc_pb2.HashRequest(), timeout=20)
    calls.Maintenance.HashKV(rpc_pb2.HashKVRequest(), timeout=20)
    assert list(calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=60))
    calls.Maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=60)
    change.look()
    assert change.after.value("etcd_debugging_mvcc_compact_revision") == revision
    assert change.of("etcd_debugging_mvcc_db_compaction_keys_total") >= 20
    assert change.of("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count") == 1
    assert change.of("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count") >= 1
    assert change.after.value("etcd_debugging_mvcc_db_compaction_last") > 1_600_000_000
    assert change.of("etcd_mvcc_hash_duration_seconds_count") == 1
    assert change.of("etcd_mvcc_hash_rev_duration_seconds_count") == 1
    assert change.of("etcd_disk_backend_snapshot_duration_seconds_count") == 1
    assert change.of("raftkv_backups_total") == 1
    assert change.of("etcd_disk_backend_defrag_duration_seconds_count") == 1
    assert change.of("etcd_disk_backend_commit_duration_seconds_count") >= 1
    assert change.after.value("etcd_disk_defrag_inflight") == 0
    in_use = change.after.value("etcd_mvcc_db_total_size_in_use_in_bytes")
    assert 0 < in_use <= change.after.value("etcd_mvcc_db_total_size_in_bytes")


def test_raftkvs_own(member: Server, calls: Calls) -> None:
    calls.KV.Put(rpc_pb2.PutRequest(key=b"own"), timeout=20)
    page = wait_until("a checkpoint is made", lambda: _with_checkpoint(member))
    assert page.value("raftkv_checkpoint_age_seconds") < 60
    assert page.value("raftkv_loop_lag_seconds_count") > 10
    assert page.value("raftkv_scrape_duration_seconds_count") > 1
    assert page.value("raftkv_connections", port="client") >= 2, "this scrape and the channel"
    assert page.value("raftkv_connections_accepted_total", port="client") > 2
    assert page.value("raftkv_build_info") == 1
    with pytest.raises(grpc.RpcError), connect(member.endpoint) as channel:
        channel.unary_unary("/etcdserverpb.KV/Nothing")(b"", timeout=20)
    assert scrape(member.client_port).value("raftkv_rpc_calls_rejected_total", port="client") == 1


def _with_checkpoint(member: Server) -> Page | None:
    page = scrape(member.client_port)
    return page if page.value("raftkv_checkpoint_duration_seconds_count") else None


def test_a_scrape_costs_little(member: Server, calls: Calls) -> None:
    """No more of the member's CPU time than 25 puts, whatever else the machine does: it is seven."""
    scrape_s = put_s = 0.0
    for _ in range(10):
        began = _cpu_s(member.pid)
        for _ in range(100):
            calls.KV.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20)
        between = _cpu_s(member.pid)
        for _ in range(20):
            get(member.client_port)
        put_s += (between - began) / 100
        scrape_s += (_cpu_s(member.pid) - between) / 20
    assert scrape_s < 25 * put_s


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc_server", ["native", "grpcio"])
def test_extensive_metrics_and_urls_of_their_own(rpc_server: str, tmp_path: Path) -> None:
    """--metrics=extensive, H-08. grpcio counts the same calls, but not their time."""
    port = free_port()
    flags = (
        f"--rpc-server={rpc_server}",
        "--metrics=extensive",
        f"--listen-metrics-urls=http://127.0.0.1:{port}",
    )
    server = Server(RAFTKV, tmp_path, flags)
    try:
        server.start()
        name = "grpc_server_handling_seconds"
        assert name not in scrape(port).types or not scrape(port).value(f"{name}_count", grpc_method="Put")
        with connect(server.endpoint) as channel:
            calls = Calls(channel)
            version = (("client-api-version", "3.6"),)
            calls.KV.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20)
            calls.KV.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20, metadata=version)
            with pytest.raises(grpc.RpcError):
                calls.KV.Put(rpc_pb2.PutRequest(), timeout=20)
            calls.Watch.Watch(iter(()), timeout=60).cancel()
            watch = {"grpc_method": "Watch", "grpc_type": "bidi_stream", "grpc_service": "etcdserverpb.Watch"}
            wait_until("the stream ends", lambda: scrape(port).value("grpc_server_handled_total", **watch) == 1)
        page = scrape(port)
        assert page.value("grpc_server_handled_total", grpc_method="Put") == 3
        assert page.value("etcd_server_client_requests_total", client_api_version="3.6") == 1
        if rpc_server == "native":
            assert page.types[name] == "histogram"
            assert page.label_names(name) == {listed()[name].labels}
            assert page.bucket_ends(name) == [*map(go_number, listed()[name].bounds), "+Inf"]
            assert page.value(f"{name}_count", grpc_method="Put") == 3
            assert page.value(f"{name}_count", **watch) == 1
            assert page.value(f"{name}_sum", grpc_method="Put") > 0
    finally:
        server.stop()


def test_without_a_quota_it_is_as_negative_as_etcds(etcd_program: Program, tmp_path: Path) -> None:
    """A quota of 0 would be used up, and wake somebody."""
    for program in (RAFTKV, etcd_program):
        server = Server(program, tmp_path / program.kind, ["--quota-backend-bytes=-1"])
        try:
            assert scrape(server.start().client_port).value("etcd_server_quota_backend_bytes") == -1
        finally:
            server.stop()


def test_only_get(member: Server) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", member.client_port, timeout=20)
    connection.request("POST", "/metrics", body=b"")
    assert connection.getresponse().status == 405
    connection.close()
