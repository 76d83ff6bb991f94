"""Watch: progress, fragments, readers that do not keep up, restarts (contract sections 3.4 to 3.7)."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from contract_support import Client, WatchStream, prefix_end, put_op
from helpers.processes import Server

from raftkv.pb import kv_pb2, rpc_pb2

_LIMIT_BYTES = (1536 + 512) * 1024
"""--max-request-bytes and 512 KiB: where a fragmented response is cut (W-80)."""

# --- progress on request ------------------------------------------------------------------------------------


def test_progress_on_request(client: Client, prefix: bytes) -> None:
    """W-70: when all watchers are synced."""
    start = client.put(prefix).header.revision
    with client.watch() as stream:
        stream.create(prefix, start_revision=start)
        assert len(stream.events(1)) == 1
        stream.create(prefix + b"other")
        now = client.put(prefix + b"elsewhere").header.revision
        stream.ask_progress()
        progress = stream.next()
    assert (progress.watch_id, progress.header.revision) == (-1, now)
    assert (progress.created, progress.canceled, len(progress.events)) == (False, False, 0)


@pytest.mark.beyond_etcd("W-71: 3.5.1 answers for all streams")
def test_no_progress_without_watchers(client: Client, prefix: bytes) -> None:
    """W-71."""
    with client.watch() as stream:
        stream.ask_progress()
        assert stream.until_refused_creation() == []
        watch_id = stream.create(prefix).watch_id
        stream.cancel(watch_id)
        assert stream.next().canceled
        stream.ask_progress()
        assert stream.until_refused_creation() == []


@pytest.mark.beyond_etcd("W-70: since 3.6.2")
def test_no_progress_before_the_start_revision(client: Client, prefix: bytes) -> None:
    """W-70: nothing is remembered either."""
    now = client.revision()
    with client.watch() as stream:
        stream.create(prefix, start_revision=now + 2)
        stream.ask_progress()
        assert stream.until_refused_creation() == []
        for _ in range(2):
            client.put(prefix + b"elsewhere")
        assert stream.until_refused_creation() == []
        stream.ask_progress()
        assert stream.next().header.revision == now + 2


@pytest.mark.beyond_etcd("W-72: in 3.5.1 progress overtakes events")
def test_progress_never_overtakes_events(client: Client, prefix: bytes) -> None:
    """W-72: what was written up to the progress revision is on the stream before it."""
    count = 400
    first = client.revision() + 1
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        writer = threading.Thread(target=_write, args=(client, prefix, count))
        writer.start()
        seen, progress = first - 1, 0
        while seen < first + count - 1:
            stream.ask_progress()
            answer = stream.next()
            if answer.events:
                assert [event.kv.mod_revision for event in answer.events] == [seen + 1]
                seen += 1
            else:
                progress += 1
                assert answer.header.revision <= seen
        writer.join()
    assert progress


def _write(client: Client, prefix: bytes, count: int) -> None:
    for number in range(count):
        client.put(prefix + b"%d" % number)


# --- progress in intervals ----------------------------------------------------------------------------------


def test_progress_notify(client: Client, prefix: bytes) -> None:
    """W-73: with the watcher's own id, only for those that asked; the member is started with 200 ms."""
    with client.watch() as stream:
        stream.create(prefix)
        stream.create(prefix, progress_notify=True, watch_id=9)
        now = client.revision()
        for _ in range(2):
            progress = stream.next()
            assert (progress.watch_id, progress.header.revision, len(progress.events)) == (9, now, 0)
            assert not progress.created
        now = client.put(prefix + b"elsewhere").header.revision
        while (progress := stream.next()).header.revision < now:
            assert not progress.events
        assert (progress.watch_id, progress.header.revision) == (9, now)


def test_progress_notify_keeps_order(client: Client, prefix: bytes) -> None:
    """W-72, W-73."""
    with client.watch() as stream:
        stream.create(prefix, progress_notify=True)
        revision = 0
        for answer, _ in zip(_answers(stream, lambda: client.put(prefix)), range(6), strict=False):
            revisions = [event.kv.mod_revision for event in answer.events] or [answer.header.revision]
            assert revision <= revisions[0]
            revision = revisions[-1]


def _answers(stream: WatchStream, between: Callable[[], object]) -> Any:
    for number in itertools.count():
        if number % 3 == 1:
            between()
        yield stream.next()


@pytest.mark.beyond_etcd("W-73: 3.5.1 looks at nothing but being synced")
def test_no_progress_notify_before_the_start_revision(client: Client, prefix: bytes) -> None:
    """W-73, W-74: a watcher that waits for the future is not told that it has seen the present."""
    now = client.revision()
    with client.watch() as stream:
        stream.create(prefix, progress_notify=True, start_revision=now + 3)
        stream.create(prefix, progress_notify=True)
        assert {stream.next().watch_id for _ in range(3)} == {1}


