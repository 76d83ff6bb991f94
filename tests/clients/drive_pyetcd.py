"""The calls of a typical user, made with pyetcd, the living fork of python-etcd3.

Started by test_python_clients.py.

The original, etcd3 0.12.0, cannot be imported with protobuf 4 or newer: its generated code is too old.
"""

import hashlib
import io
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Final

import pytest
from client_driver import main

TIMEOUT_S: Final = 10


def put_get_delete(_pyetcd: ModuleType, client: Any) -> None:
    assert client.get("p/kv/none") == (None, None)
    first = client.put("p/kv/1", "one")
    again = client.put("p/kv/1", "uno", prev_kv=True)
    assert first.header.revision + 1 == again.header.revision
    assert again.prev_kv.value == b"one"
    value, metadata = client.get("p/kv/1")
    assert (b"uno", 2, first.header.revision) == (value, metadata.version, metadata.create_revision)
    client.put("p/kv/2", b"\x00\xff")
    assert [kv.key for _value, kv in client.get_prefix("p/kv/", sort_order="descend")] == [
        b"p/kv/2",
        b"p/kv/1",
    ]
    assert client.put_if_not_exists("p/kv/2", "x") is False
    assert client.replace("p/kv/2", b"\x00\xff", "y") is True
    assert client.delete("p/kv/1", prev_kv=True, return_response=True).prev_kvs[0].value == b"uno"
    assert client.delete("p/kv/1") is False
    assert client.delete_prefix("p/kv/").deleted == 1


def transaction(_pyetcd: ModuleType, client: Any) -> None:
    operations = client.transactions
    client.put("p/txn", "old")
    succeeded, responses = client.transaction(
        compare=[operations.value("p/txn") == "old", operations.version("p/txn") > 0],
        success=[operations.put("p/txn", "new"), operations.get("p/txn"), operations.delete("p/none")],
        failure=[],
    )
    assert succeeded
    assert responses[1][0][0] == b"new"
    assert responses[2].response_delete_range.deleted == 0
    nested = operations.txn(
        compare=[operations.create("p/missing") == 0], success=[operations.get("p/txn")], failure=[]
    )
    succeeded, responses = client.transaction(
        compare=[operations.mod("p/missing") > 0], success=[], failure=[nested, operations.get("p/missing")]
    )
    assert not succeeded
    assert responses[0].response_txn.succeeded
    assert responses[1] == []


def watch_and_cancel(_pyetcd: ModuleType, client: Any) -> None:
    start = client.put("p/watch/before", "0").header.revision
    events, cancel = client.watch_prefix("p/watch/", prev_kv=True)
    history, cancel_history = client.watch_prefix("p/watch/", start_revision=start)
    client.put("p/watch/k", "1")
    client.put("p/other", "unseen")
    client.put("p/watch/k", "2")
    client.delete("p/watch/k")
    seen = list(itertools.islice(events, 3))
    assert [type(event).__name__ for event in seen] == ["PutEvent", "PutEvent", "DeleteEvent"]
    assert [event.value for event in seen] == [b"1", b"2", b""]
    assert seen[2].prev_value == b"2"
    assert [event.value for event in itertools.islice(history, 4)] == [b"0", b"1", b"2", b""]
    cancel()
    client.put("p/watch/after", "x")
    assert [event.value for event in itertools.islice(history, 1)] == [b"x"]
    assert list(events) == []
    cancel_history()


def lease_keep_alive(_pyetcd: ModuleType, client: Any) -> None:
    lease = client.lease(60)
    client.put("p/lease/1", "v", lease=lease)
    client.put("p/lease/2", "v", lease=lease.id)
    assert client.get("p/lease/1")[1].lease_id == lease.id
    assert sorted(lease.keys) == [b"p/lease/1", b"p/lease/2"]
    assert lease.granted_ttl == 60
    assert 55 <= lease.remaining_ttl <= 60
    assert [response.TTL for response in lease.refresh()] == [60]
    lease.revoke()
    assert client.get("p/lease/1") == (None, None)
    assert [response.TTL for response in client.refresh_lease(lease.id)] == [0]
    assert client.get_lease_info(lease.id).TTL == -1


def lock(_pyetcd: ModuleType, client: Any) -> None:
    first, second = client.lock("p-lock", ttl=30), client.lock("p-lock", ttl=30)
    assert first.acquire(timeout=TIMEOUT_S)
    assert first.is_acquired()
    acquired = threading.Event()

    def wait_for_it() -> None:
        if second.acquire(timeout=TIMEOUT_S):
            acquired.set()

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    assert not acquired.wait(0.2)
    assert first.release()
    assert acquired.wait(TIMEOUT_S)
    waiting.join()
    assert second.is_acquired()
    assert not first.is_acquired()
    second.release()


def status_and_members(_pyetcd: ModuleType, client: Any) -> None:
    status = client.status()
    members = list(client.members)
    assert status.leader.id == members[0].id
    assert members[0].name == "default"
    assert status.version.startswith("3.")
    assert status.db_size > 0
    assert list(client.list_alarms()) == []


