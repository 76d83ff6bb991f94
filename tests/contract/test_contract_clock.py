"""A member whose wall clock jumps by hours, also between its runs: nothing that clients see depends on it (RF-74)."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract_support import Client, new_prefix, prefix_end
from helpers.processes import Program, Server

from raftkv.pb import rpc_pb2

_SPREAD_S = 6 * 3600
_JUMPING = Program(
    "raftkv", (sys.executable, str(Path(__file__).with_name("jumping_raftkv.py")), str(_SPREAD_S), "serve")
)


@pytest.fixture
def jumping(subject_program: Program, tmp_path: Path) -> Iterator[Server]:
    if subject_program.kind == "etcd":
        pytest.skip("the clock is made to jump inside of a Python process; the real etcd is none")
    server = Server(_JUMPING, tmp_path)
    try:
        yield server.start()
    finally:
        server.stop()


def test_rf_74_leases_run_by_the_monotonic_clock(jumping: Server, connected: Callable[[Server], Client]) -> None:
    client, prefix = connected(jumping), new_prefix()
    short, kept = client.grant(2).ID, client.grant(2).ID
    began_s = time.monotonic()
    client.put(prefix + b"short", lease=short)
    client.put(prefix + b"kept", lease=kept)
    with client.keep_alive() as renewals:
        while client.range(prefix + b"short").kvs:
            assert time.monotonic() - began_s < 10, "the lease did not run out"
            renewals.send(rpc_pb2.LeaseKeepAliveRequest(ID=kept))
            assert renewals.next().TTL == 2
            time.sleep(0.2)
    assert time.monotonic() - began_s > 1.8
    assert client.only(prefix + b"kept").lease == kept
    assert client.time_to_live(kept).TTL in (1, 2)


def test_rf_74_nothing_is_lost_or_answered_wrongly_over_restarts(
    jumping: Server, connected: Callable[[Server], Client]
) -> None:
    prefix = new_prefix()
    for life in range(4):
        client = connected(jumping)
        revisions = [client.put(prefix + b"%d-%d" % (life, number)).header.revision for number in range(50)]
        assert revisions == list(range(revisions[0], revisions[0] + 50))
        assert client.range(prefix, prefix_end(prefix), count_only=True).count == 50 * (life + 1)
        jumping.kill9()
        jumping.start()
