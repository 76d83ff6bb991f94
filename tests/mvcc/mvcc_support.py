"""A store on a directory of its own, and the list of all writes that it is compared with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import google_crc32c
import lmdb

from raftkv.backend.handles import ReadTxn, WriteTxn
from raftkv.backend.schema import DUP_TABLES, Tables
from raftkv.mvcc import RangeQuery, RangeResult, Store, Writer
from raftkv.mvcc.check import check
from raftkv.mvcc.frames import KeyState, parse_event
from raftkv.mvcc.query import ASCEND, CREATE, DESCEND, KEY, MOD, NONE, VALUE, VERSION
from raftkv.mvcc.scan import RangeScan
from raftkv.pb import kv_pb2, rpc_pb2

SORT_FIELDS = {KEY: "key", VERSION: "version", CREATE: "create", MOD: "mod", VALUE: "value"}


class Disk:
    """An LMDB environment with the store's tables; `store` is what is loaded from it."""

    def __init__(self, block_entries: int = 256) -> None:
        self.directory = tempfile.mkdtemp(prefix="raftkv-mvcc-")
        self.open()
        self.block_entries = block_entries
        self.store = self.load()

    def reopen(self) -> None:
        """Opens the environment, the one open until now being closed."""
        self.env.close()
        self.open()

    def open(self) -> None:
        self.env = lmdb.open(self.directory, map_size=1 << 30, sync=False, metasync=False, max_dbs=len(Tables._fields))
        handles = []
        for name in Tables._fields:
            is_dup = name in DUP_TABLES
            handles.append(self.env.open_db(name.encode(), dupsort=is_dup, dupfixed=is_dup))
        self.tables = Tables(*handles)

    def load(self) -> Store:
        """What a restart finds."""
        self.store = Store(self.tables, block_entries=self.block_entries)
        with self.read() as txn:
            self.store.load(txn)
        return self.store

    def close(self) -> None:
        self.env.close()
        shutil.rmtree(self.directory)

    def read(self) -> ReadTxn:
        return self.env.begin()

    def write(self) -> WriteTxn:
        return self.env.begin(write=True)

    @contextmanager
    def batch(self) -> Iterator[Writer]:
        with self.write() as txn:
            writer = self.store.writer(txn)
            yield writer
            writer.finish()
            self.store.flush(txn)

    def put(self, key: bytes, value: bytes = b"v", lease: int = 0) -> int:
        """One request of one put; its revision."""
        with self.batch() as writer:
            writer.begin()
            writer.put(key, value, lease)
            return writer.end()

    def delete(self, key: bytes, range_end: bytes = b"") -> int:
        """One request of one delete; the header's revision."""
        with self.batch() as writer:
            writer.begin()
            writer.delete_range(key, range_end)
            return writer.end()

    def range(self, key: bytes, range_end: bytes = b"", **options: object) -> rpc_pb2.RangeResponse:
        with self.read() as txn:
            return response(self.store.range(txn, RangeQuery(key, range_end, **options)))  # type: ignore[arg-type]

    def keys(self, key: bytes, range_end: bytes = b"", **options: object) -> list[bytes]:
        return [kv.key for kv in self.range(key, range_end, **options).kvs]

    def compact(self, revision: int, *, finish: bool = True) -> None:
        with self.write() as txn:
            self.store.schedule_compaction(txn, revision)
        while finish and not self.compact_step():
            pass

    def compact_step(self, max_events: int = 1000) -> bool:
        with self.write() as txn:
            return self.store.compaction.step(txn, max_events)

    def hash(self, revision: int = 0) -> tuple[int, int, int]:
        """(hash, compact revision, hash revision)."""
        with self.read() as txn:
            scan = self.store.hash_scan(txn, revision)
            while not scan.step():
                pass
            return scan.result()[:3]

    def problems(self) -> list[str]:
        with self.read() as txn:
            return check(txn, self.store)

    def events(self) -> list[tuple[bytes, bytes]]:
        with self.read() as txn:
            return list(txn.cursor(self.tables.events))


def response(result: RangeResult) -> rpc_pb2.RangeResponse:
    """The answer as a client parses it, checked against what the result says about itself."""
    parsed = rpc_pb2.RangeResponse.FromString(result.body)
    assert (parsed.count, len(parsed.kvs), parsed.more) == (result.total, result.returned, result.more)
    assert parsed.SerializeToString() == result.body
    return parsed


