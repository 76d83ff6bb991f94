"""A number of puts, each a request of its own and each acknowledged: what a member that is away will have missed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from bench.load import LoadError, close, connect
from bench.workloads import PUT_PATH, UNARY, RequestMaker, Shape
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import RpcError

CONNECTIONS: Final = 16
CALLS_PER_CONNECTION: Final = 8
CALL_TIMEOUT_S: Final = 30.0


async def fill(host: str, port: int, count: int, shape: Shape) -> None:
    """Raises LoadError when one fails: then not `count` of them were made."""
    channels = await connect(host, port, CONNECTIONS)
    requests = RequestMaker(UNARY["put"], shape)
    left = iter(range(count))
    try:
        async with asyncio.TaskGroup() as workers:
            for channel in channels * CALLS_PER_CONNECTION:
                workers.create_task(_work(channel, requests, left))
    except* RpcError as failed:
        raise LoadError(f"one of {count:,} puts failed: {failed.exceptions[0]}") from None
    finally:
        close(channels)


async def _work(channel: Channel, requests: RequestMaker, left: Iterator[int]) -> None:
    """Until nothing is left, which is shared."""
    for _ in left:
        await channel.unary_future(PUT_PATH, requests.next(), CALL_TIMEOUT_S)
