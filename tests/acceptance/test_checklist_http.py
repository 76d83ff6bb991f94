"""Acceptance checklist, items 11 and 12: every error, and HTTP."""

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import test_contract_errors as contract_errors
from acceptance_support import Point, points, until
from certificates import Authority, TlsServer
from contract_support import Client, refused
from helpers.cluster import REQUEST_S, Cluster, when_healthy
from helpers.error_rows import BY_NAME
from helpers.processes import Program, Server
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]
Fresh = Callable[..., tuple[Server, Client]]

_TIMEOUT_S = 20
_ACTIVATE, _DEACTIVATE = rpc_pb2.AlarmRequest.ACTIVATE, rpc_pb2.AlarmRequest.DEACTIVATE

# --- 11: errors -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[contract_errors.Others]:
    made = contract_errors.Others(subject_program, tmp_path_factory.mktemp("errors"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def leader_of_three(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(subject_program, tmp_path_factory.mktemp("acceptance"))
    try:
        cluster.start()
        leader, follower = cluster.leader(), cluster.followers()[0]
        with refused((BY_NAME["ErrGRPCPeerURLExist"].code, BY_NAME["ErrGRPCPeerURLExist"].text)):
            when_healthy(lambda: leader.client.add_member(follower.peer_url))
        yield cluster
    finally:
        cluster.discard()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=contract_errors.MARKS.get(name, ())) for name in contract_errors.MADE]
)
def test_item_11_errors(
    leader_of_three: Cluster, others: contract_errors.Others, subject_program: Program, name: str
) -> None:
    """ER-01, section 9: each row that a call can bring about, as the leader of three members words it."""
    row = BY_NAME[name]
    leader = leader_of_three.leader()
    scene = contract_errors.Scene(Client(leader.client.channel), leader, others)
    code = contract_errors.CODES_OF_ETCD.get(name, row.code) if subject_program.kind == "etcd" else row.code
    with refused((code, row.text)):
        contract_errors.MADE[name](scene)


# --- 12: HTTP -------------------------------------------------------------------------------------------------------


