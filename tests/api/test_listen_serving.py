"""A whole member and the URLs it listens on: which of them serves what (H-01, H-04, H-08)."""

import http.client
import json
from collections.abc import Iterator
from typing import NamedTuple

import grpc
import pytest
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, Server, free_port

from raftkv.pb import rpc_pb2

PAGES = ("/health", "/livez", "/readyz", "/version")


class Split(NamedTuple):
    server: Server
    http_port: int
    metrics_port: int


@pytest.fixture(scope="module", params=["native", "grpcio"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """A member with all three kinds of URL; its pages are for kv.example and https://ui.example alone."""
    http_port, metrics_port = free_port(), free_port()
    flags = (
        f"--rpc-server={request.param}",
        f"--listen-client-http-urls=http://127.0.0.1:{http_port}",
        f"--listen-metrics-urls=http://127.0.0.1:{metrics_port}",
        "--host-whitelist=kv.example",
        "--cors=https://ui.example",
    )
    server = Server(RAFTKV, tmp_path_factory.mktemp("split"), flags)
    try:
        yield Split(server.start(), http_port, metrics_port)
    finally:
        server.stop()


def get(port: int, path: str, host: str = "kv.example") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"host": host, "origin": "https://ui.example"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def put(endpoint: str) -> None:
    with connect(endpoint) as channel:
        Calls(channel).KV.Put(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=20)


def test_one_port_for_all(raftkv_server: Server) -> None:
    """H-01, H-07."""
    put(raftkv_server.endpoint)
    for path in ("/health", "/version"):
        assert get(raftkv_server.client_port, path, host="any.example").status == 200


def test_client_urls_serve_grpc_only(split: Split) -> None:
    """H-04."""
    put(split.server.endpoint)
    try:
        assert get(split.server.client_port, "/health").status == 404
    except (http.client.HTTPException, OSError):
        pass  # grpcio does not even speak HTTP/1.1


def test_http_urls_serve_pages_only(split: Split) -> None:
    """H-04, with H-09 and H-10 at work."""
    for path in PAGES:
        response = get(split.http_port, path)
        assert (response.status, response.headers["access-control-allow-origin"]) == (
            200,
            "https://ui.example",
        )
        assert get(split.http_port, path, host="evil.example").status == 421
    with pytest.raises(grpc.RpcError) as caught:
        put(f"127.0.0.1:{split.http_port}")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metrics_urls_serve_probes_only(split: Split) -> None:
    """H-08. The host check is not for probes."""
    answers = {path: get(split.metrics_port, path, host="127.0.0.1").status for path in (*PAGES, "/metrics")}
    assert answers == {"/health": 200, "/livez": 200, "/readyz": 200, "/version": 404, "/metrics": 200}


def test_port_0_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The log names the port that the system chose."""
    flags = ("--listen-metrics-urls=http://127.0.0.1:0", "--log-format=json")
    server = Server(RAFTKV, tmp_path_factory.mktemp("port0"), flags)
    try:
        server.start()
        [line] = [line for line in server.log_text().splitlines() if "ready to serve" in line]
        urls = json.loads(line)
        assert urls["client_urls"] == [f"http://{server.endpoint}"]
        [url] = urls["metrics_urls"]
        port = int(url.rpartition(":")[2])
        assert get(port, "/readyz").status == 200
    finally:
        server.stop()
