"""Before a member has data: what the members that are there already say of the cluster it is to belong to.

A new cluster is made by all its members at once, from the same settings (F-71). A member that joins later asks for the
members and their ids (F-72). In both cases one that was there before and has lost its data must not come back under its
old id: it has forgotten what it promised (RF-72). Asks over the network, writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from raftkv.config import StartError
from raftkv.membership import Member, cluster_id, member_id
from raftkv.pb import peer_pb2
from raftkv.rpc.codes import Code, RpcError
from raftkv.server.discovery import discovered
from raftkv.server.peers.link import peer_channel
from raftkv.server.peers.protocol import MEMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from raftkv.config import Config
    from raftkv.rpc.tls import Tls

_log = logging.getLogger(__name__)

ASK_TIMEOUT_S: Final = 2.0
TRIES: Final = 5
"""How often a joining member asks before it gives up: those it asks may be starting themselves."""
RETRY_S: Final = 1.0


class Founding(NamedTuple):
    """What a new data directory is made from."""

    member_id: int
    cluster_id: int
    members: tuple[Member, ...]
    """Ascending ids. For a joining member, as others know them: it will learn what is true from the leader."""
    removed: tuple[int, ...]
    joins: bool
    """The cluster is there already: this member begins with nothing, in nobody's quorum as far as it knows."""


async def find_founding(config: Config, tls: Tls | None = None) -> Founding:
    """How a member without data is to begin. `tls`: for asking members over https. Waits for as long as discovery does.
    Raises StartError when it must not."""
    config = await discovered(config)
    if config.initial_cluster_state == "existing":
        return await _join(config, tls)
    founding = found_cluster(config)
    if len(founding.members) > 1:
        others = [each for each in founding.members if each.id != founding.member_id]
        answers = await asyncio.gather(*(_ask(each.peer_urls, tls, []) for each in others))
        for other, answer in zip(others, answers, strict=True):
            if answer is not None:
                _refuse_known(config, founding, other, answer)
    return founding


def found_cluster(config: Config) -> Founding:
    """All bootstrap members compute the same ids from the same settings (CL-04, CL-05)."""
    token = config.initial_cluster_token
    ids = {name: member_id(urls, token) for name, urls in _url_texts(config).items()}
    members = sorted(
        (Member(ids[name], tuple(sorted(urls))) for name, urls in _url_texts(config).items()), key=lambda each: each.id
    )
    return Founding(ids[config.name], cluster_id(ids.values()), tuple(members), (), joins=False)


def _url_texts(config: Config) -> dict[str, list[str]]:
    return {name: [str(url) for url in urls] for name, urls in config.initial_cluster.items()}


def _refuse_known(config: Config, founding: Founding, other: Member, answer: peer_pb2.MembersResponse) -> None:
    """F-71. `other` runs already: does it know this member, and by the same cluster?"""
    if answer.cluster_id != founding.cluster_id:
        raise StartError(
            f"the member at {', '.join(other.peer_urls)} belongs to cluster {answer.cluster_id:x}, but these settings "
            f"make cluster {founding.cluster_id:x}",
            "Give all members the same --initial-cluster and --initial-cluster-token, or remove the data of those that "
            "were started with others",
        )
    if founding.member_id in answer.removed:
        raise StartError(
            f"member {founding.member_id:x} has been permanently removed from the cluster",
            "Add it anew: etcdctl member add, then start it with --initial-cluster-state=existing",
        )
    known = {each.ID: each for each in answer.members}.get(founding.member_id)
    if known is not None and known.name:
        raise StartError(
            f"member {founding.member_id:x} has already been bootstrapped, but {config.data_dir} has no data of it",
            _how_to_come_back(config, founding.member_id),
        )


def _how_to_come_back(config: Config, own_id: int) -> str:
    urls = ",".join(str(url) for url in config.initial_advertise_peer_urls)
    return (
        "If the data directory is the wrong one, correct --data-dir. If its data is lost, replace the member: "
        f"etcdctl member remove {own_id:x}; etcdctl member add {config.name} --peer-urls={urls}; then start it with an "
        "empty data directory and --initial-cluster-state=existing"
    )


# --- joining a cluster that is there ----------------------------------------------------------------------------------


async def _join(config: Config, tls: Tls | None) -> Founding:
    wanted = _url_texts(config)
    others = {name: urls for name, urls in wanted.items() if name != config.name}
    if not others:
        raise StartError(
            "--initial-cluster-state=existing, but --initial-cluster names no other member",
            "Name all members, as `etcdctl member add` printed them",
        )
    why: list[str] = []
    for number in range(TRIES):
        why.clear()
        answers = await asyncio.gather(*(_ask(urls, tls, why) for urls in others.values()))
        best = max(filter(None, answers), key=lambda each: each.committed, default=None)
        if best is not None:
            return _match(config, wanted, best)
        if number + 1 < TRIES:
            fields = {"members": sorted(others), "reasons": sorted(why)}
            _log.warning("no member of the cluster answers; trying again", extra={"kv": fields})
            await asyncio.sleep(RETRY_S)
    raise StartError(
        f"none of the members {', '.join(sorted(others))} answers, so the cluster cannot be joined",
        "Is it running, and are its peer URLs in --initial-cluster right and reachable from here? "
        + "; ".join(sorted(why)),
    )


def _match(config: Config, wanted: Mapping[str, Iterable[str]], answer: peer_pb2.MembersResponse) -> Founding:
    """F-72: the settings and the cluster name the same members; ids are the cluster's."""
    by_urls = {frozenset(each.peerURLs): each for each in answer.members}
    if len(wanted) != len(by_urls) or any(frozenset(urls) not in by_urls for urls in wanted.values()):
        theirs = "; ".join(f"{each.name or '(not started)'}={','.join(each.peerURLs)}" for each in answer.members)
        raise StartError(
            f"--initial-cluster names {len(wanted)} members, and the cluster has {len(by_urls)}: {theirs}. "
            "They are not the same",
            "Add this member first (etcdctl member add), then use the --initial-cluster that the command printed",
        )
    own = by_urls[frozenset(wanted[config.name])]
    if own.data_id:
        raise StartError(
            f"member {own.ID:x} has joined before, with another data directory",
            _how_to_come_back(config, own.ID),
        )
    members = sorted((Member.from_bytes(each.SerializeToString()) for each in answer.members), key=lambda each: each.id)
    return Founding(own.ID, answer.cluster_id, tuple(members), tuple(sorted(answer.removed)), joins=True)


# --- asking -----------------------------------------------------------------------------------------------------------


async def _ask(urls: Iterable[str], tls: Tls | None, why: list[str]) -> peer_pb2.MembersResponse | None:
    """The first answer of one member's URLs; None when none of them gives one in time. `why` gets the reasons."""
    for url in urls:
        try:
            return await ask_members(url, tls=tls)
        except RpcError as failure:
            why.append(f"{url}: {failure.text}")
    return None


async def ask_members(
    url: str, timeout_s: float = ASK_TIMEOUT_S, *, tls: Tls | None = None
) -> peer_pb2.MembersResponse:
    """The members of the cluster, as the member at that peer URL knows them. Raises RpcError."""
    channel = peer_channel(asyncio.get_running_loop(), url, timeout_s, tls=tls)
    request = peer_pb2.MembersRequest().SerializeToString()
    try:
        answer = await channel.unary_future(MEMBERS, request, timeout_s)
    finally:
        channel.close()
    try:
        return peer_pb2.MembersResponse.FromString(answer)
    except DecodeError:
        raise RpcError(Code.INTERNAL, "what answers there is no member of a raftkv cluster") from None
