"""deploy/healthcheck.py: exit code 0 from a member that is well, and a line that says why from any other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import RAFTKV, Server, clean_environment, free_port
from helpers.waiting import wait_until

SCRIPT = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


def check(page: str, listen_urls: str) -> tuple[int, str]:
    """Exit code and what it said, called as in the image: without site-packages."""
    done = subprocess.run(
        (sys.executable, "-I", "-S", SCRIPT, page),
        env=clean_environment() | {"ETCD_LISTEN_METRICS_URLS": listen_urls},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert not done.stdout
    return done.returncode, done.stderr


@pytest.fixture
def member(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A member that was not started yet, and its URL for probes."""
    url = f"http://127.0.0.1:{free_port()}"
    server = Server(RAFTKV, tmp_path, (f"--listen-metrics-urls={url}",))
    try:
        yield server, url
    finally:
        server.stop()


def test_a_member_that_is_well(member: tuple[Server, str]) -> None:
    server, url = member
    server.start()
    for page in ("/livez", "/readyz"):
        assert check(page, url) == (0, "")
    assert check("/livez", f"{url.replace('127.0.0.1', '0.0.0.0')},http://10.1.2.3:4") == (0, "")


def test_a_member_without_a_quorum_is_alive_and_not_ready(member: tuple[Server, str]) -> None:
    server, url = member
    # Of a flag that is given twice the last value counts.
    server._extra_flags += (f"--initial-cluster=default={server.peer_url},other=http://127.0.0.1:{free_port()}",)
    server.spawn()
    wait_until("it is alive", lambda: check("/livez", url) == (0, ""))
    code, said = check("/readyz", url)
    assert code == 1
    assert said.startswith(f"{url}/readyz: 503 ")
    assert said.count("\n") == 1


def test_nobody_is_there() -> None:
    port = free_port()
    code, said = check("/livez", f"http://127.0.0.1:{port}")
    assert (code, said) == (1, f"http://127.0.0.1:{port}/livez: [Errno 111] Connection refused\n")


def test_what_it_cannot_ask() -> None:
    code, said = check("/livez", "https://0.0.0.0:2381")
    assert code == 1
    assert (
        said == "https://0.0.0.0:2381 cannot be asked: the first of ETCD_LISTEN_METRICS_URLS must be an http:// URL\n"
    )
