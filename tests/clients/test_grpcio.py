"""grpcio, blocking and asyncio, with raftkv's own generated messages: what a client library is built from."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from helpers.grpc_calls import CHANNEL_OPTIONS, Calls, connect
from helpers.processes import Server

from raftkv.pb import election_pb2, kv_pb2, lock_pb2, rpc_pb2

_TIMEOUT_S = 10
_PUT, _DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE


@pytest.fixture
def calls(client_server: Server) -> Iterator[Calls]:
    with connect(client_server.endpoint) as channel:
        yield Calls(channel)


class Stream:
    """Both ends of a bidirectional call: `send` sends a request, `next` waits for an answer."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._responses = call(iter(self._requests.get, None), timeout=_TIMEOUT_S)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def next(self) -> Any:
        return next(self._responses)

    def half_close(self) -> None:
        self._requests.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._responses)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.half_close()
        self._responses.cancel()


def _put(calls: Calls, key: bytes, value: bytes = b"v", **fields: Any) -> rpc_pb2.PutResponse:
    response = calls.KV.Put(rpc_pb2.PutRequest(key=key, value=value, **fields), timeout=_TIMEOUT_S)
    assert isinstance(response, rpc_pb2.PutResponse)
    return response


def _create(key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.WatchRequest:
    create = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end, **fields)
    return rpc_pb2.WatchRequest(create_request=create)


def test_put_range_delete(calls: Calls) -> None:
    first = _put(calls, b"g/kv/a", b"1")
    second = _put(calls, b"g/kv/a", b"2", prev_kv=True)
    assert first.header.revision + 1 == second.header.revision
    assert second.prev_kv.value == b"1"
    _put(calls, b"g/kv/b")
    page = calls.KV.Range(rpc_pb2.RangeRequest(key=b"g/kv/", range_end=b"g/kv0", limit=1), timeout=_TIMEOUT_S)
    assert ([kv.key for kv in page.kvs], page.more, page.count) == ([b"g/kv/a"], True, 2)
    rest = calls.KV.Range(
        rpc_pb2.RangeRequest(key=b"g/kv/a\0", range_end=b"g/kv0", revision=page.header.revision),
        timeout=_TIMEOUT_S,
    )
    assert ([kv.key for kv in rest.kvs], rest.more, rest.count) == ([b"g/kv/b"], False, 1)
    deleted = calls.KV.DeleteRange(
        rpc_pb2.DeleteRangeRequest(key=b"g/kv/", range_end=b"g/kv0", prev_kv=True), timeout=_TIMEOUT_S
    )
    assert (deleted.deleted, [kv.value for kv in deleted.prev_kvs]) == (2, [b"2", b"v"])


def test_txn_takes_one_branch(calls: Calls) -> None:
    before = _put(calls, b"g/txn", b"old").header.revision
    request = rpc_pb2.TxnRequest(
        compare=[rpc_pb2.Compare(key=b"g/txn", target=rpc_pb2.Compare.MOD, mod_revision=before)],
        success=[
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"g/txn", value=b"new")),
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"g/txn")),
        ],
        failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"g/txn"))],
    )
    won = calls.KV.Txn(request, timeout=_TIMEOUT_S)
    assert (True, before + 1) == (won.succeeded, won.header.revision)
    assert [before + 1, before + 1] == [
        won.responses[0].response_put.header.revision,
        won.responses[1].response_range.header.revision,
    ]
    lost = calls.KV.Txn(request, timeout=_TIMEOUT_S)
    assert (lost.succeeded, lost.responses[0].response_range.kvs[0].value) == (False, b"new")


