"""Calls that ask for a leader (G-20)."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import FakeCall, FakeNode

from raftkv.api.leader_gate import with_leader_asked_for
from raftkv.api.learner_gate import RefusedStream
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Service, build_routes

RANGE, WATCH = b"/etcdserverpb.KV/Range", b"/etcdserverpb.Watch/Watch"
SNAPSHOT = b"/etcdserverpb.Maintenance/Snapshot"
NO_LEADER = (Code.UNAVAILABLE, "etcdserver: no leader")


@pytest.fixture
def served() -> list[bytes]:
    return []


@pytest.fixture
def routes(fake_node: FakeNode, served: list[bytes]) -> Any:
    services = (
        Service("etcdserverpb.KV").unary("Range", lambda _call, message: served.append(message)),
        Service("etcdserverpb.Watch").bidi("Watch", lambda call: call),
        Service("etcdserverpb.Maintenance").server_stream("Snapshot", lambda call: call),
    )
    return with_leader_asked_for(fake_node.context(), build_routes(services))


@pytest.mark.parametrize(
    ("leader_id", "metadata", "refused"),
    [
        (0, {"hasleader": "true"}, True),
        (0, {"hasleader": "True"}, False),
        (0, {}, False),
        (7, {"hasleader": "true"}, False),
    ],
    ids=["none known", "another spelling", "not asked for", "one known"],
)
def test_who_wants_a_leader_is_refused_without_one(
    fake_node: FakeNode,
    routes: Any,
    served: list[bytes],
    leader_id: int,
    metadata: dict[str, str],
    refused: bool,
) -> None:
    """G-20: also of calls that need no leader; who does not say so waits (G-51)."""
    fake_node.leader_id = leader_id
    call: Any = FakeCall(**metadata)
    routes[RANGE].handler(call, b"request")
    assert call.failure == (NO_LEADER if refused else None)
    assert served == ([] if refused else [b"request"])
    stream: Any = FakeCall(**metadata)
    assert isinstance(routes[SNAPSHOT].handler(stream), RefusedStream) is refused
    assert stream.failure == (NO_LEADER if refused else None)


def test_a_leader_that_is_found_again_is_enough(fake_node: FakeNode, routes: Any, served: list[bytes]) -> None:
    """Connections remember the handler that they have looked up."""
    handler = routes[RANGE].handler
    for leader_id in (0, 7, 0):
        fake_node.leader_id = leader_id
        call: Any = FakeCall(hasleader="true")
        handler(call, b"%d" % leader_id)
    assert served == [b"7"]


def test_streams_of_both_directions_ask_for_themselves(fake_node: FakeNode, routes: Any) -> None:
    """G-21: they also end when the leader is lost later."""
    fake_node.leader_id = 0
    call: Any = FakeCall(hasleader="true")
    assert routes[WATCH].handler(call) is call
    assert call.failure is None
