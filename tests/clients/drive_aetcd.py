"""The calls of a typical user, made with the asyncio client aetcd. Started by test_python_clients.py."""

import asyncio
import hashlib
import io
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Final

import pytest
from client_driver import main

TIMEOUT_S: Final = 10


async def put_get_delete(_aetcd: ModuleType, client: Any) -> None:
    assert await client.get(b"a/kv/none") is None
    first = await client.put(b"a/kv/1", b"one")
    again = await client.put(b"a/kv/1", b"uno", prev_kv=True)
    assert first.header.revision + 1 == again.header.revision
    assert again.prev_kv.value == b"one"
    got = await client.get(b"a/kv/1")
    assert (b"uno", 2, first.header.revision) == (got.value, got.version, got.create_revision)
    await client.put(b"a/kv/2", b"\x00\xff")
    page = await client.get_prefix(b"a/kv/", sort_order="descend")
    assert [kv.key for kv in page] == [b"a/kv/2", b"a/kv/1"]
    assert [kv.key for kv in await client.get_range(b"a/kv/1", b"a/kv/2")] == [b"a/kv/1"]
    assert (await client.delete(b"a/kv/1", prev_kv=True)).prev_kv.value == b"uno"
    assert await client.delete(b"a/kv/1") is None
    assert (await client.delete_prefix(b"a/kv/")).deleted == 1
    assert await client.replace(b"a/kv/1", b"x", b"y") is False


async def transaction(_aetcd: ModuleType, client: Any) -> None:
    operations = client.transactions
    await client.put(b"a/txn", b"old")
    succeeded, responses = await client.transaction(
        compare=[operations.value(b"a/txn") == b"old", operations.version(b"a/txn") > 0],
        success=[operations.put(b"a/txn", b"new"), operations.get(b"a/txn"), operations.delete(b"a/none")],
        failure=[],
    )
    assert succeeded
    assert responses[1][0][0] == b"new"
    assert responses[2].response_delete_range.deleted == 0
    succeeded, responses = await client.transaction(
        compare=[operations.mod(b"a/missing") > 0],
        success=[operations.put(b"a/missing", b"x")],
        failure=[operations.get(b"a/missing")],
    )
    assert not succeeded
    assert responses == [[]]


async def watch_and_cancel(aetcd: ModuleType, client: Any) -> None:
    start = (await client.put(b"a/watch/before", b"0")).header.revision
    watch = await client.watch_prefix(b"a/watch/", prev_kv=True)
    history = await client.watch_prefix(b"a/watch/", start_revision=start)
    await client.put(b"a/watch/k", b"1")
    await client.put(b"a/other", b"unseen")
    await client.put(b"a/watch/k", b"2")
    await client.delete(b"a/watch/k")
    seen = [event async for event in _first(watch, 3)]
    assert [event.kind for event in seen] == ["PUT", "PUT", "DELETE"]
    assert [event.kv.value for event in seen] == [b"1", b"2", b""]
    assert seen[2].prev_kv.value == b"2"
    assert [event.kv.value async for event in _first(history, 4)] == [b"0", b"1", b"2", b""]
    await watch.cancel()
    await client.put(b"a/watch/after", b"x")
    assert [event.kv.value async for event in _first(history, 1)] == [b"x"]
    assert [event async for event in watch] == []
    await history.cancel()
    one = asyncio.create_task(client.watch_once(b"a/once", timeout=TIMEOUT_S))
    while not one.done():
        await client.put(b"a/once", b"now")
        await asyncio.wait([one], timeout=0.05)
    assert (await one).kv.value == b"now"
    with pytest.raises(aetcd.WatchTimeoutError):
        await client.watch_once(b"a/never", timeout=0.2)


async def lease_keep_alive(_aetcd: ModuleType, client: Any) -> None:
    lease = await client.lease(60)
    await client.put(b"a/lease/1", b"v", lease=lease)
    await client.put(b"a/lease/2", b"v", lease=lease.id)
    assert (await client.get(b"a/lease/1")).lease == lease.id
    assert sorted(await lease.keys()) == [b"a/lease/1", b"a/lease/2"]
    assert await lease.granted_ttl() == 60
    assert 55 <= await lease.remaining_ttl() <= 60
    assert (await lease.refresh()).TTL == 60
    await lease.revoke()
    assert await client.get(b"a/lease/1") is None
    assert (await client.refresh_lease(lease.id)).TTL == 0
    assert (await client.get_lease_info(lease.id)).TTL == -1


async def lock(_aetcd: ModuleType, client: Any) -> None:
    first, second = client.lock(b"a/lock", ttl=30), client.lock(b"a/lock", ttl=30)
    assert await first.acquire(timeout=TIMEOUT_S)
    assert await first.is_acquired()
    waiting = asyncio.create_task(second.acquire(timeout=TIMEOUT_S))
    await asyncio.wait([waiting], timeout=0.2)
    assert not waiting.done()
    assert await first.release()
    assert await waiting
    assert await second.is_acquired()
    assert not await first.is_acquired()
    await second.release()


async def status_and_members(_aetcd: ModuleType, client: Any) -> None:
    status = await client.status()
    members = [member async for member in client.members()]
    assert status.leader.id == members[0].id
    assert members[0].name == "default"
    assert status.version.startswith("3.")
    assert status.db_size > 0
    assert [alarm async for alarm in client.list_alarms()] == []


async def compacted_revision(aetcd: ModuleType, client: Any) -> None:
    for value in (b"1", b"2", b"3"):
        last = await client.put(b"a/compact", value)
    await client.compact(last.header.revision, physical=True)
    watch = await client.watch(b"a/compact", start_revision=last.header.revision - 1)
    with pytest.raises(aetcd.RevisionCompactedError) as refused:
        await asyncio.wait_for(anext(aiter(watch)), TIMEOUT_S)
    assert refused.value.compacted_revision == last.header.revision


