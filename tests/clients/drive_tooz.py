"""What OpenStack's services do with tooz and etcd3gw, by the gateway: groups, locks, a leader.

Started by test_gateway_clients.py.
"""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import pytest
from client_driver import main

TIMEOUT_S: Final = 10


def coordinators(coordination: ModuleType, port: int) -> list[Any]:
    made = [coordination.get_coordinator(f"etcd3+http://127.0.0.1:{port}", name) for name in (b"a", b"b")]
    for each in made:
        each.start(start_heart=True)
    return made


def groups(coordination: ModuleType, port: int) -> None:
    first, second = coordinators(coordination, port)
    group = b"tooz-group"
    first.create_group(group).get()
    with pytest.raises(coordination.GroupAlreadyExist):
        second.create_group(group).get()
    seen: list[str] = []
    first.watch_join_group(group, lambda event: seen.append(f"joined {event.member_id.decode()}"))
    first.watch_leave_group(group, lambda event: seen.append(f"left {event.member_id.decode()}"))
    first.join_group(group).get()
    second.join_group(group, capabilities=b"{}").get()
    assert set(first.get_members(group).get()) == {b"a", b"b"}
    first.run_watchers()
    assert set(seen) == {"joined a", "joined b"}
    second.leave_group(group).get()
    first.run_watchers()
    assert seen[2:] == ["left b"]
    assert set(first.get_members(group).get()) == {b"a"}
    first.stop()
    second.stop()


def locks(coordination: ModuleType, port: int) -> None:
    first, second = coordinators(coordination, port)
    held, wanted = first.get_lock(b"tooz-lock"), second.get_lock(b"tooz-lock")
    assert held.acquire()
    assert held.heartbeat()
    assert not wanted.acquire(blocking=False)
    assert held.release()
    assert wanted.acquire(blocking=TIMEOUT_S)
    assert wanted.release()
    first.stop()
    second.stop()


def a_lock_of_one_that_is_gone(coordination: ModuleType, port: int) -> None:
    """Its lease runs out."""
    url = f"etcd3+http://127.0.0.1:{port}"
    gone = coordination.get_coordinator(f"{url}?timeout=2&lock_timeout=2", b"gone")
    gone.start(start_heart=False)
    assert gone.get_lock(b"tooz-lease").acquire()
    other = coordination.get_coordinator(url, b"other")
    other.start(start_heart=True)
    lock = other.get_lock(b"tooz-lease")
    end = time.monotonic() + TIMEOUT_S
    while not lock.acquire(blocking=False):
        assert time.monotonic() < end, "the lock was not let go"
        time.sleep(0.1)
    other.stop()


_CASES: Final[dict[str, Callable[[ModuleType, int], None]]] = {
    "groups": groups,
    "locks": locks,
    "a_lock_of_one_that_is_gone": a_lock_of_one_that_is_gone,
}

if __name__ == "__main__":
    main("tooz.coordination", _CASES)
