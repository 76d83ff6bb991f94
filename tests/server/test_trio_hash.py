"""Members with the same history hash the same, whoever led and however often each of them was started (MT-25)."""

from __future__ import annotations

from pathlib import Path

from trio import Seat, Trio, play, until

from raftkv.apply import NOSPACE, Kind
from raftkv.apply.store_hash import StoreHash
from raftkv.pb import rpc_pb2


def hash_of(seat: Seat) -> int:
    pin = seat.node.backend.pin()
    try:
        scan = StoreHash(pin.txn, seat.node.backend.tables)
        while not scan.step():
            pass
        return scan.result()
    finally:
        pin.close()


def test_all_members_hash_the_same(tmp_path: Path) -> None:
    async def story(trio: Trio) -> None:
        first = trio.seats[0]
        await first.apply(Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=7, TTL=600))
        for number in range(30):
            request = rpc_pb2.PutRequest(key=b"key" * (1 + 200 * (number % 3)) + b"%d" % (number % 7), lease=7)
            await trio.seats[number % 3].apply(Kind.PUT, request)
        await first.apply(Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"key", range_end=b"key4"))
        alarm = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=9, alarm=NOSPACE)
        await first.apply(Kind.ALARM, alarm)
        await (await trio.leader()).apply(Kind.COMPACT, rpc_pb2.CompactionRequest(revision=20))
        followers = await trio.followers()
        await followers[0].end()
        await trio.restart(followers[0])
        await trio.leader()
        await trio.same()
        await until(lambda: not any(seat.node.store.compaction.pending for seat in trio.seats), "the compactions")
        assert len({hash_of(seat) for seat in trio.seats}) == 1
        before = hash_of(first)
        await first.apply(Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=7))
        await trio.same()
        assert len({hash_of(seat) for seat in trio.seats} | {before}) == 2

    play(tmp_path, story)
