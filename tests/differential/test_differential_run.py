"""A short run: the same scripts on raftkv and on the real etcd, and no difference that the table does not know.

`make differential` plays as many as there is time for. A failure prints the seed, and the script made small.
"""

import asyncio
from pathlib import Path

import pytest
from differ.campaign import Options, Played, Tally, minimise, play_many
from differ.pair import PairOptions
from differ.strategies.script import FAMILIES
from helpers.processes import Program

pytestmark = [pytest.mark.differential, pytest.mark.timeout(600)]

_ALL = tuple(family.name for family in FAMILIES)


def _run(options: Options, seeds: range) -> Tally:
    tally = Tally()
    results = play_many(options, seeds)
    for played in results:
        tally.add(played)
        if not tally.passed:
            break
    results.close()
    return tally


def _report(options: Options, played: Played) -> str:
    if played.broken:
        return f"seed {played.seed}: the tester failed\n{played.broken}"
    minimal = asyncio.run(minimise(options, played, max_s=60))
    lines = [f"seed {played.seed}: {played.signature}", *played.lines, "in short:", *minimal.ops, *minimal.lines]
    return "\n".join([*lines, minimal.note, "before it:", *played.recent])


def _check(options: Options, seeds: range) -> None:
    tally = _run(options, seeds)
    assert tally.passed, "\n\n".join(_report(options, each) for each in (*tally.first.values(), *tally.broken))
    assert tally.scripts == len(seeds)
    assert tally.ops >= 40 * len(seeds)


def test_one_member(etcd_program: Program) -> None:
    """Every call, every stream and what is left of 60 scripts, on one member each."""
    options = Options(PairOptions(etcd=Path(etcd_program.command[0])), jobs=1)
    _check(options, range(60))


def test_three_members(etcd_program: Program) -> None:
    """10 scripts with calls to all of three members; the final state of each is compared."""
    # A cluster that has just started refuses new members for five seconds (CL-24).
    families = tuple(name for name in _ALL if name != "cluster")
    pair = PairOptions(members=3, etcd=Path(etcd_program.command[0]), long_together=False)
    options = Options(pair, families, jobs=1)
    _check(options, range(10))
