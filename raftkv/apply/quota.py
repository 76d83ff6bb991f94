"""What a request may add to the store, in bytes, as etcd counts it (AL-21). Pure arithmetic on requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from raftkv.apply.batch import Kind, decode_as_user, decode_batch
from raftkv.pb import rpc_pb2

PUT_OVERHEAD_BYTES: Final = 256
LEASE_GRANT_COST_BYTES: Final = 64


def put_cost(put: rpc_pb2.PutRequest) -> int:
    return PUT_OVERHEAD_BYTES + len(put.key) + len(put.value)


def txn_cost(txn: rpc_pb2.TxnRequest) -> int:
    """The dearer of the two branches, nested transactions included; 0 when no branch puts anything."""
    return max(_branch_cost(txn.success), _branch_cost(txn.failure))


def _branch_cost(ops: Iterable[rpc_pb2.RequestOp]) -> int:
    cost = 0
    for op in ops:
        if op.HasField("request_put"):
            cost += put_cost(op.request_put)
        elif op.HasField("request_txn"):
            cost += txn_cost(op.request_txn)
    return cost


def dearest_cost(batches: Iterable[bytes]) -> int:
    """The highest cost of one request in the data of log entries. Raises MalformedEntry."""
    return max((_request_cost(*request) for data in batches for request in decode_batch(data).requests), default=0)


def _request_cost(kind: int, message: bytes) -> int:
    if kind == Kind.AS_USER:
        _, kind, message = decode_as_user(message)
    cost = _COSTS.get(kind)
    return 0 if cost is None else cost(message)


_COSTS: Final[dict[int, Callable[[bytes], int]]] = {
    Kind.PUT: lambda message: put_cost(rpc_pb2.PutRequest.FromString(message)),
    Kind.TXN: lambda message: txn_cost(rpc_pb2.TxnRequest.FromString(message)),
    Kind.LEASE_GRANT: lambda _message: LEASE_GRANT_COST_BYTES,
}
"""Everything else costs nothing."""
