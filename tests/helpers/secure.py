"""Servers and clusters whose clients, and members, speak TLS; with the certificates of one authority.

Owns their flags and URLs. The clients of all other helpers reach them, see `endpoints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc

from helpers.certificates import Authority, Pair
from helpers.cluster import Cluster, Member
from helpers.endpoints import secure
from helpers.processes import Program, Server

ADMIN: Final = "admin"
"""Common name of the client that helpers are, where a name is asked for."""


def credentials(authority: Authority, pair: Pair | None = None, *others: Authority) -> grpc.ChannelCredentials:
    """Of a client with this certificate, that trusts these authorities."""
    files = (None, None) if pair is None else (pair.key.read_bytes(), pair.cert.read_bytes())
    roots = b"".join(each.ca.read_bytes() for each in (authority, *others))
    return grpc.ssl_channel_credentials(roots, *files)


def client_flags(authority: Authority, pair: Pair) -> list[str]:
    """What makes a server's client port TLS, with a certificate of the authority's for everybody."""
    return [
        f"--cert-file={pair.cert}",
        f"--key-file={pair.key}",
        f"--trusted-ca-file={authority.ca}",
        "--client-cert-auth",
    ]


def peer_flags(authority: Authority, pair: Pair) -> list[str]:
    return [
        f"--peer-cert-file={pair.cert}",
        f"--peer-key-file={pair.key}",
        f"--peer-trusted-ca-file={authority.ca}",
        "--peer-client-cert-auth",
    ]


def ctl_flags(authority: Authority, pair: Pair | None = None) -> list[str]:
    """The same for etcdctl."""
    own = [] if pair is None else [f"--cert={pair.cert}", f"--key={pair.key}"]
    return [f"--cacert={authority.ca}", *own]


class SecureServer(Server):
    """A member of its own whose client port is TLS. `admin` is who the helpers' clients are."""

    def __init__(self, program: Program, directory: Path, flags: Sequence[str] = (), admin: str = ADMIN) -> None:
        self.authority = Authority(directory / "pki")
        self.pair = self.authority.server()
        self.admin = self.authority.client(admin)
        super().__init__(program, directory, [*client_flags(self.authority, self.pair), *flags])
        self.client_url = f"https://{self.endpoint}"
        secure(self.endpoint, credentials(self.authority, self.admin))

    def become(self, admin: Pair) -> None:
        """The helpers' clients show this certificate instead."""
        self.admin = admin
        secure(self.endpoint, credentials(self.authority, admin))

    def start_with(self, *flags: str) -> None:
        """`start`, with flags that were not known before."""
        self._extra_flags += flags
        self.start()


class SecureMember(Member):
    """A member whose client port and peer port are TLS."""

    def __init__(
        self, cluster: SecureCluster, directory: Path, name: str, flags: Sequence[str], data_dir: Path | None
    ) -> None:
        self.authority = cluster.authority
        self.client_pair = self.authority.server(f"{name}-client")
        self.peer_pair = self.authority.issue(f"{name}-peer", name)
        tls = [*client_flags(self.authority, self.client_pair), *peer_flags(self.authority, self.peer_pair)]
        super().__init__(cluster.program, directory, name, [*tls, *flags], data_dir)
        self.client_url = f"https://{self.endpoint}"
        self.peer_url = f"https://127.0.0.1:{self.peer_port}"
        self.initial_cluster = f"{name}={self.peer_url}"
        secure(self.endpoint, credentials(self.authority, cluster.admin))


class SecureCluster(Cluster):
    """Members that have one authority."""

    def __init__(self, program: Program, directory: Path, size: int = 3, flags: Sequence[str] = ()) -> None:
        self.authority = Authority(directory / "pki")
        self.admin = self.authority.client(ADMIN)
        super().__init__(program, directory, size, flags)

    def new_member(self, name: str, data_dir: Path | None = None) -> Member:
        return SecureMember(self, self.directory / name, name, self.flags, data_dir)
