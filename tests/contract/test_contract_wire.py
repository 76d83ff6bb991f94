"""Headers, status, members, metadata, unknown methods, damage, health (contract sections 1, 5, 6, 9, 15)."""

import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from contract_support import Client, Code, put_op, range_op, refused, txn_op
from helpers.processes import Server

from raftkv.pb import health_pb2, rpc_pb2

# --- headers ------------------------------------------------------------------------------------------------


def _first_of_watch(client: Client) -> Any:
    with client.watch() as stream:
        return stream.create(b"k")


def _first_of_keep_alive(client: Client) -> Any:
    with client.keep_alive() as stream:
        stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=1))
        return stream.next()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.range(b"k"), id="Range"),
        pytest.param(lambda client: client.range(b"a", b"z", limit=1), id="Range of an interval"),
        pytest.param(lambda client: client.put(b"header"), id="Put"),
        pytest.param(lambda client: client.delete(b"header"), id="DeleteRange"),
        pytest.param(lambda client: client.txn(success=[put_op(b"header")]), id="Txn"),
        pytest.param(lambda client: client.txn(success=[range_op(b"k")]), id="read-only Txn"),
        pytest.param(lambda client: client.txn(success=[txn_op()]), id="nested Txn"),
        pytest.param(lambda client: client.compact(client.put(b"header").header.revision), id="Compact"),
        pytest.param(lambda client: client.grant(60, 4), id="LeaseGrant"),
        pytest.param(lambda client: client.revoke(client.grant(60).ID), id="LeaseRevoke"),
        pytest.param(lambda client: client.time_to_live(4), id="LeaseTimeToLive"),
        pytest.param(
            lambda client: client.calls.Lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=20),
            id="LeaseLeases",
        ),
        pytest.param(lambda client: client.status(), id="MT-01: Status"),
        pytest.param(lambda client: client.alarm(), id="Alarm"),
        pytest.param(lambda client: client.hash_kv(), id="HashKV"),
        pytest.param(_first_of_watch, id="Watch"),
        pytest.param(_first_of_keep_alive, id="LeaseKeepAlive"),
    ],
)
def test_every_answer_has_the_whole_header(client: Client, call: Callable[[Client], Any]) -> None:
    """G-10, G-11, G-12."""
    status = client.status()
    header = call(client).header
    assert (header.cluster_id, header.member_id, header.raft_term) == (
        status.header.cluster_id,
        status.header.member_id,
        status.raftTerm,
    )
    assert 0 not in (header.cluster_id, header.member_id, header.raft_term)
    assert header.revision == client.revision()
    if 4 in client.leases():
        client.revoke(4)


def test_answers_without_a_header(fresh: Client) -> None:
    """G-16."""
    maintenance = fresh.calls.Maintenance
    assert not maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=20).HasField("header")
    pieces = list(maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=20))
    assert not any(piece.HasField("header") for piece in pieces)
    own = fresh.status().header.member_id
    moved = maintenance.MoveLeader(rpc_pb2.MoveLeaderRequest(targetID=own), timeout=20)
    assert not moved.HasField("header")


@pytest.mark.parametrize("linearizable", [False, True])
def test_member_list(client: Client, shared_server: Server, linearizable: bool) -> None:
    """G-15, CL-01, CL-02, CL-10."""
    answer = client.members(linearizable)
    status = client.status()
    assert answer.header == rpc_pb2.ResponseHeader(
        cluster_id=status.header.cluster_id, member_id=status.header.member_id, raft_term=status.raftTerm
    )
    (member,) = answer.members
    assert (member.ID, member.name, member.isLearner) == (status.header.member_id, "default", False)
    assert list(member.peerURLs) == [shared_server.peer_url]
    assert list(member.clientURLs) == [f"http://{shared_server.endpoint}"]


# --- status -------------------------------------------------------------------------------------------------


def test_status(client: Client, prefix: bytes) -> None:
    """Section 6.1, MT-01."""
    client.put(prefix, bytes(1000))
    status = client.status()
    assert re.fullmatch(r"3\.\d+\.\d+", status.version)
    assert status.leader == status.header.member_id != 0
    assert 0 < status.dbSizeInUse <= status.dbSize
    assert 0 < status.raftAppliedIndex == status.raftIndex
    assert status.raftTerm == status.header.raft_term
    assert status.header.revision == client.revision()
    assert (list(status.errors), status.isLearner) == ([], False)
    client.put(prefix)
    assert client.status().raftIndex == status.raftIndex + 1


@pytest.mark.beyond_etcd("these fields are new in 3.6")
def test_status_of_36(client: Client) -> None:
    """Section 6.1."""
    status = client.status()
    assert (status.storageVersion, status.dbSizeQuota) == ("3.6.0", 2 << 30)
    assert status.HasField("downgradeInfo")
    assert (status.downgradeInfo.enabled, status.downgradeInfo.targetVersion) == (False, "")


# --- metadata -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((("hasleader", "true"),), id="G-20: there is a leader"),
        pytest.param((("client-api-version", "3.6"),), id="G-24: version"),
        pytest.param(
            (("authorization", "Bearer x"),),
            id="G-23: a token nobody asked for",
            marks=pytest.mark.beyond_etcd("3.5.1 looks at tokens while authentication is off"),
        ),
        pytest.param((("x-anything", "at all"), ("any-bin", b"\x00\xff")), id="others"),
    ],
)
def test_metadata_that_changes_nothing(client: Client, prefix: bytes, metadata: Any) -> None:
    put = rpc_pb2.PutRequest(key=prefix, value=b"v")
    revision = client.calls.KV.Put(put, timeout=20, metadata=metadata).header.revision
    answer = client.calls.KV.Range(rpc_pb2.RangeRequest(key=prefix), timeout=20, metadata=metadata)
    assert answer.kvs[0].mod_revision == revision
    with client.watch(metadata) as stream:
        stream.create(prefix, start_revision=revision)
        assert len(stream.events(1)) == 1