# --- fragments ----------------------------------------------------------------------------------------------


def _read_pieces(stream: WatchStream) -> list[rpc_pb2.WatchResponse]:
    """The responses up to the first that is not marked as a fragment."""
    pieces = [stream.next()]
    while pieces[-1].fragment:
        pieces.append(stream.next())
    return pieces


def _put_large(client: Client, prefix: bytes, sizes_kib: Sequence[int]) -> int:
    """One key for each size; the first revision."""
    revisions = [
        client.put(prefix + b"%d" % number, bytes(size << 10)).header.revision for number, size in enumerate(sizes_kib)
    ]
    return revisions[0]


def _check_cut(pieces: Sequence[rpc_pb2.WatchResponse]) -> None:
    """W-80, W-81: filled until the next event would reach the limit; same header and id."""
    assert [piece.fragment for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert len({(piece.watch_id, piece.header.revision) for piece in pieces}) == 1
    for piece, following in itertools.pairwise(pieces):
        assert piece.ByteSize() < _LIMIT_BYTES or len(piece.events) == 1
        assert piece.ByteSize() + following.events[0].ByteSize() + 8 >= _LIMIT_BYTES
    assert pieces[-1].ByteSize() < _LIMIT_BYTES or len(pieces[-1].events) == 1


def test_history_in_fragments(client: Client, prefix: bytes) -> None:
    """W-80, W-81."""
    start = _put_large(client, prefix, [700, 700, 700, 10, 10, 1400, 1])
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=start, fragment=True)
        events: list[kv_pb2.Event] = []
        while len(events) < 7:
            pieces = _read_pieces(stream)
            _check_cut(pieces)
            events += [event for piece in pieces for event in piece.events]
    assert [event.kv.mod_revision for event in events] == list(range(start, start + 7))


def test_a_live_revision_in_fragments(client: Client, prefix: bytes) -> None:
    """W-80, W-55: one transaction whose events, with what was before, pass 2 MiB."""
    ops = [put_op(prefix + b"%d" % number, bytes(350 << 10)) for number in range(4)]
    client.txn(success=ops)
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), fragment=True, prev_kv=True, watch_id=4)
        stream.create(prefix, prefix_end(prefix), prev_kv=True, watch_id=5)
        revision = client.txn(success=ops).header.revision
        pieces: dict[int, list[rpc_pb2.WatchResponse]] = {4: [], 5: []}
        while not all(each and not each[-1].fragment for each in pieces.values()):
            answer = stream.next()
            pieces[answer.watch_id].append(answer)
    _check_cut(pieces[4])
    assert [len(piece.events) for piece in pieces[4]] == [2, 2]
    assert len(pieces[5]) == 1  # W-82: whole, whatever its size
    assert pieces[5][0].ByteSize() > _LIMIT_BYTES
    for each in pieces.values():
        events = [event for piece in each for event in piece.events]
        assert [event.kv.key for event in events] == [prefix + b"%d" % number for number in range(4)]
        assert {event.kv.mod_revision for event in events} == {revision}


def test_one_event_is_never_cut(client: Client, prefix: bytes) -> None:
    """W-81: 1.4 MiB and as much before it."""
    value = bytes(1400 << 10)
    client.put(prefix, value)
    with client.watch() as stream:
        stream.create(prefix, fragment=True, prev_kv=True)
        client.put(prefix, value)
        answer = stream.next()
    assert (answer.fragment, len(answer.events)) == (False, 1)
    assert answer.ByteSize() > _LIMIT_BYTES


# --- slow readers -------------------------------------------------------------------------------------------


def _put_many(client: Client, prefix: bytes, count: int, size: int) -> list[int]:
    pending = [
        client.calls.KV.Put.future(rpc_pb2.PutRequest(key=prefix + b"%d" % (number % 10), value=bytes(size)))
        for number in range(count)
    ]
    return sorted(each.result(timeout=20).header.revision for each in pending)


def test_a_slow_reader_loses_nothing_and_delays_nobody(client: Client, prefix: bytes) -> None:
    """W-91: 12 MB, far more than any window or queue holds."""
    with client.watch() as slow, client.watch() as fast:
        slow.create(prefix, prefix_end(prefix))
        fast.create(prefix, prefix_end(prefix))
        revisions = _put_many(client, prefix, 600, 20_000)
        for stream in (fast, slow):
            told = [event.kv.mod_revision for event in stream.events(600)]
            assert told == revisions
        last = client.put(prefix).header.revision
        assert [event.kv.mod_revision for event in slow.events(1)] == [last]


