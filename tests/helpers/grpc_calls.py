"""Every call of the etcd v3 API on a grpcio channel, built from the services in raftkv's own messages.

Owns no request: `Calls(channel).KV.Put(rpc_pb2.PutRequest(...))` is grpcio's callable as it comes.
"""

from typing import Any, Final

import grpc
from google.protobuf import message_factory

from helpers.endpoints import open_channel
from raftkv.pb import election_pb2, lock_pb2, rpc_pb2

_FILES: Final = (rpc_pb2, lock_pb2, election_pb2)

# Answers may be large (LIM-04), and a server that was killed is back within a second.
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)


class Service:
    """One gRPC service; its methods are attributes under their own names, e.g. `.Put(request, timeout=5)`."""

    def __init__(self, channel: Any, descriptor: Any) -> None:
        for method in descriptor.methods:
            arity = (
                f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
            )
            call = getattr(channel, arity)(
                f"/{descriptor.full_name}/{method.name}",
                request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no method {name} in this service")


class Calls:
    """All services on one channel (grpc.Channel or grpc.aio.Channel)."""

    KV: Service
    Watch: Service
    Lease: Service
    Cluster: Service
    Maintenance: Service
    Auth: Service
    Lock: Service
    Election: Service

    def __init__(self, channel: Any) -> None:
        for file in _FILES:
            for name, descriptor in file.DESCRIPTOR.services_by_name.items():
                setattr(self, name, Service(channel, descriptor))


def connect(endpoint: str) -> grpc.Channel:
    return open_channel(endpoint, CHANNEL_OPTIONS)
