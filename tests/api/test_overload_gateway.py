"""Large answers as JSON: written as their client takes them, and given back whatever becomes of the call."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.api import gateway_call
from raftkv.api.gateway_call import GatewayCall, WholeAnswer
from raftkv.pb import rpc_pb2
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.stats import Stats

HEADER = rpc_pb2.RangeResponse(header=rpc_pb2.ResponseHeader(revision=7)).SerializeToString()
TAIL = rpc_pb2.RangeResponse(more=True, count=60).SerializeToString()


def part(first: int) -> bytes:
    kvs = [
        rpc_pb2.RangeResponse().kvs.add(key=b"%02d" % number, value=b"v" * 100) for number in range(first, first + 20)
    ]
    return rpc_pb2.RangeResponse(kvs=kvs).SerializeToString()


PARTS = [HEADER, part(0), part(20), part(40), TAIL]
SIZE = sum(map(len, PARTS))


class Outlet:
    """A client that takes so many bytes before it says stop."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.body = b""
        self.status = 0
        self.ended = False

    def start(self, status: int, headers: Any) -> None:
        self.status = status

    def send(self, data: bytes) -> bool:
        self.body += data
        return len(self.body) < self.room

    def finish(self) -> None:
        self.ended = True


class Scene:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gateway_call, "_PIECES_PER_LOOK", 4)
        ticks = iter(range(1 << 30))  # so that every slice is one look
        monkeypatch.setattr(gateway_call, "monotonic", lambda: next(ticks) * gateway_call.SLICE_S * 0.6)
        self.tasks: list[Any] = []
        self.outlet: Any = Outlet()
        slices: Any = SimpleNamespace(add=self.tasks.append)
        self.exchange = HttpExchange("POST", "/v3/kv/range", [], b"", "peer", None, self.respond, self.outlet)
        method: Any = SimpleNamespace(path="/etcdserverpb.KV/Range")
        answer = WholeAnswer(self.exchange, [])
        stats = Stats().of_method(b"/etcdserverpb.KV/Range", None)
        self.call = GatewayCall(self.exchange, method, {}, rpc_pb2.RangeResponse, answer, stats, slices)
        self.responded: list[int] = []
        self.gone = 0

    def respond(self, status: int, _headers: Any, _body: bytes) -> None:
        self.responded.append(status)

    def left(self, size_bytes: int) -> None:
        self.gone += size_bytes

    def reply(self) -> None:
        self.call.reply_in_parts(list(PARTS), self.left)

    def run(self, slices: int = 1000) -> None:
        while self.tasks and slices:
            slices -= 1
            task = self.tasks.pop(0)
            if task.step():
                self.tasks.append(task)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_the_parts_make_one_answer(scene: Scene) -> None:
    """H-24: the same JSON as of a whole one."""
    scene.reply()
    scene.run()
    whole = rpc_pb2.RangeResponse.FromString(b"".join(PARTS))
    assert scene.outlet.body.decode() == gateway_call.to_json(whole)
    assert len(json.loads(scene.outlet.body)["kvs"]) == 60
    assert (scene.outlet.status, scene.outlet.ended, scene.gone) == (200, True, SIZE)


def test_no_more_is_written_than_the_client_takes(scene: Scene) -> None:
    scene.outlet.room = 500
    scene.reply()
    scene.run()
    stopped_at = len(scene.outlet.body)
    assert 500 <= stopped_at < 2000
    assert scene.gone < SIZE
    scene.outlet.room = 1 << 30
    scene.exchange.on_writable()
    scene.run()
    assert (scene.outlet.ended, scene.gone) == (True, SIZE)


@pytest.mark.parametrize("slices", [0, 1, 5, 20])
@pytest.mark.parametrize("end", ["disconnect", "deadline", "cut off", "handler"])
def test_nothing_is_forgotten_when_the_call_ends_early(scene: Scene, slices: int, end: str) -> None:
    scene.reply()
    scene.run(slices)
    if end == "disconnect":
        scene.exchange.disconnect()
    elif end == "deadline":
        scene.call._on_deadline()
    elif end == "cut off":
        scene.call.cut_off()
    else:
        scene.call.fail(gateway_call.Code.INTERNAL, "internal error")
    assert scene.gone == SIZE
    scene.run()
    assert scene.gone == SIZE
    if slices and end != "disconnect":
        assert scene.outlet.ended, "cut short"
        with pytest.raises(json.JSONDecodeError):
            json.loads(scene.outlet.body)


def test_a_call_that_has_ended_takes_nothing(scene: Scene) -> None:
    scene.exchange.disconnect()
    scene.reply()
    assert (scene.gone, scene.tasks) == (SIZE, [])