# --- what is not served -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/etcdserverpb.Watch/nope", "unknown method nope for service etcdserverpb.Watch"),
        ("/nope.Nope/Range", "unknown service nope.Nope"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None),
    ],
)
def test_what_is_not_served(client: Client, path: str, text: str | None) -> None:
    """ER-05, G-01."""
    text = text or f"unknown service {path.split('/')[1]}"
    with refused((Code.UNIMPLEMENTED, text)):
        client.raw(path)


# --- messages -----------------------------------------------------------------------------------------------

_UNARY = [
    "KV/Range",
    "KV/Put",
    "KV/DeleteRange",
    "KV/Txn",
    "KV/Compact",
    "Lease/LeaseGrant",
    "Lease/LeaseRevoke",
    "Lease/LeaseTimeToLive",
    "Lease/LeaseLeases",
    "Cluster/MemberList",
    "Maintenance/Alarm",
    "Maintenance/Status",
    "Maintenance/HashKV",
]
_DAMAGED = [
    pytest.param(b"\x0a\xff", id="length beyond the end"),
    pytest.param(b"\x08", id="varint without an end"),
    pytest.param(b"\xff" * 20, id="endless tag"),
    pytest.param(b"\x07", id="field number 0"),
]


@pytest.mark.parametrize("message", _DAMAGED)
@pytest.mark.parametrize("method", _UNARY)
def test_a_damaged_request(client: Client, method: str, message: bytes) -> None:
    """WS-02: refused by the protobuf layer; nothing reaches the log."""
    index = client.status().raftIndex
    with pytest.raises(grpc.RpcError) as raised:
        client.raw(f"/etcdserverpb.{method}", message)
    error: Any = raised.value
    assert error.code() is Code.INTERNAL
    assert error.details().startswith("grpc: ")
    assert client.status().raftIndex == index


@pytest.mark.parametrize("method", ["Watch/Watch", "Lease/LeaseKeepAlive"])
def test_a_damaged_message_ends_its_stream_only(client: Client, prefix: bytes, method: str) -> None:
    call = client.channel.stream_stream(f"/etcdserverpb.{method}")
    with client.watch() as other:
        other.create(prefix)
        with pytest.raises(grpc.RpcError) as raised:
            list(call(iter([b"\x0a\xff"]), timeout=20))
        error: Any = raised.value
        assert error.code() in (Code.INTERNAL, Code.UNKNOWN)
        client.put(prefix)
        assert len(other.events(1)) == 1


def test_unknown_fields_are_ignored(client: Client, prefix: bytes) -> None:
    """WS-02: also on their way through the log."""
    unknown = b"\xba\x06\x03xyz" + b"\xc0\x06\x2a"  # fields 103 (bytes) and 104 (varint)
    put = rpc_pb2.PutRequest(key=prefix, value=b"v").SerializeToString()
    client.raw("/etcdserverpb.KV/Put", unknown + put + unknown)
    answer = rpc_pb2.RangeResponse.FromString(
        client.raw("/etcdserverpb.KV/Range", rpc_pb2.RangeRequest(key=prefix).SerializeToString() + unknown)
    )
    assert [kv.value for kv in answer.kvs] == [b"v"]


def test_fields_in_any_order_and_twice(client: Client, prefix: bytes) -> None:
    """Section 15: the last of a repeated scalar counts, as protobuf has it."""
    first = rpc_pb2.PutRequest(value=b"1", key=b"wrong").SerializeToString()
    client.raw("/etcdserverpb.KV/Put", first + rpc_pb2.PutRequest(key=prefix, value=b"2").SerializeToString())
    assert client.only(prefix).value == b"2"
    assert client.range(b"wrong").count == 0


@pytest.mark.beyond_etcd("KV-21: etcd takes it for an open end")
def test_an_empty_range_end_is_no_range_end(client: Client, prefix: bytes) -> None:
    """KV-21: encoded with length zero."""
    client.put(prefix)
    client.put(prefix + b"x")
    request = rpc_pb2.RangeRequest(key=prefix).SerializeToString() + b"\x12\x00"
    answer = rpc_pb2.RangeResponse.FromString(client.raw("/etcdserverpb.KV/Range", request))
    assert answer.count == 1
    deleted = rpc_pb2.DeleteRangeResponse.FromString(client.raw("/etcdserverpb.KV/DeleteRange", request))
    assert deleted.deleted == 1


# --- health -------------------------------------------------------------------------------------------------

_Health = health_pb2.HealthCheckResponse


def _check(client: Client, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return _Health.FromString(client.raw("/grpc.health.v1.Health/Check", request)).status


def test_health(client: Client) -> None:
    """G-02."""
    assert _check(client, "") == _Health.SERVING
    with refused((Code.NOT_FOUND, "unknown service")):
        _check(client, "etcdserverpb.KV")


@pytest.mark.parametrize(
    ("service", "status"),
    [("", _Health.SERVING), ("no.Such", _Health.SERVICE_UNKNOWN)],
    ids=["all", "unknown"],
)
def test_health_watch(client: Client, service: str, status: int) -> None:
    """G-02."""
    call = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
    stream = call(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=20)
    assert _Health.FromString(next(stream)).status == status
    stream.cancel()
