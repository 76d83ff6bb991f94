"""The JSON gateway between an HTTP exchange and the handlers of gRPC: single calls (H-20 to H-32, G-25)."""

from __future__ import annotations

import base64
import json

import pytest
from gateway_support import FOO, Bench, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.api import gateway_call
from raftkv.api.gateway_call import HTTP_STATUS
from raftkv.api.gateway_paths import BINDINGS
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.rpc.codes import Code


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- unary --------------------------------------------------------------------------------------------------------


def test_a_call_and_its_answer(bench: Bench) -> None:
    """H-26, H-32."""
    asked, call = bench.put()
    assert rpc_pb2.PutRequest.FromString(bench.calls[0][1]) == rpc_pb2.PutRequest(key=b"foo")
    assert (call.peer, call.cancelled, call.deadline) == ("peer:1", False, None)
    assert asked.answers == []
    call.reply(reply(header=rpc_pb2.ResponseHeader(cluster_id=2**63, revision=2)))
    call.reply(reply())
    call.fail(Code.INTERNAL, "too late")
    assert asked.answer() == (200, {"header": {"cluster_id": str(2**63), "revision": "2"}})
    counts = bench.stats.methods[b"/etcdserverpb.KV/Put"]
    assert (counts.started, counts.sent, counts.handled[Code.OK]) == (1, 1, 1)


@pytest.mark.parametrize("body", ["", " \n", "{}"])
def test_an_empty_body_is_an_empty_object(bench: Bench, body: str) -> None:
    """H-21."""
    bench.ask("/v3/kv/put", body)
    assert bench.calls[0][1] == b""


def test_what_follows_the_object_is_not_looked_at(bench: Bench) -> None:
    bench.ask("/v3/kv/put", f'{{"key":"{FOO}"}} more')
    assert len(bench.calls) == 1


@pytest.mark.parametrize("path", ["/v3/kv/put", "/v3beta/kv/put", "/v3/kv/put?key=x"])
def test_paths_that_are_the_same(bench: Bench, path: str) -> None:
    """H-23."""
    bench.ask(path, "{}")
    assert len(bench.calls) == 1


@pytest.mark.parametrize("path", ["/v3/", "/v3/kv", "/v3/kv/put/", "/v3/kv/Put", "/v3/kv/nothing", "/v3beta/v3/kv/put"])
def test_a_path_that_nobody_serves(bench: Bench, path: str) -> None:
    assert bench.ask(path).answer() == (404, {"code": 5, "message": "Not Found"})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods_are_refused(bench: Bench, method: str) -> None:
    """H-21."""
    assert bench.ask("/v3/kv/put", method=method).answer() == (501, {"code": 12, "message": "Method Not Allowed"})


@pytest.mark.parametrize("path", ["/v3/kv/put", "/v3/watch", "/v3/maintenance/snapshot"])
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"key":', b"\xff\xfe{\x00}\x00"])
def test_a_body_that_is_no_object(bench: Bench, path: str, body: bytes) -> None:
    """H-31: also of a stream, where etcd answers nothing or an empty 200."""
    status, error = bench.ask(path, body).answer()
    assert (status, error["code"]) == (400, Code.INVALID_ARGUMENT)
    assert bench.calls == bench.streams == []


def test_a_message_that_is_too_large(bench: Bench) -> None:
    """LIM-03."""
    body = json.dumps({"value": base64.b64encode(bytes(1000)).decode()})
    status, error = bench.ask("/v3/kv/put", body).answer()
    assert (status, error["message"]) == (429, "grpc: received message larger than max (1003 vs. 1000)")
    assert bench.calls == []


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_errors(bench: Bench, code: Code) -> None:
    """H-30."""
    asked, call = bench.put()
    call.fail(code, 'a "text"')
    assert asked.answer() == (HTTP_STATUS[code], {"code": code, "message": 'a "text"'})
    assert ("www-authenticate" in asked.answers[0][1]) == (asked.answers[0][0] == 401)


def test_every_code_has_its_status() -> None:
    """H-30."""
    by_status: dict[int, set[int]] = {}
    for code, status in HTTP_STATUS.items():
        by_status.setdefault(status, set()).add(code)
    assert by_status == {
        200: {0},
        499: {1},
        500: {2, 13, 15},
        400: {3, 9, 11},
        504: {4},
        404: {5},
        409: {6, 10},
        403: {7},
        401: {16},
        429: {8},
        501: {12},
        503: {14},
    }


