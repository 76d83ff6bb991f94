"""Leases (contract section 4)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from differ.ops import Call, Expire, KeepAlive, Op
from differ.strategies import common
from differ.strategies.common import LEASES, Draw, chance

_ttls = st.sampled_from((60, 61, 100, 3600, 86_400, 9_000_000_000, 9_000_000_001, 2**62, 1_000_000_000))
_short_ttls = st.sampled_from((0, -1, 1, 2, 3, -(2**62)))
_ids = st.sampled_from(LEASES)
_counts = st.integers(1, 3)


def grant_op(draw: Draw[Any]) -> list[Op]:
    lease = 0 if chance(draw, 12) else draw(_ids)
    if lease and chance(draw, 4):
        # Short ones are revoked at once: when one runs out is not the same moment on two servers.
        return [
            Call("Lease.LeaseGrant", {"TTL": draw(_short_ttls), "ID": lease}, common.member(draw)),
            Call("Lease.LeaseRevoke", {"ID": lease}, common.member(draw)),
        ]
    return [Call("Lease.LeaseGrant", {"TTL": draw(_ttls), "ID": lease}, common.member(draw))]


def use_op(draw: Draw[Any]) -> list[Op]:
    fields = {"key": common.good_key(draw), "value": common.value(draw), "lease": draw(_ids)}
    return [Call("KV.Put", fields, common.member(draw))]


def revoke_op(draw: Draw[Any]) -> list[Op]:
    return [Call("Lease.LeaseRevoke", {"ID": common.lease(draw)}, common.member(draw))]


def look_op(draw: Draw[Any]) -> list[Op]:
    if chance(draw, 3):
        return [Call("Lease.LeaseLeases", {}, common.member(draw))]
    return [Call("Lease.LeaseTimeToLive", {"ID": common.lease(draw), "keys": chance(draw, 2)}, common.member(draw))]


def keep_alive_op(draw: Draw[Any]) -> list[Op]:
    return [KeepAlive(tuple(common.lease(draw) for _ in range(draw(_counts))), common.member(draw))]


def expire_op(draw: Draw[Any]) -> list[Op]:
    """Takes seconds, so it is rare."""
    if not chance(draw, 60):
        return use_op(draw)
    return [Expire(0x5151, tuple(common.good_key(draw) for _ in range(draw(_counts))))]
