"""How the endpoints of servers under test are reached: in plain text, unless a test has said with which certificates.

So the clients, loads and checks of all tests work over TLS without knowing of it.
"""

from collections.abc import Sequence
from typing import Any, Final

import grpc

_credentials: Final[dict[str, grpc.ChannelCredentials]] = {}


def secure(endpoint: str, credentials: grpc.ChannelCredentials) -> None:
    """From now on `host:port` is reached over TLS."""
    _credentials[endpoint] = credentials


def open_channel(endpoint: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
    credentials = _credentials.get(endpoint)
    if credentials is None:
        return grpc.insecure_channel(endpoint, options=options)
    return grpc.secure_channel(endpoint, credentials, options=options)
