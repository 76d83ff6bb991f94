"""Many scripts, several pairs of servers at once, one process for each pair.

Owns the processes, which seed goes where, and what is collected. A pair that has shown a difference is replaced,
because its two stores may not be the same any more. Prints nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

from differ.ops import Script, describe
from differ.pair import Pair, PairOptions
from differ.shrink import MAX_S, shrink
from differ.strategies.script import Family, chosen, script_of

SCRIPTS_PER_PAIR: Final = 400
"""Then fresh servers: some things are only so on an empty store, and memory is not for ever."""
_HISTORY: Final = 12
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    pair: PairOptions = field(default_factory=PairOptions)
    families: tuple[str, ...] | None = None
    jobs: int = 2


@dataclass(frozen=True, slots=True)
class Played:
    """One script's result, as it comes from a worker. `signature` is empty if nothing unexplained was found."""

    seed: int
    ops: int
    known: dict[str, int]
    signature: str = ""
    lines: tuple[str, ...] = ()
    history: tuple[int, ...] = ()
    """Seeds that the pair had played before, the last of them."""
    recent: tuple[str, ...] = ()
    """The calls just before the difference."""
    broken: str = ""
    """The tester itself failed: a traceback."""


@dataclass(slots=True)
class Tally:
    """What a campaign came to."""

    scripts: int = 0
    ops: int = 0
    known: Counter[str] = field(default_factory=Counter)
    first: dict[str, Played] = field(default_factory=dict)
    """Signature -> the first script that showed it."""
    times: Counter[str] = field(default_factory=Counter)
    broken: list[Played] = field(default_factory=list)

    def add(self, played: Played) -> None:
        self.scripts += 1
        self.ops += played.ops
        self.known.update(played.known)
        if played.signature:
            self.first.setdefault(played.signature, played)
            self.times[played.signature] += 1
        if played.broken:
            self.broken.append(played)

    @property
    def passed(self) -> bool:
        return not self.first and not self.broken


def play_many(options: Options, seeds: Iterable[int]) -> Iterator[Played]:
    """Results as they come, in no order. Closing the iterator ends all servers."""
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    results: Any = context.Queue()
    expected = 0
    for seed in seeds:
        tasks.put(seed)
        expected += 1
    for _ in range(options.jobs):
        tasks.put(None)
    workers = [context.Process(target=_work, args=(options, tasks, results)) for _ in range(options.jobs)]
    for worker in workers:
        worker.start()
    try:
        while expected:
            try:
                played = results.get(timeout=_POLL_S)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    yield Played(0, 0, {}, broken="all workers ended before the last script")
                    return
            else:
                expected -= 1
                yield played
    finally:
        for worker in workers:
            if expected and worker.is_alive():
                worker.terminate()
        for worker in workers:
            worker.join()


def _work(options: Options, tasks: Any, results: Any) -> None:
    """A worker process: scripts until there are no more."""
    interrupt_on_sigterm()
    try:
        uvloop.run(_work_off(options, tasks, results))
    except KeyboardInterrupt:
        results.cancel_join_thread()


def interrupt_on_sigterm() -> None:
    """SIGTERM ends the servers too, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


async def _work_off(options: Options, tasks: Any, results: Any) -> None:
    player = Player(options)
    try:
        parent = os.getppid()
        while (seed := tasks.get()) is not None and os.getppid() == parent:
            try:
                results.put(await player.play(seed))
            except Exception:  # one script must not end the campaign
                await player.drop_pair()
                results.put(Played(seed, 0, {}, broken=traceback.format_exc()))
    finally:
        await player.drop_pair()


class Player:
    """Plays scripts on a pair, and has another one when the pair is spent."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pair: Pair | None = None
        self._families: tuple[Family, ...] = ()

    async def _ready(self) -> Pair:
        if self._pair is None:
            self._pair = await Pair.start(self._options.pair)
            self._families = chosen(self._options.families, self._pair.absent)
        return self._pair

    async def drop_pair(self) -> None:
        if self._pair is not None:
            pair, self._pair = self._pair, None
            await pair.end()

    async def script(self, seed: int) -> Script:
        await self._ready()
        return script_of(seed, self._families)

    async def play(self, seed: int) -> Played:
        return await self.play_script(await self.script(seed))

    async def play_script(self, script: Script) -> Played:
        pair = await self._ready()
        history = tuple(pair.played[-_HISTORY:])
        outcome = await pair.play(script)
        if not outcome.pair_is_usable or len(pair.played) >= SCRIPTS_PER_PAIR:
            await self.drop_pair()
        if outcome.finding is None:
            return Played(script.seed, outcome.played, outcome.known)
        finding = outcome.finding
        lines = tuple(finding.lines())
        return Played(
            script.seed, outcome.played, outcome.known, finding.signature, lines, history, tuple(finding.recent)
        )


@dataclass(frozen=True, slots=True)
class Minimal:
    """A difference as small as it could be made."""

    ops: tuple[str, ...]
    lines: tuple[str, ...]
    note: str = ""


async def minimise(options: Options, failed: Played, max_s: float = MAX_S) -> Minimal:
    """Play the script again on fresh servers and shrink it, for so long."""
    player = Player(options)
    try:
        script = await player.script(failed.seed)
        return await shrink_script(player, script, failed.signature, max_s) or await _with_history(player, failed)
    finally:
        await player.drop_pair()


async def shrink_script(player: Player, script: Script, signature: str, max_s: float = MAX_S) -> Minimal | None:
    """The script made small; None if it does not fail in this way."""
    latest: list[Played] = []

    async def fails(candidate: Script) -> bool:
        played = await player.play_script(candidate)
        if played.signature == signature:
            latest.append(played)
        return played.signature == signature

    if not await fails(script):
        return None
    smallest = await shrink(script, fails, max_s=max_s)
    await player.drop_pair()
    certain = await fails(smallest)
    note = "" if certain else "this small, it fails only on servers that have played other scripts before"
    return Minimal(tuple(describe(op) for op in smallest.ops), latest[-1].lines, note)


async def _with_history(player: Player, failed: Played) -> Minimal:
    """Not on fresh servers: perhaps after the scripts that the servers had played before."""
    await player.drop_pair()
    for seed in failed.history:
        await player.play(seed)
    if (await player.play(failed.seed)).signature == failed.signature:
        seeds = ",".join(str(seed) for seed in (*failed.history, failed.seed))
        return Minimal((), failed.lines, f"fails only after other scripts: --seed {seeds}")
    return Minimal((), failed.lines, "did not happen again: a matter of time, or of many scripts before")
