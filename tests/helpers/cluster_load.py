"""Loads on a whole cluster while it is hurt, and what they prove afterwards.

ClusterLoad writes unique keys through all members and knows what was acknowledged. FreshReads reads one register
through all members and notices every stale answer. Knows nothing of what is done to the members meanwhile.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import grpc

from helpers.cluster import Cluster, Member
from helpers.grpc_calls import Calls, connect
from helpers.load import History, check_nothing_lost, check_watch_tells_the_history, value_of
from helpers.waiting import PATIENCE_S, WaitedInVainError
from raftkv.pb import rpc_pb2

_CALL_TIMEOUT_S: Final = 3.0
"""Shorter than the member's own: a client of a paused member goes on with another one."""
_PAUSE_S: Final = 0.01
"""Between two calls of one thread: many rounds of faults must not make the final checks long."""
_REGISTER: Final = b"register"


class ClusterLoad:
    """Threads that put keys of their own through all members, going on with another member after a failure.

    Even threads put each key once; after an error its outcome is unknown. Odd threads write with a transaction that
    only creates, and retry it on other members until they know: the key is there once, whoever answered.
    """

    def __init__(self, members: Sequence[Member], name: str, threads: int = 4, history: History | None = None) -> None:
        """name: part of each key; no two loads of one history share it."""
        self.history = history if history is not None else History()
        self.acknowledged_at: list[float] = []
        """Monotonic time of each acknowledgement, ascending."""
        self._endpoints = [member.endpoint for member in members]
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._threads = [
            threading.Thread(
                target=self._write_until_stopped,
                args=(number, f"load/{name}/{number}/".encode(), number % 2 == 1),
            )
            for number in range(threads)
        ]

    def __enter__(self) -> ClusterLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_more(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until this many further writes have been acknowledged: the cluster serves. Raises WaitedInVainError."""
        acknowledged = self.history.acknowledged
        with self._progress:
            total = len(acknowledged) + count
            if not self._progress.wait_for(lambda: len(acknowledged) >= total, timeout_s):
                done = len(acknowledged) - total + count
                raise WaitedInVainError(f"only {done} of {count} writes were acknowledged in {timeout_s:g} s")

    def longest_gap_s(self, since: float) -> float:
        """The longest time without any acknowledgement, from a moment of time.monotonic() to the last one."""
        times = [since, *(each for each in self.acknowledged_at if each > since)]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    def _write_until_stopped(self, turn: int, prefix: bytes, retries: bool) -> None:
        channels = [connect(endpoint) for endpoint in self._endpoints]
        every_kv = [Calls(channel).KV for channel in channels]
        try:
            for number in itertools.count():
                key = prefix + b"%06d" % number
                while not self._stopping.is_set():
                    kv = every_kv[turn % len(every_kv)]
                    revision = _create(kv, key) if retries else _put(kv, key)
                    if revision:
                        self._note(key, revision)
                        self._stopping.wait(_PAUSE_S)
                        break
                    self.history.unknown.add(key)
                    turn += 1
                    self._stopping.wait(_PAUSE_S)
                    if not retries:
                        break
                if self._stopping.is_set():
                    return
        finally:
            for channel in channels:
                channel.close()

    def _note(self, key: bytes, revision: int) -> None:
        with self._progress:
            self.history.acknowledged[key] = revision
            self.history.unknown.discard(key)
            self.acknowledged_at.append(time.monotonic())
            self._progress.notify_all()


def _put(kv: Any, key: bytes) -> int:
    """The revision, 0 if no answer came."""
    request = rpc_pb2.PutRequest(key=key, value=value_of(key))
    try:
        return int(kv.Put(request, timeout=_CALL_TIMEOUT_S).header.revision)
    except grpc.RpcError:
        return 0


def _create(kv: Any, key: bytes) -> int:
    """The revision at which the key was created, now or by an earlier try; 0 if no answer came."""
    absent = rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.CREATE, create_revision=0)
    request = rpc_pb2.TxnRequest(
        compare=[absent],
        success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value_of(key)))],
        failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))],
    )
    try:
        answer = kv.Txn(request, timeout=_CALL_TIMEOUT_S)
    except grpc.RpcError:
        return 0
    if answer.succeeded:
        return int(answer.header.revision)
    return int(answer.responses[0].response_range.kvs[0].create_revision)


def check_all_members_have(cluster: Cluster, history: History, watches: bool = True) -> None:
    """Every acknowledged write is on every serving member exactly as acknowledged, and all have one hash."""
    cluster.leader()
    cluster.wait_same_hash()
    for member in cluster.serving():
        check_nothing_lost(member.endpoint, history)
        if watches:
            check_watch_tells_the_history(member.endpoint, history)
    cluster.wait_same_hash()


class FreshReads:
    """One thread overwrites a register through all members; one more per member reads it there, linearizably.

    No read may answer an older revision than one that was acknowledged or read anywhere before it began (RF-36, RF-57),
    nor another value than the one that was written at that revision. A write whose answer never came may still be
    applied later; it then has a later revision, so it breaks neither rule.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._endpoints = [member.endpoint for member in members]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._known: dict[int, bytes] = {0: b""}
        """Revision of the register -> its value, as far as any answer told. Revision 0: the register is not there."""
        self._floor = 0
        """The highest revision known: what a read that begins now must at least answer."""
        self.reads = 0
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._write)]
        self._threads += [threading.Thread(target=self._read, args=(endpoint,)) for endpoint in self._endpoints]

    def __enter__(self) -> FreshReads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def check(self) -> None:
        """End the reads. Raises AssertionError if one was wrong, or if nothing was checked."""
        self.stop()
        assert self.reads > 0, "no read was answered: nothing was checked"
        assert not self.wrong, f"{len(self.wrong)} answers were wrong, {self.reads} reads in all: {self.wrong[:5]}"

    def floor(self) -> int:
        with self._lock:
            return self._floor

    def on_write(self, endpoint: str, revision: int, value: bytes) -> None:
        """A put was acknowledged with this revision."""
        with self._lock:
            self._learn(endpoint, revision, value)

    def on_read(self, endpoint: str, floor: int, revision: int, value: bytes) -> None:
        """A read that began when `floor` was known was answered."""
        with self._lock:
            self.reads += 1
            if revision < floor:
                self.wrong.append(f"{endpoint} answered revision {revision} when {floor} was known")
            self._learn(endpoint, revision, value)

    def _learn(self, endpoint: str, revision: int, value: bytes) -> None:
        known = self._known.setdefault(revision, value)
        if known != value:
            self.wrong.append(f"{endpoint} says that revision {revision} is {value!r}, but it was {known!r}")
        self._floor = max(self._floor, revision)

    def _write(self) -> None:
        channels = [connect(endpoint) for endpoint in self._endpoints]
        turns = itertools.cycle(zip(self._endpoints, [Calls(channel).KV.Put for channel in channels], strict=True))
        for number in itertools.count(1):
            if self._stopping.is_set():
                break
            endpoint, put = next(turns)
            value = b"%d" % number
            try:
                response = put(rpc_pb2.PutRequest(key=_REGISTER, value=value), timeout=_CALL_TIMEOUT_S)
            except grpc.RpcError:
                pass
            else:
                self.on_write(endpoint, response.header.revision, value)
            self._stopping.wait(_PAUSE_S)
        for channel in channels:
            channel.close()

    def _read(self, endpoint: str) -> None:
        request = rpc_pb2.RangeRequest(key=_REGISTER)
        with connect(endpoint) as channel:
            kv = Calls(channel).KV
            while not self._stopping.is_set():
                floor = self.floor()
                try:
                    kvs = kv.Range(request, timeout=_CALL_TIMEOUT_S).kvs
                except grpc.RpcError:
                    pass
                else:
                    self.on_read(endpoint, floor, *((kvs[0].mod_revision, kvs[0].value) if kvs else (0, b"")))
                self._stopping.wait(_PAUSE_S)
