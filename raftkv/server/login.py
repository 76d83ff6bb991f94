"""Logging in, as a client, to an etcd or raftkv with authentication on (AU-41)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.rpc.channel import Channel

_AUTHENTICATE: Final = b"/etcdserverpb.Auth/Authenticate"


async def log_in(channel: Channel, user: str, password: str, timeout_s: float) -> str:
    """The token for the metadata of later calls. Raises RpcError, DecodeError for what is no answer."""
    request = rpc_pb2.AuthenticateRequest(name=user, password=password)
    answer = await channel.unary_future(_AUTHENTICATE, request.SerializeToString(), timeout_s)
    return rpc_pb2.AuthenticateResponse.FromString(answer).token
