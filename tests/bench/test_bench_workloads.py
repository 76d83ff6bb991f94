"""Requests cut around their key are the same bytes as requests encoded whole."""

import pytest

from bench.workloads import UNARY, KeyWalk, RequestMaker, Shape, key_of, prefix_end, preload_requests
from raftkv.pb import rpc_pb2

SHAPE = Shape(prefix=b"bench/", value_bytes=256, key_space=250, page_keys=500)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000])
def test_a_walk_visits_every_key_once_before_it_repeats(size: int) -> None:
    walk = KeyWalk(size)
    first = [walk.next() for _ in range(size)]
    assert sorted(first) == list(range(size))
    assert [walk.next() for _ in range(size)] == first


def test_put_names_the_key_and_carries_the_value() -> None:
    maker = RequestMaker(UNARY["put"], SHAPE)
    walk = KeyWalk(SHAPE.key_space)
    for _ in range(3):
        request = rpc_pb2.PutRequest.FromString(maker.next())
        assert request.key == key_of(b"bench/", walk.next())
        assert len(request.value) == 256


def test_txn_names_one_key_in_compare_and_both_branches() -> None:
    request = rpc_pb2.TxnRequest.FromString(RequestMaker(UNARY["txn"], SHAPE).next())
    key = key_of(b"bench/", 0)
    assert request.compare[0].key == key
    assert request.compare[0].target == rpc_pb2.Compare.MOD
    assert request.success[0].request_put.key == key
    assert request.failure[0].request_range.key == key


def test_lists_end_with_the_prefix() -> None:
    page = rpc_pb2.RangeRequest.FromString(RequestMaker(UNARY["list-page"], SHAPE).next())
    whole = rpc_pb2.RangeRequest.FromString(RequestMaker(UNARY["list-all"], SHAPE).next())
    assert (page.key, page.range_end, page.limit) == (key_of(b"bench/", 0), b"bench0", 500)
    assert (whole.key, whole.range_end, whole.limit) == (b"bench/", b"bench0", 0)
    assert prefix_end(b"a") == b"b"


def test_preloading_puts_every_key_once() -> None:
    requests = [rpc_pb2.TxnRequest.FromString(request) for request in preload_requests(SHAPE)]
    keys = [put.request_put.key for request in requests for put in request.success]
    assert [len(request.success) for request in requests] == [100, 100, 50]
    assert keys == [key_of(b"bench/", number) for number in range(250)]
