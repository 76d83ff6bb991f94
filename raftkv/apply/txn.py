"""Transactions: decide, check, run, and put the reply together.

A transaction is worked in three steps, each over the whole tree before the next begins:

1. `choose`: all compares, those of nested transactions on the chosen path too, against the state before the
   transaction (TXN-40). What comes out is a tree of the operations that will run.
2. `check`: everything that could still refuse, against the same state (TXN-42). A refusal leaves nothing behind,
   and ranges are checked on every member, whoever answers the client (TXN-47).
3. `run`: no operation can fail any more; ranges see the writes before them (TXN-41).

Knows neither the log nor the client; the caller has validated the request (TXN-03) and adds the top header.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from raftkv.lease import LeaseNotFound
from raftkv.mvcc import KeyNotFoundError, RangeQuery
from raftkv.pb import rpc_pb2
from raftkv.pb.splice import framed, varint

if TYPE_CHECKING:
    from raftkv.backend import ReadTxn
    from raftkv.lease import Lessor
    from raftkv.mvcc import KeyState, RangeResult, Store, Writer

_Compare = rpc_pb2.Compare

# Encoded field tags of the replies (contract section 15).
SUCCEEDED: Final = b"\x10\x01"
RESPONSES: Final = b"\x1a"
OP_RANGE: Final = b"\x0a"
_OP_PUT: Final = b"\x12"
_OP_DELETE: Final = b"\x1a"
_OP_TXN: Final = b"\x22"
_DELETED: Final = b"\x10"
_PREV_KVS_TAG: Final = b"\x1a"
_EMPTY_HEADER: Final = b"\x0a\x00"


class View(Protocol):
    """What a transaction needs to read: the store before the transaction, or inside it."""

    def get(self, key: bytes) -> KeyState | None:
        """One key as it is; None for an absent or deleted one."""

    def states(self, key: bytes, range_end: bytes) -> Iterable[KeyState]:
        """The live keys of an interval in key order."""

    def range(self, query: RangeQuery) -> RangeResult: ...


class Snapshot:
    """The View of a read transaction."""

    __slots__ = ("_store", "_txn")

    def __init__(self, store: Store, txn: ReadTxn) -> None:
        self._store = store
        self._txn = txn

    def get(self, key: bytes) -> KeyState | None:
        return self._store.get(self._txn, key)

    def states(self, key: bytes, range_end: bytes) -> Iterable[KeyState]:
        return self._store.states(self._txn, key, range_end)

    def range(self, query: RangeQuery) -> RangeResult:
        return self._store.range(self._txn, query)


class Choice(NamedTuple):
    """A transaction after its compares: which branch runs."""

    succeeded: bool
    steps: list[tuple[str, Any]]
    """(field of RequestOp, its message); for request_txn the nested Choice."""


def choose(view: View, txn: rpc_pb2.TxnRequest) -> Choice:
    succeeded = all(_holds(view, compare) for compare in txn.compare)
    steps: list[tuple[str, Any]] = []
    for op in txn.success if succeeded else txn.failure:
        field = op.WhichOneof("request")
        assert field is not None, "validation refuses an empty operation (TXN-02)"
        message = getattr(op, field)
        steps.append((field, choose(view, message) if field == "request_txn" else message))
    return Choice(succeeded, steps)


def check(view: View, store: Store, lessor: Lessor, choice: Choice) -> None:
    """Raises KeyNotFoundError, LeaseNotFound, CompactedError or FutureRevisionError (TXN-42 to TXN-44), whichever comes
    first.

    A negative revision is the current one, as in a plain Range; the quirk TXN-45 is not copied."""
    deletes: list[rpc_pb2.DeleteRangeRequest] = []
    for field, message in _path(choice):
        if field == "request_delete_range":
            deletes.append(message)
        elif field == "request_put":
            _check_put(view, lessor, message, deletes)
        else:
            store.check_readable(message.revision)


def _path(choice: Choice) -> Iterator[tuple[str, Any]]:
    """All operations but the nesting itself, in the order in which they will run."""
    for field, message in choice.steps:
        if field == "request_txn":
            yield from _path(message)
        else:
            yield field, message


def _check_put(
    view: View, lessor: Lessor, put: rpc_pb2.PutRequest, deletes: Sequence[rpc_pb2.DeleteRangeRequest]
) -> None:
    """The key before the lease, unlike in a put of its own. `deletes` will have run by then: what they take away cannot
    be kept. Of those without an end validation knows nothing (TXN-22), and etcd 3.5 dies of such a transaction."""
    if put.ignore_value or put.ignore_lease:
        key = put.key
        if view.get(key) is None or any(_takes(delete, key) for delete in deletes):
            raise KeyNotFoundError
    if put.lease and put.lease not in lessor:
        raise LeaseNotFound


def _takes(delete: rpc_pb2.DeleteRangeRequest, key: bytes) -> bool:
    end = delete.range_end
    return key >= delete.key and (key < end or end == b"\x00") if end else key == delete.key


# --- compares ---------------------------------------------------------------------------------------------------------


def _holds(view: View, compare: rpc_pb2.Compare) -> bool:
    if not compare.range_end:
        return _one_holds(compare, view.get(compare.key))
    any_key = False
    for record in view.states(compare.key, compare.range_end):
        any_key = True
        if not _one_holds(compare, record):
            return False
    return any_key or _one_holds(compare, None)


def _one_holds(compare: rpc_pb2.Compare, record: KeyState | None) -> bool:
    if compare.target == _Compare.VALUE:
        # Not even NOT_EQUAL is true of a value that is not there (TXN-32).
        return record is not None and _verdict(compare.result, record.value, compare.value)
    target = _TARGETS.get(compare.target)
    if target is None:
        return _verdict(compare.result, 0, 0)
    held, given = target
    # A missing key has zero for all its numbers (TXN-31).
    return _verdict(compare.result, held(record) if record is not None else 0, given(compare))


_TARGETS: Final[dict[int, tuple[Callable[[Any], int], Callable[[Any], int]]]] = {
    _Compare.VERSION: (operator.attrgetter("version"), operator.attrgetter("version")),
    _Compare.CREATE: (operator.attrgetter("create"), operator.attrgetter("create_revision")),
    _Compare.MOD: (operator.attrgetter("mod"), operator.attrgetter("mod_revision")),
    _Compare.LEASE: (operator.attrgetter("lease"), operator.attrgetter("lease")),
}

_RESULTS: Final[dict[int, Callable[[Any, Any], bool]]] = {
    _Compare.EQUAL: operator.eq,
    _Compare.GREATER: operator.gt,
    _Compare.LESS: operator.lt,
    _Compare.NOT_EQUAL: operator.ne,
}


def _verdict(result: int, held: int | bytes, given: int | bytes) -> bool:
    test = _RESULTS.get(result)
    return True if test is None else test(held, given)  # an unknown result enum is true (TXN-35)


# --- running ----------------------------------------------------------------------------------------------------------


def run(writer: Writer, choice: Choice) -> bytes:
    """Run the chosen operations inside the writer's open request; the TxnResponse body without its header."""
    return _body(choice, [_RUN[field](writer, message) for field, message in choice.steps])


