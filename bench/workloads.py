"""What the clients ask: the keys, and the request bytes of each workload.

Owns the order of keys and the encoding. Requests are cut around their key once, so that making one costs a
formatted number and two concatenations. Knows nothing of connections or time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Final, NamedTuple

from raftkv.pb import rpc_pb2

KEY_DIGITS: Final = 12
_PLACEHOLDER: Final = b"?" * KEY_DIGITS
PRELOAD_OPS: Final = 100
"""Puts in one preloading transaction; etcd allows 128 by default."""

PUT_PATH: Final = b"/etcdserverpb.KV/Put"
RANGE_PATH: Final = b"/etcdserverpb.KV/Range"
TXN_PATH: Final = b"/etcdserverpb.KV/Txn"
WATCH_PATH: Final = b"/etcdserverpb.Watch/Watch"


class KeyWalk:
    """Numbers 0 … size-1 in a fixed scattered order, each once, then again: the same for every server."""

    __slots__ = ("_at", "_size", "_step")

    def __init__(self, size: int) -> None:
        self._size = size
        # Near the golden ratio of the size, neighbours in time are far apart in key order.
        step = max(int(size * 0.618), 1)
        while gcd(step, size) != 1:
            step += 1
        self._step = step
        self._at = 0

    def next(self) -> int:
        at = self._at
        self._at = (at + self._step) % self._size
        return at


class Shape(NamedTuple):
    """What a workload's requests are made from. Sizes in bytes."""

    prefix: bytes
    value_bytes: int
    key_space: int
    page_keys: int


def key_of(prefix: bytes, number: int) -> bytes:
    return b"%b%0*d" % (prefix, KEY_DIGITS, number)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, whose last byte must not be 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def value_of(size_bytes: int) -> bytes:
    """Not compressible to nothing, and the same every time."""
    pattern = bytes(range(32, 127))
    return (pattern * (size_bytes // len(pattern) + 1))[:size_bytes]


def _put(shape: Shape) -> bytes:
    message = rpc_pb2.PutRequest(key=shape.prefix + _PLACEHOLDER, value=value_of(shape.value_bytes))
    return message.SerializeToString()


def _txn(shape: Shape) -> bytes:
    """How Kubernetes creates an object: put unless the key exists, else read it."""
    key = shape.prefix + _PLACEHOLDER
    put = rpc_pb2.PutRequest(key=key, value=value_of(shape.value_bytes))
    message = rpc_pb2.TxnRequest(
        compare=[rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL, mod_revision=0)],
        success=[rpc_pb2.RequestOp(request_put=put)],
        failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))],
    )
    return message.SerializeToString()


def _range(shape: Shape) -> bytes:
    return rpc_pb2.RangeRequest(key=shape.prefix + _PLACEHOLDER).SerializeToString()


def _range_serializable(shape: Shape) -> bytes:
    message = rpc_pb2.RangeRequest(key=shape.prefix + _PLACEHOLDER, serializable=True)
    return message.SerializeToString()


def _list_page(shape: Shape) -> bytes:
    """A page as Kubernetes asks for the next: from a key to the end of the prefix, limited."""
    message = rpc_pb2.RangeRequest(
        key=shape.prefix + _PLACEHOLDER, range_end=prefix_end(shape.prefix), limit=shape.page_keys
    )
    return message.SerializeToString()


def _list_all(shape: Shape) -> bytes:
    return rpc_pb2.RangeRequest(key=shape.prefix, range_end=prefix_end(shape.prefix)).SerializeToString()


class Workload(NamedTuple):
    """A unary workload: one method, one form of request. `reads` says that the keys must exist first."""

    path: bytes
    encode: Callable[[Shape], bytes]
    reads: bool
    about: str


UNARY: Final[dict[str, Workload]] = {
    "put": Workload(PUT_PATH, _put, False, "put one key"),
    "txn": Workload(TXN_PATH, _txn, False, "put if mod_revision is 0, else get"),
    "range": Workload(RANGE_PATH, _range, True, "get one key, linearizable"),
    "range-serializable": Workload(RANGE_PATH, _range_serializable, True, "get one key, serializable"),
    "list-page": Workload(RANGE_PATH, _list_page, True, "a page of keys with values"),
    "list-all": Workload(RANGE_PATH, _list_all, True, "all keys with values in one response"),
}


class RequestMaker:
    """Requests of one workload, one after the other, over the key space."""

    __slots__ = ("_pieces", "_walk")

    def __init__(self, workload: Workload, shape: Shape) -> None:
        self._pieces: Final = workload.encode(shape).split(_PLACEHOLDER)
        self._walk: Final = KeyWalk(shape.key_space)

    def next(self) -> bytes:
        return (b"%0*d" % (KEY_DIGITS, self._walk.next())).join(self._pieces)


def preload_requests(shape: Shape) -> list[bytes]:
    """Transactions that put every key of the key space."""
    value = value_of(shape.value_bytes)
    requests = []
    for first in range(0, shape.key_space, PRELOAD_OPS):
        numbers = range(first, min(first + PRELOAD_OPS, shape.key_space))
        puts = (rpc_pb2.PutRequest(key=key_of(shape.prefix, number), value=value) for number in numbers)
        message = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts])
        requests.append(message.SerializeToString())
    return requests
