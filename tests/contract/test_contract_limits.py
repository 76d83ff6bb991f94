"""Sizes of requests and replies (contract section 1.5)."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from contract_support import TOO_LARGE, Client, Code, put_op, refused

from raftkv.pb import rpc_pb2

_MAX_REQUEST_BYTES = 1536 * 1024
_MAX_MESSAGE_BYTES = _MAX_REQUEST_BYTES + 512 * 1024
_LOG_HEADER_BYTES = 18
"""What etcd's log adds to a put before it is measured."""


def _put_of(key: bytes, size: int) -> rpc_pb2.PutRequest:
    """A request that is exactly so many bytes long on the wire."""
    request = rpc_pb2.PutRequest(key=key, value=bytes(size - len(key) - 16))
    request.value = bytes(len(request.value) + size - request.ByteSize())
    assert request.ByteSize() == size
    return request


def _send(client: Client, request: rpc_pb2.PutRequest) -> None:
    client.calls.KV.Put(request, timeout=20)


def test_a_request_at_the_limit(client: Client, prefix: bytes) -> None:
    """LIM-01: equal is accepted, with what the log adds; one byte more is not."""
    request = _put_of(prefix, _MAX_REQUEST_BYTES - _LOG_HEADER_BYTES)
    _send(client, request)
    assert client.only(prefix).value == request.value
    client.delete(prefix)
    with refused(TOO_LARGE):
        _send(client, _put_of(prefix, _MAX_REQUEST_BYTES - _LOG_HEADER_BYTES + 1))


def _txn_of(size: int) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(success=[put_op(b"k", bytes(size // 2)), put_op(b"l", bytes(size // 2))])


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda client: _send(client, _put_of(b"k", _MAX_REQUEST_BYTES + 1)), id="Put"),
        pytest.param(lambda client: client.delete(bytes(_MAX_REQUEST_BYTES)), id="DeleteRange"),
        pytest.param(lambda client: client.calls.KV.Txn(_txn_of(_MAX_REQUEST_BYTES), timeout=20), id="Txn"),
        pytest.param(
            lambda client: _send(client, _put_of(b"k", _MAX_MESSAGE_BYTES)),
            id="LIM-03: as large as a message may be",
        ),
    ],
)
def test_a_request_above_the_limit(client: Client, send: Callable[[Client], Any]) -> None:
    """LIM-01, LIM-02."""
    before = client.revision()
    with refused(TOO_LARGE):
        send(client)
    assert client.revision() == before


def test_reads_have_no_such_limit(client: Client) -> None:
    """LIM-02."""
    key = bytes(_MAX_REQUEST_BYTES + 1)
    assert client.range(key).count == 0
    large = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    assert client.txn(success=[large]).responses[0].response_range.count == 0


def test_a_message_above_the_receive_limit(client: Client, prefix: bytes) -> None:
    """LIM-03; the connection stays good for other calls."""
    client.put(prefix, b"before")
    with pytest.raises(grpc.RpcError) as refusal:
        _send(client, _put_of(prefix, _MAX_MESSAGE_BYTES + 1))
    error: Any = refusal.value
    assert error.code() is Code.RESOURCE_EXHAUSTED
    # Go's words and those of grpcio's core differ in their case and in the prefix "grpc: ".
    assert "received message larger than max" in error.details().lower()
    assert f"{_MAX_MESSAGE_BYTES + 1} vs. {_MAX_MESSAGE_BYTES}" in error.details()
    assert client.only(prefix).value == b"before"
