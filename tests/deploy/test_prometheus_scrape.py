"""A real Prometheus scrapes a real cluster under a little load: every query that anybody asks of it has an answer."""

from __future__ import annotations

import itertools
import re
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster import Cluster, Member
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV
from helpers.waiting import wait_until
from prometheus_support import JOB, Prometheus, alerts, dashboard_queries, records, tool

from raftkv.pb import rpc_pb2

WINDOW = "15s"
"""Of rates. Prometheus scrapes every second here."""
MIXIN = Path(__file__).with_name("mixin_queries.toml")
ACTIVE_ALARMS = "count by (alarm_type) (etcd_debugging_server_alarms == 1)"
POD = b"/registry/pods/default/web"


class Load:
    """One client of one member that does a little of everything."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join()
        assert self._error is None, self._error

    def _run(self) -> None:
        try:
            with connect(self._member.endpoint) as channel:
                self._work(Calls(channel))
        except BaseException as error:
            self._error = error

    def _work(self, calls: Calls) -> None:
        lease = calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60), timeout=20).ID
        watching = calls.Watch.Watch(self._until_stopped(watch_request()))
        keeping = calls.Lease.LeaseKeepAlive(self._until_stopped(rpc_pb2.LeaseKeepAliveRequest(ID=lease)))
        assert next(watching).created
        assert next(keeping).TTL == 60
        assert list(calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=60))
        pods = rpc_pb2.RangeRequest(key=b"/registry/pods/", range_end=b"/registry/pods0")
        for number in itertools.count():
            if self._stopping.wait(0.01):
                break
            put = rpc_pb2.PutRequest(key=b"%s-%d" % (POD, number % 50), value=b"v" * 300, lease=lease)
            written = calls.KV.Put(put, timeout=20).header.revision
            calls.KV.Range(rpc_pb2.RangeRequest(key=put.key), timeout=20)
            if number % 50 == 49:
                list(calls.KV.RangeStream(pods, timeout=20))
                calls.KV.Compact(rpc_pb2.CompactionRequest(revision=written), timeout=20)
        for stream in (watching, keeping):
            stream.cancel()

    def _until_stopped(self, request: Any) -> Iterator[Any]:
        yield request
        self._stopping.wait()


def watch_request() -> Any:
    create = rpc_pb2.WatchCreateRequest(key=b"/registry/pods/", range_end=b"/registry/pods0")
    return rpc_pb2.WatchRequest(create_request=create)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    tool("prometheus")  # before a cluster is started in vain
    directory = tmp_path_factory.mktemp("prometheus")
    cluster = Cluster(RAFTKV, directory, 3, ["--metrics=extensive", "--peer-auto-tls"])
    for member in cluster.members:  # so that there are handshakes and certificates to show
        member.peer_url = member.peer_url.replace("http://", "https://")
    cluster.use_initial_cluster(cluster.members)
    made = Prometheus(directory, {member.name: member.endpoint for member in cluster.members})
    try:
        cluster.start()
        made.start()
        show_alarms(cluster, made)
        with Load(cluster.leader()):
            yield made
    finally:
        made.stop()
        cluster.discard()


def show_alarms(cluster: Cluster, prometheus: Prometheus) -> None:
    """Raise each, and end it when it has been seen: from then on it is there, as 0."""
    leader = cluster.leader()
    request = rpc_pb2.AlarmRequest
    with connect(leader.endpoint) as channel:
        alarm = Calls(channel).Maintenance.Alarm
        for kind in (rpc_pb2.NOSPACE, rpc_pb2.CORRUPT):
            alarm(request(action=request.ACTIVATE, memberID=leader.id, alarm=kind), timeout=20)
        wait_until("both alarms are seen", lambda: len(prometheus.values(ACTIVE_ALARMS)) == 2)
        for kind in (rpc_pb2.CORRUPT, rpc_pb2.NOSPACE):
            alarm(request(action=request.DEACTIVATE, memberID=leader.id, alarm=kind), timeout=20)
        wait_until("both have ended", lambda: not prometheus.values(ACTIVE_ALARMS))


def check_all(prometheus: Prometheus, queries: dict[str, str]) -> None:
    """Each has at least one answer that is a number, as soon as enough has been scraped."""
    left = dict(queries)

    def all_answered() -> bool:
        for what, query in list(left.items()):
            if prometheus.values(query):
                del left[what]
        return not left

    try:
        wait_until("every query has an answer", all_answered)
    except AssertionError as vain:
        raise AssertionError(
            "no answer to:\n" + "\n".join(f"{what}: {query}" for what, query in left.items())
        ) from vain


def test_every_query_of_the_dashboard(prometheus: Prometheus) -> None:
    queries = list(dashboard_queries(WINDOW))
    assert len(queries) > 80
    assert len(dict(queries)) == len(queries), "none is lost for the name of another"
    check_all(prometheus, dict(queries))


def test_everything_that_is_recorded(prometheus: Prometheus) -> None:
    check_all(prometheus, {name: name for name in records()})


def test_what_every_alert_looks_at(prometheus: Prometheus) -> None:
    """Its expression without the comparison: nothing is compared with what is not there."""
    check_all(prometheus, {f"{alert['alert']} {part}": part for alert in alerts() for part in operands(alert["expr"])})


def operands(expression: str) -> list[str]:
    """The parts that sets are made of. `bool` makes an answer of what a comparison would leave out."""
    parts = re.split(r" (?:and|unless|or) (?:on \([a-z, ]*\) )?", expression)
    asked = [re.sub(r" (==|>=|<=|<|>) ", r" \1 bool ", part) for part in parts]
    return [re.sub(r" offset \w+", "", part) for part in asked]


def test_prometheus_evaluates_every_rule_and_a_healthy_cluster_is_quiet(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        found = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    def firing() -> set[str]:
        return {rule["name"] for rule in evaluated() or () if rule.get("state") == "firing"}

    found = wait_until("every rule has been evaluated", evaluated)
    assert len(found) == len(alerts()) + len(records())
    assert not [rule for rule in found if rule["health"] != "ok"]
    # Those of the alarms that were raised at the beginning end with the next evaluation.
    assert firing() <= {"RaftkvCorrupt", "RaftkvNoSpace"}
    wait_until("nothing fires", lambda: not firing())


def mixin() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(MIXIN.read_text())
    return {f"{section} {what}": row for section, rows in table.items() for what, row in rows.items()}


def mixin_query(row: dict[str, Any]) -> str:
    where = {"job": JOB} | row.get("where", {})
    selector = "{" + ", ".join(f'{label}="{value}"' for label, value in where.items()) + "}"
    metric, by = row["metric"], ", ".join(row.get("keep", ()))
    buckets = f"rate({metric}_bucket{selector}[{WINDOW}])"
    forms = {
        "plain": f"sum by ({by}) ({metric}{selector})",
        "rate": f"sum by ({by}) (rate({metric}{selector}[{WINDOW}]))",
        "changes": f"sum by ({by}) (changes({metric}{selector}[1d]))",
        "growth": f"sum by ({by}) (increase({metric}{selector}[15m]))",
        "forecast": f"sum by ({by}) (predict_linear({metric}{selector}[4h], 14400))",
        "p99": f"histogram_quantile(0.99, sum by ({', '.join([*row.get('keep', ()), 'le'])}) ({buckets}))",
    }
    return forms[row["use"]]


def test_everything_that_etcds_own_dashboard_and_alerts_ask_for(prometheus: Prometheus) -> None:
    """M-01: under the names, with the labels, of the type."""
    rows = mixin()
    assert len(rows) > 30
    check_all(prometheus, {what: mixin_query(row) for what, row in rows.items()})
    for what, row in rows.items():
        for labels, _ in prometheus.values(mixin_query(row)):
            assert set(labels) == set(row.get("keep", ())), what


def test_the_figures_are_those_of_the_cluster(prometheus: Prometheus) -> None:
    """What is shown is not only there but true, where a test can know."""
    wait_until("all members are up", lambda: prometheus.values(f'sum(up{{job="{JOB}"}})') == [({}, 3.0)])
    wait_until("one of them leads", lambda: prometheus.values("sum(etcd_server_is_leader)") == [({}, 1.0)])
    wait_until("round trips between all pairs", lambda: len(_pairs(prometheus)) == 6)
    wait_until("puts are counted", lambda: prometheus.values("max(increase(etcd_mvcc_put_total[15s])) > 5"))


def _pairs(prometheus: Prometheus) -> list[Any]:
    return prometheus.values("instance_to:etcd_network_peer_round_trip_time_seconds:p99_rate5m")
