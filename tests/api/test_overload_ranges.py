"""Large ranges and the budget of bytes in flight: who waits, what is forgotten meanwhile, and that small ones pass."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw

from raftkv.api.kv import KV
from raftkv.api.range_stream import RangeStream
from raftkv.apply import Kind, read_only_txn
from raftkv.mvcc import pages, scan
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server import list_budget
from raftkv.server.list_budget import ListBudget

VALUE = bytes(10_000)
KEYS = [b"k%02d" % number for number in range(20)]
TOO_MANY = (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


class KeepingCall(FakeCall):
    """What it is sent stays in flight until the test lets it go."""

    receiver: Any = None
    finished = False

    def __init__(self, room: int | None = None) -> None:
        super().__init__(room)
        self.keeps_counted = True

    def finish(self) -> None:
        self.finished = True
        self.receiver.on_closed()

    def let_go(self) -> None:
        lefts, self.lefts = self.lefts, []
        for left in lefts:
            left(1 << 30)


@pytest.fixture
def node(fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    for module in (scan, pages):
        monkeypatch.setattr(module, "SLICE_KEYS", 8)
    fake_node.put(*KEYS, value=VALUE)
    fake_node.put(b"small", value=b"v")
    return fake_node


@pytest.fixture
def kv(node: FakeNode) -> KV:
    return KV(node.context())


def ask(kv: KV, **fields: Any) -> KeepingCall:
    call = KeepingCall()
    request: Any = {"key": b"k", "range_end": b"l"} | fields
    kv.range(call, raw(rpc_pb2.RangeRequest(**request)))  # type: ignore[arg-type]
    return call


def answer(call: FakeCall) -> rpc_pb2.RangeResponse:
    [reply] = call.replies
    return rpc_pb2.RangeResponse.FromString(reply)


def test_large_ranges_take_turns_in_the_order_in_which_they_came(node: FakeNode, kv: KV) -> None:
    node.list_budget = ListBudget(250_000)
    first, second, third = ask(kv), ask(kv), ask(kv)
    node.run_slices()
    assert [kv.key for kv in answer(first).kvs] == KEYS
    assert (second.replies, third.replies, node.list_budget.waiting) == ([], [], 2)
    assert node.backend.pin_count == 0, "who waits holds no snapshot"
    first.let_go()
    node.run_slices()
    assert (len(second.replies), third.replies) == (1, [])
    second.let_go()
    node.run_slices()
    third.let_go()
    assert answer(third) == answer(first)
    assert (node.list_budget.in_flight_bytes, node.list_budget.waiting) == (0, 0)


def test_a_range_that_waited_is_read_when_its_turn_comes(node: FakeNode, kv: KV) -> None:
    """G-13: header and keys are of the same revision, the later one."""
    node.list_budget = ListBudget(250_000)
    first, second = ask(kv), ask(kv)
    node.run_slices()
    node.put(b"k99", value=b"later")
    first.let_go()
    node.run_slices()
    assert answer(second).header.revision == answer(first).header.revision + 1
    assert answer(second).kvs[-1].key == b"k99"
    assert answer(second).count == 21


def test_what_waited_and_was_deleted_meanwhile_takes_nothing(node: FakeNode, kv: KV) -> None:
    node.list_budget = ListBudget(250_000)
    first, second = ask(kv), ask(kv)
    node.run_slices()
    for key in KEYS:
        node.apply((Kind.DELETE_RANGE, raw(rpc_pb2.DeleteRangeRequest(key=key))))
    first.let_go()
    node.run_slices()
    assert (len(answer(second).kvs), node.list_budget.waiting) == (0, 0)
    assert node.list_budget.in_flight_bytes < 100, "not what was expected"


@pytest.mark.parametrize(
    "fields",
    [
        {"key": b"small", "range_end": b""},
        {"key": b"small", "range_end": b"t"},
        {"limit": 3},
        {"count_only": True},
        {"keys_only": True, "limit": 5},
    ],
)
def test_small_answers_never_wait(node: FakeNode, kv: KV, fields: dict[str, Any]) -> None:
    node.list_budget = ListBudget(1)
    ask(kv)
    ask(kv)
    node.run_slices()
    assert node.list_budget.waiting == 1
    call = ask(kv, **fields)
    node.run_slices()
    assert len(call.replies) == 1
    assert node.list_budget.waiting == 1


def test_one_larger_than_the_whole_budget_is_served_alone(node: FakeNode, kv: KV) -> None:
    """LIM-04: no answer is refused for its size."""
    node.list_budget = ListBudget(100_000)
    first = ask(kv)
    node.run_slices()
    assert len(answer(first).kvs) == 20
    assert node.list_budget.in_flight_bytes > 200_000


@pytest.mark.parametrize("order", [rpc_pb2.RangeRequest.DESCEND, rpc_pb2.RangeRequest.ASCEND])
def test_an_answer_that_must_be_sorted_first_is_put_together_in_slices(
    node: FakeNode, kv: KV, order: rpc_pb2.RangeRequest.SortOrder
) -> None:
    call = ask(kv, sort_order=order, sort_target=rpc_pb2.RangeRequest.MOD, limit=18)
    assert call.replies == []
    node.run_slices()
    expected = sorted(KEYS, reverse=order == rpc_pb2.RangeRequest.DESCEND)[:18]
    assert [kv.key for kv in answer(call).kvs] == expected
    assert (answer(call).more, answer(call).count) == (True, 20)


def test_a_full_line_is_refused(node: FakeNode, kv: KV, monkeypatch: pytest.MonkeyPatch) -> None:
    """G-55's text and code: clients wait and try again."""
    monkeypatch.setattr(list_budget, "MAX_WAITING", 1)
    node.list_budget = ListBudget(250_000)
    calls = [ask(kv) for _ in range(3)]
    assert [call.failure for call in calls] == [None, None, TOO_MANY]
    assert node.list_budget.refused == 1
    stream = stream_of(node)
    assert stream.failure == TOO_MANY


