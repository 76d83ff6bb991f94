"""The KV service: what is refused before it is proposed, and snapshots that are let go of in every case."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from api_support import MEMBER_ID, TERM, FakeCall, FakeNode, raw

from raftkv.api.context import REQUEST_HEADER_BYTES
from raftkv.api.kv import KV
from raftkv.apply import Kind
from raftkv.backend.backend import MAX_PINS
from raftkv.mvcc import scan as scan_module
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import RequestTimedOut

EMPTY_KEY = (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
NO_SPACE = (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
ALL = rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00")


@pytest.fixture
def kv(fake_node: FakeNode) -> KV:
    return KV(fake_node.context())


def ask(method: Any, request: Any) -> Any:
    """The call, answered or not."""
    call: Any = FakeCall()
    method(call, request if isinstance(request, bytes) else raw(request))
    return call


# --- writes -----------------------------------------------------------------------------------------------------------


def test_a_put_is_proposed_as_the_bytes_that_came(fake_node: FakeNode, kv: KV) -> None:
    """Unknown fields and all; the reply has the revision of this put (G-14)."""
    message = raw(rpc_pb2.PutRequest(key=b"k", value=b"v")) + b"\xa0\x06\x01"
    call = ask(kv.put, message)
    assert fake_node.proposed == [(Kind.PUT, message)]
    header = rpc_pb2.PutResponse.FromString(call.replies[0]).header
    assert (header.member_id, header.revision, header.raft_term) == (MEMBER_ID, 2, TERM)


@pytest.mark.parametrize("method", ["put", "delete_range", "txn", "compact", "range"])
def test_what_is_no_request_is_refused(fake_node: FakeNode, kv: KV, method: str) -> None:
    call = ask(getattr(kv, method), b"\xff")
    assert call.failure[0] is Code.INTERNAL
    assert call.failure[1].startswith("grpc: error unmarshalling request")
    assert fake_node.proposed == []


@pytest.mark.parametrize(
    ("method", "request_"),
    [("put", rpc_pb2.PutRequest()), ("delete_range", rpc_pb2.DeleteRangeRequest()), ("range", rpc_pb2.RangeRequest())],
)
def test_a_key_is_needed(fake_node: FakeNode, kv: KV, method: str, request_: Any) -> None:
    """KV-20."""
    assert ask(getattr(kv, method), request_).failure == EMPTY_KEY
    assert fake_node.proposed == []


def test_the_quota_is_asked_before_anything_else_and_raises_the_alarm(fake_node: FakeNode, kv: KV) -> None:
    """AL-21, AL-23: even before the missing key is seen."""
    costs: list[int] = []

    def refuse_any_cost(cost: int) -> bool:
        costs.append(cost)
        return not cost

    fake_node.quota = SimpleNamespace(allows=refuse_any_cost)
    put = rpc_pb2.PutRequest(value=b"12345")
    txn = rpc_pb2.TxnRequest(failure=[rpc_pb2.RequestOp(request_put=put)] * 2)
    assert ask(kv.put, put).failure == NO_SPACE
    assert ask(kv.txn, txn).failure == NO_SPACE
    assert (costs, fake_node.no_space_alarms, fake_node.proposed) == ([261, 522], 2, [])
    assert ask(kv.delete_range, rpc_pb2.DeleteRangeRequest(key=b"k")).failure is None


def test_a_delete_that_the_disk_has_no_room_for_is_refused_before_it_is_in_the_log(fake_node: FakeNode, kv: KV) -> None:
    fake_node.has_room_to_delete = False
    assert ask(kv.delete_range, rpc_pb2.DeleteRangeRequest(key=b"k", range_end=b"z")).failure == NO_SPACE
    assert (fake_node.proposed, fake_node.no_space_alarms) == ([], 1)


def test_a_request_may_be_as_large_as_the_limit(fake_node: FakeNode, kv: KV) -> None:
    """LIM-01: with what etcd's log adds to it."""
    room = fake_node.config.max_request_bytes - REQUEST_HEADER_BYTES
    overhead = len(raw(rpc_pb2.PutRequest(key=b"k", value=b"v" * 500))) - 500
    fitting = rpc_pb2.PutRequest(key=b"k", value=b"v" * (room - overhead))
    assert ask(kv.put, fitting).replies
    fitting.value += b"v"
    assert ask(kv.put, fitting).failure == (Code.INVALID_ARGUMENT, "etcdserver: request is too large")


def test_a_refusal_of_applying_is_the_answer(kv: KV) -> None:
    call = ask(kv.put, rpc_pb2.PutRequest(key=b"k", lease=9))
    assert (call.replies, call.failure) == ([], (Code.NOT_FOUND, "etcdserver: requested lease not found"))


