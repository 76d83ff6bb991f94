"""Watch: creating, cancelling, events, compaction (contract sections 3.1 to 3.4)."""

from typing import Any

import pytest
from contract_support import DELETE, PUT, Client, prefix_end, put_op

from raftkv.pb import kv_pb2, rpc_pb2

_NOPUT, _NODELETE = rpc_pb2.WatchCreateRequest.NOPUT, rpc_pb2.WatchCreateRequest.NODELETE
_DUPLICATE = "mvcc: duplicate watch ID provided on the WatchStream"
_EMPTY_RANGE = "mvcc: watcher range is empty"
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def _told(event: kv_pb2.Event) -> tuple[int, bytes, int]:
    return event.type, event.kv.value, event.kv.mod_revision


# --- creating -----------------------------------------------------------------------------------------------


def test_created_answers_first_and_carries_the_revision(client: Client, prefix: bytes) -> None:
    """W-02, W-08, W-09, W-10: also when there is history to send."""
    first = client.put(prefix, b"1").header.revision
    now = client.put(prefix, b"2").header.revision
    with client.watch() as stream:
        created = stream.create(prefix, start_revision=first)
        assert (created.watch_id, created.canceled, created.cancel_reason) == (0, False, "")
        assert created.header.revision == now
        assert [_told(event) for event in stream.events(2)] == [(PUT, b"1", first), (PUT, b"2", now)]


def test_ids_count_from_zero_and_skip_what_is_taken(client: Client, prefix: bytes) -> None:
    """W-05, W-06."""
    with client.watch() as stream:
        assert stream.create(prefix, watch_id=2).watch_id == 2
        assert [stream.create(prefix).watch_id for _ in range(3)] == [0, 1, 3]
        stream.cancel(1)
        assert stream.next().canceled
        assert stream.create(prefix).watch_id == 4
        assert stream.create(prefix, watch_id=1).watch_id == 1


def test_a_taken_id(client: Client, prefix: bytes) -> None:
    """W-21: the watcher that has it is untouched."""
    with client.watch() as stream:
        stream.create(prefix, watch_id=7)
        refusal = stream.create(prefix, watch_id=7)
        assert (refusal.watch_id, refusal.canceled, refusal.cancel_reason) == (-1, True, _DUPLICATE)
        revision = client.put(prefix).header.revision
        seen = stream.next()
        assert (seen.watch_id, seen.events[0].kv.mod_revision) == (7, revision)
        stream.cancel(7)
        assert stream.next().canceled
        assert not stream.create(prefix, watch_id=7).canceled


@pytest.mark.parametrize(
    ("key", "end", "fields", "reason"),
    [
        pytest.param(b"b", b"a", {}, _EMPTY_RANGE, id="W-20: reversed"),
        pytest.param(b"b", b"b", {}, _EMPTY_RANGE, id="W-20: empty"),
        pytest.param(
            b"b",
            b"",
            {"start_revision": -1},
            _COMPACTED,
            id="W-22",
            marks=pytest.mark.beyond_etcd("W-22: 3.5.1 takes it for a start in the past"),
        ),
        pytest.param(
            b"b",
            b"a",
            {"start_revision": -1},
            _COMPACTED,
            id="W-22 comes before W-20",
            marks=pytest.mark.beyond_etcd("W-22: 3.5.1 takes it for a start in the past"),
        ),
        pytest.param(
            b"b",
            b"",
            {"watch_id": -1},
            _DUPLICATE,
            id="W-07",
            marks=pytest.mark.beyond_etcd("W-07: etcd takes negative ids"),
        ),
    ],
)
def test_failed_creations(client: Client, key: bytes, end: bytes, fields: dict[str, Any], reason: str) -> None:
    """The stream stays open."""
    with client.watch() as stream:
        refusal = stream.create(key, end, **fields)
        assert (refusal.watch_id, refusal.canceled, refusal.cancel_reason) == (-1, True, reason)
        assert refusal.compact_revision == 0
        assert not stream.create(b"k").canceled


def test_an_id_in_use_is_the_last_reason_to_refuse(client: Client) -> None:
    """W-21 comes after W-20."""
    with client.watch() as stream:
        stream.create(b"a", watch_id=7)
        assert stream.create(b"b", b"a", watch_id=7).cancel_reason == _EMPTY_RANGE
        assert stream.create(b"a", b"b", watch_id=7).cancel_reason == _DUPLICATE


