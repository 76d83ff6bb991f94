"""Who is let in on the peer URLs, and that whatever is malformed, forged or out of place changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers_support import CLUSTER, GONE, ME, MY_DATA, PEER, PEER_DATA, PEERS, STRANGER, FakeCall, FakeHost

from raftkv.membership import Member
from raftkv.pb import peer_pb2
from raftkv.raft import ConfState, Entry, Message, MessageType, Snapshot
from raftkv.rpc.codes import Code
from raftkv.rpc.service import build_routes
from raftkv.server.peers import Identity, PeerService
from raftkv.server.peers import protocol as p
from raftkv.server.peers.protocol import seal, unseal
from raftkv.wire import WireError


class FakeCopies:
    """Tells what it was asked for, and by whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def open(self, call: FakeCall, reader: int, request: peer_pb2.OpenCopyRequest) -> None:
        self._note(call, "open", reader, request.min_index)

    def read(self, call: FakeCall, request: peer_pb2.ReadCopyRequest) -> None:
        self._note(call, "read", request.copy_id)

    def close(self, call: FakeCall, request: peer_pb2.CloseCopyRequest) -> None:
        self._note(call, "close", request.copy_id)

    def _note(self, call: FakeCall, *asked: Any) -> None:
        self.asked.append(asked)
        call.reply(b"")


class Scene:
    def __init__(self) -> None:
        self.host = FakeHost()
        self.copies = FakeCopies()
        host, copies = self.host, self.copies
        self.service = PeerService(host, copies)  # type: ignore[arg-type]  # what the service uses of them
        self.routes = build_routes((self.service.service(),))

    def call(self, path: bytes, message: bytes = b"", metadata: Any = None) -> FakeCall:
        """A unary call, by default of a member in good standing."""
        call: Any = FakeCall(PEERS.metadata(ME) if metadata is None else metadata)
        self.routes[path].handler(call, message)  # type: ignore[call-arg]  # a unary handler
        answered: FakeCall = call
        return answered

    def stream(self, identity: Identity = PEERS, metadata: Any = None) -> tuple[FakeCall, Any]:
        call: Any = FakeCall(identity.metadata(ME) if metadata is None else metadata)
        receiver = self.routes[p.MESSAGES].handler(call)  # type: ignore[call-arg]  # a stream handler
        return call, receiver


@pytest.fixture
def scene() -> Scene:
    return Scene()


def message(kind: MessageType = MessageType.HEARTBEAT, sender: int = PEER, term: int = 4, **fields: Any) -> Message:
    if kind is MessageType.SNAP:
        fields["snapshot"] = Snapshot(5, 3, ConfState(voters=(ME, PEER)))
    return Message(kind, ME, sender=sender, term=term, **fields)


# --- who is let in ----------------------------------------------------------------------------------------------------


def changed(**changes: str | None) -> dict[str, str | bytes | None]:
    """The metadata of a member in good standing, but for this; None: without it."""
    fields: dict[str, str | bytes | None] = {**dict(PEERS.metadata(ME)), **changes}
    return {key: value for key, value in fields.items() if value is not None}


REFUSED = [
    ({"raftkv-cluster": "c2"}, p.TEXT_OTHER_CLUSTER),
    ({"raftkv-cluster": None}, p.TEXT_OTHER_CLUSTER),
    ({"raftkv-cluster": "0c1"}, p.TEXT_OTHER_CLUSTER),
    ({"raftkv-protocol": "2"}, p.TEXT_PROTOCOL),
    ({"raftkv-protocol": None}, p.TEXT_PROTOCOL),
    ({"raftkv-to": "b"}, p.TEXT_WRONG_MEMBER),
    ({"raftkv-to": None}, p.TEXT_WRONG_MEMBER),
    ({"raftkv-from": "d"}, p.TEXT_REMOVED),
    ({"raftkv-data": "223"}, p.TEXT_OTHER_DATA),
    # Of several reasons the one that is told first is the one from which the others follow.
    ({"raftkv-protocol": "2", "raftkv-cluster": "c2"}, p.TEXT_PROTOCOL),
    ({"raftkv-cluster": "c2", "raftkv-to": "b", "raftkv-from": "d"}, p.TEXT_OTHER_CLUSTER),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED)
