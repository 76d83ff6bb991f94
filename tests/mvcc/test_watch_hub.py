"""The watch hub, rule by rule. The model that plays them all together is test_watch_model.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from watch_history import DELETE, PUT, RecordingSink, WatchedHistory, parsed_events

from raftkv.mvcc import watch_catchup
from raftkv.mvcc.watch import WatchHub, WatchRangeEmptyError, WatchStartError


@pytest.fixture
def history(tmp_path: Path) -> Iterator[WatchedHistory]:
    history = WatchedHistory(tmp_path)
    yield history
    history.close()


@pytest.fixture
def hub(history: WatchedHistory) -> WatchHub:
    return WatchHub(history, history.tables)


def write(history: WatchedHistory, hub: WatchHub, *writes: tuple[bytes, bytes | None]) -> None:
    """One revision, published."""
    hub.publish(history.commit(writes))


def catch_up(history: WatchedHistory, hub: WatchHub, budget: int = 1_000_000) -> bool:
    with history.env.begin() as txn:
        return hub.catch_up(txn, budget)


# --- registering --------------------------------------------------------------------------------------------


def test_fresh_watcher_sees_what_comes_after_registration_w09(history: WatchedHistory, hub: WatchHub) -> None:
    write(history, hub, (b"k", b"1"))
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"")
    assert hub.synced(sink) == hub.revision == 2
    write(history, hub, (b"k", b"2"))
    assert sink.seen(watcher) == [(3, PUT, b"k", b"2")]


def test_start_in_the_past_is_inclusive_w10(history: WatchedHistory, hub: WatchHub) -> None:
    for value in (b"1", b"2", b"3"):
        write(history, hub, (b"k", value))
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"", start_revision=3)
    assert sink.taken == [], "nothing may come before the created response (W-08)"
    assert catch_up(history, hub) is False
    write(history, hub, (b"k", b"4"))
    assert sink.seen(watcher) == [(3, PUT, b"k", b"2"), (4, PUT, b"k", b"3"), (5, PUT, b"k", b"4")]


def test_start_in_the_future_waits_for_it_w11(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"", start_revision=4)
    for value in (b"2", b"3", b"4"):
        write(history, hub, (b"k", value))
    assert sink.seen(watcher) == [(4, PUT, b"k", b"4")]


def test_refused_requests_register_nothing_w20_w22(hub: WatchHub) -> None:
    with pytest.raises(WatchRangeEmptyError):
        hub.watch(RecordingSink(), 0, b"b", b"a")
    with pytest.raises(WatchStartError):
        hub.watch(RecordingSink(), 0, b"b", b"", start_revision=-1)
    assert hub.statistics().streams == hub.statistics().watchers == 0


def test_unknown_filters_are_ignored_and_both_leave_nothing_w14(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink()
    odd = hub.watch(sink, 0, b"k", b"", filters=[7])
    nothing = hub.watch(sink, 1, b"k", b"", filters=[0, 1])
    write(history, hub, (b"k", b"1"))
    write(history, hub, (b"k", None))
    assert len(sink.seen(odd)) == 2
    assert sink.seen(nothing) == []
    assert hub.synced(sink) == 3, "progress still works"


def test_two_watchers_of_one_range_share_the_bytes_w13(history: WatchedHistory, hub: WatchHub) -> None:
    sinks = [RecordingSink(), RecordingSink()]
    watchers = [hub.watch(sink, 0, b"k", b"l") for sink in sinks]
    write(history, hub, (b"k", b"1"))
    one, other = (sink.batches(watcher)[0] for sink, watcher in zip(sinks, watchers, strict=True))
    assert one.body is other.body


def test_one_event_has_one_batch_for_all_ranges_it_is_in(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink()
    for watch_id, range_end in enumerate((b"", b"l", b"m", b"\x00")):
        hub.watch(sink, watch_id, b"k", range_end)
    write(history, hub, (b"k", b"1"))
    assert len(sink.taken) == 4
    assert len({id(batch) for _, batch in sink.taken}) == 1


# --- events -------------------------------------------------------------------------------------------------


def test_live_delivery_is_one_response_per_revision_w55_w56(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"a", b"c")
    hub.publish(history.commit([(b"a", b"1"), (b"b", b"1"), (b"x", b"1")], [(b"a", None)]))
    first, second = sink.batches(watcher)
    assert (first.header_revision, second.header_revision) == (2, 3)
    assert [event.kv.key for event in parsed_events(first)] == [b"a", b"b"]
    assert [event.type for event in parsed_events(second)] == [DELETE]


def test_catch_up_never_cuts_a_revision_and_says_the_newest_w55_w57(
    history: WatchedHistory, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_catchup, "SLICE_REVISIONS", 2)
    for value in (b"1", b"2", b"3"):
        write(history, hub, (b"a", value), (b"b", value))
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"\x00", b"\x00", start_revision=1)
    catch_up(history, hub)
    shapes = [
        (batch.first_revision, batch.last_revision, batch.header_revision, len(batch.entries))
        for batch in sink.batches(watcher)
    ]
    assert shapes == [(2, 3, 4, 4), (4, 4, 4, 2)]


def test_large_values_end_a_slice_early_but_a_revision_comes_whole_w92(
    history: WatchedHistory, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_catchup, "SLICE_BYTES", 1000)
    write(history, hub, (b"a", b"x" * 2000), (b"b", b"x" * 2000))
    write(history, hub, (b"a", b"y"))
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"\x00", b"\x00", start_revision=1)
    catch_up(history, hub)
    assert [len(batch.entries) for batch in sink.batches(watcher)] == [2, 1]


def test_prev_kv_live_and_from_history_w53(history: WatchedHistory, hub: WatchHub) -> None:
    live = RecordingSink()
    live_watcher = hub.watch(live, 0, b"k", b"", prev_kv=True)
    write(history, hub, (b"k", b"1"))
    write(history, hub, (b"k", b"2"))
    write(history, hub, (b"k", None))
    late = RecordingSink()
    late_watcher = hub.watch(late, 0, b"k", b"", start_revision=1, prev_kv=True)
    plain_watcher = hub.watch(late, 1, b"k", b"", start_revision=1)
    catch_up(history, hub)
    from_history = [event for batch in late.batches(late_watcher) for event in parsed_events(batch)]
    assert [event.prev_kv.value for event in from_history] == [b"", b"1", b"2"]
    assert not from_history[0].HasField("prev_kv")
    assert from_history == [event for batch in live.batches(live_watcher) for event in parsed_events(batch)]
    assert not any(event.HasField("prev_kv") for batch in late.batches(plain_watcher) for event in parsed_events(batch))


def test_prev_kv_is_absent_when_its_revision_is_compacted_w53(history: WatchedHistory, hub: WatchHub) -> None:
    write(history, hub, (b"k", b"1"))
    write(history, hub, (b"k", b"2"))
    write(history, hub, (b"k", b"3"))
    history.compact(3)
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"", start_revision=3, prev_kv=True)
    catch_up(history, hub)
    events = [event for batch in sink.batches(watcher) for event in parsed_events(batch)]
    assert [(event.kv.value, event.HasField("prev_kv")) for event in events] == [(b"2", False), (b"3", True)]


def test_prev_kv_stays_when_the_plain_watcher_of_the_range_goes_w13_w53(history: WatchedHistory, hub: WatchHub) -> None:
    write(history, hub, (b"k", b"1"))
    write(history, hub, (b"k", b"2"))
    sink = RecordingSink()
    plain = hub.watch(sink, 0, b"k", b"", start_revision=3)
    with_prev = hub.watch(sink, 1, b"k", b"", start_revision=3, prev_kv=True)
    hub.cancel(plain)
    catch_up(history, hub)
    (batch,) = sink.batches(with_prev)
    assert [event.prev_kv.value for event in parsed_events(batch)] == [b"1"]


# --- slow readers -------------------------------------------------------------------------------------------


def test_slow_sink_loses_nothing_and_holds_nobody_up_w91(history: WatchedHistory, hub: WatchHub) -> None:
    slow, quick = RecordingSink(room=1), RecordingSink()
    slow_watcher = hub.watch(slow, 0, b"k", b"")
    quick_watcher = hub.watch(quick, 0, b"k", b"")
    for number in range(5):
        write(history, hub, (b"k", b"%d" % number))
    assert len(quick.seen(quick_watcher)) == 5
    assert len(slow.seen(slow_watcher)) == 1
    assert slow.refusals == 1, "a full sink is not asked again before it says it is ready"
    assert hub.statistics().slow == 1
    assert catch_up(history, hub) is False, "who cannot be served is no work"
    slow.room = None
    hub.sink_ready(slow)
    catch_up(history, hub)
    assert slow.seen(slow_watcher) == quick.seen(quick_watcher)
    assert hub.statistics().slow == 0


def test_one_full_stream_parks_its_other_watchers_only_when_they_have_events_w91(
    history: WatchedHistory, hub: WatchHub
) -> None:
    sink = RecordingSink(room=0)
    busy, quiet = hub.watch(sink, 0, b"k", b""), hub.watch(sink, 1, b"q", b"")
    write(history, hub, (b"k", b"1"))
    assert (busy.synced, quiet.synced) == (False, True)
    write(history, hub, (b"q", b"1"))
    assert quiet.synced is False
    sink.room = None
    hub.sink_ready(sink)
    catch_up(history, hub)
    assert [revision for revision, *_ in sink.seen(busy)] == [2]
    assert [revision for revision, *_ in sink.seen(quiet)] == [3]


def test_budget_bounds_one_call_and_work_is_reported(history: WatchedHistory, hub: WatchHub) -> None:
    for number in range(20):
        write(history, hub, (b"k", b"%d" % number))
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"", start_revision=1)
    calls = 1
    while catch_up(history, hub, budget=3):
        calls += 1
    assert calls == 7
    assert len(sink.seen(watcher)) == 20


# --- walks --------------------------------------------------------------------------------------------------


def test_many_watchers_at_nearly_one_revision_share_a_walk(history: WatchedHistory, hub: WatchHub) -> None:
    for number in range(50):
        write(history, hub, (b"k", b"%d" % number))
    sink = RecordingSink()
    watchers = [hub.watch(sink, number, b"k", b"", start_revision=2 + number) for number in range(50)]
    assert catch_up(history, hub, budget=51) is False, "one pass over 50 events serves all"
    for number, watcher in enumerate(watchers):
        assert [revision for revision, *_ in sink.seen(watcher)] == list(range(2 + number, 52))


def test_a_walk_from_the_beginning_does_not_hold_up_one_near_the_end(
    history: WatchedHistory, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_catchup, "SLICE_REVISIONS", 10)
    for number in range(200):
        write(history, hub, (b"k", b"%d" % number))
    sink = RecordingSink()
    far = hub.watch(sink, 0, b"k", b"", start_revision=1)
    near = hub.watch(sink, 1, b"k", b"", start_revision=195)
    catch_up(history, hub, budget=20)
    assert (far.synced, near.synced) == (False, True)
    catch_up(history, hub)
    assert len(sink.seen(far)) == 200
    assert len(sink.seen(near)) == 7


def test_walks_that_are_close_become_one(
    history: WatchedHistory, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_catchup, "SLICE_REVISIONS", 10)
    for number in range(200):
        write(history, hub, (b"k", b"%d" % number))
    sink = RecordingSink()
    starts = range(30, 20, -2)
    watchers = [hub.watch(sink, start, b"k", b"", start_revision=start) for start in starts]
    assert catch_up(history, hub, budget=300) is False, "five walks of their own would read 880 events"
    for start, watcher in zip(starts, watchers, strict=True):
        assert [revision for revision, *_ in sink.seen(watcher)] == list(range(start, 202))


def test_more_far_apart_watchers_than_walks_are_all_served(
    history: WatchedHistory, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_catchup, "SLICE_REVISIONS", 2)
    monkeypatch.setattr(watch_catchup, "MAX_WALKS", 2)
    for number in range(60):
        write(history, hub, (b"k", b"%d" % number))
    sink = RecordingSink()
    watchers = {start: hub.watch(sink, start, b"k", b"", start_revision=start) for start in (50, 40, 30, 20, 2)}
    cancelled = hub.watch(sink, 99, b"k", b"", start_revision=10)
    hub.cancel(cancelled)
    catch_up(history, hub)
    for start, watcher in watchers.items():
        assert [revision for revision, *_ in sink.seen(watcher)] == list(range(start, 62))
    assert sink.seen(cancelled) == []


# --- compaction ---------------------------------------------------------------------------------------------


def test_compacted_start_is_cancelled_after_creation_w12_w40(history: WatchedHistory, hub: WatchHub) -> None:
    for value in (b"1", b"2", b"3"):
        write(history, hub, (b"k", value))
    history.compact(3)
    sink = RecordingSink()
    below = hub.watch(sink, 0, b"k", b"", start_revision=2)
    at = hub.watch(sink, 1, b"k", b"", start_revision=3)
    assert sink.lost == []
    catch_up(history, hub)
    assert sink.lost == [(below, 3)]
    assert sink.seen(at) == [(3, PUT, b"k", b"2"), (4, PUT, b"k", b"3")]
    hub.cancel(below)
    assert hub.statistics().watchers == 1
    assert hub.synced(sink) == 4, "the cancelled one does not hold up progress (W-43)"


def test_slow_watcher_overtaken_by_compaction_is_cancelled_w41(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink(room=0)
    watcher = hub.watch(sink, 0, b"k", b"")
    for value in (b"1", b"2", b"3"):
        write(history, hub, (b"k", value))
    history.compact(4)
    sink.room = None
    hub.sink_ready(sink)
    catch_up(history, hub)
    assert (sink.taken, sink.lost) == ([], [(watcher, 4)])


def test_synced_watcher_is_not_affected_by_compaction_w42(history: WatchedHistory, hub: WatchHub) -> None:
    write(history, hub, (b"k", b"1"))
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"", start_revision=1)
    catch_up(history, hub)
    write(history, hub, (b"k", b"2"))
    history.compact(3)
    write(history, hub, (b"k", b"3"))
    assert sink.lost == []
    assert len(sink.seen(watcher)) == 3


def test_delete_at_the_compact_revision_is_still_seen_cmp07(history: WatchedHistory, hub: WatchHub) -> None:
    write(history, hub, (b"k", b"1"))
    write(history, hub, (b"k", None))
    history.compact(3)
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"", start_revision=3)
    catch_up(history, hub)
    assert sink.seen(watcher) == [(3, DELETE, b"k", b"")]


# --- ends ---------------------------------------------------------------------------------------------------


def test_nothing_comes_after_cancel_w30(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink(room=1)
    live = hub.watch(sink, 0, b"k", b"")
    parked = hub.watch(sink, 1, b"k", b"")
    write(history, hub, (b"k", b"1"))
    assert (live.synced, parked.synced) == (True, False)
    walking = hub.watch(sink, 2, b"k", b"", start_revision=1)
    taken = list(sink.taken)
    for watcher in (live, parked, walking):
        hub.cancel(watcher)
        hub.cancel(watcher)
    sink.room = None
    hub.sink_ready(sink)
    write(history, hub, (b"k", b"2"))
    catch_up(history, hub)
    assert sink.taken == taken
    assert hub.statistics() == (0, 0, 0, 1, 0)


def test_a_cancelled_stream_that_was_full_stays_full_until_it_is_ready(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink(room=0)
    first = hub.watch(sink, 0, b"k", b"")
    write(history, hub, (b"k", b"1"))
    hub.cancel(first)
    second = hub.watch(sink, 0, b"k", b"")
    write(history, hub, (b"k", b"2"))
    assert sink.refusals == 1
    sink.room = None
    hub.sink_ready(sink)
    catch_up(history, hub)
    assert sink.seen(second) == [(3, PUT, b"k", b"2")]


def test_closed_sink_takes_its_watchers_along_py04(history: WatchedHistory, hub: WatchHub) -> None:
    sink, other = RecordingSink(), RecordingSink()
    for watch_id in range(3):
        hub.watch(sink, watch_id, b"k", b"", start_revision=watch_id)
    kept = hub.watch(other, 0, b"k", b"")
    hub.sink_closed(sink)
    hub.sink_closed(sink)
    write(history, hub, (b"k", b"1"))
    assert catch_up(history, hub) is False
    assert sink.taken == []
    assert len(other.seen(kept)) == 1
    assert hub.statistics().watchers == hub.statistics().streams == 1


# --- progress -----------------------------------------------------------------------------------------------


def test_progress_only_when_all_watchers_of_the_stream_are_synced_w70_w71(
    history: WatchedHistory, hub: WatchHub
) -> None:
    sink = RecordingSink()
    assert hub.synced(sink) is None
    write(history, hub, (b"k", b"1"))
    live = hub.watch(sink, 0, b"k", b"")
    assert hub.synced(sink) == 2
    late = hub.watch(sink, 1, b"k", b"", start_revision=1)
    assert hub.synced(sink) is None
    assert (hub.watcher_synced(live), hub.watcher_synced(late)) == (2, None)
    catch_up(history, hub)
    assert hub.synced(sink) == 2
    future = hub.watch(sink, 2, b"k", b"", start_revision=9)
    assert hub.synced(sink) is None
    assert hub.watcher_synced(future) is None
    hub.cancel(future)
    assert hub.synced(sink) == 2


def test_no_event_at_or_below_a_progress_revision_follows_it_w72(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink(room=0)
    watcher = hub.watch(sink, 0, b"k", b"")
    write(history, hub, (b"k", b"1"))
    assert hub.synced(sink) is None, "revision 2 is not sent yet"
    sink.room = None
    hub.sink_ready(sink)
    catch_up(history, hub)
    assert hub.synced(sink) == 2
    assert sink.seen(watcher)[-1][0] == 2


# --- the store changes under the hub ------------------------------------------------------------------------


def test_installed_snapshot_resumes_every_watcher_at_what_it_needs_w60(history: WatchedHistory, hub: WatchHub) -> None:
    write(history, hub, (b"k", b"1"))
    sink = RecordingSink()
    live = hub.watch(sink, 0, b"k", b"")
    future = hub.watch(sink, 1, b"k", b"", start_revision=4)
    beyond = hub.watch(sink, 2, b"k", b"", start_revision=9)
    for value in (b"2", b"3", b"4"):
        history.commit([(b"k", value)])
    hub.resync_all(history.tables)
    assert hub.revision == 5
    assert hub.synced(sink) is None
    catch_up(history, hub)
    assert [revision for revision, *_ in sink.seen(live)] == [3, 4, 5]
    assert [revision for revision, *_ in sink.seen(future)] == [4, 5]
    assert beyond.synced


def test_installed_snapshot_that_is_compacted_cancels_w41_w60(history: WatchedHistory, hub: WatchHub) -> None:
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"k", b"")
    for value in (b"1", b"2", b"3"):
        history.commit([(b"k", value)])
    history.compact(4)
    hub.resync_all(history.tables)
    catch_up(history, hub)
    assert (sink.taken, sink.lost) == ([], [(watcher, 4)])


def test_every_event_of_a_large_revocation_comes_in_one_piece_w59(
    history: WatchedHistory, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_catchup, "SLICE_BYTES", 10)
    keys = [b"%04d" % number for number in range(300)]
    write(history, hub, *[(key, b"v") for key in keys])
    write(history, hub, *[(key, None) for key in keys])
    sink = RecordingSink()
    watcher = hub.watch(sink, 0, b"\x00", b"\x00", start_revision=3)
    catch_up(history, hub, budget=1)
    (batch,) = sink.batches(watcher)
    assert [event.kv.key for event in parsed_events(batch)] == keys
