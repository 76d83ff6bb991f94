"""Starting members of a local cluster, and waiting until they serve.

Owns the order: ports first, so that nothing is started if one is taken; then the processes, all at once, for none can
serve before there is a quorum; then the wait, which ends early when a process does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from raftkv.cli.local.directory import LocalCluster, LocalMember, refuse_taken_port
from raftkv.cli.local.processes import State
from raftkv.cli.local.view import View, look
from raftkv.config.errors import StartError

WAIT_S: Final = 60.0
_POLL_S: Final = 0.1
_TAIL_LINES: Final = 8

Say = Callable[[str], None]


def spawn(cluster: LocalCluster, members: Sequence[LocalMember], say: Say) -> None:
    """Raises StartError when a port is taken; nothing was started then. The directory is locked by the caller."""
    for member in members:
        refuse_taken_port(member)
    for member in members:
        pid = member.process.start(cluster.command(member), member.log)
        say(f"{member.name}  pid {pid:<7} clients {member.client_url}  peers {member.peer_url}  log {member.log}")


def can_elect(cluster: LocalCluster) -> bool:
    """Whether enough members run for one of them to lead."""
    running = sum(each.process.state is State.RUNNING for each in cluster.members)
    return running >= cluster.quorum


def wait_serving(cluster: LocalCluster, started: Sequence[LocalMember], progress: Say) -> View:
    """Until there is a leader and all that were started serve. `progress` is told whom it still waits for.

    Raises StartError when one of them ends, or it takes too long.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        view = look(cluster)
        for member in started:
            if member.process.state is State.DEAD:
                raise StartError(f"{member.name} has ended:\n{tail(member.log, _TAIL_LINES)}", f"See {member.log}")
        waiting = [each.name for each in started if view.row(each.name).page is None]
        if not waiting and view.leader is not None:
            return view
        if time.monotonic() > deadline:
            missing = f"{', '.join(waiting)} did not serve" if waiting else "no leader was elected"
            raise StartError(f"{missing} within {WAIT_S:.0f} s", f"See the logs in {cluster.directory}")
        progress(f"waiting for {', '.join(waiting)}" if waiting else "waiting for a leader")
        time.sleep(_POLL_S)


def tail(path: Path, lines: int) -> str:
    """The last lines of a log, as they are; empty if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 512 * lines))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:]).rstrip("\n")
