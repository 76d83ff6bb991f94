"""The directory of a local cluster: who its members are, where each listens, and where its data and its log are.

    cluster.json    which members there are; written once, when the cluster is made
    m1/             data of a member
    m1.log          all that its process ever wrote
    m1.pid          which process that is, or was (see processes.py)

Owns these names and the members' command lines. Asks the members nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raftkv.cli.local.processes import DetachedProcess
from raftkv.config.errors import StartError

HOST: Final = "127.0.0.1"
SIZES: Final = (3, 5)
DEFAULT_SIZE: Final = 3
DEFAULT_BASE_PORT: Final = 2379
"""So that m1 listens where etcdctl looks when it is not told otherwise."""
_FORMAT: Final = 1
_DESCRIPTION_NAME: Final = "cluster.json"


@dataclass(frozen=True)
class LocalMember:
    directory: Path
    """Of the cluster."""
    name: str
    client_port: int
    peer_port: int
    process: DetachedProcess = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "process", DetachedProcess(self.directory / f"{self.name}.pid"))

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.client_port}"

    @property
    def client_url(self) -> str:
        return f"http://{self.endpoint}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.peer_port}"

    @property
    def data_dir(self) -> Path:
        return self.directory / self.name

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"


@dataclass(frozen=True)
class LocalCluster:
    directory: Path
    token: str
    """Random: two clusters on the same ports, one after the other, do not take each other's members for their own."""
    members: tuple[LocalMember, ...]

    @classmethod
    def plan(cls, directory: Path, size: int, base_port: int) -> LocalCluster:
        """A cluster that nobody has made yet. Raises StartError when it cannot be."""
        if not 0 < base_port <= 65536 - 2 * size:
            raise StartError(
                f"--base-port {base_port} does not leave room for {2 * size} ports",
                "Each member takes two: one for clients, one for the other members",
            )
        if directory.exists() and any(directory.iterdir()):
            raise StartError(
                f"{directory} is not empty, and no cluster was made in it", "Choose another place with --dir"
            )
        ports = range(base_port, base_port + 2 * size, 2)
        members = (LocalMember(directory, f"m{i}", port, port + 1) for i, port in enumerate(ports, 1))
        return cls(directory, f"raftkv-cluster-{secrets.token_hex(8)}", tuple(members))

    @classmethod
    def load(cls, directory: Path) -> LocalCluster | None:
        """The one that was made there, or None. Raises StartError if its description cannot be read."""
        path = directory / _DESCRIPTION_NAME
        try:
            found = json.loads(path.read_bytes())
            if found["format"] != _FORMAT:
                raise ValueError(f"format {found['format']} is not known")
            members = tuple(
                LocalMember(directory, each["name"], int(each["client_port"]), int(each["peer_port"]))
                for each in found["members"]
            )
            return cls(directory, str(found["token"]), members)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as damage:
            raise StartError(
                f"{path} does not describe a cluster ({damage})", "Choose another place with --dir"
            ) from damage

    def save(self) -> None:
        members = [
            {"name": each.name, "client_port": each.client_port, "peer_port": each.peer_port} for each in self.members
        ]
        description = {"format": _FORMAT, "token": self.token, "members": members}
        (self.directory / _DESCRIPTION_NAME).write_text(json.dumps(description, indent=2) + "\n")

    @property
    def quorum(self) -> int:
        return len(self.members) // 2 + 1

    @property
    def endpoints(self) -> str:
        return ",".join(each.endpoint for each in self.members)

    def member(self, who: str) -> LocalMember | None:
        """By number or name: 2, m2."""
        return next((each for each in self.members if who in (each.name, each.name[1:])), None)

    def command(self, member: LocalMember) -> list[str]:
        """What anybody could type to start this member."""
        return [
            sys.executable,
            "-m",
            "raftkv",
            "serve",
            f"--name={member.name}",
            f"--data-dir={member.data_dir.absolute()}",
            f"--listen-client-urls={member.client_url}",
            f"--advertise-client-urls={member.client_url}",
            f"--listen-peer-urls={member.peer_url}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            f"--initial-cluster={','.join(f'{each.name}={each.peer_url}' for each in self.members)}",
            f"--initial-cluster-token={self.token}",
        ]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Makes the directory if it is not there. One command at a time makes a cluster, or starts and ends processes in
    it: two would start the same member, and know only one of the processes."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def refuse_taken_port(member: LocalMember) -> None:
    """A port that is in use is said before anything is started. Raises StartError."""
    for port in (member.client_port, member.peer_port):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as failure:
                raise StartError(
                    f"{member.name} cannot listen on {HOST}:{port}: {failure.strerror}",
                    "Is an etcd, `raftkv serve` or another cluster running there? End it, or make a cluster on other "
                    "ports, in another place: --base-port 12379 --dir DIR",
                ) from failure
