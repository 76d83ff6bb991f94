"""The way out to one other member: connecting, sending without waiting, noticing silence; on a clock of the tests."""

from __future__ import annotations

from typing import Any, Final

import pytest
from peers_support import ME, MINE, PEER, PEER_DATA, FakeHost, welcome
from server_support import FakeLoop

from raftkv.raft import Message, MessageType
from raftkv.rpc.channel import ChannelState
from raftkv.rpc.codes import Code
from raftkv.server.peers import Link, Refused, RefusedAsRemoved
from raftkv.server.peers import link as module
from raftkv.server.peers import protocol as p

HEARTBEAT = Message(MessageType.HEARTBEAT, PEER, sender=ME, term=2)
TICK_S = 0.1
OWN_URLS = ("http://a:1", "http://a:2")


class Stream:
    def __init__(self, client: Any, metadata: Any) -> None:
        self.client = client
        self.metadata = metadata
        self.sent: list[bytes] = []
        self.queued_bytes = 0
        self.closed = False

    def send(self, data: bytes) -> bool:
        assert not self.closed
        self.sent.append(data)
        return True

    def end(self, code: Code, text: str) -> None:
        if not self.closed:
            self.closed = True
            self.client.on_closed(code, text)


OUTGOING: Final = object()
"""The TLS that a link is given: it need only hand it on."""


class FakeChannel:
    """One connection. The test says how its streams and calls end."""

    made: list[FakeChannel]

    def __init__(self, loop: FakeLoop, host: str, port: int, **settings: Any) -> None:
        self.address = (settings["path"],) if settings["path"] else (host, port)
        self.tls = settings["tls"]
        self.state = ChannelState.IDLE
        self.failure = "connection refused"
        self.streams: list[Stream] = []
        self.calls: list[tuple[bytes, Any, Any, float]] = []
        self.closed = False
        self.made.append(self)

    def stream(self, path: bytes, client: Any, metadata: Any) -> Stream:
        assert path == p.MESSAGES
        assert not self.closed
        self.streams.append(Stream(client, metadata))
        return self.streams[-1]

    def unary(self, path: bytes, _request: bytes, on_done: Any, ctx: Any, timeout_s: float, _metadata: Any) -> None:
        assert not self.closed
        self.calls.append((path, on_done, ctx, timeout_s))

    def answer(self, code: Code = Code.OK, text: str = "", response: bytes = b"") -> None:
        _, on_done, ctx, _ = self.calls.pop(0)
        on_done(ctx, code, text, response)

    def close(self) -> None:
        """As the real one: everything on it ends, within the call."""
        self.closed = True
        for stream in self.streams:
            stream.end(Code.CANCELLED, "closing")
        while self.calls:
            self.answer(Code.CANCELLED, "closing")


class Scene:
    """A link, its clock, and what it reported."""

    def __init__(self, *urls: str) -> None:
        self.loop = FakeLoop()
        FakeChannel.made = []
        self.story: list[Any] = []
        self.accepted = True
        loop: Any = self.loop
        tls: Any = OUTGOING
        self.link = Link(loop, MINE, PEER, urls or ("http://b:2380",), OWN_URLS, self, tls)

    # --- the owner

    def accepts(self, peer_id: int, data_id: int) -> bool:
        self.story.append(("data", peer_id, data_id))
        return self.accepted

    def on_link_up(self, peer_id: int) -> None:
        self.story.append(("up", peer_id))

    def on_link_down(self, peer_id: int) -> None:
        self.story.append(("down", peer_id))

    def on_refused(self, peer_id: int, refusal: Refused) -> None:
        self.story.append(("refused", type(refusal)))

    # --- the test's hand

    @property
    def channel(self) -> FakeChannel:
        return FakeChannel.made[-1]

    @property
    def stream(self) -> Stream:
        return self.channel.streams[-1]

    def tick(self, seconds: float = TICK_S) -> None:
        """So much time passes, a tick at a time."""
        for _ in range(round(seconds / TICK_S)):
            self.loop.advance(TICK_S)
            self.link.on_tick(self.loop.time())

    def connect(self) -> None:
        self.tick()
        self.stream.client.on_message(welcome())


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Channel", FakeChannel)


# --- connecting and sending -------------------------------------------------------------------------------------------


