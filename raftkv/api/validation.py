"""What is wrong with a request by itself, for the gates in front of the handlers.

etcd looks at a request before it asks whose it is: a transaction with too many operations is told so even if its token
is bad. Handlers check for themselves; this is asked only when a gate is about to refuse, so that what is served pays
nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftkv.api.cluster import check_peer_urls
from raftkv.api.election import check_leader_key
from raftkv.api.errors import Status
from raftkv.api.lock import check_unlock
from raftkv.api.range_stream import check_range_stream
from raftkv.api.txn_check import check_delete_range, check_put, check_range, check_txn
from raftkv.pb import election_pb2, lock_pb2, rpc_pb2


def why_invalid(path: str, message: bytes, max_txn_ops: int) -> Status | None:
    """None: nothing is, or the message is not one; then whoever was to refuse it does."""
    known = _CHECKS.get(path)
    if known is None:
        return None
    read, check = known
    try:
        request = read(message)
    except Exception:
        return None
    return check(request, max_txn_ops)


def _alone(check: Callable[[Any], Status | None]) -> Callable[[Any, int], Status | None]:
    return lambda request, _max_txn_ops: check(request)


_CHECKS: Final[dict[str, tuple[Callable[[bytes], Any], Callable[[Any, int], Status | None]]]] = {
    "/etcdserverpb.KV/Range": (rpc_pb2.RangeRequest.FromString, _alone(check_range)),
    "/etcdserverpb.KV/RangeStream": (rpc_pb2.RangeRequest.FromString, _alone(check_range_stream)),
    "/etcdserverpb.KV/Put": (rpc_pb2.PutRequest.FromString, _alone(check_put)),
    "/etcdserverpb.KV/DeleteRange": (rpc_pb2.DeleteRangeRequest.FromString, _alone(check_delete_range)),
    "/etcdserverpb.KV/Txn": (rpc_pb2.TxnRequest.FromString, check_txn),
    "/etcdserverpb.Cluster/MemberAdd": (rpc_pb2.MemberAddRequest.FromString, _alone(check_peer_urls)),
    "/etcdserverpb.Cluster/MemberUpdate": (rpc_pb2.MemberUpdateRequest.FromString, _alone(check_peer_urls)),
    "/v3lockpb.Lock/Unlock": (lock_pb2.UnlockRequest.FromString, _alone(check_unlock)),
    "/v3electionpb.Election/Proclaim": (election_pb2.ProclaimRequest.FromString, _alone(check_leader_key)),
    "/v3electionpb.Election/Resign": (election_pb2.ResignRequest.FromString, _alone(check_leader_key)),
}
