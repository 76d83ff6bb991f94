"""Requests on their way into the log, and those who wait for their results.

All requests that gather while one batch is being written go into the next log entry together (design §3). Owns the
queue, the batch numbers and the waiting callers; knows nothing of Raft, and of a request only its kind and bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from raftkv.apply import ITEM_BYTES, encode_batch
from raftkv.metrics import new_histogram
from raftkv.server.errors import RequestTimedOut

if TYPE_CHECKING:
    from raftkv.server.slow_requests import SlowRequests

Finish: TypeAlias = Callable[[Any, Any], None]
"""finish(context, result): result is what `apply` made of the request, or a NodeError."""


class ErrorOf(Protocol):
    """Why something that began to wait at `started_s` was not done in time."""

    def __call__(self, started_s: float, *, proposed: bool) -> Exception: ...


MAX_ENTRY_BYTES: Final = 1 << 20
"""A batch is closed when it has grown to this; one request may be larger. Also Raft's cap of one append (RF §13.1)."""
MAX_QUEUED_BYTES: Final = 64 << 20
"""Requests that wait to be proposed. When full, a new one is refused (G-55): clients back off, memory does not grow."""
MAX_QUEUED: Final = 50_000
"""The same, for very small requests."""


class Proposals:
    __slots__ = (
        "_bytes",
        "_clock",
        "_in_flight",
        "_member_id",
        "_next_number",
        "_requests",
        "_since",
        "_slow",
        "_waiters",
        "batch_requests",
        "failed",
    )

    def __init__(
        self, member_id: int, first_number: int, clock: Callable[[], float], slow: SlowRequests | None = None
    ) -> None:
        """`clock` gives seconds of a monotonic clock. `slow` hears how long batches took.

        No number from `first_number` on may be one that this member used before it was restarted (RF-54): its entries
        of that time may still come to be applied, and would answer a proposal of now.
        """
        self._member_id = member_id
        self._clock = clock
        self._slow = slow
        self._next_number = first_number
        self._requests: list[tuple[int, bytes]] = []
        self._waiters: list[tuple[Finish, Any]] = []
        """Parallel to `_requests`."""
        self._since: list[float] = []
        """Parallel to `_requests`: when each came. Each has its own time to wait for a leader (G-50, G-51)."""
        self._bytes = 0
        self._in_flight: dict[int, tuple[float, list[tuple[Finish, Any]]]] = {}
        """Batch number -> (when proposed, waiters), ascending. Bounded by what Raft lets be uncommitted."""
        self.batch_requests = new_histogram("raftkv_batch_requests")
        self.failed = 0
        """Proposals that ended without a result (etcd_server_proposals_failed_total)."""

    @property
    def queued(self) -> int:
        return len(self._requests)

    @property
    def pending(self) -> int:
        """Requests that somebody waits for (etcd_server_proposals_pending)."""
        return len(self._requests) + sum(len(waiters) for _, waiters in self._in_flight.values())

    def add(self, kind: int, message: bytes, finish: Finish, context: Any) -> bool:
        """False: the queue is full and nothing was taken."""
        requests = self._requests
        size = self._bytes + len(message)
        if size > MAX_QUEUED_BYTES or len(requests) >= MAX_QUEUED:
            return False
        requests.append((kind, message))
        self._since.append(self._clock())
        self._waiters.append((finish, context))
        self._bytes = size
        return True

    def take_batch(self) -> tuple[int, bytes]:
        """Number and data of the next log entry. The caller has seen that something is `queued`."""
        requests, waiters = self._cut()
        number = self._next_number
        self._next_number += 1
        self._in_flight[number] = (self._clock(), waiters)
        self.batch_requests.observe(len(requests))
        return number, encode_batch(self._member_id, number, requests)

    def register(self, finish: Finish, context: Any) -> int:
        """A number for a request that has an entry of its own; its result comes as that of a batch of one."""
        number = self._next_number
        self._next_number += 1
        self._in_flight[number] = (self._clock(), [(finish, context)])
        return number

    def is_waiting(self, number: int) -> bool:
        """Whether the batch has neither been applied nor given up."""
        return number in self._in_flight

    def _cut(self) -> tuple[Sequence[tuple[int, bytes]], list[tuple[Finish, Any]]]:
        requests, waiters = self._requests, self._waiters
        if self._bytes + ITEM_BYTES * len(requests) <= MAX_ENTRY_BYTES:
            self._requests, self._waiters, self._since, self._bytes = [], [], [], 0
            return requests, waiters
        size, count = 0, 0
        for _, message in requests:
            size += len(message) + ITEM_BYTES
            if count and size > MAX_ENTRY_BYTES:
                break
            count += 1
        self._drop_first(count)
        return requests[:count], waiters[:count]

    def _drop_first(self, count: int) -> None:
        self._requests, self._waiters, self._since = (
            self._requests[count:],
            self._waiters[count:],
            self._since[count:],
        )
        self._bytes = sum(len(message) for _, message in self._requests)

    def complete(self, proposer: int, number: int, results: Sequence[Any]) -> None:
        """Results of one applied batch. Batches of other members, and of this one's earlier lives, have no waiters."""
        if proposer != self._member_id:
            return
        batch = self._in_flight.pop(number, None)
        if batch is None:
            return
        started_s, waiters = batch
        for (finish, context), result in zip(waiters, results, strict=True):
            finish(context, result)
        if self._slow is not None:
            self._slow.note("writes", len(waiters), self._clock() - started_s)

    def expire(self, before: float, error_of: ErrorOf) -> None:
        """End the wait of all that came before that moment. What is in the log may still be applied later (RF-71)."""
        if self._since and self._since[0] < before:
            count = bisect_left(self._since, before)
            late = list(zip(self._waiters[:count], self._since[:count], strict=True))
            self._drop_first(count)
            for waiter, since in late:
                self._fail((waiter,), error_of(since, proposed=False))
        for number, (proposed_at, waiters) in list(self._in_flight.items()):
            if proposed_at >= before:
                return
            del self._in_flight[number]
            self._fail(waiters, error_of(proposed_at, proposed=True))

    def drop_abandoned(self) -> None:
        """Forget what waits in the queue for nobody: whoever asked has gone, or its deadline has passed (G-51).

        A context tells so by a `cancelled` that is True, as `rpc.service.Call` does.
        """
        gone = [getattr(context, "cancelled", None) is True for _, context in self._waiters]
        if any(gone):
            abandoned = list(compress(self._waiters, gone))
            kept = [not each for each in gone]
            self._requests = list(compress(self._requests, kept))
            self._waiters = list(compress(self._waiters, kept))
            self._since = list(compress(self._since, kept))
            self._bytes = sum(len(message) for _, message in self._requests)
            self._fail(abandoned, RequestTimedOut())

    def fail_batch(self, number: int, error: Exception) -> None:
        self._fail(self._in_flight.pop(number)[1], error)

    def fail_queued(self, error: Exception) -> None:
        """End the wait of all that is not proposed yet."""
        waiters, self._requests, self._waiters, self._since, self._bytes = self._waiters, [], [], [], 0
        self._fail(waiters, error)

    def fail_in_flight(self, error: Exception) -> None:
        """End the wait of all that is proposed. It may be in the log, or have been applied without our seeing it."""
        in_flight, self._in_flight = self._in_flight, {}
        for _, waiters in in_flight.values():
            self._fail(waiters, error)

    def fail_all(self, error: Exception) -> None:
        self.fail_in_flight(error)
        self.fail_queued(error)

    def _fail(self, waiters: Sequence[tuple[Finish, Any]], error: Exception) -> None:
        self.failed += len(waiters)
        for finish, context in waiters:
            finish(context, error)
