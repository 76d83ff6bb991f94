"""The JSON gateway: streams line by line, and WebSockets (contract section 10.2: H-27, H-28)."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import pytest
from contract_gateway import TIMEOUT_S, Gateway, Lines, Socket, b64, raw
from helpers.processes import Server
from helpers.waiting import wait_until
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection

Opened = Callable[[Lines], Lines]

_SILENT: Final = "etcd answers nothing, or an empty 200, to a stream whose body is malformed"


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_watch(gateway: Gateway, key: bytes, opened: Opened) -> None:
    """H-27: it goes on when the body has ended."""
    lines = opened(gateway.stream("watch", json.dumps({"create_request": {"key": b64(key)}})))
    created = lines.result()
    assert created["created"] is True
    assert "watch_id" not in created
    assert lines.response.headers["transfer-encoding"] == "chunked"
    assert lines.response.headers["content-type"] == "application/json"
    for number in range(3):
        revision = gateway.put(key, b"%d" % number)["header"]["revision"]
        result = lines.result()
        [event] = result["events"]
        assert "type" not in event  # PUT is the default
        assert (raw(event["kv"]["value"]), event["kv"]["mod_revision"]) == (b"%d" % number, revision)
        assert result["header"]["revision"] == revision
    gateway("kv/deleterange", {"key": b64(key)})
    [event] = lines.result()["events"]
    assert event["type"] == "DELETE"


def test_a_watch_of_the_past(gateway: Gateway, key: bytes, opened: Opened) -> None:
    revision = gateway.put(key, b"1")["header"]["revision"]
    gateway.put(key, b"2")
    request = {"create_request": {"key": b64(key), "start_revision": revision, "prev_kv": True, "watch_id": "7"}}
    lines = opened(gateway.stream("watch", json.dumps(request)))
    assert lines.result()["watch_id"] == "7"
    events: list[Any] = []
    while len(events) < 2:
        events += lines.result()["events"]
    assert [raw(event["kv"]["value"]) for event in events] == [b"1", b"2"]
    assert raw(events[1]["prev_kv"]["value"]) == b"1"


def test_several_requests_in_one_body(gateway: Gateway, key: bytes, opened: Opened) -> None:
    """H-27: one behind the other, with or without blanks."""
    create = [{"create_request": {"key": b64(key + b"%d" % number), "watch_id": str(number)}} for number in (1, 2, 3)]
    body = json.dumps(create[0]) + json.dumps(create[1]) + "\n " + json.dumps(create[2])
    lines = opened(gateway.stream("watch", body))
    assert {lines.result()["watch_id"] for _ in create} == {"1", "2", "3"}
    gateway.put(key + b"2")
    assert lines.result()["watch_id"] == "2"


@pytest.mark.beyond_etcd("3.5.1 takes the negative revision for the next one")
def test_a_watch_that_is_refused(gateway: Gateway, opened: Opened) -> None:
    """W-22."""
    lines = opened(gateway.stream("watch", '{"create_request":{"key":"Zm9v","start_revision":"-1"}}'))
    result = lines.result()
    assert (result["watch_id"], result["created"], result["canceled"]) == ("-1", True, True)
    assert result["cancel_reason"] == "etcdserver: mvcc: required revision has been compacted"


def test_lease_keep_alive(gateway: Gateway, opened: Opened) -> None:
    """H-27: an answer to each object, and then the stream ends."""
    lease = gateway("lease/grant", {"TTL": "100"})["ID"]
    lines = opened(gateway.stream("lease/keepalive", f'{{"ID":"{lease}"}}{{"ID":{lease}}}{{"ID":"5"}}'))
    first, second, unknown = (line["result"] for line in lines.rest())
    for result in (first, second):
        assert (result["ID"], result["TTL"], set(result)) == (lease, "100", {"header", "ID", "TTL"})
    assert (unknown["ID"], "TTL" in unknown) == ("5", False)
    assert opened(gateway.stream("lease/keepalive", "")).rest() == []


def test_snapshot(gateway: Gateway, key: bytes, opened: Opened) -> None:
    gateway.put(key, bytes(100_000))
    results = [line["result"] for line in opened(gateway.stream("maintenance/snapshot", "{}")).rest()]
    assert "remaining_bytes" not in results[-1]
    size_bytes = sum(len(raw(result["blob"])) for result in results)
    assert size_bytes > 100_000
    assert len(results) > 1


@pytest.mark.beyond_etcd(_SILENT)
@pytest.mark.parametrize("path", ["watch", "lease/keepalive", "maintenance/snapshot", "election/observe"])
def test_a_stream_with_a_malformed_body(gateway: Gateway, path: str) -> None:
    """H-31."""
    assert gateway.refused(path, "{")[:2] == (400, 3)


@pytest.mark.beyond_etcd(_SILENT)
def test_a_malformed_object_behind_another(gateway: Gateway, opened: Opened) -> None:
    """H-27, H-31."""
    created, error = opened(gateway.stream("watch", '{"create_request":{"key":"Zm9v"}}{"create_request":5}')).rest()
    assert created["result"]["created"] is True
    assert error["error"]["code"] == 3


def test_a_client_that_goes_ends_its_watch(gateway_server: Server, gateway: Gateway, key: bytes) -> None:
    """Its connection and its watcher go with it: the server can be asked as often as one likes."""

    def open_files() -> int:
        return len(os.listdir(f"/proc/{gateway_server.pid}/fd"))

    before = open_files()
    streams = [gateway.stream("watch", json.dumps({"create_request": {"key": b64(key)}})) for _ in range(50)]
    for lines in streams:
        assert lines.result()["created"] is True
    assert open_files() >= before + 40  # a connection of an earlier test may have been open still
    for lines in streams:
        lines.close()
    wait_until("they are gone", lambda: open_files() <= before + 5)


def test_a_slow_reader_loses_nothing(gateway: Gateway, key: bytes, opened: Opened) -> None:
    """W-90: also through the gateway; others go on meanwhile."""
    slow = opened(gateway.stream("watch", json.dumps({"create_request": {"key": b64(key)}})))
    assert slow.result()["created"] is True
    with closing(http.client.HTTPConnection(gateway.endpoint, timeout=TIMEOUT_S)) as connection:
        for number in range(150):
            request = {"key": b64(key), "value": b64(b"%d " % number + bytes(100_000))}
            connection.request("POST", "/v3/kv/put", json.dumps(request))
            assert connection.getresponse().read()
    seen: list[int] = []
    while len(seen) < 150:
        seen += [int(raw(event["kv"]["value"]).split(b" ")[0]) for event in slow.result()["events"]]
    assert seen == list(range(150))


def test_many_requests_on_one_connection(gateway: Gateway, key: bytes) -> None:
    with closing(http.client.HTTPConnection(gateway.endpoint, timeout=TIMEOUT_S)) as connection:
        local = None
        for number in range(50):
            request = {"key": b64(key), "value": b64(b"%d" % number)}
            connection.request("POST", "/v3/kv/put", json.dumps(request))
            assert connection.getresponse().read()
            assert local in (None, connection.sock)
            local = connection.sock
    assert gateway("kv/range", {"key": b64(key)})["kvs"][0]["version"] == "50"


@pytest.mark.beyond_etcd("the gateway of etcd may see first that its call was reset")
def test_a_deadline(gateway: Gateway, opened: Opened) -> None:
    assert gateway.refused("kv/range", {"key": "Zm9v"}, grpc_timeout="soon")[:2] == (400, 3)
    lines = opened(gateway.stream("watch", '{"create_request":{"key":"Zm9v"}}', grpc_timeout="500m"))
    assert lines.result()["created"] is True
    [last] = lines.rest()
    assert last["error"]["message"] == "context deadline exceeded"


# --- WebSockets ---------------------------------------------------------------------------------------------------


def test_a_watch_over_a_web_socket(gateway_server: Server, gateway: Gateway, key: bytes) -> None:
    """H-28: each text is an object, both ways."""
    with closing(Socket(gateway_server, "watch")) as watch:
        assert isinstance(watch.opening, AcceptConnection)
        watch.send({"create_request": {"key": b64(key + b"1")}})
        assert watch.message()["result"]["created"] is True
        gateway.put(key + b"1")
        assert watch.message()["result"]["events"]
        # It goes both ways: another request, after answers have come.
        watch.send({"create_request": {"key": b64(key + b"2"), "watch_id": "9"}})
        assert watch.message()["result"]["watch_id"] == "9"
        gateway.put(key + b"2")
        assert watch.message()["result"]["watch_id"] == "9"


def test_keep_alives_over_a_web_socket(gateway_server: Server, gateway: Gateway) -> None:
    """H-28."""
    lease = gateway("lease/grant", {"TTL": "100"})["ID"]
    with closing(Socket(gateway_server, "lease/keepalive")) as keep_alive:
        for _ in range(3):
            keep_alive.send({"ID": lease})
            assert keep_alive.message()["result"]["TTL"] == "100"


@pytest.mark.beyond_etcd("3.5.1 answers when the client says goodbye")
def test_a_call_over_a_web_socket(gateway_server: Server, key: bytes) -> None:
    """H-28."""
    with closing(Socket(gateway_server, "kv/put")) as call:
        call.send({"key": b64(key)})
        assert call.message()["header"]
        assert isinstance(call.event(), CloseConnection)


def test_a_web_socket_to_nowhere(gateway_server: Server) -> None:
    with closing(Socket(gateway_server, "nothing")) as nothing:
        assert isinstance(nothing.opening, RejectConnection | AcceptConnection | CloseConnection)
        if isinstance(nothing.opening, RejectConnection):
            assert nothing.opening.status_code == 404


def test_after_all_this_the_member_is_well(gateway_server: Server, gateway: Gateway) -> None:
    """No handler raised, and what is asked is answered at once."""
    asked = time.monotonic()
    gateway.put(b"well")
    assert time.monotonic() - asked < 5
    assert "handler raised" not in gateway_server.log_text()
