"""Whatever a peer sends, no exception leaves the connection, and how the bytes are cut changes nothing."""

from __future__ import annotations

import os
import random
from functools import partial
from itertools import pairwise

from helpers.effort import calls_during
from hypothesis import given, settings
from hypothesis import strategies as st
from rpc_kit import Peer, message, plain_block, request

from raftkv.rpc import frames
from raftkv.rpc.client_connection import ClientConnection
from raftkv.rpc.frames import END_HEADERS, END_STREAM, PREFACE, frame
from raftkv.rpc.limits import DEFAULT_LIMITS
from raftkv.rpc.stats import Stats

BLOCKS = [plain_block(request(f"/test.Echo/{name}")) for name in ("Unary", "Hold", "Bidi", "Count", "None")]
IDS = st.integers(0, 9)
CALLS_PER_BYTE = 10
"""Of functions, that what was sent may cost; and as if it had been 100 bytes longer."""

valid_frames = st.one_of(
    st.builds(
        lambda sid, block, flags: frame(frames.HEADERS, flags, sid, block),
        IDS,
        st.sampled_from(BLOCKS),
        st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM, 0]),
    ),
    st.builds(
        lambda sid, body, flags: frame(frames.DATA, flags, sid, message(body)),
        IDS,
        st.sampled_from([b"", b"3", b"70000"]),
        st.sampled_from([0, END_STREAM]),
    ),
    st.builds(frames.window_update, IDS, st.integers(0, 2**31 - 1)),
    st.builds(frames.rst_stream, IDS, st.integers(0, 20)),
    st.builds(lambda key, value: frames.settings({key: value}), st.integers(0, 7), st.integers(0, 2**32 - 1)),
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), IDS, st.binary(max_size=40)),
)
sessions = st.lists(valid_frames, max_size=25).map(lambda parts: b"".join(parts))


def play(data: bytes, cuts: list[int]) -> bytes:
    peer = Peer()
    written = b""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(edges):
        peer.send(data[start:end])
    for _ in range(50):
        written += peer.connection.take_output()
    peer.connection.connection_lost()
    assert peer.stats.handler_errors <= 25
    assert peer.connection.partial_bytes == 0
    assert peer.connection.outbox.queued_bytes == 0
    assert not peer.connection.streams
    assert all(stream.closed == 1 for stream in peer.service.streams)
    return written


@settings(max_examples=300, deadline=None)
@given(sessions, st.lists(st.integers(1, 400), max_size=8))
def test_chunking_changes_nothing(data: bytes, cuts: list[int]) -> None:
    assert play(data, cuts) == play(data, [])


@settings(max_examples=200, deadline=None)
@given(sessions, st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6))
def test_damaged_sessions(data: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for at, octet in damage:
        if at < len(damaged):
            damaged[at] = octet
    play(bytes(damaged), [])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_noise(data: bytes, after_preface: bool) -> None:
    peer = Peer(start=False)
    peer.send((PREFACE if after_preface else b"") + data)
    peer.connection.connection_lost()


@settings(max_examples=200, deadline=None)
@given(sessions)
def test_noise_for_a_client(data: bytes) -> None:
    connection = ClientConnection(DEFAULT_LIMITS, Stats(), lambda: None, lambda: None, 0.0)
    connection.receive_data(frames.settings({}) + data, 0.0)
    connection.connection_lost()


def _mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Pieces of good sessions, with a few bytes changed, left out or put in."""
    data = bytearray()
    for _ in range(chance.randint(1, 6)):
        data += chance.choice(seeds)
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del data[at : at + chance.randint(1, 9)]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 9))
        if not data:
            return b"\0"
    return bytes(data)


def test_many_damaged_sessions() -> None:
    """As many as RAFTKV_FUZZ_INPUTS says, 2000 by default. A million take some five minutes.

    Whatever comes, the connection answers, holds nothing in the end, and has not worked for long.
    """
    seeds = [
        *(frame(frames.HEADERS, END_HEADERS, stream_id, block) for block in BLOCKS for stream_id in (1, 3, 5)),
        *(frame(frames.DATA, END_STREAM, stream_id, message(b"3")) for stream_id in (1, 3, 5)),
        frame(frames.HEADERS, 0, 7, BLOCKS[0][:20]) + frame(frames.CONTINUATION, END_HEADERS, 7, BLOCKS[0][20:]),
        frame(frames.HEADERS, END_HEADERS, 9, b"\x40\x01a\x01b\x83\xbe\x3f\xe1\x1f"),
        frame(frames.DATA, frames.PADDED, 1, b"\x02" + message(b"x") + b"\0\0"),
        frame(frames.PRIORITY, 0, 1, bytes(5)),
        frames.settings({1: 100, 4: 70_000, 5: 20_000}),
        frames.window_update(0, 1000) + frames.window_update(1, 1000),
        frames.rst_stream(1, 8),
        frames.ping(bytes(8), ack=False) + frames.ping(bytes(8), ack=True),
        frames.goaway(0, 0),
    ]
    inputs = int(os.environ.get("RAFTKV_FUZZ_INPUTS", "2000"))
    for number in range(inputs):
        data = _mutated(random.Random(number), seeds)
        try:
            calls = calls_during(partial(play, data, [len(data) // 2]))
        except BaseException as error:  # the HPACK decoder panics in native code with one of these
            error.add_note(f"input {number}: {data.hex()}")
            raise
        assert calls < CALLS_PER_BYTE * (len(data) + 100), f"input {number}: {data.hex()}"