def test_a_handler_that_raises(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.ask("/v3/kv/range").answer() == (500, {"code": 13, "message": "internal error"})
    assert "handler raised" in caplog.text


def test_a_client_that_goes(bench: Bench) -> None:
    asked, call = bench.put()
    happened: list[str] = []
    call.when_closed(lambda: happened.append("closed"))
    asked.exchange.disconnect()
    assert call.cancelled
    assert happened == ["closed"]
    call.reply(reply())
    assert asked.answers == []
    assert bench.stats.methods[b"/etcdserverpb.KV/Put"].handled[Code.CANCELLED] == 1
    late: list[str] = []
    call.when_closed(lambda: late.append("closed"))
    assert late == ["closed"]


def test_an_answered_call_is_not_told_of_its_end(bench: Bench) -> None:
    asked, call = bench.put()
    call.when_closed(lambda: pytest.fail("it was answered"))
    call.reply(reply())
    asked.exchange.disconnect()


def test_a_deadline(bench: Bench) -> None:
    asked, call = bench.put(grpc_timeout="1500m")
    assert call.deadline == 101.5
    [(delay_s, expire)] = bench.loop.timers
    assert delay_s == 1.5
    expire()
    assert call.cancelled
    assert asked.answer() == (504, {"code": 4, "message": "context deadline exceeded"})


def test_a_deadline_that_was_kept(bench: Bench) -> None:
    _, call = bench.put(grpc_timeout="1S")
    call.reply(reply())
    assert bench.loop.timers == []


def test_a_deadline_that_is_none(bench: Bench) -> None:
    error = {"code": 3, "message": "invalid grpc-timeout: soon"}
    assert bench.ask("/v3/kv/put", grpc_timeout="soon").answer() == (400, error)


def test_a_long_reply_is_written_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work goes on meanwhile."""
    monkeypatch.setattr(gateway_call, "SLICE_S", 0.0)
    monkeypatch.setitem(BINDINGS, "/v3/kv/put", BINDINGS["/v3/kv/put"]._replace(response=rpc_pb2.RangeResponse))  # type: ignore[arg-type]  # a dict
    asked, call = bench.put()
    kvs = [kv_pb2.KeyValue(key=b"%d" % number, value=bytes(100)) for number in range(2000)]
    call.reply(rpc_pb2.RangeResponse(kvs=kvs, count=2000).SerializeToString())
    [task] = bench.tasks
    assert task.step()
    assert asked.answers == []
    monkeypatch.setattr(gateway_call, "SLICE_S", 10.0)
    assert not task.step()
    status, body = asked.answer()
    assert (status, body["count"], len(body["kvs"])) == (200, "2000", 2000)


def test_a_long_reply_that_nobody_waits_for(bench: Bench) -> None:
    asked, call = bench.put()
    call.reply(reply(prev_kv=kv_pb2.KeyValue(value=bytes(100_000))))
    asked.exchange.disconnect()
    assert not bench.tasks[0].step()


# --- metadata -----------------------------------------------------------------------------------------------------


def test_headers_become_metadata(bench: Bench) -> None:
    """H-29; the first of a name counts."""
    _, call = bench.put(
        authorization="a token", grpc_metadata_hasleader="true", grpc_metadata_x_bin="/w", other="not this"
    )
    assert call.metadata("authorization") == "a token"
    assert call.metadata("hasleader") == "true"
    assert call.metadata("x-bin") == "\udcff"
    assert call.metadata("other") is None


def test_a_call_that_came_through_the_gateway_says_so(bench: Bench) -> None:
    """G-25: with or without the header Accept. Nobody is known by a certificate here."""
    _, call = bench.put()
    assert call.metadata("grpcgateway-accept") == ""
    _, call = bench.put(accept="application/json", grpc_metadata_grpcgateway_accept="x")
    assert call.metadata("grpcgateway-accept") == "application/json"
    assert call.tls_common_name is None


@pytest.mark.parametrize(("verified", "auth"), [(True, True), (True, False), (False, True)])
def test_who_would_be_known_by_a_certificate_over_grpc_is_told(bench: Bench, verified: bool, auth: bool) -> None:
    """AU-62: if both are on."""
    bench.node.config.client_tls.client_cert_auth, bench.node.auth.enabled = verified, auth
    asked = bench.ask("/v3/kv/put", f'{{"key":"{FOO}"}}')
    if verified and auth:
        [(status, headers, body)] = asked.answers
        assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
        assert b"/v3/auth/authenticate" in body
    assert bool(bench.calls) == (not (verified and auth))


def test_metadata_that_is_no_text_is_refused(bench: Bench) -> None:
    """G-24."""
    status, error = bench.ask("/v3/kv/put", grpc_metadata_client_api_version="\xff").answer()
    assert (status, error["message"]) == (400, "etcdserver: invalid client api version")
    assert bench.ask("/v3/kv/put", grpc_metadata_x_bin="?").answer()[0] == 400
    bench.ask("/v3/kv/put", grpc_metadata_client_api_version="3.\xc3\xa9")
    assert bench.calls[0][0].metadata("client-api-version") == "3.\u00e9"


# --- whatever comes -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    path=st.sampled_from(["/v3/kv/put", "/v3/watch", "/v3/maintenance/snapshot", "/v3/kv/range", "/v3/x", "/v3beta/"])
    | st.text(max_size=20).map(lambda text: f"/v3/{text}"),
    body=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0e1tf -_request', max_size=60).map(str.encode),
    socket=st.booleans(),
    header=st.sampled_from(
        ["authorization", "grpc_timeout", "grpc_metadata_x_bin", "sec_websocket_protocol", "accept"]
    ),
    value=st.text(alphabet=[chr(code) for code in range(32, 256)], max_size=10),
)
def test_any_request_is_answered_or_reaches_a_handler(
    path: str, body: bytes, socket: bool, header: str, value: str
) -> None:
    bench = Bench()
    asked = bench.ask(path, body, socket=socket, **{header: value})
    if asked.outlet.on_text is not None:
        asked.outlet.on_text(body.decode("latin-1"))
    bench.loop.turn()
    taken = bench.calls or bench.streams or asked.outlet.on_text
    assert bool(asked.answers) != bool(taken)