def test_who_is_not_who_it_should_be_is_refused(scene: Scene, changes: dict[str, str | None], text: str) -> None:
    """H-71, H-72, CL-34, RF-72, RF-64: in every call that changes or tells anything, and without a trace."""
    metadata = changed(**changes)
    calls = [scene.call(path, b"", metadata) for path in scene.routes if path not in (p.MESSAGES, p.MEMBERS)]
    call, receiver = scene.stream(metadata=metadata)
    for each in (*calls, call):
        assert each.ended == (Code.FAILED_PRECONDITION, text)
        assert (each.replies, each.sent) == ([], [])
    receiver.on_closed()
    assert (scene.host.messages, scene.host.forwarded, scene.host.diverged, scene.copies.asked) == ([], [], [], [])
    assert len(calls) == 7


@pytest.mark.parametrize(
    "metadata",
    [
        changed(),
        changed(**{"raftkv-data": "0"}),
        changed(**{"raftkv-data": None}),
        changed(**{"raftkv-data": "not hex"}),
        changed(**{"raftkv-from": f"{STRANGER:x}", "raftkv-data": "333"}),
        changed(**{"raftkv-from": None}),
    ],
    ids=["member", "old version", "no data id", "nonsense", "not known here yet", "nobody"],
)
def test_who_contradicts_nothing_is_let_in(scene: Scene, metadata: Any) -> None:
    """RF-72: only a data directory that is known to be another one is refused; and a member may be known elsewhere
    before it is known here (thesis §4.1)."""
    assert scene.call(p.PROBE, b"", metadata).ended == (Code.OK, "")
    call, _ = scene.stream(metadata=metadata)
    assert call.ended is None


def test_a_member_that_has_not_published_itself_may_have_any_data_directory(scene: Scene) -> None:
    scene.host.members[PEER] = Member(PEER, ("http://b:1",))
    assert scene.call(p.PROBE, b"", changed(**{"raftkv-data": "999"})).ended == (Code.OK, "")


def test_anybody_may_ask_for_the_members(scene: Scene) -> None:
    """F-72: who joins does not know the cluster's id yet."""
    answer = scene.call(p.MEMBERS, b"", ())
    known = peer_pb2.MembersResponse.FromString(answer.replies[0])
    assert (known.cluster_id, list(known.removed)) == (CLUSTER, [GONE])


def test_requests_reach_who_answers_them(scene: Scene) -> None:
    forward = peer_pb2.ForwardRequest(method=peer_pb2.ForwardRequest.PROMOTE, body=b"b")
    hashes = peer_pb2.StateHashesRequest(first=3, last=5)
    asked = [
        (p.FORWARD, forward),
        (p.STATE_HASHES, hashes),
        (p.DIVERGED, peer_pb2.DivergedRequest(member_id=ME, index=9)),
        (p.OPEN_COPY, peer_pb2.OpenCopyRequest(min_index=7)),
        (p.READ_COPY, peer_pb2.ReadCopyRequest(copy_id=8)),
        (p.CLOSE_COPY, peer_pb2.CloseCopyRequest(copy_id=8)),
    ]
    calls = [scene.call(path, request.SerializeToString()) for path, request in asked]
    assert [each.ended for each in calls] == [(Code.OK, "")] * len(asked)
    assert scene.host.forwarded == [forward]
    assert scene.host.diverged == [(PEER, ME, 9)]
    assert scene.copies.asked == [("open", PEER, 7), ("read", 8), ("close", 8)]
    assert list(peer_pb2.StateHashesResponse.FromString(calls[1].replies[0]).hashes) == [3, 4, 5]


def test_a_request_that_is_none_is_refused(scene: Scene) -> None:
    for path in (p.FORWARD, p.OPEN_COPY, p.READ_COPY, p.CLOSE_COPY, p.STATE_HASHES, p.DIVERGED, p.PROBE):
        call = scene.call(path, b"\xff\xff\xff")
        assert call.ended is not None
        assert call.ended[0] is Code.INVALID_ARGUMENT
    assert (scene.host.forwarded, scene.host.diverged, scene.copies.asked) == ([], [], [])


# --- streams of messages ----------------------------------------------------------------------------------------------


def test_a_stream_begins_with_a_welcome_that_names_the_data_directory(scene: Scene) -> None:
    """RF-72: so that the sender, too, can tell a member that has lost its data."""
    call, receiver = scene.stream()
    assert call.sent == [p.WELCOME.pack(MY_DATA)]
    sent = [message(), message(MessageType.APP, entries=[Entry(4, 1, data=b"x")])]
    for each in sent:
        receiver.on_message(seal(each))
    assert scene.host.messages == sent
    assert scene.service.received_bytes == sum(len(seal(each)) for each in sent)
    assert call.ended is None