def test_a_physical_compaction_is_answered_when_the_space_is_free(fake_node: FakeNode, kv: KV) -> None:
    """CMP-06; a refused one at once."""
    fake_node.put(b"k", b"k")
    call = ask(kv.compact, rpc_pb2.CompactionRequest(revision=3, physical=True))
    assert call.replies == []
    (finished,) = fake_node.compaction_waiters
    finished()
    assert rpc_pb2.CompactionResponse.FromString(call.replies[0]).header.revision == 3
    refused = ask(kv.compact, rpc_pb2.CompactionRequest(revision=3, physical=True))
    assert refused.failure == (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
    assert ask(kv.compact, rpc_pb2.CompactionRequest(revision=99)).failure[0] is Code.OUT_OF_RANGE


# --- transactions -----------------------------------------------------------------------------------------------------


def test_a_transaction_that_only_reads_is_not_proposed(fake_node: FakeNode, kv: KV) -> None:
    """TXN-60, TXN-61: a serializable one needs no quorum either."""
    fake_node.put(b"k")
    ranges = {
        flag: rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k", serializable=flag)) for flag in (0, 1)
    }
    fake_node.read_error = RequestTimedOut()
    assert ask(kv.txn, rpc_pb2.TxnRequest(success=[ranges[0]])).failure[0] is Code.UNAVAILABLE
    assert ask(kv.txn, rpc_pb2.TxnRequest()).failure[0] is Code.UNAVAILABLE
    (reply,) = ask(kv.txn, rpc_pb2.TxnRequest(success=[ranges[1]])).replies
    response = rpc_pb2.TxnResponse.FromString(reply)
    assert (response.header.revision, response.responses[0].response_range.count) == (2, 1)
    assert fake_node.proposed == []


# --- ranges -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_slices(fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> int:
    """Ten keys, and a range that takes several slices; the number of keys."""
    monkeypatch.setattr(scan_module, "SLICE_KEYS", 2)
    fake_node.put(*(b"%d" % digit for digit in range(10)))
    return 10


def test_a_range_without_leader_or_quorum_is_refused(fake_node: FakeNode, kv: KV) -> None:
    fake_node.read_error = RequestTimedOut()
    assert ask(kv.range, ALL).failure == (Code.UNAVAILABLE, "etcdserver: request timed out")
    serializable = rpc_pb2.RangeRequest(key=b"k", serializable=True)
    assert ask(kv.range, serializable).failure is None


def test_a_long_range_answers_from_its_snapshot_and_lets_it_go(fake_node: FakeNode, kv: KV, small_slices: int) -> None:
    """G-13, RNG-20: what is written between two slices is not seen."""
    call = ask(kv.range, ALL)
    assert (call.replies, fake_node.backend.pin_count, len(fake_node.tasks)) == ([], 1, 1)
    fake_node.put(b"later")
    fake_node.apply((Kind.DELETE_RANGE, raw(rpc_pb2.DeleteRangeRequest(key=b"9"))))

    fake_node.run_slices()

    response = rpc_pb2.RangeResponse.FromString(call.replies[0])
    assert [item.key for item in response.kvs] == [b"%d" % digit for digit in range(small_slices)]
    assert (response.count, response.header.revision) == (small_slices, small_slices + 1)
    assert fake_node.backend.pin_count == 0
    assert fake_node.slow_requests.total == 0


def test_a_range_that_took_long_is_told(fake_node: FakeNode, kv: KV, small_slices: int) -> None:
    """G-59."""
    ask(kv.range, ALL)
    fake_node.clock_s += 0.4
    fake_node.run_slices()
    assert fake_node.slow_requests.total == 1


def test_a_long_range_that_nobody_waits_for_lets_its_snapshot_go(
    fake_node: FakeNode, kv: KV, small_slices: int
) -> None:
    call = ask(kv.range, ALL)
    call.cancelled = True
    fake_node.run_slices()
    assert (call.replies, fake_node.backend.pin_count) == ([], 0)


@pytest.mark.parametrize("revision", [1, 99])
def test_a_refused_range_holds_no_snapshot(fake_node: FakeNode, kv: KV, small_slices: int, revision: int) -> None:
    """RNG-04."""
    fake_node.apply((Kind.COMPACT, raw(rpc_pb2.CompactionRequest(revision=5))))
    past = rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision)
    assert ask(kv.range, past).failure[0] is Code.OUT_OF_RANGE
    assert (fake_node.backend.pin_count, fake_node.tasks) == (0, [])


def test_more_long_ranges_than_snapshots_are_refused_and_harm_nobody(
    fake_node: FakeNode, kv: KV, small_slices: int
) -> None:
    """The rest is served once snapshots are free."""
    pins = [fake_node.backend.pin() for _ in range(MAX_PINS)]
    call = ask(kv.range, ALL)
    assert call.failure[0] is Code.RESOURCE_EXHAUSTED
    assert call.failure[1].startswith("etcdserver: too many requests")
    for pin in pins:
        pin.close()
    call = ask(kv.range, ALL)
    fake_node.run_slices()
    assert rpc_pb2.RangeResponse.FromString(call.replies[0]).count == small_slices
