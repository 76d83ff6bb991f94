"""The Cluster service: which requests are none, and what the answers carry (contract section 5)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from api_support import CLUSTER_ID, MEMBER_ID, TERM, FakeCall, FakeNode, raw

from raftkv.api.cluster import Cluster, are_peer_urls
from raftkv.apply import Kind
from raftkv.membership import Member, MemberNotFound, NotEnoughStarted, PeerURLExists, UnhealthyCluster
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import Forwarded, NoLeader, RequestTimedOut

BAD_URLS = (Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")


class Scene:
    """The service on a member that knows two; what the node is asked is remembered, with how to answer it."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        txn = node.backend.begin_write()
        for each in (Member(9, ("http://z:1", "http://a:1"), "nine", ("http://c:1",)), Member(3, ("http://b:1",))):
            node.members.add(txn, each)
        self.asked: list[Any] = []
        changes = {name: self._note(name) for name in ("add", "remove")}
        node.reconfiguration = SimpleNamespace(**changes)  # type: ignore[attr-defined]
        node.leader_calls = SimpleNamespace(call=self._note("leader"))  # type: ignore[attr-defined]
        self.service = Cluster(node.context())

    def _note(self, name: str) -> Any:
        return lambda *args: self.asked.append((name, *args))

    def call(self, method: str, request: Any, **metadata: str) -> FakeCall:
        call: Any = FakeCall(None, **metadata)
        getattr(self.service, method)(call, request if isinstance(request, bytes) else raw(request))
        made: FakeCall = call
        return made

    def answer(self, result: Any) -> None:
        """The last that was asked."""
        _, *_, finish, call = self.asked[-1]
        finish(call, result)


@pytest.fixture
def scene(fake_node: FakeNode) -> Scene:
    return Scene(fake_node)


# --- peer URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "good"),
    [
        ([], False),
        (["http://10.0.0.1:2380"], True),
        (["https://host.example:1"], True),
        (["http://[::1]:2380"], True),
        (["http://a:1", "http://b:2"], True),
        (["unix://host:1"], True),
        (["unix:///var/run/peer.sock"], True),
        (["unixs://host:1"], True),
        (["http://a:1", ""], False),
        (["http://a:1", "http://b"], False),
        ([""], False),
        (["a:1"], False),
        (["10.0.0.1:2380"], False),
        (["tcp://a:1"], False),
        (["ftp://a:1"], False),
        (["http://a"], False),
        (["http://:2380"], False),
        (["http://"], False),
        (["http://a:1/"], False),
        (["http://a:1/path"], False),
        (["http://a:1?q"], False),
        (["http://a:1#f"], False),
        (["http://a:port"], False),
        (["http://a:65536"], False),
        (["http://[::1:2380"], False),
        (["unix://"], False),
        (["foo bar"], False),
    ],
)
def test_what_a_peer_url_is(urls: list[str], good: bool) -> None:
    """CL-20: at least one, of these schemes, with host and port and nothing behind."""
    assert are_peer_urls(urls) is good


def test_a_member_without_good_urls_is_neither_added_nor_moved(scene: Scene) -> None:
    """CL-20, CL-40: refused before anything is asked."""
    for urls in ([], ["http://a"], ["http://a:1", "http://b:1/x"]):
        assert scene.call("member_add", rpc_pb2.MemberAddRequest(peerURLs=urls)).failure == BAD_URLS
        assert scene.call("member_update", rpc_pb2.MemberUpdateRequest(ID=9, peerURLs=urls)).failure == BAD_URLS
    assert (scene.asked, scene.node.proposed) == ([], [])


# --- the list ---------------------------------------------------------------------------------------------------------


def test_members_are_listed_in_order_of_their_ids(scene: Scene) -> None:
    """CL-01, CL-03, G-15: without a revision; what clients need not know is not told."""
    scene.node.apply((Kind.PUT, raw(rpc_pb2.PutRequest(key=b"k"))))
    call = scene.call("member_list", rpc_pb2.MemberListRequest())
    response = rpc_pb2.MemberListResponse.FromString(call.replies[0])
    assert response.header == rpc_pb2.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, raft_term=TERM)
    assert list(response.members) == [
        rpc_pb2.Member(ID=3, peerURLs=["http://b:1"]),
        rpc_pb2.Member(ID=9, name="nine", peerURLs=["http://a:1", "http://z:1"], clientURLs=["http://c:1"]),
    ]


def test_a_linearizable_list_needs_a_quorum_and_another_does_not(scene: Scene) -> None:
    """CL-10."""
    scene.node.read_error = RequestTimedOut()
    call = scene.call("member_list", rpc_pb2.MemberListRequest(linearizable=True))
    assert call.failure == (Code.UNAVAILABLE, "etcdserver: request timed out")
    assert len(scene.call("member_list", rpc_pb2.MemberListRequest()).replies) == 1
    scene.node.read_error = None
    assert len(scene.call("member_list", rpc_pb2.MemberListRequest(linearizable=True)).replies) == 1


