"""A local cluster of real processes, from the first start to the end, by the commands that a person would type."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import clean_environment, free_port
from helpers.waiting import wait_until

pytestmark = pytest.mark.crash

PORTS = 6


class Person:
    """Types commands in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def types(self, *argv: str, code: int = 0) -> str:
        """What the command prints. It must end: the members that it started go on without it."""
        command = [sys.executable, "-m", "raftkv", "cluster", *argv]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd=self.directory,
            env=clean_environment() | {"ETCD_NAME": "not-mine"},
        )
        assert done.returncode == code, done.stderr + self.logs()
        return done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        whole: dict[str, Any] = json.loads(self.types("status", "-o", "json"))
        return whole

    def member(self, name: str) -> dict[str, Any]:
        return next(each for each in self.status()["members"] if each["name"] == name)

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.directory.glob("raftkv.cluster/*.log")))


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    for path in tmp_path.glob("raftkv.cluster/*.pid"):
        pid = json.loads(path.read_text())["pid"]
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def free_ports() -> int:
    """The first of six in a row."""
    for _ in range(100):
        first = free_port()
        try:
            for port in range(first, first + PORTS):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return int(first)
    raise OSError("no six free ports in a row")


def test_failover_on_a_laptop(person: Person) -> None:
    said = person.types("start", "--base-port", str(free_ports()))
    assert said.count("clients http://127.0.0.1:") == 3
    assert "3 of 3 members serve." in said
    assert "cluster kill leader" in said

    status = person.status()
    first, rows = status["leader"], {each["name"]: each for each in status["members"]}
    assert {row["state"] for row in rows.values()} == {"running"}
    assert sorted(row["role"] for row in rows.values()) == ["follower", "follower", "leader"]
    assert "runs already" in person.types("start")
    assert {each["name"]: each["pid"] for each in person.status()["members"]} == {
        name: row["pid"] for name, row in rows.items()
    }

    person.types("kill", "leader")
    assert person.member(first)["state"] == "dead"
    second = wait_until("the others have a leader", lambda: person.status()["leader"])
    assert second != first
    assert f"{first}  pid" in person.types("start", first)
    wait_until("it has caught up", lambda: person.member(first)["lag"] == 0)

    person.types("pause", second)
    assert person.member(second)["state"] == "paused"
    third = wait_until("the others have a leader", lambda: person.status()["leader"])
    assert third != second
    person.types("resume", second)
    wait_until("it follows", lambda: person.member(second)["role"] == "follower")
    wait_until("it measures the way to the leader", lambda: person.member(second)["rtt_s"] is not None)

    old_pid = person.member("m1")["pid"]
    person.types("restart", "1")
    assert person.member("m1")["pid"] != old_pid
    assert person.types("stop").count(" stopped\n") == 3
    assert {each["state"] for each in person.status()["members"]} == {"dead"}


def test_a_member_that_cannot_start_is_told_with_the_reason(person: Person) -> None:
    """Its data belongs to another cluster: the last words of its log are shown."""
    base_port = str(free_ports())
    person.types("start", "--base-port", base_port)
    person.types("kill", "1")
    wal = person.directory / "raftkv.cluster" / "m1" / "member" / "wal"
    for path in wal.iterdir():
        path.unlink()
    said = person.types("start", "1", code=1)
    assert "raftkv: m1 has ended:\n" in said
    assert "has already been bootstrapped" in said
    person.types("stop")
