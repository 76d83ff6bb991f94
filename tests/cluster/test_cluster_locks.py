"""Locks and elections over members: a claim is where any member can see it, and outlives the leader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from helpers.cluster import ELECTION_S, Cluster, Member
from helpers.grpc_calls import Calls, connect
from helpers.member_client import HAS_LEADER, NO_LEADER, Code, refusal_of
from helpers.waiting import stays_true, wait_until

from raftkv.pb import election_pb2, lock_pb2, rpc_pb2

pytestmark = [pytest.mark.crash, pytest.mark.slow]

_LONG_S = 3600
_PATIENCE_S = 60.0


def _begin_lock(member: Member, lease: int) -> Any:
    """A Lock call whose claim is there, and can be seen by this member."""
    request = lock_pb2.LockRequest(name=b"lock", lease=lease)
    future = member.client.calls.Lock.Lock.future(request, timeout=_PATIENCE_S)
    wait_until("the claim is made", lambda: _key(lease) in _claims(member))
    return future


def _lock(member: Member, lease: int) -> lock_pb2.LockResponse:
    response = _begin_lock(member, lease).result()
    assert isinstance(response, lock_pb2.LockResponse)
    return response


def _unlock(member: Member, key: bytes) -> None:
    member.client.calls.Lock.Unlock(lock_pb2.UnlockRequest(key=key), timeout=_PATIENCE_S)


def _key(lease: int) -> bytes:
    return b"lock/%x" % lease


def _claims(member: Member, **fields: Any) -> list[bytes]:
    """The oldest first."""
    kvs = member.client.range(b"lock/", b"lock0", **fields).kvs
    return [kv.key for kv in sorted(kvs, key=lambda kv: kv.create_revision)]


@contextmanager
def _observing(member: Member, metadata: Any = ()) -> Iterator[Any]:
    request = election_pb2.LeaderRequest(name=b"lock")
    stream = member.client.calls.Election.Observe(request, timeout=_PATIENCE_S, metadata=metadata)
    try:
        yield stream
    finally:
        stream.cancel()


def test_a_lock_is_held_through_the_death_of_the_leader(cluster: Cluster) -> None:
    """LK-04, LK-06, LK-11, EL-06, L-50: who waits elsewhere waits on; who waited at the dead member keeps its place."""
    leader, (one, other) = cluster.leader(), cluster.followers()
    holder, second, third = (one.client.grant(_LONG_S) for _ in range(3))
    key = _lock(one, holder).key
    with _observing(other) as observed:
        assert next(observed).kv.key == key
        lost = _begin_lock(leader, second)
        waiting = _begin_lock(other, third)
        leader.kill9()
        with pytest.raises(grpc.RpcError) as raised:
            lost.result()
        assert refusal_of(raised.value)[0] is Code.UNAVAILABLE
        cluster.leader()
        assert _claims(one) == [_key(lease) for lease in (holder, second, third)]
        assert _lock(other, holder).key == key, "it is held, and any member knows"
        again = _begin_lock(one, second)
        stays_true("both wait", lambda: not again.done() and not waiting.done(), ELECTION_S)
        _unlock(other, key)
        assert again.result().key == _key(second)
        assert next(observed).kv.key == _key(second)
        assert not waiting.done()
        _unlock(one, _key(second))
        assert waiting.result().key == _key(third)
        assert next(observed).kv.key == _key(third)
    cluster.restart(leader)
    assert _claims(leader) == [_key(third)]


class _Clients:
    """Clients that take the lock, one after the other, until the end of the context. One whose member fails goes on
    with the next member, with its lease."""

    def __init__(self, cluster: Cluster) -> None:
        self.grants: list[tuple[bytes, int]] = []
        """Key and header revision of every Lock call that succeeded."""
        self._endpoints = [member.endpoint for member in cluster.members]
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor()
        self._runs = [self._pool.submit(self._run, number) for number in range(9)]

    def wait_more(self, count: int) -> None:
        wanted = len(self.grants) + count
        wait_until(f"{count} more locks were granted", lambda: len(self.grants) >= wanted, _PATIENCE_S)

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        with self._pool:
            for run in self._runs:
                run.result()

    def _run(self, number: int) -> None:
        lease = 0
        while not self._stopping.is_set():
            with connect(self._endpoints[number % len(self._endpoints)]) as channel:
                calls = Calls(channel)
                try:
                    lease = lease or calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=_LONG_S), timeout=10).ID
                    self._use(calls, lease)
                except grpc.RpcError:
                    number += 1  # whatever became of the claim, the next call finds it

    def _use(self, calls: Calls, lease: int) -> None:
        """Until told to stop. Raises grpc.RpcError."""
        while not self._stopping.is_set():
            got = calls.Lock.Lock(lock_pb2.LockRequest(name=b"lock", lease=lease), timeout=10)
            self.grants.append((got.key, got.header.revision))
            calls.Lock.Unlock(lock_pb2.UnlockRequest(key=got.key), timeout=10)


def test_whoever_is_granted_the_lock_has_the_oldest_claim(cluster: Cluster) -> None:
    """LK-03, LK-04, LK-08, LK-11: through any member, while leaders die; judged by the store at each grant."""
    with _Clients(cluster) as clients:
        for _ in range(2):
            clients.wait_more(30)
            leader = cluster.leader()
            leader.kill9()
            cluster.leader()
            clients.wait_more(30)
            cluster.restart(leader)
        clients.wait_more(30)
    member = cluster.leader()
    for key, revision in clients.grants:
        assert _claims(member, revision=revision)[0] == key
    cluster.wait_same_hash()


def test_a_member_without_a_quorum(cluster: Cluster) -> None:
    """G-20 to G-22, LK-07: who asked for a leader is told that there is none; who did not waits on. A client that gives
    up meanwhile leaves no claim behind."""
    member, gone = cluster.followers()[0], cluster.others(cluster.followers()[0])
    holder, other = (member.client.grant(_LONG_S) for _ in range(2))
    key = _lock(member, holder).key
    waiting = _begin_lock(member, other)
    with _observing(member, HAS_LEADER) as asking, _observing(member) as patient:
        assert next(asking).kv.key == next(patient).kv.key == key
        cluster.kill9(*gone)
        with pytest.raises(grpc.RpcError) as raised:
            next(asking)
        assert refusal_of(raised.value) == NO_LEADER
        assert not waiting.done()
        with pytest.raises(grpc.RpcError) as raised:
            member.client.calls.Lock.Lock(lock_pb2.LockRequest(name=b"lock"), timeout=20, metadata=HAS_LEADER)
        assert refusal_of(raised.value) == NO_LEADER
        waiting.cancel()
        assert _claims(member, serializable=True) == [key, _key(other)]
        cluster.restart(gone[0])
        wait_until("the claim is gone", lambda: _claims(member) == [key], _PATIENCE_S)
        _unlock(member, key)
        again = member.client.grant(_LONG_S)
        _lock(member, again)
        assert next(patient).kv.key == _key(again)
