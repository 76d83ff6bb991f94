"""A view of names for every member, so that one peer URL leads to another proxy for everyone who dials it.

All members are told the same peer URLs, http://m1.chaos.test:PORT and so on. Member i runs in a mount namespace in
which /etc/hosts gives m_j the address 127.77.i.j, where the proxy from i to j listens; the member itself listens on
127.77.i.i. Owns addresses and namespaces; knows neither proxies nor members.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos.errors import CannotRunError

LOOPBACK: Final = "127.0.0.1"
MAX_MEMBERS: Final = 9
_ETC_HOSTS: Final = "/etc/hosts"
_PROBE_TIMEOUT_S: Final = 10.0

DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: whatever ends this process, even kill -9, ends that one too."""

# exec, so that the process we started is the member itself: signals by its pid reach it.
_ENTER: Final = f'mount --bind "$0" {_ETC_HOSTS} && exec {" ".join(DIES_WITH_US)} "$@"'

AS_ROOT: Final = ("unshare", "--mount", "--propagation", "private")
AS_USER: Final = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")

_HELP: Final = """\
Every member needs a mount namespace of its own, so that its links can be told apart from the others' links. Either
  - run this as root (in a container also with the capability SYS_ADMIN: docker run --cap-add SYS_ADMIN ...), or
  - let users make namespaces: sysctl kernel.unprivileged_userns_clone=1 on Debian, on Ubuntu
    sysctl kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt seccomp=unconfined."""


def host_of(number: int) -> str:
    """The name of member `number`, counted from 1, in peer URLs."""
    return f"m{number}.chaos.test"


def link_address(dialler: int, listener: int) -> str:
    """Where the proxy listens through which member `dialler` reaches member `listener`. All of 127/8 is local."""
    return f"127.77.{dialler}.{listener}"


def own_address(number: int) -> str:
    """Where a member itself listens. Not 127.0.0.1: while a member is dead, any server there could take its port, and
    its clients would talk to a stranger."""
    return link_address(number, number)


def hosts_text(viewer: int, members: int) -> str:
    """/etc/hosts as member `viewer` sees it. It reaches itself without a proxy."""
    links = (f"{link_address(viewer, number)} {host_of(number)}" for number in range(1, members + 1))
    return "\n".join((f"{LOOPBACK} localhost", *links)) + "\n"


def in_view(namespace: Sequence[str], hosts: Path, command: Sequence[str]) -> list[str]:
    """The words that run `command` where /etc/hosts is the file `hosts`; `namespace` is what `permitted` gave."""
    return [*namespace, "sh", "-c", _ENTER, str(hosts), *command]


def permitted(directory: Path) -> tuple[str, ...]:
    """How a namespace may be made here, tried out with a file in `directory`. Raises CannotRunError."""
    hosts = directory / "hosts.probe"
    wanted = hosts_text(1, 2)
    hosts.write_text(wanted)
    failures = []
    for namespace in (AS_ROOT, AS_USER) if os.geteuid() == 0 else (AS_USER,):
        try:
            done = subprocess.run(
                in_view(namespace, hosts, ("cat", _ETC_HOSTS)),
                capture_output=True,
                text=True,
                timeout=_PROBE_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
            continue
        if done.returncode == 0 and done.stdout == wanted:
            return namespace
        failures.append(f"`{' '.join(namespace)}`: {done.stderr.strip() or f'exit code {done.returncode}'}")
    raise CannotRunError(f"mount namespaces are not permitted here: {'; '.join(failures)}\n{_HELP}")
