"""Plays the operations that are neither one unary call nor a watch: renewals, expiry, leadership, snapshots, claims."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from differ.client import OK, Answer, Side
from differ.compare import Difference, compare_lists
from differ.normalise import tidy_header
from differ.ops import Call, Claim, Expire, KeepAlive, LeaseKey, MemberId, MoveLeader, Observe, Snapshot
from raftkv.pb import election_pb2, rpc_pb2

if TYPE_CHECKING:
    from differ.runner import Runner

_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.1
_SHORT_S: Final = 0.005
_CHUNK_BYTES: Final = 32 * 1024
_SECTOR_BYTES: Final = 512


async def keep_alive(runner: Runner, op: KeepAlive) -> None:
    """L-20, L-21, L-23."""
    await runner.catch_up()
    if runner.asks_for_fewer_rights:
        op = replace(op, user=await runner.as_root())
    heard = await asyncio.gather(*(_renew(runner, side, op) for side in runner.sides))
    (etcd, etcd_end), (raftkv, raftkv_end) = heard
    differences = compare_lists("renewed", etcd, raftkv, runner.sides)
    if etcd_end != raftkv_end:
        differences.append(Difference("stream ended", etcd_end, raftkv_end))
    texts = [f"{[' '.join(str(each).split()) for each in told]}, then {end}" for told, end in heard]
    runner.judge(runner.finding("answer", differences, *texts))


async def _renew(runner: Runner, side: Side, op: KeepAlive) -> tuple[list[Any], tuple[int, str]]:
    """Responses, and how the stream ended: (code, text)."""
    call = side.stub("Lease.LeaseKeepAlive", op.member)(
        metadata=side.metadata(runner.user_of_call(op.user)), timeout=_TIMEOUT_S
    )
    told: list[Any] = []
    try:
        for lease in op.leases:
            lease_id = side.resolve(lease, runner.moment)
            await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())
            body = await call.read()
            if body is grpc.aio.EOF:
                break
            response = rpc_pb2.LeaseKeepAliveResponse.FromString(body)
            tidy_header(response, side)
            told.append(response)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
        return told, (int((await call.code()).value[0]), await call.details() or "")
    except grpc.aio.AioRpcError as error:
        return told, (error.code().value[0], error.details() or "")
    finally:
        call.cancel()


async def expire(runner: Runner, op: Expire) -> None:
    """A lease runs out with its keys (L-11, L-14, W-59). Takes seconds."""
    await runner.call(Call("Lease.LeaseGrant", {"TTL": 1, "ID": op.lease}), "expiring: grant")
    for key in op.keys:
        await runner.call(Call("KV.Put", {"key": key, "value": b"short-lived", "lease": op.lease}), "expiring: put")
    async with asyncio.timeout(_TIMEOUT_S):
        while True:
            answers = await runner.ask_fields("Lease.LeaseTimeToLive", {"ID": op.lease})
            # A remaining time of -1 may also be one second overdue (L-31).
            if all(answer.code != OK or answer.message.grantedTTL == 0 for answer in answers):
                break
            await asyncio.sleep(_POLL_S)
    await runner.call(Call("KV.Range", {"key": b"\0", "range_end": b"\0"}), "expiring: what is left")


async def move_leader(runner: Runner, op: MoveLeader) -> None:
    """MT-43. Both clusters have the same rank lead afterwards, so ranks mean the same again."""
    await runner.catch_up()
    answers = await runner.call(Call("Maintenance.MoveLeader", {"targetID": MemberId(op.rank)}), "answer")
    if answers[0].code == OK and op.rank:
        user = await runner.as_root()
        for side in runner.sides:
            await _meet_again(side, user)


async def _meet_again(side: Side, user: str) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        while True:
            try:
                await side.meet(side.metadata(user))
                return
            except LookupError:
                await asyncio.sleep(_POLL_S)


async def snapshot(runner: Runner, op: Snapshot) -> None:
    """MT-10, MT-11: the form of the stream, on both sides."""
    if runner.asks_for_fewer_rights:
        op = replace(op, user=await runner.as_root())
    found = await asyncio.gather(*(_read_snapshot(runner, side, op) for side in runner.sides))
    differences = [Difference("snapshot", found[0], found[1])] if found[0] != found[1] else []
    runner.judge(runner.finding("answer", differences, str(found[0]), str(found[1])))


async def _read_snapshot(runner: Runner, side: Side, op: Snapshot) -> dict[str, Any]:
    call = side.stub("Maintenance.Snapshot", op.member)(
        b"", metadata=side.metadata(runner.user_of_call(op.user)), timeout=_TIMEOUT_S
    )
    blobs: list[bytes] = []
    remaining: list[int] = []
    try:
        async for body in call:
            message = rpc_pb2.SnapshotResponse.FromString(body)
            blobs.append(message.blob)
            remaining.append(message.remaining_bytes)
    except grpc.aio.AioRpcError as error:
        return {"code": error.code().value[0], "text": error.details()}
    total = sum(map(len, blobs[:-1]))
    sent, expected = 0, []
    for blob in blobs[:-1]:
        sent += len(blob)
        expected.append(total - sent)
    return {
        "ends with the digest": blobs[-1] == hashlib.sha256(b"".join(blobs[:-1])).digest(),
        "whole sectors": total % _SECTOR_BYTES == 0,
        "chunks are small": max(map(len, blobs)) <= _CHUNK_BYTES,
        "remaining bytes": remaining == [*expected, 0],
    }


# --- locks and elections ----------------------------------------------------------------------------------------------


async def claim(runner: Runner, op: Claim) -> None:
    """LK-03 to LK-08, EL-01 to EL-03, whether it has to wait or not."""
    if runner.auth_on and not op.fields.get("lease"):
        return  # etcd leaves the lease behind that it granted before it was refused
    await runner.catch_up()
    call = Call(op.method, op.fields, op.member, op.user)
    holder, _ = await runner.call(Call("KV.Range", _oldest(op.fields["name"]), user=op.user), "who holds it")
    kvs = holder.message.kvs if holder.message is not None else ()
    own = runner.sides[0].resolve(LeaseKey(op.fields["name"], op.fields.get("lease", 0)), runner.moment)
    if not kvs or kvs[0].key == own:
        note_leader(runner, op, await runner.call(call, "answer"))
    elif op.fields.get("lease") and not runner.sides[0].leases:
        # With ids that the servers chose, the keys of the two sides would not be the same. Whoever is in line already
        # cannot be seen to begin waiting once more.
        queued, _ = await runner.ask_fields("KV.Range", {"key": own})
        if queued.message is None or not queued.message.count:
            await _contend(runner, op, call, own, kvs[0].key)


async def _contend(runner: Runner, op: Claim, call: Call, own: bytes, held: bytes) -> None:
    """Wait in line behind the holder, then have the holder's key deleted, and that of the next."""
    waiting = asyncio.ensure_future(runner.call(call, "answer"))
    try:
        seen = await _seen_waiting(runner, own, waiting)
        differences = [Difference("has its key", *seen)] if len(set(seen)) > 1 else []
        runner.judge(runner.finding(f"waiting behind {held!r}", differences))
        while not waiting.done():
            first, _ = await runner.call(Call("KV.Range", _oldest(op.fields["name"])), "who holds it")
            if first.message is None or not first.message.kvs or first.message.kvs[0].key == own:
                break
            await runner.call(Call("KV.DeleteRange", {"key": first.message.kvs[0].key}), "releasing")
        note_leader(runner, op, await waiting)
    finally:
        waiting.cancel()


