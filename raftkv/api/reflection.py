"""grpc.reflection.v1 and v1alpha: which services there are, and what their messages look like, for tools like grpcurl.

Off unless asked for (--enable-grpc-reflection), for etcd has none (G-01). Owns a pool with the files of what is served
and nothing else. The two versions differ in nothing but their package, so one set of messages serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from raftkv.api.errors import STOPPED, TOO_MANY_REQUESTS, Status, refuse
from raftkv.pb import reflection_pb2
from raftkv.pb.pool import POOL
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call

_V1: Final = "grpc.reflection.v1"
_V1ALPHA: Final = "grpc.reflection.v1alpha"
_NO_QUESTION: Final = Status(Code.INVALID_ARGUMENT, "a reflection request must ask for something")

Request: TypeAlias = reflection_pb2.ServerReflectionRequest
Response: TypeAlias = reflection_pb2.ServerReflectionResponse


class Reflection:
    def __init__(self, context: ApiContext, services: Iterable[str]) -> None:
        """services: full names of the others that are served; each is declared in one of our protos."""
        self._context = context
        self._own = [f"{package}.ServerReflection" for package in (_V1, _V1ALPHA)]
        self._names = [*services, *self._own]
        self._files = _files_of(self._names)
        self._streams: dict[ReflectionStream, None] = {}

    def services(self) -> list[Service]:
        return [Service(name).bidi("ServerReflectionInfo", self._open) for name in self._own]

    def end_streams(self) -> None:
        for stream in list(self._streams):
            stream.end(STOPPED)

    def _open(self, call: Call) -> ReflectionStream:
        stream = ReflectionStream(self._context, call, self._names, self._files, self._streams.pop)
        self._streams[stream] = None
        return stream


def _files_of(services: Iterable[str]) -> DescriptorPool:
    """The files in which they are declared, with all that these import."""
    pool = DescriptorPool()
    pool.AddSerializedFile(_v1alpha().SerializeToString())
    added = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in added:
            added.add(file.name)
            for imported in file.dependencies:
                add(imported)
            pool.AddSerializedFile(file.serialized_pb)

    for name in services:
        if not name.startswith(_V1ALPHA):
            add(POOL.FindFileContainingSymbol(name))
    return pool


def _v1alpha() -> FileDescriptorProto:
    """The file of v1 in the other package."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = "reflection_v1alpha.proto", _V1ALPHA
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _moved(field.type_name)
    for method in file.service[0].method:
        method.input_type, method.output_type = _moved(method.input_type), _moved(method.output_type)
    return file


def _moved(type_name: str) -> str:
    return type_name.replace(f".{_V1}.", f".{_V1ALPHA}.")


class ReflectionStream:
    """Each request is one answer, in order."""

    __slots__ = ("_call", "_context", "_files", "_forget", "_names", "_sent")

    def __init__(
        self,
        context: ApiContext,
        call: Call,
        names: list[str],
        files: DescriptorPool,
        forget: Callable[[ReflectionStream, None], object],
    ) -> None:
        self._context = context
        self._call = call
        self._names = names
        self._files = files
        self._forget = forget
        self._sent: set[str] = set()
        """Files that the client has: it is not sent one again because another imports it."""

    def end(self, status: Status) -> None:
        refuse(self._call, status)

    def on_message(self, message: bytes) -> None:
        request = self._context.parse(self._call, Request.FromString, message)
        if request is None:
            return
        asked = request.WhichOneof("message_request")
        if asked is None:
            refuse(self._call, _NO_QUESTION)
            return
        response = Response(valid_host=request.host, original_request=request)
        try:
            _ANSWERS[asked](self, request, response)
        except KeyError as unknown:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = str(unknown.args[0])
        if not self._call.send(response.SerializeToString()):
            refuse(self._call, TOO_MANY_REQUESTS)  # it asks without reading

    def on_half_close(self) -> None:
        self._call.finish()

    def on_closed(self) -> None:
        self._forget(self, None)

    def on_writable(self) -> None: ...

    # --- each fills the response, or raises KeyError ------------------------------------------------------------------

    def list_services(self, _request: Request, response: Response) -> None:
        for name in self._names:
            response.list_services_response.service.add(name=name)

    def file_by_name(self, request: Request, response: Response) -> None:
        self._send_file(self._files.FindFileByName(request.file_by_filename), response)

    def file_of_symbol(self, request: Request, response: Response) -> None:
        name = request.file_containing_symbol
        try:
            file = self._files.FindFileContainingSymbol(name)
        except KeyError:  # methods are not among the symbols of a pool
            file = self._files.FindMethodByName(name).containing_service.file
        self._send_file(file, response)

    def file_of_extension(self, request: Request, _response: Response) -> None:
        """Nothing of ours extends anything."""
        wanted = request.file_containing_extension
        raise KeyError(f"{wanted.containing_type} has no extension {wanted.extension_number}")

    def extensions_of(self, request: Request, response: Response) -> None:
        name = request.all_extension_numbers_of_type
        response.all_extension_numbers_response.base_type_name = self._files.FindMessageTypeByName(name).full_name

    def _send_file(self, file: FileDescriptor, response: Response) -> None:
        """With what it imports, as far as the client has not got it; the file itself in any case."""
        response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        self._sent.add(file.name)
        for imported in file.dependencies:
            if imported.name not in self._sent:
                self._send_file(imported, response)


_ANSWERS: Final[Mapping[str, Callable[[ReflectionStream, Request, Response], None]]] = {
    "list_services": ReflectionStream.list_services,
    "file_by_filename": ReflectionStream.file_by_name,
    "file_containing_symbol": ReflectionStream.file_of_symbol,
    "file_containing_extension": ReflectionStream.file_of_extension,
    "all_extension_numbers_of_type": ReflectionStream.extensions_of,
}
