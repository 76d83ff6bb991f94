"""What is counted below /registry/: requests and bytes of each resource, and never more than a few resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.effort import calls_during
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, Server
from scrape_support import scrape

from raftkv.api.registry_counts import MAX_PREFIX_BYTES, MAX_PREFIXES, METHODS, MethodCounts, new_registry_counts
from raftkv.pb import rpc_pb2

POD = b"/registry/pods/default/web-1"
REQUESTS, RECEIVED, SENT = (f"raftkv_registry_{what}_total" for what in ("requests", "received_bytes", "sent_bytes"))


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        (POD, b"/registry/pods"),
        (b"/registry/pods/", b"/registry/pods"),
        (b"/registry/health", b"/registry/health"),
        (b"/registry/", b"/registry/"),
        (b"/registry/example.com/widgets/a", b"/registry/example.com"),
        (b"/registry/" + b"x" * MAX_PREFIX_BYTES, b"other"),
        ("/registry/m\u00fcll/a".encode(), b"other"),
    ],
)
def test_the_prefix_of_a_key(key: bytes, prefix: bytes) -> None:
    counts = MethodCounts()
    counts.note(key, 7)
    [(found, count)] = counts.by_prefix.items()
    assert (found, count.requests, count.received_bytes) == (prefix, 1, 7)


def test_prefixes_that_are_made_up_fill_no_memory() -> None:
    counts = MethodCounts()
    for number in range(2 * MAX_PREFIXES):
        counts.note(b"/registry/%d/a" % number, 1)
    assert len(counts.by_prefix) == MAX_PREFIXES + 1
    assert counts.by_prefix[b"other"].requests == MAX_PREFIXES
    assert set(new_registry_counts()) == set(METHODS)


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(RAFTKV, tmp_path_factory.mktemp("registry"))
    try:
        yield server.start()
    finally:
        server.stop()


def test_every_method_counts_what_it_takes_and_reads_what_they_send(member: Server) -> None:
    put = rpc_pb2.PutRequest(key=POD, value=b"v" * 1000)
    created = rpc_pb2.Compare(key=POD, target=rpc_pb2.Compare.MOD, mod_revision=0)
    txn = rpc_pb2.TxnRequest(compare=[created], success=[rpc_pb2.RequestOp(request_put=put)])
    get, listed = (
        rpc_pb2.RangeRequest(key=POD),
        rpc_pb2.RangeRequest(key=b"/registry/pods/", range_end=b"/registry/pods0"),
    )
    delete = rpc_pb2.DeleteRangeRequest(key=POD)
    watch = rpc_pb2.WatchCreateRequest(key=b"/registry/pods/", range_end=b"/registry/pods0")
    sent: dict[str, int] = {}
    with connect(member.endpoint) as channel:
        calls = Calls(channel)
        calls.KV.Txn(txn, timeout=20)
        calls.KV.Put(put, timeout=20)
        calls.KV.Put(rpc_pb2.PutRequest(key=b"elsewhere", value=b"v"), timeout=20)
        sent["Range"] = sum(calls.KV.Range(each, timeout=20).ByteSize() for each in (get, listed))
        sent["RangeStream"] = sum(each.ByteSize() for each in calls.KV.RangeStream(listed, timeout=20))
        stream = calls.Watch.Watch(iter([rpc_pb2.WatchRequest(create_request=watch)]), timeout=20)
        assert next(stream).created
        stream.cancel()
        calls.KV.DeleteRange(delete, timeout=20)
    page = scrape(member.client_port)
    asked: dict[str, tuple[Any, ...]] = {
        "Txn": (txn,),
        "Put": (put,),
        "Range": (get, listed),
        "RangeStream": (listed,),
        "Watch": (watch,),
        "DeleteRange": (delete,),
    }
    assert set(asked) == set(METHODS)
    for method, requests in asked.items():
        labels = {"method": method, "prefix": "/registry/pods"}
        assert page.value(REQUESTS, **labels) == len(requests), method
        assert page.value(RECEIVED, **labels) == sum(each.ByteSize() for each in requests), method
    assert page.value(REQUESTS) == 7, "and nothing of what lies elsewhere"
    for method, size in sent.items():
        assert page.value(SENT, method=method) == size > 1000


def test_counting_costs_next_to_nothing() -> None:
    """Three calls of functions and a few additions, where a put takes 21 µs and more."""
    counts = MethodCounts()
    counts.note(POD, 300)
    assert calls_during(lambda: counts.note(POD, 300)) <= 5, "the lambda and the end of the counting are two"
