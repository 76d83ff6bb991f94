"""What several tests of bench/ need: results made of nothing, and servers that answer as told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.load import LoadResult
from bench.nullserver import NullServer
from raftkv.pb import rpc_pb2

_RESULT = LoadResult(
    workload="put",
    connections=64,
    clients=64,
    seconds=1.0,
    operations=1000,
    per_s=1000.0,
    mean_ms=1.0,
    p50_ms=1.0,
    p90_ms=2.0,
    p99_ms=3.0,
    max_ms=4.0,
    received_mb_per_s=1.0,
    errors={},
    generator_cpu=0.5,
    generator_cpu_us=10.0,
    server_cpu=1.0,
    server_cpu_us=20.0,
    other_cpu=0.0,
    server_rss_bytes=100_000_000,
    server_anon_bytes=20_000_000,
    server_file_bytes=0,
)


def result(**changes: Any) -> LoadResult:
    return _RESULT._replace(**changes)


def answer_in_term(server: NullServer, term: int) -> None:
    """From now on its acknowledgements are of a leader in this term."""
    server._answer = rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(raft_term=term)).SerializeToString()


@asynccontextmanager
async def null_servers(count: int, term: int = 2) -> AsyncIterator[list[NullServer]]:
    servers = [NullServer(asyncio.get_running_loop()) for _ in range(count)]
    try:
        for server in servers:
            await server.start()
            answer_in_term(server, term)
        yield servers
    finally:
        for server in servers:
            server.close()
