"""v3electionpb.Election: a lock whose holder has something to say, and streams that tell who holds it and what it says
(contract section 8.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from raftkv.api import errors
from raftkv.api.claims import DEFAULT_TTL_S, if_unchanged, oldest_claim, prefix_end, prefix_of
from raftkv.api.errors import Status, refuse
from raftkv.api.leader_watch import LeaderWatch
from raftkv.api.local_client import or_refuse
from raftkv.pb import election_pb2, kv_pb2, rpc_pb2
from raftkv.rpc.service import Service

if TYPE_CHECKING:
    from raftkv.api.claims import Claims, Ownership
    from raftkv.mvcc.watch import EventBatch, Watcher
    from raftkv.rpc.service import Call

_NODELETE: Final = rpc_pb2.WatchCreateRequest.NODELETE
_Op: Final = rpc_pb2.RequestOp


class Election:
    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._context = claims.context
        self._local = claims.local
        self._observers: dict[Observer, None] = {}

    def service(self) -> Service:
        return (
            Service("v3electionpb.Election")
            .unary("Campaign", self.campaign)
            .unary("Proclaim", self.proclaim)
            .unary("Leader", self.leader)
            .server_stream("Observe", self.observe)
            .unary("Resign", self.resign)
        )

    def campaign(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, election_pb2.CampaignRequest.FromString, message)
        if request is None:
            return

        def on_owned(call: Call, ownership: Ownership) -> None:
            leader = election_pb2.LeaderKey(
                name=request.name, key=ownership.key, rev=ownership.revision, lease=ownership.lease
            )
            # The header is that of the claim, however long it waited.
            response = election_pb2.CampaignResponse(header=ownership.claimed, leader=leader)
            call.reply(response.SerializeToString())

        self._claims.claim(call, request.name, request.lease, on_owned, value=request.value)

    def proclaim(self, call: Call, message: bytes) -> None:
        """EL-04. A leader key without a lease is put with one of its own, as a claim without a lease is."""
        request = self._context.parse(call, election_pb2.ProclaimRequest.FromString, message)
        if request is None:
            return
        refused = check_leader_key(request)
        if refused is not None:
            refuse(call, refused)
            return

        def on_granted(answer: rpc_pb2.LeaseGrantResponse) -> None:
            self._proclaim(call, request.leader, request.value, answer.ID)

        if request.leader.lease:
            self._proclaim(call, request.leader, request.value, request.leader.lease)
        else:
            self._local.grant(call, DEFAULT_TTL_S, or_refuse(call, on_granted))

    def _proclaim(self, call: Call, leader: election_pb2.LeaderKey, value: bytes, lease: int) -> None:
        def on_put(answer: rpc_pb2.TxnResponse) -> None:
            if not answer.succeeded:
                refuse(call, errors.ELECTION_NOT_LEADER)
            else:
                call.reply(election_pb2.ProclaimResponse(header=answer.header).SerializeToString())

        put = _Op(request_put=rpc_pb2.PutRequest(key=leader.key, value=value, lease=lease))
        self._local.txn(call, if_unchanged(leader.key, leader.rev, put), or_refuse(call, on_put))

    def leader(self, call: Call, message: bytes) -> None:
        request = self._context.parse(call, election_pb2.LeaderRequest.FromString, message)
        if request is None:
            return

        def on_read(answer: rpc_pb2.RangeResponse) -> None:
            if not answer.kvs:
                refuse(call, errors.ELECTION_NO_LEADER)
            else:
                call.reply(election_pb2.LeaderResponse(header=answer.header, kv=answer.kvs[0]).SerializeToString())

        self._local.range(call, oldest_claim(request.name), or_refuse(call, on_read))

    def resign(self, call: Call, message: bytes) -> None:
        """EL-07: that somebody else leads by now is no error."""
        request = self._context.parse(call, election_pb2.ResignRequest.FromString, message)
        if request is None:
            return
        refused = check_leader_key(request)
        if refused is not None:
            refuse(call, refused)
            return

        def on_deleted(answer: rpc_pb2.TxnResponse) -> None:
            call.reply(election_pb2.ResignResponse(header=answer.header).SerializeToString())

        delete = _Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=request.leader.key))
        unchanged = if_unchanged(request.leader.key, request.leader.rev, delete)
        self._local.txn(call, unchanged, or_refuse(call, on_deleted))

    # --- streams ------------------------------------------------------------------------------------------------------

    def observe(self, call: Call) -> Observer:
        observer = Observer(self._claims, call, self._observers.pop)
        self._observers[observer] = None
        return observer

    def end_streams(self) -> None:
        for observer in list(self._observers):
            observer.end(errors.STOPPED)

    def on_tick(self, now: float) -> None:
        """Streams that lost their leader (G-21)."""
        for observer in list(self._observers):
            observer.on_tick(now)


def check_leader_key(request: election_pb2.ProclaimRequest | election_pb2.ResignRequest) -> Status | None:
    """EL-04, EL-07."""
    return None if request.HasField("leader") else errors.LEADER_KEY_MISSING


class Observer:
    """The receiver of one Observe call and the hub's sink: it follows the oldest claim as long as there is one, and
    otherwise waits for the first (EL-06).

    All that it sends is in the order of revisions, so nothing is sent twice and no value of the one that it follows is
    left out, however slowly the client reads; unless it is so slow that what it needs is compacted. Then it goes on
    from what is there, where etcd ends the stream.
    """

    __slots__ = (
        "_call",
        "_claims",
        "_closed",
        "_followed",
        "_forget",
        "_full",
        "_leader_watch",
        "_name",
        "_sent",
        "_turning",
    )

    def __init__(self, claims: Claims, call: Call, forget: Callable[[Observer, None], object]) -> None:
        self._claims = claims
        self._call = call
        self._forget = forget
        self._name = b""
        self._followed = b""
        """Key of the claim that is followed; empty while the first is waited for."""
        self._sent = 0
        """Mod revision of the last value sent."""
        self._turning = False
        """What the watcher was made for is over, and the next step is going to run."""
        self._full = False
        self._closed = False
        self._leader_watch = LeaderWatch(claims.context.node, call)

    def on_message(self, message: bytes) -> None:
        request = self._claims.context.parse(self._call, election_pb2.LeaderRequest.FromString, message)
        if request is not None:
            self._name = request.name
            self._claims.local.range(self._call, oldest_claim(self._name), self._on_read)

    # --- who leads ----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """This member's store will do from now on: it has what the watcher saw."""
        self._turning = False
        if not self._closed:
            self._claims.context.node.hub.sink_closed(self)
            self._claims.local.range(self._call, oldest_claim(self._name, serializable=True), self._on_read)

    def _on_read(self, answer: rpc_pb2.RangeResponse | Status) -> None:
        if self._closed:
            return
        if isinstance(answer, Status):
            self.end(answer)
            return
        revision = answer.header.revision
        if not answer.kvs:
            self._wait_for_first(revision)
            return
        kv = answer.kvs[0]
        if kv.mod_revision > self._sent or kv.key != self._followed:
            self._send(revision, kv)
        self._follow(kv.key, revision)

    def _wait_for_first(self, revision: int) -> None:
        self._followed = b""
        self._watch(prefix_of(self._name), prefix_end(self._name), revision + 1, (_NODELETE,))

    def _follow(self, key: bytes, revision: int) -> None:
        """All that happens to the key after this revision."""
        self._followed = key
        self._watch(key, b"", revision + 1, ())

    def _watch(self, key: bytes, range_end: bytes, start_revision: int, filters: tuple[int, ...]) -> None:
        node = self._claims.context.node
        watcher = node.hub.watch(self, 0, key, range_end, start_revision, filters)
        if not watcher.synced:
            node.wake_watchers()

    # --- what the hub delivers ----------------------------------------------------------------------------------------

    def deliver(self, _watcher: Watcher, batch: EventBatch) -> bool:
        if self._turning:
            return True  # the next watcher begins where this one has found what it was for
        if self._full:
            return False
        events = rpc_pb2.WatchResponse.FromString(batch.body).events
        if self._followed:
            self._on_followed(batch.header_revision, events)
        else:
            self._on_first(events[0].kv)
        return True

    def _on_followed(self, revision: int, events: Iterable[kv_pb2.Event]) -> None:
        for event in events:
            if event.type == kv_pb2.Event.DELETE:
                self._turn(self._read)
                return
            self._send(revision, event.kv)

    def _on_first(self, kv: kv_pb2.KeyValue) -> None:
        self._send(kv.mod_revision, kv)

        def follow() -> None:
            self._turning = False
            if not self._closed:
                self._claims.context.node.hub.sink_closed(self)
                self._follow(kv.key, kv.mod_revision)

        self._turn(follow)

    def cancelled(self, _watcher: Watcher, _compact_revision: int) -> None:
        self._turn(self._read)

    def _turn(self, step: Callable[[], None]) -> None:
        """Later: the hub must not be called from within itself."""
        self._turning = True
        self._claims.context.node.loop.call_soon(step)

    def _send(self, revision: int, kv: kv_pb2.KeyValue) -> None:
        self._sent = kv.mod_revision
        response = election_pb2.LeaderResponse(kv=kv).SerializeToString()
        if not self._call.send(self._claims.context.header(revision) + response):
            self._full = True

    # --- the call -----------------------------------------------------------------------------------------------------

    def on_half_close(self) -> None: ...

    def on_writable(self) -> None:
        self._full = False
        self._claims.context.node.hub.sink_ready(self)
        self._claims.context.node.wake_watchers()

    def on_tick(self, now: float) -> None:
        if self._leader_watch.is_lost(now):
            self.end(errors.NO_LEADER)

    def end(self, status: Status) -> None:
        refuse(self._call, status)

    def on_closed(self) -> None:
        self._closed = True
        self._forget(self, None)
        self._claims.context.node.hub.sink_closed(self)
