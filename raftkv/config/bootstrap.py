"""The check that only a first start needs: does --initial-cluster agree with this member (F-65)?

A member that has data ignores the --initial-* settings (rule F-70), so the caller asks
`Config.has_data` first. Resolves names, and so may block for as long as the system's resolver does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from raftkv.config.errors import ConfigError
from raftkv.config.model import Config
from raftkv.config.urls import Url, join_urls

Resolver = Callable[[str], frozenset[str]]
"""Host name or address -> its addresses; empty when it has none."""


def resolve(host: str) -> frozenset[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(address[0]) for *_, address in found)


def verify_bootstrap(config: Config, resolver: Resolver = resolve) -> None:
    """Raises ConfigError when --initial-cluster lacks the own name or gives it other URLs."""
    if not config.initial_cluster:
        return  # The members come from discovery.
    own = config.initial_cluster.get(config.name)
    if own is None:
        names = ", ".join(config.initial_cluster)
        raise ConfigError(
            f"--initial-cluster names {names}, but not this member, {config.name!r}",
            f"Set --name to one of them, or add {config.name}=<peer-url> to --initial-cluster.",
        )
    advertised = config.initial_advertise_peer_urls
    if not _same(own, advertised, resolver):
        raise ConfigError(
            f"--initial-cluster gives member {config.name!r} the URLs {join_urls(own)}, but "
            f"--initial-advertise-peer-urls is {join_urls(advertised)}",
            "Make the two equal.",
        )


def _same(left: Collection[Url], right: Collection[Url], resolver: Resolver) -> bool:
    if set(left) == set(right):
        return True  # Without asking a name server that may be slow or away.
    return _covered(left, right, resolver) and _covered(right, left, resolver)


def _covered(urls: Collection[Url], others: Collection[Url], resolver: Resolver) -> bool:
    return all(any(reach_same_place(url, other, resolver) for other in others) for url in urls)


def reach_same_place(left: Url, right: Url, resolver: Resolver) -> bool:
    """Whether the two name one listener, as far as the resolver knows."""
    if left == right:
        return True
    if left.is_unix or (left.scheme, left.port) != (right.scheme, right.port):
        return False
    return bool(resolver(left.host) & resolver(right.host))