def test_it_is_up_when_the_other_side_has_said_that_it_takes_messages() -> None:
    """RF-42: until then everything is lost, and counted."""
    scene = Scene()
    assert not scene.link.send(HEARTBEAT)
    scene.tick()
    assert (scene.channel.address, dict(scene.stream.metadata)) == (("b", 2380), dict(MINE.metadata(PEER, OWN_URLS)))
    assert not scene.link.send(HEARTBEAT)
    assert (scene.link.up, scene.link.lost, scene.stream.sent) == (False, 2, [])
    scene.stream.client.on_message(welcome())
    assert scene.story == [("data", PEER, PEER_DATA), ("up", PEER)]
    assert scene.link.up_since_s == scene.loop.time()
    assert scene.link.send(HEARTBEAT)
    assert scene.stream.sent == [p.seal(HEARTBEAT)]
    assert scene.link.sent_bytes == len(p.seal(HEARTBEAT))


def test_messages_leave_in_order() -> None:
    scene = Scene()
    scene.connect()
    messages = [Message(MessageType.APP, PEER, sender=ME, term=2, index=index) for index in range(20)]
    assert all(map(scene.link.send, messages))
    assert [p.unseal(data) for data in scene.stream.sent] == messages


def test_what_waits_for_a_slow_peer_is_bounded() -> None:
    """RF-42: beyond, messages are dropped and counted, until there is room again."""
    scene = Scene()
    scene.connect()
    scene.stream.queued_bytes = module.MAX_QUEUED_BYTES
    assert scene.link.send(HEARTBEAT)
    scene.stream.queued_bytes += 1
    assert not scene.link.send(HEARTBEAT)
    assert (scene.link.lost, len(scene.stream.sent)) == (1, 1)
    scene.stream.queued_bytes = 0
    assert scene.link.send(HEARTBEAT)


@pytest.mark.parametrize("said", [b"", b"1234567", b"123456789"])
def test_a_welcome_that_is_none_is_not_taken_for_one(said: bytes) -> None:
    scene = Scene()
    scene.tick()
    scene.stream.client.on_message(said)
    assert (scene.link.up, scene.channel.closed, scene.story) == (False, True, [])
    assert_tries_again_after(scene, module.REFUSED_RETRY_S)


def test_a_member_with_another_data_directory_is_not_talked_to() -> None:
    """RF-72: it is asked again, for the directory may be corrected."""
    scene = Scene()
    scene.accepted = False
    scene.connect()
    assert (scene.link.up, scene.channel.closed) == (False, True)
    assert scene.story == [("data", PEER, PEER_DATA)]
    assert_tries_again_after(scene, module.REFUSED_RETRY_S)
    scene.accepted = True
    scene.stream.client.on_message(welcome())
    assert scene.link.up


def assert_tries_again_after(scene: Scene, seconds: float) -> None:
    def streams() -> int:
        return sum(len(each.streams) for each in FakeChannel.made)

    before = streams()
    scene.tick(seconds - TICK_S)
    assert streams() == before
    scene.tick(2 * TICK_S)
    assert streams() == before + 1


def test_a_second_welcome_changes_nothing() -> None:
    scene = Scene()
    scene.connect()
    since_s = scene.link.up_since_s
    scene.loop.advance(1.0)
    scene.stream.client.on_message(welcome())
    assert (scene.link.up_since_s, scene.story.count(("up", PEER))) == (since_s, 1)


# --- losing the connection --------------------------------------------------------------------------------------------


def test_a_lost_connection_is_reported_once_and_made_again() -> None:
    scene = Scene()
    scene.connect()
    scene.stream.end(Code.UNAVAILABLE, "connection lost")
    assert scene.story[-1] == ("down", PEER)
    assert (scene.link.up, scene.link.disconnects, scene.link.send(HEARTBEAT)) == (False, 1, False)
    scene.connect()
    assert scene.story[-1] == ("up", PEER)
    assert scene.link.send(HEARTBEAT)
    assert len(FakeChannel.made) == 1, "the channel connects anew by itself"


def test_a_try_that_fails_is_no_loss() -> None:
    scene = Scene()
    for _ in range(3):
        scene.tick()
        scene.stream.end(Code.UNAVAILABLE, "there is no connection available")
    assert (scene.story, scene.link.disconnects) == ([], 0)


def test_a_member_that_is_heard_of_is_not_waited_for() -> None:
    """It was just started: until the link is up, a vote for it would be lost."""
    scene = Scene()
    scene.tick()
    scene.stream.end(Code.UNAVAILABLE, "connection refused")
    scene.channel.state = ChannelState.BACKING_OFF
    scene.tick()
    waiting = scene.channel
    scene.link.try_now()
    assert waiting.closed
    assert len(FakeChannel.made) == 2
    assert len(scene.channel.streams) == 1
    scene.link.try_now()
    assert (len(FakeChannel.made), len(scene.channel.streams)) == (2, 1), "one try at a time"
    scene.stream.client.on_message(welcome())
    scene.link.try_now()
    assert (scene.link.up, len(FakeChannel.made)) == (True, 2)
    scene.link.close()
    scene.link.try_now()
    assert len(FakeChannel.made) == 2


