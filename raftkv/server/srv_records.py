"""The members of a cluster by the SRV records of a domain: --discovery-srv.

`_etcd-server-ssl._tcp.<domain>` names those that speak TLS to each other, `_etcd-server._tcp.<domain>` those that do
not; with --discovery-srv-name=x they are `_etcd-server-ssl-x` and `_etcd-server-x`. A record is a member's peer URL.
Which of them is this member is told by its own --initial-advertise-peer-urls; the others are named by numbers until
they say how they are called. Blocks for as long as the system's resolver does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.config import StartError, Url, reach_same_place, resolve

if TYPE_CHECKING:
    from raftkv.config import Config, Resolver

SERVICES: Final = (("https", "etcd-server-ssl"), ("http", "etcd-server"))
"""Scheme of the URLs, name of the service."""


class Record(NamedTuple):
    priority: int
    host: str
    """Without the dot at its end."""
    port: int


class NoRecordsError(Exception):
    """The text says why."""


Lookup = Callable[[str], list[Record]]
"""`_service._tcp.domain` -> its records. Raises NoRecordsError."""


def look_up(name: str) -> list[Record]:
    # Not above: few members need it.
    from dns.exception import DNSException
    from dns.name import root
    from dns.resolver import resolve as ask

    try:
        answer = ask(name, "SRV")
    except DNSException as failure:
        raise NoRecordsError(str(failure)) from None
    # The root as target says that there is no such service (RFC 2782).
    there = (each for each in answer if each.target != root)
    return [Record(each.priority, each.target.to_text(omit_final_dot=True).lower(), each.port) for each in there]


def members_by_srv(
    config: Config, lookup: Lookup = look_up, resolver: Resolver = resolve
) -> Mapping[str, tuple[Url, ...]]:
    """Member name -> its peer URLs. Raises StartError when there are no records, or none of this member."""
    suffix = f"-{config.discovery_srv_name}" if config.discovery_srv_name else ""
    urls, why = [], []
    for scheme, service in SERVICES:
        name = f"_{service}{suffix}._tcp.{config.discovery_srv}"
        try:
            records = sorted(lookup(name))
        except NoRecordsError as failure:
            why.append(f"{name}: {failure}")
            continue
        urls += [_url(name, scheme, each) for each in records]
    if not urls:
        raise StartError(
            f"no SRV record of {config.discovery_srv} names a member: {'; '.join(why) or 'there are none'}",
            "Is --discovery-srv the right domain, and does this machine's resolver know it?",
        )
    return _named(config, dict.fromkeys(urls), resolver)


def _url(name: str, scheme: str, record: Record) -> Url:
    try:
        return Url.parse(f"{scheme}://{record.host}:{record.port}")
    except ValueError as problem:
        raise StartError(
            f"the SRV record of {name} cannot be used: {problem}", "Correct it at the name server"
        ) from None


def _named(config: Config, urls: Mapping[Url, None], resolver: Resolver) -> Mapping[str, tuple[Url, ...]]:
    advertised = config.initial_advertise_peer_urls
    own = [url for url in urls if any(reach_same_place(url, each, resolver) for each in advertised)]
    if not own:
        raise StartError(
            f"none of the SRV records of {config.discovery_srv} is this member: they name "
            f"{', '.join(map(str, urls))}, and its --initial-advertise-peer-urls are {', '.join(map(str, advertised))}",
            "Add a record for it at the name server, or correct --initial-advertise-peer-urls",
        )
    numbers = (str(number) for number in count() if str(number) != config.name)
    return {config.name: tuple(own)} | {next(numbers): (url,) for url in urls if url not in own}
