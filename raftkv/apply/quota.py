"""What a request may add to the store, in bytes, as etcd counts it (AL-21). Pure arithmetic on requests."""

from collections.abc import Iterable
from typing import Final

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
