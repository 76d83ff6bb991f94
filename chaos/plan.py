"""What will be done to the cluster and when: drawn from the seed before anything starts.

Owns the deck of faults and the draw. Who leads when a fault begins is not known here: a step says "the leader", and
the nemesis finds out. The rest (kinds, order, times, strengths, which follower) is the same for the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final, NamedTuple


class Target(StrEnum):
    LEADER = "leader"
    FOLLOWER = "follower"
    ALL = "all"


class Card(NamedTuple):
    """One kind of fault on one kind of target. `group` is its name in --faults."""

    group: str
    fault: str
    target: Target
    lasts_s: tuple[float, float]


_AN_ELECTION: Final = (2.8, 4.8)
"""Longer than it takes to elect another leader, so that there may be two who think that they lead."""
_A_LONG_BREATH: Final = (2.8, 4.2)
"""As above, but much shorter than leases live: see `chaos.workloads.lease`."""
_A_WHILE: Final = (1.5, 4.0)
_DOWN: Final = (0.2, 2.5)

DECK: Final = (
    Card("partition", "cut", Target.LEADER, _AN_ELECTION),
    Card("partition", "cut", Target.FOLLOWER, _AN_ELECTION),
    Card("partition", "cut-one-link", Target.LEADER, _AN_ELECTION),
    Card("one-way", "mute", Target.LEADER, _AN_ELECTION),
    Card("one-way", "deafen", Target.LEADER, _AN_ELECTION),
    Card("one-way", "mute", Target.FOLLOWER, _A_WHILE),
    Card("one-way", "deafen", Target.FOLLOWER, _A_WHILE),
    Card("latency", "delay", Target.ALL, _A_WHILE),
    Card("latency", "delay", Target.LEADER, _A_WHILE),
    Card("reset", "reset", Target.LEADER, _A_WHILE),
    Card("bandwidth", "throttle", Target.LEADER, _A_WHILE),
    Card("kill", "kill", Target.LEADER, _DOWN),
    Card("kill", "kill", Target.FOLLOWER, _DOWN),
    Card("kill", "kill", Target.ALL, _DOWN),
    Card("pause", "pause", Target.LEADER, _A_LONG_BREATH),
    Card("pause", "pause", Target.FOLLOWER, _A_WHILE),
)
"""Every card is played once, in an order that the seed decides, before any is played again: 60 s see them all."""

ABOUT: Final = {
    "partition": "a member cut off from all others, or the leader from one follower, both ways",
    "one-way": "a member's data does not reach the others (mute), or theirs does not reach it (deafen)",
    "latency": "20-200 ms more on every link or on the leader's, with jitter",
    "reset": "TCP resets on the leader's links, again and again",
    "bandwidth": "the leader's links throttled to 2-50 KB/s",
    "kill": "kill -9 of the leader, a follower, or all at once; started again",
    "pause": "SIGSTOP of the leader or a follower; SIGCONT",
}
"""Group -> a line for the help text."""

FIRST_S: Final = 1.5
"""Before it the clients find out what a healthy cluster is like."""
BETWEEN_S: Final = (2.8, 4.2)
"""From one fault's beginning to the next one's: some overlap."""
LAST_S: Final = 1.0
"""A step that would begin later than this before the end is not begun."""


class Step(NamedTuple):
    number: int
    at_s: float
    lasts_s: float
    fault: str
    target: Target
    pick: float
    """0 to below 1: which of several equal members."""
    strength: float
    """0 to below 1: of what has degrees."""


def draw(seed: int, seconds: float, groups: Collection[str]) -> list[Step]:
    """The steps of a run in order of time; every one ends before `seconds`."""
    rng = random.Random(f"{seed}/plan")
    deck = [card for card in DECK if card.group in groups]
    steps: list[Step] = []
    hand: list[Card] = []
    at_s = FIRST_S
    while deck and at_s < seconds - LAST_S:
        if not hand:
            hand = _shuffled(deck, rng)
        card = hand.pop()
        lasts_s = min(rng.uniform(*card.lasts_s), seconds - at_s)
        step = Step(len(steps), at_s, lasts_s, card.fault, card.target, rng.random(), rng.random())
        steps.append(step)
        at_s += rng.uniform(*BETWEEN_S)
    return steps


def _shuffled(deck: Sequence[Card], rng: random.Random) -> list[Card]:
    cards = list(deck)
    rng.shuffle(cards)
    return cards