def test_a_range_that_was_given_up_in_the_line_is_not_read(node: FakeNode, kv: KV) -> None:
    node.list_budget = ListBudget(250_000)
    first, second, third = ask(kv), ask(kv), ask(kv)
    node.run_slices()
    second.cancel()
    assert node.list_budget.waiting == 1
    first.let_go()
    node.run_slices()
    assert (second.replies, len(third.replies)) == ([], 1)


def test_a_range_that_is_given_up_while_it_is_read_gives_back_everything(node: FakeNode, kv: KV) -> None:
    """RNG-20: by its deadline, or because the client went."""
    call = ask(kv)
    node.tasks[0].step()
    assert node.backend.pin_count == 1
    assert node.list_budget.in_flight_bytes > 0
    call.cancel()
    assert (node.backend.pin_count, node.list_budget.in_flight_bytes) == (0, 0)
    node.run_slices()
    assert call.replies == []


def test_a_range_that_finds_no_room_to_grow_pauses_and_lets_go_when_given_up(node: FakeNode, kv: KV) -> None:
    """Its first keys were small, so it was let in; then came large ones."""
    node.put(*(b"g%02d" % number for number in range(8)), value=bytes(9_000))
    node.put(*(b"h%02d" % number for number in range(30)), value=bytes(40_000))
    node.list_budget = ListBudget(900_000)
    first = ask(kv)
    node.run_slices()
    second = ask(kv, key=b"g", range_end=b"i")
    node.run_slices()
    assert (len(first.replies), second.replies) == (1, [])
    assert (node.list_budget.waiting, node.backend.pin_count) == (1, 1)
    third = ask(kv, key=b"g", range_end=b"i")
    second.cancel()
    assert (node.backend.pin_count, node.list_budget.waiting) == (0, 0)
    node.run_slices()
    assert third.replies == [], "it has come as far as the second one"
    first.let_go()
    node.run_slices()
    assert len(answer(third).kvs) == 38


def ask_txn(kv: KV, *ranges: rpc_pb2.RangeRequest) -> KeepingCall:
    call = KeepingCall()
    reads = [rpc_pb2.RequestOp(request_range=each) for each in ranges]
    kv.txn(call, raw(rpc_pb2.TxnRequest(success=reads)))  # type: ignore[arg-type]
    return call


def test_a_transaction_of_ranges_waits_like_a_range(node: FakeNode, kv: KV) -> None:
    """TXN-60, G-13: and is then read as of the time when its turn comes."""
    node.list_budget = ListBudget(250_000)
    everything = rpc_pb2.RangeRequest(key=b"k", range_end=b"l")
    first, second = ask(kv), ask_txn(kv, rpc_pb2.RangeRequest(key=b"small"), everything, everything)
    node.run_slices()
    assert (len(first.replies), second.replies, node.list_budget.waiting) == (1, [], 1)
    assert node.backend.pin_count == 0
    node.put(b"k99", value=b"later")
    first.let_go()
    node.run_slices()
    [reply] = second.replies
    response = rpc_pb2.TxnResponse.FromString(reply)
    assert [len(each.response_range.kvs) for each in response.responses] == [1, 21, 21]
    revisions = {each.response_range.header.revision for each in response.responses}
    assert revisions == {response.header.revision} == {answer(first).header.revision + 1}
    assert node.list_budget.in_flight_bytes == len(reply) > 400_000
    second.let_go()
    assert (node.list_budget.in_flight_bytes, node.backend.pin_count) == (0, 0)


