"""A load of puts that remembers what the server acknowledged, and the check that nothing of it was lost.

Unknown is not failure: a put whose answer never came may be in the store or not, but never as another value.
"""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import grpc

from helpers.grpc_calls import Calls, connect
from raftkv.pb import kv_pb2, rpc_pb2

_PUT_TIMEOUT_S: Final = 10.0
_READ_TIMEOUT_S: Final = 30.0
_LARGEST_VALUE_BYTES: Final = 2048


def value_of(key: bytes) -> bytes:
    """The one value that a key is ever given; its size varies from key to key."""
    seed = blake2b(key, digest_size=16).digest()
    size_bytes = int.from_bytes(seed[:2], "big") % _LARGEST_VALUE_BYTES + len(seed)
    return (seed * (size_bytes // len(seed) + 1))[:size_bytes]


@dataclass(slots=True)
class History:
    """What one client side knows of its puts."""

    acknowledged: dict[bytes, int] = field(default_factory=dict)
    """Key -> revision that the server gave in its answer."""
    unknown: set[bytes] = field(default_factory=set)
    """Keys whose put ended without an answer."""


class Load:
    """Threads that each put keys of their own, one at a time, until the server is gone or `stop`."""

    def __init__(self, endpoint: str, name: str, history: History, threads: int = 8) -> None:
        """name: part of each key; no two loads of one history share it."""
        self._endpoint = endpoint
        self._history = history
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._threads = [
            threading.Thread(target=self._put_until_the_end, args=(f"load/{name}/{number}/".encode(),))
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the load; after a kill the threads have ended by themselves."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_acknowledged(self, total: int, timeout_s: float = 30.0) -> None:
        """Wait until the history has so many acknowledged puts. Raises TimeoutError."""
        with self._progress:
            if not self._progress.wait_for(lambda: len(self._history.acknowledged) >= total, timeout_s):
                raise TimeoutError(f"only {len(self._history.acknowledged)} of {total} puts were acknowledged")

    def _put_until_the_end(self, prefix: bytes) -> None:
        history = self._history
        with connect(self._endpoint) as channel:
            put = Calls(channel).KV.Put
            for number in itertools.count():
                if self._stopping.is_set():
                    return
                key = prefix + b"%06d" % number
                try:
                    response = put(rpc_pb2.PutRequest(key=key, value=value_of(key)), timeout=_PUT_TIMEOUT_S)
                except grpc.RpcError:
                    history.unknown.add(key)
                    return
                with self._progress:
                    history.acknowledged[key] = response.header.revision
                    self._progress.notify_all()


def check_nothing_lost(endpoint: str, history: History) -> None:
    """Every acknowledged put is there as it was acknowledged, and nothing else is (PUT-06, KV-10)."""
    with connect(endpoint) as channel:
        request = rpc_pb2.RangeRequest(key=b"load/", range_end=b"load0")
        response = Calls(channel).KV.Range(request, timeout=_READ_TIMEOUT_S)
    stored = {kv.key: kv for kv in response.kvs}
    lost = sorted(key for key in history.acknowledged if key not in stored)
    assert not lost, f"{len(lost)} acknowledged puts are lost: {lost[:5]}"
    owners: dict[int, bytes] = {}
    for key, revision in history.acknowledged.items():
        assert owners.setdefault(revision, key) == key, f"{key!r} and {owners[revision]!r} both got {revision}"
    for key, kv in stored.items():
        _check_kv(kv, history)
        assert kv.mod_revision <= response.header.revision, f"{key!r} is newer than the store"


def check_watch_tells_the_history(endpoint: str, history: History) -> None:
    """A watch from the first revision gives each put once, in revision order (W-54)."""
    seen: set[bytes] = set()
    last_revision = 0
    for event in _events_from_the_start(endpoint):
        key = event.kv.key
        assert event.kv.mod_revision > last_revision, f"{key!r} is out of order"
        assert key not in seen, f"{key!r} was told twice"
        _check_kv(event.kv, history)
        last_revision = event.kv.mod_revision
        seen.add(key)
    missing = sorted(history.acknowledged.keys() - seen)
    assert not missing, f"the watch left out {len(missing)} acknowledged puts: {missing[:5]}"


def _check_kv(kv: kv_pb2.KeyValue, history: History) -> None:
    assert kv.key in history.acknowledged or kv.key in history.unknown, f"{kv.key!r} was never put"
    assert kv.value == value_of(kv.key), f"{kv.key!r} has another value than it was put with"
    assert (kv.version, kv.create_revision) == (1, kv.mod_revision), f"{kv.key!r} was put more than once"
    acknowledged = history.acknowledged.get(kv.key, kv.mod_revision)
    assert kv.mod_revision == acknowledged, f"{kv.key!r} has revision {kv.mod_revision}, not {acknowledged}"


def _events_from_the_start(endpoint: str) -> Iterator[kv_pb2.Event]:
    """All events under load/ up to a marker that is put now."""
    with connect(endpoint) as channel:
        calls = Calls(channel)
        marker = calls.KV.Put(rpc_pb2.PutRequest(key=b"load-ends"), timeout=_PUT_TIMEOUT_S).header.revision
        create = rpc_pb2.WatchCreateRequest(key=b"load", range_end=b"loae", start_revision=2)
        # Stay on the safe side of W-32: the request stream is open until the marker has come.
        done = threading.Event()

        def requests() -> Iterator[rpc_pb2.WatchRequest]:
            yield rpc_pb2.WatchRequest(create_request=create)
            done.wait()

        stream = calls.Watch.Watch(requests(), timeout=_READ_TIMEOUT_S)
        try:
            for response in stream:
                for event in response.events:
                    if event.kv.mod_revision >= marker:
                        return
                    if event.kv.key != b"load-ends":
                        yield event
        finally:
            done.set()
            stream.cancel()
