"""What the requests of log entries cost (AL-21)."""

from __future__ import annotations

from raftkv.apply import Kind, encode_as_user, encode_batch
from raftkv.apply.quota import dearest_cost
from raftkv.auth import Identity
from raftkv.pb import rpc_pb2

PUT = rpc_pb2.PutRequest(key=b"key", value=b"value")
PUT_OP = rpc_pb2.RequestOp(request_put=PUT)
DELETE_OP = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"z"))


def cost(*requests: tuple[int, bytes]) -> int:
    return dearest_cost([encode_batch(1, 1, [each]) for each in requests])


def test_the_dearest_request_counts() -> None:
    put, txn = PUT.SerializeToString(), rpc_pb2.TxnRequest(failure=[PUT_OP, DELETE_OP, PUT_OP]).SerializeToString()
    assert cost((Kind.PUT, put)) == 256 + 3 + 5
    assert cost((Kind.LEASE_GRANT, b"")) == 64
    assert cost((Kind.TXN, txn)) == 2 * 264
    assert cost((Kind.PUT, put), (Kind.TXN, txn), (Kind.LEASE_GRANT, b"")) == 528
    assert dearest_cost([encode_batch(1, 1, [(Kind.LEASE_GRANT, b""), (Kind.PUT, put)])]) == 264


def test_in_whose_name_does_not_matter() -> None:
    message = encode_as_user(Identity("anna", 3), Kind.PUT, PUT.SerializeToString())
    assert cost((Kind.AS_USER, message)) == 264


def test_what_adds_nothing_costs_nothing() -> None:
    """AL-26."""
    delete = rpc_pb2.DeleteRangeRequest(key=b"a").SerializeToString()
    txn = rpc_pb2.TxnRequest(success=[DELETE_OP]).SerializeToString()
    assert cost((Kind.DELETE_RANGE, delete), (Kind.TXN, txn), (Kind.LEASE_REVOKE, b""), (Kind.ALARM, b"")) == 0
    assert dearest_cost([]) == 0