def _get(endpoint: str, path: str, method: str = "GET", body: Any = None) -> tuple[int, str]:
    """Status and body."""
    with closing(http.client.HTTPConnection(endpoint, timeout=_TIMEOUT_S)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read().decode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _health_of_a_sound_member(server: Server, _client: Client) -> None:
    """H-40, H-44, H-50, H-51, H-53."""
    assert _get(server.endpoint, "/health") == (200, '{"health":"true","reason":""}')
    assert _get(server.endpoint, "/health", "POST")[0] == 405
    for path in ("/livez", "/readyz", "/livez/serializable_read", "/readyz/linearizable_read"):
        assert _get(server.endpoint, path) == (200, "ok\n")
    status, lines = _get(server.endpoint, "/readyz?verbose")
    assert status == 200
    assert sorted(lines.splitlines()) == sorted(
        [
            *(f"[+]{name} ok" for name in ("data_corruption", "serializable_read", "linearizable_read", "non_learner")),
            "ok",
        ]
    )


def _health_under_alarms(server: Server, client: Client) -> None:
    """H-41, H-43, H-52, H-54: NOSPACE is unhealthy but ready, CORRUPT is neither."""
    own = client.status().header.member_id
    client.alarm(_ACTIVATE, own, rpc_pb2.NOSPACE)
    status, body = _get(server.endpoint, "/health")
    assert (status, json.loads(body)) == (503, {"health": "false", "reason": "ALARM NOSPACE"})
    assert _get(server.endpoint, "/health?exclude=NOSPACE")[0] == 200
    assert _get(server.endpoint, "/readyz") == (200, "ok\n")
    client.alarm(_DEACTIVATE, own, rpc_pb2.NOSPACE)
    client.alarm(_ACTIVATE, own, rpc_pb2.CORRUPT)
    assert json.loads(_get(server.endpoint, "/health")[1])["reason"] == "ALARM CORRUPT"
    status, lines = _get(server.endpoint, "/readyz")
    assert (status, "[-]data_corruption failed: alarm activated: CORRUPT" in lines) == (503, True)
    assert _get(server.endpoint, "/readyz?exclude=data_corruption") == (200, "ok\n")
    assert _get(server.endpoint, "/livez") == (200, "ok\n")
    client.alarm(_DEACTIVATE, own, rpc_pb2.CORRUPT)
    assert _get(server.endpoint, "/health")[0] == 200


def _the_version(server: Server, client: Client) -> None:
    """H-60."""
    status, body = _get(server.endpoint, "/version")
    told = json.loads(body)
    assert (status, told["etcdserver"]) == (200, client.status().version)
    major_minor = told["etcdserver"].rpartition(".")[0]
    assert told["etcdcluster"] == f"{major_minor}.0"
    assert _get(server.endpoint, "/version", "POST")[0] == 405


def _grpc_and_http_share_a_port(server: Server, client: Client) -> None:
    """H-01, H-02, H-07: in turn, and while a stream is open."""
    with client.watch() as stream:
        stream.create(b"k")
        for _turn in range(3):
            revision = client.put(b"k").header.revision
            assert _get(server.endpoint, "/health")[0] == 200
            assert [event.kv.mod_revision for event in stream.events(1)] == [revision]
    assert _get(server.endpoint, "/none")[0] == 404


def _a_put_and_a_range_in_json(server: Server, client: Client) -> None:
    """H-22, H-24, H-26, WS-03."""
    body = {"key": _base64(b"json"), "value": _base64(b"v")}
    status, answer = _get(server.endpoint, "/v3/kv/put", "POST", body)
    assert (status, int(json.loads(answer)["header"]["revision"])) == (200, client.revision())
    status, answer = _get(server.endpoint, "/v3/kv/range", "POST", {"key": _base64(b"json")})
    (kv,) = json.loads(answer)["kvs"]
    assert (status, kv["key"], kv["value"], kv["version"]) == (200, body["key"], body["value"], "1")
    assert client.only(b"json").value == b"v"
    assert kv["create_revision"] == kv["mod_revision"] == json.loads(answer)["header"]["revision"]


def _a_watch_in_json(server: Server, client: Client) -> None:
    """H-27."""
    with closing(http.client.HTTPConnection(server.endpoint, timeout=_TIMEOUT_S)) as connection:
        connection.request("POST", "/v3/watch", json.dumps({"create_request": {"key": _base64(b"watched")}}))
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.readline())["result"]["created"] is True
        client.put(b"watched")
        (event,) = json.loads(response.readline())["result"]["events"]
        assert event["kv"]["key"] == _base64(b"watched")


def _metrics_have_their_names(server: Server, _client: Client) -> None:
    """H-61, M-01: what dashboards begin with; the list of all of them is item 13."""
    status, text = _get(server.endpoint, "/metrics")
    assert status == 200
    for name in (
        "etcd_server_has_leader 1",
        "etcd_mvcc_db_total_size_in_bytes ",
        "etcd_server_proposals_failed_total 0",
    ):
        assert f"\n{name}" in text


@points(
    _health_of_a_sound_member,
    _health_under_alarms,
    _the_version,
    _grpc_and_http_share_a_port,
    pytest.param(_a_put_and_a_range_in_json, marks=until("GATEWAY")),
    pytest.param(_a_watch_in_json, marks=until("GATEWAY")),
    pytest.param(_metrics_have_their_names, marks=until("METRICS")),
)
def test_item_12_http(fresh: Fresh, point: Point) -> None:
    server, client = fresh()
    point(server, client)