def operations(choice: Choice) -> int:
    """How many will run, those of nested transactions included."""
    return sum(operations(step) if field == "request_txn" else 1 for field, step in choice.steps)


def _body(choice: Choice, responses: Sequence[bytes]) -> bytes:
    parts = [SUCCEEDED] if choice.succeeded else []
    parts += [framed(RESPONSES, response) for response in responses]
    return b"".join(parts)


def op_header(revision: int) -> bytes:
    """Header of an operation inside a transaction: revision and nothing else (TXN-51)."""
    return framed(b"\x0a", b"\x18" + varint(revision))


def _run_range(writer: Writer, request: rpc_pb2.RangeRequest) -> bytes:
    return framed(OP_RANGE, op_header(writer.revision) + writer.range(RangeQuery.from_request(request)).body)


def _run_put(writer: Writer, request: rpc_pb2.PutRequest) -> bytes:
    prev_frame = put(writer, request)
    return framed(_OP_PUT, op_header(writer.revision) + prev_frame)


def _run_delete(writer: Writer, request: rpc_pb2.DeleteRangeRequest) -> bytes:
    body = delete(writer, request)
    return framed(_OP_DELETE, op_header(writer.revision) + body)


def _run_txn(writer: Writer, choice: Choice) -> bytes:
    return framed(_OP_TXN, _EMPTY_HEADER + run(writer, choice))  # header without revision (TXN-53)


_RUN: Final[dict[str, Callable[[Any, Any], bytes]]] = {
    "request_range": _run_range,
    "request_put": _run_put,
    "request_delete_range": _run_delete,
    "request_txn": _run_txn,
}


def put(writer: Writer, request: rpc_pb2.PutRequest) -> bytes:
    """Write one key; the PutResponse body: the previous KeyValue's frame if asked for (PUT-05)."""
    prev_frame = writer.put_with(
        request.key,
        None if request.ignore_value else request.value,
        None if request.ignore_lease else request.lease,
    )
    return prev_frame if prev_frame is not None and request.prev_kv else b""


def delete(writer: Writer, request: rpc_pb2.DeleteRangeRequest) -> bytes:
    """Delete an interval; the DeleteRangeResponse body: count and, if asked for, the deleted KeyValues (DEL-01, 03)."""
    deleted = writer.delete_range(request.key, request.range_end)
    if not deleted:
        return b""
    body = _DELETED + varint(len(deleted))
    if request.prev_kv:
        # A stored frame is field 2; prev_kvs is field 3, so the first byte differs and the rest is spliced.
        body += b"".join(_PREV_KVS_TAG + frame[1:] for frame in deleted)
    return body
