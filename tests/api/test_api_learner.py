"""What a learner serves (G-30 to G-32), and streams that want a leader (G-21)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from api_support import FakeCall, raw

from raftkv.api.leader_watch import LeaderWatch
from raftkv.api.learner_gate import LearnerGate
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import MethodKind, Service, build_routes

REFUSED = (Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")
RANGE, PUT, WATCH = b"/etcdserverpb.KV/Range", b"/etcdserverpb.KV/Put", b"/etcdserverpb.Watch/Watch"
STATUS, SNAPSHOT = b"/etcdserverpb.Maintenance/Status", b"/etcdserverpb.Maintenance/Snapshot"
HEALTH = b"/grpc.health.v1.Health/Check"


class Stream:
    """A stream's receiver that remembers what reaches it."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: list[bytes] = []

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def on_half_close(self) -> None: ...

    def on_closed(self) -> None: ...

    def on_writable(self) -> None: ...


class Scene:
    """Every kind of call, on a member that starts as a learner."""

    def __init__(self) -> None:
        self.node = SimpleNamespace(is_learner=True)
        self.reached: list[str] = []
        services = (
            Service("etcdserverpb.KV").unary("Range", self._note("Range")).unary("Put", self._note("Put")),
            Service("etcdserverpb.Watch").bidi("Watch", Stream),
            Service("etcdserverpb.Maintenance").unary("Status", self._note("Status")).server_stream("Snapshot", Stream),
            Service("grpc.health.v1.Health").unary("Check", self._note("Check")),
        )
        self.voters_routes = build_routes(services)
        node: Any = self.node
        self.gate = LearnerGate(node, self.voters_routes)
        self.routes = self.gate.routes()

    def _note(self, name: str) -> Any:
        return lambda call, _message: self.reached.append(name)

    def call(self, path: bytes, message: bytes = b"") -> FakeCall:
        call: Any = FakeCall()
        self.routes[path].handler(call, message)  # type: ignore[call-arg]  # a unary handler
        made: FakeCall = call
        return made

    def open(self, path: bytes) -> tuple[FakeCall, Any]:
        call: Any = FakeCall()
        return call, self.routes[path].handler(call)  # type: ignore[call-arg]  # a stream handler


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_learner_serves_what_asks_nobody_else(scene: Scene) -> None:
    """G-30, G-31."""
    for path, message in ((STATUS, b""), (RANGE, raw(rpc_pb2.RangeRequest(key=b"k", serializable=True)))):
        assert scene.call(path, message).failure is None
    assert scene.reached == ["Status", "Range"]
    call, receiver = scene.open(SNAPSHOT)
    assert (call.failure, type(receiver)) == (None, Stream)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (RANGE, raw(rpc_pb2.RangeRequest(key=b"k"))),
        (PUT, raw(rpc_pb2.PutRequest(key=b"k"))),
        (PUT, b"\xff no request"),
        (HEALTH, b""),
    ],
    ids=["linearizable range", "put", "malformed put", "health"],
)
def test_everything_else_is_refused_before_it_is_looked_at(scene: Scene, path: bytes, message: bytes) -> None:
    """G-30, G-32."""
    assert scene.call(path, message).failure == REFUSED
    assert scene.reached == []


def test_a_range_that_is_none_is_refused_for_what_it_is(scene: Scene) -> None:
    assert scene.call(RANGE, b"\xff\xff").failure is None
    assert scene.reached == ["Range"]


def test_streams_are_refused(scene: Scene) -> None:
    """G-31: and what comes on them all the same reaches nobody."""
    call, receiver = scene.open(WATCH)
    assert call.failure == REFUSED
    assert not isinstance(receiver, Stream)
    receiver.on_message(b"more")
    receiver.on_half_close()
    receiver.on_writable()
    receiver.on_closed()


def test_a_promoted_member_serves_everything_also_on_connections_that_it_had(scene: Scene) -> None:
    """G-32: connections remember the methods they have looked up, so the same table must serve it."""
    watched = scene.routes[WATCH].handler
    scene.node.is_learner = False
    for path in (RANGE, PUT, HEALTH, STATUS):
        assert scene.call(path, raw(rpc_pb2.RangeRequest(key=b"k"))).failure is None
    assert scene.reached == ["Range", "Put", "Check", "Status"]
    call: Any = FakeCall()
    receiver: Any = watched(call)  # type: ignore[call-arg]  # a stream handler
    receiver.on_message(b"reaches it")
    assert (call.failure, receiver.messages) == (None, [b"reaches it"])


def test_a_voters_calls_are_not_asked_anything(scene: Scene) -> None:
    """It is a voter when it begins, and never becomes a learner."""
    scene.node.is_learner = False
    assert scene.gate.routes() is scene.voters_routes


def test_paths_and_kinds_are_those_of_the_services(scene: Scene) -> None:
    assert scene.routes.keys() == scene.voters_routes.keys()
    for path, method in scene.routes.items():
        assert (method.path, method.kind) == (scene.voters_routes[path].path, scene.voters_routes[path].kind)
    assert scene.routes[WATCH].kind is MethodKind.BIDI


# --- streams that want a leader ---------------------------------------------------------------------------------------


def watch(leader: int, **metadata: str) -> tuple[Any, LeaderWatch]:
    node: Any = SimpleNamespace(leader_id=leader, config=SimpleNamespace(election_timeout_ms=1000))
    call: Any = FakeCall(None, **metadata)
    return node, LeaderWatch(node, call)


def test_three_election_timeouts_without_a_leader_are_too_many() -> None:
    """G-21: in one piece; counted from the first look at which there was none."""
    node, seen = watch(1, hasleader="true")
    assert not seen.is_lost(0.0)
    node.leader_id = 0
    assert [seen.is_lost(now) for now in (10.0, 11.0, 12.9)] == [False, False, False]
    node.leader_id = 2
    assert not seen.is_lost(13.0)
    node.leader_id = 0
    assert [seen.is_lost(now) for now in (14.0, 16.9, 17.0, 18.0)] == [False, False, True, True]


@pytest.mark.parametrize("metadata", [{}, {"hasleader": "false"}, {"hasleader": "True"}, {"hasLeader": "true"}])
def test_streams_that_did_not_ask_for_a_leader_stay(metadata: dict[str, str]) -> None:
    """G-22, G-20: the exact words."""
    _, seen = watch(0, **metadata)
    assert not any(seen.is_lost(float(now)) for now in range(100))
