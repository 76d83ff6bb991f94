"""What is on the wire beside the messages: streams, cancellation, enums, probes (contract sections 1, 10, 12, 15)."""

import http.client
import json
import time
from collections.abc import Callable
from contextlib import closing

import grpc
import pytest
from contract_support import TIMEOUT_S, Client, Code, refused
from helpers import raw_h2
from helpers.processes import Server, free_port
from helpers.waiting import wait_until

from raftkv.pb import auth_pb2, rpc_pb2
from raftkv.rpc.grpcio_server import server_options
from raftkv.rpc.limits import Limits

StartServer = Callable[..., Server]
Connected = Callable[[Server], Client]


def _get(endpoint: str, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(endpoint, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.mark.beyond_etcd("3.5.1 has no such flag")
def test_only_so_many_streams_on_one_connection(start_server: StartServer, connected: Connected) -> None:
    """LIM-07: what comes next waits until one of them ends."""
    client = connected(start_server("--max-concurrent-streams=2"))
    with client.watch() as one, client.watch() as other:
        one.create(b"k")
        other.create(b"k")
        with pytest.raises(grpc.RpcError) as raised:
            client.calls.KV.Range(rpc_pb2.RangeRequest(key=b"k"), timeout=1)
        assert raised.value.code() is Code.DEADLINE_EXCEEDED
    assert client.range(b"k").count == 0


def test_a_client_that_cancels_while_it_waits(start_server: StartServer, connected: Connected) -> None:
    """G-53, G-51: nobody hears how it ended, and the member goes on."""
    client = connected(start_server())
    second = rpc_pb2.MemberAddRequest(peerURLs=[f"http://127.0.0.1:{free_port()}"])
    client.calls.Cluster.MemberAdd(second, timeout=TIMEOUT_S)
    waiting = [client.calls.KV.Put.future(rpc_pb2.PutRequest(key=b"%d" % number)) for number in range(20)]
    with pytest.raises(grpc.FutureTimeoutError):
        waiting[0].result(timeout=0.5)
    for each in waiting:
        assert each.cancel()
    wait_until("it knows that it does not lead any more", lambda: client.status().leader == 0)
    assert client.range(b"0", b":", serializable=True).count == 0


@pytest.mark.beyond_etcd("CL-52: etcd lets a change wait for as long as its client")
def test_a_change_of_members_is_given_up(start_server: StartServer, connected: Connected) -> None:
    """CL-52, G-50, G-51: after the request timeout, like every other request that finds no leader."""
    client = connected(start_server())
    second = rpc_pb2.MemberAddRequest(peerURLs=[f"http://127.0.0.1:{free_port()}"])
    answer = client.calls.Cluster.MemberAdd(second, timeout=TIMEOUT_S)
    wait_until("it knows that it does not lead any more", lambda: client.status().leader == 0)
    asked = time.monotonic()
    update = rpc_pb2.MemberUpdateRequest(ID=answer.member.ID, peerURLs=["http://127.0.0.1:1"])
    with refused((Code.DEADLINE_EXCEEDED, "context deadline exceeded")):
        client.calls.Cluster.MemberUpdate(update, timeout=TIMEOUT_S)
    assert time.monotonic() - asked < TIMEOUT_S - 5


def test_ids_are_unsigned_and_leases_signed(client: Client, prefix: bytes) -> None:
    """PY-06, L-01, G-18: also where both have their highest bit set."""
    header = client.status().header
    assert header.member_id > 0
    assert header.cluster_id > 0
    high = (1 << 63) + 5
    client.alarm(rpc_pb2.AlarmRequest.ACTIVATE, high, rpc_pb2.CORRUPT)
    try:
        assert (high, rpc_pb2.CORRUPT) in client.alarms()
        assert f"memberID:{high} alarm:CORRUPT " in client.status().errors
    finally:
        client.alarm(rpc_pb2.AlarmRequest.DEACTIVATE, high, rpc_pb2.CORRUPT)
    for lease in (-1, -(1 << 63), (1 << 63) - 1):
        assert lease == client.grant(60, lease).ID
        client.put(prefix, lease=lease)
        assert (client.only(prefix).lease, client.time_to_live(lease).ID) == (lease, lease)
        client.revoke(lease)
    assert client.range(prefix).count == 0


def test_the_numbers_of_enums(client: Client) -> None:
    """WS-01: what a client sends as a number is what it means."""
    own = client.status().header.member_id
    client.raw("/etcdserverpb.Maintenance/Alarm", _varints(1, 1) + _varints(2, own) + _varints(3, 1))
    assert client.alarms() == [(own, rpc_pb2.NOSPACE)]
    client.raw("/etcdserverpb.Maintenance/Alarm", _varints(1, 2) + _varints(2, own) + _varints(3, 1))
    assert client.alarms() == []
    names = (auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE)
    assert names == (0, 1, 2)
    actions = rpc_pb2.DowngradeRequest
    assert (actions.VALIDATE, actions.ENABLE, actions.CANCEL) == (0, 1, 2)
    assert (rpc_pb2.NONE, rpc_pb2.NOSPACE, rpc_pb2.CORRUPT) == (0, 1, 2)


def _varints(field: int, value: int) -> bytes:
    """One field of a message, as bytes."""
    encoded = bytearray([field << 3])
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def test_a_refusal_is_a_code_and_a_text(shared_server: Server) -> None:
    """PY-02: read without a client library, the text percent-encoded where it must be."""
    code, text = raw_h2.call(shared_server.endpoint, "/etcdserverpb.KV/Range", b"", [])
    assert (code, text) == (Code.INVALID_ARGUMENT.value[0], "etcdserver: key is not provided")


def test_options_of_the_reference_server() -> None:
    """PY-01, G-40, G-41, LIM-03, LIM-04: grpcio's own defaults would send an apiserver away."""
    options = dict(server_options(Limits()))
    assert options["grpc.max_receive_message_length"] == 2 << 20
    assert options["grpc.max_send_message_length"] == -1
    assert options["grpc.http2.min_recv_ping_interval_without_data_ms"] == 5000
    assert options["grpc.http2.max_ping_strikes"] == 2
    assert (options["grpc.keepalive_time_ms"], options["grpc.keepalive_timeout_ms"]) == (7_200_000, 20_000)
    assert options["grpc.so_reuseport"] == 0
    for off in (Limits(keepalive_interval_s=0.0), Limits(keepalive_timeout_s=0.0)):
        assert dict(server_options(off))["grpc.keepalive_time_ms"] == 2**31 - 1


def test_kubeadms_probes(start_server: StartServer) -> None:
    """F-81, H-08: on an address of their own, older and newer ones."""
    address = f"127.0.0.1:{free_port()}"
    server = start_server(f"--listen-metrics-urls=http://{address}")
    probes = ["/health?exclude=NOSPACE&serializable=true", "/health?serializable=false"]
    if server.program.kind != "etcd":  # since 3.5.11
        probes += ["/livez", "/readyz"]
    for path in probes:
        assert _get(address, path)[0] == 200, path


def test_the_peer_port_has_its_own_pages(start_server: StartServer, connected: Connected) -> None:
    """H-11, H-70, H-71: the members, as those who join read them."""
    server = start_server()
    (member,) = connected(server).members().members
    peer = server.peer_url.removeprefix("http://")
    status, body = _get(peer, "/members")
    (told,) = json.loads(body)
    assert (status, told["id"], told["name"]) == (200, member.ID, member.name)
    assert (told["peerURLs"], told["clientURLs"]) == (list(member.peerURLs), list(member.clientURLs))
    assert "etcdserver" in json.loads(_get(peer, "/version")[1])
    assert _get(peer, "/health")[0] == 404