def test_a_message_in_anothers_name_ends_the_stream(scene: Scene) -> None:
    """Forged: a vote counts for whom it says it is from."""
    call, receiver = scene.stream()
    receiver.on_message(seal(message(MessageType.VOTE_RESP, sender=STRANGER)))
    assert scene.host.messages == []
    assert call.ended is not None
    assert call.ended[0] is Code.INVALID_ARGUMENT
    assert f"{STRANGER:x}" in call.ended[1]


def test_a_message_that_no_member_would_send_ends_the_stream(scene: Scene) -> None:
    call, receiver = scene.stream()
    receiver.on_message(seal(message(term=FakeHost.BAD_TERM)))
    assert call.ended == (Code.INVALID_ARGUMENT, "nonsense")


FROM_ANYBODY = {
    MessageType.APP,
    MessageType.HEARTBEAT,
    MessageType.SNAP,
    MessageType.VOTE,
    MessageType.PRE_VOTE,
    MessageType.TIMEOUT_NOW,
}


@pytest.mark.parametrize("kind", MessageType, ids=lambda kind: kind.name)
def test_of_strangers_only_what_leaders_and_candidates_send_is_taken(scene: Scene, kind: MessageType) -> None:
    """Thesis §4.1: a new configuration's leader may be unknown here. What strangers propose or answer is dropped."""
    call, receiver = scene.stream(Identity(CLUSTER, STRANGER, 0x333))
    receiver.on_message(seal(message(kind, sender=STRANGER)))
    assert call.ended is None, "dropped, as if the network had lost it"
    assert [each.type for each in scene.host.messages] == [kind] * (kind in FROM_ANYBODY)
    _, receiver = scene.stream()
    receiver.on_message(seal(message(kind)))
    assert scene.host.messages[-1].sender == PEER, "a member may say anything"


MEET = Identity(CLUSTER, STRANGER, 0x333)


def test_a_stranger_is_one_while_it_speaks(scene: Scene) -> None:
    """Thesis §4.1: it says where it listens, so that it can be answered. Of several streams the last one counts, for a
    new one may begin before the old one is known to be lost."""
    _, first = scene.stream(metadata=MEET.metadata(ME, ("http://e:1", "http://e:2")))
    assert scene.host.strangers == [(STRANGER, ["http://e:1", "http://e:2"])]
    _, second = scene.stream(metadata=MEET.metadata(ME, ("http://e:1",)))
    del scene.host.strangers[:]
    first.on_closed()
    assert scene.host.strangers == []
    second.on_closed()
    second.on_closed()
    assert scene.host.strangers == [(STRANGER, None)]


def test_a_stranger_that_does_not_say_where_it_listens_is_heard_all_the_same(scene: Scene) -> None:
    """An early version says nothing."""
    without_urls = {key: value for key, value in MEET.metadata(ME) if key != p.KEY_URLS}
    call, receiver = scene.stream(metadata=without_urls)
    receiver.on_message(seal(message(sender=STRANGER)))
    assert (call.ended, len(scene.host.messages), scene.host.strangers) == (None, 1, [(STRANGER, [])])


def test_who_is_known_or_refused_is_no_stranger(scene: Scene) -> None:
    scene.stream(metadata=PEERS.metadata(ME, ("http://b:1",)))
    refusals: list[dict[str, Any]] = [{"raftkv-cluster": "c2"}, {"raftkv-from": f"{GONE:x}"}]
    for changes in refusals:
        _, refused = scene.stream(metadata={**dict(MEET.metadata(ME, ("http://e:1",))), **changes})
        refused.on_closed()
    scene.call(p.PROBE, b"", MEET.metadata(ME, ("http://e:1",)))
    assert (scene.host.strangers, scene.host.greeted) == ([], [PEER])


SEALED = seal(message(MessageType.APP, index=3, log_term=2, entries=[Entry(4, 4, data=b"some data"), Entry(4, 5)]))


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_message_that_was_changed_on_the_way_ends_the_stream(at: int, flipped: int) -> None:
    """TCP's checksum lets one of 65,536 through; what is wrongly appended cannot be taken back."""
    damaged = SEALED[:at] + bytes((SEALED[at] ^ flipped,)) + SEALED[at + 1 :]
    assert_ends_the_stream(damaged)


