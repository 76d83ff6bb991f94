"""A member and its Lock and Election services for tests: what is proposed waits until the test commits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api_support import MEMBER_ID, TERM, FakeCall, FakeNode, raw
from google.protobuf.message import Message

from raftkv.api.claims import Claims, oldest_claim
from raftkv.api.election import Election, Observer
from raftkv.api.kv import KV
from raftkv.api.lease import LeaseService
from raftkv.api.local_client import LocalClient
from raftkv.api.lock import Lock
from raftkv.apply import Kind, encode_batch
from raftkv.mvcc import RangeQuery
from raftkv.pb import election_pb2, kv_pb2, lock_pb2, rpc_pb2
from raftkv.raft import Entry
from raftkv.rpc.codes import Code
from raftkv.rpc.service import build_routes

Refusal = tuple[Code, str]


class WaitingCall(FakeCall):
    """A call that may end in the middle: `cancel` is what happens when its client goes."""

    def __init__(self, room: int | None = None, **metadata: str) -> None:
        super().__init__(room, **metadata)
        self.ended = False
        self._on_closed: Callable[[], None] = lambda: None
        self.tls_common_name = None
        self.peer = "client:1"

    def when_closed(self, callback: Callable[[], None]) -> None:
        if self.ended:
            callback()
        else:
            self._on_closed = callback

    def reply(self, message: bytes) -> None:
        if not self.ended:
            self.ended = True
            super().reply(message)

    def fail(self, code: Code, text: str) -> None:
        if not self.ended:
            self.ended = True
            super().fail(code, text)
            self._on_closed()

    def cancel(self) -> None:
        if not self.ended:
            self.ended = self.cancelled = True
            self._on_closed()


class FakeLoop:
    """Runs nothing until `Scene.settle`; time passes when the test says so."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.soon.append((callback, args))

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)

    def turn(self) -> bool:
        soon, self.soon = self.soon, []
        for callback, args in soon:
            callback(*args)
        return bool(soon)


class ClaimNode(FakeNode):
    """Entries are committed by `commit`, with callbacks and events in the order of the real node: results first."""

    min_lease_ttl_s = 2

    def __init__(self) -> None:
        super().__init__()
        self.loop = FakeLoop()
        self.waiting: list[tuple[int, bytes, Callable[[Any, Any], None], Any]] = []
        self.held_reads: list[tuple[Callable[[Any, Any], None], Any]] | None = None
        """While not None, linearizable reads wait here."""
        self.watchers_awake = False
        """Somebody said that there is history to serve."""
        self.next_lease_id = 0x1000
        self.refusals: list[Exception] = []
        """What the next proposals end with, unapplied."""

    def wake_watchers(self) -> None:
        self.watchers_awake = True

    def new_lease_id(self) -> int:
        self.next_lease_id += 1
        return self.next_lease_id

    def propose(self, kind: int, message: bytes, finish: Callable[[Any, Any], None], context: Any) -> None:
        if self.refusals:
            finish(context, self.refusals.pop(0))
            return
        self.proposed.append((kind, message))
        self.waiting.append((kind, message, finish, context))

    def linearizable(self, read: Callable[[Any, Any], None], context: Any) -> None:
        if self.held_reads is None:
            super().linearizable(read, context)
        else:
            self.held_reads.append((read, context))

    def commit(self, *, published: bool = True) -> None:
        """All that waits, as one entry. `published` False: watchers are not told, as when a store is replaced."""
        batch, self.waiting = self.waiting, []
        index = self.applier.index + 1
        data = encode_batch(MEMBER_ID, index, [(kind, message) for kind, message, _, _ in batch])
        applied, events = self.applier.apply([Entry(TERM, index, data=data)])
        for (_, _, finish, context), result in zip(batch, applied[0].results, strict=True):
            finish(context, result)
        if published:
            self.hub.publish(events)

    def add(self, kind: Kind, message: Message) -> None:
        """A request of somebody else, for the next commit."""
        self.waiting.append((kind, raw(message), lambda _context, _result: None, None))


