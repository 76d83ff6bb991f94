"""What somebody counts of a connection's output is told to have left exactly once, whatever becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rpc_kit import Peer, bound_socket, message, plain_block, request, run, until

from raftkv.rpc import frames
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code
from raftkv.rpc.flow import Leaving
from raftkv.rpc.frames import DATA, ErrorCode
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Call, Service, build_routes

PARTS = [b"a" * 50_000, b"b" * 30_000, b"c" * 20_000]
SIZE = sum(map(len, PARTS))
FRAMED = SIZE + 5


class Counter:
    """What is in flight: put in when it is sent, taken out as `left` says."""

    def __init__(self) -> None:
        self.gone = 0

    def left(self, size_bytes: int) -> None:
        assert size_bytes > 0
        self.gone += size_bytes


def hold(peer: Peer, stream_id: int = 1) -> tuple[Any, Counter]:
    """A call that was answered in parts. The windows take 65535 bytes of them."""
    peer.call(stream_id, b"", "/test.Echo/Hold")
    call: Any = peer.service.held[-1][0]
    counter = Counter()
    call.reply_in_parts(list(PARTS), counter.left)
    return call, counter


def test_the_parts_are_one_message_and_leave_when_the_transport_says_so() -> None:
    peer = Peer()
    _, counter = hold(peer)
    got = b"".join(payload for kind, _, _, payload in peer.frames() if kind == DATA)
    assert counter.gone == 0, "it may all be in the transport's buffer"
    peer.connection.outbox.leaving.keep(40_000)
    assert counter.gone == 65535 - 40_000
    peer.connection.outbox.leaving.keep(0)
    assert counter.gone == 65535
    peer.send(frames.window_update(1, 1 << 20) + frames.window_update(0, 1 << 20))
    (fields, rest) = peer.replies()[1]
    assert got + rest == message(b"".join(PARTS))
    assert fields[b"grpc-status"] == b"0"
    peer.connection.outbox.leaving.keep(0)
    assert counter.gone == FRAMED
    assert not peer.connection.outbox.reports
    assert not peer.connection.streams


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda peer: peer.send(frames.rst_stream(1, ErrorCode.CANCEL)), id="cancelled"),
        pytest.param(lambda peer: peer.connection.connection_lost(), id="connection cut"),
        pytest.param(lambda peer: peer.connection.fail(ErrorCode.NO_ERROR, "over"), id="GOAWAY of ours"),
        pytest.param(lambda peer: peer.send(frames.frame(99, 0, 0) + frames.ping(b"1", False)), id="a mistake"),
        pytest.param(lambda peer: peer.service.held[0][0].cut_off(), id="given up"),
    ],
)
@pytest.mark.parametrize("sent", [False, True])
def test_nothing_is_forgotten_when_the_call_ends_early(end: Any, sent: bool) -> None:
    """Neither what waited for a window nor what is on its way."""
    peer = Peer()
    _, counter = hold(peer)
    if sent:
        peer.frames()
    end(peer)
    peer.connection.connection_lost()
    assert counter.gone == FRAMED
    assert (peer.connection.outbox.queued_bytes, peer.connection.outbox.leaving.size_bytes) == (0, 0)


def test_a_goaway_of_the_clients_lets_the_answer_end() -> None:
    peer = Peer()
    _, counter = hold(peer)
    peer.send(frames.goaway(0, ErrorCode.NO_ERROR, b""))
    peer.send(frames.window_update(1, 1 << 20) + frames.window_update(0, 1 << 20))
    peer.frames()
    peer.connection.outbox.leaving.keep(0)
    assert counter.gone == FRAMED


@pytest.mark.parametrize("path", ["/test.Echo/Hold", "/test.Echo/Bidi"])
def test_an_answer_to_a_call_that_has_ended_has_left(path: str) -> None:
    """By its deadline, or because the client went."""
    peer = Peer()
    peer.call(1, b"", path)
    call: Any = peer.service.held[0][0] if path.endswith("Hold") else peer.service.streams[0].call
    peer.send(frames.rst_stream(1, ErrorCode.CANCEL))
    counter = Counter()
    if path.endswith("Hold"):
        call.reply_in_parts(list(PARTS), counter.left)
    else:
        assert call.send_counted(PARTS[0], counter.left)
    assert counter.gone == (SIZE if path.endswith("Hold") else len(PARTS[0]))


def test_a_deadline_that_passes_drops_what_a_stream_has_queued() -> None:
    peer = Peer()
    peer.headers(1, [*request("/test.Echo/Bidi"), (b"grpc-timeout", b"1S")])
    call = peer.service.streams[0].call
    counter = Counter()
    assert call.send_counted(b"x" * 200_000, counter.left)
    peer.frames()
    peer.connection.streams[1].on_deadline()  # type: ignore[attr-defined]
    peer.connection.outbox.leaving.keep(0)
    assert counter.gone == 200_005


def test_messages_of_a_stream_leave_in_their_order() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    call = peer.service.streams[0].call
    first, second, small = Counter(), Counter(), Counter()
    call.send_counted(b"x" * 60_000, first.left)
    call.send_counted(b"y" * 60_000, second.left)
    call.send_counted(b"z" * 10, small.left)
    peer.frames()
    peer.connection.outbox.leaving.keep(0)
    assert (first.gone, second.gone, small.gone) == (60_005, 65_535 - 60_005, 0)
    peer.connection.connection_lost()
    assert (first.gone, second.gone, small.gone) == (60_005, 60_005, 15)


def test_a_small_message_that_nothing_holds_up_is_not_waited_for() -> None:
    peer = Peer()
    peer.headers(1, request("/test.Echo/Bidi"))
    counter = Counter()
    assert peer.service.streams[0].call.send_counted(b"tiny", counter.left)
    assert counter.gone == 4


def test_giving_up_resets_the_stream_and_then_the_connection() -> None:
    """The code is one that clients know as RESOURCE_EXHAUSTED."""
    peer = Peer()
    call, counter = hold(peer)
    peer.frames()
    call.cut_off()
    assert peer.errors() == [(1, ErrorCode.ENHANCE_YOUR_CALM)]
    assert counter.gone == FRAMED - 65535, "the rest is on its way"
    assert not peer.connection.finished
    call.cut_off()
    assert peer.connection.finished
    assert peer.connection.outbox.leaving.is_hopeless


def test_what_is_kept_is_counted_from_the_end() -> None:
    leaving, one, two = Leaving(), Counter(), Counter()
    leaving.add(one.left, 10)
    leaving.add(two.left, 20)
    leaving.keep(50)
    assert (one.gone, two.gone, leaving.size_bytes) == (0, 0, 30)
    leaving.keep(25)
    assert (one.gone, two.gone) == (5, 0)
    leaving.keep(20)
    assert (one.gone, two.gone) == (10, 0)
    leaving.keep(0)
    assert (one.gone, two.gone, leaving.size_bytes) == (10, 20, 0)


class Turns:
    """A line in which nobody's turn comes before the test says so."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def add(self, task: Any) -> None:
        self.tasks.append(task)


