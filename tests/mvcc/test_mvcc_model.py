"""The store beside the full list of its writes: Hypothesis looks for a history in which they differ."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mvcc_support import Disk, Model, Write, key_value, response, run

from raftkv.backend.schema import pack_revision, unpack_revision
from raftkv.mvcc import CompactedError, FutureRevisionError, KeyNotFoundError, RangeQuery, Writer
from raftkv.mvcc import hashkv as hashkv_module
from raftkv.mvcc import ordering as ordering_module
from raftkv.mvcc import scan as scan_module
from raftkv.mvcc.frames import KeyState, parse_event
from raftkv.pb import kv_pb2, rpc_pb2

_P = b"p" * 480
KEYS = sorted(
    [
        b"\x00",
        b"\x00\x00",
        b"a",
        b"a\x00",
        b"ab",
        b"b",
        b"\xff",
        b"\xff\xff",
        _P[:479],
        _P,
        _P + b"\x00",
        _P + b"\x00\x00",
        _P + b"q",
        _P + b"q" * 31,
        _P + b"q" * 32,
        _P + b"\xff" * 480,
        _P + b"\xff" * 520,
        _P + b"q" * 4520,
        _P + b"q" * 4519 + b"r",
        b"p" * 479 + b"q",
        b"p" * 479 + b"q" * 2,
    ]
)
BOUNDS = sorted([*KEYS, b"aa", b"p", _P + b"q" * 480, _P + b"r", _P + b"q" * 960 + b"\x00", b"q"])


class Brief(bytes):
    """A long key whose repr Hypothesis can print in a failing example."""

    def __repr__(self) -> str:
        return bytes.__repr__(self) if len(self) < 10 else f"<{len(self)} bytes, ...{self[-2:]!r}>"


KEYS = [Brief(key) for key in KEYS]
BOUNDS = [Brief(key) for key in BOUNDS]

some_key = st.sampled_from(KEYS)
some_end = st.one_of(st.just(b""), st.just(b"\x00"), st.sampled_from(BOUNDS))
some_value = st.one_of(st.binary(max_size=3), st.just(Brief(b"x" * 3000)))
some_lease = st.sampled_from([0, 0, 7, -1])
some_put = st.tuples(st.just("put"), some_key, some_value, some_lease)
some_op = st.one_of(
    some_put,
    some_put,
    some_put,
    st.tuples(st.just("put_with"), some_key, st.none() | some_value, st.none() | some_lease),
    st.tuples(st.just("delete"), some_key, st.just(b"")),
    st.tuples(st.just("delete"), some_key, some_end),
    st.tuples(st.just("range"), some_key, some_end),
)
some_batch = st.lists(st.lists(some_op, max_size=6), min_size=1, max_size=4)
some_bound = st.sampled_from([0, 0, 1, 2, 3, 5, 8, 13])
some_range = st.fixed_dictionaries(
    {"key": st.sampled_from(BOUNDS), "range_end": some_end, "limit": st.integers(-1, 5)},
    optional={
        "sort_order": st.integers(0, 2),
        "sort_target": st.integers(0, 4),
        "keys_only": st.booleans(),
        "count_only": st.sampled_from([False, False, True]),
        "min_mod_revision": some_bound,
        "max_mod_revision": some_bound,
        "min_create_revision": some_bound,
        "max_create_revision": some_bound,
    },
)


class StoreBesideHistory(RuleBasedStateMachine):
    """At every revision not yet compacted, the store answers like the full list of writes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.disk = Disk(block_entries=2)
        self.model = Model()

    @initialize(
        slice_keys=st.sampled_from([1, 3, 2000]),
        few_events=st.sampled_from([0, 4, 512]),
        max_best=st.sampled_from([0, 2, 10_000]),
    )
    def bounds(self, slice_keys: int, few_events: int, max_best: int) -> None:
        self.patch.setattr(scan_module, "SLICE_KEYS", slice_keys)
        self.patch.setattr(scan_module, "FEW_EVENTS", few_events)
        self.patch.setattr(ordering_module, "MAX_BEST", max_best)
        self.patch.setattr(hashkv_module, "SLICE_EVENTS", slice_keys)

    def teardown(self) -> None:
        self.patch.undo()
        self.disk.close()

    # --- writes ---

    @rule(batch=some_batch)
    def write(self, batch: list[list[tuple]]) -> None:
        with self.disk.write() as txn:
            writer = self.disk.store.writer(txn)
            before = len(self.model.writes)
            moves = [move for ops in batch for move in self._request(writer, ops)]
            writer.finish()
            self.disk.store.flush(txn)
        assert writer.lease_moves == moves
        self._check_published(writer, self.model.writes[before:])

    @rule(batch=some_batch)
    def write_and_crash(self, batch: list[list[tuple]]) -> None:
        """A batch that is not committed leaves no trace, on disk or after loading."""
        before = (len(self.model.writes), self.model.revision)
        txn = self.disk.write()
        writer = self.disk.store.writer(txn)
        for ops in batch:
            self._request(writer, ops)
        writer.finish()
        txn.abort()
        self.disk.load()
        del self.model.writes[before[0] :]
        self.model.revision = before[1]

    def _request(self, writer: Writer, ops: list[tuple]) -> list[tuple[bytes, int, int]]:
        model = self.model
        main = model.revision + 1
        subs = 0
        moves: list[tuple[bytes, int, int]] = []
        writer.begin()
        for name, key, *arguments in ops:
            newest = main if subs else model.revision
            assert writer.revision == newest
            old = model.at(newest).get(key)
            if name == "range":
                request = rpc_pb2.RangeRequest(key=key, range_end=arguments[0])
                expected = model.range(request, newest)
                assert response(writer.range(RangeQuery.from_request(request))) == expected
            elif name == "delete":
                doomed = model.within(key, arguments[0], newest)
                frames = writer.delete_range(key, arguments[0])
                assert [parse_event(frame) for frame in frames] == doomed
                for state in doomed:
                    model.writes.append(Write(main, subs, state.key, None))
                    subs += 1
                    moves += [(state.key, state.lease, 0)] if state.lease else []
            else:
                value, lease = arguments
                if name == "put_with" and old is None and None in arguments:
                    with pytest.raises(KeyNotFoundError):
                        writer.put_with(key, value, lease)
                    continue
                frame = writer.put_with(key, value, lease) if name == "put_with" else writer.put(key, value, lease)
                assert (parse_event(frame) if frame else None) == old
                state = _after_put(old, key, main, value, lease)
                model.writes.append(Write(main, subs, key, state))
                subs += 1
                moves += [(key, old.lease if old else 0, state.lease)]
        model.revision = writer.end()
        assert model.revision == (main if subs else main - 1)
        return [move for move in moves if move[1] != move[2]]

    def _check_published(self, writer: Writer, writes: list[Write]) -> None:
        """What the watch hub gets: the changes of the batch, revision by revision, with what was there
        before."""
        told = [(main, *change) for main, changes in writer.events for change in changes]
        assert len(told) == len(writes)
        assert [main for main, _ in writer.events] == sorted({w.main for w in writes})
        for (main, key, event, prev, is_create, is_delete), write in zip(told, writes, strict=True):
            assert (main, key, is_delete) == (write.main, write.key, write.state is None)
            assert is_create == (write.state is not None and write.state.version == 1)
            before = None if is_create else self.model.at(main - 1).get(key)
            assert (parse_event(prev) if prev else None) == before, "one revision earlier, not one change (W-53)"
            parsed = kv_pb2.Event.FromString(event)
            assert (parsed.type == kv_pb2.Event.DELETE) == is_delete
            assert parsed.kv == (key_value(write.state) if write.state else kv_pb2.KeyValue(key=key, mod_revision=main))

    # --- reads ---

    @rule(options=some_range, back=st.integers(-1, 12))
    def read(self, options: dict[str, object], back: int) -> None:
        revision = max(0, self.model.revision - back) if back else 0
        request = rpc_pb2.RangeRequest(revision=revision, **options)  # type: ignore[arg-type]
        query = RangeQuery.from_request(request)
        with self.disk.read() as txn:
            if revision > self.model.revision:
                with pytest.raises(FutureRevisionError):
                    self.disk.store.scan(txn, query)
            elif 0 < revision < self.model.compacted:
                with pytest.raises(CompactedError):
                    self.disk.store.scan(txn, query)
            else:
                expected = self.model.range(request, self.model.revision)
                result = run(self.disk.store.scan(txn, query))
                assert response(result) == expected
                assert response(self.disk.store.range(txn, query)) == expected
                assert result.revision == self.model.revision

    @rule(ends=st.tuples(st.integers(0, len(BOUNDS) - 1), st.integers(1, len(BOUNDS))), back=st.integers(0, 12))
    def count(self, ends: tuple[int, int], back: int) -> None:
        """RNG-07 by the block counters, both for count_only and for what a limit leaves."""
        revision = max(self.model.revision - back, self.model.compacted, 1)
        key = BOUNDS[ends[0]]
        range_end = BOUNDS[ends[0] + ends[1]] if sum(ends) < len(BOUNDS) else b"\x00"
        expected = len(self.model.within(key, range_end, revision))
        assert self.disk.range(key, range_end, revision=revision, count_only=True).count == expected
        assert self.disk.range(key, range_end, revision=revision, limit=1).count == expected

    @rule(key=some_key, back=st.integers(0, 12))
    def read_one(self, key: bytes, back: int) -> None:
        revision = max(1, self.model.revision - back)
        with self.disk.read() as txn:
            frame = self.disk.store.frame_at(txn, key, revision)
            newest = self.disk.store.get(txn, key)
        expected = self.model.at(revision).get(key) if revision >= self.model.compacted else None
        assert (parse_event(frame) if frame else None) == expected
        assert newest == self.model.at(self.model.revision).get(key)

    @rule(back=st.integers(0, 12))
    def hash(self, back: int) -> None:
        """MT-21: whatever compaction has physically done by now."""
        revision = max(self.model.compacted, 1, self.model.revision - back)
        expected = (self.model.hash(revision), self.model.compacted, revision)
        assert self.disk.hash(revision) == expected

    # --- compaction and restarts ---

    @rule(back=st.integers(0, 12))
    def compact(self, back: int) -> None:
        revision = max(0, self.model.revision - back)
        with self.disk.write() as txn:
            if revision <= self.model.compacted:
                with pytest.raises(CompactedError):
                    self.disk.store.schedule_compaction(txn, revision)
                return
            self.disk.store.schedule_compaction(txn, revision)
        self.model.compacted = revision

    @rule()
    def compact_all(self) -> None:
        """At the newest revision, which may be a tombstone's, and to the end."""
        self.compact(back=0)
        while not self.disk.compact_step(7):
            pass

    @precondition(lambda self: self.disk.store.compaction.pending)
    @rule(events=st.integers(1, 20), crash=st.sampled_from([False, False, True]))
    def compact_some(self, events: int, crash: bool) -> None:
        txn = self.disk.write()
        self.disk.store.compaction.step(txn, events)
        if crash:
            txn.abort()
            self.disk.load()
        else:
            txn.commit()

    @rule()
    def restart(self) -> None:
        self.disk.load()
        assert self.disk.store.current_revision == self.model.revision
        assert self.disk.store.compacted_revision == self.model.compacted

    # --- always ---

    @invariant()
    def tables_agree(self) -> None:
        assert self.disk.problems() == []
        assert self.disk.store.live_keys == len(self.model.at(self.model.revision))

    @invariant()
    def events_are_complete(self) -> None:
        """Whoever watches from a readable revision misses nothing, not even a delete exactly there
        (CMP-07)."""
        there = [unpack_revision(revision) for revision, _ in self.disk.events()]
        last = {(w.main, w.key): w.sub for w in self.model.writes}
        above = [(w.main, w.sub) for w in self.model.writes if w.main > self.model.compacted]
        assert [r for r in there if r[0] > self.model.compacted] == above
        at = [w for w in self.model.writes if w.main == self.model.compacted and last[w.main, w.key] == w.sub]
        assert {(w.main, w.sub) for w in at} <= set(there)
        assert [pack_revision(*r) for r in there] == sorted(pack_revision(*r) for r in there)


def _after_put(old: KeyState | None, key: bytes, main: int, value: bytes | None, lease: int | None) -> KeyState:
    if old is None:
        assert value is not None
        assert lease is not None
        return KeyState(key, main, main, 1, value, lease)
    value = old.value if value is None else value
    lease = old.lease if lease is None else lease
    return KeyState(key, old.create, main, old.version + 1, value, lease)


TestStoreBesideHistory = StoreBesideHistory.TestCase
TestStoreBesideHistory.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
