"""`raftkv cluster`: a cluster of processes on this machine, to develop against, and to watch it fail and recover.

Owns the sub-commands and what they say. Processes, directory, and how a cluster is looked at are in `local`.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raftkv.cli.arguments import Parser
from raftkv.cli.command import EXIT_OK
from raftkv.cli.local import starting, table
from raftkv.cli.local.directory import (
    DEFAULT_BASE_PORT,
    DEFAULT_SIZE,
    SIZES,
    LocalCluster,
    LocalMember,
    locked,
    refuse_taken_port,
)
from raftkv.cli.local.hints import DEFAULT_DIR, typed, what_next
from raftkv.cli.local.processes import State
from raftkv.cli.local.story import Story
from raftkv.cli.local.view import look
from raftkv.config.errors import StartError, UsageError

WATCH_INTERVAL_S: Final = 0.5
STOP_S: Final = 20.0
"""A member that has not ended so long after SIGTERM is killed; what it acknowledged is on disk."""
SIGNAL_S: Final = 5.0
"""Until the kernel has done what was asked of it."""

_DESCRIPTION = """\
Runs a cluster of 3 or 5 members as processes on this machine. They go on when this command has ended.
Data, logs and pids are kept in one directory, ./raftkv.cluster unless --dir names another.

A failover, in two terminals:
  raftkv cluster start                 three members, m1 m2 m3; m1 serves clients on port 2379
  raftkv cluster status --watch        (second terminal) who leads, who lags, twice a second
  raftkv cluster kill leader           the others elect a new one and go on
  raftkv cluster start                 what was killed comes back and catches up
  raftkv cluster pause 2               stops the process of m2 without ending it, as a machine that hangs would
  raftkv cluster resume 2
  raftkv cluster stop                  data is kept; `start` again goes on with it

