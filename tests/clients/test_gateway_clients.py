"""Clients of the JSON gateway: each in one process with raftkv, against a running server (H-20 to H-32).

What etcd3gw has in common with other Python clients is in test_python_clients.py.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from client_table import RecordClient
from helpers.processes import Server, clean_environment

_DRIVERS = Path(__file__).parent
_CASES = {
    ("etcd3gw", "many_watches"): "many watches",
    ("etcd3gw", "locks_of_many"): "locks under contention",
    ("etcd3gw", "refusals"): "errors",
    ("tooz", "groups"): "groups and their members",
    ("tooz", "locks"): "locks",
    ("tooz", "a_lock_of_one_that_is_gone"): "locks that run out",
    ("patroni", "one_leads"): "members, the race for the leader's key",
    ("patroni", "another_takes_over"): "watching the leader's key",
}
"""(client, case of its driver) -> what of the client it uses."""
_NEEDED = {"etcd3gw": ("etcd3gw",), "tooz": ("tooz", "etcd3gw"), "patroni": ("patroni", "etcd", "psycopg")}
"""Client -> the modules without which it does not run."""


@pytest.mark.parametrize(("client", "case"), _CASES)
def test_client_makes_its_calls(client_server: Server, record_client: RecordClient, client: str, case: str) -> None:
    record_client.package(client, client, _CASES[client, case])
    if any(importlib.util.find_spec(module) is None for module in _NEEDED[client]):
        record_client.give_up("the client library is not installed")
    done = subprocess.run(
        [sys.executable, str(_DRIVERS / f"drive_{client}.py"), case, "raftkv-first", str(client_server.client_port)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{client} {case} failed\n{done.stdout}{done.stderr}\n{client_server.log_tail()}"
