"""etcdserverpb.Watch: one stream carries any number of watchers.

Owns the ids of a stream's watchers, the requests and replies, progress, and the cutting into fragments. Which event
goes to which watcher, and who has fallen behind, is the hub's affair (`mvcc.watch`); this is its Sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from raftkv.api.errors import COMPACTED, NO_LEADER, STOPPED, Status, refuse
from raftkv.api.leader_watch import LeaderWatch
from raftkv.mvcc.watch import EventBatch, Watcher, WatchRangeEmptyError, WatchStartError
from raftkv.pb import rpc_pb2
from raftkv.pb.splice import varint
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.rpc.service import Call

NO_WATCH_ID: Final = -1
"""Watch id of replies that belong to no watcher: failed creations, progress of the whole stream."""

_DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
_EMPTY_RANGE: Final = "mvcc: watcher range is empty"

# Encoded field tags of WatchResponse (contract section 15).
_WATCH_ID: Final = b"\x10"
_FRAGMENT: Final = b"\x38\x01"


class WatchService:
    """Makes one WatchStream per call, and ticks those that want progress notifications."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._streams: dict[WatchStream, None] = {}

    def service(self) -> Service:
        return Service("etcdserverpb.Watch").bidi("Watch", self.open)

    def open(self, call: Call) -> WatchStream:
        stream = WatchStream(self._context, call, self._streams.pop)
        if self._context.unless_no_leader(call):
            self._streams[stream] = None
        return stream

    def end_streams(self) -> None:
        for stream in list(self._streams):
            stream.end(STOPPED)

    def on_tick(self, now: float) -> None:
        """Automatic progress (W-73), and streams that lost their leader (G-21)."""
        for stream in list(self._streams):
            stream.on_tick(now)