class Scene:
    """The services on one node, and shortcuts for what their clients ask."""

    def __init__(self) -> None:
        self.node = ClaimNode()
        context = self.node.context()
        self.local = LocalClient()
        self.claims = Claims(context, self.local)
        self.lock_service = Lock(self.claims)
        self.election = Election(self.claims)
        kv, lease = KV(context).service(), LeaseService(context).service()
        self.local.bind(build_routes((kv, lease, self.lock_service.service(), self.election.service())))
        self._leases = 0

    def settle(self) -> None:
        """Commit and run everything that can go on."""
        node = self.node
        while node.waiting or node.loop.soon or node.tasks or node.watchers_awake:
            if node.waiting:
                node.commit()
            node.loop.turn()
            node.run_slices()
            if node.watchers_awake:
                node.watchers_awake = False
                node.catch_up()

    def lease(self) -> int:
        """A new one, granted."""
        self._leases += 1
        self.node.apply((Kind.LEASE_GRANT, raw(rpc_pb2.LeaseGrantRequest(ID=self._leases, TTL=60))))
        return self._leases

    # --- requests -----------------------------------------------------------------------------------------------------

    def ask_lock(self, name: bytes = b"n", lease: int = 0, **metadata: str) -> Any:
        """A Lock call that has just come in."""
        call: Any = WaitingCall(None, **metadata)
        self.lock_service.lock(call, raw(lock_pb2.LockRequest(name=name, lease=lease)))
        return call

    def lock(self, name: bytes = b"n", lease: int = 0) -> Any:
        """A Lock call as far as it gets."""
        call = self.ask_lock(name, lease)
        self.settle()
        return call

    def unlock(self, key: bytes) -> Any:
        call: Any = WaitingCall()
        self.lock_service.unlock(call, raw(lock_pb2.UnlockRequest(key=key)))
        self.settle()
        return call

    def campaign(self, value: bytes, lease: int = 0, name: bytes = b"n") -> Any:
        call: Any = WaitingCall()
        self.election.campaign(call, raw(election_pb2.CampaignRequest(name=name, lease=lease, value=value)))
        self.settle()
        return call

    def ask(self, handler: Callable[[Any, bytes], None], request: Message) -> Any:
        call: Any = WaitingCall()
        handler(call, raw(request))
        self.settle()
        return call

    def observe(self, name: bytes = b"n", room: int | None = None, **metadata: str) -> tuple[Any, Observer]:
        call: Any = WaitingCall(room, **metadata)
        observer = self.election.observe(call)
        call.when_closed(observer.on_closed)
        observer.on_message(raw(election_pb2.LeaderRequest(name=name)))
        self.settle()
        return call, observer

    def revoke(self, lease: int) -> None:
        self.node.add(Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease))
        self.settle()

    # --- what there is ------------------------------------------------------------------------------------------------

    def queue(self, prefix: bytes = b"n/") -> list[tuple[int, bytes]]:
        """(create revision, key) of all claims, the oldest first."""
        states = self.node.store.states(self.node.backend.read(), prefix, prefix[:-1] + b"0")
        return sorted((state.create, state.key) for state in states)

    def owner_at(self, revision: int) -> bytes | None:
        """Key of the claim to b"n" that was the oldest at a revision."""
        request = oldest_claim(b"n")
        request.revision = revision
        found = self.node.store.range(self.node.backend.read(), RangeQuery.from_request(request)).body
        kvs = rpc_pb2.RangeResponse.FromString(found).kvs
        return kvs[0].key if kvs else None

    @property
    def watchers(self) -> int:
        return self.node.hub.statistics().watchers

    def close(self) -> None:
        self.node.close()


def locked(call: Any) -> lock_pb2.LockResponse:
    """The answer of a Lock call that succeeded."""
    (reply,) = call.replies
    return lock_pb2.LockResponse.FromString(reply)


def elected(call: Any) -> election_pb2.CampaignResponse:
    (reply,) = call.replies
    return election_pb2.CampaignResponse.FromString(reply)


def told(call: Any) -> list[tuple[int, bytes, bytes]]:
    """(header revision, key, value) of all that an observer was sent."""
    responses = [election_pb2.LeaderResponse.FromString(each) for each in call.sent]
    return [(each.header.revision, each.kv.key, each.kv.value) for each in responses]


def delete(key: bytes) -> tuple[Kind, rpc_pb2.DeleteRangeRequest]:
    return Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=key)


def put(key: bytes, value: bytes = b"v") -> tuple[Kind, rpc_pb2.PutRequest]:
    return Kind.PUT, rpc_pb2.PutRequest(key=key, value=value)


def key_value(call: Any) -> kv_pb2.KeyValue:
    (reply,) = call.replies
    return election_pb2.LeaderResponse.FromString(reply).kv
