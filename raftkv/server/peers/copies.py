"""Copies of the store for members that cannot be helped with log entries any more (RF-45): the giving side.

A copy is one snapshot of the store, open for as long as somebody reads it. The reader asks for piece after piece, at
its own pace, and again for what did not arrive: a broken connection costs nothing but the piece under way. Owns the
open copies and forgets those that nobody reads. Reading happens in a thread; the receiving side is `fetch`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import google_crc32c

from raftkv.backend import BackendError
from raftkv.pb import peer_pb2
from raftkv.rpc.codes import Code
from raftkv.server.peers.transfers import TransferTable

if TYPE_CHECKING:
    from raftkv.backend import Backend, HotCopy
    from raftkv.histogram import Histogram
    from raftkv.rpc.service import Call

_log = logging.getLogger(__name__)

MAX_COPIES: Final = 16
"""At once (RF-44). Beyond, the asker is told to come again: RESOURCE_EXHAUSTED."""
MAX_PIECE_BYTES: Final = 1 << 20
IDLE_S: Final = 30.0
"""A copy that nobody has read from for so long is closed."""
KEEP_LOG_S: Final = 30.0
"""The log behind a copy is kept for this long after it was received, for the entries since (RF-44)."""


class _OpenCopy:
    __slots__ = ("began_s", "copy", "ended", "reader", "reading", "received", "used_s")

    def __init__(self, copy: HotCopy, reader: int, now: float) -> None:
        self.copy = copy
        self.reader = reader
        self.began_s = self.used_s = now
        self.reading = 0
        """Reads under way in threads: the copy may not be closed."""
        self.ended = False
        """Its reader asks for no more of it: it goes when the last read has returned."""
        self.received: bool | None = None
        """How it ended; None: its reader has begun anew, and nobody is told."""


class Copies:
    """`on_ended(member_id, received)` is called when a member has its copy, or has given up on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        backend: Backend,
        conf_state: Callable[[], bytes],
        on_ended: Callable[[int, bool], None],
        durations: Histogram | None = None,
    ) -> None:
        """`conf_state`: the encoded configuration in force now. `durations`: of copies that arrived whole, seconds."""
        self._loop = loop
        self._backend = backend
        self._conf_state = conf_state
        self._on_ended = on_ended
        self._durations = durations
        self._open: dict[int, _OpenCopy] = {}
        self._expected: dict[int, float] = {}
        """Members that were told to fetch a copy -> until when they should have begun (loop time)."""
        self._kept: list[tuple[float, int]] = []
        """(until when, index): log that is kept for those who have received a copy."""
        self.sent = 0
        """Copies that arrived whole."""
        self.failed = 0
        self.transfers = TransferTable("etcd_network_snapshot_send_total_duration_seconds")

    def __len__(self) -> int:
        return len(self._open)

    @property
    def oldest_index(self) -> int | None:
        """Log behind this index is still wanted by somebody who has, or reads, a copy; None: by nobody."""
        indexes = [each.copy.consistent_index for each in self._open.values()] + [index for _, index in self._kept]
        return min(indexes, default=None)

    def expect(self, member_id: int) -> None:
        """That member has been told to fetch a copy. If it does not begin, `on_ended` says so."""
        self._expected[member_id] = self._loop.time() + IDLE_S

    # --- requests -----------------------------------------------------------------------------------------------------

    def open(self, call: Call, reader: int, request: peer_pb2.OpenCopyRequest) -> None:
        for copy_id in [key for key, each in self._open.items() if each.reader == reader]:
            self._end_when_read(copy_id, received=None)
        if len(self._open) >= MAX_COPIES:
            call.fail(Code.RESOURCE_EXHAUSTED, "too many copies of the store are being read; try again")
            return
        try:
            copy = self._backend.begin_copy()
        except (BackendError, OSError) as failure:
            call.fail(Code.UNAVAILABLE, f"the store cannot be copied: {failure}")
            return
        if copy.consistent_index < request.min_index:
            behind = f"this member has applied entry {copy.consistent_index}, {request.min_index} is wanted"
            copy.close()
            call.fail(Code.OUT_OF_RANGE, behind)
            return
        self._expected.pop(reader, None)
        copy_id = secrets.randbits(64) or 1
        self._open[copy_id] = _OpenCopy(copy, reader, self._loop.time())
        self.transfers.of(reader).under_way += 1
        fields = {"for": f"{reader:x}", "size_bytes": copy.size_bytes, "index": copy.consistent_index}
        _log.info("a copy of the store is being read", extra={"kv": fields})
        answer = peer_pb2.OpenCopyResponse(
            copy_id=copy_id,
            size_bytes=copy.size_bytes,
            index=copy.consistent_index,
            term=copy.term,
            conf_state=self._conf_state(),
        )
        call.reply(answer.SerializeToString())

    def read(self, call: Call, request: peer_pb2.ReadCopyRequest) -> None:
        opened = self._open.get(request.copy_id)
        if opened is None or opened.ended:
            call.fail(Code.NOT_FOUND, "this copy is closed")
            return
        opened.used_s = self._loop.time()
        opened.reading += 1
        size = min(request.size_bytes, MAX_PIECE_BYTES)
        reading = self._loop.run_in_executor(None, _read_piece, opened.copy, request.offset, size)
        reading.add_done_callback(lambda done: self._on_read(call, request.copy_id, done))

    def _on_read(self, call: Call, copy_id: int, reading: asyncio.Future[tuple[bytes, int]]) -> None:
        opened = self._open[copy_id]
        opened.reading -= 1
        if opened.ended and not opened.reading:
            self._end(copy_id, received=opened.received)
        failure = reading.exception()
        if failure is not None:
            call.fail(Code.INTERNAL, f"the store cannot be read: {failure}")
            return
        data, crc = reading.result()
        call.reply(peer_pb2.ReadCopyResponse(data=data, crc32c=crc).SerializeToString())

    def close(self, call: Call, request: peer_pb2.CloseCopyRequest) -> None:
        """Answered also when it is closed already: the answer to the first request may have been lost."""
        if request.copy_id in self._open:
            self._end_when_read(request.copy_id, received=request.received)
        call.reply(peer_pb2.CloseCopyResponse().SerializeToString())

    def _end_when_read(self, copy_id: int, received: bool | None) -> None:
        """A reader that gives up has requests on the way, and their threads have the file."""
        opened = self._open[copy_id]
        if not opened.ended:
            opened.ended, opened.received = True, received
            if not opened.reading:
                self._end(copy_id, received=received)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        for copy_id, opened in list(self._open.items()):
            if now - opened.used_s >= IDLE_S and not opened.reading:
                self._end(copy_id, received=False)
        for member_id in [each for each, until_s in self._expected.items() if now >= until_s]:
            del self._expected[member_id]
            self._on_ended(member_id, False)
        if self._kept:
            self._kept = [each for each in self._kept if now < each[0]]

    def _end(self, copy_id: int, received: bool | None) -> None:
        """`received` None: the reader begins anew, so nothing has ended for it."""
        opened = self._open.pop(copy_id)
        transfers = self.transfers.of(opened.reader)
        transfers.under_way -= 1
        if received:
            self.sent += 1
            transfers.succeeded += 1
            transfers.durations.observe(self._loop.time() - opened.began_s)
            if self._durations is not None:
                self._durations.observe(self._loop.time() - opened.began_s)
            self._kept.append((self._loop.time() + KEEP_LOG_S, opened.copy.consistent_index))
        else:
            self.failed += 1
            transfers.failed += 1
        opened.copy.close()
        if received is not None:
            self._on_ended(opened.reader, received)

    async def stop(self) -> None:
        """Wait for the reads under way, then let go of all copies."""
        while any(each.reading for each in self._open.values()):
            await asyncio.sleep(0.01)
        for opened in self._open.values():
            opened.copy.close()
        self._open.clear()


def _read_piece(copy: HotCopy, offset: int, size: int) -> tuple[bytes, int]:
    """In a thread. A read may give less than was asked for; a piece is whole, or it ends with the copy."""
    parts = []
    while size and (part := copy.read(offset, size)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    data = b"".join(parts)
    return data, google_crc32c.value(data)
