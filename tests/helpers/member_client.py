"""A client of one member of a cluster: every call says the member it goes to and how long it may take.

Owns requests, streams and refusals. Knows no rule: what an answer must be is written in the tests. A call is never
repeated here; what failed, failed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import grpc
import pytest

from helpers.grpc_calls import Calls, connect
from helpers.waiting import PATIENCE_S, WaitedInVainError
from raftkv.pb import kv_pb2, rpc_pb2

TIMEOUT_S: Final = 20.0
HAS_LEADER: Final = (("hasleader", "true"),)
"""Metadata of G-20."""

Code = grpc.StatusCode
Refusal = tuple[grpc.StatusCode, str]
Metadata = Sequence[tuple[str, str]]
Message = TypeVar("Message")
T = TypeVar("T")

NO_LEADER: Final = (Code.UNAVAILABLE, "etcdserver: no leader")
TIMED_OUT: Final = (Code.UNAVAILABLE, "etcdserver: request timed out")
TIMED_OUT_CONNECTION_LOST: Final = (
    Code.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to connection lost",
)
TIMED_OUT_LEADER_FAILED: Final = (
    Code.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to previous leader failure",
)
LEADER_CHANGED: Final = (Code.UNAVAILABLE, "etcdserver: leader changed")
DEADLINE: Final = (Code.DEADLINE_EXCEEDED, "context deadline exceeded")
NOT_LEADER: Final = (Code.FAILED_PRECONDITION, "etcdserver: not leader")
BAD_TRANSFEREE: Final = (Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
MEMBER_NOT_FOUND: Final = (Code.NOT_FOUND, "etcdserver: member not found")
PEER_URL_EXISTS: Final = (Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
BAD_URLS: Final = (Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
TOO_MANY_LEARNERS: Final = (Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")
UNHEALTHY: Final = (Code.UNAVAILABLE, "etcdserver: unhealthy cluster")
NOT_A_LEARNER: Final = (Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
NOT_IN_SYNC: Final = (
    Code.FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member which is in sync with leader",
)
NO_SPACE: Final = (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
COMPACTED: Final = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Code and text; grpcio raises one class for both the error and the call that it ended."""
    call: Any = error
    return call.code(), call.details()


@contextmanager
def refused(*expected: Refusal) -> Iterator[None]:
    """The call inside is refused with exactly this code and text, or one of these (ER-01)."""
    with pytest.raises(grpc.RpcError) as raised:
        yield
    assert refusal_of(raised.value) in expected


def outcome(call: Callable[[], Any]) -> Any:
    """The answer, or the refusal as (code, text)."""
    try:
        return call()
    except grpc.RpcError as error:
        return refusal_of(error)


class Told(NamedTuple):
    """One event of a watch, without its value."""

    revision: int
    key: bytes
    kind: int
    """kv_pb2.Event.PUT or DELETE."""