def test_a_refusal_is_reported_and_tried_again_later() -> None:
    """It may be that the other side does not know of us yet."""
    scene = Scene()
    scene.tick()
    scene.stream.end(Code.FAILED_PRECONDITION, p.TEXT_REMOVED)
    assert scene.story == [("refused", RefusedAsRemoved)]
    assert_tries_again_after(scene, module.REFUSED_RETRY_S)


def test_a_link_that_was_up_is_refused_later() -> None:
    """RF-64: removed while it was connected."""
    scene = Scene()
    scene.connect()
    scene.stream.end(Code.FAILED_PRECONDITION, p.TEXT_REMOVED)
    assert scene.story[2:] == [("down", PEER), ("refused", RefusedAsRemoved)]


def test_of_several_urls_the_next_is_tried_when_one_does_not_answer() -> None:
    scene = Scene("http://b:1", "http://c:2")
    asked = []
    for _ in range(3):
        scene.tick()
        asked.append((scene.link.url, scene.channel.address))
        scene.channel.state = ChannelState.BACKING_OFF
        scene.stream.end(Code.UNAVAILABLE, "there is no connection available")
        scene.tick()
    assert asked == [("http://b:1", ("b", 1)), ("http://c:2", ("c", 2)), ("http://b:1", ("b", 1))]
    assert all(each.closed for each in FakeChannel.made)


def test_a_single_url_is_tried_again_at_the_channels_pace(caplog: pytest.LogCaptureFixture) -> None:
    """And mentioned in the log, but not at every try."""
    scene = Scene()
    scene.tick()
    scene.stream.end(Code.UNAVAILABLE, "there is no connection available")
    scene.channel.state = ChannelState.BACKING_OFF
    scene.tick(2 * module.REPORT_EVERY_S - 1.0)
    assert (len(FakeChannel.made), len(scene.channel.streams)) == (1, 1)
    assert [record.getMessage() for record in caplog.records] == ["a member cannot be reached"] * 2
    assert [record.__dict__["kv"]["reason"] for record in caplog.records] == ["connection refused"] * 2
    scene.channel.state = ChannelState.IDLE
    scene.connect()
    assert scene.link.up


@pytest.mark.parametrize(
    ("url", "address", "tls"),
    [
        ("http://b:2380", ("b", 2380), None),
        ("https://b:2380", ("b", 2380), OUTGOING),
        ("unix:///run/b", ("/run/b",), None),
        ("unixs://b:2380", ("b:2380",), OUTGOING),
    ],
)
def test_every_kind_of_url_is_dialled(url: str, address: tuple[object, ...], tls: object) -> None:
    """H-06 and TLS-09: plain text where the URL says so, whatever TLS the member has."""
    scene = Scene(url)
    scene.connect()
    assert (scene.channel.address, scene.channel.tls, scene.link.up) == (address, tls, True)


@pytest.mark.parametrize("url", ["quic://b:2380", "http://b", "b:2380"])
def test_a_url_that_this_version_does_not_know_is_reported_and_not_dialled(
    caplog: pytest.LogCaptureFixture, url: str
) -> None:
    """A member of another version may have written it into the list."""
    scene = Scene(url)
    scene.tick(2 * module.REPORT_EVERY_S - 1.0)
    assert FakeChannel.made == []
    assert [record.getMessage() for record in caplog.records] == ["a member cannot be reached"] * 2
    assert [record.__dict__["kv"]["urls"] for record in caplog.records] == [[url]] * 2
    assert (scene.link.up, scene.link.send(HEARTBEAT), scene.story) == (False, False, [])
    scene.link.set_urls(["http://b:2380"])
    scene.connect()
    assert scene.link.up


def test_of_several_urls_the_one_that_members_speak_is_used() -> None:
    scene = Scene("quic://b:1", "http://b:2", "b:3")
    scene.tick()
    scene.connect()
    assert (scene.link.url, scene.channel.address, scene.link.up) == ("http://b:2", ("b", 2), True)
    scene.channel.state = ChannelState.BACKING_OFF
    scene.stream.end(Code.UNAVAILABLE, "there is no connection available")
    scene.tick(4 * TICK_S)
    assert [each.address for each in FakeChannel.made] == [("b", 2), ("b", 2)]


