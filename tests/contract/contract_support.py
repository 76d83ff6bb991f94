"""A client for contract tests: grpcio with raftkv's messages, and the shortest way to say a request.

Owns requests, streams and refusals. Knows no rule: what an answer must be is written in the tests.
"""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc
import pytest
from helpers.grpc_calls import Calls

from raftkv.pb import kv_pb2, rpc_pb2

TIMEOUT_S: Final = 20

PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE
ALL: Final = (b"\x00", b"\x00")

Message = TypeVar("Message")

Compare = rpc_pb2.Compare
Op = rpc_pb2.RequestOp
Code = grpc.StatusCode

EMPTY_KEY: Final = (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND: Final = (Code.INVALID_ARGUMENT, "etcdserver: key not found")
TOO_MANY_OPS: Final = (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
DUPLICATE_KEY: Final = (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
COMPACTED: Final = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE: Final = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND: Final = (Code.NOT_FOUND, "etcdserver: requested lease not found")
TOO_LARGE: Final = (Code.INVALID_ARGUMENT, "etcdserver: request is too large")
NO_SPACE: Final = (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
CORRUPT: Final = (Code.DATA_LOSS, "etcdserver: corrupt cluster")


@contextmanager
def refused(status: tuple[grpc.StatusCode, str]) -> Iterator[None]:
    """The call inside is refused with exactly this code and text (ER-01)."""
    with pytest.raises(grpc.RpcError) as raised:
        yield
    error: Any = raised.value
    assert (error.code(), error.details()) == status


def prefix_end(prefix: bytes) -> bytes:
    """End of the interval of all keys with this prefix (contract section 2.2)."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\x00"


# --- operations and compares --------------------------------------------------------------------------------


def put_op(key: bytes, value: bytes = b"v", **fields: Any) -> rpc_pb2.RequestOp:
    return Op(request_put=rpc_pb2.PutRequest(key=key, value=value, **fields))


def range_op(key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.RequestOp:
    return Op(request_range=rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields))


def delete_op(key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.RequestOp:
    return Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **fields))


def txn_op(
    compare: Sequence[rpc_pb2.Compare] = (),
    success: Sequence[rpc_pb2.RequestOp] = (),
    failure: Sequence[rpc_pb2.RequestOp] = (),
) -> rpc_pb2.RequestOp:
    return Op(request_txn=rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure))


class Client:
    """One channel to one member. Every method answers with the whole response message."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.calls = Calls(channel)

    # KV

    def put(self, key: bytes, value: bytes = b"v", **fields: Any) -> rpc_pb2.PutResponse:
        return self._is(rpc_pb2.PutResponse, self.calls.KV.Put, rpc_pb2.PutRequest(key=key, value=value, **fields))

    def range(self, key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.RangeResponse:
        return self._is(
            rpc_pb2.RangeResponse,
            self.calls.KV.Range,
            rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields),
        )

    def delete(self, key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.DeleteRangeResponse:
        return self._is(
            rpc_pb2.DeleteRangeResponse,
            self.calls.KV.DeleteRange,
            rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **fields),
        )

    def txn(
        self,
        compare: Sequence[rpc_pb2.Compare] = (),
        success: Sequence[rpc_pb2.RequestOp] = (),
        failure: Sequence[rpc_pb2.RequestOp] = (),
    ) -> rpc_pb2.TxnResponse:
        return self._is(
            rpc_pb2.TxnResponse,
            self.calls.KV.Txn,
            rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure),
        )

    def compact(self, revision: int, physical: bool = False) -> rpc_pb2.CompactionResponse:
        return self._is(
            rpc_pb2.CompactionResponse,
            self.calls.KV.Compact,
            rpc_pb2.CompactionRequest(revision=revision, physical=physical),
        )

    def revision(self) -> int:
        """The current revision of the store."""
        return self.range(b"\x00").header.revision

    def only(self, key: bytes, **fields: Any) -> kv_pb2.KeyValue:
        (kv,) = self.range(key, **fields).kvs
        return kv

    def holds(self, compare: rpc_pb2.Compare) -> bool:
        return self.txn([compare], [], []).succeeded

    # leases

    def grant(self, ttl: int, lease_id: int = 0) -> rpc_pb2.LeaseGrantResponse:
        return self._is(
            rpc_pb2.LeaseGrantResponse,
            self.calls.Lease.LeaseGrant,
            rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id),
        )

    def revoke(self, lease_id: int) -> rpc_pb2.LeaseRevokeResponse:
        return self._is(
            rpc_pb2.LeaseRevokeResponse,
            self.calls.Lease.LeaseRevoke,
            rpc_pb2.LeaseRevokeRequest(ID=lease_id),
        )

    def time_to_live(self, lease_id: int, keys: bool = False) -> rpc_pb2.LeaseTimeToLiveResponse:
        return self._is(
            rpc_pb2.LeaseTimeToLiveResponse,
            self.calls.Lease.LeaseTimeToLive,
            rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys),
        )

    def leases(self) -> list[int]:
        answer = self._is(rpc_pb2.LeaseLeasesResponse, self.calls.Lease.LeaseLeases, rpc_pb2.LeaseLeasesRequest())
        return [each.ID for each in answer.leases]

    def keep_alive(self) -> Stream:
        return Stream(self.calls.Lease.LeaseKeepAlive)

    # the rest

    def watch(self, metadata: Sequence[tuple[str, str]] = ()) -> WatchStream:
        return WatchStream(self.calls.Watch.Watch, metadata)

    def alarm(self, action: int = 0, member_id: int = 0, alarm: int = 0) -> rpc_pb2.AlarmResponse:
        request = rpc_pb2.AlarmRequest(memberID=member_id)
        request.action, request.alarm = action, alarm  # type: ignore[assignment]  # plain enum numbers
        return self._is(rpc_pb2.AlarmResponse, self.calls.Maintenance.Alarm, request)

    def alarms(self) -> list[tuple[int, int]]:
        return [(each.memberID, each.alarm) for each in self.alarm().alarms]

    def status(self) -> rpc_pb2.StatusResponse:
        return self._is(rpc_pb2.StatusResponse, self.calls.Maintenance.Status, rpc_pb2.StatusRequest())

    def hash_kv(self, revision: int = 0) -> rpc_pb2.HashKVResponse:
        return self._is(rpc_pb2.HashKVResponse, self.calls.Maintenance.HashKV, rpc_pb2.HashKVRequest(revision=revision))

    def members(self, linearizable: bool = True) -> rpc_pb2.MemberListResponse:
        return self._is(
            rpc_pb2.MemberListResponse,
            self.calls.Cluster.MemberList,
            rpc_pb2.MemberListRequest(linearizable=linearizable),
        )

    def raw(self, path: str, message: bytes = b"", metadata: Sequence[tuple[str, str]] = ()) -> bytes:
        """A unary call of bytes that no generated code would send."""
        answer = self.channel.unary_unary(path)(message, timeout=TIMEOUT_S, metadata=metadata)
        assert isinstance(answer, bytes)
        return answer

    @staticmethod
    def _is(kind: type[Message], call: Callable[..., Any], request: Any) -> Message:
        answer = call(request, timeout=TIMEOUT_S)
        assert isinstance(answer, kind)
        return answer


# --- streams ------------------------------------------------------------------------------------------------


class Stream:
    """Both ends of a bidirectional call. A context manager, so that no call outlives its test."""

    def __init__(self, call: Callable[..., Any], metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._responses = call(iter(self._requests.get, None), timeout=TIMEOUT_S, metadata=metadata)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def next(self) -> Any:
        return next(self._responses)

    def half_close(self) -> None:
        self._requests.put(None)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.half_close()
        self._responses.cancel()


class WatchStream(Stream):
    """A Watch call. `until_refused_creation` makes silence visible without waiting for it."""

    def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.WatchResponse:
        """Ask for a watcher; its created response, which must be the next thing on the stream (W-08)."""
        self.ask(key, range_end, **fields)
        created = self.next()
        assert isinstance(created, rpc_pb2.WatchResponse)
        assert created.created
        assert not created.events
        return created

    def ask(self, key: bytes, range_end: bytes = b"", **fields: Any) -> None:
        create = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, **fields)
        self.send(rpc_pb2.WatchRequest(create_request=create))

    def cancel(self, watch_id: int) -> None:
        self.send(rpc_pb2.WatchRequest(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self.send(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))

    def events(self, count: int) -> list[kv_pb2.Event]:
        """The next events, as many responses as they take; never part of a response."""
        found: list[kv_pb2.Event] = []
        while len(found) < count:
            response = self.next()
            assert response.events, f"expected events, not {response}"
            found += response.events
        assert len(found) == count
        return found

    def until_refused_creation(self) -> list[rpc_pb2.WatchResponse]:
        """Everything the server had sent or still sends before it reads one more request.

        A creation that must fail marks the place: requests of a stream are answered in order (W-20).
        """
        self.ask(b"b", b"a")
        found = []
        while not ((response := self.next()).created and response.canceled):
            found.append(response)
        return found


_numbers: Final = itertools.count()


def new_prefix() -> bytes:
    """A key prefix that no other test of this process has."""
    return b"t%d/" % next(_numbers)
