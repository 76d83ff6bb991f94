"""Finds the sub-command, runs it, and turns what stops a start into one message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from raftkv.cli import serve, version
from raftkv.cli.command import EXIT_INTERRUPTED, EXIT_OK, Command
from raftkv.config.errors import StartError, UsageError
from raftkv.config.inputs import nearest

_OVERVIEW: Final = """\
raftkv: a Raft-replicated key-value store that speaks etcd's v3 API.

Usage:
  raftkv <command> [arguments]

Commands:
{commands}

Try it:
  raftkv serve --data-dir=/tmp/raftkv         one member
  raftkv cluster start --size 3               three of them, on this machine
  etcdctl put greeting hello

`raftkv help <command>` or `raftkv <command> --help` tells more.
"""


def _help(argv: Sequence[str]) -> int:
    if not argv:
        sys.stdout.write(overview())
        return EXIT_OK
    sys.stdout.write(_find(argv[0]).usage())
    return EXIT_OK


def overview() -> str:
    lines = [f"  {command.name:<10}{command.summary}" for command in COMMANDS.values()]
    return _OVERVIEW.format(commands="\n".join(lines))


def _late(name: str, summary: str) -> Command:
    """A command whose module is imported when it is used: a server does not carry it for all its life."""

    def module() -> Any:
        return importlib.import_module(f"raftkv.cli.{name}")

    return Command(name, summary, lambda argv: int(module().run(argv)), lambda: str(module().usage()))


COMMANDS: Final[Mapping[str, Command]] = {
    command.name: command
    for command in (
        Command("serve", "Start a member.", serve.run, serve.usage),
        _late("cluster", "Run a cluster on this machine, and watch it fail and recover."),
        _late("snapshot", "Back up a store, look into a backup, make a new member from one."),
        _late("rebuild", "Give a member that diverged a copy of another member's store."),
        _late("doctor", "Measure whether a disk or a network is fit for a member."),
        Command("version", "Say which versions this is.", version.run, version.usage),
        Command("help", "Explain a command.", _help, overview),
    )
}
"""Name -> command, in the order of the overview."""

_SHORTHANDS: Final[Mapping[str, str]] = {
    "-h": "help",
    "-help": "help",
    "--help": "help",
    "--version": "version",
}


def run(argv: Sequence[str]) -> int:
    """The exit code of `raftkv argv…`. Messages about failures go to stderr, nothing else is raised."""
    try:
        if not argv:
            sys.stderr.write(overview())
            return UsageError.exit_code
        name = _SHORTHANDS.get(argv[0], argv[0])
        code = _find(name).run(argv[1:])
        sys.stdout.flush()
    except StartError as why:
        sys.stderr.write(f"raftkv: {why.text}\n")
        if why.hint:
            sys.stderr.write(f"        {why.hint}\n")
        if isinstance(why, UsageError):
            sys.stderr.write("Usage: raftkv <command> [arguments]; see `raftkv help` and `raftkv help <command>`.\n")
        return why.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("raftkv: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `raftkv serve --help | head`: the reader has seen enough. The interpreter flushes stdout once more
        # at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    return code


def _find(name: str) -> Command:
    command = COMMANDS.get(name)
    if command is not None:
        return command
    if name.startswith("-"):
        raise UsageError(f"{name} comes before a command", f"To start a member, write: raftkv serve {name} …")
    match = nearest(name, COMMANDS)
    raise UsageError(f"unknown command {name!r}", f"Did you mean {match}?" if match else "")
