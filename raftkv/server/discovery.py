"""The members of a new cluster, found out when it starts: through another etcd cluster, or by the SRV records of a
domain.

Owns the v3 discovery protocol (F-74): under the token, `_config/size` says how many members there are to be, and each
writes `members/<its id>` and waits until so many have. The first in the order of creation are the cluster. Any etcd or
raftkv can be the registry. Writes nothing here: what comes out is a configuration as if --initial-cluster had been
given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError

from raftkv.config import ConfigError, StartError, Url, parse_initial_cluster, verify_bootstrap
from raftkv.membership import member_id
from raftkv.pb import rpc_pb2
from raftkv.rpc.channel import CHANNEL_LIMITS, Channel
from raftkv.rpc.codes import Code, RpcError
from raftkv.server.login import log_in
from raftkv.server.srv_records import members_by_srv
from raftkv.server.tls import to_discovery

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from raftkv.config import Config, Discovery

_log = logging.getLogger(__name__)

REGISTRY: Final = "/_etcd/registry"
LOOK_S: Final = 1.0
"""Between two looks at who has registered."""
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 10.0
MOST_MEMBERS: Final = 1000
"""Registrations that are looked at: more say nothing but that the cluster is full."""

_RANGE: Final = b"/etcdserverpb.KV/Range"
_PUT: Final = b"/etcdserverpb.KV/Put"
_FOR_GOOD: Final = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.PERMISSION_DENIED,
        Code.UNAUTHENTICATED,
        Code.FAILED_PRECONDITION,
        Code.UNIMPLEMENTED,
    }
)
"""What the registry will say again however often it is asked. All else may pass."""

Members = Mapping[str, tuple[Url, ...]]


async def discovered(config: Config) -> Config:
    """With the members that discovery has found; as it is if they are given. May wait for them for ever.

    Raises StartError for what does not pass by itself.
    """
    if config.discovery is not None:
        token = config.discovery.token
        members = await _by_registry(config, config.discovery)
    elif config.discovery_srv:
        token = config.initial_cluster_token
        members = await asyncio.get_running_loop().run_in_executor(None, members_by_srv, config)
    else:
        return config
    fields = {name: [str(url) for url in urls] for name, urls in members.items()}
    _log.info("discovered the members", extra={"kv": {"members": fields}})
    found = dataclasses.replace(config, initial_cluster=members, initial_cluster_token=token)
    verify_bootstrap(found)
    return found


async def _by_registry(config: Config, settings: Discovery) -> Members:
    urls = [str(url) for url in config.initial_advertise_peer_urls]
    own = f"{member_id(urls, settings.token):x}"
    registry = _Registry(_EtcdClient(settings), settings.token)
    try:
        entries = await registry.join(own, ",".join(f"{config.name}={url}" for url in urls))
    finally:
        registry.close()
    return _as_members(entries)


def _as_members(entries: Mapping[str, str]) -> Members:
    """Raises StartError for registrations of which no cluster can be made."""
    members: dict[str, tuple[Url, ...]] = {}
    for number, text in entries.items():
        try:
            parsed = parse_initial_cluster(text)
        except ConfigError:
            parsed = {}
        if len(parsed) != 1:
            raise StartError(
                f"discovery: member {number} has registered as {text!r}, which is not name=URL",
                "Delete that key in the discovery service, or begin again with a new token",
            )
        ((name, urls),) = parsed.items()
        taken = {url for others in members.values() for url in others}
        if name in members or not taken.isdisjoint(urls):
            raise StartError(
                f"discovery: member {number} has registered as {text!r}, and another one has that name or URL, too",
                "Give every member a --name and URLs of its own, and begin again with a new token",
            )
        members[name] = urls
    return members


class _Asks(Protocol):
    """Who carries requests to the registry."""

    async def call(self, path: bytes, request: Message, kind: type[_Response]) -> _Response: ...

    def close(self) -> None: ...


_Response = TypeVar("_Response", rpc_pb2.RangeResponse, rpc_pb2.PutResponse)


class _Registry:
    """The keys of one token."""

    def __init__(self, client: _Asks, token: str) -> None:
        self._client = client
        self._token = token
        self._prefix = f"{REGISTRY}/{token}/members/"

    def close(self) -> None:
        self._client.close()

    async def join(self, own: str, contents: str) -> Mapping[str, str]:
        """Register as `own`; member id -> what it has registered as, when all are there. Raises StartError."""
        size = await self._size()
        told, registered = -1, False
        while True:
            entries = await self._entries()
            ahead = list(entries)[:size]
            if len(ahead) == size and own not in ahead:
                raise StartError(
                    f"discovery: cluster is full: {size} members have registered with token {self._token!r}, and this "
                    "one is not among them",
                    "Add it to the running cluster (etcdctl member add) and start it with "
                    "--initial-cluster-state=existing, or give it the token of another cluster",
                )
            if entries.get(own) != contents:
                if registered and own in entries:
                    raise StartError(
                        f"discovery: another member has registered with the same peer URLs, as {entries[own]!r}",
                        "Give every member --initial-advertise-peer-urls of its own",
                    )
                registered = True
                request = rpc_pb2.PutRequest(key=f"{self._prefix}{own}".encode(), value=contents.encode())
                await self._client.call(_PUT, request, rpc_pb2.PutResponse)
                continue
            if len(ahead) == size:
                return {each: entries[each] for each in ahead}
            if len(ahead) != told:
                told = len(ahead)
                fields = {"registered": told, "size": size, "token": self._token}
                _log.info("waiting for the other members to register", extra={"kv": fields})
            await asyncio.sleep(LOOK_S)

    async def _size(self) -> int:
        key = f"{REGISTRY}/{self._token}/_config/size"
        answer = await self._client.call(_RANGE, rpc_pb2.RangeRequest(key=key.encode()), rpc_pb2.RangeResponse)
        how = f"Say how many members there are to be, in the discovery service: etcdctl put {key} 3"
        if not answer.kvs:
            raise StartError(f"discovery: size key not found: there is no {key}", how)
        text = answer.kvs[0].value.decode("ascii", "replace")
        if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MOST_MEMBERS):
            raise StartError(f"discovery: size key is bad: {key} is {text[:40]!r}", how)
        return int(text)

    async def _entries(self) -> Mapping[str, str]:
        """Member id -> what it has registered as, in the order in which they came."""
        prefix = self._prefix.encode()
        request = rpc_pb2.RangeRequest(
            key=prefix,
            range_end=prefix[:-1] + b"0",
            limit=MOST_MEMBERS,
            sort_order=rpc_pb2.RangeRequest.ASCEND,
            sort_target=rpc_pb2.RangeRequest.CREATE,
        )
        answer = await self._client.call(_RANGE, request, rpc_pb2.RangeResponse)
        return {_text(kv.key[len(prefix) :]): _text(kv.value) for kv in answer.kvs}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class _EtcdClient:
    """Calls to whichever endpoint answers, for as long as none does."""

    def __init__(self, settings: Discovery) -> None:
        loop = asyncio.get_running_loop()
        tls = to_discovery(settings) if any(url.is_tls for url in settings.endpoints) else None
        limits = CHANNEL_LIMITS._replace(
            keepalive_interval_s=settings.keepalive_time_s, keepalive_timeout_s=settings.keepalive_timeout_s
        )
        self._settings = settings
        self._channels = [
            Channel(
                loop,
                url.host,
                url.port,
                path=url.path,
                tls=tls if url.is_tls else None,
                user_agent="raftkv-discovery",
                limits=limits,
                connect_timeout_s=settings.dial_timeout_s,
            )
            for url in settings.endpoints
        ]
        self._token = ""

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    async def call(self, path: bytes, request: Message, kind: type[_Response]) -> _Response:
        """Raises StartError for an answer that will not change."""
        pause_s = RETRY_FIRST_S
        while True:
            why: list[str] = []
            for url, channel in zip(self._settings.endpoints, self._channels, strict=True):
                try:
                    return await self._ask(channel, path, request, kind)
                except RpcError as failure:
                    if failure.code in _FOR_GOOD:
                        raise StartError(
                            f"the discovery service at {url} refuses: {failure.text}",
                            "See what --discovery-endpoints, --discovery-user and its TLS settings say",
                        ) from None
                    why.append(f"{url}: {failure.text}")
                except DecodeError:
                    raise StartError(
                        f"what answers at {url} is no etcd", "Correct --discovery-endpoints: client URLs are wanted"
                    ) from None
            fields = {"reasons": why, "again_in_s": pause_s}
            _log.warning("the discovery service does not answer; trying again", extra={"kv": fields})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _ask(self, channel: Channel, path: bytes, request: Message, kind: type[_Response]) -> _Response:
        settings = self._settings
        if settings.user and not self._token:
            self._token = await log_in(channel, settings.user, settings.password, settings.request_timeout_s)
        metadata = (("token", self._token),) if self._token else ()
        call = channel.unary_future(path, request.SerializeToString(), settings.request_timeout_s, metadata)
        try:
            return kind.FromString(await call)
        except RpcError as failure:
            # A simple token ends with the server that gave it, or when it is not used for five minutes.
            if failure.code is not Code.UNAUTHENTICATED or not self._token:
                raise
            self._token = ""
            raise RpcError(Code.UNAVAILABLE, failure.text) from None