WHO is a number, a name, or the word leader: 2, m2, leader.
"""


def _parser() -> Parser:
    parser = Parser(prog="raftkv cluster", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")

    def add(name: str, help_: str, who: str = "") -> Parser:
        """`who`: how many members may be named, as argparse counts; empty: none."""
        verb = verbs.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        verb.add_argument("--dir", type=Path, default=DEFAULT_DIR, help=f"where the cluster is (./{DEFAULT_DIR})")
        if who:
            verb.add_argument("who", nargs=who, metavar="WHO", help="number or name of a member, or leader")
        return verb

    start = add("start", "make a cluster and start it, or start what does not run of it", "*")
    start.add_argument("--size", type=int, choices=SIZES, help=f"members of a new cluster ({DEFAULT_SIZE})")
    ports = f"first port of a new cluster: m1 takes it and the next, m2 the two behind ({DEFAULT_BASE_PORT})"
    start.add_argument("--base-port", type=int, metavar="PORT", help=ports)
    status = add("status", "say who leads, who lags, and who is dead")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print (text)")
    status.add_argument("--watch", action="store_true", help="twice a second, until Ctrl-C")
    add("kill", "end members with SIGKILL, as a crash would", "+")
    add("pause", "stop members with SIGSTOP: they hold their connections, and say nothing", "+")
    add("resume", "let paused members go on", "+")
    add("restart", "stop members, and start them again", "+")
    add("stop", "end members in good order, all unless some are named; data is kept", "*")
    logs = add("logs", "print the end of a member's log", "+")
    logs.add_argument("-n", dest="lines", type=int, default=20, metavar="LINES", help="how many lines (20)")
    add("env", 'print what tells etcdctl where the members are: eval "$(raftkv cluster env)"')
    return parser


def usage() -> str:
    return _parser().format_help()


def run(argv: Sequence[str]) -> int:
    """The exit code. Raises StartError."""
    arguments = _parser().read_verb(argv)
    if isinstance(arguments, int):
        return arguments
    try:
        return _VERBS[arguments.verb](arguments)
    except OSError as failure:
        if isinstance(failure, BrokenPipeError):
            raise
        raise StartError(f"raftkv cluster {arguments.verb} failed: {failure}") from failure


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- starting ---------------------------------------------------------------------------------------------------------


def _start(arguments: argparse.Namespace) -> int:
    cluster = LocalCluster.load(arguments.dir)
    if cluster is None:
        if arguments.who:
            raise _no_cluster(arguments)
        cluster = _make(arguments)
    else:
        _refuse_other_shape(cluster, arguments)
    _start_members(cluster, _named(cluster, arguments.who) or cluster.members)
    return EXIT_OK


def _make(arguments: argparse.Namespace) -> LocalCluster:
    base_port = DEFAULT_BASE_PORT if arguments.base_port is None else arguments.base_port
    cluster = LocalCluster.plan(arguments.dir, arguments.size or DEFAULT_SIZE, base_port)
    for member in cluster.members:
        refuse_taken_port(member)  # before there is a directory
    with locked(arguments.dir):
        made_meanwhile = LocalCluster.load(arguments.dir)
        if made_meanwhile is None:
            cluster.save()
    return made_meanwhile or cluster


def _refuse_other_shape(cluster: LocalCluster, arguments: argparse.Namespace) -> None:
    """A cluster keeps the shape that it was made with."""
    made = {"--size": len(cluster.members), "--base-port": cluster.members[0].client_port}
    for flag, wanted in (("--size", arguments.size), ("--base-port", arguments.base_port)):
        if wanted not in (None, made[flag]):
            raise StartError(
                f"the cluster in {cluster.directory} was made with {flag} {made[flag]}",
                f"Start it without {flag}; or make another with --dir; or stop it and remove {cluster.directory}",
            )


def _start_members(cluster: LocalCluster, wanted: Sequence[LocalMember]) -> None:
    with locked(cluster.directory):
        dead = [each for each in wanted if each.process.state is State.DEAD]
        starting.spawn(cluster, dead, _say)
    for member in wanted:
        if member.process.state is State.PAUSED:
            _say(f"{member.name}  is paused; `{typed(cluster.directory, 'resume', member.name)}` lets it go on")
        elif member not in dead:
            _say(f"{member.name}  runs already")
    if not starting.can_elect(cluster):
        _say(f"No leader can be elected until {cluster.quorum} of {len(cluster.members)} members run.")
        return
    with _progress() as progress:
        view = starting.wait_serving(cluster, dead, progress)
    _say(f"{table.headline(view)}.")
    if len(dead) == len(cluster.members):
        _say(what_next(cluster))


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that changes on a terminal; in a pipe a line whenever there is something new."""
    if sys.stdout.isatty():
        from rich.console import Console

        with Console().status("starting") as status:
            yield status.update
        return
    told: list[str] = []

    def tell(line: str) -> None:
        if line not in told:
            told.append(line)
            _say(line)

    yield tell


# --- looking ----------------------------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    as_json = arguments.output == "json"
    if arguments.watch:
        (_watch_plain if as_json or not sys.stdout.isatty() else _watch_on_terminal)(cluster, as_json)
        return EXIT_OK
    view = look(cluster)
    if as_json:
        sys.stdout.write(table.as_json(view, cluster))
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(table.as_rich(view, console.width))
    else:
        sys.stdout.write(table.as_text(view))
    return EXIT_OK