def test_item_12_http_without_a_quorum(new_cluster: NewCluster) -> None:
    """H-41, H-42, H-55: it lives, and is not ready."""
    cluster = new_cluster()
    alone, *others = cluster.members
    cluster.kill9(*others)
    wait_until("it knows no leader", lambda: alone.client.status().leader == 0)
    status, body = _get(alone.endpoint, "/health")
    assert (status, json.loads(body)) == (503, {"health": "false", "reason": "RAFT NO LEADER"})
    assert _get(alone.endpoint, "/health?serializable=true")[0] == 200
    assert _get(alone.endpoint, "/livez") == (200, "ok\n")
    status, lines = _get(alone.endpoint, "/readyz")
    assert status == 503
    assert "[-]linearizable_read failed: " in lines
    assert "[+]serializable_read ok" in lines


def test_item_12_http_while_the_quorum_is_silent(new_cluster: NewCluster) -> None:
    """H-46, H-41: the read of a member that still thinks it leads, or waits for a leader, has an end."""
    cluster = new_cluster()
    alone, others = cluster.leader(), cluster.followers()
    for member in others:
        member.pause()
    asked = time.monotonic()
    status, body = _get(alone.endpoint, "/health")
    assert (status, json.loads(body)["health"]) == (503, "false")
    assert time.monotonic() - asked < REQUEST_S + 3
    for member in others:
        member.resume()
    cluster.leader()
    wait_until("it is healthy again", lambda: _get(alone.endpoint, "/health")[0] == 200)


@until("CLIENT_TLS")
def test_item_12_http_needs_certificates_where_grpc_does(subject_program: Program, tmp_path: Path) -> None:
    """H-65, TLS-03, TLS-10: a failed handshake concerns nobody else."""
    authority = Authority(tmp_path)
    own, visitor = authority.issue("127.0.0.1"), authority.issue("visitor")
    flags = [f"--cert-file={own.certificate}", f"--key-file={own.key}", "--client-cert-auth"]
    server = TlsServer(subject_program, tmp_path / "member", [*flags, f"--trusted-ca-file={authority.certificate}"])
    try:
        server.spawn()
        known, unknown = (ssl.create_default_context(cafile=str(authority.certificate)) for _ in range(2))
        known.load_cert_chain(visitor.certificate, visitor.key)
        wait_until("it serves", lambda: _get_securely(server, known) == 200)
        assert _get_securely(server, unknown) is None
        assert _get_securely(server, known) == 200
    finally:
        server.stop()


def _get_securely(server: Server, context: ssl.SSLContext) -> int | None:
    """The status of /health, or None if there is no connection."""
    try:
        with closing(http.client.HTTPSConnection(server.endpoint, timeout=_TIMEOUT_S, context=context)) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None


@until("CLIENT_TLS")
def test_item_12_http_over_tls(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> None:
    """H-03, TLS-08: with a certificate of its own making, HTTP/2 for gRPC and HTTP/1.1 on one port."""
    server = TlsServer(subject_program, tmp_path_factory.mktemp("acceptance"), ["--auto-tls"])
    try:
        server.spawn()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        wait_until("it serves or has ended", lambda: _selected(server, context, "h2") or not server.is_running())
        assert server.is_running(), server.log_tail()
        assert _selected(server, context, "h2") == "h2"
        context.set_alpn_protocols(["http/1.1"])
        with closing(http.client.HTTPSConnection(server.endpoint, timeout=_TIMEOUT_S, context=context)) as connection:
            connection.request("GET", "/version")
            assert "etcdserver" in json.loads(connection.getresponse().read())
    finally:
        server.stop()


def _selected(server: Server, context: ssl.SSLContext, protocol: str) -> str | None:
    """What the server chose, or None if it does not serve yet."""
    context.set_alpn_protocols([protocol])
    host, _, port = server.endpoint.partition(":")
    try:
        plain = socket.create_connection((host, int(port)), _TIMEOUT_S)
        with closing(plain), context.wrap_socket(plain) as secure:
            return secure.selected_alpn_protocol()
    except OSError:
        return None