def test_one_watch_stream_carries_several_watchers(calls: Calls) -> None:
    """W-06, W-13, W-21, W-30, W-70."""
    with Stream(calls.Watch.Watch) as stream:
        stream.send(_create(b"g/watch/", b"g/watch0", watch_id=7, prev_kv=True))
        created = stream.next()
        assert (created.created, created.watch_id) == (True, 7)
        stream.send(_create(b"g/watch/", b"g/watch0", watch_id=7))
        duplicate = stream.next()
        assert (duplicate.created, duplicate.canceled, duplicate.watch_id) == (True, True, -1)
        assert duplicate.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
        stream.send(_create(b"g/watch/", b"g/watch0", filters=[rpc_pb2.WatchCreateRequest.NOPUT]))
        only_deletes = stream.next().watch_id

        put = _put(calls, b"g/watch/k", b"1").header.revision
        seen = stream.next()
        assert (7, [(_PUT, b"1", put)]) == (seen.watch_id, _told(seen))
        assert put == seen.header.revision
        calls.KV.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"g/watch/k"), timeout=_TIMEOUT_S)
        deletes = {response.watch_id: response for response in (stream.next(), stream.next())}
        assert {7, only_deletes} == set(deletes)
        assert [(_DELETE, b"", put + 1)] == _told(deletes[7]) == _told(deletes[only_deletes])
        assert deletes[7].events[0].prev_kv.value == b"1"
        assert not deletes[only_deletes].events[0].HasField("prev_kv")

        stream.send(rpc_pb2.WatchRequest(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=7)))
        canceled = stream.next()
        assert (canceled.watch_id, canceled.canceled, canceled.cancel_reason) == (7, True, "")
        _put(calls, b"g/watch/k", b"2")
        stream.send(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
        progress = stream.next()
        assert (progress.watch_id, len(progress.events)) == (-1, 0)
        assert progress.header.revision >= put + 2


def test_watch_from_history_goes_on_live(calls: Calls) -> None:
    """W-10, W-54."""
    start = _put(calls, b"g/history", b"0").header.revision
    for number in range(1, 50):
        _put(calls, b"g/history", b"%d" % number)
    with Stream(calls.Watch.Watch) as stream:
        stream.send(_create(b"g/history", start_revision=start))
        assert stream.next().created
        writer = threading.Thread(
            target=lambda: [_put(calls, b"g/history", b"%d" % number) for number in range(50, 100)]
        )
        writer.start()
        told: list[Any] = []
        while len(told) < 100:
            told += _told(stream.next())
        writer.join()
    assert [b"%d" % number for number in range(100)] == [value for _kind, value, _revision in told]
    assert list(range(start, start + 100)) == [revision for _kind, _value, revision in told]


def test_lease_keep_alive_stream(calls: Calls) -> None:
    """L-20, L-21, L-23."""
    lease = calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60), timeout=_TIMEOUT_S)
    _put(calls, b"g/lease", lease=lease.ID)
    with Stream(calls.Lease.LeaseKeepAlive) as stream:
        for lease_id, ttl in ((lease.ID, 60), (987_654, 0), (lease.ID, 60)):
            stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
            answer = stream.next()
            assert (lease_id, ttl) == (answer.ID, answer.TTL)
        revoked = calls.Lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease.ID), timeout=_TIMEOUT_S)
        stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease.ID))
        assert stream.next().TTL == 0
        stream.half_close()
        assert list(stream) == []
    after = calls.KV.Range(rpc_pb2.RangeRequest(key=b"g/lease"), timeout=_TIMEOUT_S)
    assert (after.count, after.header.revision >= revoked.header.revision) == (0, True)


def test_lock_passes_from_holder_to_waiter(calls: Calls) -> None:
    """LK-01, LK-04, LK-11."""
    leases = [calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60), timeout=_TIMEOUT_S).ID for _ in range(2)]
    held = calls.Lock.Lock(lock_pb2.LockRequest(name=b"g/lock", lease=leases[0]), timeout=_TIMEOUT_S)
    assert b"g/lock/%x" % leases[0] == held.key
    waiting = calls.Lock.Lock.future(lock_pb2.LockRequest(name=b"g/lock", lease=leases[1]), timeout=_TIMEOUT_S)
    with pytest.raises(grpc.FutureTimeoutError):
        waiting.result(timeout=0.2)
    calls.Lock.Unlock(lock_pb2.UnlockRequest(key=held.key), timeout=_TIMEOUT_S)
    assert b"g/lock/%x" % leases[1] == waiting.result().key
    calls.Lock.Unlock(lock_pb2.UnlockRequest(key=b"g/lock/%x" % leases[1]), timeout=_TIMEOUT_S)


