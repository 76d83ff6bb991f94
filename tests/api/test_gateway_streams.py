"""The JSON gateway between an HTTP exchange and the handlers of gRPC: streams and WebSockets (H-27, H-28)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_support import FOO, Asked, Bench, reply, watched

from raftkv.api.gateway import MAX_WAITING_TEXTS, MESSAGES_PER_TURN
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- streams ------------------------------------------------------------------------------------------------------


def test_objects_follow_each_other(bench: Bench) -> None:
    """H-27: the end of the body is not the end of the stream."""
    asked, stream = bench.watch('{"progress_request":{}}\n{"createRequest":{"key":"' + FOO + '"}}{}')
    progress, create, nothing, end = stream.happened
    assert rpc_pb2.WatchRequest.FromString(progress).HasField("progress_request")
    assert rpc_pb2.WatchRequest.FromString(create).create_request.key == b"foo"
    assert (nothing, end) == (b"", "half closed")
    assert (asked.answers, asked.outlet.status) == ([], 0)
    for each in (1, 2, 3):
        stream.call.send(watched(each))
    assert asked.outlet.status == 200
    assert asked.outlet.headers["content-type"] == "application/json"
    assert asked.outlet.headers["access-control-allow-origin"] == "*"
    assert asked.outlet.lines() == [{"result": {"watch_id": str(each)}} for each in (1, 2, 3)]
    assert not asked.outlet.ended
    stream.call.finish()
    assert asked.outlet.ended
    assert stream.happened[-1] == "closed"


def test_a_stream_without_requests(bench: Bench) -> None:
    asked, stream = bench.watch()
    assert stream.happened == ["half closed"]
    stream.call.finish()
    assert (asked.outlet.status, asked.outlet.lines(), asked.outlet.ended) == (200, [], True)


@pytest.mark.parametrize("body", ["", "{}", "{}{}", "{} more"])
def test_a_stream_of_the_server_has_one_request(bench: Bench, body: str) -> None:
    bench.ask("/v3/maintenance/snapshot", body)
    assert bench.streams[0].happened == [b"", "half closed"]


def test_an_error_in_the_middle_is_the_last_line(bench: Bench) -> None:
    """H-27."""
    asked, stream = bench.watch("{}")
    stream.call.send(watched(1))
    stream.call.fail(Code.UNAVAILABLE, "etcdserver: no leader")
    error = {"code": 14, "message": "etcdserver: no leader"}
    assert asked.outlet.status == 200
    assert asked.outlet.lines() == [{"result": {"watch_id": "1"}}, {"error": error}]
    assert asked.outlet.ended
    stream.call.send(watched(2))
    assert len(asked.outlet.parts) == 2


def test_an_error_before_anything_decides_on_the_status(bench: Bench) -> None:
    asked, stream = bench.watch("{}")
    stream.call.fail(Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
    assert asked.outlet.status == 401
    assert asked.outlet.lines() == [{"error": {"code": 16, "message": "etcdserver: invalid auth token"}}]
    assert asked.outlet.ended


def test_an_object_that_is_malformed_ends_the_stream(bench: Bench) -> None:
    """H-31. What came before it counts."""
    asked, stream = bench.watch('{}{"create_request":5}{}')
    assert stream.happened == [b"", "closed"]
    assert asked.outlet.lines()[0]["error"]["code"] == 3
    assert asked.outlet.ended


def test_a_client_of_a_stream_that_goes(bench: Bench) -> None:
    asked, stream = bench.watch("{}")
    stream.call.send(watched(1))
    asked.exchange.disconnect()
    assert stream.call.cancelled
    assert stream.happened[-1] == "closed"
    stream.call.send(watched(2))
    assert len(asked.outlet.parts) == 1


def test_a_client_that_does_not_read(bench: Bench) -> None:
    """`send` says so, the receiver hears when there is room, and no more of the body is handed on meanwhile."""
    asked, stream = bench.watch("{}" * MESSAGES_PER_TURN + "{}")
    assert stream.happened == [b""] * MESSAGES_PER_TURN
    asked.outlet.room = False
    assert not stream.call.send(watched(1))
    bench.loop.turn()
    assert len(stream.happened) == MESSAGES_PER_TURN
    asked.outlet.room = True
    asked.exchange.on_writable()
    assert stream.happened[MESSAGES_PER_TURN:] == ["writable", b"", "half closed"]
    assert stream.call.send(watched(2))


def test_a_long_body_is_handed_on_in_turns(bench: Bench) -> None:
    _, stream = bench.watch("{}" * (3 * MESSAGES_PER_TURN))
    for turns in (1, 2, 3):
        assert stream.happened.count(b"") == turns * MESSAGES_PER_TURN
        bench.loop.turn()
    assert stream.happened[-1] == "half closed"
    assert bench.loop.soon == []


def test_a_stream_that_ends_while_its_body_is_handed_on(bench: Bench) -> None:
    _, stream = bench.watch("{}" * (3 * MESSAGES_PER_TURN))
    stream.call.fail(Code.UNAVAILABLE, "")
    bench.loop.turn()
    assert stream.happened == [b""] * MESSAGES_PER_TURN + ["closed"]
    assert bench.loop.soon == []


# --- WebSockets ---------------------------------------------------------------------------------------------------


def messages(asked: Asked) -> list[Any]:
    return [json.loads(part) for part in asked.outlet.parts]


def test_a_stream_over_a_socket(bench: Bench) -> None:
    """H-28."""
    asked = bench.ask("/v3/watch", method="GET", socket=True)
    take = asked.outlet.on_text
    assert take is not None
    [stream] = bench.streams
    take("{}")
    take('{"progress_request":{}} {}')
    assert len(stream.happened) == 3
    assert "half closed" not in stream.happened
    stream.call.send(watched(1))
    assert messages(asked) == [{"result": {"watch_id": "1"}}]
    take("no json")
    assert messages(asked)[1]["error"]["code"] == 3
    assert asked.outlet.ended
    assert stream.happened[-1] == "closed"
    take("{}")
    assert stream.happened[-1] == "closed"


def test_one_call_over_a_socket(bench: Bench) -> None:
    asked = bench.ask("/v3/kv/put", method="GET", socket=True)
    take = asked.outlet.on_text
    assert take is not None
    take(f'{{"key":"{FOO}"}}')
    take(f'{{"key":"{FOO}"}}')
    [(call, _)] = bench.calls
    call.reply(reply())
    assert messages(asked) == [{}]
    assert asked.outlet.ended


@pytest.mark.parametrize(("path", "text"), [("/v3/kv/put", "{"), ("/v3/watch", "[]")])
def test_a_malformed_text(bench: Bench, path: str, text: str) -> None:
    asked = bench.ask(path, method="GET", socket=True)
    assert asked.outlet.on_text is not None
    asked.outlet.on_text(text)
    error = messages(asked)[0]
    assert error.get("error", error)["code"] == 3
    assert asked.outlet.ended


def test_a_token_as_a_subprotocol(bench: Bench) -> None:
    """What a browser can say where it cannot set a header."""
    asked = bench.ask("/v3/watch", method="GET", socket=True, sec_websocket_protocol="bearer, a.token")
    assert bench.streams[0].call.metadata("authorization") == "Bearer a.token"
    assert asked.outlet.protocol == "bearer"


def test_a_socket_that_is_refused(bench: Bench) -> None:
    asked = bench.ask("/v3/watch", method="GET", socket=True, grpc_metadata_client_api_version="\xff")
    assert messages(asked) == [{"error": {"code": 3, "message": "etcdserver: invalid client api version"}}]
    assert asked.outlet.ended
    assert bench.ask("/v3/watch?method=GET", method="GET", socket=True).answer()[0] == 501
    assert bench.ask("/v3/nothing", method="GET", socket=True).answer()[0] == 404


def test_a_client_that_sends_and_does_not_read(bench: Bench) -> None:
    asked = bench.ask("/v3/watch", method="GET", socket=True)
    take, [stream] = asked.outlet.on_text, bench.streams
    assert take is not None
    asked.outlet.room = False
    stream.call.send(watched(1))
    for _ in range(MAX_WAITING_TEXTS + 1):
        take("{}")
    assert stream.happened == ["closed"]
    assert messages(asked)[-1]["error"]["code"] == Code.RESOURCE_EXHAUSTED
