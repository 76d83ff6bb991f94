"""A key under a lease is there until its time has come, and not for ever.

A renewal that was answered promises the key from the moment at which it was *asked* for its TTL: the member renewed at
some later moment, so this is the least that was promised. Knows nothing of who renews.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chaos.checkers.verdict import Verdict, verdict


@dataclass(slots=True)
class Life:
    """One key and its lease. Times in seconds since the run began."""

    key: str
    member: str
    """Through which it was granted and renewed."""
    put_s: float = 0.0
    """When the put was acknowledged."""
    renewals: list[tuple[float, float, int]] = field(default_factory=list)
    """(asked, answered, TTL), the grant first. TTL 0: the lease was gone."""
    reads: list[tuple[float, float, bool, str]] = field(default_factory=list)
    """(called, returned, whether the key was there, through which member); linearizable ones only."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(workload: str, lives: Sequence[Life], left: Sequence[str]) -> Verdict:
    """`left` are the keys that were still there long after the last renewal."""
    faults = [fault for life in lives for fault in _early(life)]
    faults += (f"{key} is still there, though nobody renewed it for longer than its TTL" for key in left)
    reads = sum(len(life.reads) for life in lives)
    checked = f"{len(lives)} leases, {reads:,} reads"
    return verdict(workload, "no leased key gone early, none left over", checked, faults)


def _early(life: Life) -> list[str]:
    """Answers that say "gone" before the time that other answers had promised."""
    gone = [
        (called_s, returned_s, f"read through {member}")
        for called_s, returned_s, there, member in life.reads
        if not there and life.put_s < called_s
    ]
    gone += (
        (asked_s, answered_s, f"renewed through {life.member}") for asked_s, answered_s, ttl in life.renewals if not ttl
    )
    faults = []
    for began_s, ended_s, how in gone:
        promised_s = max((asked + ttl for asked, answered, ttl in life.renewals if answered < began_s), default=0.0)
        if ended_s < promised_s:
            faults.append(
                f"{life.key} was gone at {ended_s:.3f} s, {how}; {life.member} had promised it until"
                f" {promised_s:.3f} s: {_listed(life)}"
            )
    return faults


def _listed(life: Life) -> str:
    """The last renewals: of more, the earlier ones promised less."""
    last = (f"asked {asked:.3f} s, answered {answered:.3f} s, TTL {ttl}" for asked, answered, ttl in life.renewals[-4:])
    return "; ".join(last)
