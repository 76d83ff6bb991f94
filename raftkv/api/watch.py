"""etcdserverpb.Watch: one stream carries any number of watchers.

Owns the ids of a stream's watchers, the requests and replies, progress, and the cutting into fragments. Which event
goes to which watcher, and who has fallen behind, is the hub's affair (`mvcc.watch`); this is its Sink.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from raftkv.api.errors import COMPACTED, NO_LEADER, STOPPED, TOO_MANY_REQUESTS, Status, refuse, status_of
from raftkv.api.identity_gate import identify
from raftkv.api.leader_watch import LeaderWatch
from raftkv.api.registry_counts import ROOT
from raftkv.auth import AuthError
from raftkv.mvcc.watch import EventBatch, Watcher
from raftkv.mvcc.watch_index import WatchRangeEmptyError, watch_interval
from raftkv.pb import rpc_pb2
from raftkv.pb.splice import varint
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.auth import Identity
    from raftkv.rpc.codes import Code
    from raftkv.rpc.service import Call

MAX_HELD: Final = 10_000
"""Requests of one stream that wait until it is known whose they are. A client that sends more is refused."""

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
        "_closed",
        "_context",
        "_forget",
        "_fragmented",
        "_full",
        "_held",
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
        self._held: deque[bytes] | None = None
        """What came while the caller of a creation was being identified: requests are answered in their order."""
        self._closed = False

    # --- what the client sends ----------------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        if self._held is not None:
            self._held.append(message)
            if len(self._held) > MAX_HELD:
                self.end(TOO_MANY_REQUESTS)
            return
        request = self._context.parse(self._call, rpc_pb2.WatchRequest.FromString, message)
        if request is None:
            return
        kind = request.WhichOneof("request_union")
        if kind is not None:  # a request with nothing in it is ignored (W-33)
            _HANDLERS[kind](self, request)

    def _create(self, request: rpc_pb2.WatchRequest) -> None:
        if request.create_request.start_revision < 0:  # before anything else, who asks included (W-22)
            self._refuse_creation(COMPACTED.text)
        elif self._context.node.auth.enabled:
            self._held = deque()
            identify(self._context, self._call, self._create_as, request.create_request)
        else:
            self._watch(request.create_request)

    def _create_as(self, create: rpc_pb2.WatchCreateRequest, found: Identity | Exception) -> None:
        """Rights are checked here and never again (W-23, W-25)."""
        held, self._held = self._held, None
        if held is None:
            return  # the stream is over
        denied = self._why_denied(create, found)
        if denied is None:
            self._watch(create)
        else:
            self._refuse_creation(f"rpc error: code = {_go_name(denied.code)} desc = {denied.text}")
        for message in held:
            if self._closed:  # by one of them: a watcher made now would have no end
                return
            self.on_message(message)

    def _why_denied(self, create: rpc_pb2.WatchCreateRequest, found: Identity | Exception) -> Status | None:
        if isinstance(found, Exception):
            return status_of(found)
        try:
            self._context.node.auth.check_read(found, create.key or b"\x00", create.range_end)
        except AuthError as refusal:
            return status_of(refusal)
        return None

    def _watch(self, create: rpc_pb2.WatchCreateRequest) -> None:
        key, watch_id = create.key or b"\x00", create.watch_id  # W-03
        if key.startswith(ROOT):
            self._context.registry["Watch"].note(key, create.ByteSize())
        try:
            watch_interval(key, create.range_end)
        except WatchRangeEmptyError:  # before W-21
            self._refuse_creation(_EMPTY_RANGE)
            return
        if watch_id < 0 or (watch_id and watch_id in self._ids):  # 0 asks for one that is free
            self._refuse_creation(_DUPLICATE_ID)
            return
        watch_id = watch_id or self._pick_id()
        hub = self._context.node.hub
        self._ids[watch_id] = hub.watch(
            self, watch_id, key, create.range_end, create.start_revision, create.filters, create.prev_kv
        )
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
        self._closed = True
        self._held = None
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
            for fragment in self._fragments(head, batch):
                self._full = not self._call.send(fragment)
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


def _go_name(code: Code) -> str:
    """As the Go client knows it by: it compares the whole reason (W-24)."""
    return "".join(word.capitalize() for word in code.name.split("_"))


_HANDLERS: Final[dict[str, Callable[[WatchStream, rpc_pb2.WatchRequest], None]]] = {
    "create_request": WatchStream._create,  # noqa: SLF001 - the table belongs to the class
    "cancel_request": WatchStream._cancel,  # noqa: SLF001 - the table belongs to the class
    "progress_request": WatchStream._report_progress,  # noqa: SLF001 - the table belongs to the class
}