def test_a_member_that_has_moved_is_looked_for_where_it_is_now() -> None:
    """CL-40. Nothing changes when the addresses are those it had."""
    scene = Scene("http://b:1", "http://b:2")
    scene.connect()
    first = scene.channel
    scene.link.set_urls(["http://b:1", "http://b:2"])
    assert scene.link.up
    scene.link.set_urls(["http://d:4"])
    assert first.closed
    assert scene.story[-1] == ("down", PEER)
    scene.connect()
    assert (scene.channel.address, scene.link.url, scene.link.up) == (("d", 4), "http://d:4", True)


def test_a_closed_link_is_silent() -> None:
    scene = Scene()
    scene.connect()
    told = list(scene.story)
    scene.link.close()
    scene.tick(60.0)
    assert (scene.story, scene.link.up, scene.channel.closed, len(FakeChannel.made)) == (told, False, True, 1)
    assert not scene.link.send(HEARTBEAT)


# --- round trips and silence ------------------------------------------------------------------------------------------


def probed(scene: Scene, seconds: float) -> None:
    """The probe under way is answered after so long."""
    scene.loop.advance(seconds)
    response = FakeHost().probed().SerializeToString()
    scene.channel.answer(response=response)


def test_round_trips_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on during a turn: the loop's counts whole milliseconds."""
    scene = Scene()
    monkeypatch.setattr(module, "perf_counter", lambda: scene.loop.time())
    scene.connect()
    assert scene.link.rtt_s is None
    scene.tick()
    probed(scene, 0.016)
    link: Any = scene.link
    assert (link.rtt_s, link.mean_rtt_s) == (pytest.approx(0.016), pytest.approx(0.016))
    scene.tick(module.PROBE_INTERVAL_S)
    probed(scene, 0.024)
    assert (link.rtt_s, link.version) == (pytest.approx(0.024), "v")
    assert link.least_rtt_s == pytest.approx(0.016), "how far, rather than how busy"
    assert link.mean_rtt_s == pytest.approx(0.017), "an eighth of the way to the newest"


def test_one_probe_at_a_time_and_one_a_second() -> None:
    scene = Scene()
    scene.connect()
    scene.tick(2.0)
    assert [(path, timeout_s) for path, _, _, timeout_s in scene.channel.calls] == [(p.PROBE, module.PROBE_TIMEOUT_S)]
    probed(scene, 0.0)
    counts = []
    for _ in range(30):
        scene.tick()
        counts.append(len(scene.channel.calls))
        while scene.channel.calls:
            probed(scene, 0.0)
    assert sum(counts) == 3


def test_a_peer_that_has_fallen_silent_is_connected_to_anew() -> None:
    """A network that swallows packets; TCP alone would notice it after minutes."""
    scene = Scene()
    scene.connect()
    scene.tick()
    first = scene.channel
    first.answer(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    assert first.closed
    assert scene.story[-1] == ("down", PEER)
    scene.connect()
    assert scene.channel is not first
    assert scene.link.up


def test_a_connection_on_which_nobody_says_welcome_is_given_up() -> None:
    """The network swallows packets from the first moment on, or the peer is suspended just then."""
    scene = Scene()
    scene.tick(2 * TICK_S)
    first = scene.channel
    first.answer(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    assert first.closed
    assert (scene.story, scene.link.disconnects) == ([], 0), "it was never up"
    scene.connect()
    assert scene.channel is not first
    assert scene.link.up


def test_a_probe_that_fails_for_another_reason_leaves_the_connection_alone() -> None:
    scene = Scene()
    scene.connect()
    scene.tick()
    scene.channel.answer(Code.FAILED_PRECONDITION, p.TEXT_PROTOCOL)
    assert scene.link.up
    scene.tick(module.PROBE_INTERVAL_S + TICK_S)
    assert len(scene.channel.calls) == 1


# --- calls beside the stream ------------------------------------------------------------------------------------------


def test_a_call_without_a_connection_fails_later_as_surely_not_sent() -> None:
    """ER-02: whoever asked may ask again, whatever it was."""
    scene = Scene()
    done: list[Any] = []
    scene.link.call(p.FORWARD, b"r", lambda *result: done.append(result), "ctx", 1.0)
    assert done == []
    scene.loop.run()
    assert done == [("ctx", Code.UNAVAILABLE, "there is no connection available", b"")]


def test_calls_go_beside_the_stream() -> None:
    scene = Scene()
    scene.connect()
    done: list[Any] = []
    scene.link.call(p.FORWARD, b"r", lambda *result: done.append(result), "ctx", 1.5)
    assert [(path, timeout_s) for path, _, _, timeout_s in scene.channel.calls] == [(p.FORWARD, 1.5)]
    scene.channel.answer(response=b"answer")
    assert done == [("ctx", Code.OK, "", b"answer")]