# --- changes ----------------------------------------------------------------------------------------------------------


def test_an_addition_is_asked_of_the_node_and_answered_with_what_applying_gave(scene: Scene) -> None:
    """CL-07, G-15."""
    urls = ["http://n:1", "http://m:1"]
    call = scene.call("member_add", rpc_pb2.MemberAddRequest(peerURLs=urls, isLearner=True))
    name, asked_urls, is_learner, _, asker = scene.asked[0]
    assert (name, list(asked_urls), is_learner, asker) == ("add", urls, True, call)
    body = raw(rpc_pb2.MemberAddResponse(member=rpc_pb2.Member(ID=5), members=[rpc_pb2.Member(ID=3)]))
    scene.answer((0, body))
    response = rpc_pb2.MemberAddResponse.FromString(call.replies[0])
    assert (response.header.member_id, response.header.revision) == (MEMBER_ID, 0)
    assert (response.member.ID, [each.ID for each in response.members]) == (5, [3])


def test_a_removal_is_asked_of_the_node(scene: Scene) -> None:
    call = scene.call("member_remove", rpc_pb2.MemberRemoveRequest(ID=9))
    assert scene.asked[0][:2] == ("remove", 9)
    scene.answer((0, raw(rpc_pb2.MemberRemoveResponse(members=[rpc_pb2.Member(ID=3)]))))
    assert [each.ID for each in rpc_pb2.MemberRemoveResponse.FromString(call.replies[0]).members] == [3]


def test_a_promotion_is_asked_of_the_leader(scene: Scene) -> None:
    """CL-44: its answer comes without a header, for that is this member's."""
    request = raw(rpc_pb2.MemberPromoteRequest(ID=9))
    call = scene.call("member_promote", request)
    assert scene.asked[0][:3] == ("leader", peer_pb2.ForwardRequest.PROMOTE, request)
    scene.answer(raw(rpc_pb2.MemberPromoteResponse(members=[rpc_pb2.Member(ID=9)])))
    response = rpc_pb2.MemberPromoteResponse.FromString(call.replies[0])
    assert (response.header.member_id, response.header.revision, [each.ID for each in response.members]) == (
        MEMBER_ID,
        0,
        [9],
    )


@pytest.mark.parametrize(
    ("method", "request_", "refusal", "status"),
    [
        ("member_add", rpc_pb2.MemberAddRequest(peerURLs=["http://n:1"]), PeerURLExists(),
         (9, "etcdserver: Peer URLs already exists")),
        ("member_add", rpc_pb2.MemberAddRequest(peerURLs=["http://n:1"]), UnhealthyCluster(),
         (14, "etcdserver: unhealthy cluster")),
        ("member_remove", rpc_pb2.MemberRemoveRequest(ID=1), MemberNotFound(), (5, "etcdserver: member not found")),
        ("member_remove", rpc_pb2.MemberRemoveRequest(ID=1), NotEnoughStarted(),
         (9, "etcdserver: re-configuration failed due to not enough started members")),
        ("member_promote", rpc_pb2.MemberPromoteRequest(ID=1), Forwarded(Code.NOT_FOUND, "the leader's text"),
         (5, "the leader's text")),
        ("member_promote", rpc_pb2.MemberPromoteRequest(ID=1), NoLeader(), (14, "etcdserver: no leader")),
    ],
)  # fmt: skip
def test_a_refusal_goes_out_as_its_row(
    scene: Scene, method: str, request_: Any, refusal: Exception, status: tuple[int, str]
) -> None:
    call = scene.call(method, request_)
    scene.answer(refusal)
    assert call.failure == status


def test_a_move_goes_through_the_log(scene: Scene) -> None:
    """CL-40, CL-07."""
    request = raw(rpc_pb2.MemberUpdateRequest(ID=3, peerURLs=["http://new:1"]))
    call = scene.call("member_update", request)
    assert scene.node.proposed == [(Kind.MEMBER_UPDATE, request)]
    response = rpc_pb2.MemberUpdateResponse.FromString(call.replies[0])
    assert response.header.revision == 0
    assert {each.ID: list(each.peerURLs) for each in response.members}[3] == ["http://new:1"]
    taken = rpc_pb2.MemberUpdateRequest(ID=3, peerURLs=["http://z:1"])
    assert scene.call("member_update", taken).failure == (9, "etcdserver: Peer URLs already exists")


CHANGES = ("member_add", "member_remove", "member_update", "member_promote")


@pytest.mark.parametrize("method", ["member_list", *CHANGES])
def test_what_is_no_request_is_refused(scene: Scene, method: str) -> None:
    call = scene.call(method, b"\xff\xff\xff")
    assert call.failure is not None
    assert call.failure[0] is Code.INTERNAL
    assert (scene.asked, scene.node.proposed, call.replies) == ([], [], [])