class WatchStream:
    """The receiver of one call and the hub's sink."""

    __slots__ = (
        "_call",
        "_context",
        "_forget",
        "_fragmented",
        "_full",
        "_ids",
        "_leader_watch",
        "_next_id",
        "_next_progress",
        "_progress",
    )

    def __init__(self, context: ApiContext, call: Call, forget: Callable[[WatchStream, None], object]) -> None:
        self._context = context
        self._call = call
        self._forget = forget
        self._ids: dict[int, Watcher] = {}
        self._next_id = 0
        self._full = False
        """The call's queue passed its high mark; nothing more is taken until `on_writable`. What the queue holds then
        is bounded by that mark plus one batch (W-92)."""
        self._fragmented: set[int] = set()
        """Watch ids that asked for fragments (W-80)."""
        self._progress: dict[int, bool] = {}
        """Watch ids that asked for progress -> nothing was sent to it since the last tick (W-73)."""
        self._next_progress = 0.0
        self._leader_watch = LeaderWatch(context.node, call)

    # --- what the client sends ----------------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        request = self._context.parse(self._call, rpc_pb2.WatchRequest.FromString, message)
        if request is None:
            return
        kind = request.WhichOneof("request_union")
        if kind is not None:  # a request with nothing in it is ignored (W-33)
            _HANDLERS[kind](self, request)

    def _create(self, request: rpc_pb2.WatchRequest) -> None:
        create = request.create_request
        watch_id = create.watch_id
        if watch_id < 0 or (watch_id and watch_id in self._ids):  # 0 asks for one that is free
            self._refuse_creation(_DUPLICATE_ID)
            return
        hub = self._context.node.hub
        if watch_id == 0:
            watch_id = self._pick_id()
        try:
            watcher = hub.watch(
                self,
                watch_id,
                create.key or b"\x00",  # W-03
                create.range_end,
                create.start_revision,
                create.filters,
                create.prev_kv,
            )
        except WatchRangeEmptyError:
            self._refuse_creation(_EMPTY_RANGE)
            return
        except WatchStartError:
            self._refuse_creation(COMPACTED.text)
            return
        self._ids[watch_id] = watcher
        if create.watch_id == 0:
            self._next_id = watch_id + 1
        if create.fragment:
            self._fragmented.add(watch_id)
        if create.progress_notify:
            self._progress[watch_id] = True
        # Nothing is delivered before this reply, because the hub delivers only when it is asked to (W-08).
        self._send(self._context.header_now(), rpc_pb2.WatchResponse(watch_id=watch_id, created=True))
        self._context.node.wake_watchers()

    def _pick_id(self) -> int:
        """One that is free; taken only when the watcher exists, so a refused creation leaves no gap (W-05)."""
        while self._next_id in self._ids:
            self._next_id += 1
        return self._next_id

    def _refuse_creation(self, reason: str) -> None:
        self._send(
            self._context.header_now(),
            rpc_pb2.WatchResponse(watch_id=NO_WATCH_ID, created=True, canceled=True, cancel_reason=reason),
        )

    def _cancel(self, request: rpc_pb2.WatchRequest) -> None:
        watch_id = request.cancel_request.watch_id
        watcher = self._ids.get(watch_id)
        if watcher is None:
            return  # W-31
        self._drop(watch_id)
        self._context.node.hub.cancel(watcher)
        self._send(self._context.header_now(), rpc_pb2.WatchResponse(watch_id=watch_id, canceled=True))

    def _drop(self, watch_id: int) -> None:
        del self._ids[watch_id]
        self._fragmented.discard(watch_id)
        self._progress.pop(watch_id, None)

    def _report_progress(self, _request: rpc_pb2.WatchRequest) -> None:
        revision = self._context.node.hub.synced(self)
        if revision is not None and not self._full:
            self._send(self._context.header(revision), rpc_pb2.WatchResponse(watch_id=NO_WATCH_ID))

    def on_half_close(self) -> None:
        """The stream goes on (W-32)."""

    def on_closed(self) -> None:
        self._forget(self, None)
        self._ids.clear()
        self._context.node.hub.sink_closed(self)

    def on_writable(self) -> None:
        self._full = False
        self._context.node.hub.sink_ready(self)
        self._context.node.wake_watchers()

    def end(self, status: Status) -> None:
        refuse(self._call, status)

    # --- what the hub delivers ----------------------------------------------------------------------------------------

    def deliver(self, watcher: Watcher, batch: EventBatch) -> bool:
        if self._full:
            return False
        watch_id = watcher.watch_id
        head = self._context.header(batch.header_revision)
        if watch_id:
            head += _WATCH_ID + varint(watch_id)
        if watch_id in self._fragmented:
            self._full = not self._call.send_many(self._fragments(head, batch))
        else:
            self._full = not self._call.send(head + batch.body)
        if watch_id in self._progress:
            self._progress[watch_id] = False
        return True

    def _fragments(self, head: bytes, batch: EventBatch) -> Iterator[bytes]:
        """Pieces below the limit, cut between events, all but the last marked (W-80, W-81)."""
        limit = self._context.node.config.max_recv_bytes
        if len(head) + len(batch.body) < limit:
            yield head + batch.body
            return
        piece: list[bytes] = []
        size = head_bytes = len(head) + len(_FRAGMENT)
        for entry in batch.entries:
            if piece and size + len(entry) >= limit:
                yield head + _FRAGMENT + b"".join(piece)
                piece, size = [], head_bytes
            piece.append(entry)
            size += len(entry)
        yield head + b"".join(piece)

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """The header's revision is 0 and there is no reason: the compact revision says it (W-40)."""
        if self._ids.get(watcher.watch_id) is watcher:
            self._drop(watcher.watch_id)
        self._send(
            self._context.header(0),
            rpc_pb2.WatchResponse(watch_id=watcher.watch_id, canceled=True, compact_revision=compact_revision),
        )

    def _send(self, header: bytes, response: rpc_pb2.WatchResponse) -> None:
        """A control reply: always taken, because each answers one request or ends one watcher."""
        if not self._call.send(header + response.SerializeToString()):
            self._full = True

    # --- time ---------------------------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        if self._leader_watch.is_lost(now):
            self.end(NO_LEADER)
            return
        if not self._progress:
            self._next_progress = 0.0
        elif self._next_progress == 0.0:
            self._next_progress = now + self._context.node.progress_interval_s()
        elif now >= self._next_progress:
            self._next_progress = now + self._context.node.progress_interval_s()
            self._notify_progress()

    def _notify_progress(self) -> None:
        hub = self._context.node.hub
        for watch_id, quiet in self._progress.items():
            self._progress[watch_id] = True
            revision = hub.watcher_synced(self._ids[watch_id])
            # Skipped for one tick after events (W-73); dropped when the client does not keep up (W-75).
            if quiet and revision is not None and not self._full:
                self._send(self._context.header(revision), rpc_pb2.WatchResponse(watch_id=watch_id))


_HANDLERS: Final[dict[str, Callable[[WatchStream, rpc_pb2.WatchRequest], None]]] = {
    "create_request": WatchStream._create,  # noqa: SLF001 - the table belongs to the class
    "cancel_request": WatchStream._cancel,  # noqa: SLF001 - the table belongs to the class
    "progress_request": WatchStream._report_progress,  # noqa: SLF001 - the table belongs to the class
}
