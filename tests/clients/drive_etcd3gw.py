"""The calls of a typical user, made with etcd3gw, which speaks JSON over HTTP. Started by test_python_clients.py."""

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from client_driver import main

TIMEOUT_S: Final = 10


def put_get_delete(_etcd3gw: ModuleType, client: Any) -> None:
    assert client.get("w/kv/none") == []
    assert client.put("w/kv/1", "one")
    assert client.put("w/kv/1", "uno")
    ((value, metadata),) = client.get("w/kv/1", metadata=True)
    assert (value, metadata["key"], metadata["version"]) == (b"uno", b"w/kv/1", "2")
    assert client.put("w/kv/2", b"\x00\xff")
    assert client.get("w/kv/2") == [b"\x00\xff"]
    found = client.get_prefix("w/kv/", sort_order="descend", sort_target="key")
    assert [kv["key"] for _value, kv in found] == [b"w/kv/2", b"w/kv/1"]
    assert client.get("w/kv/1", revision=int(metadata["create_revision"])) == [b"one"]
    assert client.delete("w/kv/1")
    assert not client.delete("w/kv/1")
    assert client.delete_prefix("w/kv/")
    assert client.get_prefix("w/kv/") == []


def transaction(_etcd3gw: ModuleType, client: Any) -> None:
    assert client.create("w/txn", "old")
    assert not client.create("w/txn", "again")
    assert client.replace("w/txn", "old", "new")
    assert not client.replace("w/txn", "old", "newer")
    assert client.get("w/txn") == [b"new"]


def watch_and_cancel(etcd3gw: ModuleType, client: Any) -> None:
    client.put("w/watch/a", "0")
    ((_value, metadata),) = client.get("w/watch/a", metadata=True)
    events, cancel = client.watch_prefix("w/watch/", start_revision=int(metadata["mod_revision"]), prev_kv=True)
    client.put("w/watch/a", "1")
    client.put("w/other", "unseen")
    client.delete("w/watch/a")
    seen = list(itertools.islice(events, 3))
    cancel()
    assert [event.get("type", "PUT") for event in seen] == ["PUT", "PUT", "DELETE"]
    assert [event["kv"].get("value") for event in seen] == [b"0", b"1", None]
    assert [event["kv"]["key"] for event in seen] == [b"w/watch/a"] * 3
    try:
        client.watch_once("w/never", timeout=0.3)
    except etcd3gw.exceptions.WatchTimedOut:
        return
    raise AssertionError("a watch of what never happens was told something")


def lease_keep_alive(_etcd3gw: ModuleType, client: Any) -> None:
    lease = client.lease(60)
    client.put("w/lease", "v", lease=lease)
    assert lease.keys() == [b"w/lease"]
    assert 55 <= lease.ttl() <= 60
    assert lease.refresh() == 60
    assert lease.revoke()
    assert client.get("w/lease") == []


def lock(_etcd3gw: ModuleType, client: Any) -> None:
    first, second = client.lock("w-lock", ttl=30), client.lock("w-lock", ttl=30)
    assert first.acquire()
    assert first.is_acquired()
    assert not second.acquire()
    assert first.refresh() == 30
    assert first.release()
    assert second.acquire()
    assert not first.is_acquired()
    assert second.release()


def status_and_members(_etcd3gw: ModuleType, client: Any) -> None:
    status = client.status()
    (member,) = client.members()
    assert status["leader"] == member["ID"] == status["header"]["member_id"]
    assert status["version"].startswith("3.")


def _with_client(case: Callable[[ModuleType, Any], None]) -> Callable[[ModuleType, int], None]:
    return lambda etcd3gw, port: case(etcd3gw, etcd3gw.client(host="127.0.0.1", port=port, timeout=TIMEOUT_S))


CASES: Final = {
    case.__name__: _with_client(case)
    for case in (put_get_delete, transaction, watch_and_cancel, lease_keep_alive, lock, status_and_members)
}

if __name__ == "__main__":
    main("etcd3gw", CASES)