async def _seen_waiting(runner: Runner, own: bytes, waiting: asyncio.Future[Any]) -> tuple[bool, bool]:
    """Whether each side has put the key that waits; both, unless one does not do it for long."""
    deadline = asyncio.get_running_loop().time() + _TIMEOUT_S / 2
    while True:
        etcd, raftkv = await runner.ask_fields("KV.Range", {"key": own})
        has = tuple(answer.message is not None and bool(answer.message.count) for answer in (etcd, raftkv))
        if all(has) or waiting.done() or asyncio.get_running_loop().time() > deadline:
            return has[0], has[1]
        await asyncio.sleep(_SHORT_S)


def _oldest(name: bytes) -> dict[str, Any]:
    """A request for the holder: the key with the lowest create revision (LK-03)."""
    return {"key": name + b"/", "range_end": name + b"0", "limit": 1, "sort_order": 1, "sort_target": 2}


def note_leader(runner: Runner, op: Claim, answers: tuple[Answer, Answer]) -> None:
    if op.method == "Election.Campaign" and answers[0].message is not None:
        name, lease = op.fields["name"], op.fields.get("lease", 0)
        runner.moment.leading[name, lease] = answers[0].message.leader.rev


async def observe(runner: Runner, op: Observe) -> None:
    """EL-06."""
    await runner.catch_up()
    leader, _ = await runner.call(Call("Election.Leader", {"name": op.name}, op.member, op.user), "who leads")
    if leader.code != OK:
        return
    streams = [
        side.stub("Election.Observe", op.member)(
            election_pb2.LeaderRequest(name=op.name).SerializeToString(),
            metadata=side.metadata(runner.user_of_call(op.user)),
            timeout=_TIMEOUT_S,
        )
        for side in runner.sides
    ]
    try:
        await _compare_observed(runner, streams, "observed first")
        if op.proclaim is not None:
            proclaimed, _ = await runner.call(Call("Election.Proclaim", op.proclaim), "proclaiming")
            key = runner.sides[0].resolve(op.proclaim["leader"]["key"], runner.moment)
            if proclaimed.code == OK and key == leader.message.kv.key:
                await _compare_observed(runner, streams, "observed next")
    finally:
        for stream in streams:
            stream.cancel()


async def _compare_observed(runner: Runner, streams: list[Any], where: str) -> None:
    answers = await asyncio.gather(
        *(_next_observed(stream, side) for stream, side in zip(streams, runner.sides, strict=True))
    )
    messages = [[answer.message] if answer.message is not None else [] for answer in answers]
    differences = compare_lists("observed", *messages, runner.sides)
    if answers[0][:2] != answers[1][:2]:
        differences.append(Difference("stream ended", answers[0][:2], answers[1][:2]))
    runner.judge(runner.finding(where, differences, *(" ".join(str(answer).split()) for answer in answers)))


async def _next_observed(stream: Any, side: Side) -> Answer:
    try:
        body = await stream.read()
    except grpc.aio.AioRpcError as error:
        return Answer(error.code().value[0], error.details() or "", None)
    if body is grpc.aio.EOF:
        return Answer(int((await stream.code()).value[0]), await stream.details() or "", None)
    message = election_pb2.LeaderResponse.FromString(body)
    tidy_header(message, side)
    return Answer(OK, "", message)
