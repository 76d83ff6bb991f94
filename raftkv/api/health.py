"""grpc.health.v1.Health: the empty service name is SERVING, every other is unknown (G-02)."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.api.errors import STOPPED, Status, refuse
from raftkv.pb import health_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.service import Call, Service

_Status = health_pb2.HealthCheckResponse


class Health:
    def __init__(self) -> None:
        self._streams: dict[HealthWatch, None] = {}

    def service(self) -> Service:
        return Service("grpc.health.v1.Health").unary("Check", self.check).server_stream("Watch", self.watch)

    def watch(self, call: Call) -> HealthWatch:
        stream = HealthWatch(call, self._streams.pop)
        self._streams[stream] = None
        return stream

    def end_streams(self) -> None:
        for stream in list(self._streams):
            stream.end(STOPPED)

    def check(self, call: Call, message: bytes) -> None:
        try:
            request = health_pb2.HealthCheckRequest.FromString(message)
        except Exception as damage:
            call.fail(Code.INTERNAL, f"grpc: error unmarshalling request: {damage}")
            return
        if request.service:
            call.fail(Code.NOT_FOUND, "unknown service")
        else:
            call.reply(_Status(status=_Status.SERVING).SerializeToString())


class HealthWatch:
    """One status at once, and the stream stays open: the status does not change while the node serves."""

    def __init__(self, call: Call, forget: Callable[[HealthWatch, None], object]) -> None:
        self._call = call
        self._forget = forget

    def end(self, status: Status) -> None:
        refuse(self._call, status)

    def on_message(self, message: bytes) -> None:
        try:
            request = health_pb2.HealthCheckRequest.FromString(message)
        except Exception as damage:
            self._call.fail(Code.INTERNAL, f"grpc: error unmarshalling request: {damage}")
            return
        status = _Status.SERVICE_UNKNOWN if request.service else _Status.SERVING
        self._call.send(_Status(status=status).SerializeToString())

    def on_half_close(self) -> None: ...

    def on_closed(self) -> None:
        self._forget(self, None)

    def on_writable(self) -> None: ...
