"""How calls of Lock and Election come to own a name, among each other and with clients that do the same by themselves.

A claim is a key below `name/` that lives as long as a lease. The oldest one owns the name; each other waits until the
one before it is gone (LK-03, LK-04), and so is woken once for each that goes, not for all. What is before a claim can
only become less, so looking for it asks nobody else; that a claim that has waited is still there is asked linearizably,
last.

Owns the keys, the order, the waiting, and taking claims back. Knows nothing of replies: the services' side is `Owned`.
The steps are callbacks on the loop; nothing here waits by the clock, except to try again to take a claim back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from raftkv.api import errors
from raftkv.api.errors import Status, refuse
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.api.local_client import LocalClient
    from raftkv.mvcc.watch import EventBatch, Watcher
    from raftkv.rpc.service import Call

DEFAULT_TTL_S: Final = 60
"""Of the lease that is granted to who brings none (LK-02). Nobody keeps it alive."""
RETRY_S: Final = 0.5
RETRIES: Final = 20
"""Of taking a claim back while the cluster cannot: ten seconds of refusals at once, or two minutes of time-outs."""

_NOT_DONE: Final = frozenset(
    {
        errors.TIMED_OUT,
        errors.TIMED_OUT_LEADER_FAILED,
        errors.TIMED_OUT_CONNECTION_LOST,
        errors.NO_LEADER_IN_TIME,
        errors.PROPOSAL_DROPPED,
        errors.TOO_MANY_REQUESTS,
    }
)
"""Refusals after which a deletion may not have been applied, and another try may be."""

_Compare: Final = rpc_pb2.Compare
_Op: Final = rpc_pb2.RequestOp
_Range: Final = rpc_pb2.RangeRequest
_NOPUT: Final = rpc_pb2.WatchCreateRequest.NOPUT


class Ownership(NamedTuple):
    """A claim that has become the oldest."""

    key: bytes
    revision: int
    """The create revision of the key: what says that this claim, and no later one, owns the name."""
    lease: int
    claimed: rpc_pb2.ResponseHeader
    """Of the transaction that made the claim."""
    confirmed: rpc_pb2.ResponseHeader
    """Of what showed that it is the oldest (LK-08)."""


Owned: TypeAlias = Callable[["Call", Ownership], None]


def prefix_of(name: bytes) -> bytes:
    return name + b"/"


def prefix_end(name: bytes) -> bytes:
    return name + b"0"


def claim_key(name: bytes, lease: int) -> bytes:
    """LK-01. A negative id has its sign in front, as Go prints it."""
    return prefix_of(name) + b"%x" % lease


def oldest_claim(name: bytes, *, serializable: bool = False) -> rpc_pb2.RangeRequest:
    return _Range(
        key=prefix_of(name),
        range_end=prefix_end(name),
        limit=1,
        sort_order=_Range.ASCEND,
        sort_target=_Range.CREATE,
        serializable=serializable,
    )


def if_unchanged(key: bytes, revision: int, then: rpc_pb2.RequestOp) -> rpc_pb2.TxnRequest:
    """`then`, if the key is the one that was created at this revision."""
    created = _Compare(key=key, result=_Compare.EQUAL, target=_Compare.CREATE, create_revision=revision)
    return rpc_pb2.TxnRequest(compare=(created,), success=(then,))


def _claiming(name: bytes, key: bytes, value: bytes, lease: int) -> rpc_pb2.TxnRequest:
    """Make the claim unless it is there (LK-03).

    Who owns the name if others claim it is looked up afterwards, here: every member would have to read the whole queue
    for it while it applies this. To count what is there costs next to nothing, and takes the same rights.
    """
    request = if_unchanged(key, 0, _Op(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease)))
    queue = _Op(request_range=_Range(key=prefix_of(name), range_end=prefix_end(name), count_only=True))
    request.success.append(queue)
    request.failure.extend((_Op(request_range=_Range(key=key)), queue))
    return request


class Place:
    """A key, and the calls of this member that claim it.

    A client that gave up waiting may come again with its lease before the end of its first call is noticed, and gets
    the same key. What the second call is told must hold: so only the last call that gives up takes the key back, and
    none once one of them was told that it owns the name.
    """

    __slots__ = ("calls", "key", "revision")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.calls = 0
        self.revision = 0
        """Create revision of the key if it is to be taken back: it was made by one of these calls, or had to wait."""


class Claims:
    """All claims that calls of this member are making."""

    __slots__ = ("_open", "context", "local", "places", "stopping")

    def __init__(self, context: ApiContext, local: LocalClient) -> None:
        self.context = context
        self.local = local
        self.places: dict[bytes, Place] = {}
        """By key; one for every key that a call here has not done with."""
        self._open: dict[Claim, None] = {}
        self.stopping = False

    def claim(self, call: Call, name: bytes, lease: int, owned: Owned, *, value: bytes | None = None) -> None:
        """Have `owned(call, ownership)` called once the claim is the oldest; otherwise the call is refused.

        A claim that the lease has already keeps its place. `value` None leaves that claim's value as it is, and makes
        a new one empty (LK-06); any other replaces it (EL-03).
        """
        claim = Claim(self, call, name, value, owned)
        self._open[claim] = None
        claim.start(lease)

    def closed(self, claim: Claim) -> None:
        self._open.pop(claim, None)

    def end_streams(self) -> None:
        """This member stops: who waits is told to go on elsewhere (ER-03)."""
        self.stopping = True
        for claim in list(self._open):
            claim.on_stopping()

    def enter(self, key: bytes) -> Place:
        place = self.places.get(key)
        if place is None:
            place = self.places[key] = Place(key)
        place.calls += 1
        return place

    def leave(self, place: Place) -> None:
        place.calls -= 1
        if not place.calls:
            del self.places[place.key]


class Claim:
    """One call's claim, and the hub's sink while it waits for the claim before it."""

    __slots__ = (
        "_awake",
        "_call",
        "_claimed",
        "_claims",
        "_has_waited",
        "_lease",
        "_name",
        "_over",
        "_owned",
        "_place",
        "_refusal",
        "_retries",
        "_revision",
        "_value",
        "_waits",
    )

    def __init__(self, claims: Claims, call: Call, name: bytes, value: bytes | None, owned: Owned) -> None:
        self._claims = claims
        self._call = call
        self._name = name
        self._value = value
        self._owned = owned
        self._lease = 0
        self._place: Place
        """Known with the lease."""
        self._revision = 0
        """Create revision of the key; 0 until the claim is made."""
        self._claimed = rpc_pb2.ResponseHeader()
        self._waits = False
        """For the claim before this one, with a watcher."""
        self._has_waited = False
        self._awake = False
        """The watcher has seen something, and `_look_again` is going to run."""
        self._over = False
        """Owned, refused, or the client has gone: an answer that comes now may only lead to taking the claim back."""
        self._refusal: Status | None = None
        """What the client is to be told when the claim has been taken back."""
        self._retries = 0

    # --- the claim ----------------------------------------------------------------------------------------------------

    def start(self, lease: int) -> None:
        self._call.when_closed(self._on_closed)
        if self._over:
            return
        if lease:
            self._make(lease)
        else:
            self._claims.local.grant(self._call, DEFAULT_TTL_S, self._on_granted)

    def _on_granted(self, answer: rpc_pb2.LeaseGrantResponse | Status) -> None:
        if isinstance(answer, Status):
            self._refuse(answer)
        elif not self._over:  # else the lease just runs out
            self._make(answer.ID)

    def _make(self, lease: int) -> None:
        self._lease = lease
        key = claim_key(self._name, lease)
        self._place = self._claims.enter(key)
        self._claims.local.txn(self._call, _claiming(self._name, key, self._value or b"", lease), self._on_made)

    def _on_made(self, answer: rpc_pb2.TxnResponse | Status) -> None:
        if isinstance(answer, Status):
            self._give_up(answer)
            return
        self._claimed = answer.header
        if answer.succeeded:
            mine = None
            self._revision = self._place.revision = answer.header.revision
        else:
            mine = answer.responses[0].response_range.kvs[0]
            self._revision = mine.create_revision
        if self._over:  # the client has gone meanwhile
            self._take_back()
            return
        if mine is not None and self._value is not None and mine.value != self._value:
            self._replace_value()
        elif answer.responses[1].response_range.count == 1:
            self._succeed(self._claimed)
        else:
            self._look()

    def _replace_value(self) -> None:
        """EL-03."""
        put = _Op(request_put=rpc_pb2.PutRequest(key=self._place.key, value=self._value or b"", lease=self._lease))

        def on_replaced(answer: rpc_pb2.TxnResponse | Status) -> None:
            if self._over:
                return
            if isinstance(answer, Status):
                self._give_up(answer)
            elif not answer.succeeded:
                self._lose()
            else:
                self._look()

        self._claims.local.txn(self._call, if_unchanged(self._place.key, self._revision, put), on_replaced)

    # --- waiting for those before -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """For the claim before this one. This member's store is enough: it has this claim, hence every older one that
        still exists."""
        request = _Range(
            key=prefix_of(self._name),
            range_end=prefix_end(self._name),
            limit=1,
            sort_order=_Range.DESCEND,
            sort_target=_Range.CREATE,
            max_create_revision=self._revision - 1,
            serializable=True,
        )
        self._claims.local.range(self._call, request, self._on_looked)

    def _on_looked(self, answer: rpc_pb2.RangeResponse | Status) -> None:
        if self._over:
            return
        if isinstance(answer, Status):
            self._give_up(answer)
        elif answer.kvs and self._claims.stopping:
            self._give_up(errors.STOPPED)
        elif answer.kvs:
            self._wait_for(answer.kvs[0].key, answer.header.revision)
        else:
            # A claim that has just been made may be seen in this member's store, as its making was. One that has waited
            # may have ended long ago, elsewhere.
            request = _Range(key=self._place.key, serializable=not self._has_waited)
            self._claims.local.range(self._call, request, self._on_confirmed)

    def _wait_for(self, key: bytes, revision: int) -> None:
        """For the deletion of a key that was there at this revision."""
        node = self._claims.context.node
        self._waits = self._has_waited = True
        self._place.revision = max(self._place.revision, self._revision)
        watcher = node.hub.watch(self, 0, key, b"", revision + 1, (_NOPUT,))
        if not watcher.synced:
            node.wake_watchers()

    def deliver(self, _watcher: Watcher, _batch: EventBatch) -> bool:
        self._wake()
        return True

    def cancelled(self, _watcher: Watcher, _compact_revision: int) -> None:
        """What happened to the key has been compacted, before this member could tell, or in the store of another member
        that replaced this one's: look at what is there now."""
        self._wake()

    def _wake(self) -> None:
        """Later: the hub must not be called from within itself."""
        if not self._awake:
            self._awake = True
            self._claims.context.node.loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        self._awake = False
        if not self._over:
            self._stop_waiting()
            self._look()

    def _stop_waiting(self) -> None:
        if self._waits:
            self._waits = False
            self._claims.context.node.hub.sink_closed(self)

    def _on_confirmed(self, answer: rpc_pb2.RangeResponse | Status) -> None:
        """Nobody is before it; but a lease may have ended while its claim waited (LK-05)."""
        if self._over:
            return
        if isinstance(answer, Status):
            self._give_up(answer)
        elif not answer.kvs or answer.kvs[0].create_revision != self._revision:
            self._lose()
        else:
            self._succeed(answer.header)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _succeed(self, confirmed: rpc_pb2.ResponseHeader) -> None:
        self._over = True
        place = self._place
        self._forget_key()
        self._claims.leave(place)
        self._claims.closed(self)
        call = self._call
        del self._call  # it knows this claim as well: without the circle both go at once
        self._owned(call, Ownership(place.key, self._revision, self._lease, self._claimed, confirmed))

    def _lose(self) -> None:
        """The key has gone.

        etcd tells a candidate that it has won even then, and leaves it to find out; this does not (EL-01)."""
        self._forget_key()
        self._give_up(errors.SESSION_EXPIRED if self._value is None else errors.ELECTION_NOT_LEADER)

    def _forget_key(self) -> None:
        """There is nothing to take back: the key is owned, or gone. One that was made since is another."""
        if self._place.revision == self._revision:
            self._place.revision = 0

    def _refuse(self, status: Status) -> None:
        self._over = True
        self._claims.closed(self)
        refuse(self._call, status)

    def _give_up(self, status: Status) -> None:
        """The client is told after the claim has been taken back: if it comes again at once, perhaps to another member,
        it makes a new one."""
        self._over = True
        self._stop_waiting()
        self._refusal = status
        self._take_back()

    def on_stopping(self) -> None:
        if self._waits and not self._over:
            self._give_up(errors.STOPPED)

    def _on_closed(self) -> None:
        """The client has gone, or was told that it was refused (LK-07, EL-08)."""
        self._claims.closed(self)
        if self._over:
            return
        self._over = True
        self._stop_waiting()
        if self._revision:
            self._take_back()
        # Else the claim is being made, and its answer will tell.

    # --- taking the claim back ----------------------------------------------------------------------------------------

    def _take_back(self) -> None:
        place = self._place
        if place.calls > 1 or not place.revision:
            self._on_taken_back(None)
            return
        delete = _Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=place.key))
        self._claims.local.txn(self._call, if_unchanged(place.key, place.revision, delete), self._on_taken_back)

    def _on_taken_back(self, answer: rpc_pb2.TxnResponse | Status | None) -> None:
        if self._refusal is not None:
            self._refuse(self._refusal)
        if isinstance(answer, Status) and answer in _NOT_DONE and self._retries < RETRIES:
            self._retries += 1
            self._claims.context.node.loop.call_later(RETRY_S, self._take_back)
        else:
            self._claims.leave(self._place)
