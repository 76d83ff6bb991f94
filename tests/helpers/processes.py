"""Server processes for black-box tests: raftkv or the real etcd, each on free ports with its own directory.

Owns starting, waiting until a server answers, killing and stopping. Knows no request but Status, which it
sends as raw bytes, so a test that only needs a process does not load the generated messages.
"""

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from helpers.endpoints import open_channel

_HOST: Final = "127.0.0.1"
_STATUS_METHOD: Final = "/etcdserverpb.Maintenance/Status"
_LOG_TAIL_BYTES: Final = 4096
_POLL_S: Final = 0.02

# Below the kernel's range for outgoing connections (32768 and up on Linux): a killed server must find its
# port still free when it comes back, and no client's source port may sit on it meanwhile.
_PORTS: Final = range(12_000, 32_000)
_WORKERS: Final = 8
"""More workers than this share ports again."""
_port_picker: Final = random.SystemRandom()
_given_out: Final[set[int]] = set()
"""Ports that this process has already picked: those of servers that were stopped may be needed again."""


class ServerNotServingError(Exception):
    """The process ended, or did not answer a Status call in time. The text carries the tail of its log."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now. Raises OSError after 100 tries.

    It is given out once, and the workers of one pytest-xdist run choose among different ports.
    """
    ports = _PORTS[worker_number() :: _WORKERS]
    for _ in range(100):
        port = _port_picker.choice(ports)
        if port in _given_out:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            _given_out.add(port)
            return port
    raise OSError("no free port found on 127.0.0.1")


def worker_number() -> int:
    """0 without pytest-xdist."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS


def clean_environment() -> dict[str, str]:
    """The environment of the tests without settings that would reach a server or a tool by the back door."""
    unwanted = ("ETCD", "RAFTKV_", "GRPC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


@dataclass(frozen=True, slots=True)
class Program:
    """A server program: how it is called in messages, and the words before the member flags."""

    kind: str
    command: tuple[str, ...]


RAFTKV: Final = Program("raftkv", (sys.executable, "-m", "raftkv", "serve"))


class Server:
    """One member on one data directory. May be killed and started again; ports and directory stay."""

    def __init__(
        self,
        program: Program,
        directory: Path,
        extra_flags: Sequence[str] = (),
        data_dir: Path | None = None,
    ) -> None:
        self.program = program
        self.data_dir = data_dir if data_dir is not None else directory / "data"
        self.log_path = directory / f"{program.kind}.log"
        self.client_port = free_port()
        self.peer_port = free_port()
        self.endpoint = f"{_HOST}:{self.client_port}"
        self.client_url = f"http://{self.endpoint}"
        self.peer_url = f"http://{_HOST}:{self.peer_port}"
        self._extra_flags = tuple(extra_flags)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self, extra_flags: Sequence[str] = ()) -> list[str]:
        return [
            *self.program.command,
            "--name=default",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster=default={self.peer_url}",
            *self._extra_flags,
            *extra_flags,
        ]

    def start(self, timeout_s: float = 30.0) -> "Server":
        """Start and wait until a Status call is answered. Raises ServerNotServingError."""
        self.spawn()
        self.wait_serving(timeout_s)
        return self

    def spawn(self) -> None:
        """Start without waiting for anything."""
        assert self._process is None or self._process.poll() is not None, "the server still runs"
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log_path.parent,
                env=clean_environment(),
            )

    def wait_serving(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        with open_channel(self.endpoint, _RECONNECT_AT_ONCE) as channel:
            status = channel.unary_unary(_STATUS_METHOD)
            while True:
                if not self.is_running():
                    raise ServerNotServingError(
                        f"{self.program.kind} ended with exit code {self._exit_code()} before it served"
                        f"\n{shlex.join(self.command())}\n{self.log_tail()}"
                    )
                try:
                    status(b"", timeout=1.0)
                    return
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                        return  # auth is on: it serves, and asks who calls
                    if time.monotonic() > deadline:
                        raise ServerNotServingError(
                            f"{self.program.kind} did not answer Status within {timeout_s:.0f} s ({error})"
                            f"\n{shlex.join(self.command())}\n{self.log_tail()}"
                        ) from error
                time.sleep(_POLL_S)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_exit(self, timeout_s: float = 20.0) -> int:
        """Exit code; negative is a signal's number. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def send_signal(self, number: signal.Signals) -> None:
        """Deliver a signal. Raises ServerNotServingError if the process had ended: that is a finding."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerNotServingError(f"{self.program.kind} had already ended\n{self.log_tail()}")
        self._process.send_signal(number)

    def kill9(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait_exit()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, then the exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait_exit(timeout_s)

    def stop(self) -> None:
        """End the process whatever state it is in. For the end of a test: asserts nothing, and leaves the log alone.

        Members preallocate: the data of all that a run starts would fill a disk.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def log_text(self) -> str:
        """What the process wrote since its last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self) -> str:
        text = self.log_text()[-_LOG_TAIL_BYTES:]
        return f"--- end of {self.log_path} ---\n{text}" if text else f"--- {self.log_path} is empty ---"

    def _exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()


# A channel backs off for a second after the first refused connect; a server is up sooner than that.
_RECONNECT_AT_ONCE: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)