class MemberClient:
    """One channel to one member. Every method answers with the whole response message."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = connect(endpoint)
        self.calls = Calls(self.channel)

    def close(self) -> None:
        self.channel.close()

    # KV

    def put(self, key: bytes, value: bytes = b"v", timeout_s: float = TIMEOUT_S, lease: int = 0) -> rpc_pb2.PutResponse:
        request = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        return _is(rpc_pb2.PutResponse, self.calls.KV.Put, request, timeout_s)

    def range(
        self, key: bytes, range_end: bytes = b"", timeout_s: float = TIMEOUT_S, **fields: Any
    ) -> rpc_pb2.RangeResponse:
        request = rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields)
        return _is(rpc_pb2.RangeResponse, self.calls.KV.Range, request, timeout_s)

    def value(self, key: bytes, timeout_s: float = TIMEOUT_S, **fields: Any) -> bytes | None:
        """The value of one key, None if there is none."""
        kvs = self.range(key, timeout_s=timeout_s, **fields).kvs
        return kvs[0].value if kvs else None

    def delete(self, key: bytes, range_end: bytes = b"", timeout_s: float = TIMEOUT_S) -> rpc_pb2.DeleteRangeResponse:
        request = rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end)
        return _is(rpc_pb2.DeleteRangeResponse, self.calls.KV.DeleteRange, request, timeout_s)

    def txn(self, request: rpc_pb2.TxnRequest, timeout_s: float = TIMEOUT_S) -> rpc_pb2.TxnResponse:
        return _is(rpc_pb2.TxnResponse, self.calls.KV.Txn, request, timeout_s)

    def compact(self, revision: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.CompactionResponse:
        request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
        return _is(rpc_pb2.CompactionResponse, self.calls.KV.Compact, request, timeout_s)

    def revision(self, timeout_s: float = TIMEOUT_S, serializable: bool = False) -> int:
        """The current revision, of the cluster or of this member's store."""
        return self.range(b"\x00", timeout_s=timeout_s, serializable=serializable).header.revision

    # leases

    def grant(self, ttl: int, timeout_s: float = TIMEOUT_S) -> int:
        """The id of a new lease."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl)
        return _is(rpc_pb2.LeaseGrantResponse, self.calls.Lease.LeaseGrant, request, timeout_s).ID

    def revoke(self, lease: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.LeaseRevokeResponse:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        return _is(rpc_pb2.LeaseRevokeResponse, self.calls.Lease.LeaseRevoke, request, timeout_s)

    def time_to_live(
        self, lease: int, keys: bool = False, timeout_s: float = TIMEOUT_S
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=keys)
        return _is(rpc_pb2.LeaseTimeToLiveResponse, self.calls.Lease.LeaseTimeToLive, request, timeout_s)

    def leases(self, timeout_s: float = TIMEOUT_S) -> set[int]:
        answer = _is(rpc_pb2.LeaseLeasesResponse, self.calls.Lease.LeaseLeases, rpc_pb2.LeaseLeasesRequest(), timeout_s)
        return {each.ID for each in answer.leases}

    def keep_alive(self, lease: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.LeaseKeepAliveResponse:
        """One renewal on a stream of its own."""
        request = rpc_pb2.LeaseKeepAliveRequest(ID=lease)
        responses = self.calls.Lease.LeaseKeepAlive(iter([request]), timeout=timeout_s)
        for response in responses:
            assert isinstance(response, rpc_pb2.LeaseKeepAliveResponse)
            return response
        raise AssertionError("the stream ended without an answer (L-20)")

    # cluster

    def members(self, linearizable: bool = True, timeout_s: float = TIMEOUT_S) -> rpc_pb2.MemberListResponse:
        request = rpc_pb2.MemberListRequest(linearizable=linearizable)
        return _is(rpc_pb2.MemberListResponse, self.calls.Cluster.MemberList, request, timeout_s)

    def add_member(
        self, *peer_urls: str, learner: bool = False, timeout_s: float = TIMEOUT_S
    ) -> rpc_pb2.MemberAddResponse:
        request = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=learner)
        return _is(rpc_pb2.MemberAddResponse, self.calls.Cluster.MemberAdd, request, timeout_s)

    def remove_member(self, member_id: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.MemberRemoveResponse:
        request = rpc_pb2.MemberRemoveRequest(ID=member_id)
        return _is(rpc_pb2.MemberRemoveResponse, self.calls.Cluster.MemberRemove, request, timeout_s)

    def promote_member(self, member_id: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.MemberPromoteResponse:
        request = rpc_pb2.MemberPromoteRequest(ID=member_id)
        return _is(rpc_pb2.MemberPromoteResponse, self.calls.Cluster.MemberPromote, request, timeout_s)

    def update_member(
        self, member_id: int, *peer_urls: str, timeout_s: float = TIMEOUT_S
    ) -> rpc_pb2.MemberUpdateResponse:
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls)
        return _is(rpc_pb2.MemberUpdateResponse, self.calls.Cluster.MemberUpdate, request, timeout_s)

    # maintenance

    def status(self, timeout_s: float = TIMEOUT_S) -> rpc_pb2.StatusResponse:
        return _is(rpc_pb2.StatusResponse, self.calls.Maintenance.Status, rpc_pb2.StatusRequest(), timeout_s)

    def hash_kv(self, revision: int = 0, timeout_s: float = TIMEOUT_S) -> rpc_pb2.HashKVResponse:
        request = rpc_pb2.HashKVRequest(revision=revision)
        return _is(rpc_pb2.HashKVResponse, self.calls.Maintenance.HashKV, request, timeout_s)

    def move_leader(self, target: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.MoveLeaderResponse:
        request = rpc_pb2.MoveLeaderRequest(targetID=target)
        return _is(rpc_pb2.MoveLeaderResponse, self.calls.Maintenance.MoveLeader, request, timeout_s)

    def alarms(self, timeout_s: float = TIMEOUT_S) -> set[tuple[int, int]]:
        """(member id, alarm type) of all active alarms."""
        answer = _is(rpc_pb2.AlarmResponse, self.calls.Maintenance.Alarm, rpc_pb2.AlarmRequest(), timeout_s)
        return {(each.memberID, each.alarm) for each in answer.alarms}

    def arm(self, member_id: int, alarm: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.AlarmResponse:
        return self._change_alarm(
            rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE), member_id, alarm, timeout_s
        )

    def disarm(self, member_id: int, alarm: int, timeout_s: float = TIMEOUT_S) -> rpc_pb2.AlarmResponse:
        return self._change_alarm(
            rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.DEACTIVATE), member_id, alarm, timeout_s
        )

    def _change_alarm(
        self, request: rpc_pb2.AlarmRequest, member_id: int, alarm: int, timeout_s: float
    ) -> rpc_pb2.AlarmResponse:
        request.memberID, request.alarm = member_id, alarm  # type: ignore[assignment]  # a plain enum number
        return _is(rpc_pb2.AlarmResponse, self.calls.Maintenance.Alarm, request, timeout_s)


def _is(kind: type[Message], call: Callable[..., Any], request: Any, timeout_s: float) -> Message:
    answer = call(request, timeout=timeout_s)
    assert isinstance(answer, kind)
    return answer


class Stream:
    """A bidirectional call whose responses a thread collects, so that waiting for one has a bound.

    A context manager, so that no call outlives its test.
    """

    def __init__(self, call: Callable[..., Any], metadata: Metadata = (), timeout_s: float = 240.0) -> None:
        self.responses: list[Any] = []
        self.ended: Refusal | None = None
        """Why the stream ended; None while it is open. An end without error is (OK, "")."""
        self._changed = threading.Condition()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = call(iter(self._requests.get, None), timeout=timeout_s, metadata=metadata)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def wait(self, what: str, look: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
        """The first answer of `look` that is true; asked after each response. Raises WaitedInVainError."""
        with self._changed:
            answer = self._changed.wait_for(look, timeout_s)
        if not answer:
            raise WaitedInVainError(f"waited {timeout_s:g} s in vain until {what}; the stream: {self}")
        return answer

    def wait_end(self, timeout_s: float = PATIENCE_S) -> Refusal:
        return self.wait("the stream ends", lambda: self.ended, timeout_s)

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._reader.join()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __str__(self) -> str:
        last = str(self.responses[-1])[:500] if self.responses else "none"
        return f"{len(self.responses)} responses, the last: {last}; ended: {self.ended}"

    def _read(self) -> None:
        end: Refusal = (Code.OK, "")
        try:
            for response in self._call:
                with self._changed:
                    self.responses.append(response)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            end = refusal_of(error)
        with self._changed:
            self.ended = end
            self._changed.notify_all()


class WatchStream(Stream):
    """One watch on one interval, on a stream of its own."""

    def __init__(
        self,
        client: MemberClient,
        key: bytes,
        range_end: bytes = b"",
        start_revision: int = 0,
        metadata: Metadata = (),
    ) -> None:
        super().__init__(client.calls.Watch.Watch, metadata)
        create = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, start_revision=start_revision)
        self.send(rpc_pb2.WatchRequest(create_request=create))

    def wait_created(self) -> WatchStream:
        self.wait("the watch is created", lambda: self.responses or self.ended)
        assert self.responses, f"the watch was not created: {self.ended}"
        assert self.responses[0].created
        return self

    def told(self) -> list[Told]:
        """All events so far."""
        with self._changed:
            return [
                Told(event.kv.mod_revision, event.kv.key, event.type)
                for response in self.responses
                for event in response.events
            ]

    def compacted(self) -> int:
        """The compact revision that the server cancelled the watch with, or 0 (W-40)."""
        with self._changed:
            return max((response.compact_revision for response in self.responses if response.canceled), default=0)

    def wait_told(self, revision: int, timeout_s: float = PATIENCE_S) -> list[Told]:
        """All events, once one of this revision or a later one has come."""

        def there() -> bool:
            return any(event.kv.mod_revision >= revision for each in self.responses for event in each.events)

        self.wait(f"an event of revision {revision} comes", there, timeout_s)
        return self.told()


PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE
