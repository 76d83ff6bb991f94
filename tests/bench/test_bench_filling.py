"""Exactly so many puts, each acknowledged."""

import asyncio

import pytest
from bench_support import null_servers

from bench.filling import fill
from bench.load import LoadError
from bench.workloads import Shape, key_of
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Call

SHAPE = Shape(b"put/", 256, 100, 1)


def _fill(count: int) -> None:
    async def run() -> None:
        async with null_servers(1) as (server,):
            await fill("127.0.0.1", server.port, count, SHAPE)

    asyncio.run(run())


def test_as_many_puts_as_asked_over_the_whole_key_space(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []

    def put(server: object, call: Call, message: bytes) -> None:
        keys.append(rpc_pb2.PutRequest.FromString(message).key)
        call.reply(b"")

    monkeypatch.setattr("bench.nullserver.NullServer._put", put)
    _fill(1001)
    assert len(keys) == 1001
    assert set(keys) == {key_of(b"put/", number) for number in range(100)}


def test_a_put_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.nullserver.NullServer._put", lambda server, call, message: call.fail(Code.UNKNOWN, "no space")
    )
    with pytest.raises(LoadError, match="one of 1,000 puts failed: UNKNOWN: no space"):
        _fill(1000)
