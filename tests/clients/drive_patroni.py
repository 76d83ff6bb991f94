"""What Patroni does with its store, by the gateway: members, the race for the leader's key, and watching it.

Started by test_gateway_clients.py.
"""

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from client_driver import main

TIMEOUT_S: Final = 10


def store_of(dcs: ModuleType, port: int, scope: str, name: str) -> Any:
    address = {"host": f"127.0.0.1:{port}"}
    times = {"ttl": 30, "loop_wait": 10, "retry_timeout": TIMEOUT_S}
    return dcs.get_dcs({"scope": scope, "name": name, "namespace": "/service/", "etcd3": address, **times})


def one_leads(dcs: ModuleType, port: int) -> None:
    first, second = (store_of(dcs, port, "one", name) for name in ("first", "second"))
    assert first.initialize(create_new=True, sysid="123")
    assert not second.initialize(create_new=True, sysid="456")
    assert first.set_config_value('{"ttl":30}')
    assert first.touch_member({"conn_url": "postgres://first", "state": "running", "role": "replica"})
    assert second.touch_member({"conn_url": "postgres://second", "state": "running", "role": "replica"})
    assert first.attempt_to_acquire_leader()
    assert not second.attempt_to_acquire_leader()
    cluster = first.get_cluster()
    assert cluster.initialize == "123"
    assert cluster.leader.name == "first"
    assert {member.name for member in cluster.members} == {"first", "second"}
    assert first.update_leader(cluster, 1000)
    until(lambda: second.get_cluster().status.last_lsn == 1000)
    assert first.write_sync_state("first", "second", 0)
    assert first.manual_failover("first", "second")
    assert first.delete_cluster()


def another_takes_over(dcs: ModuleType, port: int) -> None:
    first, second = (store_of(dcs, port, "two", name) for name in ("first", "second"))
    for each in (first, second):
        each.touch_member({"conn_url": "postgres://x", "state": "running", "role": "replica"})
    assert first.attempt_to_acquire_leader()
    until(lambda: second.get_cluster().leader is not None)
    leader = second.get_cluster().leader
    while second.watch(leader.version, 0.1):
        """What it had heard of until now."""
    resigning = threading.Timer(0.5, first.delete_leader, (first.get_cluster().leader,))
    resigning.start()
    assert second.watch(leader.version, TIMEOUT_S), "it was not told that the leader has gone"
    resigning.join()
    until(second.attempt_to_acquire_leader)
    until(lambda: (first.get_cluster().leader or leader).name == "second")


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


if __name__ == "__main__":
    main("patroni.dcs", {"one_leads": one_leads, "another_takes_over": another_takes_over})