def test_a_slow_reader_is_overtaken_by_a_compaction(client: Client, prefix: bytes) -> None:
    """W-41, W-54: what it gets has no gap, and then it is told."""
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        revisions = _put_many(client, prefix, 400, 100_000)
        client.compact(revisions[-1])
        told: list[int] = []
        while not (answer := stream.next()).canceled:
            told += [event.kv.mod_revision for event in answer.events]
        assert told == revisions[: len(told)]
        assert len(told) < len(revisions)
        assert answer.compact_revision == revisions[-1]
        assert (answer.cancel_reason, answer.header.revision) == ("", 0)


@pytest.mark.parametrize("spread", [1, 7, 40])
def test_watchers_that_join_while_others_write(client: Client, prefix: bytes, spread: int) -> None:
    """W-10, W-11, W-54: each sees every revision from its start on, once and in order."""
    count = 300
    first = client.revision() + 1
    last = first + count - 1
    with client.watch() as stream:
        writer = threading.Thread(target=_write, args=(client, prefix, count))
        writer.start()
        starts: dict[int, int] = {}
        told: dict[int, list[int]] = {}
        for number in range(12):
            start = first + number * spread
            stream.ask(prefix, prefix_end(prefix), start_revision=start, watch_id=number + 1)
            starts[number + 1] = start
        while len(told) < len(starts) or any(revisions[-1] < last for revisions in told.values()):
            answer = stream.next()
            told.setdefault(answer.watch_id, [starts[answer.watch_id] - 1])
            told[answer.watch_id] += [event.kv.mod_revision for event in answer.events]
        writer.join()
    for watch_id, start in starts.items():
        assert told[watch_id][1:] == list(range(start, last + 1))


def test_a_thousand_watchers_on_one_stream(client: Client, prefix: bytes) -> None:
    """W-13, W-54."""
    with client.watch() as stream:
        assert [stream.create(prefix).watch_id for _ in range(1000)] == list(range(1000))
        revisions = [client.put(prefix).header.revision for _ in range(3)]
        told: dict[int, list[int]] = {}
        while sum(map(len, told.values())) < 3000:
            answer = stream.next()
            told.setdefault(answer.watch_id, []).extend(event.kv.mod_revision for event in answer.events)
    assert set(told) == set(range(1000))
    assert all(each == revisions for each in told.values())


# --- lease expiry -------------------------------------------------------------------------------------------


def test_expiry_is_one_response_in_key_order(client: Client, prefix: bytes) -> None:
    """W-59, L-11, L-14, L-16: not before the TTL is over."""
    granted_at = time.monotonic()
    lease = client.grant(2)
    assert lease.TTL == 2
    for tail in (b"c", b"a", b"b", b"a/", b"\xff", b"k" * 600):
        client.put(prefix + tail, lease=lease.ID)
    before = client.revision()
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), prev_kv=True)
        answer = stream.next()
        assert time.monotonic() - granted_at >= 2
    assert [event.kv.key for event in answer.events] == [
        prefix + tail for tail in (b"a", b"a/", b"b", b"c", b"k" * 600, b"\xff")
    ]
    assert {(event.type, event.kv.mod_revision) for event in answer.events} == {(1, before + 1)}
    assert {event.prev_kv.lease for event in answer.events} == {lease.ID}
    assert client.time_to_live(lease.ID).TTL == -1


# --- restarts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_watching_goes_on_after_a_restart(
    start_server: Callable[..., Server], connected: Callable[[Server], Client], kill: bool
) -> None:
    """W-60, W-95: the same events for the same start revision, and resuming leaves no gap."""
    server = start_server()
    client = connected(server)
    for number in range(30):
        client.put(b"k%d" % (number % 4), b"%d" % number)
    client.delete(b"k", b"l")
    lease = client.grant(60).ID
    client.put(b"k9", lease=lease)
    now = client.revision()

    def read_all(count: int) -> list[bytes]:
        with client.watch() as stream:
            stream.create(b"k", b"l", start_revision=2, prev_kv=True)
            return [event.SerializeToString(deterministic=True) for event in stream.events(count)]

    before = read_all(35)
    if kill:
        server.kill9()
    else:
        server.terminate()
    server.start()
    client = connected(server)
    assert client.revision() == now
    assert read_all(35) == before
    with client.watch() as stream:
        stream.create(b"k", b"l", start_revision=now)
        assert client.put(b"k0").header.revision == now + 1
        assert [event.kv.mod_revision for event in stream.events(2)] == [now, now + 1]
