"""The tests that etcd3gw and tooz bring along for themselves, against a raftkv member (H-20 to H-32).

They come with the packages; what they need besides is in the dependency group gateway-clients.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from client_table import RecordClient
from helpers.processes import Server, clean_environment

_LIMIT_S: Final = 600
"""They wait for leases to run out, over and over."""
_MODULES: Final = {
    "etcd3gw": ("etcd3gw.tests.test_etcd3gw", "etcd3gw.tests.test_client"),
    "tooz": ("tooz.tests.test_coordination", "tooz.tests.test_partitioner", "tooz.tests.drivers.test_etcd3gw"),
}
_NEEDED: Final = ("etcd3gw", "oslotest", "tooz", "ddt", "sysv_ipc", "pymemcache", "redis")
"""Those of tooz import the drivers of other stores as well."""
_LEAST: Final = {"etcd3gw": 35, "tooz": 60}
"""Tests that must have passed: fewer mean that they did not find the member. tooz skips what its driver for etcd does
not do."""
_RESULT: Final = re.compile(r"^Ran (\d+) tests in .*?^OK(?: \(skipped=(\d+)\))?$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(_LIMIT_S + 60)
@pytest.mark.parametrize("client", _MODULES)
def test_what_clients_test_themselves(
    client: str, client_server: Server, record_client: RecordClient, tmp_path: Path
) -> None:
    record_client.package(client, client, "its own tests")
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        record_client.give_up(f"{', '.join(missing)} are not installed: pip install --group gateway-clients")
    port = client_server.client_port
    found = {
        "TOOZ_TEST_HTTP_URL": f"http://127.0.0.1:{port}",
        "TOOZ_TEST_ETCD_PORT": str(port),
        "TOOZ_TEST_URL": f"etcd3+http://127.0.0.1:{port}",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "unittest", module],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=clean_environment() | found,
        )
        for module in _MODULES[client]  # side by side, for they wait most of the time
    ]
    passed = 0
    try:
        for run in runs:
            _, told = run.communicate(timeout=_LIMIT_S)
            assert run.returncode == 0, f"{told[-5000:]}{client_server.log_tail()}"
            result = _RESULT.search(told)
            assert result is not None, told[-5000:]
            passed += int(result[1]) - int(result[2] or 0)
    finally:
        for run in runs:
            run.kill()
            run.wait()
    assert passed >= _LEAST[client]
