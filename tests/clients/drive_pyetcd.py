"""The calls of a typical user, made with pyetcd, the living fork of python-etcd3.

Started by test_python_clients.py.

The original, etcd3 0.12.0, cannot be imported with protobuf 4 or newer: its generated code is too old.
"""

import itertools
import threading
from collections.abc import Callable
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
    )
}

if __name__ == "__main__":
    main("pyetcd", CASES)
