"""Processes that outlive a command: known again by a later one, and nothing else is ever signalled."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.waiting import wait_until

from raftkv.cli.local.processes import DetachedProcess, State

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DetachedProcess]:
    """Running, and known by a file."""
    process = DetachedProcess(tmp_path / "p.pid")
    pid = process.start(SLEEP, tmp_path / "p.log")
    try:
        yield process
    finally:
        os.kill(pid, signal.SIGKILL)  # not yet waited for, so the number is still its own
        os.waitpid(pid, 0)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody here started."""
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as stranger:
        try:
            yield stranger
        finally:
            stranger.kill()


def written(tmp_path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((tmp_path / "p.pid").read_text())
    return fields


def test_a_later_command_knows_it_again(process: DetachedProcess, tmp_path: Path) -> None:
    later = DetachedProcess(tmp_path / "p.pid")
    assert (later.state, later.pid) == (State.RUNNING, process.pid)
    assert later.send(signal.SIGSTOP)
    assert later.wait_for(State.PAUSED, 10)
    assert later.pid == process.pid
    assert later.send(signal.SIGCONT)
    assert later.wait_for(State.RUNNING, 10)
    assert later.send(signal.SIGKILL)
    assert later.wait_for(State.DEAD, 10)
    assert later.pid is None
    assert not later.send(signal.SIGKILL)


def test_waiting_in_vain_is_told(process: DetachedProcess) -> None:
    assert not process.wait_for(State.DEAD, 0.05)


def test_it_stands_on_its_own(process: DetachedProcess, tmp_path: Path) -> None:
    """A session of its own: Ctrl-C in the terminal does not reach it. Its words are in its log."""
    pid = process.pid
    assert pid is not None
    assert os.getsid(pid) == pid
    wait_until("it has said something", lambda: (tmp_path / "p.log").read_text() == "up\n")


def test_settings_do_not_reach_it_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-02: the same setting may not come from a flag and a variable, so somebody's ETCD_NAME would stop all."""
    monkeypatch.setenv("ETCD_NAME", "x")
    monkeypatch.setenv("ETCDCTL_API", "3")
    process = DetachedProcess(tmp_path / "p.pid")
    show = "import os; print(sorted(name for name in os.environ if name.startswith('ETCD')))"
    pid = process.start([sys.executable, "-c", show], tmp_path / "p.log")
    os.waitpid(pid, 0)
    assert (tmp_path / "p.log").read_text() == "['ETCDCTL_API']\n"


def test_one_that_ended_and_was_not_waited_for_is_dead(tmp_path: Path) -> None:
    process = DetachedProcess(tmp_path / "p.pid")
    pid = process.start([sys.executable, "-c", ""], tmp_path / "p.log")
    assert process.wait_for(State.DEAD, 10)
    assert not process.send(signal.SIGTERM)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda own, stranger: own | {"pid": stranger},  # the number was given to another process
        lambda own, stranger: own | {"pid": stranger, "start_ticks": own["start_ticks"] - 1},
        lambda own, stranger: own | {"start_ticks": own["start_ticks"] + 1},
        lambda own, stranger: own | {"boot_id": "0"},  # the machine was started anew, and so were the numbers
    ],
)
def test_another_process_under_the_number_is_not_touched(
    change: Callable[[dict[str, Any], int], dict[str, Any]],
    process: DetachedProcess,
    stranger: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    own_pid, own = process.pid, written(tmp_path)
    assert own_pid is not None
    # Two processes of this test may have begun in the same clock tick; the stranger is told apart all the same.
    changed = change(own, stranger.pid)
    if changed["pid"] == stranger.pid and _start_ticks(stranger.pid) == changed["start_ticks"]:
        changed["start_ticks"] -= 1
    (tmp_path / "p.pid").write_text(json.dumps(changed))
    assert (process.state, process.pid) == (State.DEAD, None)
    assert not process.send(signal.SIGKILL)
    assert stranger.poll() is None
    assert os.waitpid(own_pid, os.WNOHANG) == (0, 0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", "4711", '{"pid": 4711}']
    + [json.dumps({"pid": pid, "start_ticks": 1, "boot_id": "x"}) for pid in (-1, 0, 1, "2", None, 1.5)],
)
def test_a_file_of_somebody_else_names_nobody(text: str, tmp_path: Path) -> None:
    """Not -1 either, which to the kernel means everybody."""
    (tmp_path / "p.pid").write_text(text)
    process = DetachedProcess(tmp_path / "p.pid")
    assert (process.state, process.pid, process.send(signal.SIGKILL)) == (State.DEAD, None, False)


def test_never_started(tmp_path: Path) -> None:
    assert DetachedProcess(tmp_path / "p.pid").state is State.DEAD


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DetachedProcess(tmp_path / "p.pid").start([str(tmp_path / "missing")], tmp_path / "p.log")


def test_one_that_cannot_be_written_down_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: no later command could find it, and nobody stop it."""
    (tmp_path / "p.pid").mkdir()  # so that no file can take its place
    spawned: list[int] = []
    really_spawn = os.posix_spawn

    def spawn(*args: Any, **kwargs: Any) -> int:
        spawned.append(really_spawn(*args, **kwargs))
        return spawned[0]

    monkeypatch.setattr(os, "posix_spawn", spawn)
    with pytest.raises(IsADirectoryError):
        DetachedProcess(tmp_path / "p.pid").start(SLEEP, tmp_path / "p.log")
    assert not Path(f"/proc/{spawned[0]}").exists()


def _start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
