"""grpc.testing.TestService, which gRPC's interoperability tests call, on raftkv's kind of services.

Owns the service and its messages, compiled when first asked for. Knows no server and no client.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

from raftkv.rpc.codes import Code
from raftkv.rpc.service import Call, Routes, Service, build_routes

_PROTO: Final = Path(__file__).parent / "interop" / "testing.proto"
SERVICE: Final = "grpc.testing.TestService"


@cache
def messages() -> dict[str, Any]:
    """Name without its package -> class. In a pool of its own: other packages bring messages of these names too."""
    with tempfile.NamedTemporaryFile() as out:
        arguments = [f"--proto_path={_PROTO.parent}", f"--descriptor_set_out={out.name}", _PROTO.name]
        assert protoc.main(["protoc", *arguments]) == 0, "testing.proto does not compile"
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read()).file
    classes = message_factory.GetMessages(files, descriptor_pool.DescriptorPool())
    return {name.rpartition(".")[2]: each for name, each in classes.items()}


def routes() -> Routes:
    service = Service(SERVICE)
    service.unary("EmptyCall", lambda call, message: call.reply(b""))
    service.unary("UnaryCall", _unary_call)
    service.server_stream("StreamingOutputCall", Output)
    service.bidi("StreamingInputCall", Input)
    service.bidi("FullDuplexCall", Output)
    return build_routes([service])


def _unary_call(call: Call, message: bytes) -> None:
    request = messages()["SimpleRequest"].FromString(message)
    if request.response_status.code:
        _fail(call, request)
        return
    reply = messages()["SimpleResponse"](payload=_payload(request.response_size))
    if request.fill_server_id:
        reply.server_id = "the only one"
    call.reply(reply.SerializeToString())


class Output:
    """Answers each request with as many payloads as it asks for, at once: `interval_us` is not waited for."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def on_message(self, message: bytes) -> None:
        request = messages()["StreamingOutputCallRequest"].FromString(message)
        if request.response_status.code:
            _fail(self._call, request)
            return
        for each in request.response_parameters:
            self._call.send(messages()["StreamingOutputCallResponse"](payload=_payload(each.size)).SerializeToString())

    def on_half_close(self) -> None:
        self._call.finish()

    def on_closed(self) -> None: ...

    def on_writable(self) -> None: ...


class Input:
    """Counts the bytes of all payloads, and says how many there were."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._size_bytes = 0

    def on_message(self, message: bytes) -> None:
        self._size_bytes += len(messages()["StreamingInputCallRequest"].FromString(message).payload.body)

    def on_half_close(self) -> None:
        reply = messages()["StreamingInputCallResponse"](aggregated_payload_size=self._size_bytes)
        self._call.send(reply.SerializeToString())
        self._call.finish()

    def on_closed(self) -> None: ...

    def on_writable(self) -> None: ...


def _payload(size_bytes: int) -> Any:
    return messages()["Payload"](body=bytes(size_bytes))


def _fail(call: Call, request: Any) -> None:
    call.fail(Code(request.response_status.code), request.response_status.message)