def _watch_on_terminal(cluster: LocalCluster, _as_json: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    story, console = Story(), Console()
    with _until_interrupted(), Live(console=console, auto_refresh=False) as live:
        while True:
            view = look(cluster)
            story.tell(view, time.strftime("%H:%M:%S"), time.monotonic())
            live.update(table.as_rich(view, console.width, story.lines), refresh=True)
            time.sleep(WATCH_INTERVAL_S)


def _watch_plain(cluster: LocalCluster, as_json: bool) -> None:
    """For a pipe: one JSON line at a time, or one table after the other."""
    story = Story()
    with _until_interrupted():
        while True:
            view = look(cluster)
            clock = time.strftime("%H:%M:%S")
            news = "".join(f"{line}\n" for line in story.tell(view, clock, time.monotonic()))
            sys.stdout.write(table.as_json(view, cluster) if as_json else f"{table.as_text(view)}{news}\n")
            sys.stdout.flush()
            time.sleep(WATCH_INTERVAL_S)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is how watching ends, not how it fails."""
    try:
        yield
    except KeyboardInterrupt:
        pass


def _logs(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    members = _named(cluster, arguments.who)
    for member in members:
        if len(members) > 1:
            _say(f"--- {member.log} ---")
        _say(starting.tail(member.log, max(1, arguments.lines)))
    return EXIT_OK


def _env(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    _say("export ETCDCTL_API=3")
    _say(f"export ETCDCTL_ENDPOINTS={cluster.endpoints}")
    return EXIT_OK


# --- doing things to members ------------------------------------------------------------------------------------------


def _kill(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    with locked(cluster.directory):
        for member in _named(cluster, arguments.who):
            _send(member, signal.SIGKILL, State.DEAD)
            _say(f"{member.name} killed; `{typed(cluster.directory, 'start', member.name)}` brings it back")
    return EXIT_OK


def _pause(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    with locked(cluster.directory):
        for member in _named(cluster, arguments.who):
            _send(member, signal.SIGSTOP, State.PAUSED)
            _say(f"{member.name} paused; `{typed(cluster.directory, 'resume', member.name)}` lets it go on")
    return EXIT_OK


def _resume(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    with locked(cluster.directory):
        for member in _named(cluster, arguments.who):
            _send(member, signal.SIGCONT, State.RUNNING)
            _say(f"{member.name} goes on")
    return EXIT_OK


def _send(member: LocalMember, number: signal.Signals, state: State) -> None:
    """Returns once the kernel has done it. Raises StartError if the member does not run."""
    if not member.process.send(number):
        raise StartError(
            f"{member.name} does not run", f"`{typed(member.directory, 'start', member.name)}` brings it back"
        )
    member.process.wait_for(state, SIGNAL_S)


def _stop(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    _stop_members(cluster, _named(cluster, arguments.who) or cluster.members)
    if not arguments.who:
        _say(
            f"Data is kept in {cluster.directory}. `{typed(cluster.directory, 'start')}` goes on with it; "
            f"to be rid of it: rm -r {shlex.quote(str(cluster.directory))}"
        )
    return EXIT_OK


def _restart(arguments: argparse.Namespace) -> int:
    cluster = _open(arguments)
    members = _named(cluster, arguments.who)
    _stop_members(cluster, members)
    _start_members(cluster, members)
    return EXIT_OK


def _stop_members(cluster: LocalCluster, members: Sequence[LocalMember]) -> None:
    with locked(cluster.directory):
        told = [each for each in members if each.process.send(signal.SIGTERM)]
        for member in told:
            member.process.send(signal.SIGCONT)  # one that is paused must wake up to end
        for member in members:
            if member not in told:
                _say(f"{member.name} does not run")
            elif member.process.wait_for(State.DEAD, STOP_S):
                _say(f"{member.name} stopped")
            else:
                _send(member, signal.SIGKILL, State.DEAD)
                _say(f"{member.name} did not end within {STOP_S:.0f} s and was killed; see {member.log}")


# --- which cluster, which members -------------------------------------------------------------------------------------


def _open(arguments: argparse.Namespace) -> LocalCluster:
    cluster = LocalCluster.load(arguments.dir)
    if cluster is None:
        raise _no_cluster(arguments)
    return cluster


def _no_cluster(arguments: argparse.Namespace) -> StartError:
    return StartError(
        f"there is no cluster in {arguments.dir}",
        f"Make one: {typed(arguments.dir, 'start')}; or say with --dir where it is",
    )


def _named(cluster: LocalCluster, names: Sequence[str]) -> list[LocalMember]:
    """In the order given, each once. Raises UsageError for one that there is not, StartError for `leader` without."""
    chosen: dict[str, LocalMember] = {}
    for name in names:
        member = _leader(cluster) if name == "leader" else cluster.member(name)
        if member is None:
            known = ", ".join(each.name for each in cluster.members)
            raise UsageError(f"there is no member {name!r} in {cluster.directory}", f"There are {known}, and `leader`")
        chosen[member.name] = member
    return list(chosen.values())


def _leader(cluster: LocalCluster) -> LocalMember:
    leader = look(cluster).leader
    member = None if leader is None else cluster.member(leader)
    if member is None:
        raise StartError("no member leads at the moment", f"Look: {typed(cluster.directory, 'status')}")
    return member


_VERBS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "start": _start,
    "status": _status,
    "kill": _kill,
    "pause": _pause,
    "resume": _resume,
    "restart": _restart,
    "stop": _stop,
    "logs": _logs,
    "env": _env,
}
