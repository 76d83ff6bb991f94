"""The etcd clients that Python programs use, each in one process with raftkv, against a running server.

etcd3 0.12.0 is not among them: its generated code cannot be imported with protobuf 4 or newer. pyetcd
(package etcd-sdk-python) is its living fork with the same calls.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from client_driver import IMPORT_ORDERS
from helpers.processes import Server, clean_environment

_DRIVERS = Path(__file__).parent
_CASES = (
    "put_get_delete",
    "transaction",
    "watch_and_cancel",
    "lease_keep_alive",
    "lock",
    "status_and_members",
    "compacted_revision",
)


def _drive(client: str, case: str, order: str, server: Server) -> None:
    if importlib.util.find_spec(client) is None:
        pytest.skip(f"the client library {client} is not installed")
    done = subprocess.run(
        [sys.executable, str(_DRIVERS / f"drive_{client}.py"), case, order, str(server.client_port)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=45,
        check=False,
    )
    assert done.returncode == 0, f"{client} {case} failed\n{done.stdout}{done.stderr}\n{server.log_tail()}"


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("client", ["aetcd", "pyetcd"])
def test_client_makes_its_calls_beside_raftkv(client_server: Server, client: str, case: str) -> None:
    _drive(client, case, "raftkv-first", client_server)


@pytest.mark.parametrize("order", IMPORT_ORDERS)
@pytest.mark.parametrize("client", ["aetcd", "pyetcd"])
def test_raftkv_and_client_import_in_either_order(client_server: Server, client: str, order: str) -> None:
    _drive(client, "put_get_delete", order, client_server)