@pytest.mark.parametrize(
    ("key", "end", "seen"),
    [
        pytest.param(b"", b"\x00", [b"\x00", b"a", b"b", b"c"], id="W-03: everything"),
        pytest.param(b"", b"", [b"\x00"], id="W-03: the key of one zero byte"),
        pytest.param(b"b", b"\x00", [b"b", b"c"], id="W-04: from a key on"),
        pytest.param(b"a", b"c", [b"a", b"b"], id="W-04: half open"),
        pytest.param(b"b", b"", [b"b"], id="one key"),
    ],
)
@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
def test_intervals(client: Client, key: bytes, end: bytes, seen: list[bytes], past: bool) -> None:
    def write() -> None:
        for each in (b"c", b"\x00", b"b", b"a"):
            client.put(each)

    start = client.revision() + 1
    if past:
        write()
    with client.watch() as stream:
        stream.create(key, end, start_revision=start)
        if not past:
            write()
        assert sorted(event.kv.key for event in stream.events(len(seen))) == seen
        for each in (b"c", b"\x00", b"b", b"a"):
            client.delete(each)
        assert sorted(event.kv.key for event in stream.events(len(seen))) == seen


def test_watchers_of_one_stream_are_independent(client: Client, prefix: bytes) -> None:
    """W-13."""
    now = client.revision()
    with client.watch() as stream:
        for start in (0, now, now + 1, 0):
            stream.create(prefix, prefix_end(prefix), start_revision=start)
        revision = client.put(prefix + b"k").header.revision
        answers = [stream.next() for _ in range(4)]
    assert sorted(answer.watch_id for answer in answers) == [0, 1, 2, 3]
    assert {answer.events[0].kv.mod_revision for answer in answers} == {revision}


def test_a_start_in_the_future(client: Client, prefix: bytes) -> None:
    """W-11."""
    now = client.revision()
    with client.watch() as stream:
        assert stream.create(prefix, start_revision=now + 3).header.revision == now
        for value in (b"1", b"2", b"3", b"4"):
            client.put(prefix, value)
        assert [_told(event) for event in stream.events(2)] == [(PUT, b"3", now + 3), (PUT, b"4", now + 4)]


# --- cancelling ---------------------------------------------------------------------------------------------


def test_cancel(client: Client, prefix: bytes) -> None:
    """W-30: nothing follows."""
    with client.watch() as stream:
        stream.create(prefix, watch_id=5)
        now = client.put(prefix + b"other").header.revision
        stream.cancel(5)
        canceled = stream.next()
        assert (canceled.watch_id, canceled.canceled, canceled.created) == (5, True, False)
        assert (canceled.cancel_reason, canceled.header.revision) == ("", now)
        client.put(prefix)
        assert stream.until_refused_creation() == []


def test_what_gets_no_answer(client: Client, prefix: bytes) -> None:
    """W-31, W-33."""
    with client.watch() as stream:
        stream.create(prefix)
        stream.cancel(99)
        stream.cancel(-1)
        stream.send(rpc_pb2.WatchRequest())
        assert stream.until_refused_creation() == []
        client.put(prefix)
        assert len(stream.events(1)) == 1


def test_half_close_does_not_end_the_stream(client: Client, prefix: bytes) -> None:
    """W-32."""
    with client.watch() as stream:
        stream.create(prefix)
        stream.half_close()
        for value in (b"1", b"2"):
            client.put(prefix, value)
        assert [event.kv.value for event in stream.events(2)] == [b"1", b"2"]


# --- events -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
def test_what_an_event_holds(client: Client, prefix: bytes, past: bool) -> None:
    """W-50 to W-53."""
    lease = client.grant(60).ID
    start = client.revision() + 1

    def write() -> None:
        client.put(prefix, b"1", lease=lease)
        client.put(prefix, b"2")
        client.delete(prefix)
        client.put(prefix, b"3")

    if past:
        write()
    with client.watch() as stream:
        stream.create(prefix, start_revision=start, prev_kv=True)
        if not past:
            write()
        created, changed, deleted, reborn = stream.events(4)
        stream.create(prefix, start_revision=start)
        assert not any(event.HasField("prev_kv") for event in stream.events(4))
    assert created.kv == kv_pb2.KeyValue(
        key=prefix, value=b"1", create_revision=start, mod_revision=start, version=1, lease=lease
    )
    assert changed.kv == kv_pb2.KeyValue(
        key=prefix, value=b"2", create_revision=start, mod_revision=start + 1, version=2
    )
    assert (deleted.type, deleted.kv) == (DELETE, kv_pb2.KeyValue(key=prefix, mod_revision=start + 2))
    assert [event.HasField("prev_kv") for event in (created, changed, deleted, reborn)] == [
        False,
        True,
        True,
        False,
    ]
    assert (changed.prev_kv, deleted.prev_kv) == (created.kv, changed.kv)
    client.revoke(lease)


def test_a_compacted_previous_value_is_absent(client: Client, prefix: bytes) -> None:
    """W-53, W-12."""
    client.put(prefix, b"1")
    second = client.put(prefix, b"2").header.revision
    client.put(prefix, b"3")
    client.compact(second, physical=True)
    with client.watch() as stream:
        stream.create(prefix, start_revision=second, prev_kv=True)
        older, newer = stream.events(2)
    assert not older.HasField("prev_kv")
    assert newer.prev_kv.value == b"2"


