"""KV.RangeStream of etcd 3.7 (contract sections 1.1 and 16, K8-25): Range in pieces."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract_support import COMPACTED, EMPTY_KEY, FUTURE, TIMEOUT_S, Client, Code, prefix_end, refused
from helpers.processes import Server

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.beyond_etcd("RangeStream is new in 3.7")


def pieces(client: Client, key: bytes, range_end: bytes = b"", **fields: Any) -> list[rpc_pb2.RangeResponse]:
    request = rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields)
    return [each.range_response for each in client.calls.KV.RangeStream(request, timeout=TIMEOUT_S)]


def merged(parts: list[rpc_pb2.RangeResponse]) -> rpc_pb2.RangeResponse:
    whole = rpc_pb2.RangeResponse()
    for part in parts:
        whole.MergeFrom(part)
    return whole


@pytest.fixture(scope="module")
def filled(shared_client: Client) -> Iterator[tuple[bytes, bytes]]:
    """An interval of 60 keys, of which every tenth was put twice and every seventh deleted; 20 MB, in many pieces."""
    start = b"range-stream/"
    for number in range(60):
        shared_client.put(start + b"%03d" % number, bytes(350_000))
    for number in range(0, 60, 10):
        shared_client.put(start + b"%03d" % number, b"again")
    for number in range(0, 60, 7):
        shared_client.delete(start + b"%03d" % number)
    yield start, prefix_end(start)
    shared_client.delete(start, prefix_end(start))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"limit": 1},
        {"limit": 17},
        {"limit": 51},
        {"limit": 1000},
        {"limit": -1},
        {"keys_only": True},
        {"keys_only": True, "limit": 5},
        {"count_only": True},
        {"count_only": True, "limit": 5},
        {"serializable": True},
        {"sort_order": rpc_pb2.RangeRequest.ASCEND},
    ],
    ids=str,
)
@pytest.mark.parametrize("back", [0, 5, 12], ids=["now", "5 revisions ago", "12 revisions ago"])
def test_merged_it_is_the_range(client: Client, filled: tuple[bytes, bytes], fields: dict[str, Any], back: int) -> None:
    """Header, more and count come with the last piece only; every other has keys."""
    revision = client.revision() - back if back else 0
    parts = pieces(client, *filled, revision=revision, **fields)
    assert merged(parts) == client.range(*filled, revision=revision, **fields)
    *first, last = parts
    assert last.HasField("header")
    for part in first:
        assert part.kvs
        assert not part.HasField("header")
        assert (part.more, part.count) == (False, 0)


def test_it_comes_in_pieces(client: Client, filled: tuple[bytes, bytes]) -> None:
    """About as large as a request may be."""
    parts = pieces(client, *filled)
    assert len(parts) >= 8
    assert max(part.ByteSize() for part in parts) < 4 << 20


@pytest.mark.parametrize(
    "key", [b"range-stream/001", b"range-stream/000", b"range-stream"], ids=["there", "gone", "never"]
)
def test_a_single_key(client: Client, filled: tuple[bytes, bytes], key: bytes) -> None:
    assert merged(pieces(client, key)) == client.range(key)


def test_an_empty_interval(client: Client) -> None:
    """RNG-18."""
    (only,) = pieces(client, b"b", b"a")
    assert (only.header.revision, only.count, only.more) == (client.revision(), 0, False)


def test_it_reads_one_revision(client: Client, prefix: bytes) -> None:
    """G-13: what is written while a client reads is not seen, and the header tells the revision of the first piece."""
    for number in range(30):
        client.put(prefix + b"%03d" % number, bytes(1 << 20))
    interval = prefix, prefix_end(prefix)
    wanted = client.range(*interval)
    stream = client.calls.KV.RangeStream(rpc_pb2.RangeRequest(key=prefix, range_end=interval[1]), timeout=TIMEOUT_S)
    parts = [next(stream).range_response]
    for number in range(1, 30):
        client.put(prefix + b"%03d" % number, b"later")
    client.put(prefix + b"0295", b"new")
    parts += [each.range_response for each in stream]
    assert merged(parts) == wanted
    client.delete(*interval)


def test_a_compaction_may_overtake_it(
    start_server: Callable[..., Server], connected: Callable[[Server], Client]
) -> None:
    """CMP-01: as it may overtake a client that pages."""
    client = connected(start_server())
    for number in range(40):
        client.put(b"%03d" % number, bytes(1 << 20))
    stream = client.calls.KV.RangeStream(rpc_pb2.RangeRequest(key=b"0", range_end=b"1"), timeout=TIMEOUT_S)
    next(stream)
    client.compact(client.put(b"later").header.revision)
    with refused(COMPACTED):
        list(stream)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"key": b""}, EMPTY_KEY),
        ({"revision": 1 << 40}, FUTURE),
        ({"revision": 1 << 40, "count_only": True}, FUTURE),
        ({"sort_order": 3}, (Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")),
        ({"sort_target": 5}, (Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")),
        ({"sort_order": 2}, (Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders")),
        (
            {"sort_order": 1, "sort_target": 1},
            (Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders"),
        ),
        ({"min_mod_revision": 2}, (Code.UNIMPLEMENTED, "RangeStream does not support revision filters")),
        ({"max_create_revision": 2}, (Code.UNIMPLEMENTED, "RangeStream does not support revision filters")),
    ],
    ids=str,
)
def test_what_is_refused(client: Client, fields: dict[str, Any], status: tuple[Any, str]) -> None:
    """RNG-01, RNG-04, KV-20. UNIMPLEMENTED sends clients back to Range (K8-25)."""
    asked = {"key": b"a", "range_end": b"z"} | fields
    with refused(status):
        pieces(client, **asked)


def test_a_client_that_goes_away(client: Client, filled: tuple[bytes, bytes]) -> None:
    """RNG-20, PY-04: nothing stays behind that would be in the way of a defragmentation."""
    streams = [
        client.calls.KV.RangeStream(rpc_pb2.RangeRequest(key=filled[0], range_end=filled[1]), timeout=TIMEOUT_S)
        for _ in range(10)
    ]
    for stream in streams:
        next(stream)
    client.calls.Maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=TIMEOUT_S)
    # One who still reads goes on in the store that has been swapped in.
    assert merged([each.range_response for each in streams[0]]).count == client.range(*filled, count_only=True).count
    for stream in streams:
        stream.cancel()
    assert client.range(*filled, count_only=True).count
