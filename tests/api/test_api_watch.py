"""One watch stream: ids, replies, fragments, progress, and a client that does not keep up."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import CLUSTER_ID, MEMBER_ID, TERM, FakeCall, FakeNode, raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftkv.api.watch import NO_WATCH_ID, WatchService, WatchStream
from raftkv.apply import Kind
from raftkv.mvcc.watch import EventBatch
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.pb.splice import framed
from raftkv.rpc.codes import Code

DUPLICATE = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY = "mvcc: watcher range is empty"
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


class Client:
    """One stream as its client sees it."""

    def __init__(self, node: FakeNode, room: int | None = None, **metadata: str) -> None:
        self.call: Any = FakeCall(room, **metadata)
        self.node = node
        self.service = WatchService(node.context())
        self.stream: WatchStream = self.service.open(self.call)
        self._seen = 0

    def create(self, key: bytes = b"k", **fields: Any) -> None:
        self._ask(create_request=rpc_pb2.WatchCreateRequest(key=key, **fields))

    def cancel(self, watch_id: int) -> None:
        self._ask(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=watch_id))

    def ask_progress(self) -> None:
        self._ask(progress_request=rpc_pb2.WatchProgressRequest())

    def _ask(self, **request: Any) -> None:
        self.stream.on_message(raw(rpc_pb2.WatchRequest(**request)))

    def received(self) -> list[rpc_pb2.WatchResponse]:
        """Since the last time."""
        new = self.call.sent[self._seen :]
        self._seen = len(self.call.sent)
        return [rpc_pb2.WatchResponse.FromString(message) for message in new]

    def created_ids(self) -> list[int]:
        return [response.watch_id for response in self.received() if response.created]

    def keys(self) -> list[bytes]:
        return [event.kv.key for response in self.received() for event in response.events]


@pytest.fixture
def client(fake_node: FakeNode) -> Client:
    return Client(fake_node)


# --- ids --------------------------------------------------------------------------------------------------------------


def test_a_creation_is_answered_once_with_the_current_revision(fake_node: FakeNode, client: Client) -> None:
    """W-02."""
    fake_node.put(b"other")
    client.create()
    header = rpc_pb2.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=2, raft_term=TERM)
    assert client.received() == [rpc_pb2.WatchResponse(header=header, watch_id=0, created=True)]


def test_ids_are_counted_around_those_in_use_and_never_given_twice(client: Client) -> None:
    """W-05, W-06."""
    client.create(watch_id=1)
    for _ in range(3):
        client.create()
    client.cancel(0)
    client.create()
    client.cancel(1)
    client.create(watch_id=1)
    assert client.created_ids() == [1, 0, 2, 3, 4, 1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"key": b"b", "range_end": b"a"}, EMPTY),
        ({"key": b"b", "range_end": b"b"}, EMPTY),
        ({"start_revision": -1}, COMPACTED),
        ({"watch_id": 5}, DUPLICATE),
        ({"watch_id": -1}, DUPLICATE),
    ],
)
def test_a_refused_creation_leaves_the_stream_and_its_ids_alone(
    fake_node: FakeNode, client: Client, fields: dict[str, Any], reason: str
) -> None:
    """W-20 to W-22; W-05: no number is lost."""
    client.create(watch_id=5)
    client.received()

    client.create(**{"key": b"k", **fields})

    (refusal,) = client.received()
    assert (refusal.watch_id, refusal.created, refusal.canceled) == (NO_WATCH_ID, True, True)
    assert (refusal.cancel_reason, refusal.compact_revision, refusal.header.revision) == (reason, 0, 1)
    client.create()
    assert client.created_ids() == [0]
    fake_node.put(b"k")
    assert sorted(response.watch_id for response in client.received()) == [0, 5]


def test_an_empty_key_is_the_zero_byte(fake_node: FakeNode, client: Client) -> None:
    """W-03."""
    client.create(key=b"")
    fake_node.put(b"\x00", b"a")
    assert client.keys() == [b"\x00"]


def test_a_cancelled_watcher_is_told_once_and_gets_nothing_more(fake_node: FakeNode, client: Client) -> None:
    """W-30, W-31."""
    client.create()
    client.create()
    client.received()
    client.cancel(0)
    client.cancel(0)
    client.cancel(77)
    (reply,) = client.received()
    assert (reply.watch_id, reply.canceled, reply.created, reply.cancel_reason) == (0, True, False, "")
    fake_node.put(b"k")
    assert [response.watch_id for response in client.received()] == [1]


def test_half_a_request_is_ignored_and_garbage_ends_the_stream(client: Client) -> None:
    """W-33."""
    client.stream.on_message(b"")
    assert (client.received(), client.call.failure) == ([], None)
    client.stream.on_message(b"\xff")
    assert client.call.failure is not None
    assert client.call.failure[0] is Code.INTERNAL


def test_half_close_does_not_end_the_stream(fake_node: FakeNode, client: Client) -> None:
    """W-32."""
    client.create()
    client.stream.on_half_close()
    fake_node.put(b"k")
    assert client.keys() == [b"k"]


def test_a_closed_stream_leaves_nothing_in_the_hub(fake_node: FakeNode, client: Client) -> None:
    client.create()
    client.create(start_revision=1)
    client.stream.on_closed()
    statistics = fake_node.hub.statistics()
    assert (statistics.streams, statistics.watchers) == (0, 0)
    assert client.service._streams == {}


# --- events -----------------------------------------------------------------------------------------------------------


def test_history_comes_after_the_created_reply(fake_node: FakeNode, client: Client) -> None:
    """W-08, W-10."""
    fake_node.put(b"k", b"other", b"k")
    client.create(start_revision=1)
    fake_node.catch_up()
    created, history = client.received()
    assert created.created
    assert [event.kv.mod_revision for event in history.events] == [2, 4]
    assert history.header.revision == 4


def test_a_watcher_of_the_compacted_past_is_cancelled(fake_node: FakeNode, client: Client) -> None:
    """W-40, W-43: the id is free again."""
    fake_node.put(b"k", b"k", b"k")
    fake_node.apply((Kind.COMPACT, raw(rpc_pb2.CompactionRequest(revision=3))))
    client.create(start_revision=2)
    fake_node.catch_up()
    created, cancelled = client.received()
    assert created.created
    assert (cancelled.canceled, cancelled.compact_revision, cancelled.header.revision) == (True, 3, 0)
    assert (cancelled.watch_id, cancelled.cancel_reason, len(cancelled.events)) == (created.watch_id, "", 0)
    client.cancel(created.watch_id)
    assert client.received() == []


def test_a_full_queue_takes_nothing_until_it_is_writable_and_then_all(fake_node: FakeNode) -> None:
    """W-91: in order, each event once; another stream does not wait."""
    slow, quick = Client(fake_node, room=2), Client(fake_node)
    for client in (slow, quick):
        client.create(key=b"a", range_end=b"z")
        client.received()

    fake_node.put(b"a", b"b", b"c")
    assert slow.keys() == [b"a"]  # with it the queue is full
    assert quick.keys() == [b"a", b"b", b"c"]
    fake_node.catch_up()
    assert slow.keys() == []

    slow.call.room = None
    slow.stream.on_writable()
    fake_node.catch_up()
    assert slow.keys() == [b"b", b"c"]
    fake_node.put(b"d")
    assert slow.keys() == [b"d"]


# --- fragments --------------------------------------------------------------------------------------------------------


def big_events(*sizes: int) -> list[bytes]:
    """Entries of a WatchResponse with values of these sizes."""
    events = (kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"k", value=b"v" * size)) for size in sizes)
    return [framed(b"\x5a", raw(event)) for event in events]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 120) | st.integers(250, 400), min_size=1, max_size=8))
def test_fragments_are_as_few_as_the_limit_allows(fake_node: FakeNode, sizes: list[int]) -> None:
    """W-80, W-81: cut between events only, each piece filled until the next event would reach the limit."""
    client, limit = Client(fake_node), fake_node.config.max_recv_bytes
    client.create(fragment=True)
    client.create(watch_id=300)
    client.received()
    entries = big_events(*sizes)
    batch = EventBatch(9, 9, 9, entries)
    ids = client.stream._ids

    assert client.stream.deliver(ids[0], batch)
    raw_pieces = client.call.sent[-(len(client.call.sent) - 2) :]
    pieces = client.received()
    assert client.stream.deliver(ids[300], batch)
    (whole,) = client.received()

    assert not whole.fragment, "W-82"
    assert [event for piece in pieces for event in piece.events] == list(whole.events)
    assert [piece.fragment for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert {(piece.watch_id, piece.header.revision) for piece in pieces} == {(0, 9)}
    at = 0
    for piece, message in zip(pieces, raw_pieces, strict=True):
        at += len(piece.events)
        assert len(message) < limit or len(piece.events) == 1
        if at < len(entries):
            assert len(message) + len(entries[at]) >= limit
    client.stream.on_closed()


def test_a_piece_stays_below_the_limit_with_the_mark_that_more_follows(fake_node: FakeNode) -> None:
    """W-80: at every size near the limit."""
    client, limit = Client(fake_node), fake_node.config.max_recv_bytes
    client.create(fragment=True)
    for size in range(limit - 80, limit):
        client.call.sent.clear()
        client.stream.deliver(client.stream._ids[0], EventBatch(9, 9, 9, big_events(size, 0, 0)))
        pieces = [rpc_pb2.WatchResponse.FromString(message) for message in client.call.sent]
        for message, piece in zip(client.call.sent, pieces, strict=True):
            assert len(message) < limit or len(piece.events) == 1


def test_fragments_stay_together_even_if_the_queue_fills_up_meanwhile(fake_node: FakeNode) -> None:
    """W-55, W-80."""
    client = Client(fake_node, room=2)
    client.create(key=b"a", range_end=b"z", fragment=True)
    ops = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"v" * 200)) for key in (b"a", b"b", b"c")]
    fake_node.apply((Kind.TXN, raw(rpc_pb2.TxnRequest(success=ops))))
    fake_node.put(b"d")
    assert [(len(piece.events), piece.fragment) for piece in client.received()[1:]] == [
        (1, True),
        (1, True),
        (1, False),
    ]


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_follows_everything_up_to_its_revision(fake_node: FakeNode, client: Client) -> None:
    """W-70, W-72, with a watcher that had history to read."""
    fake_node.put(b"k")
    client.create(start_revision=1)
    client.create()
    client.ask_progress()
    assert client.created_ids() == [0, 1], "one watcher is not synced: no answer, and nothing is remembered"
    fake_node.catch_up()
    fake_node.put(b"k")
    client.ask_progress()
    *events, progress = client.received()
    assert [event.kv.mod_revision for response in events for event in response.events] == [2, 3, 3]
    assert (progress.watch_id, progress.header.revision, len(progress.events)) == (NO_WATCH_ID, 3, 0)
    assert not progress.created
    assert not progress.canceled


def test_no_progress_without_watchers_or_before_the_first_revision_asked_for(
    fake_node: FakeNode, client: Client
) -> None:
    """W-70, W-71."""
    client.ask_progress()
    assert client.received() == []
    client.create(start_revision=3)
    client.received()
    client.ask_progress()
    assert client.received() == []
    fake_node.put(b"x", b"x")
    client.ask_progress()
    assert [response.header.revision for response in client.received()] == [3]


def test_no_progress_while_the_queue_is_full(fake_node: FakeNode) -> None:
    """W-75: and none that claims what was refused."""
    client = Client(fake_node, room=2)
    client.create()
    fake_node.put(b"k")
    client.received()
    client.ask_progress()
    assert client.received() == [], "everything was sent, but the queue is full"
    fake_node.put(b"k")
    client.ask_progress()
    assert client.received() == []
    client.call.room = None
    client.stream.on_writable()
    client.ask_progress()
    assert client.received() == [], "the second event is still to come"
    fake_node.catch_up()
    client.ask_progress()
    assert [(response.watch_id, response.header.revision) for response in client.received()] == [(0, 3), (-1, 3)]


def test_automatic_progress_goes_to_quiet_watchers_that_asked(fake_node: FakeNode, client: Client) -> None:
    """W-73, W-74: every 10 s; who got events since is skipped once."""
    client.create(progress_notify=True)
    client.create(progress_notify=True, key=b"other")
    client.create()
    client.received()

    def at(now: float) -> list[tuple[int, int]]:
        client.service.on_tick(now)
        return [(response.watch_id, response.header.revision) for response in client.received()]

    assert at(100.0) == []
    assert at(109.9) == []
    assert at(110.0) == [(0, 1), (1, 1)]
    fake_node.put(b"k")
    client.received()
    assert at(119.9) == []
    assert at(120.0) == [(1, 2)]
    client.cancel(1)
    client.received()
    assert at(130.0) == [(0, 2)]


# --- leaders ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_needs_a_leader_is_refused_without_one(fake_node: FakeNode) -> None:
    """G-20."""
    fake_node.leader_id = 0
    assert Client(fake_node, hasleader="true").call.failure == (Code.UNAVAILABLE, "etcdserver: no leader")
    assert Client(fake_node).call.failure is None


def test_it_ends_after_three_election_timeouts_without_one(fake_node: FakeNode) -> None:
    """G-21; a leader in between starts the count anew."""
    needing, other = Client(fake_node, hasleader="true"), Client(fake_node)

    def tick(now: float, leader_id: int) -> None:
        fake_node.leader_id = leader_id
        for client in (needing, other):
            client.service.on_tick(now)

    tick(10.0, leader_id=0)
    tick(12.9, leader_id=0)
    tick(13.0, leader_id=MEMBER_ID)
    tick(13.1, leader_id=0)
    tick(16.0, leader_id=0)
    assert needing.call.failure is None
    tick(16.2, leader_id=0)
    assert needing.call.failure == (Code.UNAVAILABLE, "etcdserver: no leader")
    assert other.call.failure is None


def test_a_stopping_server_ends_all_streams_so_that_clients_move_on(fake_node: FakeNode, client: Client) -> None:
    """ER-03."""
    client.service.end_streams()
    assert client.call.failure == (Code.UNAVAILABLE, "etcdserver: server stopped")