async def many_watches(_aetcd: ModuleType, client: Any) -> None:
    """Thirty on one stream; each is told of its own key only."""
    watches = [await client.watch(b"a/many/%02d" % number) for number in range(30)]
    for number in reversed(range(30)):
        await client.put(b"a/many/%02d" % number, b"%d" % number)
    for number, watch in enumerate(watches):
        assert [event.kv.value async for event in _first(watch, 1)] == [b"%d" % number]
        await watch.cancel()
    once = asyncio.create_task(client.watch_prefix_once(b"a/many/", timeout=TIMEOUT_S))
    while not once.done():
        await client.put(b"a/many/late", b"x")
        await asyncio.wait([once], timeout=0.05)
    assert (await once).kv.key == b"a/many/late"


async def keep_alive_beyond_its_time(_aetcd: ModuleType, client: Any) -> None:
    lease = await client.lease(2)
    start = (await client.put(b"a/kept", b"v", lease=lease)).header.revision
    for _ in range(8):
        await asyncio.sleep(0.5)
        assert (await lease.refresh()).TTL == 2
    assert (await client.get(b"a/kept")).value == b"v"
    expiry = await client.watch(b"a/kept", start_revision=start + 1, prev_kv=True)
    (gone,) = [event async for event in _first(expiry, 1)]
    assert (gone.kind, gone.prev_kv.lease) == ("DELETE", lease.id)


async def locks_of_many(_aetcd: ModuleType, client: Any) -> None:
    """Five want it, four times each; and one that is never given back runs out."""
    inside = turns = 0

    async def work() -> None:
        nonlocal inside, turns
        for _ in range(4):
            lock = client.lock(b"a/locks", ttl=30)
            assert await lock.acquire(timeout=30)
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.002)
            inside -= 1
            turns += 1
            assert await lock.release()

    await asyncio.gather(*(work() for _ in range(5)))
    assert turns == 20
    dead, heir = client.lock(b"a/locks", ttl=2), client.lock(b"a/locks", ttl=30)
    assert await dead.acquire()
    assert await heir.acquire(timeout=TIMEOUT_S)
    assert not await dead.release()
    assert await heir.release()


async def transactions_compete(_aetcd: ModuleType, client: Any) -> None:
    """A counter that only transactions change: no increment is lost."""
    operations = client.transactions
    await client.put(b"a/counter", b"0")

    async def increment() -> None:
        done = False
        while not done:
            value = (await client.get(b"a/counter")).value
            done, _ = await client.transaction(
                compare=[operations.value(b"a/counter") == value],
                success=[operations.put(b"a/counter", b"%d" % (int(value) + 1))],
                failure=[],
            )

    await asyncio.gather(*(increment() for _ in range(40)))
    assert (await client.get(b"a/counter")).value == b"40"


async def maintenance(_aetcd: ModuleType, client: Any) -> None:
    content = io.BytesIO()
    await client.snapshot(content)
    data, checksum = content.getvalue()[:-32], content.getvalue()[-32:]
    assert len(data) % 512 == 0
    assert hashlib.sha256(data).digest() == checksum
    assert await client.hash() == await client.hash()
    await client.put(b"a/defragment", b"v")
    await client.defragment()
    assert (await client.get(b"a/defragment")).value == b"v"


async def login(aetcd: ModuleType, nobody: Any) -> None:
    """On a server with users: alice may use app/, and nothing else."""
    with pytest.raises(aetcd.InvalidArgumentError, match="user name is empty"):
        await nobody.get(b"app/a")
    port = nobody._port
    with pytest.raises(aetcd.InvalidArgumentError, match="authentication failed, invalid user ID or password"):
        await aetcd.Client(port=port, username="alice", password="wrong", timeout=TIMEOUT_S).connect()
    async with aetcd.Client(port=port, username="alice", password="alicepw", timeout=TIMEOUT_S) as alice:
        watch = await alice.watch_prefix(b"app/")
        await alice.put(b"app/a", b"1")
        assert [event.kv.value async for event in _first(watch, 1)] == [b"1"]
        assert (await alice.get(b"app/a")).value == b"1"
        assert await alice.replace(b"app/a", b"1", b"2")
        for call in (alice.get(b"other"), alice.put(b"other", b"v"), alice.delete_prefix(b"a")):
            with pytest.raises(Exception, match="permission denied"):
                await call
        lease = await alice.lease(60)
        await alice.put(b"app/leased", b"v", lease=lease)
        await lease.revoke()
        assert await alice.get(b"app/leased") is None


async def _first(watch: Any, count: int) -> Any:
    events = aiter(watch)
    for _ in range(count):
        yield await asyncio.wait_for(anext(events), TIMEOUT_S)


def _in_a_loop(case: Callable[[ModuleType, Any], Awaitable[None]]) -> Callable[[ModuleType, int], None]:
    async def with_client(aetcd: ModuleType, port: int) -> None:
        async with aetcd.Client(host="127.0.0.1", port=port, timeout=TIMEOUT_S) as client:
            await case(aetcd, client)

    return lambda aetcd, port: asyncio.run(with_client(aetcd, port))


CASES: Final = {
    case.__name__: _in_a_loop(case)
    for case in (
        put_get_delete,
        transaction,
        watch_and_cancel,
        lease_keep_alive,
        lock,
        status_and_members,
        compacted_revision,
        many_watches,
        keep_alive_beyond_its_time,
        locks_of_many,
        transactions_compete,
        maintenance,
        login,
    )
}

if __name__ == "__main__":
    main("aetcd", CASES)