def test_connections_with_much_to_send_wait_for_their_turns_and_small_replies_do_not() -> None:
    counter, turns = Counter(), Turns()

    def large(call: Call, _message: bytes) -> None:
        call.reply_in_parts([bytes(1 << 20)] * 3, counter.left)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service("test.Echo").unary("Large", large).unary("Small", lambda call, sent: call.reply(sent))
        listener = Listener(loop, build_routes([service]), line=turns)
        sock, port = bound_socket()
        await listener.start(sock)
        channel = Channel(loop, "127.0.0.1", port)
        ends: list[Code] = []
        sizes: list[int] = []

        def on_done(_: object, code: Code, _text: str, body: bytes) -> None:
            ends.append(code)
            sizes.append(len(body))

        channel.unary(b"/test.Echo/Large", b"", on_done)
        await until(lambda: bool(turns.tasks))
        assert await channel.unary_future(b"/test.Echo/Small", b"quick") == b"quick"
        assert (len(turns.tasks), ends) == (1, [])
        while not ends:
            if turns.tasks:
                assert not turns.tasks.pop().step()
            await asyncio.sleep(0.001)
        assert (ends, sizes) == ([Code.OK], [3 << 20])
        await until(lambda: counter.gone == (3 << 20) + 5)
        channel.close()
        await listener.drain()

    run(main)


def test_what_nobody_reads_goes_with_its_connection() -> None:
    """Through a real socket: in the transport's buffer it has not left."""
    counter = Counter()
    held: list[Call] = []

    def large(call: Call, _message: bytes) -> None:
        held.append(call)
        call.reply_in_parts([bytes(1 << 20)] * 30, counter.left)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = Listener(loop, build_routes([Service("test.Echo").unary("Large", large)]))
        sock, port = bound_socket()
        await listener.start(sock)
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, plain_block(request("/test.Echo/Large")))
        body = frames.frame(DATA, frames.END_STREAM, 1, message(b""))
        opening = frames.PREFACE + frames.settings({4: 2**31 - 1}) + frames.window_update(0, 2**30)
        writer.write(opening + frames.SETTINGS_ACK + head + body)
        await until(lambda: bool(held) and counter.gone > 0)
        before = -1
        while before != counter.gone:  # until the kernel takes no more
            before = counter.gone
            await asyncio.sleep(0.2)
        assert counter.gone < 30 << 20
        held[0].cut_off()
        held[0].cut_off()
        await until(lambda: counter.gone == (30 << 20) + 5 and not listener.connections)
        writer.close()
        await listener.drain()

    run(main)