def run(scan: RangeScan) -> RangeResult:
    while not scan.step():
        pass
    return scan.result()


@dataclass
class Write:
    """One change in the model."""

    main: int
    sub: int
    key: bytes
    state: KeyState | None
    """None: deleted."""


@dataclass
class Model:
    """The full list of writes, and nothing cleverer than looking through it."""

    writes: list[Write] = field(default_factory=list)
    revision: int = 1
    compacted: int = -1

    def at(self, revision: int) -> dict[bytes, KeyState]:
        states: dict[bytes, KeyState] = {}
        for write in self.writes:
            if write.main > revision:
                break
            if write.state is None:
                del states[write.key]
            else:
                states[write.key] = write.state
        return dict(sorted(states.items()))

    def within(self, key: bytes, range_end: bytes, revision: int) -> list[KeyState]:
        """The interval table of KV 2.2."""
        states = self.at(revision).values()
        if not range_end:
            return [state for state in states if state.key == key]
        return [s for s in states if s.key >= key and (range_end == b"\x00" or s.key < range_end)]

    def range(self, request: rpc_pb2.RangeRequest, newest: int) -> rpc_pb2.RangeResponse:
        """RNG-06..15, in the order of RNG-11; `newest` is what revision 0 means."""
        found = self.within(request.key, request.range_end, request.revision or newest)
        answer = rpc_pb2.RangeResponse(count=len(found))
        if request.count_only:
            return answer
        bounds = (request.min_mod_revision, request.max_mod_revision)
        create_bounds = (request.min_create_revision, request.max_create_revision)
        filtered = any(bounds + create_bounds)
        kvs = [s for s in found if _inside(s.mod, *bounds) and _inside(s.create, *create_bounds)]
        if request.sort_order == NONE and request.sort_target != KEY and not filtered and request.limit > 0:
            kvs = kvs[: request.limit + 1]
        if request.sort_order != NONE or request.sort_target != KEY:
            name = SORT_FIELDS[request.sort_target]
            kvs.sort(key=lambda s: getattr(s, name), reverse=request.sort_order == DESCEND)
        answer.more = 0 < request.limit < len(kvs)
        for state in kvs[: request.limit if request.limit > 0 else None]:
            answer.kvs.append(key_value(state, keys_only=request.keys_only))
        return answer

    def hash(self, revision: int) -> int:
        """etcd's algorithm, on the full list: see raftkv.mvcc.hashkv."""
        alive = {(s.mod, s.key) for s in self.at(revision).values()}
        alive_at_compact = {(s.mod, s.key) for s in self.at(self.compacted).values()}
        kept = alive or alive_at_compact
        crc = google_crc32c.extend(0, b"key")
        last = {(w.main, w.key): w.sub for w in self.writes}
        for write in self.writes:
            if write.main > revision:
                break
            if write.main <= self.compacted and (
                write.state is None or (write.main, write.key) not in kept or last[write.main, write.key] != write.sub
            ):
                continue
            crc = google_crc32c.extend(crc, write.main.to_bytes(8, "big") + b"_" + write.sub.to_bytes(8, "big"))
            if write.state is None:
                crc = google_crc32c.extend(crc, b"t" + kv_pb2.KeyValue(key=write.key).SerializeToString())
            else:
                crc = google_crc32c.extend(crc, key_value(write.state).SerializeToString())
        return crc


def _inside(value: int, low: int, high: int) -> bool:
    return value >= low and (high == 0 or value <= high)


def key_value(state: KeyState, *, keys_only: bool = False) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=state.key,
        create_revision=state.create,
        mod_revision=state.mod,
        version=state.version,
        value=b"" if keys_only else state.value,
        lease=state.lease,
    )


def states(frames: list[bytes]) -> list[KeyState]:
    return [parse_event(frame) for frame in frames]


__all__ = [
    "ASCEND",
    "CREATE",
    "DESCEND",
    "KEY",
    "MOD",
    "NONE",
    "VALUE",
    "VERSION",
    "Disk",
    "Model",
    "Write",
    "run",
]