def test_a_small_transaction_of_ranges_never_waits(node: FakeNode, kv: KV, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if one slice does not read all."""
    monkeypatch.setattr(read_only_txn, "MAX_WALKS", 1)
    node.list_budget = ListBudget(1)
    ask(kv)
    ask(kv)
    node.run_slices()
    small = rpc_pb2.RangeRequest(key=b"small", range_end=b"t")
    call = ask_txn(kv, *[small] * 4)
    assert call.replies == []
    node.run_slices()
    assert len(call.replies) == 1
    assert node.list_budget.waiting == 1


def test_a_long_transaction_that_nobody_waits_for_lets_its_snapshot_go(node: FakeNode, kv: KV) -> None:
    call = ask_txn(kv, *[rpc_pb2.RangeRequest(key=b"k", range_end=b"l")] * 3)
    assert node.backend.pin_count == 1
    call.cancelled = True
    node.run_slices()
    assert (call.replies, node.backend.pin_count, node.list_budget.in_flight_bytes) == ([], 0, 0)


def test_what_a_write_answers_counts_too(node: FakeNode, kv: KV) -> None:
    call = KeepingCall()
    kv.delete_range(call, raw(rpc_pb2.DeleteRangeRequest(key=b"k", range_end=b"l", prev_kv=True)))  # type: ignore[arg-type]
    [reply] = call.replies
    assert node.list_budget.in_flight_bytes == len(reply) > 200_000
    call.let_go()
    assert node.list_budget.in_flight_bytes == 0


def test_the_client_of_an_answer_is_what_is_given_up(node: FakeNode, kv: KV) -> None:
    node.list_budget = ListBudget(250_000)
    first, second = ask(kv), ask(kv)
    node.run_slices()
    for now_s in range(0, 30, 2):
        node.list_budget.on_tick(float(now_s))
    assert (first.cuts > 0, second.cuts) == (True, 0)


# --- RangeStream ------------------------------------------------------------------------------------------------------


def stream_of(node: FakeNode, room: int | None = None, **fields: Any) -> KeepingCall:
    call = KeepingCall(room)
    call.receiver = RangeStream(node.context(), call)  # type: ignore[arg-type]
    call.on_closed = call.receiver.on_closed
    request: Any = {"key": b"k", "range_end": b"l"} | fields
    call.receiver.on_message(raw(rpc_pb2.RangeRequest(**request)))
    return call


def keys_of(call: KeepingCall) -> list[bytes]:
    pieces = [rpc_pb2.RangeStreamResponse.FromString(each).range_response for each in call.sent]
    return [kv.key for piece in pieces for kv in piece.kvs]


def test_each_piece_of_a_stream_has_a_share_of_its_own(node: FakeNode) -> None:
    node.list_budget = ListBudget(100_000)
    call = stream_of(node)
    node.run_slices()
    assert (keys_of(call), node.list_budget.waiting) == (KEYS[:8], 1)
    call.let_go()
    node.run_slices()
    assert keys_of(call) == KEYS[:16]
    call.let_go()
    node.run_slices()
    assert (keys_of(call), call.finished) == (KEYS, True)
    call.let_go()
    assert (node.list_budget.in_flight_bytes, node.list_budget.waiting) == (0, 0)


def test_a_stream_that_finds_no_room_begins_anew_when_there_is(node: FakeNode, kv: KV) -> None:
    node.list_budget = ListBudget(250_000)
    first = ask(kv)
    node.run_slices()
    call = stream_of(node)
    node.run_slices()
    assert (call.sent, node.list_budget.waiting) == ([], 1)
    node.put(b"k00", value=b"later")
    first.let_go()
    for _ in range(4):
        node.run_slices()
        call.let_go()
    assert keys_of(call) == KEYS
    last = rpc_pb2.RangeStreamResponse.FromString(call.sent[-1]).range_response
    assert last.header.revision == answer(first).header.revision + 1
    assert node.list_budget.in_flight_bytes == 0


def test_a_stream_that_is_given_up_gives_back_its_place(node: FakeNode) -> None:
    node.list_budget = ListBudget(100_000)
    call = stream_of(node)
    node.run_slices()
    assert node.list_budget.waiting == 1
    call.cancel()
    assert node.list_budget.waiting == 0
    call.let_go()
    assert node.list_budget.in_flight_bytes == 0


def test_a_small_stream_does_not_wait(node: FakeNode, kv: KV) -> None:
    node.list_budget = ListBudget(1)
    ask(kv)
    ask(kv)
    node.run_slices()
    call = stream_of(node, limit=2)
    node.run_slices()
    assert (keys_of(call), call.finished) == (KEYS[:2], True)
