"""A member whose clients list far more at once than its budget: memory is bounded, puts go on, every list ends right.

The full load is `python -m bench overload`; this is a small one. Times only decide where something stands still.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.member_client import MemberClient
from helpers.processes import RAFTKV, Server
from helpers.waiting import wait_until

from bench.listing import ListingResult, list_at_once
from bench.procfs import memory
from raftkv.pb import rpc_pb2

MIB = 1 << 20
BUDGET = 48 * MIB
CLIENTS = 20
LIST_BYTES = 20_000_000
VALUE = bytes(10_000)
BESIDE_BYTES = 64 * MIB
"""What a member may take beside the budget: see docs/limits.md, and what the allocator keeps."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(RAFTKV, tmp_path, [f"--max-list-bytes-in-flight={BUDGET}"])
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[MemberClient]:
    client = MemberClient(server.endpoint)
    for first in range(0, LIST_BYTES // len(VALUE), 100):
        keys = (b"list/%06d" % number for number in range(first, first + 100))
        puts = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=VALUE)) for key in keys]
        client.txn(rpc_pb2.TxnRequest(success=puts))
    yield client
    client.close()


LIST = rpc_pb2.RangeRequest(key=b"list/", range_end=b"list0").SerializeToString()


class Lists(threading.Thread):
    """All clients at once."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.host, _, port = server.endpoint.rpartition(":")
        self.port = int(port)
        self.result: ListingResult | None = None

    def run(self) -> None:
        self.result = asyncio.run(list_at_once(self.host, self.port, LIST, CLIENTS, 60.0))


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.endpoint}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_many_large_lists_at_once(server: Server, client: MemberClient) -> None:
    idle = memory(server.pid).anon_bytes
    lists = Lists(server)
    lists.start()
    peak, puts, slowest_s = 0, 0, 0.0
    while lists.is_alive():
        began = time.monotonic()
        client.put(b"put", b"%d" % puts, timeout_s=20)
        slowest_s = max(slowest_s, time.monotonic() - began)
        puts += 1
        peak = max(peak, memory(server.pid).anon_bytes)
    assert lists.result is not None
    assert lists.result.ends == {"OK": CLIENTS}
    assert lists.result.received_bytes > CLIENTS * LIST_BYTES
    assert peak - idle < BUDGET + BESIDE_BYTES, f"{idle >> 20} MiB before, {peak >> 20} MiB during the lists"
    assert puts > 10, f"{puts} puts, the slowest took {slowest_s:.2f} s"
    assert client.value(b"put") == b"%d" % (puts - 1)
    wait_until("nothing is in flight", lambda: metric(server, "raftkv_list_bytes_in_flight") == 0)
    assert metric(server, "raftkv_lists_waiting") == 0


def test_a_large_answer_as_json(server: Server, client: MemberClient) -> None:
    """Written a part at a time, it is the same answer, and takes no more memory than that."""
    idle = memory(server.pid).anon_bytes
    asked = json.dumps({"key": b64encode(b"list/").decode(), "range_end": b64encode(b"list0").decode()}).encode()
    with urllib.request.urlopen(f"http://{server.endpoint}/v3/kv/range", asked, timeout=60) as answer:
        length = answer.headers["content-length"]
        time.sleep(1)  # it waits for its client
        peak = memory(server.pid).anon_bytes
        got = json.load(answer)
    assert length is None
    assert peak - idle < LIST_BYTES + BESIDE_BYTES
    count = LIST_BYTES // len(VALUE)
    assert (got["count"], len(got["kvs"])) == (str(count), count)
    assert {each["value"] for each in got["kvs"]} == {b64encode(VALUE).decode()}
    keys = [b64decode(each["key"]) for each in got["kvs"]]
    assert keys == [b"list/%06d" % number for number in range(count)]
    assert int(got["header"]["revision"]) == client.revision()
    wait_until("nothing is in flight", lambda: metric(server, "raftkv_list_bytes_in_flight") == 0)


def test_who_does_not_read_is_given_up_and_the_others_are_served(server: Server, client: MemberClient) -> None:
    """Clients that ask for more than the budget and read nothing, and go on waiting with their connections open."""
    host, _, port = server.endpoint.rpartition(":")
    stuck = [_ask_and_do_not_read(host, int(port)) for _ in range(4)]
    try:
        wait_until("they hold the budget", lambda: metric(server, "raftkv_lists_waiting") == 2)
        client.put(b"put", b"meanwhile")
        assert client.range(b"put").count == 1
        lists = Lists(server)
        lists.start()
        lists.join(60)
        assert lists.result is not None
        assert lists.result.ends == {"OK": CLIENTS}
        assert metric(server, "raftkv_lists_given_up_total") >= 1
    finally:
        for sock in stuck:
            sock.close()
    wait_until("nothing is in flight", lambda: metric(server, "raftkv_list_bytes_in_flight") == 0)


def _ask_and_do_not_read(host: str, port: int) -> socket.socket:
    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload

    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/etcdserverpb.KV/Range",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in fields.items())
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    message = struct.pack(">BI", 0, len(LIST)) + LIST
    sock.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
        + frame(8, 0, 0, struct.pack(">I", 2**30))
        + frame(4, 1, 0, b"")
        + frame(1, 4, 1, block)
        + frame(0, 1, 1, message)
    )
    return sock
