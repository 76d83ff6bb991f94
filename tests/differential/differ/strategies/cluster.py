"""Member calls that leave the cluster as it is, and a learner that comes and goes (contract section 5)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from differ.ops import AddedMember, Call, Fields, MemberId, Op, PeerUrl
from differ.strategies import common
from differ.strategies.common import Draw, chance

_ids = st.sampled_from((MemberId(0), MemberId(1), MemberId(9), 0, 0x77))
_ports = st.integers(1, 1999)
_bad_urls = st.sampled_from(
    (
        [],
        [""],
        ["nonsense"],
        ["http://"],
        ["http://127.0.0.1"],
        ["http://127.0.0.1:1/path"],
        ["ftp://127.0.0.1:1"],
        ["http://127.0.0.1:1", "nonsense"],
        [PeerUrl(0)],
        [PeerUrl(0), "http://127.0.0.1:1"],
    )
)


def list_op(draw: Draw[Any]) -> list[Op]:
    return [Call("Cluster.MemberList", {"linearizable": chance(draw, 2)}, common.member(draw))]


def refused_op(draw: Draw[Any]) -> list[Op]:
    member = common.member(draw)
    kind = draw(st.sampled_from(("add", "add", "remove", "update", "promote")))
    if kind == "add":
        return [Call("Cluster.MemberAdd", {"peerURLs": draw(_bad_urls), "isLearner": chance(draw, 2)}, member)]
    if kind == "remove":
        return [Call("Cluster.MemberRemove", {"ID": draw(st.sampled_from((MemberId(9), 0, 0x77)))}, member)]
    if kind == "promote":
        return [Call("Cluster.MemberPromote", {"ID": draw(_ids)}, member)]
    if chance(draw, 2):
        return [Call("Cluster.MemberUpdate", {"ID": 0x77, "peerURLs": ["http://127.0.0.1:1"]}, member)]
    rank = draw(st.integers(0, 1))
    return [Call("Cluster.MemberUpdate", {"ID": MemberId(rank), "peerURLs": [PeerUrl(rank)]}, member)]


def learner_op(draw: Draw[Any]) -> list[Op]:
    if not chance(draw, 4):
        return list_op(draw)
    # Never the same twice: the second of the addition and the URLs are all that an id is made of (CL-04).
    learner: Fields = {"peerURLs": [f"http://127.0.0.1:{draw(_ports)}"], "isLearner": True}
    other: Fields = {"peerURLs": [f"http://127.0.0.1:{draw(_ports)}", *learner["peerURLs"]], "isLearner": True}
    return [
        Call("Cluster.MemberAdd", learner),
        Call("Cluster.MemberAdd", other),
        Call("Cluster.MemberList", {"linearizable": True}, common.member(draw)),
        Call("Cluster.MemberPromote", {"ID": AddedMember(0)}, common.member(draw)),
        Call("Maintenance.MoveLeader", {"targetID": AddedMember(0)}),
        Call("Cluster.MemberRemove", {"ID": AddedMember(0)}, common.member(draw)),
        Call("Cluster.MemberRemove", {"ID": AddedMember(0)}, common.member(draw)),
        Call("Cluster.MemberPromote", {"ID": AddedMember(0)}),
    ]
