"""A small model of the apiserver's watch cache: objects built from a list and the watch that follows it.

Owns the list-then-watch life (list, watch from its revision, resume, list again when compacted) and everything that
the apiserver relies on in a watch: K8-10 to K8-12, K8-15, K8-16. What it breaks on is an AssertionError that `check`
raises.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import grpc
from helpers.member_client import HAS_LEADER, Code, refusal_of
from helpers.waiting import PATIENCE_S, WaitedInVainError
from kube_store import COMPACTED, UNKNOWN_OUTCOME, KubeStore, prefix_end

from raftkv.pb import kv_pb2, rpc_pb2

PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE
PROGRESS_EVERY_S: Final = 0.1
_RETRY_S: Final = 0.05
_PAGE: Final = 50

Objects = dict[bytes, kv_pb2.KeyValue]


class Snapshot(NamedTuple):
    """What a cache would answer a consistent list with."""

    revision: int
    objects: Objects


class WatchCache:
    """The objects below a prefix, kept by a thread of its own.

    is_gone(revision): whether a compaction may have taken this revision by now; a previous value may then be missing.
    """

    def __init__(
        self,
        store: KubeStore,
        prefix: bytes,
        is_gone: Callable[[int], bool] = lambda revision: False,
        manual_progress: bool = True,
    ) -> None:
        self.prefix = prefix
        self.history: list[kv_pb2.Event] = []
        """Every event since the last list, in the order told."""
        self.first_list: Snapshot | None = None
        self.lists = 0
        self.watches = 0
        self.bookmarks = {"automatic": 0, "manual": 0}
        self.compacted = 0
        """The compact_revision of the last watch that was ended by a compaction; 0 if none was."""
        self._store = store
        self._is_gone = is_gone
        self._manual_progress = manual_progress
        self._objects: Objects = {}
        self._revision = 0
        self._changed = threading.Condition()
        self._requests: queue.SimpleQueue[rpc_pb2.WatchRequest | None] = queue.SimpleQueue()
        self._call: Any = None
        self._go_on = threading.Event()
        """Cleared while the cache has no connection: it neither watches nor lists."""
        self._go_on.set()
        self._stopping = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name=f"cache of {prefix!r}")

    # for the test

    def start(self) -> WatchCache:
        self._thread.start()
        self.wait("has listed", lambda: self.watches > 0)
        return self

    def end(self) -> None:
        """End the watch by closing its stream only (K8-16)."""
        self._stopping = True
        self._go_on.set()
        self._cut()
        self._thread.join()

    def __enter__(self) -> WatchCache:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.end()

    def check(self) -> None:
        if self._broken is not None:
            raise self._broken

    @property
    def revision(self) -> int:
        return self._revision

    def disconnect(self) -> None:
        """Drop the stream and stay away until `reconnect`."""
        self._go_on.clear()
        self._cut()

    def reconnect(self) -> None:
        """Watch again from where the cache stands."""
        self._go_on.set()

    def wait(self, what: str, look: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Until `look` is true; asked after every response. Raises what the model broke on, or WaitedInVainError."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._broken is not None or look(), timeout_s)
        self.check()
        if not came:
            raise WaitedInVainError(f"waited {timeout_s:g} s in vain until the cache of {self.prefix!r} {what}")

    def consistent_list(self, revision: int, timeout_s: float = PATIENCE_S) -> Snapshot:
        """The objects, once the cache is known to be as new as this revision (K8-12).

        While it waits it asks for progress every 100 ms: no event need come below this prefix.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._is_as_new_as(revision, PROGRESS_EVERY_S):
                if time.monotonic() > deadline:
                    raise WaitedInVainError(
                        f"the cache of {self.prefix!r} stands at {self._revision} and was not told of {revision}"
                    )
                if self._manual_progress:
                    self._requests.put(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
            self.check()
            return Snapshot(self._revision, dict(self._objects))

    def _is_as_new_as(self, revision: int, timeout_s: float) -> bool:
        return self._changed.wait_for(lambda: self._broken is not None or self._revision >= revision, timeout_s)

    # the life of the cache

    def _live(self) -> None:
        try:
            while not self._stopping:
                if self._list():
                    self._watch_until_compacted()
        except BaseException as error:
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _list(self) -> bool:
        """Replace the objects with a list in pages; False if a compaction or an outage cut it short."""
        objects: Objects = {}
        revision, continue_key, more = 0, b"", True
        while more:
            try:
                page = self._store.page(self.prefix, _PAGE, revision, continue_key)
            except grpc.RpcError as error:
                why = refusal_of(error)
                assert why == COMPACTED or why[0] in UNKNOWN_OUTCOME, why
                time.sleep(_RETRY_S)
                return False
            revision = revision or page.revision
            objects.update({kv.key: kv for kv in page.kvs})
            more = page.more
            if more:
                continue_key = page.kvs[-1].key + b"\0"
        assert revision >= self._revision, "a linearizable list is older than what a watch had told"
        with self._changed:
            self._objects, self._revision = objects, revision
            self.history.clear()
            self.lists += 1
            if self.first_list is None:
                self.first_list = Snapshot(revision, dict(objects))
            self._changed.notify_all()
        return True

    def _watch_until_compacted(self) -> None:
        """Watch, and watch again from the last known revision, until the history that it needs is gone."""
        while not self._stopping:
            self._go_on.wait()
            if self._stopping or self._watch_once():
                return
            time.sleep(_RETRY_S)

    def _watch_once(self) -> bool:
        """One stream; whether the cache has to list again."""
        self._requests = queue.SimpleQueue()
        create = rpc_pb2.WatchCreateRequest(
            key=self.prefix,
            range_end=prefix_end(self.prefix),
            start_revision=self._revision + 1,
            prev_kv=True,
            progress_notify=True,
        )
        self._requests.put(rpc_pb2.WatchRequest(create_request=create))
        self._call = self._store.calls.Watch.Watch(iter(self._requests.get, None), metadata=HAS_LEADER)
        if self._stopping or not self._go_on.is_set():
            self._cut()
        try:
            return self._follow(self._call)
        except grpc.RpcError as error:
            why = refusal_of(error)
            assert why[0] in {Code.UNAVAILABLE, Code.CANCELLED}, why
            return False
        finally:
            self._cut()

    def _follow(self, responses: Iterator[rpc_pb2.WatchResponse]) -> bool:
        created = next(responses)
        assert created.created
        assert not created.canceled, created.cancel_reason
        assert not created.events
        with self._changed:
            self.watches += 1
            self._changed.notify_all()
        for response in responses:
            assert not response.created
            if response.canceled:
                assert response.watch_id == created.watch_id
                assert response.compact_revision > 0, f"K8-15: cancelled for another reason: {response}"
                assert response.compact_revision > self._revision + 1, "W-12: the history needed is still there"
                self.compacted = response.compact_revision
                return True
            with self._changed:
                complete = self._take(response, created.watch_id)
                self._changed.notify_all()
            if not complete:
                return True
        return False

    def _take(self, response: rpc_pb2.WatchResponse, watch_id: int) -> bool:
        """Apply events or a bookmark. False if a previous value was lost to a compaction: the apiserver starts anew."""
        assert response.HasField("header")
        if not response.events:
            self._bookmark(response, watch_id)
            return True
        assert response.watch_id == watch_id
        assert response.header.revision >= response.events[-1].kv.mod_revision
        for first, event in enumerate(response.events):
            revision = event.kv.mod_revision
            if first == 0 or revision != response.events[first - 1].kv.mod_revision:
                assert revision > self._revision, f"told {revision} after {self._revision} (W-54, W-55, W-72)"
            if not self._apply(event):
                return False
            self._revision = revision
            self.history.append(event)
        return True

    def _bookmark(self, response: rpc_pb2.WatchResponse, watch_id: int) -> None:
        """K8-11."""
        kind = {watch_id: "automatic", -1: "manual"}[response.watch_id]
        self.bookmarks[kind] += 1
        if response.header.revision > self._revision:
            self._revision = response.header.revision

    def _apply(self, event: kv_pb2.Event) -> bool:
        """K8-10. The previous value that comes with an event must be the object that the cache has."""
        kv, old = event.kv, self._objects.get(event.kv.key)
        if event.type == PUT and kv.create_revision == kv.mod_revision:
            assert kv.version == 1
            assert old is None, f"{kv.key!r} is added, and was there"
            assert not event.HasField("prev_kv")
            self._objects[kv.key] = kv
            return True
        if not event.HasField("prev_kv"):
            assert self._is_gone(kv.mod_revision - 1), f"{kv.key!r} at {kv.mod_revision} came without its old value"
            return False
        assert event.prev_kv == old, f"the old value of {kv.key!r} at {kv.mod_revision} is not what was told before"
        if event.type == PUT:
            assert (kv.create_revision, kv.version) == (old.create_revision, old.version + 1)
            self._objects[kv.key] = kv
        else:
            assert kv == kv_pb2.KeyValue(key=kv.key, mod_revision=kv.mod_revision), "W-52"
            del self._objects[kv.key]
        return True

    def _cut(self) -> None:
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()
