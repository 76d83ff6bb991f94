"""A member that is started as the container starts it, with something wrong: one line says what, and the exit code is
not 0. Settings come from the environment alone, the data directory is a volume that may be another user's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from compose_support import image_environment
from helpers.processes import clean_environment, free_port
from helpers.waiting import wait_until

COMMAND = (sys.executable, "-m", "raftkv", "serve")
_FILES_OF_OTHERS = "-dac_override,-dac_read_search"
AS_ANYBODY = (
    ("setpriv", f"--bounding-set={_FILES_OF_OTHERS}", f"--inh-caps={_FILES_OF_OTHERS}") if os.geteuid() == 0 else ()
)
"""Before a command of root's: without the right to files whose mode forbids it. Other users have none anyway."""


class Container:
    """The environment of the image on free ports, with a volume below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.volume = directory / "volume"
        self.volume.mkdir()
        self.ports = {"CLIENT": free_port(), "PEER": free_port(), "METRICS": free_port()}
        self.log_path = directory / "log"
        self.environment = image_environment() | {
            "ETCD_DATA_DIR": str(self.volume),
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://localhost:{self.ports['PEER']}",
            "ETCD_INITIAL_CLUSTER": f"default=http://localhost:{self.ports['PEER']}",
            **{f"ETCD_LISTEN_{which}_URLS": f"http://127.0.0.1:{port}" for which, port in self.ports.items()},
        }

    def spawn(self, **settings: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                (*AS_ANYBODY, *COMMAND),
                env=clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | self.environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
            )

    def log(self) -> str:
        return self.log_path.read_text()

    def refusal(self, **settings: str) -> str:
        """The line that says why it does not start. The exit code is 1; nothing is shown that is for programmers."""
        code = self.spawn(**settings).wait(60)
        (line,) = (line for line in self.log().splitlines() if line.startswith("raftkv: "))
        assert code == 1
        assert "Traceback" not in self.log()
        return line.removeprefix("raftkv: ")

    def is_empty(self) -> bool:
        return not list(self.volume.iterdir())


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ETCD_HEARTBEAT_INTERVAL", "fast", "'fast' is not a whole number"),
        ("ETCD_LISTEN_CLIENT_URLS", "0.0.0.0:2379", "0.0.0.0:2379"),
        ("ETCD_INITIAL_CLUSTER_STATE", "old", "old"),
    ],
)
def test_a_wrong_value(container: Container, variable: str, value: str, says: str) -> None:
    line = container.refusal(**{variable: value})
    assert line.startswith(f"environment variable {variable}: ")
    assert says in line
    assert container.is_empty()


def test_settings_that_contradict_each_other(container: Container) -> None:
    line = container.refusal(ETCD_NAME="node9")
    assert line == "--initial-cluster names default, but not this member, 'node9'"
    assert container.is_empty()


def test_a_variable_that_does_not_exist_is_named_and_no_reason_to_stop(container: Container) -> None:
    """As in etcd: F-02."""
    process = container.spawn(ETCD_HEARTBEAT_INTERVALL="100")
    try:
        wait_until("it serves", lambda: "ready to serve client requests" in container.log())
    finally:
        process.terminate()
    assert process.wait(30) == 0
    (line,) = (line for line in container.log().splitlines() if "ETCD_HEARTBEAT_INTERVALL" in line)
    assert "WARN" in line
    assert "an environment variable is not a known setting" in line


@pytest.mark.parametrize("which", ["CLIENT", "PEER", "METRICS"])
def test_a_port_in_use(container: Container, which: str) -> None:
    with socket.create_server(("127.0.0.1", container.ports[which])):
        line = container.refusal()
    assert line == f"cannot listen on http://127.0.0.1:{container.ports[which]}: Address already in use"
    assert f"--listen-{which.lower()}-urls" in container.log()
    assert container.is_empty()


def test_a_volume_that_is_not_writable(container: Container) -> None:
    container.volume.chmod(0o500)
    line = container.refusal()
    assert line == f"the data directory {container.volume} cannot be used: Permission denied"
    assert container.is_empty()


@pytest.mark.parametrize("part", ["", "member", "member/wal"])
def test_a_volume_with_data_that_is_another_users(container: Container, part: str) -> None:
    """It must not be taken for an empty one."""
    wal = container.volume / "member" / "wal"
    wal.mkdir(parents=True)
    (wal / "0000000000000000-0000000000000000.wal").touch()
    (container.volume / part).chmod(0o000)
    try:
        line = container.refusal()
    finally:
        (container.volume / part).chmod(0o700)
    assert line == f"the log directory {wal} cannot be read: Permission denied"


def test_a_volume_that_is_a_file(container: Container) -> None:
    container.volume.rmdir()
    container.volume.touch()
    assert container.refusal() == f"the data directory {container.volume} cannot be used: Not a directory"


def test_a_peer_name_that_does_not_resolve_is_named_and_waited_for(container: Container) -> None:
    """As in etcd: whoever starts first finds no name of those that start later, and names change while members run."""
    own = container.environment["ETCD_INITIAL_CLUSTER"]
    process = container.spawn(
        ETCD_INITIAL_CLUSTER=f"{own},b=http://b.raftkv.invalid:2380,c=http://c.raftkv.invalid:2380",
    )
    try:
        wait_until("both names are in the log", lambda: container.log().count("raftkv.invalid:2380: ") >= 2)
        for name in ("b", "c"):
            (line,) = (line for line in container.log().splitlines() if f"connecting to {name}.raftkv.invalid" in line)
            assert "a member cannot be reached" in line
        assert process.poll() is None
        assert "Traceback" not in container.log()
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_member_that_joins_and_finds_no_other_ends(container: Container) -> None:
    own = container.environment["ETCD_INITIAL_CLUSTER"]
    line = container.refusal(
        ETCD_INITIAL_CLUSTER=f"{own},b=http://b.raftkv.invalid:2380", ETCD_INITIAL_CLUSTER_STATE="existing"
    )
    assert line == "none of the members b answers, so the cluster cannot be joined"
    assert container.is_empty()
