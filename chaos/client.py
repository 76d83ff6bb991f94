"""Calls to one member over gRPC, and what their failure means.

Built on grpcio and on the messages of aetcd, so that nothing of raftkv is trusted to judge raftkv. A call that fails
raises one of two errors: it surely did nothing, or nobody knows. Owns that distinction; keeps no history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from aetcd.rpc import rpc_pb2

TIMEOUT_S: Final = 2.0
"""Of one call, unless the client has its own: about an election."""

_CHANNEL_OPTIONS: Final = (
    # A retry that we do not see would be a second call under one record.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class CallError(Exception):
    """A call without an answer."""


class RefusedError(CallError):
    """The call surely had no effect, and will have none."""


class UnclearError(CallError):
    """The call may have taken effect, or may still."""


class Answer(NamedTuple):
    """Of a read or a write of one key; the fields are those of `chaos.history.Op`."""

    revision: int
    took: bool = False
    seen: str | None = None
    seen_revision: int = 0


class Status(NamedTuple):
    """What a member says of itself."""

    member_id: int
    leader_id: int
    term: int
    revision: int
    version: str

    @property
    def leads(self) -> bool:
        return self.leader_id == self.member_id != 0


class HashKV(NamedTuple):
    hash: int
    compact_revision: int


# The server answers these before it proposes anything. Every other code, and above all UNAVAILABLE, UNKNOWN and
# DEADLINE_EXCEEDED, may come after the proposal was made.
_REFUSING_CODES: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
_REFUSING_TEXTS: Final = frozenset({"etcdserver: too many requests", "etcdserver: mvcc: database space exceeded"})
# Said by our own gRPC library when no connection could be made: nothing was ever sent.
_NOT_CONNECTED: Final = "failed to connect to all addresses"


def classify(code: grpc.StatusCode, text: str) -> CallError:
    """What the failure of a call that may write means."""
    said = f"{code.name}: {text}"
    unsent = code is grpc.StatusCode.UNAVAILABLE and text.startswith(_NOT_CONNECTED)
    if unsent or code in _REFUSING_CODES or text in _REFUSING_TEXTS:
        return RefusedError(said)
    return UnclearError(said)


Method = Callable[..., Any]


class Client:
    """Calls to one member. Close it in the end."""

    def __init__(self, member: str, endpoint: str, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s`: after which a call is given up."""
        self.member: Final = member
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._range = self._unary("KV/Range", rpc_pb2.RangeResponse)
        self._put = self._unary("KV/Put", rpc_pb2.PutResponse)
        self._delete = self._unary("KV/DeleteRange", rpc_pb2.DeleteRangeResponse)
        self._txn = self._unary("KV/Txn", rpc_pb2.TxnResponse)
        self._grant = self._unary("Lease/LeaseGrant", rpc_pb2.LeaseGrantResponse)
        self._status = self._unary("Maintenance/Status", rpc_pb2.StatusResponse)
        self._hash_kv = self._unary("Maintenance/HashKV", rpc_pb2.HashKVResponse)
        self._watch = self._streaming("Watch/Watch", rpc_pb2.WatchResponse)
        self._keep_alive = self._streaming("Lease/LeaseKeepAlive", rpc_pb2.LeaseKeepAliveResponse)

    def _streaming(self, method: str, response: Any) -> Method:
        call: Method = self._channel.stream_stream(
            f"/etcdserverpb.{method}", request_serializer=_serialize, response_deserializer=response.FromString
        )
        return call

    def _unary(self, method: str, response: Any) -> Method:
        call: Method = self._channel.unary_unary(
            f"/etcdserverpb.{method}", request_serializer=_serialize, response_deserializer=response.FromString
        )
        return call

    async def close(self) -> None:
        await self._channel.close()

    # --- one key ------------------------------------------------------------------------------------------------------

    async def get(self, key: str, revision: int = 0) -> Answer:
        """A linearizable read, or one of the past. Raises CallError."""
        request = rpc_pb2.RangeRequest(key=key.encode(), revision=revision)
        response = await self._call(self._range, request)
        return _saw(response.header.revision, response.kvs)

    async def put(self, key: str, value: str, lease: int = 0) -> Answer:
        """Raises CallError."""
        request = rpc_pb2.PutRequest(key=key.encode(), value=value.encode(), lease=lease)
        response = await self._call(self._put, request)
        return Answer(response.header.revision, took=True)

    async def put_if(self, key: str, value: str, mod_revision: int) -> Answer:
        """Put if the key was last changed at that revision (0: if there is no such key), else read it.

        Raises CallError.
        """
        name = key.encode()
        request = rpc_pb2.TxnRequest(
            compare=[
                rpc_pb2.Compare(
                    key=name,
                    target=rpc_pb2.Compare.MOD,
                    result=rpc_pb2.Compare.EQUAL,
                    mod_revision=mod_revision,
                )
            ],
            success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=value.encode()))],
            failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=name))],
        )
        response = await self._call(self._txn, request)
        if response.succeeded:
            return Answer(response.header.revision, took=True)
        return _saw(response.header.revision, response.responses[0].response_range.kvs)

    async def delete(self, key: str) -> Answer:
        """Delete, and tell what was there. Raises CallError."""
        request = rpc_pb2.DeleteRangeRequest(key=key.encode(), prev_kv=True)
        response = await self._call(self._delete, request)
        return _saw(response.header.revision, response.prev_kvs)._replace(took=response.deleted > 0)

    # --- several keys -------------------------------------------------------------------------------------------------

    async def put_all(self, pairs: dict[str, str]) -> Answer:
        """All of them in one revision. Raises CallError."""
        puts = [rpc_pb2.PutRequest(key=key.encode(), value=value.encode()) for key, value in pairs.items()]
        request = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts])
        response = await self._call(self._txn, request)
        return Answer(response.header.revision, took=True)

    async def list(self, prefix: str, revision: int = 0, changed_since: int = 0) -> list[Any]:
        """KeyValues as aetcd's messages, sorted by key. Raises CallError."""
        first = prefix.encode()
        request = rpc_pb2.RangeRequest(
            key=first, range_end=after_prefix(first), revision=revision, min_mod_revision=changed_since
        )
        response = await self._call(self._range, request)
        return list(response.kvs)

    # --- leases -------------------------------------------------------------------------------------------------------

    async def grant(self, ttl_s: int) -> int:
        """A new lease's id. Raises CallError."""
        response = await self._call(self._grant, rpc_pb2.LeaseGrantRequest(TTL=ttl_s))
        lease: int = response.ID
        return lease

    async def keep_alive(self, lease: int) -> int:
        """Renew once, on a stream of its own; the TTL from now on, 0 if there is no such lease. Raises CallError."""
        stream = self._keep_alive(timeout=self._timeout_s)
        try:
            await stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
            response = await stream.read()
            if response is grpc.aio.EOF:
                raise UnclearError("the keep-alive stream ended without an answer")
            ttl_s: int = response.TTL
            return ttl_s
        except grpc.aio.AioRpcError as error:
            raise classify(error.code(), error.details() or "") from error
        except asyncio.InvalidStateError as error:  # grpcio's word for writing on a stream that has broken
            raise UnclearError(f"the keep-alive stream broke: {error}") from error
        finally:
            stream.cancel()

    # --- the member ---------------------------------------------------------------------------------------------------

    async def status(self, timeout_s: float) -> Status:
        """Raises CallError."""
        response = await self._call(self._status, rpc_pb2.StatusRequest(), timeout_s)
        header = response.header
        return Status(header.member_id, response.leader, header.raft_term, header.revision, response.version)

    async def hash_kv(self, revision: int) -> HashKV:
        """Of everything up to the revision. Raises CallError."""
        response = await self._call(self._hash_kv, rpc_pb2.HashKVRequest(revision=revision))
        return HashKV(response.hash, response.compact_revision)

    def watch(self) -> Any:
        """A new watch stream: grpc.aio's call object, with aetcd's WatchRequest and WatchResponse."""
        return self._watch()

    async def _call(self, method: Method, request: Any, timeout_s: float | None = None) -> Any:
        try:
            return await method(request, timeout=timeout_s or self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise classify(error.code(), error.details() or "") from error


def after_prefix(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, whose last byte must not be 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _saw(revision: int, kvs: Any) -> Answer:
    if not kvs:
        return Answer(revision)
    return Answer(revision, seen=kvs[0].value.decode("utf-8", "replace"), seen_revision=kvs[0].mod_revision)