def compacted_revision(pyetcd: ModuleType, client: Any) -> None:
    for value in ("1", "2", "3"):
        last = client.put("p/compact", value).header.revision
    client.compact(last, physical=True)
    events, _cancel = client.watch("p/compact", start_revision=last - 1)
    with pytest.raises(pyetcd.exceptions.RevisionCompactedError) as refused:
        next(events)
    assert refused.value.compacted_revision == last


def many_watches(_pyetcd: ModuleType, client: Any) -> None:
    """Thirty on one stream; each is told of its own key only. Callbacks are told of whole responses."""
    watches = [client.watch(f"p/many/{number:02}") for number in range(30)]
    responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
    callback = client.add_watch_prefix_callback("p/many/", responses.put)
    for number in reversed(range(30)):
        client.put(f"p/many/{number:02}", str(number))
    for number, (events, cancel) in enumerate(watches):
        assert next(events).value == str(number).encode()
        cancel()
    told = [event.key for _ in range(30) for event in responses.get(timeout=TIMEOUT_S).events]
    assert told == [f"p/many/{number:02}".encode() for number in reversed(range(30))]
    client.cancel_watch(callback)


def keep_alive_beyond_its_time(_pyetcd: ModuleType, client: Any) -> None:
    lease = client.lease(2)
    start = client.put("p/kept", "v", lease=lease).header.revision
    for _ in range(8):
        time.sleep(0.5)
        assert [response.TTL for response in lease.refresh()] == [2]
    assert client.get("p/kept")[0] == b"v"
    expiry, cancel = client.watch("p/kept", start_revision=start + 1, prev_kv=True)
    gone = next(expiry)
    cancel()
    assert (type(gone).__name__, gone.prev_value) == ("DeleteEvent", b"v")


def locks_of_many(_pyetcd: ModuleType, client: Any) -> None:
    """Four want it, three times each; and one that is never given back runs out."""
    inside = turns = 0

    def work() -> None:
        nonlocal inside, turns
        for _ in range(3):
            lock = client.lock("p-locks", ttl=30)
            assert lock.acquire(timeout=30)
            inside += 1
            assert inside == 1
            time.sleep(0.002)
            inside -= 1
            turns += 1
            assert lock.release()

    with ThreadPoolExecutor(4) as pool:
        for worker in [pool.submit(work) for _ in range(4)]:
            worker.result()
    assert turns == 12
    dead, heir = client.lock("p-locks", ttl=2), client.lock("p-locks", ttl=30)
    assert dead.acquire()
    assert heir.acquire(timeout=TIMEOUT_S)
    assert not dead.release()
    assert heir.release()


def transactions_compete(_pyetcd: ModuleType, client: Any) -> None:
    """A counter that only transactions change: no increment is lost."""
    client.put("p/counter", "0")

    def increment() -> None:
        while True:
            value, _metadata = client.get("p/counter")
            if client.replace("p/counter", value, str(int(value) + 1)):
                return

    with ThreadPoolExecutor(4) as pool:
        for turn in [pool.submit(increment) for _ in range(40)]:
            turn.result()
    assert client.get("p/counter")[0] == b"40"


def maintenance(_pyetcd: ModuleType, client: Any) -> None:
    content = io.BytesIO()
    client.snapshot(content)
    data, checksum = content.getvalue()[:-32], content.getvalue()[-32:]
    assert len(data) % 512 == 0
    assert hashlib.sha256(data).digest() == checksum
    assert client.hash() == client.hash()
    client.put("p/defragment", "v")
    client.defragment()
    assert client.get("p/defragment")[0] == b"v"


def login(pyetcd: ModuleType, nobody: Any) -> None:
    """On a server with users: alice may use app/, and nothing else."""
    with pytest.raises(Exception, match="user name is empty"):
        nobody.get("app/a")
    port = int(nobody.endpoint_in_use.netloc.rpartition(":")[2])
    with pytest.raises(Exception, match="authentication failed, invalid user ID or password"):
        pyetcd.client(port=port, user="alice", password="wrong", timeout=TIMEOUT_S)
    with pyetcd.client(port=port, user="alice", password="alicepw", timeout=TIMEOUT_S) as alice:
        # It would send its token a second time as call credentials, which grpcio refuses on a channel without TLS.
        alice.call_credentials = None
        events, cancel = alice.watch_prefix("app/")
        alice.put("app/a", "1")
        assert next(events).value == b"1"
        cancel()
        assert alice.get("app/a")[0] == b"1"
        assert alice.replace("app/a", "1", "2")
        calls: tuple[Callable[[], Any], ...] = (
            lambda: alice.get("other"),
            lambda: alice.put("other", "v"),
            lambda: alice.delete_prefix("a"),
        )
        for call in calls:
            with pytest.raises(Exception, match="permission denied"):
                call()


def _with_client(case: Callable[[ModuleType, Any], None]) -> Callable[[ModuleType, int], None]:
    def run(pyetcd: ModuleType, port: int) -> None:
        with pyetcd.client(host="127.0.0.1", port=port, timeout=TIMEOUT_S) as client:
            case(pyetcd, client)

    return run


CASES: Final = {
    case.__name__: _with_client(case)
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
    main("pyetcd", CASES)
