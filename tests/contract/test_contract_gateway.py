"""The JSON gateway: calls, their forms in JSON, and what is refused (contract section 10.2)."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import pytest
from contract_auth import CHEAP_HASHES
from contract_gateway import TIMEOUT_S, Gateway, Lines, b64, raw
from contract_support import new_prefix
from helpers.processes import Server

pytestmark = pytest.mark.native_only("the RPC server on grpcio serves no HTTP on its ports")

StartServer = Callable[..., Server]
Opened = Callable[[Lines], Lines]

MVCC: Final = "etcdserver: mvcc:"

_OLD_ERRORS: Final = "3.5.1 answers a path or a method that it does not know in plain text"
_OLD_JSON: Final = "3.5.1 reads JSON with another library"


# --- KV -----------------------------------------------------------------------------------------------------------


def test_put_and_range(gateway: Gateway, key: bytes) -> None:
    """H-21, H-24, H-26, H-32."""
    put = gateway.put(key, b"bar")
    header = put["header"]
    assert set(put) == {"header"}
    assert set(header) == {"cluster_id", "member_id", "revision", "raft_term"}
    assert all(isinstance(value, str) for value in header.values())
    revision = header["revision"]
    found = gateway("kv/range", {"key": b64(key)})
    assert found["header"] == header
    expected = {"key": b64(key), "create_revision": revision, "mod_revision": revision, "version": "1"}
    assert found["kvs"] == [{**expected, "value": b64(b"bar")}]
    assert found["count"] == "1"
    assert "more" not in found


def test_what_has_its_default_value_is_left_out(gateway: Gateway, key: bytes) -> None:
    """H-24."""
    assert set(gateway("kv/range", {"key": b64(key)})) == {"header"}
    gateway.put(key, b"")
    assert "value" not in gateway("kv/range", {"key": b64(key)})["kvs"][0]


@pytest.mark.parametrize(
    "fields",
    [
        {"range_end": "AA==", "limit": "2"},
        {"rangeEnd": "AA==", "limit": 2},
        {"rangeEnd": "AA==", "limit": 2, "sort_order": "ASCEND", "sortTarget": "KEY"},
        {"range_end": "AA==", "limit": 2, "sort_order": 1, "sort_target": 0, "unknown": [1, {"a": None}]},
        {"range_end": "AA==", "limit": "2", "keys_only": False, "serializable": True, "revision": None},
    ],
)
def test_the_forms_of_a_request(gateway: Gateway, key: bytes, fields: Any) -> None:
    """H-24."""
    for end in (b"a", b"b", b"c"):
        gateway.put(key + end)
    found = gateway("kv/range", {"key": b64(key), **fields})
    assert [raw(kv["key"]) for kv in found["kvs"]] == [key + b"a", key + b"b"]
    assert found["more"] is True


@pytest.mark.beyond_etcd(_OLD_JSON)
def test_other_base64(gateway: Gateway) -> None:
    """H-24: url-safe or without padding, on input; the output is always standard."""
    key = b"\xfb\xff\xbf" + new_prefix()
    gateway("kv/put", {"key": base64.urlsafe_b64encode(key).decode(), "value": "-_-_"})
    [kv] = gateway("kv/range", {"key": b64(key)})["kvs"]
    assert (kv["key"], kv["value"]) == (b64(key), "+/+/")
    assert gateway("kv/range", {"key": b64(key).rstrip("=")})["count"] == "1"


def test_delete_with_previous_values(gateway: Gateway, key: bytes) -> None:
    gateway.put(key, b"old")
    deleted = gateway("kv/deleterange", {"key": b64(key), "prev_kv": True})
    assert deleted["deleted"] == "1"
    assert raw(deleted["prev_kvs"][0]["value"]) == b"old"


@pytest.mark.parametrize("camel", [True, False])
def test_transactions(gateway: Gateway, key: bytes, camel: bool) -> None:
    """H-25."""
    name = b64(key)
    compare = {"target": "CREATE", "key": name, ("createRevision" if camel else "create_revision"): "0"}
    request = {
        "compare": [compare],
        "success": [{("requestPut" if camel else "request_put"): {"key": name, "value": b64(b"bar")}}],
        "failure": [{("requestRange" if camel else "request_range"): {"key": name}}],
    }
    first = gateway("kv/txn", request)
    assert first["succeeded"] is True
    assert set(first["responses"][0]) == {"response_put"}
    second = gateway("kv/txn", request)
    assert "succeeded" not in second
    assert raw(second["responses"][0]["response_range"]["kvs"][0]["value"]) == b"bar"


def test_the_old_prefix(gateway: Gateway, key: bytes) -> None:
    """H-23."""
    gateway.put(key)
    status, _, body = gateway.ask("/v3beta/kv/range", json.dumps({"key": b64(key)}))
    assert (status, json.loads(body)["count"]) == (200, "1")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/grpc"])
def test_the_content_type_is_not_looked_at(gateway: Gateway, key: bytes, content_type: str) -> None:
    assert gateway("kv/range", {"key": b64(key)}, content_type=content_type)["header"]


# --- the other services: H-22 -------------------------------------------------------------------------------------


def test_leases(gateway: Gateway) -> None:
    """H-22, H-24: names that are no snake case."""
    granted = gateway("lease/grant", {"TTL": "100"})
    lease = granted["ID"]
    assert granted["TTL"] == "100"
    for prefix in ("lease", "kv/lease"):
        left = gateway(f"{prefix}/timetolive", {"ID": lease, "keys": True})
        assert (left["ID"], left["grantedTTL"]) == (lease, "100")
        assert {"ID": lease} in gateway(f"{prefix}/leases")["leases"]
    assert set(gateway("kv/lease/revoke", {"ID": lease})) == {"header"}
    assert gateway.refused("lease/revoke", {"ID": lease}) == (404, 5, "etcdserver: requested lease not found")


def test_the_cluster_and_its_member(gateway: Gateway) -> None:
    members = gateway("cluster/member/list")
    [member] = members["members"]
    assert member["clientURLs"] == [f"http://{gateway.endpoint}"]
    assert "revision" not in members["header"]
    status = gateway("maintenance/status")
    assert status["leader"] == member["ID"]
    assert {"dbSize", "raftIndex", "raftTerm", "version"} <= set(status)
    assert isinstance(gateway("maintenance/hash")["hash"], int)
    assert set(gateway("maintenance/alarm", {"action": "GET"})) == {"header"}
    status_code, code, _ = gateway.refused("maintenance/transfer-leadership", {"targetID": "5"})
    assert (status_code, code) == (400, 9)
    assert gateway.ask("/v3/maintenance/defragment", "{}")[2].strip() == b"{}"
    assert gateway.refused("cluster/member/remove", {"ID": "5"}) == (404, 5, "etcdserver: member not found")


@pytest.mark.beyond_etcd("3.5.1 has no such path")
def test_the_hash_of_a_revision(gateway: Gateway) -> None:
    hashed = gateway("maintenance/hashkv", {"revision": "0"})
    assert (hashed["compact_revision"], isinstance(hashed["hash"], int)) == ("-1", True)


@pytest.mark.beyond_etcd("3.5.1 does not answer when the cluster has a member that does not run")
def test_members_are_added_and_removed(start_server: StartServer) -> None:
    own = Gateway(start_server())
    added = own("cluster/member/add", {"peerURLs": ["http://127.0.0.1:1"], "isLearner": True})
    member = added["member"]
    assert member["isLearner"] is True
    assert len(added["members"]) == 2
    own("cluster/member/update", {"ID": member["ID"], "peerURLs": ["http://127.0.0.1:2"]})
    status, code, text = own.refused("cluster/member/promote", {"ID": member["ID"]})
    assert (status, code) == (400, 9), text
    assert len(own("cluster/member/remove", {"ID": member["ID"]})["members"]) == 1


@pytest.mark.beyond_etcd("3.5.1 does not take the word Bearer before a token")
def test_users_and_roles(start_server: StartServer) -> None:
    """H-22, H-29: every way to hand in a token."""
    own = Gateway(start_server(CHEAP_HASHES))
    assert "enabled" not in own("auth/status")
    for user in ("root", "alice"):
        own("auth/user/add", {"name": user, "password": "x"})
        own("auth/user/changepw", {"name": user, "password": f"{user}pw"})
    own("auth/role/add", {"name": "root"})
    own("auth/user/grant", {"user": "root", "role": "root"})
    own("auth/role/add", {"name": "apps"})
    permission = {"permType": "READWRITE", "key": b64(b"app/"), "range_end": b64(b"app0")}
    own("auth/role/grant", {"name": "apps", "perm": permission})
    assert own("auth/role/get", {"role": "apps"})["perm"] == [permission]
    own("auth/user/grant", {"user": "alice", "role": "apps"})
    assert own("auth/user/get", {"name": "alice"})["roles"] == ["apps"]
    assert own("auth/user/list")["users"] == ["alice", "root"]
    assert own("auth/role/list")["roles"] == ["apps", "root"]
    own("auth/enable")
    put = {"key": b64(b"app/1"), "value": b64(b"v")}
    assert own.refused("kv/put", put) == (400, 3, "etcdserver: user name is empty")
    assert own.refused("kv/put", put, authorization="none")[:2] == (401, 16)
    assert own.refused("auth/authenticate", {"name": "alice", "password": "?"})[:2] == (400, 3)
    token = own("auth/authenticate", {"name": "alice", "password": "alicepw"})["token"]
    for headers in ({"authorization": token}, {"authorization": f"Bearer {token}"}, {"grpc_metadata_token": token}):
        own("kv/put", put, **headers)
    other = {"key": b64(b"other")}
    assert own.refused("kv/put", other, authorization=token) == (403, 7, "etcdserver: permission denied")
    with closing(own.stream("watch", json.dumps({"create_request": other}), authorization=token)) as lines:
        assert "permission denied" in lines.result()["cancel_reason"]
    root = own("auth/authenticate", {"name": "root", "password": "rootpw"})["token"]
    own("auth/user/revoke", {"name": "alice", "role": "apps"}, authorization=root)
    own("auth/role/revoke", {"role": "apps", "key": b64(b"app/"), "range_end": b64(b"app0")}, authorization=root)
    own("auth/user/delete", {"name": "alice"}, authorization=root)
    own("auth/role/delete", {"role": "apps"}, authorization=root)
    own("auth/disable", authorization=root)


def test_locks_and_elections(gateway: Gateway, opened: Opened) -> None:
    name = b64(new_prefix())
    lease = gateway("lease/grant", {"TTL": "100"})["ID"]
    locked = gateway("lock/lock", {"name": name, "lease": lease})
    assert raw(locked["key"]) == raw(name) + b"/%x" % int(lease)
    gateway("lock/unlock", {"key": locked["key"]})
    lines = opened(gateway.stream("election/observe", json.dumps({"name": name})))
    won = gateway("election/campaign", {"name": name, "value": b64(b"one"), "lease": lease})["leader"]
    assert raw(lines.result()["kv"]["value"]) == b"one"
    gateway("election/proclaim", {"leader": won, "value": b64(b"two")})
    assert raw(lines.result()["kv"]["value"]) == b"two"
    assert raw(gateway("election/leader", {"name": name})["kv"]["value"]) == b"two"
    gateway("election/resign", {"leader": won})
    assert gateway.refused("election/leader", {"name": name}) == (500, 2, "election: no leader")


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "request_", "expected"),
    [
        ("kv/put", {}, (400, 3, "etcdserver: key is not provided")),
        ("kv/put", {"key": "Zm9v", "lease": "123456"}, (404, 5, "etcdserver: requested lease not found")),
        ("kv/compaction", {"revision": "1000000"}, (400, 11, f"{MVCC} required revision is a future revision")),
        ("auth/user/get", {"name": "nobody"}, (400, 9, "etcdserver: user name not found")),
        ("lease/grant", {"TTL": "9000000001"}, (400, 11, "etcdserver: too large lease TTL")),
    ],
)  # fmt: skip
def test_errors(gateway: Gateway, path: str, request_: Any, expected: tuple[int, int, str]) -> None:
    """H-30."""
    assert gateway.refused(path, request_) == expected


@pytest.mark.parametrize("body", ["", " "])
def test_an_empty_body_is_an_empty_object(gateway: Gateway, body: str) -> None:
    """H-21."""
    assert gateway.refused("kv/put", body) == (400, 3, "etcdserver: key is not provided")


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "xx",
        '{"key"',
        '{"key":"Zm9v",}',
        '{"key":"!!"}',
        '{"key":5}',
        "[]",
        '{"key":"Zm9v","lease":"abc"}',
        '{"key":"Zm9v","prev_kv":"true"}',
        '{"key":"Zm9v","other":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_malformed_bodies(gateway: Gateway, body: str) -> None:
    """H-31."""
    assert gateway.refused("kv/put", body)[:2] == (400, 3)


@pytest.mark.beyond_etcd(_OLD_JSON)
@pytest.mark.parametrize(
    "body",
    ["null", '{"key":"Zm9v","key":"Zm9v"}', b'{"key":"Zm9v","x":"\xff"}', '{"key":"+_+_"}', '{"key":"Zm9vYQ="}'],
)
def test_malformed_bodies_of_later_releases(gateway: Gateway, body: str | bytes) -> None:
    """H-31, H-24."""
    assert gateway.refused("kv/put", body)[:2] == (400, 3)


@pytest.mark.beyond_etcd(_OLD_JSON)
def test_a_oneof_has_one_member(gateway: Gateway) -> None:
    """H-25."""
    operation = {"requestPut": {"key": "Zm9v"}, "requestRange": {"key": "Zm9v"}}
    assert gateway.refused("kv/txn", {"success": [operation]})[:2] == (400, 3)


@pytest.mark.beyond_etcd(_OLD_ERRORS)
def test_paths_and_methods(gateway: Gateway) -> None:
    """H-21, H-22."""
    assert gateway.refused("kv/nothing", "{}") == (404, 5, "Not Found")
    for method in ("GET", "PUT", "DELETE"):
        status, _, body = gateway.ask("/v3/kv/put", "{}", method)
        assert (status, json.loads(body)["code"]) == (501, 12)


def test_large_requests(gateway: Gateway, key: bytes) -> None:
    """LIM-01, LIM-03."""

    def put_of(size_bytes: int) -> str:
        return json.dumps({"key": b64(key), "value": b64(bytes(size_bytes))})

    gateway("kv/put", json.loads(put_of(1_500_000)))
    assert gateway.refused("kv/put", put_of(1_600_000)) == (400, 3, "etcdserver: request is too large")
    status, code, text = gateway.refused("kv/put", put_of(2_200_000))
    assert (status, code) == (429, 8)
    assert text.startswith("grpc: received message larger than max")


@pytest.mark.beyond_etcd("etcd reads a body of any length before it looks at it")
def test_a_body_without_end(gateway_server: Server) -> None:
    with closing(
        socket.create_connection((gateway_server.endpoint.partition(":")[0], gateway_server.client_port))
    ) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(b"POST /v3/kv/put HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
        answer = b""
        try:
            for _ in range(100):
                connection.sendall(bytes(100_000))
        except OSError:
            pass
        answer = connection.recv(100)
        assert answer.startswith(b"HTTP/1.1 413 ")


def test_switched_off(start_server: StartServer) -> None:
    """H-20."""
    own = Gateway(start_server("--enable-grpc-gateway=false"))
    assert own.ask("/v3/kv/range", '{"key":"Zm9v"}')[0] == 404
    assert own.ask("/health", method="GET")[0] == 200
