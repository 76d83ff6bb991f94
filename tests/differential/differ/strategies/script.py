"""One seed, one script. Joins the families and decides how much of each there is.

A seed gives the same script for as long as the strategies and the chosen families are the same; nothing else goes in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from differ.ops import Call, Op, Script
from differ.strategies import auth, cluster, kv, lease, locks, maintenance, watch
from differ.strategies.common import Draw, chance

Maker = Callable[[Draw[Any]], list[Op]]

LEAST_OPS: Final = 50
_MOST_OPS: Final = 60
_ENTROPY_BYTES: Final = 1 << 17
"""More than any script draws."""


@dataclass(frozen=True, slots=True)
class Family:
    """`makers`: makers of operations, as often as they are to be chosen. `needs`: calls that raftkv must know."""

    name: str
    makers: tuple[Maker, ...]
    needs: tuple[str, ...] = ()
    weight: int = 2


FAMILIES: Final = (
    Family("kv", (kv.range_op,) * 6 + (kv.put_op,) * 6 + (kv.delete_op,) * 2, weight=8),
    Family("txn", (kv.txn_op,) * 4 + (kv.optimistic_op,), weight=5),
    Family("compact", (kv.compact_op,), weight=1),
    Family("watch", (watch.create_op,) * 3 + (watch.control_op,) * 3, weight=4),
    Family("pieces", (watch.pieces_op,), weight=0),
    Family(
        "lease",
        (lease.grant_op,) * 3
        + (lease.use_op,) * 3
        + (lease.revoke_op, lease.look_op, lease.look_op, lease.keep_alive_op, lease.expire_op),
        weight=3,
    ),
    Family("cluster", (cluster.list_op, cluster.refused_op, cluster.learner_op), weight=1),
    Family(
        "maintenance",
        (maintenance.look_op,) * 2
        + (maintenance.alarm_op, maintenance.alarm_call_op, maintenance.heavy_op, maintenance.move_leader_op),
        weight=1,
    ),
    Family("auth", (auth.manage_op,) * 8 + (auth.login_op,) * 2 + (auth.enable_op,), needs=("Auth.UserAdd",), weight=1),
    Family(
        "locks",
        (locks.lease_op, locks.lock_op, locks.campaign_op) * 2 + (locks.unlock_op,) + (locks.lead_op,) * 3,
        needs=("Lock.Lock", "Election.Leader"),
        weight=1,
    ),
    Family("downgrade", (maintenance.downgrade_op,), needs=("Maintenance.Downgrade",), weight=0),
)
_BY_NAME: Final = {family.name: family for family in FAMILIES}


class UnknownFamilyError(Exception):
    """There is no family of this name. The text lists those there are."""


def chosen(names: Iterable[str] | None, absent: frozenset[str]) -> tuple[Family, ...]:
    """The families of these names, or all; without those that raftkv has no calls for. Raises UnknownFamilyError."""
    wanted = list(_BY_NAME) if names is None else list(names)
    for name in wanted:
        if name not in _BY_NAME:
            raise UnknownFamilyError(f"there is no family {name!r}; there are {', '.join(_BY_NAME)}")
    return tuple(_BY_NAME[name] for name in wanted if not absent.intersection(_BY_NAME[name].needs))


def script_of(seed: int, families: tuple[Family, ...]) -> Script:
    """The script of this seed."""
    made: list[Script] = []

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_scripts(seed, families))
    def take(script: Script) -> None:
        made.append(script)

    # Hypothesis as a reader of random bytes: the way that it offers to fuzzers, and the only one without a search.
    take.hypothesis.fuzz_one_input(random.Random(seed).randbytes(_ENTROPY_BYTES))
    assert made, f"seed {seed} needs more than {_ENTROPY_BYTES} random bytes"
    return made[0]


_op_counts = st.integers(LEAST_OPS, _MOST_OPS)


@st.composite
def _scripts(draw: Draw[Any], seed: int, families: tuple[Family, ...]) -> Script:
    """Half of all scripts are about everything, the others mostly about one family beside the keys."""
    weights = {family.name: family.weight for family in families}
    if chance(draw, 2):
        theme = draw(st.sampled_from(families)).name
        weights = {name: 1 if weight and name != "kv" else weight // 2 for name, weight in weights.items()}
        weights[theme] += _THEME_WEIGHTS.get(theme, 10)
    makers = st.sampled_from([maker for family in families for maker in _weighted(family, weights[family.name])])
    ops: list[Op] = []
    least = draw(_op_counts)
    session = False
    while len(ops) < least:
        # While authentication is on, everything is done by somebody, and now and then it is turned off.
        made = auth.disable_op(draw) if session and chance(draw, 24) else draw(makers)(draw)
        ops += [auth.by_somebody(draw, op) for op in made] if session else made
        session = _is_on_after(made, session)
    return Script(seed, tuple(ops), compact_at_end=not chance(draw, 3))


def _is_on_after(ops: list[Op], session: bool) -> bool:
    """Whether authentication is probably on after these; the server decides."""
    methods = [op.method for op in ops if isinstance(op, Call)]
    return (session or "Auth.AuthEnable" in methods) and "Auth.AuthDisable" not in methods


_THEME_WEIGHTS: Final = {"compact": 3, "pieces": 1, "maintenance": 6, "cluster": 5, "downgrade": 4}


def _weighted(family: Family, weight: int) -> list[Maker]:
    """So many of its makers that the families stand to each other as their weights do."""
    share = 24
    return [family.makers[place % len(family.makers)] for place in range(share * weight)]
