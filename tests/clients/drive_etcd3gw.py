"""The calls of a typical user, made with etcd3gw, which speaks JSON over HTTP to the gateway.

Started by test_python_clients.py, and for the cases that only it has by test_gateway_clients.py.
"""

import base64
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Final

import pytest
from client_driver import main

TIMEOUT_S: Final = 10


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def put_get_delete(_etcd3gw: ModuleType, client: Any) -> None:
    assert client.get("g/kv/none") == []
    assert client.put("g/kv/1", "one")
    assert client.put("g/kv/1", "uno")
    [(value, metadata)] = client.get("g/kv/1", metadata=True)
    assert (value, metadata["version"]) == (b"uno", "2")
    assert client.get("g/kv/1", revision=int(metadata["create_revision"])) == [b"one"]
    client.put("g/kv/2", b"\x00\xff")
    pairs = client.get_prefix("g/kv/", sort_order="descend", sort_target="key")
    assert [metadata["key"] for _, metadata in pairs] == [b"g/kv/2", b"g/kv/1"]
    assert client.create("g/kv/2", "x") is False
    assert client.create("g/kv/3", "x") is True
    assert client.replace("g/kv/3", "y", "z") is False
    assert client.replace("g/kv/3", "x", "z") is True
    assert client.delete("g/kv/1") is True
    assert client.delete("g/kv/1") is False
    assert client.delete_prefix("g/kv/") is True
    assert client.get_prefix("g/kv/") == []


def transaction(_etcd3gw: ModuleType, client: Any) -> None:
    key = b64("g/txn")
    request = {
        "compare": [{"key": key, "result": "EQUAL", "target": "VERSION", "version": 0}],
        "success": [{"request_put": {"key": key, "value": b64("new")}}, {"request_range": {"key": key}}],
        "failure": [{"request_delete_range": {"key": key}}],
    }
    client.delete("g/txn")  # another client's, on the same server
    made = client.transaction(request)
    assert made["succeeded"] is True
    assert made["responses"][1]["response_range"]["kvs"][0]["value"] == b64("new")
    gone = client.transaction(request)
    assert "succeeded" not in gone
    assert gone["responses"][0]["response_delete_range"]["deleted"] == "1"


def watch_and_cancel(etcd3gw: ModuleType, client: Any) -> None:
    client.put("g/watch/before", "0")
    start = int(client.get("g/watch/before", metadata=True)[0][1]["mod_revision"])
    events, cancel = client.watch_prefix("g/watch/")
    history, cancel_history = client.watch_prefix("g/watch/", start_revision=start, prev_kv=True)
    client.put("g/watch/k", "1")
    client.put("g/other", "unseen")
    client.put("g/watch/k", "2")
    client.delete("g/watch/k")
    seen = list(itertools.islice(events, 3))
    assert [event["kv"].get("value") for event in seen] == [b"1", b"2", None]
    assert [event.get("type") for event in seen] == [None, None, "DELETE"]
    assert [event["kv"].get("value") for event in itertools.islice(history, 4)] == [b"0", b"1", b"2", None]
    cancel()
    cancel_history()
    assert list(events) == []
    with pytest.raises(etcd3gw.exceptions.WatchTimedOut):
        client.watch_once("g/quiet", timeout=0.2)
    writer = threading.Timer(0.2, client.put, ("g/once", "now"))
    writer.start()
    assert client.watch_once("g/once", timeout=TIMEOUT_S)["kv"]["value"] == b"now"
    writer.join()


def many_watches(_etcd3gw: ModuleType, client: Any) -> None:
    watches = [client.watch(f"g/many/{number}") for number in range(30)]
    for number in range(30):
        client.put(f"g/many/{number}", str(number))
    for number, (events, _) in enumerate(watches):
        assert next(events)["kv"]["value"] == str(number).encode()
    for _, cancel in watches:
        cancel()


def lease_keep_alive(_etcd3gw: ModuleType, client: Any) -> None:
    lease = client.lease(ttl=2)
    client.put("g/lease", "held", lease=lease)
    assert lease.keys() == [b"g/lease"]
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert lease.refresh() == 2
        time.sleep(0.3)
    assert lease.ttl() in (1, 2)
    assert client.get("g/lease") == [b"held"]
    assert lease.revoke() is True
    assert client.get("g/lease") == []
    assert lease.ttl() == -1
    short = client.lease(ttl=1)
    client.put("g/lease", "let go", lease=short)
    end = time.monotonic() + TIMEOUT_S
    while client.get("g/lease"):
        assert time.monotonic() < end, "the lease did not run out"
        time.sleep(0.1)


def lock(_etcd3gw: ModuleType, client: Any) -> None:
    with client.lock(id="g-lock", ttl=30) as held:
        assert held.is_acquired()
        assert held.refresh() == 30
        assert client.lock(id="g-lock", ttl=30).acquire() is False
    assert not held.is_acquired()


def locks_of_many(etcd3gw: ModuleType, client: Any) -> None:
    """A counter that only the holder of the lock touches loses no step."""
    workers, steps = 4, 5
    client.put("g/counter", "0")

    def work(_number: int) -> None:
        own = etcd3gw.Etcd3Client(port=client.port, timeout=TIMEOUT_S)
        for _ in range(steps):
            claimed = own.lock(id="g-counter", ttl=30)
            while not claimed.acquire():
                time.sleep(0.01)
            own.put("g/counter", str(int(own.get("g/counter")[0]) + 1))
            assert claimed.release()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    assert client.get("g/counter") == [str(workers * steps).encode()]


def status_and_members(_etcd3gw: ModuleType, client: Any) -> None:
    status = client.status()
    assert status["leader"] == status["header"]["member_id"]
    [member] = client.members()
    assert member["clientURLs"] == [f"http://127.0.0.1:{client.port}"]


def refusals(etcd3gw: ModuleType, client: Any) -> None:
    with pytest.raises(etcd3gw.exceptions.Etcd3Exception) as raised:
        client.put("", "x")
    assert "etcdserver: key is not provided" in raised.value.detail_text
    with pytest.raises(etcd3gw.exceptions.Etcd3Exception) as raised:
        client.put("g/large", "x" * 1_600_000)
    assert "etcdserver: request is too large" in raised.value.detail_text


_CASES: Final[dict[str, Callable[[ModuleType, Any], None]]] = {
    "put_get_delete": put_get_delete,
    "transaction": transaction,
    "watch_and_cancel": watch_and_cancel,
    "many_watches": many_watches,
    "lease_keep_alive": lease_keep_alive,
    "lock": lock,
    "locks_of_many": locks_of_many,
    "status_and_members": status_and_members,
    "refusals": refusals,
}


def _run(case: Callable[[ModuleType, Any], None]) -> Callable[[ModuleType, int], None]:
    def run(etcd3gw: ModuleType, port: int) -> None:
        case(etcd3gw, etcd3gw.Etcd3Client(host="127.0.0.1", port=port, timeout=TIMEOUT_S))

    return run


if __name__ == "__main__":
    main("etcd3gw", {name: _run(case) for name, case in _CASES.items()})
