"""Processes that outlive the command that started them, and how a later command knows that one is still the same.

A pid alone tells nothing: after the process has died the number is given to another one. So beside it stand the time
at which the process began and the boot it began in, which no other process shares; and what is signalled is a
descriptor of the process that was looked at, so that none can take its place in between. Linux only, as all of raftkv.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

_POLL_S: Final = 0.02
_STATE, _START_TICKS = 0, 19
"""Fields of /proc/<pid>/stat, counted from behind the command's name."""


class State(Enum):
    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"
    """Ended, or never started."""


class _Identity(NamedTuple):
    pid: int
    start_ticks: int
    """Clock ticks from boot to the start of the process."""
    boot_id: str


class DetachedProcess:
    """The process that was last started with this pid file, whoever started it."""

    def __init__(self, pid_file: Path) -> None:
        self._pid_file = pid_file

    def start(self, command: Sequence[str], log: Path) -> int:
        """In a session of its own, so that neither the end of this command nor Ctrl-C reaches it. Returns the pid.

        What it writes is appended to `log`. Settings do not reach it through the environment. Raises OSError.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        outputs = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            command[0],
            list(command),
            environment,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), outputs, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
            setsid=True,
        )
        # Nobody has waited for it, so it cannot be gone from /proc yet, even if it has ended already.
        identity = _Identity(pid, _stat(pid)[1], _boot_id())
        try:
            self._write(identity)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # no later command could find it
            os.waitpid(pid, 0)
            raise
        return pid

    @property
    def pid(self) -> int | None:
        """None when it is dead."""
        identity = self._read()
        return identity.pid if identity is not None and _state(identity) is not State.DEAD else None

    @property
    def state(self) -> State:
        identity = self._read()
        return State.DEAD if identity is None else _state(identity)

    def send(self, number: signal.Signals) -> bool:
        """False when it is dead; then nothing was sent to anybody. Raises PermissionError."""
        identity = self._read()
        if identity is None:
            return False
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return False
        try:
            # Looked at after the descriptor was opened: it keeps standing for this process.
            if _state(identity) is State.DEAD:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait_for(self, state: State, timeout_s: float) -> bool:
        """Whether it has come to that within the time."""
        deadline = time.monotonic() + timeout_s
        while self.state is not state:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _write(self, identity: _Identity) -> None:
        new = self._pid_file.with_suffix(".tmp")
        new.write_text(json.dumps(identity._asdict()) + "\n")
        new.rename(self._pid_file)

    def _read(self) -> _Identity | None:
        """None also for a file that nobody here wrote: what it names must not be touched."""
        try:
            fields = json.loads(self._pid_file.read_bytes())
            identity = _Identity(**fields)
        except (FileNotFoundError, ValueError, TypeError):
            return None
        sound = type(identity.pid) is int and identity.pid > 1 and type(identity.start_ticks) is int
        return identity if sound else None


def _state(identity: _Identity) -> State:
    if identity.boot_id != _boot_id():
        return State.DEAD
    try:
        letter, start_ticks = _stat(identity.pid)
    except (FileNotFoundError, ProcessLookupError):
        return State.DEAD
    # A zombie has ended, and only waits for somebody to take notice.
    if start_ticks != identity.start_ticks or letter in "ZX":
        return State.DEAD
    return State.PAUSED if letter in "Tt" else State.RUNNING


def _stat(pid: int) -> tuple[str, int]:
    """(state letter, start in ticks since boot)."""
    # The command's name stands in parentheses and may hold any character, these included.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[_STATE], int(fields[_START_TICKS])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
