"""Locks and elections, held by leases that the script knows (contract section 8)."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from differ.ops import Call, Claim, LeaderRev, LeaseKey, Observe, Op
from differ.strategies import common
from differ.strategies.common import LEASES, Draw, chance

_lock_names = st.sampled_from((b"lock", b"lock", b"other", b"lo\xff"))
_election_names = st.sampled_from((b"vote", b"vote", b"other"))
_ALONE: Final = b"alone"
"""Claimed with leases that the server chooses: beside other claims, their keys would not sort alike on two servers."""
_leases = st.sampled_from(LEASES[:4] * 4 + (0x4242,))
_values = st.sampled_from((b"one", b"two", b""))


def lease_op(draw: Draw[Any]) -> list[Op]:
    return [Call("Lease.LeaseGrant", {"TTL": 600, "ID": draw(_leases)}, common.member(draw))]


def lock_op(draw: Draw[Any]) -> list[Op]:
    fields = {"name": _ALONE} if chance(draw, 30) else {"name": draw(_lock_names), "lease": draw(_leases)}
    return [Claim("Lock.Lock", fields, common.member(draw))]


def unlock_op(draw: Draw[Any]) -> list[Op]:
    key = b"" if chance(draw, 12) else LeaseKey(draw(_lock_names), draw(_leases))
    return [Call("Lock.Unlock", {"key": key}, common.member(draw))]


def campaign_op(draw: Draw[Any]) -> list[Op]:
    fields = {"name": _ALONE} if chance(draw, 30) else {"name": draw(_election_names), "lease": draw(_leases)}
    fields["value"] = draw(_values)
    return [Claim("Election.Campaign", fields, common.member(draw))]


def _leader_key(draw: Draw[Any]) -> dict[str, Any]:
    name, lease = draw(_election_names), draw(_leases)
    rev: Any = 7 if chance(draw, 10) else LeaderRev(name, lease)
    return {"name": name, "key": LeaseKey(name, lease), "rev": rev, "lease": lease}


def lead_op(draw: Draw[Any]) -> list[Op]:
    kind = draw(st.sampled_from(("Proclaim", "Proclaim", "Resign", "Leader", "Leader", "observe", "observe")))
    member = common.member(draw)
    if kind == "Leader":
        return [Call("Election.Leader", {"name": draw(_election_names)}, member)]
    if kind == "observe":
        proclaim = {"leader": _leader_key(draw), "value": draw(_values)} if chance(draw, 2) else None
        return [Observe(draw(_election_names), proclaim, member)]
    fields: dict[str, Any] = {} if chance(draw, 12) else {"leader": _leader_key(draw)}
    if kind == "Proclaim":
        fields["value"] = draw(_values)
    return [Call(f"Election.{kind}", fields, member)]
