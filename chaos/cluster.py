"""The members as processes: started, killed, paused, and watched for an end that nobody ordered.

Owns ports, directories, flags and signals. Knows nothing of faults, workloads or requests.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Final

from chaos.errors import CannotRunError
from chaos.names import host_of, hosts_text, in_view, own_address
from chaos.programs import REPOSITORY, Program, clean_environment

STOP_TIMEOUT_S: Final = 10.0
LOG_TAIL_LINES: Final = 12
LOG_LINE_CHARACTERS: Final = 240
# Below the kernel's range for outgoing connections: a killed member must find its port free when it comes back.
_PORTS: Final = range(12_000, 32_000)
_PORT_TRIES: Final = 100


class State(StrEnum):
    DOWN = "down"
    RUNNING = "running"
    PAUSED = "paused"


def free_ports(count: int) -> list[int]:
    """Different TCP ports below the kernel's own range on which nobody listens now. Raises CannotRunError."""
    picker = random.SystemRandom()
    found: list[int] = []
    with ExitStack() as probes:
        for _ in range(_PORT_TRIES):
            if len(found) == count:
                return found
            probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            port = picker.choice(_PORTS)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            found.append(port)
    raise CannotRunError(f"no {count} free ports in {_PORT_TRIES} tries from {_PORTS.start} to {_PORTS.stop}")


class Member:
    """One member. Its ports, names and directory stay the same through all its lives."""

    def __init__(self, number: int, client_port: int, peer_port: int, directory: Path) -> None:
        self.number: Final = number
        self.name: Final = f"m{number}"
        self.client_port: Final = client_port
        self.peer_port: Final = peer_port
        self.directory: Final = directory / self.name
        self.log_path: Final = directory / f"{self.name}.log"
        self.state = State.DOWN
        self.ends: list[str] = []
        """What to say of each time that the process ended although nobody killed it."""
        self._process: subprocess.Popen[bytes] | None = None
        self._command: Sequence[str] = ()
        self._log_start = 0
        """Where in the log this life begins."""

    @property
    def endpoint(self) -> str:
        return f"{own_address(self.number)}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{host_of(self.number)}:{self.peer_port}"

    def prepare(self, program: Program, members: Sequence[Member], namespace: Sequence[str], token: str) -> None:
        """Settle the command line, and write this member's view of names."""
        hosts = self.directory.with_suffix(".hosts")
        hosts.write_text(hosts_text(self.number, len(members)))
        client_url = f"http://{self.endpoint}"
        flags = [
            f"--name={self.name}",
            f"--data-dir={self.directory}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls=http://{own_address(self.number)}:{self.peer_port}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={','.join(f'{each.name}={each.peer_url}' for each in members)}",
            f"--initial-cluster-token={token}",
            "--initial-cluster-state=new",
        ]
        self._command = in_view(namespace, hosts, [*program.command, *flags])

    def start(self) -> None:
        assert self.state is State.DOWN
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
                cwd=REPOSITORY,
                # Ctrl-C at the terminal is for us: we end the members, once, in order.
                start_new_session=True,
            )
        self.state = State.RUNNING

    def kill9(self) -> None:
        """Also of a paused process: SIGKILL needs no cooperation. `reap` before the next start."""
        self.look_after()
        if self.state is not State.DOWN:
            assert self._process is not None
            self._process.kill()
            self.state = State.DOWN

    def reap(self) -> None:
        """Wait until the killed process is gone, its ports and files free."""
        if self._process is not None and self.state is State.DOWN:
            self._process.wait()

    def pause(self) -> None:
        assert self.state is State.RUNNING
        self._signal(signal.SIGSTOP)
        self.state = State.PAUSED

    def resume(self) -> None:
        assert self.state is State.PAUSED
        self._signal(signal.SIGCONT)
        self.state = State.RUNNING

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)

    def look_after(self) -> None:
        """Notice an end that nobody ordered. The member may then be started again, but the run has failed."""
        if self.state is not State.DOWN and self._process is not None and self._process.poll() is not None:
            self.ends.append(f"{self.name} ended by itself, exit code {self._process.poll()}\n{self.log_tail()}")
            self.state = State.DOWN

    def stop(self) -> None:
        """End the process whatever state it is in."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)  # a stopped process would not see the SIGTERM
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        """The last lines of this life, each cut to what fits a screen."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(line[:LOG_LINE_CHARACTERS] for line in lines[-LOG_TAIL_LINES:])


class Cluster:
    """All members, numbered from 1."""

    def __init__(self, size: int, directory: Path) -> None:
        ports = free_ports(2 * size)
        self.members: Final = tuple(
            Member(number, ports[2 * number - 2], ports[2 * number - 1], directory) for number in range(1, size + 1)
        )

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def others(self, member: Member) -> list[Member]:
        return [each for each in self.members if each is not member]

    def start(self, program: Program, namespace: Sequence[str], token: str) -> None:
        for member in self.members:
            member.prepare(program, self.members, namespace, token)
        for member in self.members:
            member.start()

    def look_after(self) -> None:
        for member in self.members:
            member.look_after()

    @property
    def ends(self) -> list[str]:
        """For each member that ended by itself: its first end, which is mostly the reason of those that followed."""
        return [
            member.ends[0] + (f"\nand {len(member.ends) - 1} times again" if len(member.ends) > 1 else "")
            for member in self.members
            if member.ends
        ]

    def revive(self) -> None:
        """Let everybody run again."""
        self.look_after()
        for member in self.members:
            if member.state is State.PAUSED:
                member.resume()
            elif member.state is State.DOWN:
                member.start()

    def stop(self) -> None:
        for member in self.members:
            member.stop()