def test_election_is_won_proclaimed_observed_and_resigned(calls: Calls) -> None:
    """EL-01, EL-04 to EL-07."""
    election = calls.Election
    lease = calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60), timeout=_TIMEOUT_S).ID
    won = election.Campaign(election_pb2.CampaignRequest(name=b"g/seat", lease=lease, value=b"one"), timeout=_TIMEOUT_S)
    assert (b"g/seat", b"g/seat/%x" % lease) == (won.leader.name, won.leader.key)
    observed = election.Observe(election_pb2.LeaderRequest(name=b"g/seat"), timeout=_TIMEOUT_S)
    assert next(observed).kv.value == b"one"
    election.Proclaim(election_pb2.ProclaimRequest(leader=won.leader, value=b"two"), timeout=_TIMEOUT_S)
    assert next(observed).kv.value == b"two"
    leader = election.Leader(election_pb2.LeaderRequest(name=b"g/seat"), timeout=_TIMEOUT_S)
    assert leader.kv.value == b"two"
    election.Resign(election_pb2.ResignRequest(leader=won.leader), timeout=_TIMEOUT_S)
    observed.cancel()
    with pytest.raises(grpc.RpcError, match="election: no leader"):
        election.Leader(election_pb2.LeaderRequest(name=b"g/seat"), timeout=_TIMEOUT_S)


def test_status_and_members_agree(calls: Calls) -> None:
    status = calls.Maintenance.Status(rpc_pb2.StatusRequest(), timeout=_TIMEOUT_S)
    members = calls.Cluster.MemberList(rpc_pb2.MemberListRequest(), timeout=_TIMEOUT_S)
    (member,) = members.members
    assert status.leader == member.ID == status.header.member_id == members.header.member_id
    assert (members.header.revision, member.name) == (0, "default")  # G-15
    assert 0 < status.raftAppliedIndex <= status.raftIndex
    assert 0 < status.dbSizeInUse <= status.dbSize


def test_snapshot_stream_ends_with_its_checksum(calls: Calls) -> None:
    """MT-10, MT-11."""
    import hashlib

    blobs = [
        response.blob
        for response in calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=_TIMEOUT_S)
        if response.blob
    ]
    stream = b"".join(blobs)
    assert len(stream) % 512 == 32
    assert hashlib.sha256(stream[:-32]).digest() == stream[-32:]


def test_unknown_method_is_unimplemented(client_server: Server) -> None:
    """ER-05."""
    with connect(client_server.endpoint) as channel:
        for path in ("/etcdserverpb.KV/Fetch", "/nobody.Service/Call"):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(path)(b"", timeout=_TIMEOUT_S)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_deadline_ends_a_call_that_waits(calls: Calls) -> None:
    """ER-04."""
    create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"g/nobody"))
    with pytest.raises(grpc.RpcError) as late:
        list(calls.Watch.Watch(iter([create]), timeout=0.2))
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_many_calls_at_once_from_asyncio(client_server: Server) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(client_server.endpoint, options=CHANNEL_OPTIONS) as channel:
            calls = Calls(channel)
            puts = [rpc_pb2.PutRequest(key=b"g/aio/%03d" % number, value=b"v") for number in range(200)]
            answers = await asyncio.gather(*(calls.KV.Put(put, timeout=_TIMEOUT_S) for put in puts))
            assert len({answer.header.revision for answer in answers}) == 200
            request = rpc_pb2.RangeRequest(key=b"g/aio/", range_end=b"g/aio0", count_only=True)
            assert (await calls.KV.Range(request, timeout=_TIMEOUT_S)).count == 200
            watch = calls.Watch.Watch(timeout=_TIMEOUT_S)
            first = min(answer.header.revision for answer in answers)
            await watch.write(_create(b"g/aio/", b"g/aio0", start_revision=first))
            told: list[int] = []
            while len(told) < 200:
                told += [event.kv.mod_revision for event in (await watch.read()).events]
            assert sorted(answer.header.revision for answer in answers) == told
            watch.cancel()

    asyncio.run(run())


def _told(response: rpc_pb2.WatchResponse) -> list[tuple[int, bytes, int]]:
    return [(event.type, event.kv.value, event.kv.mod_revision) for event in response.events]
