"""The etcd clients that Python programs use, each in one process with raftkv, against a running server.

etcd3 0.12.0 is not among them: its generated code cannot be imported with protobuf 4 or newer. pyetcd
(package etcd-sdk-python) is its living fork with the same calls.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from client_driver import IMPORT_ORDERS
from client_table import RecordClient
from helpers.processes import Server, clean_environment

_DRIVERS = Path(__file__).parent
_PACKAGES = {"aetcd": "aetcd", "pyetcd": "etcd-sdk-python"}
_CASES = {
    "put_get_delete": "keys",
    "transaction": "transactions",
    "watch_and_cancel": "watches",
    "lease_keep_alive": "leases",
    "lock": "locks",
    "status_and_members": "status, members, alarms",
    "compacted_revision": "compaction",
    "many_watches": "many watches on one stream",
    "keep_alive_beyond_its_time": "a lease kept and let go",
    "locks_of_many": "locks under contention",
    "transactions_compete": "transactions under contention",
    "maintenance": "snapshot, hash, defragmentation",
}
"""Case of the drivers -> what of the client it uses."""
_GATEWAY_CASES = tuple(_CASES)[:6]


def _drive(client: str, case: str, order: str, server: Server) -> None:
    if importlib.util.find_spec(client) is None:
        pytest.skip(f"the client library {client} is not installed")
    done = subprocess.run(
        [sys.executable, str(_DRIVERS / f"drive_{client}.py"), case, order, str(server.client_port)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{client} {case} failed\n{done.stdout}{done.stderr}\n{server.log_tail()}"


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("client", _PACKAGES)
def test_client_makes_its_calls_beside_raftkv(
    client_server: Server, record_client: RecordClient, client: str, case: str
) -> None:
    record_client.package(_PACKAGES[client], client, _CASES[case])
    _drive(client, case, "raftkv-first", client_server)


@pytest.mark.parametrize("order", IMPORT_ORDERS)
@pytest.mark.parametrize("client", _PACKAGES)
def test_raftkv_and_client_import_in_either_order(client_server: Server, client: str, order: str) -> None:
    _drive(client, "put_get_delete", order, client_server)


@pytest.mark.parametrize("client", _PACKAGES)
def test_client_logs_in(server_with_users: Server, record_client: RecordClient, client: str) -> None:
    record_client.package(_PACKAGES[client], client, "a user with a password")
    _drive(client, "login", "raftkv-first", server_with_users)


@pytest.mark.parametrize("case", _GATEWAY_CASES)
def test_etcd3gw(client_server: Server, record_client: RecordClient, case: str) -> None:
    """It speaks JSON over HTTP only."""
    record_client.package("etcd3gw", "etcd3gw", _CASES[case])
    if importlib.util.find_spec("etcd3gw") is None:
        record_client.give_up("etcd3gw is not installed")
    if not _has_gateway(client_server):
        record_client.give_up("the server has no JSON gateway yet")
    _drive("etcd3gw", case, "raftkv-first", client_server)


def _has_gateway(server: Server) -> bool:
    request = Request(f"http://{server.endpoint}/v3/kv/range", b'{"key": "AA=="}')
    try:
        with urlopen(request, timeout=10):
            return True
    except HTTPError as refusal:
        refusal.close()
        if refusal.code == 404:
            return False
        raise


def test_etcd3(record_client: RecordClient) -> None:
    """The original of pyetcd."""
    why = "its generated code cannot be imported with protobuf 4 or newer; pyetcd is its living fork"
    record_client("etcd3", "0.12.0", "keys, watches, leases, locks")
    record_client.give_up(why)
