"""Watch streams of both sides: what was told, filed by watcher, and what every stream must keep to by itself.

Owns reading the streams. That two streams agree is the runner's to decide; that one stream is in order, complete per
revision and tells nothing outside a watcher's life is judged here (W-08, W-30, W-54, W-55, W-56).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc.aio

from differ.client import Side
from raftkv.pb import rpc_pb2

NO_WATCH_ID: Final = -1
FRAGMENT_BYTES: Final = 1_572_864 + 524_288
"""Responses as large as that are cut for watchers that ask for it (W-80), with the default --max-request-bytes."""


class Told:
    """What one watcher told on one side."""

    __slots__ = ("cancelled", "compared", "events", "in_fragments", "last", "released")

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.compared = 0
        """So many events have been compared already."""
        self.last = 0
        """mod_revision of the last event."""
        self.in_fragments = False
        self.cancelled: Any = None
        self.released = False
        """Cancelled once more after a compaction had ended it (W-43)."""


class StreamHalf:
    """One stream of one side."""

    def __init__(self, side: Side, member: int, user: str) -> None:
        self.side = side
        self.created: list[Any] = []
        self.progress: list[Any] = []
        self.watchers: dict[int, Told] = {}
        self.problems: list[str] = []
        self.ended: tuple[int, str] | None = None
        self._fragmented: set[int] = set()
        self._next_is_fragmented = False
        self._call = side.stub("Watch.Watch", member)(metadata=side.metadata(user))
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def create(self, request: Any) -> None:
        """Ask for one watcher. The one before must have been answered."""
        self._next_is_fragmented = request.fragment
        await self.send(create_request=request)

    async def send(self, **fields: Any) -> None:
        if self.ended is None:
            try:
                await self._call.write(rpc_pb2.WatchRequest(**fields).SerializeToString())
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.until(lambda: self.ended is not None, 5.0)

    async def close(self) -> None:
        self._call.cancel()
        await self._reader

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds, the stream has ended, or time is up; whether it holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition() and self.ended is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return condition()

    async def _read(self) -> None:
        try:
            async for body in self._call:
                self.take(rpc_pb2.WatchResponse.FromString(body))
                self._changed.set()
            self.ended = (0, "")
        except grpc.aio.AioRpcError as error:
            self.ended = (error.code().value[0], error.details() or "")
        except asyncio.CancelledError:
            self.ended = (1, "cancelled here")
        self._changed.set()

    def take(self, response: Any) -> None:
        """File one response."""
        watch_id = response.watch_id
        if response.created:
            self.created.append(response)
            if not response.canceled:
                self.watchers[watch_id] = Told()
                self._fragmented.discard(watch_id)
                if self._next_is_fragmented:
                    self._fragmented.add(watch_id)
            if response.events:
                self.problems.append(f"W-02: events in a created response: {response}")
            return
        told = self.watchers.get(watch_id)
        if not response.events and not response.canceled:
            self.progress.append(response)
        elif told is not None and response.canceled and told.cancelled is not None and told.cancelled.compact_revision:
            told.released = True
        elif told is None or told.cancelled is not None:
            self.problems.append(f"W-08, W-30: told by watcher {watch_id}, which does not live: {response}")
        elif response.canceled:
            told.cancelled = response
        else:
            self._take_events(told, response)

    def _take_events(self, told: Told, response: Any) -> None:
        revisions = [event.kv.mod_revision for event in response.events]
        # A revision is told in one response, or in the pieces of one (W-55).
        least = told.last if told.in_fragments else told.last + 1
        if revisions[0] < least or revisions != sorted(revisions):
            self.problems.append(f"W-54, W-55: watcher {response.watch_id} told {revisions} after {told.last}")
        if response.header.revision < revisions[-1]:
            self.problems.append(f"W-56: header revision {response.header.revision} with events up to {revisions[-1]}")
        self._judge_pieces(told, response)
        told.events.extend(response.events)
        told.last = revisions[-1]
        told.in_fragments = response.fragment

    def _judge_pieces(self, told: Told, response: Any) -> None:
        """Pieces come only where they were asked for, and are cut only where they must be (W-80, W-81, W-82)."""
        asked = response.watch_id in self._fragmented
        whole_is_too_large = response.ByteSize() >= FRAGMENT_BYTES and len(response.events) > 1
        if response.fragment and not asked:
            self.problems.append(f"W-82: watcher {response.watch_id} did not ask for pieces")
        if asked and whole_is_too_large:
            self.problems.append(f"W-80: watcher {response.watch_id} got {response.ByteSize()} bytes in one piece")
