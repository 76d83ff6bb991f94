"""What a restart must not change (KV-10, CMP-08)."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from contract_support import ALL, COMPACTED, Client, put_op, refused
from helpers.processes import Server

from raftkv.pb import rpc_pb2

StartServer = Callable[..., Server]
Connected = Callable[[Server], Client]


def _restart(server: Server, kill: bool) -> None:
    if kill:
        server.kill9()
    else:
        server.terminate()
    server.start()


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("physical", [False, True], ids=["compaction", "physical compaction"])
def test_the_revision_survives_a_compacted_tombstone(
    start_server: StartServer, connected: Connected, physical: bool, kill: bool
) -> None:
    """KV-10, CMP-08: nothing of the newest revision is left in the store."""
    server = start_server()
    client = connected(server)
    client.put(b"k")
    now = client.delete(b"k").header.revision
    client.compact(now, physical)
    _restart(server, kill)
    client = connected(server)
    assert client.revision() == now
    with refused(COMPACTED):
        client.compact(now)
    with refused(COMPACTED):
        client.range(b"k", revision=now - 1)
    assert client.put(b"k").header.revision == now + 1
    _restart(server, kill)
    assert connected(server).revision() == now + 1


def test_streams_end_so_that_clients_come_back(start_server: StartServer, connected: Connected) -> None:
    """ER-03, W-34: a shutdown is UNAVAILABLE; any other code but INTERNAL would end a Go client's watch."""
    server = start_server()
    client = connected(server)
    lease = client.grant(60).ID
    with client.watch() as watch, client.keep_alive() as keep_alive:
        watch.create(b"k")
        keep_alive.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        assert keep_alive.next().TTL == 60
        assert server.terminate() == 0
        for stream in (watch, keep_alive):
            with pytest.raises(grpc.RpcError) as raised:
                stream.next()
            error: Any = raised.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_everything_is_as_before(start_server: StartServer, connected: Connected) -> None:
    """KV-10, RNG-05, MT-21, CL-02, G-10: contents, history, hash and names."""
    server = start_server()
    client = connected(server)
    for number in range(50):
        client.put(b"k%d" % (number % 7), b"%d" % number)
    client.txn(success=[put_op(b"t%d" % number) for number in range(20)])
    client.delete(b"k3", b"k5")
    client.put(b"x" * 2000, b"long")
    client.compact(20)

    def look(client: Client) -> list[object]:
        status, members = client.status(), client.members()
        answers: list[object] = [
            client.range(*ALL, revision=revision).kvs for revision in (0, 20, 30, client.revision())
        ]
        hashed = client.hash_kv()
        return [
            *answers,
            (hashed.hash, hashed.compact_revision),
            (status.header.member_id, status.header.cluster_id, list(members.members)),
        ]

    before, term = look(client), client.status().raftTerm
    _restart(server, kill=True)
    client = connected(server)
    assert look(client) == before
    assert client.status().raftTerm > term
    with refused(COMPACTED):
        client.range(b"k1", revision=19)
