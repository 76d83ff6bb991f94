"""What a client says about its version must be text (G-24). Nothing else follows from it.

The answer depends on the metadata alone, so it is found once for all calls that come with the same request head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raftkv.api.errors import INVALID_CLIENT_API_VERSION, Status

if TYPE_CHECKING:
    from raftkv.rpc.service import Routes


def with_client_version_checked(routes: Routes) -> Routes:
    """The same routes; a call whose version is not UTF-8 reaches none of their handlers."""
    return {path: method._replace(admit=check_client_version) for path, method in routes.items()}


def check_client_version(metadata: Callable[[str], str | None]) -> Status | None:
    version = metadata("client-api-version")
    if version is None or version.isascii():
        return None
    try:
        version.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate stands for a byte that is no text
        return INVALID_CLIENT_API_VERSION
    return None
