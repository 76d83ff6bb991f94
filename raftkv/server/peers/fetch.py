"""Copies of the store for members that cannot be helped with log entries any more (RF-45): the receiving side.

Asks another member for a copy, piece by piece, with a few requests on the way at a time and each answer checked, and
hands the pieces to whoever writes them down. Goes on where it was when the connection breaks. Owns the transfer, not
what becomes of the bytes. Used by a running follower and by `raftkv rebuild`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import google_crc32c

from raftkv.pb import peer_pb2
from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code, RpcError
from raftkv.server.peers.link import peer_channel
from raftkv.server.peers.protocol import CLOSE_COPY, OPEN_COPY, READ_COPY, PeerCallError, error_of

if TYPE_CHECKING:
    from raftkv.rpc.tls import Tls
    from raftkv.server.peers.protocol import Identity

PIECE_BYTES: Final = 256 << 10
"""Small enough that neither side's event loop is held up for long."""
PIECES_UNDER_WAY: Final = 8
CALL_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0
GIVE_UP_S: Final = 30.0
"""No piece has arrived for so long."""
RETRY_S: Final = 0.2


class CopyFacts(NamedTuple):
    """What the giving member says of its copy."""

    size_bytes: int
    applied: int
    """Index of the last entry in it."""
    term: int
    conf_state: bytes
    """As `raftkv.wire.encode_conf_state` writes it."""


class Receiver(Protocol):
    """Where the bytes go."""

    def write(self, offset: int, data: bytes) -> None:
        """In a thread. The same piece may come again. Raises OSError."""


Begin = Callable[[CopyFacts], Receiver]
"""Called in a thread, for it may have to make room."""
Progress = Callable[[int, int], None]
"""progress(bytes written, bytes in all)"""


async def fetch_copy(
    identity: Identity,
    peer_id: int,
    url: str,
    min_index: int,
    begin: Begin,
    progress: Progress | None = None,
    tls: Tls | None = None,
) -> CopyFacts:
    """Fetch a whole copy from the member at `url` (`tls`: if it is https); returns once the last piece was written.

    The giver keeps its copy until `fetch_copy` returns, and is told whether all of it arrived. Raises PeerCallError
    when it cannot be had, and whatever `begin` and `write` raise.
    """
    channel = peer_channel(asyncio.get_running_loop(), url, tls=tls)  # its own: heartbeats do not wait behind it
    fetch = _Fetch(channel, identity.metadata(peer_id), progress)
    try:
        return await fetch.run(min_index, begin)
    finally:
        await fetch.close()
        channel.close()


class _Fetch:
    def __init__(self, channel: Channel, metadata: Any, progress: Progress | None) -> None:
        self._channel = channel
        self._metadata = metadata
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._copy_id = 0
        self._written_bytes = 0
        self._size_bytes = 0
        self._moved_s = self._loop.time()
        """When the last piece arrived."""

    async def run(self, min_index: int, begin: Begin) -> CopyFacts:
        request = peer_pb2.OpenCopyRequest(min_index=min_index).SerializeToString()
        opened = peer_pb2.OpenCopyResponse.FromString(await self._call(OPEN_COPY, request))
        facts = CopyFacts(opened.size_bytes, opened.index, opened.term, opened.conf_state)
        self._copy_id, self._size_bytes = opened.copy_id, facts.size_bytes
        receiver = await self._loop.run_in_executor(None, begin, facts)
        self._moved_s = self._loop.time()
        offsets = iter(range(0, facts.size_bytes, PIECE_BYTES))
        # Each worker takes the next offset when it has written its piece: the disk here sets the pace.
        workers = [asyncio.ensure_future(self._work(offsets, receiver)) for _ in range(PIECES_UNDER_WAY)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return facts

    async def _work(self, offsets: Any, receiver: Receiver) -> None:
        for offset in offsets:
            data = await self._piece(offset, min(PIECE_BYTES, self._size_bytes - offset))
            await self._loop.run_in_executor(None, receiver.write, offset, data)
            self._written_bytes += len(data)
            if self._progress is not None:
                self._progress(self._written_bytes, self._size_bytes)

    async def _piece(self, offset: int, size: int) -> bytes:
        """Ask until it is there, or nothing at all has come for too long."""
        ask = peer_pb2.ReadCopyRequest(copy_id=self._copy_id, offset=offset, size_bytes=size).SerializeToString()
        while True:
            try:
                answer = peer_pb2.ReadCopyResponse.FromString(await self._call(READ_COPY, ask))
                if len(answer.data) == size and google_crc32c.value(answer.data) == answer.crc32c:
                    self._moved_s = self._loop.time()
                    return answer.data
                raise PeerCallError(Code.DATA_LOSS, f"the piece at {offset} does not arrive whole")
            except PeerCallError as failure:
                if failure.code not in _WORTH_A_RETRY or self._loop.time() - self._moved_s >= GIVE_UP_S:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _call(self, path: bytes, request: bytes, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        try:
            return await self._channel.unary_future(path, request, timeout_s, self._metadata)
        except RpcError as failure:
            raise error_of(failure.code, failure.text) from None

    async def close(self) -> None:
        if self._copy_id:
            received = self._written_bytes == self._size_bytes
            request = peer_pb2.CloseCopyRequest(copy_id=self._copy_id, received=received).SerializeToString()
            try:
                await self._call(CLOSE_COPY, request, CLOSE_TIMEOUT_S)
            except PeerCallError:
                return  # the giver will notice that nobody reads any more


_WORTH_A_RETRY: Final = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.INTERNAL, Code.DATA_LOSS)