@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
def test_a_revision_arrives_whole(client: Client, prefix: bytes, past: bool) -> None:
    """W-54, W-55, W-56, KV-03: 100 keys of one transaction, in its order."""
    keys = [prefix + b"%02d" % (number * 37 % 100) for number in range(100)]
    start = client.revision() + 1
    ops = [put_op(key) for key in keys]
    if past:
        client.txn(success=ops)
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=start)
        if not past:
            client.txn(success=ops)
        answer = stream.next()
    assert [event.kv.key for event in answer.events] == keys
    assert {event.kv.mod_revision for event in answer.events} == {start}
    assert answer.header.revision == start


def test_a_live_watcher_gets_one_response_for_each_revision(client: Client, prefix: bytes) -> None:
    """W-56."""
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        revisions = [client.put(prefix + b"%d" % (number % 3)).header.revision for number in range(20)]
        answers = [stream.next() for _ in revisions]
    assert [answer.header.revision for answer in answers] == revisions
    assert [[event.kv.mod_revision for event in answer.events] for answer in answers] == [
        [revision] for revision in revisions
    ]


def test_history_comes_in_order_and_never_cuts_a_revision(client: Client, prefix: bytes) -> None:
    """W-54, W-55, W-57: 1300 revisions, some of several keys."""
    start = client.revision() + 1
    wanted: list[tuple[int, bytes]] = []
    for number in range(1300):
        keys = [prefix + b"%d/%d" % (number % 10, part) for part in range(1 + number % 3)]
        client.txn(success=[put_op(key) for key in keys])
        wanted += [(start + number, key) for key in keys]
    now = client.revision()
    told: list[tuple[int, bytes]] = []
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=start)
        while len(told) < len(wanted):
            answer = stream.next()
            revisions = [event.kv.mod_revision for event in answer.events]
            assert len(set(revisions)) <= 1000
            assert revisions[-1] <= answer.header.revision <= now
            assert not told or told[-1][0] < revisions[0]
            told += [(event.kv.mod_revision, event.kv.key) for event in answer.events]
    assert told == wanted


@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
@pytest.mark.parametrize(
    ("filters", "kinds"),
    [
        pytest.param([_NOPUT], [DELETE], id="no puts"),
        pytest.param([_NODELETE], [PUT, PUT], id="no deletes"),
        pytest.param([_NOPUT, _NODELETE], [], id="W-14: nothing"),
        pytest.param([9], [PUT, DELETE, PUT], id="W-14: unknown number"),
    ],
)
def test_filters(client: Client, prefix: bytes, filters: list[int], kinds: list[int], past: bool) -> None:
    """W-58: what is filtered makes no response."""

    def write() -> None:
        client.put(prefix)
        client.delete(prefix)
        client.put(prefix)

    start = client.revision() + 1
    if past:
        write()
    with client.watch() as stream:
        stream.create(prefix, start_revision=start, filters=filters)
        if not past:
            write()
        assert [event.type for event in stream.events(len(kinds))] == kinds
        stream.ask_progress()
        progress = stream.next()
        assert (progress.watch_id, len(progress.events)) == (-1, 0)


# --- compaction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physical", [False, True])
def test_a_compacted_start(client: Client, prefix: bytes, physical: bool) -> None:
    """W-12, W-40."""
    revisions = [client.put(prefix, b"%d" % number).header.revision for number in range(4)]
    client.compact(revisions[2], physical)
    with client.watch() as stream:
        assert not stream.create(prefix, start_revision=revisions[1], watch_id=3).canceled
        answer = stream.next()
        assert (answer.watch_id, answer.canceled, answer.created) == (3, True, False)
        assert (answer.compact_revision, answer.cancel_reason) == (revisions[2], "")
        assert (len(answer.events), answer.header.revision) == (0, 0)
        stream.create(prefix, start_revision=revisions[2])
        assert [event.kv.value for event in stream.events(2)] == [b"2", b"3"]


@pytest.mark.beyond_etcd("W-43: etcd keeps the id until the client cancels it")
def test_a_compacted_watcher_leaves_its_id(client: Client, prefix: bytes) -> None:
    """W-43: and no longer stands in the way of progress."""
    client.put(prefix)
    now = client.put(prefix).header.revision
    client.compact(now)
    with client.watch() as stream:
        stream.create(prefix, start_revision=1, watch_id=3)
        assert stream.next().compact_revision == now
        assert not stream.create(prefix, watch_id=3).canceled
        stream.ask_progress()
        assert stream.next().watch_id == -1


def test_a_synced_watcher_does_not_mind_a_compaction(client: Client, prefix: bytes) -> None:
    """W-42."""
    start = client.put(prefix, b"1").header.revision
    with client.watch() as stream:
        stream.create(prefix, start_revision=start)
        stream.events(1)
        client.compact(client.put(prefix, b"2").header.revision, physical=True)
        client.put(prefix, b"3")
        assert [event.kv.value for event in stream.events(2)] == [b"2", b"3"]