@given(st.integers(0, len(SEALED) - 1))
def test_a_message_that_was_cut_off_ends_the_stream(length: int) -> None:
    assert_ends_the_stream(SEALED[:length])


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_end_the_stream(data: bytes) -> None:
    assert_ends_the_stream(data)


def assert_ends_the_stream(data: bytes) -> None:
    scene = Scene()
    call, receiver = scene.stream()
    receiver.on_message(data)
    assert call.ended is not None
    assert call.ended[0] is Code.INVALID_ARGUMENT
    assert scene.host.messages == []
    with pytest.raises(WireError):
        unseal(data)


def test_whole_messages_of_a_known_sum_that_mean_nothing_end_the_stream() -> None:
    """The sum is right, what it covers is not a message."""
    import google_crc32c

    body = b"\x00not a message"
    assert_ends_the_stream(google_crc32c.value(body).to_bytes(4, "big") + body)


def test_what_is_repeated_or_comes_late_is_the_cores_affair(scene: Scene) -> None:
    """Duplicated and reordered messages reach the core, which is made for them; the stream goes on."""
    call, receiver = scene.stream()
    first, second = message(term=4), message(term=5)
    for each in (second, first, first, second):
        receiver.on_message(seal(each))
    assert scene.host.messages == [second, first, first, second]
    assert call.ended is None


def test_the_streams_of_a_removed_member_are_ended(scene: Scene) -> None:
    """RF-64: it learns why, and the others' go on."""
    (its, _), (others, _), (again, _) = (
        scene.stream(),
        scene.stream(Identity(CLUSTER, STRANGER, 0)),
        scene.stream(),
    )
    scene.service.drop(PEER)
    assert its.ended == again.ended == (Code.FAILED_PRECONDITION, p.TEXT_REMOVED)
    assert others.ended is None


def test_stopping_ends_the_open_streams_and_no_closed_one(scene: Scene) -> None:
    (first, gone), (second, _) = scene.stream(), scene.stream()
    gone.on_half_close()
    gone.on_closed()
    scene.service.end_streams()
    assert first.ended == (Code.OK, "")
    assert second.ended == (Code.UNAVAILABLE, "this member is stopping")


# --- what a refusal says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (p.TEXT_OTHER_CLUSTER, p.RefusedByCluster),
        (p.TEXT_REMOVED, p.RefusedAsRemoved),
        (p.TEXT_OTHER_DATA, p.RefusedWithOtherData),
        (p.TEXT_WRONG_MEMBER, p.Refused),
        (p.TEXT_PROTOCOL, p.Refused),
        (p.TEXT_NOT_LEADER, p.PeerCallError),
    ],
)
def test_a_refusal_is_told_apart_by_its_text(text: str, kind: type[Exception]) -> None:
    error = p.error_of(Code.FAILED_PRECONDITION, text)
    assert (type(error), error.code, error.text) == (kind, Code.FAILED_PRECONDITION, text)
    assert type(p.error_of(Code.UNAVAILABLE, text)) is p.PeerCallError, "only with the code that goes with it"


@given(
    st.builds(
        message,
        kind=st.sampled_from([kind for kind in MessageType if kind is not MessageType.SNAP]),
        sender=st.integers(0, 2**64 - 1),
        term=st.integers(0, 2**64 - 1),
        context=st.binary(max_size=40),
        reject=st.booleans(),
        state_index=st.integers(0, 2**64 - 1),
        state_hash=st.integers(0, 2**64 - 1),
    )
)
def test_what_is_sealed_is_unsealed(sent: Message) -> None:
    assert unseal(seal(sent)) == sent


def test_a_member_says_who_it_is_in_hex_and_where_it_listens() -> None:
    said: dict[str, Any] = {
        "raftkv-cluster": "f" * 16,
        "raftkv-from": "a",
        "raftkv-to": "b",
        "raftkv-data": "0",
        "raftkv-urls": "http://a:1,http://b:2",
        "raftkv-protocol": "1",
    }
    me = Identity(2**64 - 1, 10, 0)
    assert dict(me.metadata(11, ("http://a:1", "http://b:2"))) == said
    assert dict(me.metadata(11)) == {**said, "raftkv-urls": ""}
    assert PEER_DATA != MY_DATA
