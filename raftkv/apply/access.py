"""What a request needs of whoever makes it (AU-73), asked before anything of it is done.

Nothing here changes anything. A check raises AuthError, or returns; with auth off all pass. The api asks the same of
reads, which never come here as entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from raftkv.apply.batch import AUTH_CHANGES, CLIENT_KINDS, Kind
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.auth import AuthStore, Identity
    from raftkv.backend import ReadTxn
    from raftkv.lease import Lessor


class Caller(NamedTuple):
    """Who asks, and what tells what that user may do."""

    identity: Identity
    auth: AuthStore
    lessor: Lessor
    txn: ReadTxn
    """The state in which the request would be done: leases have other keys in another."""


def check_access(caller: Caller, kind: int, message: bytes) -> None:
    """A request on the log, of one of CLIENT_KINDS. Raises AuthError."""
    _NEEDS[kind](caller, message)


# --- key-value --------------------------------------------------------------------------------------------------------


def check_range(caller: Caller, request: rpc_pb2.RangeRequest | rpc_pb2.Compare) -> None:
    caller.auth.check_read(caller.identity, request.key, request.range_end)


def check_put(caller: Caller, request: rpc_pb2.PutRequest) -> None:
    """A lease that deletes what the user may not write would be a way round, so it may hang on no such key."""
    identity, auth = caller.identity, caller.auth
    auth.check_write(identity, request.key)
    if request.lease:
        check_lease_write(caller, request.lease)
    if request.prev_kv:
        auth.check_read(identity, request.key)


def check_delete_range(caller: Caller, request: rpc_pb2.DeleteRangeRequest) -> None:
    identity, auth = caller.identity, caller.auth
    auth.check_write(identity, request.key, request.range_end)
    if request.prev_kv:
        auth.check_read(identity, request.key, request.range_end)


def check_txn(caller: Caller, request: rpc_pb2.TxnRequest) -> None:
    """Both branches, whichever will run: which one it is tells something of the keys compared. One that touches no key
    needs nothing, not even a name."""
    for compare in request.compare:
        check_range(caller, compare)
    for op in (*request.success, *request.failure):
        field = op.WhichOneof("request")
        assert field is not None, "validation refuses an empty operation (TXN-02)"
        _OPERATIONS[field](caller, getattr(op, field))


_OPERATIONS: Final[dict[str, Callable[[Caller, Any], None]]] = {
    "request_range": check_range,
    "request_put": check_put,
    "request_delete_range": check_delete_range,
    "request_txn": check_txn,
}


# --- leases -----------------------------------------------------------------------------------------------------------


def check_lease_write(caller: Caller, lease_id: int) -> None:
    """WRITE of all keys on a lease: for putting one more on it, revoking it, and keeping it alive."""
    _check_lease_keys(caller, lease_id, caller.auth.check_write)


def check_lease_read(caller: Caller, lease_id: int) -> None:
    """READ of all keys on a lease: for listing them, or it."""
    _check_lease_keys(caller, lease_id, caller.auth.check_read)


def _check_lease_keys(caller: Caller, lease_id: int, check: Callable[[Identity, bytes], None]) -> None:
    """A lease that is not there has no keys: that it is not there, the request itself will find."""
    identity, auth, lessor, txn = caller
    auth.check_authenticated(identity)
    if not auth.enabled or auth.has_root_role(identity.user) or lease_id not in lessor:
        return
    for key in lessor.keys(txn, lease_id):
        check(identity, key)


# --- kinds of requests ------------------------------------------------------------------------------------------------

Need: TypeAlias = Callable[[Caller, bytes], None]


def _parsed(message_type: Any, check: Callable[[Caller, Any], None]) -> Need:
    parse = message_type.FromString
    return lambda caller, message: check(caller, parse(message))


def _root(caller: Caller, _message: bytes) -> None:
    caller.auth.check_root(caller.identity)


def _authenticated(caller: Caller, _message: bytes) -> None:
    caller.auth.check_authenticated(caller.identity)


def _lease_revoke(caller: Caller, request: rpc_pb2.LeaseRevokeRequest) -> None:
    check_lease_write(caller, request.ID)


def check_alarm(caller: Caller, request: rpc_pb2.AlarmRequest) -> None:
    """To look is for every user (AL-14)."""
    if request.action == rpc_pb2.AlarmRequest.GET:
        caller.auth.check_authenticated(caller.identity)
    else:
        caller.auth.check_root(caller.identity)


_NEEDS: Final[dict[int, Need]] = {
    **dict.fromkeys(AUTH_CHANGES, _root),
    Kind.PUT: _parsed(rpc_pb2.PutRequest, check_put),
    Kind.DELETE_RANGE: _parsed(rpc_pb2.DeleteRangeRequest, check_delete_range),
    Kind.TXN: _parsed(rpc_pb2.TxnRequest, check_txn),
    Kind.COMPACT: _root,
    Kind.LEASE_GRANT: _authenticated,
    Kind.LEASE_REVOKE: _parsed(rpc_pb2.LeaseRevokeRequest, _lease_revoke),
    Kind.ALARM: _parsed(rpc_pb2.AlarmRequest, check_alarm),
    Kind.MEMBER_UPDATE: _root,
}
assert _NEEDS.keys() == CLIENT_KINDS, "each kind that a user can ask for needs something"
