"""What a cluster's apiservers do all day, all of it at once: the load of a trace.

Owns the threads and what each does in a loop. Every reply goes into the record; whether it was true is judged
afterwards, in kube_replay.py. A thread that breaks on something keeps it, and `stop` raises it.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import grpc
from helpers.member_client import refusal_of
from kube_cache import WatchCache
from kube_replay import Record, Seen, Write
from kube_store import COMPACTED, DROPPED, HEALTH_KEY, LEASE_NOT_FOUND, KubeStore, is_unknown, prefix_end

from raftkv.pb import kv_pb2

REGISTRY: Final = b"/registry/"
PODS: Final = b"/registry/pods/"
CONFIG_MAPS: Final = b"/registry/configmaps/"
EVENTS: Final = b"/registry/events/"
NAMESPACES: Final = b"/registry/namespaces/"
"""Nobody writes here during a trace."""

_PODS: Final = 60
_PAGE: Final = 7
_COMPACT_EVERY_S: Final = 0.4
"""In place of the five minutes between two compactions."""
_EVENT_TTL_S: Final = 2
"""In place of an hour."""
_LEASE_KEYS: Final = 25
"""In place of the thousand keys that may share a lease."""


def kube_object(kind: str, name: str, generation: int) -> bytes:
    """A stored object: unlike any other that this name ever had."""
    meta = {"name": name, "uid": f"{kind}-{name}", "generation": generation, "labels": {"app": name[-1]}}
    return b"k8s\x00" + json.dumps({"kind": kind, "metadata": meta, "spec": "x" * (generation * 37 % 900)}).encode()


class SharedLeases:
    """One lease for all keys of the same TTL, until the window is over or enough keys have it (K8-17)."""

    def __init__(self, store: KubeStore, record: Record, ttl_s: int, keys: int = _LEASE_KEYS) -> None:
        self._store = store
        self._record = record
        self._ttl_s = ttl_s
        self._window_s = min(60.0, ttl_s * 0.05)
        self._most_keys = keys
        self._lease, self._keys, self._until = 0, 0, 0.0

    def take(self) -> int:
        """A lease for one more key."""
        now = time.monotonic()
        if self._keys >= self._most_keys or now > self._until:
            self._lease = self._store.grant(self._ttl_s + int(self._window_s))
            self._record.leases.add(self._lease)
            self._keys, self._until = 0, now + self._window_s
        self._keys += 1
        return self._lease

    def forget(self) -> None:
        """The lease has run out under our hands."""
        self._until = 0.0


class Trace:
    """All the load on one subject. A context manager; `stop` ends it and raises what went wrong.

    may_fail: writes and reads may end without an answer, because members die.
    """

    def __init__(self, endpoints: Sequence[str], recorder: WatchCache, seed: int, may_fail: bool) -> None:
        self.record = Record()
        self.conflicts = 0
        self.lists_cut_short = 0
        self.compactions: list[int] = []
        self.outages = 0
        self.caches: list[WatchCache] = []
        self._endpoints = endpoints
        self._recorder = recorder
        self._seed = seed
        self._may_fail = may_fail
        self._stopping = threading.Event()
        self._broken: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._stores: list[KubeStore] = []

    def new_store(self) -> KubeStore:
        """The client of one more apiserver."""
        store = KubeStore(self._endpoints)
        self._stores.append(store)
        return store

    def start(self, manual_progress: bool) -> Trace:
        one, other = self.new_store(), self.new_store()
        for store, prefix in ((one, PODS), (other, PODS), (other, NAMESPACES)):
            self.caches.append(WatchCache(store, prefix, self.record.is_gone, manual_progress).start())
        self.steady, self.cut, self.quiet = self.caches
        self._run(self._pods(one, 0), 0.001)
        self._run(self._pods(other, 1), 0.001)
        self._run(self._config_maps(one), 0.004)
        self._run(self._events(other), 0.01)
        self._run(self._lists(one), 0.02)
        self._run(self._lists_of_everything(other), 0.05)
        self._run(self._consistent_lists(other, self.steady), 0.05)
        self._run(self._consistent_lists(one, self.quiet), 0.05)
        self._run(self._counts(other), 0.03)
        self._run(self._cutting(self.cut), 0.4)
        self._run(self._compactor(one), _COMPACT_EVERY_S)
        self._run(self._compactor(other), _COMPACT_EVERY_S)
        self._run(self._health(one), 0.2)
        return self

    def stop(self) -> None:
        self._end()
        if self._broken:
            raise self._broken[0]
        for cache in self.caches:
            cache.check()

    def check(self) -> None:
        """Raises what went wrong so far."""
        if self._broken:
            raise self._broken[0]
        self._recorder.check()

    def wait_writes(self, more: int, timeout_s: float = 60.0) -> None:
        """Until so many more writes are acknowledged."""
        target = len(self.record.writes) + more
        self.record.wait_writes(target, timeout_s)
        self.check()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()
        for cache in self.caches:
            cache.end()
        for store in self._stores:
            store.close()

    def _end(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, turn: Callable[[], None], pause_s: float) -> None:
        def repeat() -> None:
            try:
                while not self._stopping.wait(pause_s):
                    self._try(turn)
            except BaseException as error:
                self._broken.append(error)

        self._threads.append(threading.Thread(target=repeat))
        self._threads[-1].start()

    def _try(self, turn: Callable[[], None]) -> None:
        try:
            turn()
        except grpc.RpcError as error:
            if not (self._may_fail and (is_unknown(error) or refusal_of(error) == DROPPED)):
                raise
            self.outages += 1

    # writers

    def _write(self, store: KubeStore, write: Write) -> tuple[int, bytes] | None:
        """One optimistic transaction. What is known of the key then: (mod_revision, value), or None if it is gone."""
        try:
            if write.value is None:
                answer = store.delete(write.key, write.expected)
            else:
                answer = store.put(write.key, write.value, write.expected, write.lease)
        except grpc.RpcError as error:
            if self._may_fail and is_unknown(error):
                self.record.unknown.append(write)
            raise
        if answer.succeeded:
            self.record.acknowledge(answer.revision, write)
            return None if write.value is None else (answer.revision, write.value)
        self.conflicts += 1
        self._saw("the Else branch", answer.revision, write.key, b"", [answer.kv] if answer.kv else [])
        return (answer.kv.mod_revision, answer.kv.value) if answer.kv else None

    def _pods(self, store: KubeStore, number: int) -> Callable[[], None]:
        """Create, update and delete what the other one creates, updates and deletes too: half of it conflicts."""
        rng = random.Random(self._seed + number)
        known: dict[bytes, tuple[int, bytes]] = {}
        generations = itertools.count(number, 2)

        def turn() -> None:
            name = f"pod-{rng.randrange(_PODS):03}"
            key = PODS + b"default/" + name.encode()
            revision, _value = known.pop(key, (0, b""))
            deletes = revision and rng.random() < 0.3
            value = None if deletes else kube_object("Pod", name, next(generations))
            state = self._write(store, Write(key, value, 0, revision))
            if state is not None:
                known[key] = state

        return turn

    def _config_maps(self, store: KubeStore) -> Callable[[], None]:
        """Nobody else writes here: each write succeeds, and what a get gives is the value put last."""
        known: dict[bytes, tuple[int, bytes]] = {}
        generations = itertools.count()

        def turn() -> None:
            generation = next(generations)
            key = CONFIG_MAPS + b"kube-system/map-%02d" % (generation % 30)
            if key not in known:  # the first write, or one whose answer never came
                page = self._get(store, key)
                known[key] = (page.mod_revision, page.value) if page else (0, b"")
            revision, _value = known.pop(key)
            write = Write(key, kube_object("ConfigMap", "map", generation), 0, revision)
            state = self._write(store, write)
            assert state, "a key that only one client writes was gone"
            late = {each.value for each in self.record.unknown if each.key == key}
            assert state[1] == write.value or state[1] in late, "a key that only one client writes was changed"
            known[key] = state

        return turn

    def _events(self, store: KubeStore) -> Callable[[], None]:
        """Objects that leases take away again."""
        leases = SharedLeases(store, self.record, _EVENT_TTL_S)
        numbers = itertools.count()

        def turn() -> None:
            number = next(numbers)
            key = EVENTS + b"default/event-%06d" % number
            try:
                self._write(store, Write(key, kube_object("Event", "event", number), leases.take(), 0))
            except grpc.RpcError as error:
                leases.forget()
                if refusal_of(error) != LEASE_NOT_FOUND:
                    raise

        return turn

    # readers

    def _saw(
        self, who: str, revision: int, start: bytes, end: bytes, kvs: Sequence[kv_pb2.KeyValue] | None, count: int = -1
    ) -> None:
        total = len(kvs) if kvs is not None and count < 0 else count
        self.record.seen.append(Seen(who, revision, start, end, kvs, total))

    def _get(self, store: KubeStore, key: bytes) -> kv_pb2.KeyValue | None:
        page = store.get(key, limit=1)
        self._saw("a get", page.revision, key, b"", page.kvs)
        return page.kvs[0] if page.kvs else None

    def _lists(self, store: KubeStore) -> Callable[[], None]:
        """K8-04: pages at the revision of the first one, while others write. K8-06 when a compaction comes between."""

        def turn() -> None:
            revision, continue_key, more = 0, b"", True
            while more:
                try:
                    page = store.page(PODS, _PAGE, revision, continue_key)
                except grpc.RpcError as error:
                    if refusal_of(error) != COMPACTED:
                        raise
                    assert self.record.is_gone(revision), f"nobody compacted {revision}"
                    self.lists_cut_short += 1
                    return
                if revision:
                    assert page.revision >= revision
                revision = revision or page.revision
                self._saw("a page", revision, continue_key or PODS, prefix_end(PODS), page.kvs, page.total)
                more = page.more
                if more:
                    continue_key = page.kvs[-1].key + b"\0"
                    time.sleep(0.005)

        return turn

    def _lists_of_everything(self, store: KubeStore) -> Callable[[], None]:
        def turn() -> None:
            page = store.page(REGISTRY, 0)
            self._saw("a list", page.revision, REGISTRY, prefix_end(REGISTRY), page.kvs, page.total)

        return turn

    def _consistent_lists(self, store: KubeStore, cache: WatchCache) -> Callable[[], None]:
        """K8-12: an acknowledged write is in every consistent list from the cache that was asked for after it."""

        def turn() -> None:
            # Where nobody writes, no event brings the cache up to this revision: only progress can.
            snapshot = cache.consistent_list(store.get(HEALTH_KEY).revision)
            kvs = [kv for _key, kv in sorted(snapshot.objects.items())]
            self._saw("a consistent list", snapshot.revision, cache.prefix, prefix_end(cache.prefix), kvs)

        return turn

    def _counts(self, store: KubeStore) -> Callable[[], None]:
        def turn() -> None:
            for prefix in (PODS, EVENTS):
                page = store.count(prefix)
                self._saw("a count", page.revision, prefix, prefix_end(prefix), None, page.total)

        return turn

    # the rest of an apiserver

    @staticmethod
    def _cutting(cache: WatchCache) -> Callable[[], None]:
        """A cache whose connection comes and goes; now and then it is away for longer than history is kept."""
        absences = itertools.cycle((0.0, 0.05, 1.2))

        def turn() -> None:
            cache.disconnect()
            time.sleep(next(absences))
            cache.reconnect()

        return turn

    def _compactor(self, store: KubeStore) -> Callable[[], None]:
        """K8-18, K8-19: the winner of the turn compacts to where the store was at the turn before."""
        turn_number, revision = 0, 0

        def turn() -> None:
            nonlocal turn_number, revision
            # Never past the recorder, which is to miss nothing: as with five minutes between two compactions.
            target = min(revision, self._recorder.revision)
            won, turn_number, revision = store.compact_turn(turn_number, target)
            if not won or target == 0:
                return
            self.record.compacting = max(self.record.compacting, target)
            try:
                store.compact(target)
                self.compactions.append(target)
            except grpc.RpcError as error:
                if refusal_of(error) != COMPACTED:
                    raise

        return turn

    @staticmethod
    def _health(store: KubeStore) -> Callable[[], None]:
        def turn() -> None:
            store.health()
            store.status()

        return turn
