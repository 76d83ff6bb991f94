"""RangeStream: pieces as they are read, at the client's pace, and nothing held for a client that waits or is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw
from guarded_support import DENIED, EMPTY, OLD, Guarded

from raftkv.api.range_stream import RangeStream
from raftkv.apply import Kind
from raftkv.backend.backend import MAX_PINS
from raftkv.mvcc import pages, scan
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import NoLeader

KEYS = [b"k%d" % digit for digit in range(9)]


class StreamCall(FakeCall):
    """A stream whose end its receiver hears of. `room`: messages that it takes until `drain`."""

    receiver: Any = None
    finished = False

    def finish(self) -> None:
        self.finished = True
        self.receiver.on_closed()

    def fail(self, code: Code, text: str) -> None:
        super().fail(code, text)
        self.receiver.on_closed()

    def drain(self, room: int | None = None) -> None:
        self.room = None if room is None else len(self.sent) + room
        self.receiver.on_writable()

    def leave(self) -> None:
        self.cancelled = True
        self.receiver.on_closed()

    def pieces(self) -> list[rpc_pb2.RangeResponse]:
        return [rpc_pb2.RangeStreamResponse.FromString(each).range_response for each in self.sent]

    def keys(self) -> list[bytes]:
        return [kv.key for each in self.pieces() for kv in each.kvs]


@pytest.fixture(autouse=True)
def small_slices(fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pages, "SLICE_KEYS", 2)
    monkeypatch.setattr(scan, "SLICE_KEYS", 2)
    fake_node.put(*KEYS)
    yield
    assert fake_node.backend.pin_count == 0


def ask(node: FakeNode, room: int | None = None, **fields: Any) -> Any:
    call = StreamCall(room)
    request: Any = {"key": b"k", "range_end": b"l"} | fields
    call.receiver = RangeStream(node.context(), call)  # type: ignore[arg-type]
    call.receiver.on_message(raw(rpc_pb2.RangeRequest(**request)))
    call.receiver.on_half_close()
    return call


def test_pieces_then_header_and_count(fake_node: FakeNode) -> None:
    """Section 16, G-13: written while it runs, what is new is not in it."""
    call = ask(fake_node)
    fake_node.put(b"k5", b"k99", value=b"later")
    fake_node.run_slices()
    *first, last = call.pieces()
    assert len(first) > 3
    assert all(each.kvs and not each.HasField("header") and not each.count for each in first)
    assert (last.header.revision, last.header.member_id, last.more, last.count) == (10, 7, False, 9)
    assert call.keys() == KEYS
    assert call.finished


def test_a_cut_one_counts_what_is_left(fake_node: FakeNode) -> None:
    """RNG-07, RNG-12: in slices on a snapshot, which is let go of."""
    call = ask(fake_node, limit=4)
    fake_node.put(b"k99")
    fake_node.run_slices()
    last = call.pieces()[-1]
    assert (call.keys(), last.more, last.count, last.header.revision) == (KEYS[:4], True, 9, 10)
    assert call.finished


@pytest.mark.parametrize("limit", [0, 9, 10, -1])
def test_one_that_is_not_cut(fake_node: FakeNode, limit: int) -> None:
    call = ask(fake_node, limit=limit)
    fake_node.run_slices()
    last = call.pieces()[-1]
    assert (call.keys(), last.more, last.count) == (KEYS, False, 9)


def test_only_the_count(fake_node: FakeNode) -> None:
    """RNG-08: one piece; the limit has no effect."""
    call = ask(fake_node, count_only=True, limit=3)
    fake_node.run_slices()
    (only,) = call.pieces()
    assert (len(only.kvs), only.more, only.count, only.header.revision) == (0, False, 9, 10)


def test_nothing_is_one_piece_too(fake_node: FakeNode) -> None:
    (only,) = ask(fake_node, key=b"x", range_end=b"z").pieces()
    assert (only.HasField("header"), only.count) == (True, 0)


def test_who_reads_slowly_is_not_sent_more_than_it_takes(fake_node: FakeNode) -> None:
    """And holds no snapshot meanwhile (PY-32)."""
    call = ask(fake_node, room=2)
    fake_node.run_slices()
    assert (len(call.sent), call.finished, fake_node.tasks) == (2, False, [])
    assert fake_node.backend.pin_count == 0
    fake_node.put(b"k0", b"k8", value=b"later")
    call.drain(room=1)
    fake_node.run_slices()
    assert len(call.sent) == 3
    call.drain()
    fake_node.run_slices()
    assert (call.keys(), call.finished) == (KEYS, True)
    assert {kv.value for each in call.pieces() for kv in each.kvs} == {b"v"}


def test_a_compaction_overtakes_who_reads_slowly(fake_node: FakeNode) -> None:
    call = ask(fake_node, room=1)
    fake_node.put(b"later")
    fake_node.apply((Kind.COMPACT, raw(rpc_pb2.CompactionRequest(revision=11))))
    call.drain()
    fake_node.run_slices()
    assert call.failure == (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
    assert not call.finished


def test_nobody_waits_for_it_any_more(fake_node: FakeNode) -> None:
    """PY-04: while it sends, and while it counts."""
    sending, counting = ask(fake_node), ask(fake_node, limit=2)
    fake_node.tasks[1].step()
    assert fake_node.backend.pin_count == 1
    sending.leave()
    counting.leave()
    assert fake_node.backend.pin_count == 0
    fake_node.run_slices()
    assert (len(sending.sent), len(counting.sent)) == (1, 0)


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"key": b""}, Code.INVALID_ARGUMENT, "etcdserver: key is not provided"),
        ({"sort_order": 3}, Code.INVALID_ARGUMENT, "etcdserver: invalid sort option"),
        ({"sort_target": 5}, Code.INVALID_ARGUMENT, "etcdserver: invalid sort option"),
        ({"sort_order": 2}, Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders"),
        ({"sort_order": 1, "sort_target": 3}, Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders"),
        ({"sort_target": 4}, Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders"),
        ({"min_mod_revision": 1}, Code.UNIMPLEMENTED, "RangeStream does not support revision filters"),
        ({"max_create_revision": 1}, Code.UNIMPLEMENTED, "RangeStream does not support revision filters"),
        ({"revision": 99}, Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
        (
            {"revision": 99, "count_only": True},
            Code.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ],
    ids=str,
)
def test_what_is_refused(fake_node: FakeNode, fields: dict[str, Any], code: Code, text: str) -> None:
    call = ask(fake_node, **fields)
    assert (call.failure, call.sent, fake_node.tasks) == ((code, text), [], [])


def test_a_read_that_cannot_be_linearizable(fake_node: FakeNode) -> None:
    """RNG-02, RNG-03."""
    fake_node.read_error = NoLeader()
    assert ask(fake_node).failure == (Code.UNAVAILABLE, "etcdserver: no leader")
    assert len(ask(fake_node, serializable=True, limit=1, range_end=b"").sent) == 1
    fake_node.run_slices()


def test_too_many_snapshots_are_an_answer(fake_node: FakeNode) -> None:
    pins = [fake_node.backend.pin() for _ in range(MAX_PINS)]
    call = ask(fake_node, limit=2)
    for pin in pins:
        pin.close()
    assert call.failure == (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


@pytest.mark.parametrize(
    ("user", "interval", "failure"),
    [
        ("alice", (b"a", b"c"), None),
        ("alice", (b"a", b"d"), DENIED),
        ("bob", (b"a", b""), DENIED),
        ("root", (b"a", b"z"), None),
        (None, (b"a", b""), EMPTY),
    ],
)
def test_who_may_read(
    fake_node: FakeNode, user: str | None, interval: tuple[bytes, bytes], failure: tuple[Code, str] | None
) -> None:
    """RNG-21."""
    guarded, key, range_end = Guarded(fake_node), *interval
    call = _open(guarded, user, rpc_pb2.RangeRequest(key=key, range_end=range_end))
    fake_node.run_slices()
    assert (call.failure, bool(call.sent), call.finished) == (failure, failure is None, failure is None)


def test_rights_that_change_in_between(fake_node: FakeNode) -> None:
    """AU-49: nothing more is told."""
    guarded = Guarded(fake_node)
    call = _open(guarded, "root", rpc_pb2.RangeRequest(key=b"a", range_end=b"z"))
    assert len(call.sent) == 1
    guarded.change_something()
    fake_node.run_slices()
    assert (call.failure, len(call.sent)) == (OLD, 1)


def _open(guarded: Guarded, user: str | None, request: rpc_pb2.RangeRequest) -> Any:
    call: Any = StreamCall(**({} if user is None else {"token": user}))
    call.receiver = guarded.routes[b"/etcdserverpb.KV/RangeStream"].handler(call)
    call.receiver.on_message(raw(request))
    call.receiver.on_half_close()
    return call


def test_a_message_that_is_no_request(fake_node: FakeNode) -> None:
    call: Any = StreamCall()
    call.receiver = RangeStream(fake_node.context(), call)
    call.receiver.on_message(b"\xff")
    assert call.failure[0] is Code.INTERNAL
