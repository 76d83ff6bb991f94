"""Server reflection, which etcd does not have (G-01): off by default, and with the flag what grpcurl needs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from contract_support import TIMEOUT_S, Client, Code, Stream, refused
from helpers import go_build
from helpers.processes import Program, Server

from raftkv.pb import reflection_pb2

_SOURCES: Final = Path(__file__).parent / "grpcurl"
_PACKAGE: Final = "github.com/fullstorydev/grpcurl/cmd/grpcurl"
_VERSIONS: Final = ("v1", "v1alpha")
_SERVICES: Final = {
    *(f"etcdserverpb.{name}" for name in ("KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth")),
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
    *(f"grpc.reflection.{version}.ServerReflection" for version in _VERSIONS),
}
Request = reflection_pb2.ServerReflectionRequest


@pytest.fixture(scope="module", params=["native", "grpcio"])
def open_server(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if subject_program.kind == "etcd":
        pytest.skip("etcd has no server reflection")
    flags = ["--enable-grpc-reflection", f"--rpc-server={request.param}"]
    server = Server(subject_program, tmp_path_factory.mktemp("reflection"), flags)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def open_client(open_server: Server, connected: Callable[[Server], Client]) -> Client:
    return connected(open_server)


def _stream(client: Client, version: str = "v1") -> Stream:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    response = reflection_pb2.ServerReflectionResponse.FromString
    return Stream(client.channel.stream_stream(path, Request.SerializeToString, response))


@pytest.mark.parametrize("version", _VERSIONS)
def test_g_01_off_by_default(client: Client, version: str) -> None:
    unknown = (Code.UNIMPLEMENTED, f"unknown service grpc.reflection.{version}.ServerReflection")
    with _stream(client, version) as stream, refused(unknown):
        stream.send(Request(list_services="*"))
        stream.next()


@pytest.mark.parametrize("version", _VERSIONS)
def test_all_that_may_be_asked(open_client: Client, version: str) -> None:
    with _stream(open_client, version) as stream:

        def ask(**question: Any) -> Any:
            request = Request(host="somewhere", **question)
            stream.send(request)
            answer = stream.next()
            assert (answer.valid_host, answer.original_request) == ("somewhere", request)
            return answer

        def files(**question: Any) -> list[str]:
            found = ask(**question).file_descriptor_response.file_descriptor_proto
            return [
                name for each in found for name in ("rpc.proto", "auth.proto", "kv.proto") if name.encode() in each[:20]
            ]

        def refusal(**question: Any) -> int:
            return int(ask(**question).error_response.error_code)

        assert {each.name for each in ask(list_services="*").list_services_response.service} == _SERVICES
        assert files(file_containing_symbol="etcdserverpb.KV") == ["rpc.proto", "auth.proto", "kv.proto"]
        # What the client has is not sent again, unless it asks for just that.
        assert files(file_containing_symbol="etcdserverpb.PutRequest.key") == ["rpc.proto"]
        assert files(file_containing_symbol="etcdserverpb.KV.Put") == ["rpc.proto"]
        assert files(file_by_filename="kv.proto") == ["kv.proto"]
        none = ask(all_extension_numbers_of_type="mvccpb.KeyValue").all_extension_numbers_response
        assert (none.base_type_name, list(none.extension_number)) == ("mvccpb.KeyValue", [])
        extension = reflection_pb2.ExtensionRequest(containing_type="mvccpb.KeyValue", extension_number=100)
        for question in (
            {"file_containing_symbol": "etcdserverpb.Nothing"},
            {"file_containing_symbol": ""},
            {"file_by_filename": "peer.proto"},  # what members say to one another is not served here
            {"all_extension_numbers_of_type": "x"},
            {"file_containing_extension": extension},
        ):
            assert refusal(**question) == Code.NOT_FOUND.value[0]


def test_requests_that_ask_for_nothing(open_client: Client) -> None:
    with (
        _stream(open_client) as stream,
        refused((Code.INVALID_ARGUMENT, "a reflection request must ask for something")),
    ):
        stream.send(Request())
        stream.next()


def test_er_03_streams_end_with_the_server(open_server: Server, open_client: Client) -> None:
    with _stream(open_client) as stream:
        stream.send(Request(list_services="*"))
        stream.next()
        open_server.terminate()
        with refused((Code.UNAVAILABLE, "etcdserver: server stopped")):
            stream.next()
    open_server.start()


# --- grpcurl ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def grpcurl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("grpcurl") / "grpcurl"
    return go_build.build(
        "grpcurl", _SOURCES, _PACKAGE, program, tmp_path_factory.getbasetemp().parent / "grpcurl.lock"
    )


def test_grpcurl_knows_what_to_call(grpcurl: Path, open_server: Server) -> None:
    def run(*words: str, data: str | None = None) -> str:
        command = [str(grpcurl), "-plaintext", *([] if data is None else ["-d", data]), open_server.endpoint, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert set(run("list").split()) == _SERVICES
    assert "etcdserverpb.KV.Put" in run("list", "etcdserverpb.KV").split()
    assert "rpc Put ( .etcdserverpb.PutRequest )" in run("describe", "etcdserverpb.KV.Put")
    for service in _SERVICES:
        run("describe", service)
    run("etcdserverpb.KV/Put", data='{"key": "Z3JwY3VybA==", "value": "eA=="}')
    [found] = json.loads(run("etcdserverpb.KV/Range", data='{"key": "Z3JwY3VybA=="}'))["kvs"]
    assert (found["key"], found["value"]) == ("Z3JwY3VybA==", "eA==")
