"""The judges of the traces are judged: a history with one flaw in it is not passed. No rule is checked here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kube_cache import DELETE, PUT, Snapshot, WatchCache
from kube_replay import Record, Replay, Seen, Write
from kube_store import KubeStore, parse_version, serves_progress_requests

from raftkv.pb import kv_pb2, rpc_pb2


class _History:
    """Three objects, one of them on a lease; an update, a deletion, an expiry; one read of each kind."""

    def __init__(self) -> None:
        self.start = Snapshot(4, {b"a": _kv(b"a", 2), b"b": _kv(b"b", 3), b"e": _kv(b"e", 4, lease=7)})
        update = kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=5, version=2, value=b"5")
        self.events = [
            kv_pb2.Event(type=PUT, kv=update, prev_kv=_kv(b"a", 2)),
            kv_pb2.Event(type=PUT, kv=_kv(b"f", 6, lease=7)),
            kv_pb2.Event(type=DELETE, kv=kv_pb2.KeyValue(key=b"b", mod_revision=7), prev_kv=_kv(b"b", 3)),
            kv_pb2.Event(type=DELETE, kv=kv_pb2.KeyValue(key=b"e", mod_revision=8), prev_kv=_kv(b"e", 4, lease=7)),
            kv_pb2.Event(type=DELETE, kv=kv_pb2.KeyValue(key=b"f", mod_revision=8), prev_kv=_kv(b"f", 6, lease=7)),
        ]
        self.final = Snapshot(8, {b"a": update})
        self.record = Record()
        self.record.leases.add(7)
        self.record.acknowledge(5, Write(b"a", b"5", 0, 2))
        self.record.acknowledge(6, Write(b"f", b"6", 7, 0))
        self.record.acknowledge(7, Write(b"b", None, 0, 3))
        self.record.seen.append(Seen("a page", 5, b"a", b"z", [update, _kv(b"b", 3)], 3))
        self.record.seen.append(Seen("a count", 7, b"b", b"z", None, 2))
        self.record.seen.append(Seen("a get", 7, b"b", b"", [], 0))

    def check(self) -> None:
        Replay(self.start, self.events).check(self.record, self.final)


def _kv(key: bytes, revision: int, lease: int = 0) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=key, create_revision=revision, mod_revision=revision, version=1, value=b"%d" % revision, lease=lease
    )


def test_a_true_history_passes() -> None:
    _History().check()


def test_a_write_without_an_answer_may_have_been_done() -> None:
    history = _History()
    history.record.unknown.append(history.record.writes.pop(5))
    history.record.unknown.append(Write(b"never", b"done", 0, 0))
    history.check()


def _forget(history: _History) -> None:
    del history.record.writes[7]


def _lose(history: _History) -> None:
    del history.events[2]
    history.final.objects[b"b"] = _kv(b"b", 3)


def _move(history: _History) -> None:
    history.record.writes[9] = history.record.writes.pop(7)


def _change(history: _History) -> None:
    history.events[0].kv.value = b"other"


def _overwrite_blindly(history: _History) -> None:
    history.record.writes[5] = Write(b"a", b"5", 0, 1)


def _tear_expiry(history: _History) -> None:
    history.events[4].kv.mod_revision = 9
    history.final = Snapshot(9, history.final.objects)


def _expire_part(history: _History) -> None:
    del history.events[4]
    history.final.objects[b"f"] = _kv(b"f", 6, lease=7)


def _expire_another(history: _History) -> None:
    history.record.leases = {8}


def _read_stale(history: _History) -> None:
    history.record.seen[0] = history.record.seen[0]._replace(kvs=[_kv(b"a", 2)])


def _read_ahead(history: _History) -> None:
    history.record.seen[0] = history.record.seen[0]._replace(revision=4)


def _count_wrong(history: _History) -> None:
    history.record.seen[1] = history.record.seen[1]._replace(total=3)


def _skip_a_key(history: _History) -> None:
    history.record.seen[0] = history.record.seen[0]._replace(kvs=[_kv(b"b", 3)])


def _see_the_dead(history: _History) -> None:
    history.record.seen[2] = history.record.seen[2]._replace(kvs=[_kv(b"b", 3)], total=1)


def _list_differently(history: _History) -> None:
    history.final.objects.clear()


@pytest.mark.parametrize(
    "spoil",
    [
        _forget,
        _lose,
        _move,
        _change,
        _overwrite_blindly,
        _tear_expiry,
        _expire_part,
        _expire_another,
        _read_stale,
        _read_ahead,
        _count_wrong,
        _skip_a_key,
        _see_the_dead,
        _list_differently,
    ],
)
def test_one_flaw_is_found(spoil: Callable[[_History], None]) -> None:
    history = _History()
    spoil(history)
    with pytest.raises(AssertionError):
        history.check()


def _response(revision: int, *events: kv_pb2.Event, watch_id: int = 0) -> rpc_pb2.WatchResponse:
    response = rpc_pb2.WatchResponse(watch_id=watch_id, events=events)
    response.header.revision = revision
    return response


def _put(revision: int, old: kv_pb2.KeyValue | None = None, key: bytes = b"a") -> kv_pb2.Event:
    created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
    kv = kv_pb2.KeyValue(key=key, create_revision=created, mod_revision=revision, version=version)
    return kv_pb2.Event(type=PUT, kv=kv, prev_kv=old)


_OLD = _kv(b"a", 2)
_GOOD = _response(5, _put(5, _OLD))
_DELETED = kv_pb2.Event(type=DELETE, kv=kv_pb2.KeyValue(key=b"a", mod_revision=5), prev_kv=_OLD)


@pytest.mark.parametrize(
    "responses",
    [
        pytest.param([_response(5, _put(5))], id="added twice"),
        pytest.param([_response(5, kv_pb2.Event(type=PUT, kv=_put(5, _OLD).kv))], id="no old value"),
        pytest.param([_response(5, _put(5, _kv(b"a", 3)))], id="another old value"),
        pytest.param([_response(5, _DELETED), _response(6, _put(6, _OLD))], id="deleted, then modified"),
        pytest.param([_response(5, _put(3, _OLD))], id="older than the list"),
        pytest.param([_GOOD, _GOOD], id="twice"),
        pytest.param([_response(5, _put(5, key=b"b")), _response(5, _put(5, _OLD))], id="torn"),
        pytest.param([_response(7, watch_id=-1), _GOOD], id="after the progress that covers it"),
        pytest.param([_response(4, _put(5, _OLD))], id="a header older than its event"),
    ],
)
def test_the_cache_breaks_on_a_wrong_watch(responses: list[rpc_pb2.WatchResponse]) -> None:
    with KubeStore(["127.0.0.1:1"]) as store:
        cache = WatchCache(store, b"a")
        cache._objects, cache._revision = {b"a": _OLD}, 4
        *before, wrong = responses
        for response in before:
            assert cache._take(response, watch_id=0)
        with pytest.raises(AssertionError):
            cache._take(wrong, watch_id=0)


def test_the_cache_starts_anew_when_a_compaction_took_the_old_value() -> None:
    with KubeStore(["127.0.0.1:1"]) as store:
        cache = WatchCache(store, b"a", lambda revision: revision < 5)
        cache._objects, cache._revision = {b"a": _OLD}, 4
        assert not cache._take(_response(5, kv_pb2.Event(type=PUT, kv=_put(5, _OLD).kv)), watch_id=0)


def test_two_writes_cannot_have_one_revision() -> None:
    record = Record()
    record.acknowledge(5, Write(b"a", b"1", 0, 0))
    with pytest.raises(AssertionError):
        record.acknowledge(5, Write(b"b", b"1", 0, 0))


@pytest.mark.parametrize(
    ("version", "serves"),
    [
        ("3.4.30", False),
        ("3.4.31", True),
        ("3.5.0", False),
        ("3.5.1", False),
        ("3.5.12", False),
        ("3.5.13", True),
        ("3.6.14", True),
        ("4.0.0-alpha.1", True),
    ],
)
def test_which_versions_are_sent_progress_requests(version: str, serves: bool) -> None:
    assert serves_progress_requests(parse_version(version)) is serves


@pytest.mark.parametrize("text", ["", "3.6", "v3.6.0", "3.06.1", "raftkv"])
def test_what_is_no_version(text: str) -> None:
    """The apiserver turns the feature off."""
    with pytest.raises(AssertionError):
        parse_version(text)
